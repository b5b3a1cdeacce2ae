//! RNR NAKs: SENDs without a receive buffer (IBTA volume 1, 9.7.5.2, 9.9.2 and table 45).

use crate::packet::{Packet, Says};
use crate::rules::{STEP, rnr_wait};
use crate::world::{FIRSTS, Op, Setup, Tally, World};
use vrnic_abi::cqe::CompletionStatus;

const ONE: Op = Op::Send(100);

/// A responder without receives.
fn without_receives(setup: Setup, back: &str, ops: &[Op]) -> World {
    let mut world = World::with(setup, "", back, &[]);
    world.receives = false;
    ops.iter().for_each(|op| world.post(*op));
    world
}

fn naks(world: &World) -> Vec<Packet> {
    let mut answers = world.sent(1);
    answers.retain(|packet| matches!(packet.says, Says::RnrNak { .. }));
    answers
}

#[test]
fn the_wait_is_what_the_table_says() {
    for timer in 0..32 {
        for first in FIRSTS {
            let setup = Setup {
                rnr_timer: timer,
                ..Setup::from(first)
            };
            let mut world = without_receives(setup, "", &[ONE]);
            world.link.settle();
            world.post_held_receive();
            world.succeed();
            let naks = naks(&world);
            assert_eq!(naks.len(), 1);
            assert_eq!((naks[0].index, naks[0].says), (0, Says::RnrNak { timer }));
            let sent = world.sent(0);
            assert_eq!(world.requests(), [0, 0]);
            let waited = sent[1].at - naks[0].at;
            let wait = rnr_wait(timer);
            assert!((wait..=wait + STEP).contains(&waited), "{timer}: {waited}");
            let tally = Tally {
                retransmits: 1,
                rnr_naks: 1,
                rnr_received: 1,
                no_buffer: 1,
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally);
        }
    }
}

#[test]
fn exactly_the_retries_asked_for() {
    for rnr_retries in 0..7 {
        let setup = Setup {
            rnr_retries,
            retries: 0,
            ..Setup::default()
        };
        let mut world = without_receives(setup, "", &[ONE]);
        world.finish();
        let exceeded = CompletionStatus::RnrRetryExceeded.raw();
        assert_eq!(world.completions[0].status, exceeded);
        let sent = u64::from(rnr_retries) + 1;
        assert_eq!(world.requests(), vec![0; sent as usize]);
        let tally = Tally {
            retransmits: sent - 1,
            rnr_naks: sent,
            rnr_received: sent,
            no_buffer: sent,
            rnr_exceeded: 1,
            errors: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

#[test]
fn seven_retries_are_without_end() {
    let setup = Setup {
        rnr_retries: 7,
        retries: 0,
        ..Setup::default()
    };
    let mut world = without_receives(setup, "", &[ONE]);
    while naks(&world).len() < 100 {
        world.link.settle();
        assert!(world.link.pass());
    }
    world.post_held_receive();
    world.succeed();
    let tally = world.tally();
    assert!(tally.rnr_naks >= 100);
    assert_eq!(tally.retransmits, tally.rnr_naks);
}

#[test]
fn retries_start_over_after_progress() {
    for first in FIRSTS {
        let setup = Setup {
            rnr_retries: 1,
            ..Setup::from(first)
        };
        let mut world = without_receives(setup, "", &[]);
        for n in 1..=5 {
            world.post(ONE);
            world.link.settle();
            assert_eq!(naks(&world).len(), n);
            world.post_held_receive();
            world.succeed_so_far();
        }
        world.succeed();
        assert_eq!(world.tally().rnr_naks, 5);
    }
}

#[test]
fn a_lost_nak_takes_a_timeout() {
    for first in FIRSTS {
        let setup = Setup::from(first);
        let mut world = without_receives(setup, "drop opcode=ack", &[ONE]);
        world.link.settle();
        world.post_held_receive();
        world.succeed();
        let sent = world.sent(0);
        assert_eq!(world.requests(), [0, 0]);
        let waited = sent[1].at - sent[0].at;
        let timeout = setup.ack_timeout();
        assert!((timeout..=timeout + STEP).contains(&waited), "{waited}");
        let tally = Tally {
            retransmits: 1,
            rnr_naks: 1,
            no_buffer: 1,
            timeouts: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

#[test]
fn a_nak_that_comes_twice_is_one_retry() {
    for first in FIRSTS {
        let setup = Setup {
            rnr_retries: 1,
            ..Setup::from(first)
        };
        let mut world = without_receives(setup, "dup opcode=ack", &[ONE]);
        world.link.settle();
        world.post_held_receive();
        world.succeed();
        assert_eq!(world.requests(), [0, 0]);
        assert_eq!(world.tally().rnr_received, 2);
    }
}

/// WRITE 0 and 1, SEND 2 to 4, WRITE 5 and 6: what was before the SEND is acknowledged, what follows
/// it is sent again with it.
#[test]
fn in_the_middle_of_other_messages() {
    for first in FIRSTS {
        let ops = [Op::Write(512), Op::Send(700), Op::Write(512)];
        let mut world = without_receives(Setup::from(first), "", &ops);
        world.link.settle();
        world.post_receive_of(1);
        world.succeed();
        assert_eq!(world.requests(), [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6]);
        let naks = naks(&world);
        assert_eq!((naks.len(), naks[0].index), (1, 2));
        let tally = Tally {
            retransmits: 5,
            rnr_naks: 1,
            rnr_received: 1,
            no_buffer: 1,
            out_of_sequence: 4,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}
