//! What loss costs: goodput of one reliable connection over a wire of 10 Gbit/s, by operation, path
//! MTU, round trip and loss, in virtual time.
//!
//! The table is checked in as `snapshots/goodput.txt`. A change of the transport that changes it fails
//! here; `UPDATE_SNAPSHOT=1` writes it anew, and the commit says why the numbers are as good or better.
//! A seed loses the same frames each time, so the numbers are exact. Besides, each is held against what
//! go-back-N gives on average with a window that fills the wire.
//!
//! In most lines the ports of the NICs are as fast as the wire and hold the NICs up, as links do. In
//! the last ones the NICs are faster than a bottleneck further down, whose buffer of 1 MiB overflows.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;
mod nic_link;

use std::fmt::Write;

use nic_bench::*;
use nic_link::Link;
use vrnic_abi::counter::Counter;
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Memory;

/// Gbit/s.
const RATE: f64 = 10.0;
const MESSAGE: u32 = 64 << 10;
/// Messages of one line.
const MESSAGES: u64 = 160;
/// Pieces of memory that they use in turn.
const PIECES: u64 = 8;
/// Messages in flight.
const DEPTH: u64 = 8;
/// The same, to fill the buffer of a bottleneck.
const DEEP: u64 = 60;
/// Ack timeout, as its code and in microseconds.
const TIMEOUT: (u8, f64) = (8, 1048.576);
const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/goodput.txt");
const TITLE: &str = "\
Goodput of one connection in messages of 64 KiB over 10 Gbit/s, in Gbit/s, and what go-back-N gives
on average with a window that fills the wire. Loss is of packets, both ways; overflows are packets
that a bottleneck had no room for.

       MTU  round trip    loss  goodput  average  sent again  NAKs  timeouts  overflows
";

/// A line of the table.
#[derive(Clone, Copy)]
struct Case {
    operation: WqeOpcode,
    /// Bytes.
    mtu: u32,
    /// Of the wire without frames, in microseconds.
    round_trip: u32,
    /// In tenths of a percent, both ways.
    loss: u32,
    /// The NICs are faster than the wire.
    bottleneck: bool,
}

struct Outcome {
    goodput: f64,
    retransmits: u64,
    naks: u64,
    timeouts: u64,
    overflows: u64,
}

impl Case {
    fn settings(&self) -> String {
        let rate = if self.bottleneck { "rate=10G," } else { "" };
        let (delay, whole, tenths) = (self.round_trip / 2, self.loss / 10, self.loss % 10);
        format!("{rate}delay={delay}us,drop={whole}.{tenths}%,seed=1")
    }

    #[track_caller]
    fn run(&self) -> Outcome {
        let mut link = Link::with("");
        let (mut a, b) = connected(&mut link, self.mtu);
        link.wires = Link::with(&self.settings()).wires;
        if !self.bottleneck {
            link.set_rate((RATE * 1e9) as u64);
        }
        let (source, target) = match self.operation {
            WqeOpcode::Read => (&b, &a),
            _ => (&a, &b),
        };
        let mut bytes = vec![0; (u64::from(MESSAGE) * PIECES) as usize];
        Random(1).fill(&mut bytes);
        source.hw().ram.write(source.memory, &bytes).unwrap();
        let (hw, at) = (target.driver.hw.clone(), target.memory + BUFFER / 2);
        let start = link.now().0;
        self.transfer(&mut link, &mut a, &b);
        let took = link.now().0 - start;
        assert!(hw.bytes(at, bytes.len()) == bytes, "the data");
        let count = |counter| a.counter(&link.nics[0], counter);
        let overflows = link.wires.iter().map(|wire| wire.counters().rate_dropped);
        Outcome {
            goodput: (MESSAGES * u64::from(MESSAGE) * 8) as f64 / took as f64,
            retransmits: count(Counter::TxRetransmits),
            naks: count(Counter::PacketSeqErr) + count(Counter::ImpliedNakSeqErr),
            timeouts: count(Counter::LocalAckTimeoutErr),
            overflows: overflows.sum(),
        }
    }

    /// Keeps messages in flight until all are done.
    #[track_caller]
    fn transfer(&self, link: &mut Link, a: &mut Node, b: &Node) {
        let hw = a.driver.hw.clone();
        let depth = if self.bottleneck { DEEP } else { DEPTH };
        let (mut posted, mut done) = (0, 0);
        while done < MESSAGES {
            while posted < MESSAGES.min(done + depth) {
                let piece = posted % PIECES * u64::from(MESSAGE);
                let (local, remote) = match self.operation {
                    WqeOpcode::Read => (BUFFER / 2 + piece, piece),
                    _ => (piece, BUFFER / 2 + piece),
                };
                let local = a.segment(local, MESSAGE);
                let remote = (b.memory + remote, b.key);
                a.qp.rdma(&hw, self.operation, remote, &[local]);
                posted += 1;
            }
            if !link.round() {
                assert!(link.pass(), "nothing is left that could end it");
            }
            while let Some(entry) = a.poll() {
                assert_eq!(entry.status, 0, "message {done}");
                done += 1;
            }
        }
    }

