//! Which frames reach which queue: against a model, and the commands.

use vrnic_abi::admin::{AdminOpcode, FilterFlags, FilterType, QpFlags, QpType, SetFilter, Status};
use vrnic_abi::counter::Counter;
use vrnic_firmware::types::Mac;

use super::nic_bench::{Bench, Random, filter, mac, with_flags};
use super::support::*;

const GROUPS: [Mac; 2] = [Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])];
const BROADCAST: Mac = Mac::BROADCAST;

/// Whether a filter wants a frame, as the datasheet says it.
fn wants(body: &SetFilter, to: Mac, vlan: u16) -> bool {
    let address = match FilterType::from_raw(body.filter_type).unwrap() {
        FilterType::Address => body.mac == to.0,
        FilterType::Broadcast => to == BROADCAST,
        FilterType::AllMulticast => to.0[0] & 1 == 1,
        FilterType::Promiscuous => true,
    };
    address && (body.flags & FilterFlags::VLAN.bits() == 0 || body.vlan == vlan)
}

/// No frame reaches a function without a filter that wants it, and every filter gets its copy.
#[test]
fn frames_reach_those_who_want_them_and_nobody_else() {
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut stations: Vec<Station> = (1..=3).map(|n| Station::new(&mut bench, n)).collect();
        let own = |index: usize| mac(index as u8 + 1);
        // Filters by function: their queue and what they want.
        let mut filters: Vec<Vec<(usize, SetFilter)>> = vec![Vec::new(); 3];
        for (index, station) in stations.iter_mut().enumerate() {
            station.queue(&mut bench, QpFlags::empty());
            for _ in 0..random.below(6) {
                let queue = random.below(2) as usize;
                let qp = station.queues[queue].qp.number;
                let types = [
                    FilterType::Address,
                    FilterType::Broadcast,
                    FilterType::AllMulticast,
                    FilterType::Promiscuous,
                ];
                let wanted = [own(index), GROUPS[0], GROUPS[1], BROADCAST];
                let kind = types[random.below(4) as usize];
                let body = filter(qp, kind, wanted[random.below(4) as usize]);
                let vlan = [0, 5][random.below(2) as usize];
                let flags = match random.below(2) {
                    0 => FilterFlags::empty(),
                    _ => FilterFlags::VLAN,
                };
                let body = with_flags(body, flags, vlan);
                station.driver.filter(&mut bench, &body);
                filters[index].push((queue, body));
            }
        }
        for _ in 0..60 {
            let to = match random.below(7) {
                n @ 0..=2 => own(n as usize),
                3 => STRANGER,
                4 => BROADCAST,
                n => GROUPS[n as usize - 5],
            };
            let vlan = [0, 5, 6][random.below(3) as usize];
            let plain = ethernet(to, STRANGER, 0x88b5, &random.next().to_le_bytes());
            let frame = if vlan == 0 {
                plain
            } else {
                tagged(&plain, vlan)
            };
            arrive(&mut bench, &frame);
            for (index, station) in stations.iter_mut().enumerate() {
                let others = (0..3).any(|other| other != index && own(other) == to);
                let mut wanted: Vec<usize> = filters[index]
                    .iter()
                    .filter(|(_, body)| !others && wants(body, to, vlan))
                    .map(|(queue, _)| *queue)
                    .collect();
                wanted.sort_unstable();
                wanted.dedup();
                let mut got = Vec::new();
                while let Some((queue, bytes, _)) = station.received() {
                    assert_eq!(bytes, frame, "seed {seed}");
                    got.push(queue);
                }
                assert_eq!(got, wanted, "seed {seed}: {to:?} vlan {vlan}");
                station.repost(&got);
            }
        }
    }
}

#[test]
fn an_unwanted_frame_is_counted_by_its_addressee() {
    let mut bench = Bench::default();
    let one = Station::new(&mut bench, 1);
    let mut two = Station::new(&mut bench, 2);
    two.listen(&mut bench, FilterType::Promiscuous, mac(0));
    arrive(&mut bench, &ethernet(mac(1), STRANGER, 0x88b5, &[1; 50]));
    assert_eq!(one.counter(&bench, Counter::RxFrameNoFilter), 1);
    assert!(two.received().is_none(), "a frame for a neighbour");
    arrive(&mut bench, &ethernet(GROUPS[0], STRANGER, 0x88b5, &[1; 50]));
    assert!(two.received().is_some());
    let drops = bench.nic.drops();
    assert_eq!((drops.not_roce, drops.not_ours), (1, 0));
}

