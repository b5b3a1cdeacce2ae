//! The ack timer and the retry counter (IBTA volume 1, 9.7.6 and 9.9.2).

use crate::nic_link::Point;
use crate::packet::{Packet, Says};
use crate::rules::STEP;
use crate::world::{FIRSTS, Op, Setup, Tally, World};
use vrnic_abi::cqe::CompletionStatus;

const ONE: Op = Op::Write(100);

#[track_caller]
fn assert_after(since: u64, at: u64, wait: u64) {
    let late = (at - since).checked_sub(wait).expect("not before");
    assert!(late <= STEP, "{late} ns late");
}

#[test]
fn the_retransmission_comes_exactly_after_the_timeout() {
    for timeout in 1..=20 {
        let setup = Setup {
            timeout,
            ..Setup::default()
        };
        let world = World::done(setup, "drop psn=@0 3 times", "", &[ONE]);
        let sent = world.sent(0);
        assert_eq!(world.requests(), [0; 4]);
        for pair in sent.windows(2) {
            assert_after(pair[0].at, pair[1].at, setup.ack_timeout());
        }
    }
}

#[test]
fn without_a_timeout_nothing_is_sent_again() {
    let setup = Setup {
        timeout: 0,
        ..Setup::default()
    };
    let mut world = World::with(setup, "drop psn=@0", "", &[ONE]);
    world.link.settle();
    assert!(!world.link.pass(), "a timer runs");
    assert_eq!(world.requests(), [0]);
    // The next message shows the gap all the same.
    world.post(ONE);
    world.succeed();
    assert_eq!(world.requests(), [0, 1, 0, 1]);
}

/// Eight messages leave at once and arrive one after the other; the last three are lost.
#[test]
fn progress_starts_the_timer_anew() {
    for first in FIRSTS {
        let delays = (1..5).map(|n| format!("delay={}us psn=@{n};", n * 100));
        let there = delays.collect::<String>() + "drop psn=@5..@7 3 times";
        let world = World::done(Setup::from(first), &there, "", &[ONE; 8]);
        let requests: Vec<_> = (0..8).chain(5..8).collect();
        assert_eq!(world.requests(), requests);
        assert_eq!(world.answers(Says::Ack), [0, 1, 2, 3, 4, 7]);
        let sent = world.sent(0);
        assert_eq!(sent[0].at, sent[7].at);
        let packets = world.packets();
        let arrived = |packet: &&Packet| packet.from == 1 && packet.point == Point::Arrived;
        let last = packets.iter().filter(arrived).nth(4).unwrap();
        assert_eq!(last.index, 4);
        assert_after(last.at, sent[8].at, world.setup.ack_timeout());
        let tally = Tally {
            retransmits: 3,
            timeouts: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

#[test]
fn exactly_the_retries_asked_for() {
    for first in FIRSTS {
        for retries in 0..=7 {
            let setup = Setup {
                retries,
                ..Setup::from(first)
            };
            let mut world = World::with(setup, "drop always", "", &[ONE]);
            world.finish();
            let exceeded = CompletionStatus::RetryExceeded.raw();
            assert_eq!(world.completions[0].status, exceeded);
            assert_eq!(world.requests(), vec![0; usize::from(retries) + 1]);
            let tally = Tally {
                retransmits: retries.into(),
                timeouts: u64::from(retries) + 1,
                errors: 1,
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally);
            let last = world.sent(0).pop().unwrap();
            assert_after(last.at, world.link.now().0 - STEP, setup.ack_timeout());
        }
    }
}

#[test]
fn naks_and_timeouts_use_up_the_same_retries() {
    for first in FIRSTS {
        let setup = Setup {
            retries: 2,
            ..Setup::from(first)
        };
        let lost = "drop psn=@1 always";
        let mut world = World::with(setup, lost, "", &[Op::Write(4 * 256)]);
        world.finish();
        let exceeded = CompletionStatus::RetryExceeded.raw();
        assert_eq!(world.completions[0].status, exceeded);
        // A NAK, which brings progress, and the timeouts of both retransmissions.
        assert_eq!(world.requests(), [0, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
        let tally = Tally {
            retransmits: 6,
            sequence_errors: 1,
            sequence_naks: 1,
            timeouts: 2,
            errors: 1,
            out_of_sequence: 6,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

#[test]
fn retries_start_over_after_progress() {
    for first in FIRSTS {
        let setup = Setup {
            retries: 1,
            ..Setup::from(first)
        };
        let lost = "drop psn=@0;drop psn=@1;drop psn=@2;drop psn=@3";
        let mut world = World::with(setup, lost, "", &[]);
        for _ in 0..4 {
            world.post(ONE);
            world.succeed_so_far();
        }
        world.succeed();
        assert_eq!(world.requests(), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(world.tally().timeouts, 4);

        let lost = "drop psn=@1;drop psn=@3 nth=2;drop psn=@5 nth=3";
        let world = World::done(setup, lost, "", &[Op::Send(8 * 256)]);
        let requests: Vec<_> = [0, 1, 3, 5].into_iter().flat_map(|from| from..8).collect();
        assert_eq!(world.requests(), requests);
        assert_eq!(world.tally().sequence_errors, 3);
    }
}
