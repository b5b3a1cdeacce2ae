//! The reliable connected transport under random work over a bad wire.
//!
//! Every message has source and target of its own, so that the memory of both ends can be computed
//! before anything is sent; afterwards all of it is compared, bytes that nobody should have written
//! included. `RC_SEED=n` runs one seed.

use std::collections::BTreeMap;

use crate::bench::*;
use vrnic_abi::counter::Counter;
use vrnic_firmware::pdu::{AtomicOperation, SendTail};
use vrnic_firmware::transport::{Modify, ReceiveKind, ReceiveWork, SendOperation, SendWork};
use vrnic_firmware::types::{Mtu, Outcome, Sge, State, Time};

/// Bytes of memory of each end.
const MEMORY: usize = 1 << 20;
/// Of which the last are only read by the peer.
const LIBRARY: u64 = 256 << 10;
/// Bytes that nobody writes, between any two buffers.
const GUARD: u64 = 16;

/// What one end is to do, and what must come of it.
#[derive(Default)]
struct Plan {
    sends: Vec<(SendWork, u32)>,
    receives: Vec<ReceiveWork>,
    /// Completions of the receives that the peer's messages take.
    received: Vec<(u32, ReceiveKind, bool)>,
    /// Memory at the end.
    memory: Vec<u8>,
    next_free: u64,
    counter: u64,
}

impl Plan {
    fn new(random: &mut Random) -> Self {
        let mut memory = vec![PATTERN; MEMORY];
        for byte in &mut memory[MEMORY - LIBRARY as usize..] {
            *byte = random.next() as u8;
        }
        Self {
            memory,
            next_free: 64,
            ..Self::default()
        }
    }

    fn allocate(&mut self, length: u32) -> u64 {
        let at = self.next_free;
        self.next_free += u64::from(length) + GUARD;
        assert!(
            self.next_free < MEMORY as u64 - LIBRARY,
            "the test is too large"
        );
        at
    }

    /// Buffers of `length` bytes together.
    fn scatter(&mut self, random: &mut Random, length: u32) -> Vec<Sge> {
        let mut sges = Vec::new();
        let mut left = length;
        for _ in 0..random.below(4) {
            let take = random.below(u64::from(left) + 1) as u32;
            sges.push(sge(self.allocate(take), take));
            left -= take;
        }
        sges.push(sge(self.allocate(left), left));
        sges
    }

    fn fill(&mut self, random: &mut Random, sges: &[Sge]) -> Vec<u8> {
        let mut data = Vec::new();
        for sge in sges {
            let at = (sge.address - BASE) as usize;
            for byte in &mut self.memory[at..at + sge.length as usize] {
                *byte = random.next() as u8;
                data.push(*byte);
            }
        }
        data
    }

    fn store(&mut self, sges: &[Sge], mut data: &[u8]) {
        for sge in sges {
            let at = (sge.address - BASE) as usize;
            let take = data.len().min(sge.length as usize);
            self.memory[at..at + take].copy_from_slice(&data[..take]);
            data = &data[take..];
        }
    }
}

fn length(random: &mut Random) -> u32 {
    match random.below(10) {
        0 => 0,
        1..=4 => random.below(300) as u32,
        5..=8 => random.below(5000) as u32,
        _ => random.below(65537) as u32,
    }
}

