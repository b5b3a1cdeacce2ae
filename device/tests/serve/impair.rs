//! A link that is bad on purpose: data still arrives, and both ends count what was done to it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use vrnic_abi::counter::Counter;
use vrnic_driver::Driver;
use vrnic_driver_vfio::HostPlatform;

use crate::endpoint::{Endpoint, Kind, Retries, exchange, open, pair, transfer};
use crate::frames::{self, Frames};
use crate::modes::link_is_up;
use crate::process::{Nic, directory};

/// The path MTU is 4096: nine packets. PSNs count up from 0xfffff0.
const LENGTH: usize = 33_333;

/// Two processes on a link, each with arguments of its own.
struct Two {
    nics: [Nic; 2],
    drivers: [Arc<Driver<HostPlatform>>; 2],
}

impl Two {
    #[track_caller]
    fn start(dir: &Path, a: &[&str], b: &[&str]) -> Self {
        let nic = |name: &str, link: &str, more: &[&str]| {
            Nic::start(dir, &[name], &[&["--link", link], more].concat())
        };
        let nics = [nic("a", "shm:listen=l", a), nic("b", "shm:connect=l", b)];
        let drivers = [1, 2].map(|number| open(nics[usize::from(number) - 1].socket(0), number));
        drivers.iter().for_each(link_is_up);
        Self { nics, drivers }
    }

    #[track_caller]
    fn pair(&self) -> (Endpoint<HostPlatform>, Endpoint<HostPlatform>) {
        pair(&self.drivers[0], &self.drivers[1], Retries::Long)
    }

    #[track_caller]
    fn counter(&self, side: usize, counter: Counter) -> u64 {
        self.drivers[side].counters().unwrap().get(counter)
    }

    /// Ends both processes.
    #[track_caller]
    fn stop(self) {
        drop(self.drivers);
        self.nics.into_iter().for_each(Nic::stop);
    }
}

/// The number before `word` in what a process said at its end about one direction.
#[track_caller]
fn said(dir: &Path, name: &str, direction: &str, word: &str) -> u64 {
    let log = std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap();
    let start = format!("impaired {direction}, seed ");
    let report = log.lines().find_map(|line| line.split_once(&start));
    let (_, report) = report.unwrap_or_else(|| panic!("no {start:?} in {log}"));
    let (before, _) = report.split_once(word).unwrap();
    let number = before.split_whitespace().next_back().unwrap();
    number.parse().unwrap()
}

/// Packets of a capture with this opcode and PSN.
fn count(path: &Path, opcode: u8, psn: u32) -> usize {
    let Frames { frames, lost } = frames::read(path);
    assert_eq!(lost, 0);
    let hit = |frame: &&Vec<u8>| frame[42] == opcode && frame[51..54] == psn.to_be_bytes()[1..];
    frames.iter().filter(hit).count()
}

#[test]
fn exact_events_are_what_the_nics_count() {
    let dir = directory();
    let a = [
        "--impair-event",
        "tx:dup psn=0xfffffb of opcode write_middle",
        "--impair-event",
        "tx:corrupt psn=0xfffffd opcode=write_middle",
        "--impair-event",
        "tx:drop psn=0xfffff9..1 qp=0 always",
        "--capture",
        "a.pcapng",
    ];
    let b = [
        "--impair-event",
        "rx:drop psn=0xfffff2 opcode=write_middle once",
        "--capture",
        "b.pcapng",
    ];
    let two = Two::start(dir.path(), &a, &b);
    let (mut near, mut far) = two.pair();
    let mut rng = SmallRng::seed_from_u64(11);

    transfer(&mut near, &mut far, Kind::Write, LENGTH, &mut rng);
    assert_eq!(two.counter(1, Counter::TxSeqNak), 1, "for the loss");
    assert_eq!(two.counter(0, Counter::PacketSeqErr), 1);
    assert_eq!(two.counter(1, Counter::DuplicateRequest), 0);
    assert_eq!(two.counter(1, Counter::RxIcrcEncapsulated), 0);

    transfer(&mut near, &mut far, Kind::Write, LENGTH, &mut rng);
    assert_eq!(two.counter(1, Counter::DuplicateRequest), 1);
    assert_eq!(two.counter(1, Counter::RxIcrcEncapsulated), 1);
    assert_eq!(
        two.counter(1, Counter::TxSeqNak),
        2,
        "for the corruption, too"
    );
    assert_eq!(two.counter(0, Counter::PacketSeqErr), 2);
    assert_eq!(two.counter(0, Counter::LocalAckTimeoutErr), 0);

    drop((near, far));
    two.stop();
    let said = |name, direction, word| said(dir.path(), name, direction, word);
    assert_eq!(said("a", "tx", "dropped"), 0);
    assert_eq!(said("a", "tx", "duplicated"), 1);
    assert_eq!(said("a", "tx", "corrupted"), 1);
    assert_eq!(said("b", "rx", "dropped"), 1);
    let log = std::fs::read_to_string(dir.path().join("a.log")).unwrap();
    let idle = "no tx packet was hit by the event 'drop psn=16777209..1 qp=0 always'";
    assert!(log.contains(idle), "{log}");
    // Captures stand between NIC and impairment: the lost packet was sent twice and came once.
    assert_eq!(count(&dir.path().join("a.pcapng"), 7, 0xff_fff2), 2);
    assert_eq!(count(&dir.path().join("b.pcapng"), 7, 0xff_fff2), 1);
    // The duplicate was made behind the sender's capture.
    assert_eq!(count(&dir.path().join("a.pcapng"), 7, 0xff_fffb), 1);
    assert_eq!(count(&dir.path().join("b.pcapng"), 7, 0xff_fffb), 2);
}

