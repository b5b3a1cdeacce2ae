//! Frames and commands that nobody in his right mind would send.

use vrnic_abi::admin::{AdminOpcode, FilterType, QpFlags};
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::types::Mac;

use super::nic_bench::{Bench, Random, mac};
use super::support::*;

/// With a new queue each, the stations still hear each other.
#[track_caller]
fn all_is_well(bench: &mut Bench, one: &mut Station, two: &mut Station) {
    bench.run();
    for station in [&mut *one, &mut *two] {
        let old = station.queues.remove(0).qp.number;
        station.driver.destroy(bench, AdminOpcode::DestroyQp, old);
        station.queue(bench, QpFlags::empty());
        station.listen(bench, FilterType::Address, mac(station.driver.n));
        while station.poll().is_some() {}
    }
    let frame = ethernet(mac(2), mac(1), 0x88b5, &[0x77; 333]);
    one.transmit(bench, &frame, WqeFlags::empty(), 0);
    assert_eq!(two.received().unwrap().1, frame);
    let frame = ethernet(mac(1), mac(2), 0x88b5, &[0x78; 99]);
    two.transmit(bench, &frame, WqeFlags::empty(), 0);
    assert_eq!(one.received().unwrap().1, frame);
}

#[test]
fn frames_of_all_lengths_and_contents() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut one = Station::listening(&mut bench, 1);
        let mut two = Station::listening(&mut bench, 2);
        let filters = [
            FilterType::Promiscuous,
            FilterType::AllMulticast,
            FilterType::Broadcast,
        ];
        for filter in filters {
            one.listen(&mut bench, filter, mac(0));
        }
        for length in (0..14).chain([65536, 65535, 70000]) {
            let mut frame = vec![0; length];
            random.fill(&mut frame);
            arrive(&mut bench, &frame);
        }
        let packets = [(false, false), (false, true), (true, false), (true, true)];
        for _ in 0..3000 {
            let (v6, tcp) = packets[random.below(4) as usize];
            let mut bytes = vec![0; random.below(100) as usize];
            random.fill(&mut bytes);
            let packet = Packet {
                v6,
                tcp,
                flow: 1,
                data: &bytes,
            };
            let to = [mac(1), mac(2), STRANGER, Mac::BROADCAST][random.below(4) as usize];
            let mut frame = packet.frame(to, STRANGER, None, None);
            if random.below(2) == 0 {
                frame = tagged(&frame, random.next() as u16);
            }
            for _ in 0..random.below(4) {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] = random.next() as u8;
            }
            if random.below(4) == 0 {
                frame.truncate(random.below(frame.len() as u64 + 1) as usize);
            }
            arrive(&mut bench, &frame);
        }
        assert!(
            bench.wire.sent.is_empty(),
            "seed {seed}: nothing is answered"
        );
        all_is_well(&mut bench, &mut one, &mut two);
    }
}

#[test]
fn frames_of_a_guest_that_means_no_good() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut one = Station::listening(&mut bench, 1);
        let mut two = Station::listening(&mut bench, 2);
        for _ in 0..200 {
            let mut frame = vec![0; (14 + random.below(1986)) as usize];
            random.fill(&mut frame);
            if random.below(2) == 0 {
                frame[..6].copy_from_slice(&mac(2).0);
            }
            if random.below(2) == 0 {
                let packet = [8, 0, 0x45 | random.next() as u8 & 0xa0];
                let length = frame.len().min(15);
                frame[12..length].copy_from_slice(&packet[..length - 12]);
            }
            let flags = WqeFlags::from_bits_retain((random.next() as u8) & 0x71);
            one.transmit(&mut bench, &frame, flags, random.next() as u16);
            while two.poll().is_some() {}
        }
        all_is_well(&mut bench, &mut one, &mut two);
    }
}

#[test]
fn random_commands_about_filters_and_groups() {
    let opcodes = [
        AdminOpcode::SetFilter,
        AdminOpcode::ClearFilter,
        AdminOpcode::AttachMulticast,
        AdminOpcode::DetachMulticast,
    ];
    for seed in 0..4 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut one = Station::listening(&mut bench, 1);
        let mut two = Station::listening(&mut bench, 2);
        let qp = one.queues[0].qp.number;
        for _ in 0..2000 {
            let mut body = [0u8; 56];
            if random.below(2) == 0 {
                random.fill(&mut body);
            }
            match random.below(3) {
                0 => body[..4].copy_from_slice(&qp.to_le_bytes()),
                1 => body[..4].copy_from_slice(&(random.below(300) as u32).to_le_bytes()),
                _ => {}
            }
            body[4] = random.below(5) as u8;
            body[5] = random.below(5) as u8;
            let opcode = opcodes[random.below(4) as usize];
            one.driver.raw(&mut bench, opcode.raw(), &body);
        }
        // Whatever was set is not the neighbour's affair.
        let frame = ethernet(mac(2), STRANGER, 0x88b5, &[0x77; 100]);
        while one.poll().is_some() {}
        arrive(&mut bench, &frame);
        assert_eq!(two.received().unwrap().1, frame, "seed {seed}");
        assert!(one.poll().is_none(), "seed {seed}");
        all_is_well(&mut bench, &mut one, &mut two);
    }
}