/// Adds one operation of end `from`.
fn plan_operation(plans: &mut [Plan; 2], from: usize, random: &mut Random) {
    let to = 1 - from;
    let cookie = plans[from].sends.len() as u64;
    let mut bytes = length(random);
    let fence = random.percent(10);
    let solicited = random.percent(30);
    let mut work = SendWork {
        fence,
        solicited,
        ..work(cookie, SendOperation::Nop, 0, 0)
    };
    match random.below(10) {
        0 => work.sges.clear(),
        kind @ 1..=5 => {
            let inline = bytes > 0 && bytes < 400 && random.percent(50);
            let data: Vec<u8>;
            if inline {
                data = (0..bytes).map(|_| random.next() as u8).collect();
                work.inline = data.iter().copied().collect();
                work.sges.clear();
            } else {
                let sges = plans[from].scatter(random, bytes);
                data = plans[from].fill(random, &sges);
                work.sges = sges.into_iter().collect();
            }
            let immediate = random.next() as u32;
            if kind <= 3 {
                let tail = if random.percent(50) {
                    SendTail::Immediate(immediate)
                } else {
                    SendTail::None
                };
                work.operation = SendOperation::Send(tail);
                let spare = random.below(20) as u32;
                let sges = plans[to].scatter(random, bytes + spare);
                plans[to].store(&sges, &data);
                plan_receive(&mut plans[to], sges);
                plans[to]
                    .received
                    .push((bytes, ReceiveKind::Send(tail), solicited));
            } else {
                let immediate = Some(immediate).filter(|_| random.percent(50));
                let target = plans[to].allocate(bytes);
                plans[to].store(&[sge(target, bytes)], &data);
                work.operation = SendOperation::Write {
                    address: BASE + target,
                    rkey: KEY,
                    immediate,
                };
                if let Some(immediate) = immediate {
                    let small = plans[to].scatter(random, 3);
                    plan_receive(&mut plans[to], small);
                    plans[to]
                        .received
                        .push((bytes, ReceiveKind::Write(immediate), solicited));
                }
            }
        }
        6..=7 => {
            let most = LIBRARY - u64::from(bytes);
            let source = MEMORY as u64 - LIBRARY + random.below(most);
            work.operation = read_operation(source);
            let data = plans[to].memory[source as usize..][..bytes as usize].to_vec();
            let sges = plans[from].scatter(random, bytes);
            plans[from].store(&sges, &data);
            work.sges = sges.into_iter().collect();
        }
        _ => {
            bytes = 8;
            let (operation, original) = plan_atomic(&mut plans[to], random);
            work.operation = SendOperation::Atomic {
                address: BASE + 8,
                rkey: KEY,
                operation,
            };
            let sges = plans[from].scatter(random, 8);
            plans[from].store(&sges, &original.to_le_bytes());
            work.sges = sges.into_iter().collect();
        }
    }
    if work.sges.is_empty() && work.inline.is_empty() {
        bytes = 0;
    }
    plans[from].sends.push((work, bytes));
}

fn plan_receive(plan: &mut Plan, sges: Vec<Sge>) {
    plan.receives.push(ReceiveWork {
        domain: vrnic_firmware::transport::Domain::default(),
        cookie: plan.receives.len() as u64,
        sges: sges.into_iter().collect(),
        invalid: None,
    });
}

/// An operation on the number at offset 8, and what it returns.
fn plan_atomic(plan: &mut Plan, random: &mut Random) -> (AtomicOperation, u64) {
    let original = plan.counter;
    let operation = if random.percent(50) {
        AtomicOperation::FetchAdd(random.below(1000))
    } else {
        let compare = original + random.below(2);
        AtomicOperation::CompareSwap {
            compare,
            swap: random.next(),
        }
    };
    plan.counter = match operation {
        AtomicOperation::FetchAdd(add) => original.wrapping_add(add),
        AtomicOperation::CompareSwap { compare, swap } if compare == original => swap,
        AtomicOperation::CompareSwap { .. } => original,
    };
    plan.memory[8..16].copy_from_slice(&plan.counter.to_le_bytes());
    (operation, original)
}

/// Moves a random number of planned requests into the work queues.
fn post(pair: &mut Pair, rest: &mut [(Vec<SendWork>, Vec<ReceiveWork>); 2]) {
    for (end, (sends, receives)) in rest.iter_mut().enumerate() {
        let solo = &mut pair.ends[end];
        let count = (pair.random.below(5) as usize).min(sends.len());
        solo.node.sends.extend(sends.drain(..count));
        let count = (pair.random.below(4) as usize).min(receives.len());
        solo.node.receives.extend(receives.drain(..count));
        solo.qp.post_notify();
    }
}

fn run(seed: u64, burst: u32, faults: Faults) -> BTreeMap<Counter, u64> {
    let mut random = Random(seed);
    let mtus = [Mtu::B256, Mtu::B512, Mtu::B1024, Mtu::B2048, Mtu::B4096];
    let near_wrap = |random: &mut Random| 0xff_ffff - random.below(200) as u32;
    let setup = Setup {
        mtu: mtus[random.below(5) as usize],
        send_psn: near_wrap(&mut random),
        receive_psn: near_wrap(&mut random),
        depth: 1 + random.below(4) as u8,
        resources: 4,
        retry_count: 7,
        rnr_retry: 7,
        min_rnr_timer: 1 + random.below(10) as u8,
        timeout: 7 + random.below(3) as u8,
        burst,
        memory: MEMORY,
        ..Setup::default()
    };
    let mut plans = [Plan::new(&mut random), Plan::new(&mut random)];
    for plan in &mut plans {
        plan.memory[8..16].fill(0);
    }
    let operations = 1 + random.below(24);
    for _ in 0..operations {
        plan_operation(&mut plans, random.below(2) as usize, &mut random);
    }
    let mut pair = Pair::new(random.next(), setup, faults);
    let mut rest = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for (end, plan) in plans.iter().enumerate() {
        pair.ends[end].node.memory = plan_start(plan, &plans[1 - end]);
        rest[end].0 = plan.sends.iter().map(|(work, _)| work.clone()).collect();
        rest[end].1 = plan.receives.clone();
    }
    drive(&mut pair, &mut rest);
    for (end, plan) in plans.iter().enumerate() {
        check(&pair.ends[end], plan);
    }
    let mut counters = BTreeMap::new();
    for (&counter, n) in pair.ends.iter().flat_map(|end| &end.node.counters) {
        *counters.entry(counter).or_default() += n;
    }
    counters
}

