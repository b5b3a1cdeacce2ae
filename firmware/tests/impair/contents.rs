//! What changes inside frames: flipped bits and congestion marks.

use vrnic_firmware::impair::Direction;
use vrnic_firmware::types::Time;

use crate::seeded::Random;
use crate::support::*;

pub(crate) fn flipped_bits(a: &[u8], b: &[u8]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    let differs = |bit: &usize| (a[bit / 8] ^ b[bit / 8]) & 0x80 >> (bit % 8) != 0;
    (0..a.len() * 8).filter(differs).collect()
}

#[test]
fn a_corrupted_frame_has_one_flipped_bit_behind_the_ethernet_header() {
    for shape in [
        SHAPE,
        Shape {
            tagged: true,
            v6: true,
            ..SHAPE
        },
    ] {
        let before = shape.frame();
        let mut wire = wire("corrupt=100%");
        let mut hit = vec![0_u32; before.len() * 8];
        for n in 0..200_000 {
            wire.handle(Time(n), &before);
            let after = take(&mut wire, Time(n));
            let [bit] = flipped_bits(&before, &after[0])[..] else {
                panic!("frame {n}: {:?}", flipped_bits(&before, &after[0]));
            };
            hit[bit] += 1;
        }
        let (header, rest) = hit.split_at(shape.ethernet() * 8);
        assert!(header.iter().all(|count| *count == 0));
        assert!(rest.iter().all(|count| *count > 0), "every bit is reached");
    }
}

#[test]
fn chance_and_event_together_flip_one_bit() {
    let mut wire = spec(
        &["corrupt=100%"],
        &["corrupt always", "corrupt qp=17 always"],
    )
    .build(Direction::Transmit)
    .unwrap();
    for n in 0..5_000 {
        wire.handle(Time(n), &SHAPE.frame());
        let after = take(&mut wire, Time(n));
        let [bit] = flipped_bits(&SHAPE.frame(), &after[0])[..] else {
            panic!("frame {n}");
        };
        assert!(
            bit >= (SHAPE.bth() + 12) * 8,
            "an event leaves the headers alone"
        );
    }
    assert_eq!(wire.counters().corrupted, 5_000);
}

#[test]
fn frames_without_anything_to_flip_pass() {
    let mut wire = wire("corrupt=100%,ecn=100%");
    for length in 0..=14 {
        wire.handle(Time(0), &vec![0x5a; length]);
        assert_eq!(take(&mut wire, Time(0)), [vec![0x5a; length]]);
    }
    assert_eq!(wire.counters().corrupted, 0);
}

#[test]
fn marks_keep_the_checksum_and_leave_others_alone() {
    for v6 in [false, true] {
        for tagged in [false, true] {
            for ecn in 0..4 {
                let shape = Shape {
                    v6,
                    tagged,
                    ecn,
                    ..SHAPE
                };
                let mut wire = wire("ecn=100%");
                wire.handle(Time(0), &shape.frame());
                let marked = ecn == 1 || ecn == 2;
                let expected = Shape {
                    ecn: if marked { 3 } else { ecn },
                    ..shape
                };
                assert_eq!(take(&mut wire, Time(0)), [expected.frame()], "{shape:?}");
                assert_eq!(wire.counters().marked, u64::from(marked));
            }
        }
    }
}

#[test]
fn a_mark_keeps_the_checksum_of_every_header() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut frame = Shape {
            ecn: 1 + (seed & 1) as u8,
            ..SHAPE
        }
        .frame();
        // Anything but version, ECN and what makes it IPv4.
        random.fill(&mut frame[16..20]);
        random.fill(&mut frame[22..24]);
        random.fill(&mut frame[26..34]);
        frame[24..26].fill(0);
        let sum = !ones_sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let mut wire = wire("ecn=100%");
        wire.handle(Time(0), &frame);
        let after = take(&mut wire, Time(0)).remove(0);
        assert_eq!(after[15] & 3, 3, "seed {seed}");
        assert_eq!(ones_sum(&after[14..34]), 0xffff, "seed {seed}");
    }
}
