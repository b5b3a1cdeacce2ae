//! A peer that says anything.
//!
//! Sequence numbers in these tests count from the first of each direction.

use crate::bench::*;
use crate::rules::*;

fn random_body(random: &mut Random) -> Body {
    let places = [Place::First, Place::Middle, Place::Last, Place::Only];
    let place = places[random.below(4) as usize];
    let source = RemoteRange {
        address: BASE.wrapping_add(random.below(70_000)).wrapping_sub(1000),
        rkey: if random.percent(90) {
            KEY
        } else {
            random.next() as u32
        },
        length: (random.next() >> random.below(40).max(32)) as u32,
    };
    let acknowledge = Acknowledge {
        syndrome: match random.below(4) {
            0 => Syndrome::RnrNak(random.next() as u8),
            1 => nak(NakCode::PsnSequence),
            2 if random.percent(10) => nak(NakCode::RemoteAccess),
            _ => Syndrome::Ack(random.next() as u8),
        },
        msn: Psn::new(random.next() as u32),
    };
    match random.below(8) {
        0 => send(place),
        1 => Body::Write {
            place,
            target: Some(source).filter(|_| place.starts()),
            immediate: Some(3).filter(|_| random.percent(30)),
        },
        2 => Body::Read { source },
        3 => atomic_body(random.below(100) & !3, AtomicOperation::FetchAdd(1)),
        4 => Body::ReadResponse {
            place,
            acknowledge: None,
        },
        5 => Body::AtomicResponse {
            acknowledge,
            original: random.next(),
        },
        _ => Body::Acknowledge(acknowledge),
    }
}

/// Random PDUs, timers and transitions: no panic, no endless work, all requests end.
#[test]
fn a_peer_can_say_anything() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut solo = Solo::new();
        for step in 0..200 {
            let base = if random.percent(50) {
                1000
            } else {
                2000 + step
            };
            let psn = Psn::new(base + random.below(8) as u32);
            let lengths = [0, 1, 256, 255, 300];
            let length = lengths[random.below(5) as usize];
            let body = random_body(&mut random);
            let packets = if random.percent(90) {
                1
            } else {
                random.below(5) as u32
            };
            solo.deliver(&packet(psn, packets, body, &vec![7; length]));
            solo.node.post_receive(u64::from(step), 0, 300);
            let cookie = u64::from(step);
            match random.below(6) {
                0 => solo.post(cookie, SEND, 0, 1000),
                1 => solo.post(cookie, read_operation(0), 0, 1000),
                2 if solo.qp.deadline().is_some() => solo.expire(),
                _ => {}
            }
            solo.node.room = 1 + random.below(50) as usize;
            solo.poll_once();
            solo.out.clear();
        }
        solo.node.room = usize::MAX;
        solo.modify(Modify::to(State::Error)).unwrap();
        assert_broken(&mut solo);
    }
}
