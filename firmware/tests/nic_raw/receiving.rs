//! What arrives in a queue: bytes, completions, tags, buffers that are missing or too short.

use vrnic_abi::admin::{AdminOpcode, FilterFlags, FilterType, ModifyPort, QpFlags};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionFlags;
use vrnic_abi::object::QpState;
use vrnic_firmware::host::Memory;

use super::nic_bench::{Bench, Random, data, filter, mac, with_flags};
use super::support::*;

const IP: CompletionFlags = CompletionFlags::CHECKSUM_IP;
const TRANSPORT: CompletionFlags = CompletionFlags::CHECKSUM_TRANSPORT;

#[test]
fn a_frame_arrives_with_what_is_known_of_it() {
    let mut bench = Bench::default();
    let mut station = Station::listening(&mut bench, 1);
    for case in 0..16u8 {
        let packet = Packet {
            v6: case & 1 != 0,
            tcp: case & 2 != 0,
            flow: case,
            data: &[case; 77],
        };
        let network = if packet.v6 {
            CompletionFlags::empty()
        } else {
            IP
        };
        let good = packet.frame(mac(1), STRANGER, None, None);
        let mut bad = good.clone();
        bad[packet.checksum_at()] ^= 1;
        for (frame, flags) in [(good, network | TRANSPORT), (bad, network)] {
            arrive(&mut bench, &frame);
            let (_, bytes, entry) = station.received().unwrap();
            assert_eq!(bytes, frame);
            let flags = flags | CompletionFlags::HASH_PORTS;
            assert_eq!(CompletionFlags::from_bits_retain(entry.flags), flags);
            assert_eq!((entry.vlan, entry.immediate, entry.source_qpn), (0, 0, 0));
            assert_ne!(entry.hash, 0);
        }
    }
    let header = Packet {
        v6: false,
        tcp: true,
        flow: 1,
        data: &[1],
    };
    arrive(
        &mut bench,
        &header.frame(mac(1), STRANGER, Some(0x1234), None),
    );
    let (_, _, entry) = station.received().unwrap();
    let flags = TRANSPORT | CompletionFlags::HASH_PORTS;
    assert_eq!(CompletionFlags::from_bits_retain(entry.flags), flags);
    assert_eq!(station.counter(&bench, Counter::RxFrames), 33);
    assert_eq!(station.counter(&bench, Counter::PortRcvPackets), 33);
    assert!(station.received().is_none());
}

#[test]
fn what_is_not_ip_has_no_hash_and_no_verdict() {
    let mut bench = Bench::default();
    let mut station = Station::listening(&mut bench, 1);
    let frame = ethernet(mac(1), STRANGER, 0x0806, &[3; 46]);
    arrive(&mut bench, &frame);
    let (_, bytes, entry) = station.received().unwrap();
    assert_eq!((bytes, entry.hash, entry.flags), (frame, 0, 0));
}

#[test]
fn a_fragment_has_a_hash_over_addresses() {
    let mut bench = Bench::default();
    let mut station = Station::listening(&mut bench, 1);
    let packet = Packet {
        v6: false,
        tcp: true,
        flow: 5,
        data: &[1; 40],
    };
    let mut frame = packet.frame(mac(1), STRANGER, None, None);
    frame[20] |= 0x20;
    arrive(&mut bench, &frame);
    let (_, bytes, entry) = station.received().unwrap();
    assert_eq!((bytes, entry.flags), (frame, 0));
    assert_ne!(entry.hash, 0);
}

