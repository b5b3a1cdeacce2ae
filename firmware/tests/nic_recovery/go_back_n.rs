//! What is sent again after one loss: everything from the lost packet on, nothing before it (IBTA
//! volume 1, 9.7.5).

use crate::packet::{SEQUENCE, Says};
use crate::world::{FIRSTS, Op, Setup, Tally, World};

/// Bytes of a message of `packets` packets whose last is not full.
const fn bytes(packets: u32, mtu: u32) -> u32 {
    packets * mtu - 3
}

/// Both operations, all path MTUs, all beginnings.
fn everywhere(mut test: impl FnMut(Setup, fn(u32) -> Op)) {
    for mtu in 1..=5 {
        for first in FIRSTS {
            let setup = Setup {
                mtu,
                ..Setup::from(first)
            };
            test(setup, Op::Write);
            test(setup, Op::Send);
        }
    }
}

/// One message of `packets` packets, the packet at `lost` of which is not there at first.
#[track_caller]
fn one_message(setup: Setup, op: Op, packets: u32, lost: u32, what: &str) -> World {
    let world = World::done(setup, &format!("{what} psn=@{lost} once"), "", &[op]);
    let (n, i) = (u64::from(packets), u64::from(lost));
    let corrupted = u64::from(what == "corrupt");
    let common = Tally {
        bad_requests: corrupted,
        ..Tally::default()
    };
    let tally = if lost + 1 < packets {
        let requests: Vec<_> = (0..packets).chain(lost..packets).collect();
        assert_eq!(world.requests(), requests, "{setup:?} {op:?} lost {lost}");
        assert_eq!(world.answers(SEQUENCE), [lost]);
        Tally {
            retransmits: n - i,
            sequence_errors: 1,
            sequence_naks: 1,
            out_of_sequence: n - 1 - i,
            ..common
        }
    } else {
        // Nothing follows that could show the gap, and nothing has been acknowledged.
        let requests: Vec<_> = (0..packets).chain(0..packets).collect();
        assert_eq!(world.requests(), requests, "{setup:?} {op:?} lost {lost}");
        assert_eq!(world.answers(SEQUENCE), [0; 0]);
        Tally {
            retransmits: n,
            timeouts: 1,
            duplicates: n - 1,
            ..common
        }
    };
    assert_eq!(world.tally(), tally, "{setup:?} {op:?} lost {lost}");
    assert_eq!(world.answers(Says::Ack), [packets - 1]);
    world
}

#[test]
fn a_loss_at_each_position_of_a_message() {
    everywhere(|setup, op| {
        for packets in 1..=5 {
            for lost in 0..packets {
                let op = op(bytes(packets, setup.mtu()));
                one_message(setup, op, packets, lost, "drop");
            }
        }
    });
}

#[test]
fn a_flipped_bit_at_each_position_of_a_message() {
    everywhere(|setup, op| {
        for lost in 0..4 {
            let op = op(bytes(4, setup.mtu()));
            one_message(setup, op, 4, lost, "corrupt");
        }
    });
}

#[test]
fn the_next_message_shows_the_loss_of_a_last_packet() {
    everywhere(|setup, op| {
        for packets in 1..=4 {
            let op = op(bytes(packets, setup.mtu()));
            let (lost, all) = (packets - 1, 2 * packets);
            let world = World::done(setup, &format!("drop psn=@{lost}"), "", &[op, op]);
            let requests: Vec<_> = (0..all).chain(lost..all).collect();
            assert_eq!(world.requests(), requests);
            assert_eq!(world.answers(SEQUENCE), [lost]);
            let tally = Tally {
                retransmits: u64::from(all - lost),
                sequence_errors: 1,
                sequence_naks: 1,
                out_of_sequence: u64::from(packets),
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally);
        }
    });
}

#[test]
fn a_packet_that_comes_twice_changes_nothing() {
    everywhere(|setup, op| {
        for twice in 0..4 {
            let op = op(bytes(4, setup.mtu()));
            let world = World::done(setup, &format!("dup psn=@{twice}"), "", &[op]);
            assert_eq!(world.requests(), [0, 1, 2, 3]);
            assert_eq!(world.answers(Says::Ack), [3]);
            let tally = Tally {
                duplicates: 1,
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally);
        }
    });
}

/// Packet 2 comes after packet 5: when it comes, its NAK is not sent yet and becomes one of packet 3,
/// which was dropped.
#[test]
fn a_packet_overtaken_by_three_others() {
    everywhere(|setup, op| {
        let op = op(bytes(8, setup.mtu()));
        let world = World::done(setup, "reorder psn=@2", "", &[op]);
        let requests: Vec<_> = (0..8).chain(3..8).collect();
        assert_eq!(world.requests(), requests);
        assert_eq!(world.answers(SEQUENCE), [3]);
        let tally = Tally {
            retransmits: 5,
            sequence_errors: 1,
            sequence_naks: 1,
            out_of_sequence: 5,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

#[test]
fn a_packet_that_comes_after_its_retransmission_is_a_duplicate() {
    everywhere(|setup, op| {
        let op = op(bytes(6, setup.mtu()));
        let world = World::done(setup, "delay=50us psn=@2", "", &[op]);
        let requests: Vec<_> = (0..6).chain(2..6).collect();
        assert_eq!(world.requests(), requests);
        assert_eq!(world.answers(SEQUENCE), [2]);
        let tally = Tally {
            retransmits: 4,
            sequence_errors: 1,
            sequence_naks: 1,
            out_of_sequence: 3,
            duplicates: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

/// A message longer than the window: packets leave as acknowledgements come, and the NAK comes when
/// some of what follows the gap has not been sent.
#[test]
fn a_loss_while_the_message_is_still_being_sent() {
    for lost in [0, 1, 63, 64, 255, 256, 400] {
        let slow = format!("delay=20us always;drop psn=@{lost}");
        let packets = 600;
        let op = Op::Write(packets * 256);
        let world = World::done(Setup::default(), &slow, "delay=20us always", &[op]);
        let requests = world.requests();
        let back = requests.windows(2).position(|pair| pair[1] <= pair[0]);
        let back = back.expect("goes back") as u32;
        assert!(back > lost && back + 1 < packets, "{back} was the last");
        let expected: Vec<_> = (0..=back).chain(lost..packets).collect();
        assert_eq!(requests, expected, "lost {lost}");
        let tally = Tally {
            retransmits: u64::from(back + 1 - lost),
            sequence_errors: 1,
            sequence_naks: 1,
            out_of_sequence: u64::from(back - lost),
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}