    /// What go-back-N gives with a window that fills the wire: every loss costs one round trip, and
    /// an ack timeout if the NAK or the first retransmission is lost too, as no gap is reported twice.
    fn average(&self) -> f64 {
        let (mtu, loss) = (f64::from(self.mtu), f64::from(self.loss) / 1000.0);
        // Ethernet, IPv4, UDP and base transport header, ICRC.
        let packet = (mtu + 58.0) * 8.0 / (RATE * 1e3);
        let recovery = f64::from(self.round_trip) + 2.0 * loss * TIMEOUT.1;
        let each = packet + loss / (1.0 - loss) * (packet + recovery);
        mtu * 8.0 / each / 1e3
    }

    fn line(&self, outcome: &Outcome) -> String {
        format!(
            "{:5} {:>4} {:>8} us {:>4}.{} % {:>8.2} {:>8.2} {:>11} {:>5} {:>9} {:>10}\n",
            format!("{:?}", self.operation).to_uppercase(),
            self.mtu,
            self.round_trip,
            self.loss / 10,
            self.loss % 10,
            outcome.goodput,
            self.average(),
            outcome.retransmits,
            outcome.naks,
            outcome.timeouts,
            outcome.overflows
        )
    }
}

/// Two ends of a connection.
#[track_caller]
fn connected(link: &mut Link, mtu: u32) -> (Node, Node) {
    let [x, y] = &mut link.nics;
    let (mut a, mut b) = (Node::new(x, 1), Node::new(y, 2));
    let (qa, qb) = (a.qp.number, b.qp.number);
    for (bench, node, peer, remote) in [(&mut *x, &mut a, 2, qb), (&mut *y, &mut b, 1, qa)] {
        let qp = node.qp.number;
        let (mask, given) = to_init();
        node.driver.modify_ok(bench, qp, mask, &given);
        let (mask, mut given) = to_rtr(peer, remote);
        given.path_mtu = (mtu / 128).ilog2() as u8;
        given.responder_resources = DEEP as u8;
        node.driver.modify_ok(bench, qp, mask, &given);
        let (mask, mut given) = to_rts();
        given.initiator_depth = DEEP as u8;
        given.timeout = TIMEOUT.0;
        node.driver.modify_ok(bench, qp, mask, &given);
    }
    y.now = x.now;
    (a, b)
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let both = [WqeOpcode::Write, WqeOpcode::Read];
    for operation in both {
        let round_trips: [(u32, &[u32]); 3] =
            [(4096, &[2, 20, 200]), (1024, &[2, 20, 200]), (256, &[20])];
        for (mtu, round_trips) in round_trips {
            for (round_trip, loss) in round_trips
                .iter()
                .flat_map(|time| [0, 1, 10, 50].map(|loss| (*time, loss)))
            {
                let bottleneck = false;
                cases.push(Case {
                    operation,
                    mtu,
                    round_trip,
                    loss,
                    bottleneck,
                });
            }
        }
    }
    for (operation, mtu, round_trip) in [
        (both[0], 4096, 2),
        (both[0], 4096, 200),
        (both[0], 1024, 2),
        (both[0], 1024, 200),
        (both[1], 4096, 20),
    ] {
        cases.push(Case {
            operation,
            mtu,
            round_trip,
            loss: 0,
            bottleneck: true,
        });
    }
    cases
}

#[test]
fn goodput() {
    let mut table = TITLE.to_owned();
    let mut bottleneck = false;
    for case in cases() {
        if case.bottleneck && !bottleneck {
            bottleneck = true;
            writeln!(table, "\nthrough a bottleneck").unwrap();
        }
        let outcome = case.run();
        let line = case.line(&outcome);
        let share = outcome.goodput / case.average();
        println!("{share:.2} {}", line.trim_end());
        assert!(share > 0.5 && share < 1.2, "far from go-back-N");
        table.push_str(&line);
    }
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        std::fs::write(SNAPSHOT, &table).unwrap();
    }
    let snapshot = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    assert!(
        table == snapshot,
        "differs from {SNAPSHOT}; UPDATE_SNAPSHOT=1 accepts this:\n{table}"
    );
}