/// Memory at the start: sources are filled, targets are not.
fn plan_start(plan: &Plan, _peer: &Plan) -> Vec<u8> {
    let mut memory = vec![PATTERN; MEMORY];
    memory[8..16].fill(0);
    let library = MEMORY - LIBRARY as usize;
    memory[library..].copy_from_slice(&plan.memory[library..]);
    for (work, _) in &plan.sends {
        if matches!(
            work.operation,
            SendOperation::Send(_) | SendOperation::Write { .. }
        ) {
            for sge in &work.sges {
                let at = (sge.address - BASE) as usize;
                let end = at + sge.length as usize;
                memory[at..end].copy_from_slice(&plan.memory[at..end]);
            }
        }
    }
    memory
}

fn drive(pair: &mut Pair, rest: &mut [(Vec<SendWork>, Vec<ReceiveWork>); 2]) {
    for _ in 0..200_000 {
        let more = rest
            .iter()
            .any(|(sends, receives)| !(sends.is_empty() && receives.is_empty()));
        if more && pair.random.percent(5) {
            post(pair, rest);
        }
        pair.poll();
        match pair.next_event() {
            Some(at) => pair.advance(at),
            None if more => {
                let later = Time(pair.now.0 + 10_000);
                pair.advance(later);
                post(pair, rest);
            }
            None => return,
        }
    }
    panic!("no end after {} deliveries", pair.delivered);
}

#[track_caller]
fn check(end: &Solo, plan: &Plan) {
    assert_eq!(end.qp.state(), State::Rts);
    let sent: Vec<_> = plan
        .sends
        .iter()
        .map(|(work, bytes)| (work.cookie, Outcome::Success, *bytes))
        .collect();
    assert_eq!(end.node.sent, sent);
    assert_eq!(end.node.received.len(), plan.received.len());
    for (index, (got, (bytes, kind, solicited))) in
        end.node.received.iter().zip(&plan.received).enumerate()
    {
        assert_eq!(got.cookie, index as u64);
        assert_eq!(got.outcome, Outcome::Success);
        assert_eq!(
            (got.bytes, got.kind, got.solicited),
            (*bytes, *kind, *solicited)
        );
    }
    assert!(end.node.handed.is_empty() && end.node.receives_handed.is_empty());
    assert!(end.node.sends.is_empty() && end.node.receives.is_empty());
    assert!(!end.qp.has_work() && end.qp.deadline().is_none());
    if let Some(at) = (0..MEMORY).find(|&at| end.node.memory[at] != plan.memory[at]) {
        panic!("memory differs at {at:#x}");
    }
}

/// Random work during which one end loses its memory region, its DMA or its nerve: every request
/// must end once and in order, and guards stay untouched.
fn run_broken(seed: u64, burst: u32, faults: Faults) {
    let mut random = Random(seed);
    let setup = Setup {
        timeout: 4,
        min_rnr_timer: 2,
        retry_count: 2,
        burst,
        memory: MEMORY,
        ..Setup::default()
    };
    let mut plans = [Plan::new(&mut random), Plan::new(&mut random)];
    for _ in 0..30 {
        plan_operation(&mut plans, random.below(2) as usize, &mut random);
    }
    let mut pair = Pair::new(random.next(), setup, faults);
    for (end, plan) in plans.iter().enumerate() {
        pair.ends[end].node.memory = plan_start(plan, &plans[1 - end]);
        let works = plan.sends.iter().map(|(work, _)| work.clone());
        pair.ends[end].node.sends.extend(works);
        pair.ends[end].node.receives.extend(plan.receives.clone());
        pair.ends[end].qp.post_notify();
    }
    let (victim, when) = (random.below(2) as usize, random.below(60));
    for step in 0.. {
        assert!(step < 100_000, "no end");
        if step == when {
            let end = &mut pair.ends[victim];
            match random.below(4) {
                0 => end.node.regions.clear(),
                1 => end.node.dma_limit = 0,
                2 => end.node.lost_source = true,
                _ => end.modify(Modify::to(State::Error)).unwrap(),
            }
        }
        pair.poll();
        match pair.next_event() {
            Some(at) => pair.advance(at),
            None if step > when => break,
            None => {}
        }
    }
    for (end, plan) in plans.iter().enumerate() {
        check_broken(&pair.ends[end], plan);
    }
}

