//! A function whose driver, and a wire whose peers, do anything at all: no panic, no hang, and two
//! other functions of the same NIC are not disturbed.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::admin::AdminOpcode;
use vrnic_abi::doorbell;
use vrnic_abi::registers as reg;
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::Policy;

/// A number that is likely to be interesting.
fn number(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => (1 << random.below(64)) - 1,
        4 => BASE + random.below(SIZE as u64),
        5 => BASE + random.below(SIZE as u64) / 4096 * 4096,
        6 => random.below(32),
        _ => random.next(),
    }
}

/// A function that was brought up well and then behaves badly.
struct Attacker {
    node: Node,
    random: Random,
    sent: u16,
}

impl Attacker {
    fn act(&mut self, bench: &mut Bench) {
        match self.random.below(12) {
            0 => self.register(bench),
            1..=3 => self.command(bench),
            4 | 5 => self.doorbell(),
            6..=8 => self.work_request(),
            9 => self.scribble(),
            10 => self.hole(),
            _ => self.valid_command(bench),
        }
    }

    fn register(&mut self, bench: &mut Bench) {
        let offset = self.random.below(0x100) as u32;
        let value = number(&mut self.random) as u32;
        if offset == reg::DEVICE_CONTROL.offset && self.random.percent(90) {
            return;
        }
        bench
            .nic
            .write_register(bench.now, self.node.driver.id, offset, value);
    }

    /// A known or unknown command with a random body.
    fn command(&mut self, bench: &mut Bench) {
        let opcode = self.random.below(0x68) as u16;
        let body: Vec<u8> = (0..7)
            .flat_map(|_| number(&mut self.random).to_le_bytes())
            .collect();
        self.node.driver.put(opcode, &body);
        self.node.driver.announce(bench);
    }

    /// A good command with one damaged word.
    fn valid_command(&mut self, bench: &mut Bench) {
        let known = AdminOpcode::ALL;
        let opcode = known[self.random.below(known.len() as u64) as usize];
        let node = &self.node;
        let small = |random: &mut Random| random.below(6) as u32;
        let mut words: Vec<u32> = (0..14).map(|_| small(&mut self.random)).collect();
        words[0] = [
            node.pd,
            node.cq.number,
            node.qp.number,
            node.key,
            node.eq.number,
        ][self.random.below(5) as usize];
        let at = self.random.below(13) as usize;
        let address = number(&mut self.random);
        words[at] = address as u32;
        words[at + 1] = (address >> 32) as u32;
        let body: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.node.driver.put(opcode.raw(), &body);
        self.node.driver.announce(bench);
    }

    fn doorbell(&mut self) {
        let hw = &self.node.driver.hw;
        let slot = doorbell::FIRST_SLOT + self.random.below(64) as u32;
        let slots = [
            self.node.qp.send_slot,
            self.node.qp.receive_slot,
            self.node.cq.slot,
            self.node.eq.slot,
            slot,
        ];
        let slot = slots[self.random.below(5) as usize];
        let value = match self.random.below(3) {
            0 => number(&mut self.random),
            1 => doorbell::send_queue(self.random.below(70) as u32, self.node.qp.number),
            _ => doorbell::consumer(
                self.random.below(300) as u32,
                self.random.next() as u16,
                false,
            ),
        };
        hw.store_slot(0, slot, value);
        hw.mark_all(0, self.random.next());
    }

    fn work_request(&mut self) {
        let mut bytes = [0u8; 64];
        self.random.fill(&mut bytes);
        let opcodes = WqeOpcode::ALL;
        bytes[0] = opcodes[self.random.below(opcodes.len() as u64) as usize].raw();
        bytes[1] &= 0x0f;
        bytes[2] = self.random.below(34) as u8;
        bytes[3] = self.random.below(4) as u8;
        let qp = &mut self.node.qp;
        bytes[12..16].copy_from_slice(&qp.posted.to_le_bytes());
        if self.random.percent(60) {
            for at in [16, 32, 48] {
                let address = self.node.memory + self.random.below(BUFFER);
                bytes[at..at + 8].copy_from_slice(&address.to_le_bytes());
                let length = self.random.below(10_000) as u32;
                bytes[at + 8..at + 12].copy_from_slice(&length.to_le_bytes());
                bytes[at + 12..at + 16].copy_from_slice(&self.node.key.to_le_bytes());
            }
        }
        let at = qp.send_page + u64::from(qp.posted % 64) * 64;
        let hw = &self.node.driver.hw;
        let _ = hw.ram.write(at, &bytes);
        qp.posted = qp.posted.wrapping_add(1 + self.random.below(3) as u32);
        qp.ring(hw);
    }

    fn scribble(&mut self) {
        let mut bytes = vec![0; self.random.below(256) as usize];
        self.random.fill(&mut bytes);
        let at = BASE + self.random.below(0x2_0000);
        let _ = self.node.driver.hw.ram.write(at, &bytes);
    }

    fn hole(&mut self) {
        let start = BASE + self.random.below(SIZE as u64);
        let hole = start..start + self.random.below(100_000);
        *self.node.driver.hw.ram.hole.borrow_mut() = self.random.percent(30).then_some(hole);
    }

