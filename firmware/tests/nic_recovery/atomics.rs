//! Operations that are carried out exactly once, whatever is lost: atomics, atomic writes, flushes
//! (IBTA volume 1, 9.7.5.1 and annex A19).

use crate::packet::SEQUENCE;
use crate::world::{FIRSTS, Op, Setup, Tally, World};
use vrnic_abi::counter::Counter;

const ALL: [Op; 3] = [Op::FetchAdd(5), Op::AtomicWrite, Op::Flush];

/// How often the responder carried operations out.
fn carried_out(world: &World) -> u64 {
    let counters = [
        Counter::RxAtomicRequests,
        Counter::RxAtomicWriteRequests,
        Counter::RxFlushRequests,
    ];
    counters.map(|counter| world.count(1, counter)).iter().sum()
}

fn each(mut test: impl FnMut(Setup, Op)) {
    for first in FIRSTS {
        for op in ALL {
            test(Setup::from(first), op);
        }
    }
}

#[test]
fn a_lost_request() {
    each(|setup, op| {
        let world = World::done(setup, "drop psn=@0", "", &[op]);
        assert_eq!(world.requests(), [0, 0]);
        assert_eq!(carried_out(&world), 1);
        let tally = Tally {
            retransmits: 1,
            timeouts: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

#[test]
fn a_lost_response() {
    each(|setup, op| {
        let world = World::done(setup, "", "drop psn=@0", &[op]);
        assert_eq!(world.requests(), [0, 0]);
        assert_eq!(carried_out(&world), 1);
        let tally = Tally {
            retransmits: 1,
            timeouts: 1,
            duplicates: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

#[test]
fn both_are_lost() {
    each(|setup, op| {
        let world = World::done(setup, "drop psn=@0", "drop psn=@0 2 times", &[op]);
        assert_eq!(world.requests(), [0; 4]);
        assert_eq!(carried_out(&world), 1);
        let tally = Tally {
            retransmits: 3,
            timeouts: 3,
            duplicates: 2,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

#[test]
fn a_request_that_comes_twice() {
    each(|setup, op| {
        let world = World::done(setup, "dup psn=@0", "", &[op]);
        assert_eq!(world.requests(), [0]);
        assert_eq!(carried_out(&world), 1);
        let tally = Tally {
            duplicates: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

#[test]
fn a_response_that_comes_twice_or_late() {
    each(|setup, op| {
        let world = World::done(setup, "", "dup psn=@0", &[op, op]);
        assert_eq!(world.requests(), [0, 1]);
        assert_eq!(world.tally(), Tally::default());

        let mut world = World::with(setup, "", "delay=5ms psn=@0", &[op]);
        for _ in 0..3 {
            world.succeed_so_far();
            world.post(op);
        }
        world.succeed();
        assert_eq!(world.requests(), [0, 0, 1, 2, 3]);
        assert_eq!(carried_out(&world), 4);
    });
}

#[test]
fn any_of_64_requests_in_flight_is_lost() {
    for lost in 0..64 {
        for op in ALL {
            let setup = Setup::from(0xff_ffe0);
            let event = format!("drop psn=@{lost}");
            let world = World::done(setup, &event, "", &[op; 64]);
            let requests: Vec<_> = (0..64).chain(lost..64).collect();
            assert_eq!(world.requests(), requests);
            assert_eq!(carried_out(&world), 64);
            let shown = u64::from(lost < 63);
            assert_eq!(world.answers(SEQUENCE).len() as u64, shown);
            let tally = Tally {
                retransmits: u64::from(64 - lost),
                sequence_errors: shown,
                sequence_naks: shown,
                timeouts: 1 - shown,
                out_of_sequence: u64::from(63 - lost),
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally, "lost {lost}");
        }
    }
}

#[test]
fn any_of_64_responses_in_flight_is_lost() {
    for lost in 0..64 {
        for op in ALL {
            let setup = Setup::from(0xff_ffe0);
            let event = format!("drop psn=@{lost}");
            let world = World::done(setup, "", &event, &[op; 64]);
            let requests: Vec<_> = (0..64).chain(lost..64).collect();
            assert_eq!(world.requests(), requests);
            assert_eq!(carried_out(&world), 64);
            let shown = u64::from(lost < 63);
            let again = u64::from(64 - lost);
            let tally = Tally {
                retransmits: again,
                implied: shown,
                timeouts: 1 - shown,
                duplicates: again,
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally, "lost {lost}");
        }
    }
}

/// All kinds of requests, each packet and each answer lost once.
#[test]
fn among_all_other_operations() {
    let ops = [
        Op::FetchAdd(1),
        Op::Write(300),
        Op::Read(600),
        Op::FetchAdd(2),
        Op::Send(500),
        Op::AtomicWrite,
        Op::Flush,
        Op::Read(256),
        Op::FetchAdd(4),
        Op::Write(1),
    ];
    for first in FIRSTS {
        for lost in 0..14 {
            let event = format!("drop psn=@{lost}");
            for (there, back) in [(&*event, ""), ("", &*event)] {
                let mut world = World::with(Setup::from(first), there, back, &ops);
                // Some sequence numbers are not on the wire in one of the directions.
                world.optional_events = true;
                world.succeed();
                assert_eq!(carried_out(&world), 5);
                let tally = world.tally();
                let causes = tally.sequence_errors + tally.implied + tally.timeouts;
                assert!(causes <= 1, "{tally:?}");
            }
        }
    }
}
