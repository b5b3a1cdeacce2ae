//! Between functions of the NIC and the wire.

use vrnic_abi::admin::{FilterType, QpFlags, QpType};
use vrnic_abi::counter::Counter;
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::{NicConfig, PortDrops};
use vrnic_firmware::types::{Gid, Mac};

use super::nic_bench::{Bench, Node, Random, connect, filter, group, mac};
use super::support::*;

const NONE: WqeFlags = WqeFlags::empty();

fn three(bench: &mut Bench) -> [Station; 3] {
    [1, 2, 3].map(|n| {
        let mut station = Station::listening(bench, n);
        station.listen(bench, FilterType::Broadcast, mac(0));
        station
    })
}

#[test]
fn a_frame_for_a_neighbour_stays_inside() {
    let mut bench = Bench::default();
    let [mut one, mut two, mut three] = three(&mut bench);
    let frame = ethernet(mac(2), mac(1), 0x88b5, &[7; 99]);
    one.transmit(&mut bench, &frame, NONE, 0);
    let (_, bytes, _) = two.received().unwrap();
    assert_eq!(bytes, frame);
    assert!(two.received().is_none() && three.received().is_none());
    assert!(bench.wire.sent.is_empty());
    assert_eq!(bench.wire.looped, 1, "a capture sees it");
    assert_eq!(two.counter(&bench, Counter::PortRcvPackets), 1);
    // It is padded as on a wire.
    one.transmit(&mut bench, &frame[..20], NONE, 0);
    assert_eq!(two.received().unwrap().1, padded(frame[..20].to_vec()));
}

#[test]
fn a_broadcast_goes_to_all_others_and_out() {
    let mut bench = Bench::default();
    let [mut one, mut two, mut three] = three(&mut bench);
    one.listen(&mut bench, FilterType::Promiscuous, mac(0));
    let frame = ethernet(Mac::BROADCAST, mac(1), 0x0806, &[7; 46]);
    one.transmit(&mut bench, &frame, NONE, 0);
    for station in [&mut two, &mut three] {
        assert_eq!(station.received().unwrap().1, frame);
        assert!(station.received().is_none());
    }
    assert!(one.received().is_none(), "nobody hears himself");
    assert_eq!(bench.wire.sent.pop_front(), Some(frame));
    assert!(bench.wire.sent.is_empty());
    assert_eq!(one.counter(&bench, Counter::PortXmitPackets), 1);
}

#[test]
fn a_frame_to_a_stranger_goes_out_and_to_promiscuous_neighbours() {
    let mut bench = Bench::default();
    let [mut one, mut two, mut three] = three(&mut bench);
    three.listen(&mut bench, FilterType::Promiscuous, mac(0));
    let frame = ethernet(STRANGER, mac(1), 0x88b5, &[7; 46]);
    one.transmit(&mut bench, &frame, NONE, 0);
    assert_eq!(bench.wire.sent.pop_front(), Some(frame.clone()));
    assert_eq!(three.received().unwrap().1, frame);
    assert!(two.received().is_none());
    // To itself: to nobody.
    one.transmit(
        &mut bench,
        &ethernet(mac(1), mac(1), 0x88b5, &[7; 46]),
        NONE,
        0,
    );
    assert!(one.received().is_none() && three.received().is_none());
    assert!(bench.wire.sent.is_empty());
}

#[test]
fn neighbours_hear_each_other_without_a_link() {
    let mut bench = Bench::default();
    let [mut one, mut two, _three] = three(&mut bench);
    bench.nic.set_link(false);
    let frame = ethernet(Mac::BROADCAST, mac(1), 0x0806, &[7; 46]);
    one.transmit(&mut bench, &frame, NONE, 0);
    assert_eq!(two.received().unwrap().1, frame);
    assert_eq!(one.counter(&bench, Counter::PortXmitDiscards), 1);
    assert_eq!(bench.wire.looped, 1, "a capture sees it");
    bench.nic.set_link(true);
    // Nor does a link without room stop what stays inside; what leaves waits as a whole.
    bench.wire.limit = Some(0);
    let inside = ethernet(mac(2), mac(1), 0x88b5, &[8; 99]);
    one.transmit(&mut bench, &inside, NONE, 0);
    assert_eq!(two.received().unwrap().1, inside);
    one.send(&frame, NONE, 0);
    for _ in 0..5 {
        bench.step();
    }
    assert!(two.received().is_none() && one.poll().is_none());
    bench.wire.limit = None;
    bench.run();
    assert_eq!(two.received().unwrap().1, frame);
    assert!(two.received().is_none());
    assert_eq!(bench.wire.sent, [frame]);
}

