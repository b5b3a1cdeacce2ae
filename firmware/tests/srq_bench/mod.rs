//! What tests of shared receive queues and XRC need besides the bench: those queues and queue pairs
//! as a driver knows them, and two nodes on one NIC or on two with a wire in between.

#![allow(dead_code)] // Each test binary uses its own part.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use vrnic_abi::admin::{AdminOpcode, CreateQp, CreateSrq, ModifySrq, QpType, SrqType};
use vrnic_abi::doorbell;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{QpAttributes, QpMask, SrqAttributes};
use vrnic_abi::wqe::DataSegment;
use vrnic_firmware::nic::Progress;

use crate::nic_bench::*;

/// A shared receive queue as the driver knows it.
pub struct Srq {
    pub number: u32,
    pub slot: u32,
    base: u64,
    entries: u32,
    entry: u64,
    pub posted: u32,
}

impl Srq {
    /// Creates what `body` says, with a buffer.
    #[track_caller]
    pub fn create(driver: &mut Driver, bench: &mut Bench, body: CreateSrq) -> Self {
        let entry = 16 << body.log_segments;
        let bytes = entry << body.log_entries;
        let (buffer, base) = if bytes <= 4096 {
            // One page, in a list.
            let buffer = driver.scattered(bytes);
            (buffer, driver.hw.read(buffer.address))
        } else {
            let buffer = driver.buffer(bytes);
            (buffer, buffer.address)
        };
        let body = CreateSrq { buffer, ..body };
        let completion = driver.command(bench, AdminOpcode::CreateSrq, &body);
        assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
        Self {
            number: completion.result0 as u32,
            slot: completion.result1 as u32,
            base,
            entries: 1 << body.log_entries,
            entry,
            posted: 0,
        }
    }

    /// A queue of 2^`log_entries` entries of two segments.
    #[track_caller]
    pub fn basic(node: &mut Node, bench: &mut Bench, log_entries: u8) -> Self {
        let body = CreateSrq {
            pd: node.pd,
            log_entries,
            log_segments: 1,
            ..CreateSrq::default()
        };
        Self::create(&mut node.driver, bench, body)
    }

    /// The same for XRC domain `xrcd`, with completions to the node's queue.
    #[track_caller]
    pub fn extended(node: &mut Node, bench: &mut Bench, xrcd: u32) -> Self {
        let body = CreateSrq {
            pd: node.pd,
            log_entries: 4,
            log_segments: 1,
            srq_type: SrqType::Xrc.raw(),
            xrcd,
            cq: node.cq.number,
            ..CreateSrq::default()
        };
        Self::create(&mut node.driver, bench, body)
    }

    /// Writes an entry without announcing it.
    pub fn put(&mut self, hw: &Hardware, data: &[DataSegment]) {
        let at = self.base + u64::from(self.posted % self.entries) * self.entry;
        for (segment, place) in data.iter().zip((at..).step_by(16)) {
            hw.write(place, segment);
        }
        if (data.len() as u64) * 16 < self.entry {
            hw.write(at + data.len() as u64 * 16, &DataSegment::default());
        }
        self.posted = self.posted.wrapping_add(1);
    }

    /// Where the ring lies.
    pub const fn place(&self) -> u64 {
        self.base
    }

    pub fn ring(&self, hw: &Hardware) {
        hw.store_slot(0, self.slot, doorbell::receive_queue(self.posted));
    }

    pub fn post(&mut self, hw: &Hardware, data: &[DataSegment]) {
        self.put(hw, data);
        self.ring(hw);
    }

    #[track_caller]
    pub fn arm(&self, driver: &mut Driver, bench: &mut Bench, limit: u32) {
        let body = ModifySrq {
            srq: self.number,
            limit,
            reserved: 0,
        };
        driver.ok(bench, AdminOpcode::ModifySrq, &body);
    }

    #[track_caller]
    pub fn query(&self, driver: &mut Driver, bench: &mut Bench) -> SrqAttributes {
        driver.query(bench, AdminOpcode::QuerySrq, self.number)
    }
}

/// The body that creates a queue pair without a receive queue of its own; 64 basic blocks.
pub fn qp_body(node: &mut Node, qp_type: QpType, srq: u32) -> CreateQp {
    let extended = qp_type == QpType::XrcInitiator;
    CreateQp {
        pd: node.pd,
        send_cq: node.cq.number,
        receive_cq: if extended { 0 } else { node.cq.number },
        srq,
        buffer: node.driver.buffer(64 << 6),
        qp_type: qp_type.raw(),
        log_send_blocks: 6,
        ..CreateQp::default()
    }
}

#[track_caller]
pub fn create_qp(node: &mut Node, bench: &mut Bench, body: &CreateQp) -> Qp {
    let completion = node.driver.command(bench, AdminOpcode::CreateQp, body);
    assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
    Qp {
        number: completion.result0 as u32,
        send_slot: completion.result1 as u32 & 0xffff,
        receive_slot: (completion.result1 >> 16) as u32,
        receive_page: 0,
        send_page: body.buffer.address,
        posted: 0,
        received: 0,
    }
}

