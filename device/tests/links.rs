//! Links carry frames: in order, unchanged, with back-pressure, and they wake
//! whoever sleeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod link_support;

use std::thread;

use link_support::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use vrnic::link::MAX_FRAME;

/// Frame lengths from the smallest on a wire to jumbo, odd ones among them.
fn lengths() -> impl Iterator<Item = usize> + Clone {
    [60, 61, 63, 64, 65, 127, 128, 1514, 4096, 4175, 8999, 9000].into_iter()
}

// One thread

#[test]
fn every_length_arrives_in_order_and_unchanged() {
    for kind in KINDS {
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        let (mut sent, mut number) = (Vec::new(), 0);
        for len in lengths().chain([14, a.max_frame()]) {
            for _ in 0..3 {
                assert!(
                    try_send(&mut a, number, len),
                    "{kind}: no room for one frame"
                );
                sent.push((number, len));
                number += 1;
                a.flush().unwrap();
            }
            assert_eq!(take_all(&mut b, 3), sent, "{kind}");
            sent.clear();
        }
        let (there, here) = (b.counters(), a.counters());
        assert_eq!(
            (here.tx_frames, here.tx_bytes),
            (there.rx_frames, there.rx_bytes),
            "{kind}"
        );
        assert_eq!(here.tx_frames, number, "{kind}");
    }
}

#[test]
fn both_directions_are_independent() {
    for kind in KINDS {
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        for round in 0..200 {
            assert!(try_send(&mut a, round, 100) && try_send(&mut b, 1000 + round, 200));
            a.flush().unwrap();
            b.flush().unwrap();
            assert_eq!(take_all(&mut b, 1), [(round, 100)], "{kind}");
            assert_eq!(take_all(&mut a, 1), [(1000 + round, 200)], "{kind}");
        }
    }
}

#[test]
fn receive_keeps_to_its_budget() {
    for kind in KINDS {
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        (0..8).for_each(|n| assert!(try_send(&mut a, n, 80)));
        a.flush().unwrap();
        let mut frames = take_all(&mut b, 1);
        for budget in [0, 1, 2, 4] {
            let part = take(&mut b, budget);
            assert_eq!(part.len(), budget, "{kind}");
            frames.extend(part);
        }
        assert_eq!(
            frames,
            (0..8).map(|n| (n, 80)).collect::<Vec<_>>(),
            "{kind}"
        );
        assert!(take(&mut b, 9).is_empty());
    }
}

#[test]
fn a_frame_can_be_shorter_than_its_reservation_or_given_up() {
    for kind in KINDS {
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        fill(a.reserve(4000).unwrap(), 99); // given up
        fill(&mut a.reserve(500).unwrap()[..70], 1);
        a.commit(70);
        fill(a.reserve(90).unwrap(), 2);
        a.commit(usize::MAX);
        a.flush().unwrap();
        assert_eq!(take_all(&mut b, 2), [(1, 70), (2, 90)], "{kind}");
    }
}

#[test]
fn a_frame_above_the_maximum_has_no_room() {
    for kind in KINDS {
        let place = Place::new();
        let (mut a, _b) = place.pair(kind);
        let max = a.max_frame();
        assert!(max <= MAX_FRAME);
        assert!(a.reserve(max + 1).is_none(), "{kind}");
        assert!(a.reserve(usize::MAX).is_none(), "{kind}");
        assert!(a.reserve(max).is_some(), "{kind}");
    }
}

#[test]
fn no_link_drops_and_counts() {
    let mut link = Place::new().open("none");
    for number in 0..5 {
        assert!(try_send(&mut link, number, 100));
    }
    link.flush().unwrap();
    assert!(take(&mut link, 10).is_empty());
    assert!(link.is_up() && link.wake_fd().is_none() && link.prepare_sleep());
    assert_eq!(link.counters().tx_no_peer, 5);
}

// Back-pressure

/// UDP does not push back: the kernel drops what a receiver does not fetch.
const PUSH_BACK: [&str; 4] = ["shm", "dgram", "stream", "tcp"];

#[test]
fn a_full_link_pushes_back_and_loses_nothing() {
    for kind in PUSH_BACK {
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        let mut sent = 0;
        for _round in 0..3 {
            // The kernel moves bytes between two sockets of TCP by itself.
            while try_send(&mut a, sent, 4175) {
                sent += 1;
                assert!(sent < 100_000, "{kind} never pushes back");
            }
            a.flush().unwrap();
            let got = take_all(&mut b, 5);
            assert_eq!(got[0].1, 4175);
        }
        assert!(a.counters().tx_blocked >= 3, "{kind}");
        let mut received = 15;
        while received < sent {
            a.flush().unwrap();
            for (number, _) in take(&mut b, 64) {
                assert_eq!(number, received, "{kind}");
                received += 1;
            }
        }
        assert_eq!(b.counters().rx_frames, sent, "{kind}");
    }
}

