//! Data between functions: on the direct path, as looped frames, over a wire with faults.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::admin::AdminOpcode;
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionOpcode, CompletionStatus};
use vrnic_abi::object::QpState;
use vrnic_abi::registers as reg;
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::nic::NicConfig;

const OPERATIONS: [WqeOpcode; 5] = [
    WqeOpcode::Send,
    WqeOpcode::SendImmediate,
    WqeOpcode::Write,
    WqeOpcode::WriteImmediate,
    WqeOpcode::Read,
];

/// One operation of `length` bytes from `a` to `b` (or back, for a READ) and what must be there
/// afterwards. `drive` lets things happen.
#[track_caller]
fn transfer(
    a: &mut Node,
    b: &mut Node,
    opcode: WqeOpcode,
    length: u32,
    random: &mut Random,
    drive: &mut dyn FnMut(&mut Node, &mut Node),
) {
    let (from, to) = (random.below(4096), 4096 + random.below(4096));
    let mut bytes = vec![0; length as usize];
    random.fill(&mut bytes);
    let reads = opcode == WqeOpcode::Read;
    let (source, target) = if reads { (&*b, &*a) } else { (&*a, &*b) };
    source.hw().ram_write(source.memory + from, &bytes);
    let guard = vec![PATTERN; length as usize + 2];
    target.hw().ram_write(target.memory + to - 1, &guard);
    let target_at = target.memory + to;

    // Two pieces, so that lists are walked.
    let half = length / 3;
    let pieces = |node: &Node, at: u64| {
        let mut list = vec![node.segment(at, half)];
        list.push(node.segment(at + u64::from(half), length - half));
        list
    };
    let receives = !matches!(opcode, WqeOpcode::Write | WqeOpcode::Read);
    if receives {
        let list = pieces(b, to);
        b.qp.receive(&b.driver.hw, &list);
    }
    match opcode {
        WqeOpcode::Send | WqeOpcode::SendImmediate => {
            let list = pieces(a, from);
            a.qp.send(&a.driver.hw, opcode, 0x1234_5678, &list);
        }
        WqeOpcode::Read => {
            let (list, remote) = (pieces(a, to), (b.memory + from, b.key));
            a.qp.rdma(&a.driver.hw, opcode, remote, &list);
        }
        _ => {
            let (list, remote) = (pieces(a, from), (b.memory + to, b.key));
            a.qp.rdma(&a.driver.hw, opcode, remote, &list);
        }
    }
    drive(a, b);

    let sent = a.poll().expect("the request completes");
    assert_eq!(sent.status, CompletionStatus::Success.raw());
    assert_eq!(sent.opcode, CompletionOpcode::Request.raw());
    assert!(a.poll().is_none());
    let received = b.poll();
    assert_eq!(received.is_some(), receives);
    if let Some(received) = received {
        assert_eq!(received.status, CompletionStatus::Success.raw());
        assert_eq!(received.byte_length, length);
        if opcode != WqeOpcode::Send {
            assert_eq!(received.immediate, 0x1234_5678);
        }
    }
    // A WRITE with immediate leaves the receive buffer alone, which is the same range here.
    let hw = if reads { a.hw() } else { b.hw() };
    assert!(hw.bytes(target_at, length as usize) == bytes, "{opcode:?}");
    assert_eq!(hw.bytes(target_at - 1, 1), [PATTERN]);
    assert_eq!(hw.bytes(target_at + u64::from(length), 1), [PATTERN]);
}

trait RamWrite {
    fn ram_write(&self, address: u64, bytes: &[u8]);
}

impl RamWrite for Hardware {
    fn ram_write(&self, address: u64, bytes: &[u8]) {
        use vrnic_firmware::host::Memory;
        self.ram.write(address, bytes).unwrap();
    }
}

#[track_caller]
fn all_operations(bench: &mut Bench, a: &mut Node, b: &mut Node) {
    let mut random = Random(7);
    for opcode in OPERATIONS {
        for length in [0, 1, 63, 64, 1023, 1024, 1025, 65_536, 300_001] {
            transfer(a, b, opcode, length, &mut random, &mut |_, _| bench.run());
        }
    }
}

mod direct {
    use super::*;

    #[test]
    fn all_operations_between_two_functions() {
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        all_operations(&mut bench, &mut a, &mut b);
        all_operations(&mut bench, &mut b, &mut a);
        assert!(bench.wire.sent.is_empty());
        assert_eq!(bench.wire.looped, 0);
        assert!(a.counter(&bench, Counter::LocalBytes) > 1_000_000);
        assert_eq!(a.counter(&bench, Counter::PortXmitPackets), 0);
    }

