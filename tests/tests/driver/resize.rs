//! Completion queues that are resized and moderated under traffic.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::PathMtu;
use vrnic_driver::{Error, Moderation, Operation, Platform};
use vrnic_tests::wire::Faults;

use crate::pair::{DEPTH, Pair, Place};

/// Writes from A to B while A's queue moves; every completion is seen once, in order.
fn traffic(place: Place, faults: Faults, seed: u64) -> (u64, u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut pair = Pair::new(place, faults, seed, PathMtu::Mtu1024);
    let (mut posted, mut polled, mut moves) = (0u64, 0u64, 0);
    let mut entries = 256;
    while polled < 400 {
        // Never more in flight than the smallest queue holds.
        while posted < 400 && posted - polled < u64::from(DEPTH.min(entries)) {
            let remote = pair.b.remote(0x8000);
            let length = random.random_range(0..3000);
            let write = Operation::Write(remote);
            pair.a.send(posted, write, 0, length).unwrap();
            posted += 1;
        }
        if random.random_bool(0.3) {
            // Rounded up by the driver; what is in flight must fit.
            let wanted = random.random_range(DEPTH..200);
            pair.a.cq.resize(wanted).unwrap();
            entries = pair.a.cq.entries();
            assert_eq!(entries, wanted.next_power_of_two());
            moves += 1;
        }
        if random.random_bool(0.5) {
            let platform = pair.a.driver.platform();
            let until = platform.now() + random.random_range(0..50_000);
            platform.relax(None, until);
        }
        let completions = match random.random_bool(0.5) {
            true => pair.a.poll(),
            false if polled < posted => pair.a.wait(),
            false => Vec::new(),
        };
        for completion in completions {
            assert_eq!(completion.status, CompletionStatus::Success, "seed {seed}");
            assert_eq!(completion.wr_id, polled, "seed {seed}");
            polled += 1;
        }
    }
    assert_eq!(pair.a.poll(), [], "seed {seed}");
    (moves, pair.world.borrow().disturbed())
}

#[test]
fn no_completion_is_lost_while_a_queue_moves() {
    let bad = Faults {
        lose: 20,
        duplicate: 20,
        reorder: 20,
        corrupt: 20,
    };
    let mut moves = 0;
    for seed in 0..6 {
        moves += traffic(Place::Direct, Faults::default(), seed).0;
        moves += traffic(Place::Wire, Faults::default(), seed).0;
        moves += traffic(Place::Wire, bad, seed).0;
    }
    assert!(moves > 200, "{moves} moves");
}

#[test]
fn completions_wait_in_several_rings() {
    let mut pair = Pair::new(Place::Direct, Faults::default(), 1, PathMtu::Mtu1024);
    let remote = pair.b.remote(0x8000);
    let mut posted = 0;
    for entries in [64, 8, 32, 16] {
        for _ in 0..4 {
            pair.a
                .send(posted, Operation::Write(remote), 0, 64)
                .unwrap();
            posted += 1;
        }
        let platform = pair.a.driver.platform();
        platform.relax(None, platform.now() + 1_000_000);
        pair.a.cq.resize(entries).unwrap();
        let found = pair.a.cq.query().unwrap();
        assert_eq!((found.entries, found.base), (entries, posted as u32));
    }
    let mut polled = 0;
    while polled < posted {
        for completion in pair.a.wait() {
            assert_eq!(completion.wr_id, polled);
            polled += 1;
        }
    }
    let beyond = pair.a.cq.resize(u32::MAX);
    assert!(matches!(beyond, Err(Error::BadArgument(_))));
}

#[test]
fn a_moderated_queue_notifies_after_so_many() {
    let mut pair = Pair::new(Place::Direct, Faults::default(), 1, PathMtu::Mtu1024);
    let moderation = Moderation {
        period: 0,
        count: 4,
    };
    pair.a.cq.set_moderation(moderation).unwrap();
    let found = pair.a.cq.query().unwrap();
    assert_eq!((found.moderation_count, found.moderation_period), (4, 0));
    let remote = pair.b.remote(0x8000);
    let vector = pair.a.cq.vector();
    pair.a.cq.arm(false).unwrap();
    let before = pair.a.cq.notifications();
    for wr_id in 0..4 {
        pair.a.driver.handle_interrupt(vector);
        assert_eq!(pair.a.cq.notifications(), before, "after {wr_id}");
        pair.a.send(wr_id, Operation::Write(remote), 0, 64).unwrap();
        let platform = pair.a.driver.platform();
        platform.relax(None, platform.now() + 1_000_000);
    }
    pair.a.driver.handle_interrupt(vector);
    assert_eq!(pair.a.cq.notifications(), before + 1);
    assert_eq!(pair.a.poll().len(), 4);
}
