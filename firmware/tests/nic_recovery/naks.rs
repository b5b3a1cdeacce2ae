//! Sequence errors: one NAK for each gap, and what happens to it on its way (IBTA volume 1,
//! 9.7.5.2.8).

use crate::packet::SEQUENCE;
use crate::world::{FIRSTS, Op, Setup, Tally, World};

const EIGHT: Op = Op::Write(8 * 256);

#[track_caller]
fn check(world: &World, passes: &[u32], naks: &[u32], tally: Tally) {
    let requests: Vec<_> = passes.iter().flat_map(|from| *from..8).collect();
    assert_eq!(world.requests(), requests);
    assert_eq!(world.answers(SEQUENCE), naks);
    assert_eq!(world.tally(), tally);
}

#[test]
fn two_packets_lost_at_once_are_one_gap() {
    for first in FIRSTS {
        let lost = "drop psn=@2;drop psn=@5";
        let world = World::done(Setup::from(first), lost, "", &[EIGHT]);
        let tally = Tally {
            retransmits: 6,
            sequence_errors: 1,
            sequence_naks: 1,
            out_of_sequence: 4,
            ..Tally::default()
        };
        check(&world, &[0, 2], &[2], tally);
    }
}

#[test]
fn a_second_gap_gets_its_own_nak() {
    for first in FIRSTS {
        let lost = "drop psn=@2;drop psn=@5 nth=2";
        let world = World::done(Setup::from(first), lost, "", &[EIGHT]);
        let tally = Tally {
            retransmits: 6 + 3,
            sequence_errors: 2,
            sequence_naks: 2,
            out_of_sequence: 5 + 2,
            ..Tally::default()
        };
        check(&world, &[0, 2, 5], &[2, 5], tally);
    }
}

#[test]
fn a_gap_at_the_same_place_is_a_new_one_after_the_packet_came() {
    for first in FIRSTS {
        let lost = "drop psn=@2;drop psn=@3 nth=2";
        let world = World::done(Setup::from(first), lost, "", &[EIGHT]);
        let tally = Tally {
            retransmits: 6 + 5,
            sequence_errors: 2,
            sequence_naks: 2,
            out_of_sequence: 5 + 4,
            ..Tally::default()
        };
        check(&world, &[0, 2, 3], &[2, 3], tally);
    }
}

#[test]
fn a_retransmission_that_is_lost_takes_a_timeout() {
    for first in FIRSTS {
        let lost = "drop psn=@2 2 times";
        let world = World::done(Setup::from(first), lost, "", &[EIGHT]);
        let tally = Tally {
            retransmits: 6 + 6,
            sequence_errors: 1,
            sequence_naks: 1,
            timeouts: 1,
            out_of_sequence: 5 + 5,
            ..Tally::default()
        };
        check(&world, &[0, 2, 2], &[2], tally);
    }
}

#[test]
fn a_nak_that_is_lost_takes_a_timeout() {
    for first in FIRSTS {
        let setup = Setup::from(first);
        let world = World::done(setup, "drop psn=@2", "drop opcode=ack", &[EIGHT]);
        let tally = Tally {
            retransmits: 8,
            sequence_naks: 1,
            timeouts: 1,
            out_of_sequence: 5,
            duplicates: 2,
            ..Tally::default()
        };
        check(&world, &[0, 0], &[2], tally);
    }
}

#[test]
fn a_nak_that_comes_twice_does_no_harm() {
    for first in FIRSTS {
        let setup = Setup {
            retries: 1,
            ..Setup::from(first)
        };
        let world = World::done(setup, "drop psn=@2", "dup opcode=ack", &[EIGHT]);
        let tally = Tally {
            retransmits: 6,
            sequence_errors: 2,
            sequence_naks: 1,
            out_of_sequence: 5,
            ..Tally::default()
        };
        check(&world, &[0, 2], &[2], tally);
    }
}

#[test]
fn a_nak_that_comes_after_the_timeout_is_a_ghost() {
    for first in FIRSTS {
        let late = "delay=5ms opcode=ack";
        let world = World::done(Setup::from(first), "drop psn=@2", late, &[EIGHT]);
        let tally = Tally {
            retransmits: 8,
            sequence_naks: 1,
            timeouts: 1,
            out_of_sequence: 5,
            duplicates: 2,
            ..Tally::default()
        };
        check(&world, &[0, 0], &[2], tally);
    }
}