    #[test]
    fn all_operations_between_two_queue_pairs_of_one_function() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let cq = a.driver.cq(&mut bench, &a.eq, 4);
        let other = a.driver.qp(&mut bench, a.pd, &cq, &cq);
        let (qa, qb) = (a.qp.number, other.number);
        a.driver.connect(&mut bench, qa, 1, qb);
        a.driver.connect(&mut bench, qb, 1, qa);
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        a.hw().ram_write(a.memory, &bytes);
        let target = (a.memory + 500_000, a.key);
        let list = [a.segment(0, 100_000)];
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, target, &list);
        bench.run();
        assert_eq!(a.poll().unwrap().status, 0);
        assert!(a.hw().bytes(target.0, 100_000) == bytes);
    }

    #[test]
    fn a_bad_sender_fails_itself_only() {
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        *a.hw().ram.hole.borrow_mut() = Some(a.memory + 8192..a.memory + 12288);
        let (remote, list) = ((b.memory, b.key), [a.segment(0, 65_536)]);
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
        bench.run();
        for _ in 0..20 {
            if !bench.skip() {
                break;
            }
            bench.run();
        }
        let status = a.poll().expect("an error").status;
        assert_ne!(status, CompletionStatus::Success.raw());
        assert!(b.poll().is_none());
        assert_eq!(b.driver.state(), 1);
    }

    #[test]
    fn another_vlan_or_mac_is_not_a_neighbour() {
        let mut bench = Bench::default();
        let (mut a, mut b) = (Node::new(&mut bench, 1), Node::new(&mut bench, 2));
        let (qa, qb) = (a.qp.number, b.qp.number);
        let (mask, given) = to_init();
        a.driver.modify_ok(&mut bench, qa, mask, &given);
        let (mask, mut given) = to_rtr(2, qb);
        given.primary.mac = mac(9).0;
        a.driver.modify_ok(&mut bench, qa, mask, &given);
        let (mask, given) = to_rts();
        a.driver.modify_ok(&mut bench, qa, mask, &given);
        b.driver.connect(&mut bench, qb, 1, qa);
        let (remote, list) = ((b.memory, b.key), [a.segment(0, 64)]);
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
        bench.run();
        assert_eq!(bench.wire.sent.len(), 1);
    }
}

mod looped {
    use super::*;

    #[test]
    fn all_operations_as_frames() {
        let mut bench = Bench::new(NicConfig {
            direct: false,
            ..NicConfig::default()
        });
        let (mut a, mut b) = pair(&mut bench);
        all_operations(&mut bench, &mut a, &mut b);
        assert!(bench.wire.sent.is_empty());
        assert!(bench.wire.looped > 1000);
    }
}

mod over_a_wire {
    use super::*;

    /// Moves frames between two NICs until both come to rest, with faults in percent.
    fn exchange(x: &mut Bench, y: &mut Bench, random: &mut Random, faults: u64) -> bool {
        let mut busy = false;
        for _ in 0..1_000_000 {
            let mut moved = x.step() == Progress::Busy;
            y.now = x.now;
            moved |= y.step() == Progress::Busy;
            x.now = y.now;
            for (from, to) in [(0, 1), (1, 0)] {
                let benches = [&mut *x, &mut *y];
                let [p, q] = benches;
                let (from, to) = if (from, to) == (0, 1) { (p, q) } else { (q, p) };
                while let Some(mut frame) = from.wire.sent.pop_front() {
                    moved = true;
                    if random.percent(faults) {
                        continue;
                    }
                    if random.percent(faults) {
                        let bit = random.below(frame.len() as u64 * 8) as usize;
                        frame[bit / 8] ^= 1 << (bit % 8);
                    }
                    to.nic.receive(to.now, &frame, &mut to.wire);
                    if random.percent(faults) {
                        to.nic.receive(to.now, &frame, &mut to.wire);
                    }
                }
            }
            if !moved {
                return busy;
            }
            busy = true;
        }
        panic!("no rest");
    }

    fn settle(x: &mut Bench, y: &mut Bench, a: &Node, random: &mut Random, faults: u64) {
        for _ in 0..10_000 {
            exchange(x, y, random, faults);
            let function = x.nic.function(a.driver.id).unwrap();
            let qp = function.qps.get(a.qp.number).unwrap();
            let send = qp.queues.send.as_ref().expect("it has a send queue");
            if send.consumer() == send.producer() {
                return;
            }
            let next = [x.nic.next_timeout(), y.nic.next_timeout()];
            let next = next.into_iter().flatten().min().expect("a timer");
            x.now = next.max(x.now);
            y.now = x.now;
        }
        panic!("the request does not end");
    }

    use vrnic_firmware::nic::Progress;

