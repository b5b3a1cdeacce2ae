//! What leaves: exact bytes, offloads, lengths, the link without room.

use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::wqe::WqeFlags;

use super::nic_bench::{Bench, Random, mac};
use super::support::*;

fn noise(random: &mut Random, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

#[test]
fn frames_go_out_as_they_are() {
    let mut random = Random(1);
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    for length in [14, 15, 59, 60, 61, 1514, 9018] {
        let mut frame = noise(&mut random, length);
        frame[..6].copy_from_slice(&STRANGER.0);
        station.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
        assert_eq!(bench.wire.sent.pop_front(), Some(padded(frame)));
        assert!(bench.wire.sent.is_empty());
    }
    assert_eq!(station.counter(&bench, Counter::TxFrames), 7);
    assert_eq!(station.counter(&bench, Counter::PortXmitPackets), 7);
    let octets = 4 * 15 + 61 / 4 + 1514 / 4 + 9018 / 4;
    assert_eq!(station.counter(&bench, Counter::PortXmitData), octets);
}

#[test]
fn frames_of_wrong_lengths_are_refused() {
    for length in [0, 1, 13, 9019, 65536] {
        let mut bench = Bench::default();
        let mut station = Station::new(&mut bench, 1);
        station.send(&vec![2; length], WqeFlags::empty(), 0);
        bench.run();
        let entry = station.poll().unwrap();
        assert_eq!(
            entry.status,
            CompletionStatus::LocalLength.raw(),
            "{length}"
        );
        assert!(bench.wire.sent.is_empty());
    }
}

#[test]
fn the_device_fills_in_checksums_and_tags() {
    let ip = WqeFlags::CHECKSUM_IP;
    let transport = WqeFlags::CHECKSUM_TRANSPORT;
    let mut random = Random(2);
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    for case in 0..64u8 {
        let bytes = noise(&mut random, usize::from(case) * 5 + usize::from(case % 3));
        let packet = Packet {
            v6: case & 1 != 0,
            tcp: case & 2 != 0,
            flow: case,
            data: &bytes,
        };
        // What the guest leaves in the fields does not matter.
        let wrong = [0, 0xffff, random.next() as u16][usize::from(case % 3)];
        let given = packet.frame(STRANGER, mac(1), Some(wrong), Some(wrong));
        let right = packet.frame(STRANGER, mac(1), None, None);
        let control = random.next() as u16;
        let cases = [
            (WqeFlags::empty(), given.clone()),
            (ip | transport, right.clone()),
            (ip, packet.frame(STRANGER, mac(1), None, Some(wrong))),
            (transport, packet.frame(STRANGER, mac(1), Some(wrong), None)),
            (
                ip | transport | WqeFlags::INSERT_VLAN,
                tagged(&right, control),
            ),
            (WqeFlags::INSERT_VLAN, tagged(&given, control)),
        ];
        for (flags, wanted) in cases {
            station.transmit(&mut bench, &given, flags, control);
            assert_eq!(
                bench.wire.sent.pop_front(),
                Some(padded(wanted)),
                "case {case}, {flags:?}"
            );
        }
        // A second tag goes outside, and does not hide the checksums.
        let flags = ip | transport | WqeFlags::INSERT_VLAN;
        station.transmit(&mut bench, &tagged(&given, 77), flags, control);
        let wanted = tagged(&tagged(&right, 77), control);
        assert_eq!(bench.wire.sent.pop_front(), Some(padded(wanted)));
    }
}

#[test]
fn frames_without_checksums_are_left_alone() {
    let mut random = Random(3);
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let flags = WqeFlags::CHECKSUM_IP | WqeFlags::CHECKSUM_TRANSPORT;
    for ethertype in [0x0800, 0x86dd, 0x0806, 0x8100, 46] {
        for length in [0, 3, 19, 30, 60] {
            let mut payload = noise(&mut random, length);
            if let Some(version) = payload.first_mut() {
                *version = 0x15;
            }
            let frame = ethernet(STRANGER, mac(1), ethertype, &payload);
            station.transmit(&mut bench, &frame, flags, 0);
            assert_eq!(bench.wire.sent.pop_front(), Some(padded(frame)));
        }
    }
}

#[test]
fn a_frame_waits_for_room_and_is_counted_once() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let frame = |n: u8| ethernet(STRANGER, mac(1), 0x88b5, &[n; 100]);
    bench.wire.limit = Some(0);
    for n in 0..3 {
        station.send(&frame(n), WqeFlags::empty(), 0);
        for _ in 0..5 {
            bench.step();
        }
    }
    // They share their buffer: what is sent is what is there when there is room.
    assert!(station.poll().is_none() && bench.wire.sent.is_empty());
    assert_eq!(station.counter(&bench, Counter::PortXmitWait), 1);
    assert!(bench.skip(), "the engine looks again by itself");
    for sent in 1..=3 {
        bench.wire.limit = Some(sent);
        bench.run();
        assert_eq!(bench.wire.sent.len(), sent);
    }
    assert_eq!(bench.wire.sent, [frame(2), frame(2), frame(2)]);
    assert_eq!(station.counter(&bench, Counter::PortXmitWait), 3);
    assert_eq!(station.counter(&bench, Counter::TxFrames), 3);
    for _ in 0..3 {
        assert_eq!(station.poll().unwrap().status, 0);
    }
}

#[test]
fn frames_are_lost_while_the_link_is_down() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    bench.nic.set_link(false);
    let frame = ethernet(STRANGER, mac(1), 0x88b5, &[1; 50]);
    station.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert!(bench.wire.sent.is_empty());
    assert_eq!(station.counter(&bench, Counter::PortXmitDiscards), 1);
    assert_eq!(station.counter(&bench, Counter::PortXmitPackets), 0);
    bench.nic.set_link(true);
    station.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert_eq!(bench.wire.sent.pop_front(), Some(padded(frame)));
}
