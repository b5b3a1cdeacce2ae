//! Resets in the middle of traffic, and what the peer sees of them.

use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::{PathMtu, QpState};
use vrnic_driver::{Completion, Error, Health, Operation};
use vrnic_tests::wire::{DELAY, Faults};

use crate::pair::{Pair, Place, Side};

/// B streams to A, so that there is work in flight; nothing is waited for.
#[track_caller]
fn traffic(pair: &mut Pair, place: Place) {
    for id in 0..8 {
        let remote = pair.a.remote(0);
        pair.b
            .send(id, Operation::Write(remote), 0, 64 << 10)
            .unwrap();
        let remote = pair.b.remote(0);
        pair.a
            .send(id, Operation::Read(remote), 0, 64 << 10)
            .unwrap();
    }
    // Long enough for the first packets to be on the wire, too short for an answer. The direct
    // path takes no time at all: there, nothing has been done yet.
    if place == Place::Wire {
        let soon = pair.world.borrow().now() + DELAY * 3 / 2;
        pair.world.borrow_mut().advance(soon, || false);
    }
}

#[track_caller]
fn transfer(pair: &mut Pair) {
    pair.a.fill(100, b"after the reset");
    let remote = pair.b.remote(200);
    pair.a.send(9, Operation::Write(remote), 100, 15).unwrap();
    let completions = pair.a.wait();
    assert_eq!(completions.len(), 1);
    assert_eq!(completions[0].status, CompletionStatus::Success);
    assert_eq!(pair.b.bytes(200, 15), b"after the reset");
}

/// All of a side's work requests have ended, the first by exhausted retries.
#[track_caller]
fn ends_by_retries(side: &mut Side) {
    let mut statuses = Vec::new();
    while statuses.len() < 8 {
        statuses.extend(side.wait().into_iter().map(|completion| completion.status));
    }
    let first = statuses
        .iter()
        .position(|status| *status != CompletionStatus::Success);
    let (_, rest) = statuses.split_at(first.unwrap());
    assert_eq!(rest[0], CompletionStatus::RetryExceeded);
    assert!(
        rest[1..]
            .iter()
            .all(|status| *status == CompletionStatus::Flushed)
    );
}

#[track_caller]
fn comes_back(place: Place, reset: impl Fn(&Side)) {
    let mut pair = Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024);
    traffic(&mut pair, place);
    reset(&pair.a);
    ends_by_retries(&mut pair.b);
    let Pair { world, a, mut b } = pair;
    a.driver.recover().unwrap();
    assert_eq!(
        a.qp.query(),
        Err(Error::Stale),
        "objects do not survive a reset"
    );
    let a = a.renew();
    b.qp.modify_state(vrnic_abi::object::QpState::Reset)
        .unwrap();
    b.qp.to_init(vrnic_abi::admin::AccessFlags::REMOTE_WRITE)
        .unwrap();
    let mut pair = Pair { world, a, b };
    pair.connect();
    transfer(&mut pair);
}

#[test]
fn the_bus_resets_a_function_under_traffic() {
    comes_back(Place::Wire, |a| a.driver.platform().bus_reset());
    comes_back(Place::Direct, |a| a.driver.platform().bus_reset());
}

#[test]
fn the_driver_resets_a_function_under_traffic() {
    // On the direct path all would be done by the driver's first look at a register.
    comes_back(Place::Wire, |a| a.driver.recover().unwrap());
}

/// A polls, sleeping between events, until it has seen the end of `count` requests.
#[track_caller]
fn ends(side: &mut Side, count: usize) -> Vec<(u64, CompletionStatus)> {
    let mut found = Vec::new();
    loop {
        let mut completions = [Completion::default(); 3];
        while let Ok(some @ 1..) = side.cq.poll(&mut completions) {
            found.extend(completions[..some].iter().map(|c| (c.wr_id, c.status)));
        }
        if found.len() >= count {
            return found;
        }
        if !side.cq.arm(false).unwrap() {
            let events = side.driver.platform().take_completion_events();
            assert!(
                !events.is_empty(),
                "{} of {count} and no event",
                found.len()
            );
        }
    }
}

#[test]
fn a_function_that_is_taken_out_flushes_what_it_left() {
    for place in [Place::Wire, Place::Direct] {
        let mut pair = Pair::new(place, Faults::default(), 1, PathMtu::Mtu1024);
        assert_eq!(pair.a.cq.arm(false), Ok(false));
        traffic(&mut pair, place);
        for id in 8..12 {
            pair.a.receive(id, 0, 64).unwrap();
        }
        let platform = pair.a.driver.platform().clone();
        platform.unplug();
        assert_eq!(pair.a.driver.health(), Health::Gone);
        // The driver notices by what it waits for.
        assert_eq!(pair.a.qp.query(), Err(Error::DeviceLost));
        assert!(pair.a.driver.is_lost());
        assert_eq!(platform.take_completion_events(), []);
        pair.a.driver.flush_lost();
        let mut found = ends(&mut pair.a, 12);
        let ids = |found: &[(u64, _)]| found.iter().map(|f| f.0).collect::<Vec<_>>();
        assert_eq!(ids(&found), (0..12).collect::<Vec<_>>(), "{place:?}");
        let flushed = found.split_off(8);
        assert!(flushed.iter().all(|f| f.1 == CompletionStatus::Flushed));
        // As a kernel drains a queue pair.
        assert_eq!(pair.a.cq.arm(false), Ok(false));
        pair.a.qp.modify_state(QpState::Error).unwrap();
        let remote = pair.b.remote(0);
        pair.a.send(20, Operation::Write(remote), 0, 64).unwrap();
        pair.a.receive(21, 0, 64).unwrap();
        let drained = [20, 21].map(|id| (id, CompletionStatus::Flushed));
        assert_eq!(ends(&mut pair.a, 2), drained);
        let Side {
            driver,
            mut qp,
            mut cq,
            mut mr,
            pd,
            memory,
            ..
        } = pair.a;
        qp.destroy().unwrap();
        cq.destroy().unwrap();
        mr.destroy().unwrap();
        drop((qp, cq, mr, pd, memory));
        assert!(platform.function().memory().buffers() > 4);
        driver.remove().unwrap();
        assert_eq!(platform.function().memory().buffers(), 0);
    }
}

#[test]
fn memory_that_the_driver_frees_after_a_reset_is_not_touched() {
    let mut pair = Pair::new(Place::Wire, Faults::default(), 1, PathMtu::Mtu1024);
    traffic(&mut pair, Place::Wire);
    let memory = pair.a.driver.platform().function().memory().clone();
    let Pair { world, a, b } = pair;
    let Side {
        driver,
        qp,
        cq,
        mr,
        pd,
        memory: region,
        ..
    } = a;
    driver.remove().unwrap();
    drop((qp, cq, mr, pd, region));
    assert_eq!(memory.buffers(), 0);
    // The simulation fails every access to a freed buffer; whatever B still sends finds nobody.
    let later = world.borrow().now() + 1_000_000_000;
    world.borrow_mut().advance(later, || false);
    drop(b);
}