/// The attributes that take a queue pair of a type to RTS, step by step.
pub fn steps(qp_type: QpType, peer: u8, remote: u32) -> [(QpMask, QpAttributes); 3] {
    let (init, rtr, rts) = (to_init(), to_rtr(peer, remote), to_rts());
    let initiator = QpMask::INITIATOR_DEPTH | QpMask::RETRY_COUNT | QpMask::RNR_RETRY;
    let responder = QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER;
    match qp_type {
        QpType::XrcInitiator => [init, (rtr.0 - responder, rtr.1), rts],
        QpType::XrcTarget => [init, rtr, (rts.0 - initiator, rts.1)],
        QpType::Uc => [
            init,
            (rtr.0 - responder, rtr.1),
            (rts.0 - initiator - QpMask::TIMEOUT, rts.1),
        ],
        QpType::Ud => [
            (
                (init.0 - QpMask::ACCESS) | QpMask::QKEY,
                QpAttributes {
                    qkey: QKEY,
                    ..init.1
                },
            ),
            (QpMask::STATE, rtr.1),
            (QpMask::STATE | QpMask::SEND_PSN, rts.1),
        ],
        QpType::RawPacket => [
            (QpMask::STATE | QpMask::PORT, init.1),
            (QpMask::STATE, rtr.1),
            (QpMask::STATE, rts.1),
        ],
        _ => [init, rtr, rts],
    }
}

/// The queue key of datagrams.
pub const QKEY: u32 = 0x1234_5678;

#[track_caller]
pub fn ready(
    node: &mut Node,
    bench: &mut Bench,
    (qp_type, qpn): (QpType, u32),
    peer: u8,
    remote: u32,
) {
    for (mask, given) in steps(qp_type, peer, remote) {
        node.driver.modify_ok(bench, qpn, mask, &given);
    }
}

/// All asynchronous events of the node that have not been taken, with their objects.
pub fn events(node: &mut Node) -> Vec<(EventType, u32)> {
    let mut events = Vec::new();
    while let Some(entry) = node.eq.poll(&node.driver.hw) {
        events.push((EventType::from_raw(entry.event).unwrap(), entry.object));
    }
    node.eq.free(&node.driver.hw);
    events
}

#[track_caller]
pub fn state(node: &mut Node, bench: &mut Bench, qpn: u32) -> u8 {
    let qp: QpAttributes = node.driver.query(bench, AdminOpcode::QueryQp, qpn);
    qp.state
}

/// Two nodes' NICs: one and the same, or two with a wire that loses and doubles frames.
pub struct Net {
    benches: Vec<Bench>,
    random: Random,
    faults: u64,
}

impl Net {
    pub fn direct() -> Self {
        Self {
            benches: vec![Bench::default()],
            random: Random(0),
            faults: 0,
        }
    }

    /// A wire with `faults` percent of faults of each kind.
    pub fn wire(seed: u64, faults: u64) -> Self {
        Self {
            benches: vec![Bench::default(), Bench::default()],
            random: Random(seed),
            faults,
        }
    }

    /// Nodes 1 and 2.
    #[track_caller]
    pub fn nodes(&mut self) -> (Node, Node) {
        (Node::new(self.at(0), 1), Node::new(self.at(1), 2))
    }

    /// The NIC of the first or second node.
    pub fn at(&mut self, side: usize) -> &mut Bench {
        let last = self.benches.len() - 1;
        &mut self.benches[side.min(last)]
    }

    /// Lets everything happen that happens without a timer.
    #[track_caller]
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("no rest");
    }

    /// One step of each NIC, and the frames that it sent; whether there was anything to do.
    pub fn step(&mut self) -> bool {
        let mut busy = false;
        let now = self.benches.iter().map(|bench| bench.now).max().unwrap();
        for bench in &mut self.benches {
            bench.now = now;
            busy |= bench.step() == Progress::Busy;
        }
        if let [x, y] = self.benches.as_mut_slice() {
            busy |= carry(x, y, &mut self.random, self.faults);
            busy |= carry(y, x, &mut self.random, self.faults);
        }
        busy
    }

    /// Lets things happen, timers too, until `done`.
    #[track_caller]
    pub fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..20_000 {
            self.run();
            if done(self) {
                return;
            }
            let next = self
                .benches
                .iter()
                .filter_map(|b| b.nic.next_timeout())
                .min();
            let next = next.expect("nothing more will happen");
            for bench in &mut self.benches {
                bench.now = bench.now.max(next);
            }
        }
        panic!("it does not end");
    }

    /// Whether all send requests of a queue pair have ended.
    #[track_caller]
    pub fn drained(&mut self, side: usize, node: &Node, qpn: u32) -> bool {
        let function = self.at(side).nic.function(node.driver.id).unwrap();
        let queues = &function.qps.get(qpn).unwrap().queues;
        let send = queues.send.as_ref().unwrap();
        send.consumer() == send.producer()
    }
}

fn carry(from: &mut Bench, to: &mut Bench, random: &mut Random, faults: u64) -> bool {
    let mut any = false;
    while let Some(frame) = from.wire.sent.pop_front() {
        any = true;
        if random.percent(faults) {
            continue;
        }
        to.nic.receive(to.now, &frame, &mut to.wire);
        if random.percent(faults) {
            to.nic.receive(to.now, &frame, &mut to.wire);
        }
    }
    any
}