/// Sends until there is no room, then flushes and receives until nothing is on its way:
/// how many frames that were. The end that was refused has not slept in between.
#[track_caller]
fn fill_and_drain(a: &mut BoxedLink, b: &mut BoxedLink) -> u64 {
    let mut sent = 0;
    while try_send(a, sent, 4175) {
        sent += 1;
        assert!(sent < 100_000, "never pushes back");
    }
    let mut received = 0;
    while received < sent {
        a.flush().unwrap();
        for (number, _) in take(b, 64) {
            assert_eq!(number, received);
            received += 1;
        }
    }
    sent
}

#[test]
fn room_that_a_flush_made_is_not_slept_through() {
    for kind in PUSH_BACK {
        println!("{kind}");
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        let sent = fill_and_drain(&mut a, &mut b);
        sleep(&mut a);
        assert!(try_send(&mut a, sent, 4175), "{kind}: no room");
        a.flush().unwrap();
        assert_eq!(take_all(&mut b, 1), [(sent, 4175)], "{kind}");
        assert!(a.prepare_sleep(), "{kind}: nothing to do, and no sleep");
        a.wake();
    }
}

#[test]
fn whoever_gives_up_a_refused_frame_can_sleep() {
    for kind in PUSH_BACK {
        println!("{kind}");
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        fill_and_drain(&mut a, &mut b);
        assert!(!a.prepare_sleep(), "{kind}: nobody is told of room");
        a.wake();
        assert!(a.prepare_sleep(), "{kind}: nothing to do, and no sleep");
        a.wake();
    }
}

// Two threads

/// Sends `count` frames; sleeps when there is no room.
fn send_many(link: &mut BoxedLink, count: u64) {
    let mut lens = lengths().cycle();
    let mut len = lens.next().unwrap();
    let mut number = 0;
    while number < count {
        if try_send(link, number, len) {
            number += 1;
            len = lens.next().unwrap();
            if number % 16 == 0 {
                link.flush().unwrap();
            }
        } else {
            sleep(link);
        }
    }
    // What the kernel did not take yet leaves while we wait for the answer.
    while take(link, 1).is_empty() {
        sleep(link);
    }
}

/// Receives `count` frames, sleeping whenever there is none, and answers with one.
fn receive_many(link: &mut BoxedLink, count: u64) {
    let mut lens = lengths().cycle();
    let mut next = 0;
    while next < count {
        let frames = take(link, 64);
        if frames.is_empty() {
            sleep(link);
        }
        for frame in frames {
            assert_eq!(frame, (next, lens.next().unwrap()));
            next += 1;
        }
    }
    assert!(try_send(link, 0, 60));
    link.flush().unwrap();
    while link.counters().tx_frames == 0 {
        sleep(link);
    }
}

#[test]
fn a_stream_of_frames_between_threads_loses_none() {
    for kind in PUSH_BACK {
        println!("{kind}");
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        let count = if kind == "shm" { 200_000 } else { 20_000 };
        thread::scope(|scope| {
            scope.spawn(|| send_many(&mut a, count));
            receive_many(&mut b, count);
        });
        assert_eq!(b.counters().rx_frames, count, "{kind}");
    }
}

/// Answers every frame, and sleeps whenever there is none.
fn echo(link: &mut BoxedLink, rounds: u64) {
    for round in 0..rounds {
        assert_eq!(take_all(link, 1), [(round, 64)]);
        assert!(try_send(link, round, 64));
        link.flush().unwrap();
    }
}

fn ping_pong(kind: &str, rounds: u64) {
    let place = Place::new();
    let (mut a, mut b) = place.pair(kind);
    thread::scope(|scope| {
        scope.spawn(|| echo(&mut b, rounds));
        for round in 0..rounds {
            assert!(try_send(&mut a, round, 64));
            a.flush().unwrap();
            assert_eq!(take_all(&mut a, 1), [(round, 64)], "{kind}");
        }
    });
}

#[test]
fn no_wake_up_is_lost_when_both_ends_sleep() {
    ping_pong("shm", 100_000);
}

/// Receives one frame; polls up to `patience` times before each sleep.
fn take_patiently(link: &mut BoxedLink, rng: &mut SmallRng, patience: u32) -> u64 {
    loop {
        for _ in 0..rng.random_range(0..=patience) {
            if let [(number, _)] = take(link, 1)[..] {
                return number;
            }
        }
        sleep(link);
    }
}

/// One end answers at once, the other one goes to sleep about when the answer comes: the
/// hand-over is hit at its narrowest. Needs two processors to mean anything.
#[test]
fn no_wake_up_is_lost_when_an_answer_meets_falling_asleep() {
    const ROUNDS: u64 = 100_000;
    let place = Place::new();
    let (mut a, mut b) = place.pair("shm");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = SmallRng::seed_from_u64(1);
            for round in 0..ROUNDS {
                assert_eq!(take_patiently(&mut b, &mut rng, 5_000), round);
                assert!(try_send(&mut b, round, 64));
                b.flush().unwrap();
            }
        });
        let mut rng = SmallRng::seed_from_u64(2);
        for round in 0..ROUNDS {
            assert!(try_send(&mut a, round, 64));
            a.flush().unwrap();
            assert_eq!(take_patiently(&mut a, &mut rng, 10), round);
        }
    });
}

#[test]
fn socket_links_wake_as_well() {
    for kind in KINDS {
        ping_pong(kind, 2_000);
    }
}
