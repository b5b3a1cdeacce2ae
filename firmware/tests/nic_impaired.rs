//! Two NICs with a bad wire between them, in virtual time: data arrives whole, and the counters of
//! the NICs tell what the wire did.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Memory;
use vrnic_firmware::impair::{Counters, Direction, Impairment, Spec};
use vrnic_firmware::nic::Progress;
use vrnic_firmware::types::Time;

/// Packets of a transfer: MTU 1024.
const PACKETS: u32 = 10;
const LENGTH: u32 = PACKETS * 1024;
/// Long after every retry.
const END: Time = Time(60_000_000_000);

/// Two NICs, a requester and a responder, and what happens between them.
struct Pair {
    x: Bench,
    y: Bench,
    a: Node,
    b: Node,
    /// From `x` to `y`.
    there: Impairment,
    back: Impairment,
    /// Everything that came through, with the time, for comparisons.
    history: Vec<(Time, Vec<u8>)>,
}

/// What is asked of one direction; nothing makes a wire without faults.
fn wire(settings: &str, event: &str, direction: Direction) -> Impairment {
    let mut spec = Spec::default();
    if !settings.is_empty() {
        spec.set(&settings.parse().unwrap()).unwrap();
    }
    if !event.is_empty() {
        spec.add(&event.parse().unwrap());
    }
    let none = || Impairment::new(direction, Default::default(), &[]);
    spec.build(direction).unwrap_or_else(none)
}

impl Pair {
    /// Connected with a traffic class that says "ECN-capable".
    #[track_caller]
    fn new(there: Impairment, back: Impairment) -> Self {
        let (mut x, mut y) = (Bench::default(), Bench::default());
        let mut a = Node::new(&mut x, 1);
        let mut b = Node::new(&mut y, 2);
        let (qa, qb) = (a.qp.number, b.qp.number);
        join(&mut x, &mut a, (2, qb));
        join(&mut y, &mut b, (1, qa));
        y.now = x.now;
        Self {
            x,
            y,
            a,
            b,
            there,
            back,
            history: Vec::new(),
        }
    }

    /// Moves frames until nothing is left to do now.
    fn settle(&mut self) {
        let Self { x, y, .. } = self;
        loop {
            let mut busy = x.step() == Progress::Busy;
            y.now = x.now;
            busy |= y.nic.step(y.now, &mut y.wire) == Progress::Busy;
            busy |= cross(&mut self.there, x, y, &mut self.history);
            busy |= cross(&mut self.back, y, x, &mut self.history);
            if !busy {
                return;
            }
        }
    }

    /// Lets time pass until `over`.
    #[track_caller]
    fn run(&mut self, mut over: impl FnMut(&mut Self) -> bool) {
        loop {
            self.settle();
            if over(self) {
                return;
            }
            let timers = [
                self.x.nic.next_timeout(),
                self.y.nic.next_timeout(),
                self.there.next_timeout(),
                self.back.next_timeout(),
            ];
            let next = timers.into_iter().flatten().min().expect("a timer");
            assert!(next < END, "the request does not end");
            self.x.now = next.max(self.x.now);
            self.y.now = self.x.now;
        }
    }

    /// WRITEs `seed`'s bytes from `a` to `b`, or READs them, and compares.
    #[track_caller]
    fn transfer(&mut self, opcode: WqeOpcode, length: u32, seed: u64) {
        let mut bytes = vec![0; length as usize];
        Random(seed).fill(&mut bytes);
        let (a, b) = (&self.a, &self.b);
        let (source, target) = match opcode {
            WqeOpcode::Read => (b, a),
            _ => (a, b),
        };
        source.hw().ram.write(source.memory, &bytes).unwrap();
        let (hw, at) = (target.driver.hw.clone(), target.memory + BUFFER / 2);
        hw.ram
            .write(at - 1, &vec![PATTERN; bytes.len() + 2])
            .unwrap();
        let (local, remote) = match opcode {
            WqeOpcode::Read => (a.segment(BUFFER / 2, length), b.memory),
            _ => (a.segment(0, length), b.memory + BUFFER / 2),
        };
        let key = b.key;
        self.a
            .qp
            .rdma(&self.a.driver.hw, opcode, (remote, key), &[local]);
        let mut completion = None;
        self.run(|pair| {
            completion = completion.or_else(|| pair.a.poll());
            completion.is_some() && pair.is_empty()
        });
        let completion = completion.expect("a completion");
        assert_eq!(completion.status, CompletionStatus::Success.raw());
        assert!(hw.bytes(at, bytes.len()) == bytes, "the data");
        assert_eq!(hw.bytes(at - 1, 1), [PATTERN]);
        assert_eq!(hw.bytes(at + u64::from(length), 1), [PATTERN]);
    }

