//! RDMA READ: lost requests and lost responses (IBTA volume 1, 9.7.5.1 and 9.7.5.2).

use crate::packet::{SEQUENCE, Says};
use crate::world::{FIRSTS, Op, Setup, Tally, World};
use vrnic_firmware::types::Time;

fn everywhere(mut test: impl FnMut(Setup)) {
    for mtu in 1..=5 {
        for first in FIRSTS {
            test(Setup {
                mtu,
                ..Setup::from(first)
            });
        }
    }
}

/// Sequence numbers of the response packets that were sent.
fn responses(world: &World) -> Vec<u32> {
    world.answers(Says::ReadResponse)
}

#[track_caller]
fn lost_response(setup: Setup, packets: u32, lost: u32, what: &str) {
    let (mtu, length) = (setup.mtu(), packets * setup.mtu() - 3);
    let event = format!("{what} psn=@{lost}");
    let world = World::done(setup, "", &event, &[Op::Read(length)]);
    let requests = world.sent(0);
    assert_eq!(world.requests(), [0, lost], "{setup:?} {packets}");
    let address = world.last_place(1, length);
    assert_eq!(requests[0].says, Says::Read { address, length });
    let done = lost * mtu;
    let rest = Says::Read {
        address: address + u64::from(done),
        length: length - done,
    };
    assert_eq!(requests[1].says, rest, "{setup:?} {packets} {lost}");
    let sent: Vec<_> = (0..packets).chain(lost..packets).collect();
    assert_eq!(responses(&world), sent);
    let shown = u64::from(lost + 1 < packets);
    let tally = Tally {
        retransmits: 1,
        implied: shown,
        timeouts: 1 - shown,
        duplicates: 1,
        bad_responses: u64::from(what == "corrupt"),
        ..Tally::default()
    };
    assert_eq!(world.tally(), tally, "{setup:?} {packets} {lost}");
}

#[test]
fn a_response_lost_at_each_position() {
    everywhere(|setup| {
        for packets in 1..=5 {
            for lost in 0..packets {
                lost_response(setup, packets, lost, "drop");
            }
        }
    });
}

#[test]
fn a_response_with_a_flipped_bit() {
    everywhere(|setup| {
        for lost in 0..4 {
            lost_response(setup, 4, lost, "corrupt");
        }
    });
}

