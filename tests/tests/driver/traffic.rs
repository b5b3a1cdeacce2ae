//! Random work over a bad wire: every byte where it belongs, once, and completions in order.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::PathMtu;
use vrnic_driver::Operation;
use vrnic_tests::wire::Faults;

use crate::pair::{DEPTH, Pair, Place, SIZE, Side};

const BAD: Faults = Faults {
    lose: 20,
    duplicate: 20,
    reorder: 20,
    corrupt: 20,
};

/// A quarter of the memory: what A sends or writes from, what it reads into, and the same at B.
const PART: usize = SIZE / 2;

/// What a work request of A's is to bring about.
struct Expected {
    /// Where in the target's memory.
    offset: usize,
    data: Vec<u8>,
    /// In A's memory, for READ.
    at_a: bool,
}

fn random_bytes(random: &mut SmallRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(bytes.as_mut_slice());
    bytes
}

/// Posts a random request of A's that touches only slot `slot` of either side's memory.
fn post(pair: &mut Pair, random: &mut SmallRng, wr_id: u64, slot: usize) -> (Expected, bool) {
    let room = PART / DEPTH as usize;
    let length = match random.random_range(0..4) {
        0 => 0,
        1 => random.random_range(1..=64),
        _ => random.random_range(1..=room - 64),
    };
    let source = slot * room + random.random_range(0..64);
    let target = PART + slot * room + random.random_range(0..64);
    let data = random_bytes(random, length);
    let kind = random.random_range(0..5);
    let (read, receives) = (kind == 4, matches!(kind, 0 | 1 | 3));
    let size = length as u32;
    if receives {
        let buffer = (room - (target - PART) % room) as u32;
        pair.b.receive(wr_id, target, buffer).unwrap();
    }
    let (from, to): (&Side, &Side) = if read {
        (&pair.b, &pair.a)
    } else {
        (&pair.a, &pair.b)
    };
    from.fill(source, &data);
    to.fill(PART + slot * room, &vec![0xa5; room]);
    let remote = pair.b.remote(target);
    let operation = match kind {
        0 => Operation::Send,
        1 => Operation::SendImmediate(wr_id as u32),
        2 => Operation::Write(remote),
        3 => Operation::WriteImmediate(remote, wr_id as u32),
        _ => Operation::Read(pair.b.remote(source)),
    };
    let local = if read { target } else { source };
    pair.a.send(wr_id, operation, local, size).unwrap();
    let expected = Expected {
        offset: target,
        data,
        at_a: read,
    };
    (expected, receives)
}

#[track_caller]
fn check(pair: &Pair, slot: usize, expected: &Expected, seed: u64) {
    let room = PART / DEPTH as usize;
    let side = if expected.at_a { &pair.a } else { &pair.b };
    let found = side.bytes(PART + slot * room, room);
    let start = expected.offset - PART - slot * room;
    let end = start + expected.data.len();
    assert!(
        found[start..end] == expected.data,
        "seed {seed}: wrong data"
    );
    let guards = found[..start].iter().chain(&found[end..]);
    assert!(
        guards.copied().all(|byte| byte == 0xa5),
        "seed {seed}: bytes beside the data"
    );
}

/// Rounds of up to DEPTH requests each; returns what the run was like, to compare.
fn run(place: Place, faults: Faults, seed: u64, rounds: usize) -> (u64, u64, u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mtus = [
        PathMtu::Mtu256,
        PathMtu::Mtu512,
        PathMtu::Mtu1024,
        PathMtu::Mtu2048,
        PathMtu::Mtu4096,
    ];
    let mtu = mtus[random.random_range(0..mtus.len())];
    let mut pair = Pair::new(place, faults, seed, mtu);
    for round in 0..rounds {
        let count = random.random_range(1..=DEPTH as usize);
        let ids = (0..count).map(|slot| (round * 100 + slot) as u64);
        let posted: Vec<_> = ids
            .enumerate()
            .map(|(slot, id)| (id, post(&mut pair, &mut random, id, slot)))
            .collect();
        let receives = posted.iter().filter(|(_, (_, receives))| *receives);
        let receives: Vec<_> = receives.map(|(id, _)| *id).collect();
        await_in_order(
            &mut pair.a,
            posted.iter().map(|(id, _)| *id).collect(),
            seed,
        );
        await_in_order(&mut pair.b, receives, seed);
        for (slot, (_, (expected, _))) in posted.iter().enumerate() {
            check(&pair, slot, expected, seed);
        }
    }
    let world = pair.world.borrow();
    (world.now(), world.steps, world.disturbed())
}

#[track_caller]
fn await_in_order(side: &mut Side, ids: Vec<u64>, seed: u64) {
    let mut done = Vec::new();
    while done.len() < ids.len() {
        for completion in side.wait() {
            assert_eq!(
                completion.status,
                CompletionStatus::Success,
                "seed {seed}: {completion:?}"
            );
            done.push(completion.wr_id);
        }
    }
    assert_eq!(
        done, ids,
        "seed {seed}: completions are not those of the requests, in order"
    );
    assert_eq!(side.poll(), [], "seed {seed}: a completion too many");
}

#[test]
fn a_good_wire_carries_everything() {
    for seed in 0..4 {
        run(Place::Wire, Faults::default(), seed, 4);
    }
}

#[test]
fn a_bad_wire_carries_everything() {
    let disturbed: u64 = (0..40).map(|seed| run(Place::Wire, BAD, seed, 2).2).sum();
    assert!(disturbed > 200, "the wire was bad: {disturbed} frames");
}

#[test]
fn the_direct_path_carries_everything() {
    for seed in 0..20 {
        run(Place::Direct, Faults::default(), seed, 4);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(Place::Wire, BAD, 7, 2), run(Place::Wire, BAD, 7, 2));
}

/// A adds to a counter of B's, and is told what it was before: each operation must take effect
/// exactly once, however often its packets arrive.
fn atomics(place: Place, faults: Faults, seed: u64) {
    let mut pair = Pair::new(place, faults, seed, PathMtu::Mtu1024);
    let (counter, result) = (512, 1024);
    pair.b.fill(counter, &1000_u64.to_le_bytes());
    for round in 0..20_u64 {
        let remote = pair.b.remote(counter);
        for slot in 0..4 {
            let add = Operation::FetchAdd {
                remote,
                add: slot + 1,
            };
            let at = result + 8 * slot as usize;
            pair.a.send(slot, add, at, 8).unwrap();
        }
        let compare = 1010 + 10 * round;
        // Holds after the four additions, and undoes nothing.
        let swap = Operation::CompareSwap {
            remote,
            compare,
            swap: compare,
        };
        pair.a.send(4, swap, result + 32, 8).unwrap();
        await_in_order(&mut pair.a, (0..5).collect(), seed);
        let found = pair.a.bytes(result, 40);
        let found: Vec<_> = found
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let before = 1000 + 10 * round;
        let expected = [before, before + 1, before + 3, before + 6, before + 10];
        assert_eq!(found, expected, "seed {seed}, round {round}");
    }
    assert_eq!(
        pair.b.bytes(counter, 8),
        1200_u64.to_le_bytes(),
        "seed {seed}"
    );
}

#[test]
fn atomics_take_effect_exactly_once() {
    atomics(Place::Direct, Faults::default(), 0);
    for seed in 0..40 {
        atomics(Place::Wire, BAD, seed);
    }
}