    fn is_empty(&self) -> bool {
        self.there.in_flight() + self.back.in_flight() == 0
    }

    fn requester(&self, counter: Counter) -> u64 {
        self.a.counter(&self.x, counter)
    }

    fn responder(&self, counter: Counter) -> u64 {
        self.b.counter(&self.y, counter)
    }
}

/// Takes what was sent on the wire, and delivers what comes off it.
fn cross(
    wire: &mut Impairment,
    from: &mut Bench,
    to: &mut Bench,
    history: &mut Vec<(Time, Vec<u8>)>,
) -> bool {
    let mut any = false;
    while let Some(frame) = from.wire.sent.pop_front() {
        wire.handle(from.now, &frame);
        any = true;
    }
    while let Some(frame) = wire.peek(to.now) {
        to.nic.receive(to.now, frame, &mut to.wire);
        history.push((to.now, frame.to_vec()));
        wire.pop();
        any = true;
    }
    any
}

#[track_caller]
fn join(bench: &mut Bench, node: &mut Node, (peer, remote): (u8, u32)) {
    let qp = node.qp.number;
    let (mask, given) = to_init();
    node.driver.modify_ok(bench, qp, mask, &given);
    let (mask, mut given) = to_rtr(peer, remote);
    given.primary.traffic_class = 2;
    node.driver.modify_ok(bench, qp, mask, &given);
    let (mask, given) = to_rts();
    node.driver.modify_ok(bench, qp, mask, &given);
}

/// One WRITE of ten packets over a wire with an event, which acts `times` times, on the way from the
/// requester to the responder.
#[track_caller]
fn write_with(event: &str, times: u64) -> Pair {
    let there = wire("", event, Direction::Transmit);
    let mut pair = Pair::new(there, wire("", "", Direction::Receive));
    pair.transfer(WqeOpcode::Write, LENGTH, 1);
    assert_eq!(pair.there.counters().events, times, "{event}");
    pair
}

// --- exact events; the first PSN is 0xfffff0

#[test]
fn a_lost_packet_is_answered_with_one_nak() {
    let pair = write_with("drop psn=0xfffff5 once", 1);
    assert_eq!(pair.there.counters().dropped, 1);
    assert_eq!(pair.responder(Counter::TxSeqNak), 1);
    assert_eq!(pair.requester(Counter::PacketSeqErr), 1);
    assert_eq!(pair.requester(Counter::LocalAckTimeoutErr), 0);
    // Go-back-N: what was sent from the lost packet on is sent again.
    let again = pair.requester(Counter::TxRetransmits);
    assert!((1..=5).contains(&again), "{again}");
}

#[test]
fn a_lost_last_packet_takes_a_timeout() {
    let pair = write_with("drop psn=0xfffff9 opcode=write_last", 1);
    assert_eq!(pair.requester(Counter::LocalAckTimeoutErr), 1);
    assert_eq!(pair.responder(Counter::OutOfSequence), 0);
}

#[test]
fn a_packet_lost_twice_takes_a_timeout_too() {
    let pair = write_with("drop psn=0xfffff5 2 times", 2);
    assert_eq!(pair.there.counters().dropped, 2);
    assert_eq!(
        pair.responder(Counter::TxSeqNak),
        1,
        "one NAK until it comes"
    );
    assert_eq!(pair.requester(Counter::LocalAckTimeoutErr), 1);
}

#[test]
fn a_duplicate_is_counted_and_changes_nothing() {
    let pair = write_with("dup psn=0xfffff5", 1);
    assert_eq!(pair.responder(Counter::DuplicateRequest), 1);
    assert_eq!(pair.requester(Counter::TxRetransmits), 0);
}

#[test]
fn a_corrupted_packet_fails_its_icrc() {
    let pair = write_with("corrupt psn=0xfffff5", 1);
    assert_eq!(pair.responder(Counter::RxIcrcEncapsulated), 1);
    assert_eq!(pair.responder(Counter::TxSeqNak), 1);
}