#[test]
fn the_mtu_says_how_long_a_frame_may_be() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let key = station.key;
    let own = mac(1);
    station.listen(&mut bench, FilterType::Address, own);
    // A second queue gets a copy of each frame, and its function counts it once.
    let other = station.queue(&mut bench, QpFlags::empty());
    let other = station.queues[other].qp.number;
    let body = filter(other, FilterType::Promiscuous, own);
    station.driver.filter(&mut bench, &body);
    let mut dropped = 0;
    for mtu in [1500, 9000, 576, 4200] {
        let body = ModifyPort { mtu, reserved: 0 };
        station
            .driver
            .ok(&mut bench, AdminOpcode::ModifyPort, &body);
        for (length, fits) in [(mtu + 22, true), (mtu + 23, false), (mtu + 14, true)] {
            let mut qp =
                station
                    .driver
                    .raw_qp(&mut bench, station.pd, &station.cq, QpFlags::empty());
            let at = station.memory;
            station.hw().ram.write(at, &vec![0xcc; 10000]).unwrap();
            qp.receive(station.hw(), &[data(at, 10000, key)]);
            let body = filter(qp.number, FilterType::Address, own);
            station.driver.filter(&mut bench, &body);
            let mut payload = vec![0; length as usize - 14];
            Random(u64::from(length)).fill(&mut payload);
            let frame = ethernet(own, STRANGER, 0x88b5, &payload);
            arrive(&mut bench, &frame);
            let mut got = 0;
            while let Some(entry) = station.poll() {
                got += u32::from(entry.qpn == qp.number);
            }
            assert_eq!(got, u32::from(fits), "{length} bytes with MTU {mtu}");
            let written = station.hw().bytes(at, length as usize);
            assert_eq!(written == frame, fits);
            assert!(fits || written.iter().all(|byte| *byte == 0xcc));
            dropped += u64::from(!fits);
            let counter = station.counter(&bench, Counter::RxFrameTooLong);
            assert_eq!(counter, dropped);
            let number = qp.number;
            station
                .driver
                .destroy(&mut bench, AdminOpcode::DestroyQp, number);
        }
    }
}

#[test]
fn tags_are_taken_out_for_those_who_want_it() {
    let mut bench = Bench::default();
    let mut station = Station::listening(&mut bench, 1);
    let stripping = station.queue(&mut bench, QpFlags::STRIP_VLAN);
    let qp = station.queues[stripping].qp.number;
    station
        .driver
        .filter(&mut bench, &filter(qp, FilterType::Address, mac(1)));
    let packet = Packet {
        v6: true,
        tcp: false,
        flow: 3,
        data: b"tagged",
    };
    let plain = packet.frame(mac(1), STRANGER, None, None);
    let twice = tagged(&plain, 0x0007);
    for (inner, control) in [(&plain, 0xf123), (&plain, 0xe000), (&twice, 0x0fff)] {
        let frame = tagged(inner, control);
        arrive(&mut bench, &frame);
        let (queue, bytes, entry) = station.received().unwrap();
        assert_eq!((queue, &bytes, entry.vlan), (0, &frame, 0));
        assert_eq!(entry.flags & CompletionFlags::VLAN.bits(), 0);
        let (queue, bytes, entry) = station.received().unwrap();
        assert_eq!((queue, &bytes), (stripping, inner));
        assert_eq!(entry.vlan, u32::from(control));
        assert_ne!(entry.flags & CompletionFlags::VLAN.bits(), 0);
    }
    arrive(&mut bench, &plain);
    for _ in 0..2 {
        let (_, bytes, entry) = station.received().unwrap();
        assert_eq!((bytes, entry.vlan), (plain.clone(), 0));
        assert_eq!(entry.flags & CompletionFlags::VLAN.bits(), 0);
    }
}

/// The tag's place in several buffers.
#[test]
fn a_frame_without_its_tag_is_scattered_as_any() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let key = station.key;
    for cut in 1..30u32 {
        let mut qp =
            station
                .driver
                .raw_qp(&mut bench, station.pd, &station.cq, QpFlags::STRIP_VLAN);
        let at = station.memory;
        station.hw().ram.write(at, &[0xcc; 128]).unwrap();
        let parts = [
            data(at, cut, key),
            data(at + 40, 2, key),
            data(at + 44, 80, key),
        ];
        qp.receive(&station.driver.hw, &parts);
        let body = filter(qp.number, FilterType::Address, mac(1));
        let number = station.driver.filter(&mut bench, &body);
        let frame: Vec<u8> = ethernet(mac(1), STRANGER, 0x88b5, &(0..60).collect::<Vec<u8>>());
        arrive(&mut bench, &tagged(&frame, 9));
        let entry = station.poll().unwrap();
        assert_eq!((entry.status, entry.byte_length), (0, frame.len() as u32));
        let memory = station.hw().bytes(at, 128);
        let (a, b) = (cut as usize, frame.len() - cut as usize - 2);
        let got = [&memory[..a], &memory[40..42], &memory[44..44 + b]].concat();
        assert_eq!(got, frame, "cut at {cut}");
        assert!(memory[44 + b..].iter().all(|byte| *byte == 0xcc));
        let clear = vrnic_abi::admin::AdminOpcode::ClearFilter;
        station.driver.destroy(&mut bench, clear, number);
    }
}