#[test]
fn data_arrives_over_a_link_that_loses_and_disorders() {
    let dir = directory();
    let bad = "drop=1%,dup=1%,reorder=1%,corrupt=0.5%,delay=20us,seed=5";
    let two = Two::start(dir.path(), &["--impair", bad], &[]);
    let (mut a, mut b) = two.pair();
    let mut rng = SmallRng::seed_from_u64(12);
    for _ in 0..16 {
        for kind in [Kind::Write, Kind::Read, Kind::Send] {
            transfer(&mut a, &mut b, kind, 262_144, &mut rng);
        }
    }
    exchange(&mut a, &mut b, &mut rng);
    let received = two.counter(0, Counter::PortRcvPackets);
    let retransmits = two.counter(0, Counter::TxRetransmits);
    drop((a, b));
    two.stop();
    let said = |direction, word| said(dir.path(), "a", direction, word);
    let log = std::fs::read_to_string(dir.path().join("a.log")).unwrap();
    for direction in ["tx", "rx"] {
        let start = format!("impaired {direction}, seed 5: ");
        assert!(log.contains(&start), "{log}");
        for word in ["dropped", "duplicated", "reordered", "corrupted"] {
            assert!(said(direction, word) > 0, "{direction} {word}");
        }
        let lost = said(direction, "dropped");
        let (frames, doubled) = (said(direction, "frames"), said(direction, "duplicated"));
        assert_eq!(
            said(direction, "delayed"),
            frames + doubled - lost,
            "{direction}"
        );
    }
    assert!(retransmits > 0);
    // What the wire let through reached the NIC; a flipped bit may have made a frame somebody else's.
    let through = said("rx", "delayed");
    assert!(received <= through && through - received <= said("rx", "corrupted"));
}

#[test]
fn a_delay_is_kept_while_the_engine_sleeps() {
    let dir = directory();
    let two = Two::start(dir.path(), &["--impair", "delay=30ms"], &[]);
    let (mut a, mut b) = two.pair();
    let mut rng = SmallRng::seed_from_u64(13);
    for _ in 0..5 {
        let start = Instant::now();
        transfer(&mut a, &mut b, Kind::Write, 100, &mut rng);
        // The request and its acknowledgement; no wake-up but the timer brings either.
        assert!(start.elapsed() >= Duration::from_millis(60));
    }
    assert_eq!(two.counter(0, Counter::TxRetransmits), 0);
    drop((a, b));
    two.stop();
}

#[test]
fn functions_of_one_process_are_not_on_the_link() {
    let dir = directory();
    for more in [&[][..], &["--no-direct"]] {
        let arguments = ["--link", "shm:listen=l", "--impair", "drop=100%"];
        let nic = Nic::start(dir.path(), &["a", "b"], &[&arguments, more].concat());
        let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
        let (mut a, mut b) = pair(&a, &b, Retries::Long);
        exchange(&mut a, &mut b, &mut SmallRng::seed_from_u64(14));
        drop((a, b));
        nic.stop();
    }
}