    fn run(seed: u64, faults: u64) {
        println!("seed {seed}, faults {faults}");
        let (mut x, mut y) = (Bench::default(), Bench::default());
        let mut a = Node::new(&mut x, 1);
        let mut b = Node::new(&mut y, 2);
        connect((&mut x, &mut a), (&mut y, &mut b));
        let mut random = Random(seed);
        for _ in 0..10 {
            let opcode = OPERATIONS[random.below(5) as usize];
            let length = random.below(20_000) as u32;
            let mut chance = Random(random.next());
            transfer(&mut a, &mut b, opcode, length, &mut random, &mut |a, _| {
                settle(&mut x, &mut y, a, &mut chance, faults);
            });
        }
        assert_eq!(a.counter(&x, Counter::LocalBytes), 0);
        assert!(a.counter(&x, Counter::PortXmitPackets) > 0);
    }

    #[test]
    fn without_faults() {
        for seed in 0..20 {
            run(seed, 0);
        }
    }

    #[test]
    fn with_loss_corruption_and_duplicates() {
        for seed in 100..200 {
            run(seed, 2);
        }
    }

    #[test]
    fn no_room_on_the_wire_delays_only() {
        let mut x = Bench::default();
        let mut y = Bench::default();
        let mut a = Node::new(&mut x, 1);
        let mut b = Node::new(&mut y, 2);
        connect((&mut x, &mut a), (&mut y, &mut b));
        x.wire.limit = Some(1);
        let mut random = Random(3);
        transfer(
            &mut a,
            &mut b,
            WqeOpcode::Write,
            50_000,
            &mut random,
            &mut |a, _| {
                settle(&mut x, &mut y, a, &mut Random(0), 0);
            },
        );
        x.wire.limit = Some(0);
        let (remote, list) = ((b.memory, b.key), [a.segment(0, 64)]);
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
        x.run();
        assert!(x.nic.prepare_sleep(), "a full wire does not keep it awake");
        assert!(x.nic.next_timeout().is_some());
    }
}

mod reset {
    use super::*;

    #[test]
    fn under_traffic_leaves_nothing_behind() {
        for seed in 0..50 {
            println!("seed {seed}");
            let mut random = Random(seed);
            let mut bench = Bench::default();
            let (mut a, mut b) = pair(&mut bench);
            for _ in 0..8 {
                let (remote, list) = ((b.memory, b.key), [a.segment(0, 400_000)]);
                a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
                let (remote, list) = ((a.memory, a.key), [b.segment(500_000, 400_000)]);
                b.qp.rdma(&b.driver.hw, WqeOpcode::Read, remote, &list);
            }
            for _ in 0..random.below(6) {
                bench.step();
            }
            b.driver
                .write_register(&mut bench, &reg::RESET, reg::RESET_VALUE);
            assert_eq!(b.driver.state(), 0);
            let status = b.hw().register(&reg::DEVICE_STATUS);
            assert_eq!(reg::device_status::RESET_COUNT.get(status), 1);
            let before = b.hw().ram.accesses.get();
            bench.run();
            while bench.now.0 < 10_000_000_000 && bench.skip() {
                bench.run();
            }
            assert_eq!(b.hw().ram.accesses.get(), before);
            let ends: Vec<u8> = std::iter::from_fn(|| a.poll()).map(|e| e.status).collect();
            assert_eq!(ends.len(), 8, "every request ends");
            assert_ne!(ends.last(), Some(&0), "the peer's reset is noticed");
            assert_eq!(a.driver.state(), 1);

            // Both come back.
            let mut driver = b.driver;
            driver.enable(&mut bench);
            let mut body = vrnic_abi::admin::SetGid {
                gid_type: 1,
                ..Default::default()
            };
            body.gid = gid(2).0;
            driver.ok(&mut bench, AdminOpcode::SetGid, &body);
            let mut b = Node::on(&mut bench, driver);
            let qa = a.qp.number;
            a.driver.set_state(&mut bench, qa, QpState::Reset);
            a.qp.posted = 0;
            a.qp.received = 0;
            join(&mut bench, &mut a, &mut b);
            transfer(
                &mut a,
                &mut b,
                WqeOpcode::Send,
                5000,
                &mut random,
                &mut |_, _| {
                    bench.run();
                },
            );
        }
    }

    #[test]
    fn a_removed_function_is_gone() {
        let mut bench = Bench::default();
        let (mut a, b) = pair(&mut bench);
        let (remote, list) = ((b.memory, b.key), [a.segment(0, 400_000)]);
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
        bench.step();
        assert!(bench.nic.remove_function(b.driver.id).is_some());
        assert!(bench.nic.remove_function(b.driver.id).is_none());
        bench.run();
        assert!(bench.nic.host(b.driver.id).is_none());
        let again = Driver::ready(&mut bench, 2);
        assert_eq!(again.id, b.driver.id);
    }
}
