//! When frames come through and in which order, and how many can be on their way.

use vrnic_firmware::impair::{MAX_BYTES, MAX_FRAMES, MAX_HOLD, OVERTAKERS};
use vrnic_firmware::types::Time;

use crate::support::*;

#[test]
fn delay_alone_is_exact_and_keeps_the_order() {
    for gap in [0, 70, 20 * MICROSECOND] {
        let mut wire = wire("delay=10us");
        let out = run(&mut wire, 1000, gap);
        assert_eq!(numbers(&out), (0..1000).collect::<Vec<_>>());
        for (at, frame) in &out {
            assert_eq!(*at, number(frame) * gap + 10 * MICROSECOND);
        }
        assert_eq!(wire.counters().delayed, 1000);
    }
}

#[test]
fn what_does_not_reorder_keeps_the_order() {
    for seed in 0..20 {
        let mut wire = wire(&format!(
            "delay=10us,drop=9%,dup=9%,corrupt=0%,rate=1G,seed={seed}"
        ));
        let out = run(&mut wire, 2000, 700);
        assert!(numbers(&out).is_sorted(), "seed {seed}");
        assert!(out.is_sorted_by_key(|(at, _)| *at), "seed {seed}");
    }
}

#[test]
fn jitter_stays_in_its_bounds_and_reorders() {
    let mut wire = wire("delay=10us,jitter=5us");
    let out = run(&mut wire, 10_000, 700);
    let mut spread = [0_u32; 5];
    for (at, frame) in &out {
        let jitter = at - number(frame) * 700 - 10 * MICROSECOND;
        assert!(jitter <= 5 * MICROSECOND, "{jitter}");
        spread[(jitter / 1001) as usize] += 1;
    }
    assert!(spread.iter().all(|count| *count > 1800), "{spread:?}");
    assert!(!numbers(&out).is_sorted());
    let mut sorted = numbers(&out);
    sorted.sort_unstable();
    assert_eq!(sorted, (0..10_000).collect::<Vec<_>>(), "none is lost");
}

#[test]
fn a_frame_that_is_held_back_is_overtaken_by_three() {
    let mut wire = wire("reorder=10%,seed=9");
    let out = run(&mut wire, 1000, 1);
    let order = numbers(&out);
    let place = |n: u64| order.iter().position(|m| *m == n).unwrap();
    let held = wire.counters().reordered;
    assert!((50..150).contains(&held));
    // Those that were overtaken, and by how many.
    let overtaken = |n: u64| order[..place(n)].iter().filter(|m| **m > n).count();
    let late = where_true(1000, |n| overtaken(n) > 0);
    let last = late.iter().filter(|n| **n < 980);
    assert!(last.clone().count() >= 40);
    for n in last {
        assert!(overtaken(*n) >= usize::from(OVERTAKERS), "{n}");
    }
}

#[test]
fn a_held_frame_comes_in_time_when_too_few_follow() {
    let mut wire = wire_with(&["reorder psn=5"]);
    let frame = SHAPE.frame();
    wire.handle(Time(100), &frame);
    wire.handle(Time(200), &numbered(1, 60));
    assert_eq!(take(&mut wire, Time(200)), [numbered(1, 60)]);
    let until = Time(100).after(MAX_HOLD);
    assert_eq!(wire.next_timeout(), Some(until));
    assert!(take(&mut wire, Time(until.0 - 1)).is_empty());
    assert_eq!(take(&mut wire, until), [frame]);
    assert_eq!((wire.next_timeout(), wire.in_flight()), (None, 0));
}

#[test]
fn an_exact_reorder_moves_one_packet_behind_three() {
    let mut wire = wire_with(&["reorder psn=2"]);
    let mut out = Vec::new();
    for psn in 0..8 {
        wire.handle(Time(psn.into()), &Shape { psn, ..SHAPE }.frame());
        out.extend(take(&mut wire, Time(psn.into())));
    }
    let psn_at = SHAPE.bth() + 11;
    let order: Vec<u8> = out.iter().map(|frame| frame[psn_at]).collect();
    assert_eq!(order, [0, 1, 3, 4, 5, 2, 6, 7]);
}

#[test]
fn a_rate_is_kept_exactly() {
    // 100 bytes at 700 Mbit/s take 1142.857 ns.
    let mut wire = wire("rate=700M");
    let out = run(&mut wire, 7000, 0);
    assert_eq!(out.len(), 7000);
    for (n, (at, frame)) in (1..).zip(&out) {
        assert_eq!(number(frame), n - 1);
        assert_eq!(*at, n * 8_000 / 7);
    }
    // A wire that was idle begins anew.
    wire.handle(Time(MILLISECOND * 100), &numbered(0, 100));
    assert_eq!(wire.next_timeout(), Some(Time(MILLISECOND * 100 + 1142)));
}

#[test]
fn a_full_buffer_drops_what_comes_last() {
    let mut wire = wire("rate=1G");
    let count = (2 << 20) / 1024;
    for n in 0..count {
        wire.handle(Time(0), &numbered(n, 1024));
    }
    let fit = (1 << 20) / 1024;
    assert_eq!(wire.counters().rate_dropped, count - fit);
    let order = numbers(&drain(&mut wire));
    assert_eq!(order, (0..fit).collect::<Vec<_>>());
    // A slow wire makes nobody wait for longer than a second.
    let mut wire = crate::support::wire("rate=64K");
    for n in 0..1000 {
        wire.handle(Time(0), &numbered(n, 1000));
    }
    let out = drain(&mut wire);
    assert_eq!(out.len(), 8);
    assert_eq!(out.last().unwrap().0, 1_000 * MILLISECOND);
}

#[test]
fn memory_is_bounded() {
    let mut wire = wire("delay=10s,jitter=10s,dup=50%");
    for n in 0..2 * MAX_FRAMES as u64 {
        wire.handle(Time(n), &numbered(n, 60));
    }
    assert_eq!(wire.in_flight(), MAX_FRAMES);
    let counters = wire.counters();
    let came = counters.frames + counters.duplicated;
    assert_eq!(counters.overflowed, came - MAX_FRAMES as u64);
    let last = drain(&mut wire).last().unwrap().0;
    assert!(last <= 20_001 * MILLISECOND, "{last}");

    let mut wire = crate::support::wire("delay=10s");
    for n in 0..3000 {
        wire.handle(Time(n), &numbered(n, 65_536));
    }
    assert_eq!(wire.in_flight(), MAX_BYTES / 65_536);
    assert_eq!(drain(&mut wire).len(), MAX_BYTES / 65_536);
    // There is room again.
    wire.handle(Time(0), &numbered(0, 65_536));
    assert_eq!(wire.in_flight(), 1);
}

#[test]
fn everything_held_back_is_bounded_and_comes() {
    let mut wire = wire("reorder=100%,dup=100%");
    let out = run(&mut wire, 1000, 0);
    assert_eq!(out.len(), 2000);
    assert!(wire.counters().reordered > 0);
}