#[test]
fn a_filter_goes_with_its_queue_pair_and_with_a_reset() {
    let mut bench = Bench::default();
    let mut station = Station::listening(&mut bench, 1);
    let frame = ethernet(mac(1), STRANGER, 0x88b5, &[1; 50]);
    let other = station.queue(&mut bench, QpFlags::empty());
    let qp = station.queues[other].qp.number;
    let body = filter(qp, FilterType::Promiscuous, mac(0));
    let number = station.driver.filter(&mut bench, &body);
    arrive(&mut bench, &frame);
    assert!(station.received().is_some() && station.received().is_some());
    station
        .driver
        .destroy(&mut bench, AdminOpcode::DestroyQp, qp);
    let status = |station: &mut Station, bench: &mut Bench, number: u32| {
        let body = u64::from(number);
        let clear = AdminOpcode::ClearFilter;
        Status::from_raw(station.driver.command(bench, clear, &body).status).unwrap()
    };
    let gone = status(&mut station, &mut bench, number);
    assert_eq!(gone, Status::NoSuchObject);
    arrive(&mut bench, &frame);
    assert_eq!(station.received().map(|(queue, ..)| queue), Some(0));
    assert!(station.received().is_none());
    bench.nic.reset(station.driver.id);
    arrive(&mut bench, &frame);
    assert_eq!(bench.nic.drops().not_roce, 1);
}

#[test]
fn filters_are_checked() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let mut other = Station::listening(&mut bench, 2);
    other.listen(&mut bench, FilterType::Address, STRANGER);
    let qp = station.queues[0].qp.number;
    let rc = station.driver.qp_of(
        &mut bench,
        station.pd,
        &station.cq,
        QpType::Ud,
        QpFlags::empty(),
    );
    let good = filter(qp, FilterType::Address, mac(1));
    let cases = [
        (SetFilter { qp: 99, ..good }, Status::NoSuchObject, 8),
        (
            SetFilter {
                qp: rc.number,
                ..good
            },
            Status::BadArgument,
            8,
        ),
        (
            SetFilter {
                filter_type: 4,
                ..good
            },
            Status::BadArgument,
            12,
        ),
        (SetFilter { flags: 4, ..good }, Status::BadArgument, 13),
        (
            with_flags(good, FilterFlags::VLAN, 4095),
            Status::BadArgument,
            14,
        ),
        (
            SetFilter {
                mac: [0; 6],
                ..good
            },
            Status::BadArgument,
            16,
        ),
        (
            SetFilter {
                mac: mac(2).0,
                ..good
            },
            Status::Busy,
            16,
        ),
        (
            SetFilter {
                mac: STRANGER.0,
                ..good
            },
            Status::Busy,
            16,
        ),
    ];
    for (body, status, at) in cases {
        let completion = station
            .driver
            .command(&mut bench, AdminOpcode::SetFilter, &body);
        let got = (Status::from_raw(completion.status), completion.syndrome);
        assert_eq!(got, (Some(status), at), "{body:?}");
    }
    // Nothing was set.
    arrive(&mut bench, &ethernet(mac(1), STRANGER, 0x88b5, &[1; 50]));
    assert!(station.received().is_none());
    station.driver.filter(&mut bench, &good);
}

#[test]
fn the_number_of_filters_is_bounded() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let qp = station.queues[0].qp.number;
    let full = Some(Status::NoResources);
    let mut set = 0u32;
    let last = loop {
        let [high, low] = (set as u16 / 8).to_be_bytes();
        let body = filter(qp, FilterType::Address, Mac([2, 1, 0, 0, high, low]));
        let completion = station
            .driver
            .command(&mut bench, AdminOpcode::SetFilter, &body);
        if completion.status != 0 {
            break completion;
        }
        set += 1;
    };
    assert_eq!((set, Status::from_raw(last.status)), (256, full));
    station
        .driver
        .destroy(&mut bench, AdminOpcode::ClearFilter, 17);
    let body = filter(qp, FilterType::Broadcast, mac(0));
    assert_eq!(station.driver.filter(&mut bench, &body), 17);
}