#[track_caller]
fn check_broken(end: &Solo, plan: &Plan) {
    let sent = &end.node.sent;
    assert_eq!(sent.len(), plan.sends.len());
    assert!((0..).zip(sent).all(|(index, done)| done.0 == index));
    let outcomes: Vec<_> = sent.iter().map(|done| done.1).collect();
    let good = outcomes
        .iter()
        .take_while(|&&o| o == Outcome::Success)
        .count();
    let flushed = outcomes
        .iter()
        .skip(good + 1)
        .all(|&o| o == Outcome::Flushed);
    assert!(flushed, "one error at most: {outcomes:?}");
    let error = end.qp.state() == State::Error;
    assert_eq!(good < outcomes.len(), error && good < outcomes.len());
    assert!(end.node.handed.is_empty() && !end.qp.has_work());
    if error {
        assert_eq!(end.node.received.len(), plan.receives.len());
        assert!(end.node.receives_handed.is_empty());
    }
    // Bytes that the plan leaves alone are still what they were.
    let at = (16..MEMORY).find(|&at| plan.memory[at] == PATTERN && end.node.memory[at] != PATTERN);
    assert_eq!(at, None, "a guard was overwritten");
}

/// Runs seeds, names the one that fails, and makes sure that the faults did what they are for.
#[track_caller]
fn seeds(count: u64, burst: u32, faults: Faults, mechanisms: &[Counter]) {
    let chosen = std::env::var("RC_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let range = chosen.map_or(0..count, |seed: u64| seed..seed + 1);
    let mut total: BTreeMap<Counter, u64> = BTreeMap::new();
    for seed in range {
        match std::panic::catch_unwind(|| run(seed, burst, faults)) {
            Ok(counters) => {
                for (counter, n) in counters {
                    *total.entry(counter).or_default() += n;
                }
            }
            Err(panic) => {
                eprintln!("seed {seed}, burst {burst}, {faults:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    for counter in mechanisms.iter().filter(|_| chosen.is_none()) {
        assert!(
            total.contains_key(counter),
            "{counter:?} never happened: {total:?}"
        );
    }
}

const BAD: Faults = Faults {
    loss: 5,
    duplication: 5,
    jitter: 0,
    marks: 0,
};

const REPAIRS: &[Counter] = &[
    Counter::PacketSeqErr,
    Counter::OutOfSequence,
    Counter::DuplicateRequest,
    Counter::OutOfBuffer,
    Counter::LocalAckTimeoutErr,
    Counter::ImpliedNakSeqErr,
    Counter::TxRetransmits,
    Counter::TxRnrNak,
    Counter::TxSeqNak,
];

#[test]
fn over_a_perfect_wire() {
    seeds(100, 1, Faults::default(), &[Counter::TxRnrNak]);
}

#[test]
fn over_a_wire_that_loses() {
    seeds(100, 1, BAD, REPAIRS);
}

#[test]
fn over_a_wire_that_loses_much() {
    seeds(50, 1, Faults { loss: 10, ..BAD }, REPAIRS);
}

#[test]
fn over_a_wire_that_reorders() {
    let jitter = Faults {
        loss: 0,
        duplication: 10,
        jitter: 3_000,
        marks: 0,
    };
    seeds(
        100,
        1,
        jitter,
        &[Counter::TxSeqNak, Counter::ImpliedNakSeqErr],
    );
}

#[test]
fn over_a_wire_that_does_everything() {
    let jitter = 20_000;
    seeds(100, 1, Faults { jitter, ..BAD }, REPAIRS);
}

#[test]
fn over_a_wire_that_marks() {
    let marks = Faults {
        marks: 30,
        ..Faults::default()
    };
    let told = [Counter::NpCnpSent, Counter::RpCnpHandled];
    seeds(100, 1, marks, &told);
    seeds(
        100,
        1,
        Faults {
            jitter: 20_000,
            marks: 30,
            ..BAD
        },
        REPAIRS,
    );
    seeds(50, 16, Faults { marks: 10, ..BAD }, &told);
}

#[test]
fn in_bursts_over_a_perfect_path() {
    seeds(100, 64, Faults::default(), &[Counter::TxRnrNak]);
}

#[test]
fn in_bursts_over_a_path_that_does_everything() {
    let jitter = 20_000;
    seeds(100, 16, Faults { jitter, ..BAD }, REPAIRS);
}

#[test]
fn while_one_end_breaks() {
    for seed in 0..150 {
        let faults = if seed % 2 == 0 {
            Faults::default()
        } else {
            Faults { marks: 10, ..BAD }
        };
        let burst = if seed % 3 == 0 { 1 } else { 32 };
        if let Err(panic) = std::panic::catch_unwind(|| run_broken(seed, burst, faults)) {
            eprintln!("seed {seed}, burst {burst}, {faults:?}");
            std::panic::resume_unwind(panic);
        }
    }
}