#[test]
fn a_marked_packet_is_accepted() {
    let pair = write_with("mark psn=0xfffff5", 1);
    assert_eq!(pair.there.counters().marked, 1);
    assert_eq!(pair.responder(Counter::RxIcrcEncapsulated), 0);
    assert_eq!(pair.responder(Counter::RxMalformed), 0);
    assert_eq!(pair.requester(Counter::TxRetransmits), 0);
}

#[test]
fn a_packet_out_of_order_is_answered_with_one_nak() {
    let pair = write_with("reorder psn=0xfffff2", 1);
    assert_eq!(pair.there.counters().reordered, 1);
    assert_eq!(pair.responder(Counter::TxSeqNak), 1);
}

#[test]
fn a_lost_acknowledgement_is_asked_for_again() {
    let there = wire("", "", Direction::Transmit);
    let back = wire("", "drop opcode=ack", Direction::Receive);
    let mut pair = Pair::new(there, back);
    pair.transfer(WqeOpcode::Write, LENGTH, 3);
    assert_eq!(pair.back.counters().dropped, 1);
    assert_eq!(pair.requester(Counter::LocalAckTimeoutErr), 1);
    assert!(pair.responder(Counter::DuplicateRequest) > 0);
}

#[test]
fn a_missing_read_response_is_noticed_by_the_next() {
    let there = wire("", "", Direction::Transmit);
    let back = wire(
        "",
        "drop opcode=read_response_middle nth=3",
        Direction::Receive,
    );
    let mut pair = Pair::new(there, back);
    pair.transfer(WqeOpcode::Read, LENGTH, 4);
    assert_eq!(pair.back.counters().dropped, 1);
    assert_eq!(pair.requester(Counter::ImpliedNakSeqErr), 1);
    assert_eq!(pair.requester(Counter::LocalAckTimeoutErr), 0);
}

// --- time

#[test]
fn a_delay_is_the_round_trip_of_a_request() {
    let delay = 1_000_000;
    let there = wire("delay=1ms", "", Direction::Transmit);
    let back = wire("delay=1ms", "", Direction::Receive);
    let mut pair = Pair::new(there, back);
    let start = pair.x.now.0;
    pair.transfer(WqeOpcode::Read, 64, 5);
    let took = pair.x.now.0 - start;
    assert!((2 * delay..2 * delay + 100_000).contains(&took), "{took}");
    assert_eq!(pair.requester(Counter::TxRetransmits), 0);
}

#[test]
fn a_rate_is_the_speed_of_a_transfer() {
    let there = wire("rate=1G", "", Direction::Transmit);
    let mut pair = Pair::new(there, wire("", "", Direction::Receive));
    let start = pair.x.now.0;
    pair.transfer(WqeOpcode::Write, 100 * 1024, 6);
    let took = pair.x.now.0 - start;
    // 100 packets of 1024 bytes of data and up to 80 of headers, at 8 ns a byte.
    assert!((819_200..890_000).contains(&took), "{took}");
    assert_eq!(pair.there.counters().rate_dropped, 0);
}

// --- everything at once

/// Ten transfers over a wire that does everything.
fn everything(seed: u64) -> (Vec<(Time, Vec<u8>)>, [Counters; 2]) {
    println!("seed {seed}");
    let settings = format!(
        "drop=1%,dup=1%,reorder=1%,corrupt=1%,ecn=10%,delay=20us,jitter=2us,rate=10G,seed={seed}"
    );
    let there = wire(&settings, "", Direction::Transmit);
    let back = wire(&settings, "", Direction::Receive);
    let mut pair = Pair::new(there, back);
    for round in 0..10 {
        let opcode = [WqeOpcode::Write, WqeOpcode::Read][round % 2];
        let length = Random(seed ^ round as u64).below(20_000) as u32;
        pair.transfer(opcode, length, seed + round as u64);
    }
    let counters = [&pair.there, &pair.back].map(Impairment::counters);
    (pair.history, counters)
}

#[test]
fn data_arrives_whole_over_a_wire_that_does_everything() {
    let mut total = [0; 5];
    for seed in 0..50 {
        let (_, counters) = everything(seed);
        for c in counters {
            let kinds = [c.dropped, c.duplicated, c.reordered, c.corrupted, c.marked];
            for (sum, count) in total.iter_mut().zip(kinds) {
                *sum += count;
            }
        }
    }
    assert!(total.iter().all(|count| *count > 20), "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_frame_by_frame() {
    for seed in [1, 2] {
        assert!(everything(seed) == everything(seed));
    }
    assert!(everything(1) != everything(2));
}