/// Whether a frame to a group may have receivers inside is found out only when it is handled.
#[test]
fn what_went_out_on_the_link_is_not_lost_inside() {
    let mut bench = Bench::default();
    let physical = Station::new(&mut bench, 0);
    let mut one = Station::new(&mut bench, 1);
    let mut two = Node::new(&mut bench, 2);
    let qp = two
        .driver
        .datagram_qp(&mut bench, two.pd, &two.cq, QpType::Ud, 1);
    let body = group(qp.number, 0, Gid::from_v4([224, 0, 0, 5]));
    two.driver.attach(&mut bench, &body);
    let others = [1, 0, 0x5e, 0, 0, 6];
    let mut rdma = roce_frames(&mut Bench::default()).remove(0);
    rdma[..6].copy_from_slice(&others);
    let plain = ethernet(Mac::BROADCAST, mac(1), 0x0806, &[7; 46]);
    let damaged = [&rdma[..60], &[0; 4]].concat();
    for frame in [plain, rdma, damaged] {
        one.transmit(&mut bench, &frame, NONE, 0);
        assert_eq!(bench.wire.sent.pop_front(), Some(frame));
    }
    assert_eq!(bench.nic.drops(), PortDrops::default());
    for counter in [
        Counter::RxNotRoce,
        Counter::RxNotForUs,
        Counter::RxNoMulticastMember,
    ] {
        assert_eq!(physical.counter(&bench, counter), 0);
    }
}

#[test]
fn more_frames_than_the_queue_between_functions_holds_arrive_in_order() {
    let mut bench = Bench::default();
    let [mut one, mut two, _three] = three(&mut bench);
    let mut random = Random(5);
    for round in 0..20 {
        let mut wanted = Vec::new();
        for _ in 0..1 + random.below(3) {
            let frame = ethernet(mac(2), mac(1), 0x88b5, &random.next().to_le_bytes());
            one.transmit(&mut bench, &frame, NONE, 0);
            wanted.push(padded(frame));
        }
        for frame in wanted {
            assert_eq!(two.received().map(|r| r.1), Some(frame), "round {round}");
        }
    }
}

/// Frames of RC connections, as they are on a wire.
fn roce_frames(bench: &mut Bench) -> Vec<Vec<u8>> {
    let mut other = Bench::default();
    let mut a = Node::new(bench, 1);
    let mut b = Node::new(&mut other, 9);
    connect((bench, &mut a), (&mut other, &mut b));
    let segment = a.segment(0, 3000);
    a.qp.send(&a.driver.hw, vrnic_abi::wqe::WqeOpcode::Send, 0, &[segment]);
    bench.step();
    let frames: Vec<_> = bench.wire.sent.drain(..).collect();
    assert!(!frames.is_empty());
    frames
}

#[test]
fn filters_see_packets_of_rdma_only_if_they_are_for_others() {
    for direct in [true, false] {
        let config = NicConfig {
            direct,
            ..NicConfig::default()
        };
        // Packets from function 1 of some NIC to function 9 of another one.
        let frames = roce_frames(&mut Bench::default());
        let mut bench = Bench::new(config);
        let mut station = Station::new(&mut bench, 9);
        station.listen(&mut bench, FilterType::Promiscuous, mac(0));
        for frame in &frames {
            arrive(&mut bench, frame);
            let mut damaged = frame.clone();
            *damaged.last_mut().unwrap() ^= 1;
            arrive(&mut bench, &damaged);
        }
        assert!(station.received().is_none());
        let wrong = station.counter(&bench, Counter::RxIcrcEncapsulated);
        assert_eq!(wrong, frames.len() as u64);

        let mut bench = Bench::new(config);
        let mut station = Station::new(&mut bench, 8);
        station.listen(&mut bench, FilterType::Promiscuous, mac(0));
        for frame in &frames {
            arrive(&mut bench, frame);
            assert_eq!(station.received().unwrap().1, *frame);
        }
        assert_eq!(bench.nic.drops().not_ours, 0);
    }
}

/// Raw frames between functions, RDMA between the same ones, both ways of moving it.
#[test]
fn frames_and_rdma_share_the_port() {
    for direct in [true, false] {
        let mut bench = Bench::new(NicConfig {
            direct,
            ..NicConfig::default()
        });
        let (mut a, mut b) = super::nic_bench::pair(&mut bench);
        let mut raw = [&mut a, &mut b].map(|node| {
            let (pd, cq) = (node.pd, &node.cq);
            node.driver.raw_qp(&mut bench, pd, cq, QpFlags::empty())
        });
        let body = filter(raw[1].number, FilterType::Address, mac(2));
        b.driver.filter(&mut bench, &body);
        let frame = ethernet(mac(2), mac(1), 0x88b5, &[0x5c; 200]);
        a.hw().ram.write(a.memory, &frame).unwrap();
        a.hw().ram.write(a.memory + 4096, &[0x3d; 5000]).unwrap();
        raw[1].receive(&b.driver.hw, &[b.segment(0, 2000)]);
        b.qp.receive(&b.driver.hw, &[b.segment(4096, 8192)]);
        let send = vrnic_abi::wqe::WqeOpcode::Send;
        let segments = [a.segment(0, frame.len() as u32), a.segment(4096, 5000)];
        raw[0].send(&a.driver.hw, send, 0, &segments[..1]);
        a.qp.send(&a.driver.hw, send, 0, &segments[1..]);
        bench.run();
        for node in [&mut a, &mut b] {
            for _ in 0..2 {
                assert_eq!(node.poll().unwrap().status, 0);
            }
        }
        assert_eq!(b.hw().bytes(b.memory, frame.len()), frame);
        assert_eq!(b.hw().bytes(b.memory + 4096, 5000), [0x3d; 5000]);
        assert!(bench.wire.sent.is_empty());
    }
}
