//! Acknowledgements: merged, lost, and late (IBTA volume 1, 9.7.5.1 and 9.7.7).

use crate::packet::Says;
use crate::world::{FIRSTS, Op, Setup, Tally, World};

fn acks(world: &World) -> Vec<u32> {
    world.answers(Says::Ack)
}

#[test]
fn one_covers_all_that_arrived() {
    for first in FIRSTS {
        let world = World::done(Setup::from(first), "", "", &[Op::Write(10); 20]);
        assert_eq!(acks(&world), [19]);
        assert_eq!(world.tally(), Tally::default());
    }
}

#[test]
fn a_lost_one_takes_a_timeout_and_duplicates() {
    for first in FIRSTS {
        for packets in 1..=4 {
            let op = Op::Send(packets * 256);
            let world = World::done(Setup::from(first), "", "drop opcode=ack", &[op]);
            let requests: Vec<_> = (0..packets).chain(0..packets).collect();
            assert_eq!(world.requests(), requests);
            assert_eq!(acks(&world), [packets - 1; 2]);
            let tally = Tally {
                retransmits: packets.into(),
                duplicates: packets.into(),
                timeouts: 1,
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally);
        }
    }
}

#[test]
fn all_lost_until_the_last_retry() {
    for first in FIRSTS {
        let lost = "drop opcode=ack 3 times";
        let world = World::done(Setup::from(first), "", lost, &[Op::Send(100)]);
        assert_eq!(world.requests(), [0; 4]);
        let tally = Tally {
            retransmits: 3,
            duplicates: 3,
            timeouts: 3,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

#[test]
fn the_next_one_makes_up_for_a_lost_one() {
    for first in FIRSTS {
        let lost = "drop opcode=ack";
        let mut world = World::with(Setup::from(first), "", lost, &[Op::Write(256)]);
        world.link.settle();
        world.post(Op::Send(256));
        world.succeed();
        assert_eq!(world.requests(), [0, 1]);
        assert_eq!(acks(&world), [0, 1]);
        assert_eq!(world.tally(), Tally::default());
    }
}

#[test]
fn a_response_makes_up_for_a_lost_one() {
    for first in FIRSTS {
        for op in [Op::Read(300), Op::FetchAdd(1), Op::AtomicWrite, Op::Flush] {
            let lost = "drop opcode=ack";
            let mut world = World::with(Setup::from(first), "", lost, &[Op::Write(256)]);
            world.link.settle();
            world.post(op);
            world.succeed();
            assert_eq!(world.requests(), [0, 1]);
            assert_eq!(world.tally(), Tally::default());
        }
    }
}

#[test]
fn one_that_comes_twice_changes_nothing() {
    for first in FIRSTS {
        let twice = "dup opcode=ack";
        let mut world = World::with(Setup::from(first), "", twice, &[Op::Write(256)]);
        world.succeed_so_far();
        world.post(Op::Write(256));
        world.succeed();
        assert_eq!(world.requests(), [0, 1]);
        assert_eq!(world.tally(), Tally::default());
    }
}

/// The acknowledgement of a message comes when that has been sent and acknowledged again, and later
/// messages are in flight, the first packet of which is lost.
#[test]
fn a_ghost_acknowledges_nothing_later() {
    for first in FIRSTS {
        let late = "delay=2ms opcode=ack;drop opcode=ack nth=3 1 times";
        let lost = "drop psn=@2..@40 39 times";
        let mut world = World::with(Setup::from(first), lost, late, &[Op::Write(512)]);
        world.succeed_so_far();
        for _ in 0..10 {
            world.post(Op::Write(1024));
        }
        world.succeed();
        assert!(world.tally().timeouts >= 2);
    }
}
