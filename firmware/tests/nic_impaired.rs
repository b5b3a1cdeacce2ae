//! Two NICs with a bad wire between them, in virtual time: data arrives whole, and the counters of
//! the NICs tell what the wire did.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;
mod nic_link;

use nic_bench::*;
use nic_link::{Link, Seen, wire};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Memory;
use vrnic_firmware::impair::{Counters, Direction, Impairment};
use vrnic_firmware::types::Time;

/// Packets of a transfer: MTU 1024.
const PACKETS: u32 = 10;
const LENGTH: u32 = PACKETS * 1024;
/// Long after every retry.
const END: Time = Time(60_000_000_000);

/// Two NICs, and a connection over the wire between them.
struct Pair {
    link: Link,
    a: Node,
    b: Node,
}

impl Pair {
    /// Connected with a traffic class that says "ECN-capable".
    #[track_caller]
    fn new(there: Impairment, back: Impairment) -> Self {
        let mut link = Link::new([there, back]);
        let [x, y] = &mut link.nics;
        let (mut a, mut b) = (Node::new(x, 1), Node::new(y, 2));
        let (qa, qb) = (a.qp.number, b.qp.number);
        join(x, &mut a, (2, qb));
        join(y, &mut b, (1, qa));
        y.now = x.now;
        Self { link, a, b }
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
        let (mut completion, node) = (None, &mut self.a);
        self.link.run(END, |link| {
            completion = completion.or_else(|| node.poll());
            completion.is_some() && link.in_flight() == 0
        });
        let completion = completion.expect("a completion");
        assert_eq!(completion.status, CompletionStatus::Success.raw());
        assert!(hw.bytes(at, bytes.len()) == bytes, "the data");
        assert_eq!(hw.bytes(at - 1, 1), [PATTERN]);
        assert_eq!(hw.bytes(at + u64::from(length), 1), [PATTERN]);
    }

    fn requester(&self, counter: Counter) -> u64 {
        self.a.counter(&self.link.nics[0], counter)
    }

    fn responder(&self, counter: Counter) -> u64 {
        self.b.counter(&self.link.nics[1], counter)
    }

    fn there(&self) -> Counters {
        self.link.wires[0].counters()
    }

    fn back(&self) -> Counters {
        self.link.wires[1].counters()
    }
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
    assert_eq!(pair.there().events, times, "{event}");
    pair
}

// --- exact events; the first PSN is 0xfffff0

#[test]
fn a_lost_packet_is_answered_with_one_nak() {
    let pair = write_with("drop psn=0xfffff5 once", 1);
    assert_eq!(pair.there().dropped, 1);
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
    assert_eq!(pair.there().dropped, 2);
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
    assert_eq!(pair.there().marked, 1);
    assert_eq!(pair.responder(Counter::RxIcrcEncapsulated), 0);
    assert_eq!(pair.responder(Counter::RxMalformed), 0);
    assert_eq!(pair.requester(Counter::TxRetransmits), 0);
}

#[test]
fn a_packet_out_of_order_is_answered_with_one_nak() {
    let pair = write_with("reorder psn=0xfffff2", 1);
    assert_eq!(pair.there().reordered, 1);
    assert_eq!(pair.responder(Counter::TxSeqNak), 1);
}

#[test]
fn a_lost_acknowledgement_is_asked_for_again() {
    let there = wire("", "", Direction::Transmit);
    let back = wire("", "drop opcode=ack", Direction::Receive);
    let mut pair = Pair::new(there, back);
    pair.transfer(WqeOpcode::Write, LENGTH, 3);
    assert_eq!(pair.back().dropped, 1);
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
    assert_eq!(pair.back().dropped, 1);
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
    let start = pair.link.now().0;
    pair.transfer(WqeOpcode::Read, 64, 5);
    let took = pair.link.now().0 - start;
    assert!((2 * delay..2 * delay + 100_000).contains(&took), "{took}");
    assert_eq!(pair.requester(Counter::TxRetransmits), 0);
}

#[test]
fn a_rate_is_the_speed_of_a_transfer() {
    let there = wire("rate=1G", "", Direction::Transmit);
    let mut pair = Pair::new(there, wire("", "", Direction::Receive));
    let start = pair.link.now().0;
    pair.transfer(WqeOpcode::Write, 100 * 1024, 6);
    let took = pair.link.now().0 - start;
    // 100 packets of 1024 bytes of data and up to 80 of headers, at 8 ns a byte.
    assert!((819_200..890_000).contains(&took), "{took}");
    assert_eq!(pair.there().rate_dropped, 0);
}

// --- everything at once

/// Ten transfers over a wire that does everything.
fn everything(seed: u64) -> (Vec<Seen>, [Counters; 2]) {
    println!("seed {seed}");
    let settings = format!(
        "drop=1%,dup=1%,reorder=1%,corrupt=1%,ecn=10%,delay=20us,jitter=2us,rate=10G,seed={seed}"
    );
    let there = wire(&settings, "", Direction::Transmit);
    let back = wire(&settings, "", Direction::Receive);
    let mut pair = Pair::new(there, back);
    pair.link.log = Some(Vec::new());
    for round in 0..10 {
        let opcode = [WqeOpcode::Write, WqeOpcode::Read][round % 2];
        let length = Random(seed ^ round as u64).below(20_000) as u32;
        pair.transfer(opcode, length, seed + round as u64);
    }
    let counters = [pair.there(), pair.back()];
    (pair.link.log.unwrap(), counters)
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
