//! Events act on the packets that they name, and on no other.

use vrnic_firmware::impair::{Direction, Event};
use vrnic_firmware::types::Time;

use crate::contents::flipped_bits;
use crate::seeded::Random;
use crate::support::*;

/// Sends packets of the given shapes and returns the indices of those that do not come through.
fn dropped(events: &[&str], shapes: &[Shape]) -> Vec<usize> {
    let mut wire = wire_with(events);
    let lost = |(index, shape): (usize, &Shape)| {
        wire.handle(Time(0), &shape.frame());
        take(&mut wire, Time(0)).is_empty().then_some(index)
    };
    shapes.iter().enumerate().filter_map(lost).collect()
}

/// Packets 0 to 9 of queue pair 17, twice, with those of queue pair 18 in between.
fn two_flows() -> Vec<Shape> {
    let psns = (0..10).chain(0..10);
    psns.flat_map(|psn| [17, 18].map(|qp| Shape { psn, qp, ..SHAPE }))
        .collect()
}

#[test]
fn events_hit_exactly() {
    let table: &[(&str, &[usize])] = &[
        ("drop psn=5 of qp 17 once", &[10]),
        ("drop psn=5 qp=17 once", &[10]),
        ("drop of qp=18 psn 5", &[11]),
        ("drop psn=5 once", &[10]),
        ("drop psn=5 always", &[10, 11, 30, 31]),
        ("drop psn=5 3 times", &[10, 11, 30]),
        ("drop psn=5 nth=2", &[11]),
        ("drop psn=5 nth=2 2 times", &[11, 30]),
        ("drop psn=5 nth=3 always", &[30, 31]),
        ("drop psn=0x5 qp=0x11 nth=2", &[30]),
        ("drop psn=8..9 qp=17 always", &[16, 18, 36, 38]),
        ("drop psn=9..1 qp=17 always", &[0, 2, 18, 20, 22, 38]),
        ("drop once", &[0]),
        ("drop nth=40", &[39]),
        ("drop nth=41", &[]),
        ("drop qp=19 always", &[]),
        ("drop opcode=rc_send_only psn=5", &[10]),
        ("drop opcode=0x04 psn=5", &[10]),
        ("drop opcode=ack always", &[]),
    ];
    for (event, expected) in table {
        assert_eq!(dropped(&[event], &two_flows()), *expected, "{event}");
    }
}

#[test]
fn events_do_not_disturb_each_other() {
    // The first one drops the packet that the second one counts as its first.
    let events = ["drop psn=5", "drop psn=5 nth=2", "drop psn=9 qp=18 always"];
    assert_eq!(dropped(&events, &two_flows()), [10, 11, 19, 39]);
}

#[test]
fn events_see_packets_that_chance_drops() {
    let mut wire = spec(&["drop=100%"], &["dup psn=5 nth=2"])
        .build(Direction::Transmit)
        .unwrap();
    for _ in 0..2 {
        wire.handle(Time(0), &SHAPE.frame());
    }
    assert_eq!(wire.counters().events, 1);
    assert_eq!(
        (wire.counters().dropped, wire.counters().duplicated),
        (2, 0)
    );
}

#[test]
fn every_encapsulation_is_seen_and_nothing_else() {
    for v6 in [false, true] {
        for tagged in [false, true] {
            let shape = Shape {
                v6,
                tagged,
                ..SHAPE
            };
            assert_eq!(dropped(&["drop psn=5 qp=17"], &[shape]), [0], "{shape:?}");
        }
    }
    let others = [
        Shape {
            udp_port: 4790,
            ..SHAPE
        },
        Shape {
            fragment: 0x2000,
            ..SHAPE
        },
        Shape {
            fragment: 0x0001,
            ..SHAPE
        },
    ];
    assert!(dropped(&["drop always"], &others).is_empty());
    // Every truncation, at least of the base transport header.
    let mut wire = wire_with(&["drop always", "mark always"]);
    let frame = SHAPE.frame();
    for length in 0..frame.len() {
        wire.handle(Time(0), &frame[..length]);
        let whole = length >= SHAPE.bth() + 12;
        assert_eq!(take(&mut wire, Time(0)).is_empty(), whole, "{length}");
    }
}

#[test]
fn hostile_frames_do_no_harm() {
    for seed in 0..50_000 {
        let mut random = Random(seed);
        let shape = Shape {
            v6: random.percent(50),
            tagged: random.percent(50),
            ecn: random.below(4) as u8,
            payload: random.below(40) as usize,
            ..SHAPE
        };
        let mut frame = shape.frame();
        for _ in 0..random.below(6) {
            let at = random.below(frame.len() as u64) as usize;
            frame[at] = random.next() as u8;
        }
        frame.truncate(random.below(frame.len() as u64 * 2) as usize);
        let mut wire = spec(
            &["ecn=50%,corrupt=50%,dup=50%"],
            &["corrupt always", "mark always"],
        )
        .build(Direction::Receive)
        .unwrap();
        wire.handle(Time(0), &frame);
        for after in take(&mut wire, Time(0)) {
            assert_eq!(after.len(), frame.len(), "seed {seed}");
        }
    }
}

#[test]
fn the_other_actions() {
    let frame = Shape { ecn: 2, ..SHAPE }.frame();
    let through = |event: &str| {
        let mut wire = wire_with(&[event]);
        wire.handle(Time(0), &frame);
        drain(&mut wire)
    };
    assert_eq!(
        through("dup psn=5"),
        [(0, frame.clone()), (0, frame.clone())]
    );
    assert_eq!(through("delay=1ms psn=5"), [(MILLISECOND, frame.clone())]);
    assert_eq!(
        through("mark psn=5"),
        [(0, Shape { ecn: 3, ..SHAPE }.frame())]
    );
    let corrupted = through("corrupt psn=5").remove(0).1;
    let [bit] = flipped_bits(&frame, &corrupted)[..] else {
        panic!("one bit");
    };
    assert!((SHAPE.bth() + 12) * 8 <= bit && bit < frame.len() * 8);
    assert_eq!(
        through("corrupt psn=5"),
        [(0, corrupted)],
        "the same bit again"
    );
}

#[test]
fn a_mark_waits_for_a_packet_that_can_be_marked() {
    let mut wire = wire_with(&["mark psn=5"]);
    for ecn in [0, 3, 1, 1] {
        wire.handle(Time(0), &Shape { ecn, ..SHAPE }.frame());
    }
    let marks: Vec<u8> = take(&mut wire, Time(0))
        .iter()
        .map(|frame| frame[15] & 3)
        .collect();
    assert_eq!(marks, [0, 3, 3, 1]);
    assert_eq!(wire.counters().marked, 1);
}

#[test]
fn events_that_never_acted_are_named() {
    let mut wire = wire_with(&["drop psn=5", "drop psn=6 qp=17", "dup nth=2"]);
    wire.handle(Time(0), &SHAPE.frame());
    let idle: Vec<String> = wire.idle_events().map(Event::to_string).collect();
    assert_eq!(idle, ["drop psn=6 qp=17 once", "dup nth=2 once"]);
}