    /// Reads completions as far as the driver's own view goes, to let commands through.
    fn acknowledge(&mut self, bench: &mut Bench) {
        self.sent = self.sent.wrapping_add(1);
        let register = &reg::ADMIN_COMPLETION_DOORBELL;
        let value = u32::from(self.sent);
        self.node.driver.write_register(bench, register, value);
    }
}

/// A message from `a` to `b` that must arrive.
#[track_caller]
fn message(bench: &mut Bench, a: &mut Node, b: &mut Node, random: &mut Random) {
    let mut bytes = vec![0; 1 + random.below(9000) as usize];
    random.fill(&mut bytes);
    a.hw().ram.write(a.memory, &bytes).unwrap();
    let length = bytes.len() as u32;
    let list = [b.segment(300_000, length)];
    b.qp.receive(&b.driver.hw, &list);
    let list = [a.segment(0, length)];
    a.qp.send(&a.driver.hw, WqeOpcode::Send, 0, &list);
    for _ in 0..1000 {
        bench.step();
        if let Some(entry) = b.poll() {
            assert_eq!(entry.status, 0);
            assert!(b.hw().bytes(b.memory + 300_000, bytes.len()) == bytes);
            let end = std::iter::from_fn(|| {
                bench.step();
                a.poll()
            });
            assert_eq!(end.take(1).map(|e| e.status).collect::<Vec<_>>(), [0]);
            return;
        }
    }
    panic!("the message does not arrive");
}

#[test]
fn a_hostile_driver_disturbs_nobody() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        // It may be the physical function, which administers the others as far as it may.
        let number = if seed % 3 == 0 { 0 } else { 3 };
        for tenant in [a.driver.id, b.driver.id] {
            let kept = Policy {
                pf_may_change: false,
                ..Policy::default()
            };
            bench.nic.set_policy(tenant, kept).unwrap();
        }
        let mut node = Node::new(&mut bench, number);
        let mut attackers = 0;
        // It is even connected, to itself or to a queue pair of others that never heard of it.
        let (own, other) = (node.qp.number, b.qp.number);
        let (peer, remote) = if seed % 2 == 0 {
            (number, own)
        } else {
            (2, other)
        };
        node.driver.connect(&mut bench, own, peer, remote);
        let mut attacker = Attacker {
            node,
            random: Random(random.next()),
            sent: 0,
        };
        for round in 0..400 {
            attacker.act(&mut bench);
            attacker.acknowledge(&mut bench);
            if random.percent(70) {
                bench.step();
            }
            if random.percent(5) && bench.nic.prepare_sleep() {
                bench.nic.wake();
            }
            if round % 50 == 0 {
                message(&mut bench, &mut a, &mut b, &mut random);
            }
            if attacker.node.driver.state() == 2 && random.percent(20) {
                let id = attacker.node.driver.id;
                bench.nic.reset(id);
                *attacker.node.driver.hw.ram.hole.borrow_mut() = None;
                attacker.node.driver.enable(&mut bench);
                attacker.node = Node::on(&mut bench, attacker.node.driver);
                attacker.sent = 20;
                attackers += 1;
            }
            bench.now.0 += random.below(1_000_000);
        }
        message(&mut bench, &mut b, &mut a, &mut random);
        let (states, id) = (
            [a.driver.state(), b.driver.state()],
            attacker.node.driver.id,
        );
        assert_eq!(states, [1, 1]);
        let hw = attacker.node.driver.hw.clone();
        *hw.ram.hole.borrow_mut() = None;
        bench.nic.reset(id);
        let mut driver = attacker.node.driver;
        driver.enable(&mut bench);
        driver.ok(&mut bench, AdminOpcode::Nop, &0u64);
        let _ = attackers;
    }
}

#[test]
fn hostile_frames_disturb_nobody() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        let mut other = Bench::default();
        let mut remote = Node::new(&mut other, 7);
        let (number, peer) = (remote.qp.number, b.qp.number);
        remote.driver.connect(&mut other, number, 2, peer);
        let list = [remote.segment(0, 4000)];
        let target = (b.memory, b.key);
        remote
            .qp
            .rdma(&remote.driver.hw, WqeOpcode::Write, target, &list);
        other.step();
        let frames: Vec<Vec<u8>> = other.wire.sent.drain(..).collect();
        assert!(!frames.is_empty());
        for _ in 0..2000 {
            let mut frame = frames[random.below(frames.len() as u64) as usize].clone();
            match random.below(4) {
                0 => frame.truncate(random.below(frame.len() as u64) as usize),
                1 => {
                    let mut noise = vec![0; random.below(200) as usize];
                    random.fill(&mut noise);
                    frame = noise;
                }
                2 => {}
                _ => {
                    let at = random.below(frame.len() as u64) as usize;
                    frame[at] = random.next() as u8;
                }
            }
            bench.nic.receive(bench.now, &frame, &mut bench.wire);
        }
        // Correct frames of a stranger reach no queue pair either.
        assert_eq!(b.hw().bytes(b.memory, 64), [PATTERN; 64]);
        message(&mut bench, &mut a, &mut b, &mut random);
        assert!(bench.wire.sent.is_empty(), "nothing is answered");
        let drops = bench.nic.drops();
        assert!(drops.not_roce > 0 && drops.not_ours == 0 || drops.not_ours > 0);
    }
}