#[test]
fn two_gaps_in_a_response() {
    for first in FIRSTS {
        let lost = "drop psn=@1;drop psn=@4 nth=2";
        let world = World::done(Setup::from(first), "", lost, &[Op::Read(8 * 256)]);
        assert_eq!(world.requests(), [0, 1, 4]);
        let tally = Tally {
            retransmits: 2,
            implied: 2,
            duplicates: 2,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

#[test]
fn the_same_response_lost_again_and_again() {
    for first in FIRSTS {
        let lost = "drop psn=@3 3 times";
        let world = World::done(Setup::from(first), "", lost, &[Op::Read(8 * 256)]);
        // The gap that a retransmission leaves again is behind no progress.
        assert_eq!(world.requests(), [0, 3, 3, 3]);
        assert_eq!(world.tally().retransmits, 3);
        assert_eq!(world.tally().duplicates, 3);
    }
}

#[test]
fn a_response_that_comes_twice_is_placed_once() {
    everywhere(|setup| {
        for twice in 0..4 {
            let event = format!("dup psn=@{twice}");
            let world = World::done(setup, "", &event, &[Op::Read(4 * setup.mtu())]);
            assert_eq!(world.requests(), [0]);
            assert_eq!(world.tally(), Tally::default());
        }
    });
}

/// Response 2 comes after response 5, before anything is asked again; 6 and 7 show the next gap.
#[test]
fn a_response_overtaken_by_three_others() {
    for first in FIRSTS {
        let world = World::done(
            Setup::from(first),
            "",
            "reorder psn=@2",
            &[Op::Read(8 * 256)],
        );
        assert_eq!(world.requests(), [0, 3]);
        assert_eq!(world.tally().retransmits, 1);
    }
}

#[test]
fn a_lost_request_takes_a_timeout() {
    everywhere(|setup| {
        for packets in [1, 4] {
            let op = Op::Read(packets * setup.mtu());
            let world = World::done(setup, "drop psn=@0 2 times", "", &[op]);
            let says: Vec<_> = world.sent(0).iter().map(|packet| packet.says).collect();
            assert_eq!(says, [says[0]; 3], "all of it is asked for again");
            assert_eq!(responses(&world), (0..packets).collect::<Vec<_>>());
            let tally = Tally {
                retransmits: 2,
                timeouts: 2,
                ..Tally::default()
            };
            assert_eq!(world.tally(), tally);
        }
    });
}

#[test]
fn the_next_request_shows_a_lost_one() {
    everywhere(|setup| {
        let op = Op::Read(3 * setup.mtu());
        let world = World::done(setup, "drop psn=@3", "", &[op; 3]);
        assert_eq!(world.requests(), [0, 3, 6, 3, 6]);
        assert_eq!(world.answers(SEQUENCE), [3]);
        let tally = Tally {
            retransmits: 2,
            sequence_errors: 1,
            sequence_naks: 1,
            out_of_sequence: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    });
}

#[test]
fn the_second_request_for_the_rest_is_lost_too() {
    for first in FIRSTS {
        let world = World::done(
            Setup::from(first),
            "drop psn=@2",
            "drop psn=@2",
            &[Op::Read(4 * 256)],
        );
        assert_eq!(world.requests(), [0, 2, 2]);
        let tally = Tally {
            retransmits: 2,
            implied: 1,
            timeouts: 1,
            duplicates: 1,
            ..Tally::default()
        };
        assert_eq!(world.tally(), tally);
    }
}

/// 64 READs of two packets, any response of which is lost.
#[test]
fn a_loss_among_64_in_flight() {
    for lost in 0..128 {
        let setup = Setup::from(0xff_ffc0);
        let ops = [Op::Read(512 - 3); 64];
        let world = World::done(setup, "", &format!("drop psn=@{lost}"), &ops);
        let all = (0..128).step_by(2);
        let again = (lost..128).filter(|psn| *psn == lost || psn % 2 == 0);
        let requests: Vec<_> = all.chain(again).collect();
        assert_eq!(world.requests(), requests, "lost {lost}");
        let again = requests.len() as u64 - 64;
        let shown = u64::from(lost < 127);
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

/// WRITE 0 to 2, READ 3 to 5, WRITE 6 to 8, READ 9 and 10.
const MIX: [Op; 4] = [
    Op::Write(3 * 256),
    Op::Read(3 * 256),
    Op::Write(3 * 256),
    Op::Read(2 * 256),
];
const MIX_REQUESTS: [u32; 8] = [0, 1, 2, 3, 6, 7, 8, 9];

#[test]
fn between_writes_a_request_is_lost() {
    for first in FIRSTS {
        for lost in MIX_REQUESTS {
            let event = format!("drop psn=@{lost}");
            let world = World::done(Setup::from(first), &event, "", &MIX);
            let again = MIX_REQUESTS.into_iter().filter(|psn| *psn >= lost);
            let requests: Vec<_> = MIX_REQUESTS.into_iter().chain(again).collect();
            assert_eq!(world.requests(), requests, "lost {lost}");
            let shown = u64::from(lost < 9);
            let tally = world.tally();
            assert_eq!(tally.duplicates, 0);
            assert_eq!((tally.sequence_naks, tally.timeouts), (shown, 1 - shown));
        }
    }
}

#[test]
fn between_writes_a_response_is_lost() {
    for first in FIRSTS {
        for lost in [3, 4, 5, 9, 10] {
            let event = format!("drop psn=@{lost} once");
            let world = World::done(Setup::from(first), "", &event, &MIX);
            let later = MIX_REQUESTS.into_iter().filter(|psn| *psn > lost);
            let again = std::iter::once(lost).chain(later);
            let requests: Vec<_> = MIX_REQUESTS.into_iter().chain(again).collect();
            assert_eq!(world.requests(), requests, "lost {lost}");
            let tally = world.tally();
            let shown = u64::from(lost < 10);
            assert_eq!((tally.implied, tally.timeouts), (shown, 1 - shown));
            assert_eq!(tally.duplicates, requests.len() as u64 - 8);
        }
    }
}

/// A response that comes when the READ has long been answered again and its memory is used for
/// something else.
#[test]
fn a_ghost_of_a_response_is_not_placed() {
    for first in FIRSTS {
        let setup = Setup::from(first);
        let late = "delay=5ms psn=@0";
        let mut world = World::with(setup, "", late, &[Op::Read(200)]);
        let hw = world.ends[0].driver.hw.clone();
        let address = world.last_place(0, 200);
        let before = hw.bytes(address, 200);
        let end = Time(world.link.now().0 + 4_000_000);
        world.link.run(end, |_| hw.bytes(address, 200) != before);
        assert_eq!(world.requests(), [0, 0]);
        assert_eq!(world.link.in_flight(), 1, "the ghost");
        // The same memory, with other data.
        world.overwrite_result(200);
        world.succeed();
        assert_eq!(world.link.in_flight(), 0);
        assert_eq!(world.tally().timeouts, 1);
    }
}

/// Ghosts meet READs of the same queue pair that are in flight by then.
#[test]
fn ghosts_of_responses_meet_later_reads() {
    for first in FIRSTS {
        let late = "delay=2ms psn=@0..@3 4 times";
        let mut world = World::with(Setup::from(first), "", late, &[Op::Read(4 * 256)]);
        for _ in 0..40 {
            world.post(Op::Read(4 * 256));
            world.post(Op::Write(300));
            world.succeed_so_far();
        }
        world.succeed();
    }
}