#[test]
fn what_has_no_buffer_is_counted_and_the_next_one_arrives() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let mut qp = station
        .driver
        .raw_qp(&mut bench, station.pd, &station.cq, QpFlags::empty());
    let body = filter(qp.number, FilterType::Promiscuous, mac(0));
    station.driver.filter(&mut bench, &body);
    let frame = |length| ethernet(STRANGER, STRANGER, 0x88b5, &vec![length as u8; length]);
    arrive(&mut bench, &frame(50));
    qp.receive(
        &station.driver.hw,
        &[data(station.memory, 100, station.key)],
    );
    arrive(&mut bench, &frame(87));
    arrive(&mut bench, &frame(9000));
    assert!(station.poll().is_none());
    assert_eq!(station.counter(&bench, Counter::RxFrameNoReceive), 3);
    arrive(&mut bench, &frame(86));
    let entry = station.poll().unwrap();
    assert_eq!((entry.status, entry.byte_length), (0, 100));
    assert_eq!(station.hw().bytes(station.memory, 100), frame(86));
    assert_eq!(station.counter(&bench, Counter::RxFrames), 1);
}

#[test]
fn a_queue_that_is_not_ready_receives_nothing() {
    let mut bench = Bench::default();
    let mut station = Station::listening(&mut bench, 1);
    let frame = ethernet(mac(1), STRANGER, 0x88b5, &[1; 50]);
    let qp = station.queues[0].qp.number;
    station.driver.set_state(&mut bench, qp, QpState::Reset);
    arrive(&mut bench, &frame);
    assert_eq!(station.counter(&bench, Counter::RxBadState), 1);
    assert!(station.poll().is_none());
}

#[test]
fn flows_are_spread_over_queues_and_stay_together() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let mut random = Random(4);
    for _ in 1..4 {
        station.queue(&mut bench, QpFlags::empty());
    }
    for queue in 0..4 {
        let qp = station.queues[queue].qp.number;
        let body = filter(qp, FilterType::Address, mac(1));
        let body = with_flags(body, FilterFlags::SPREAD, 0);
        station.driver.filter(&mut bench, &body);
    }
    let mut used = [0u32; 4];
    for flow in 0..48u8 {
        let mut queues = Vec::new();
        for _ in 0..3 {
            let mut bytes = vec![0; random.below(300) as usize];
            random.fill(&mut bytes);
            let packet = Packet {
                v6: flow & 1 != 0,
                tcp: flow & 2 != 0,
                flow,
                data: &bytes,
            };
            let frame = packet.frame(mac(1), STRANGER, None, None);
            arrive(&mut bench, &frame);
            let (queue, got, entry) = station.received().unwrap();
            assert_eq!(got, frame);
            assert_eq!(queue, entry.hash as usize % 4);
            queues.push(queue);
            assert!(station.received().is_none(), "one copy");
        }
        assert_eq!(queues, [queues[0]; 3], "flow {flow}");
        used[queues[0]] += 1;
    }
    assert!(used.iter().all(|flows| *flows >= 4), "{used:?}");
    // What has no flow goes to the first.
    arrive(&mut bench, &ethernet(mac(1), STRANGER, 0x0806, &[0; 46]));
    assert_eq!(station.received().unwrap().0, 0);
}
