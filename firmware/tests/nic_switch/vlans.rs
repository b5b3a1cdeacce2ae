//! Access and trunk ports: tags that come and go, and who hears whom.

use vrnic_abi::admin::{AdminOpcode, FilterFlags, FilterType, QpFlags, QpType, Status};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionFlags;
use vrnic_abi::wqe::{WqeFlags, WqeOpcode};
use vrnic_firmware::nic::{NicConfig, Policy, PolicyError};
use vrnic_firmware::types::{Gid, Mac};

use super::nic_bench::net::Way;
use super::nic_bench::{
    Bench, Driver, Node, Random, control, datagram, filter, gid, group, mac, with_flags,
};
use super::rules::*;
use super::support::*;

const NONE: WqeFlags = WqeFlags::empty();
const CONTROL: u16 = 3 << 13 | 100;

#[track_caller]
fn listener(bench: &mut Bench, n: u8, policy: Policy) -> Station {
    let mut station = Station::listening(bench, n);
    station.listen(bench, FilterType::Broadcast, mac(0));
    set(bench, station.driver.id, policy);
    station
}

fn plain(to: Mac, from: u8) -> Vec<u8> {
    ethernet(to, mac(from), 0x88b5, &[from ^ 0x5a; 80])
}

#[test]
fn an_access_port_puts_the_tag_in_and_takes_it_out() {
    let mut bench = Bench::default();
    let mut one = listener(&mut bench, 1, access(100, 3));
    // Out on the link, long and short.
    for length in [80, 1] {
        let frame = ethernet(STRANGER, mac(1), 0x88b5, &vec![7; length]);
        one.transmit(&mut bench, &frame, NONE, 0);
        let sent = bench.wire.sent.pop_front().unwrap();
        assert_eq!(sent, tagged(&padded(frame), CONTROL));
    }
    // In from the link; the completion knows of no tag, and no filter of the VLAN's number matches.
    let queue = one.queue(&mut bench, QpFlags::STRIP_VLAN);
    for (vlan, to) in [(100, 0), (0, queue)] {
        let body = filter(one.queues[to].qp.number, FilterType::Address, mac(1));
        let body = with_flags(body, FilterFlags::VLAN, vlan);
        one.driver.filter(&mut bench, &body);
    }
    let frame = ethernet(mac(1), STRANGER, 0x88b5, &[9; 80]);
    arrive(&mut bench, &tagged(&frame, CONTROL));
    for expected in [0, queue] {
        let (at, bytes, entry) = one.received().unwrap();
        assert_eq!((at, bytes), (expected, frame.clone()));
        assert_eq!(entry.vlan, 0);
        assert_eq!(entry.flags & CompletionFlags::VLAN.bits(), 0);
    }
    // A tag behind that of the port is the guest's own.
    let inner = tagged(&frame, 100);
    arrive(&mut bench, &tagged(&inner, CONTROL));
    let (at, bytes, _) = one.received().unwrap();
    assert_eq!((at, bytes), (0, inner), "of queue 0, by both filters once");
    assert!(one.received().is_none());
    // What is in no VLAN or another one is not for it.
    for other in [frame.clone(), tagged(&frame, 101)] {
        arrive(&mut bench, &other);
        assert!(one.received().is_none());
    }
    assert_eq!(one.counter(&bench, Counter::RxNotAllowed), 2);
}

#[test]
fn a_tag_of_the_guests_does_not_pass_an_access_port() {
    let mut bench = Bench::default();
    let mut one = listener(&mut bench, 1, access(100, 0));
    let mut two = listener(&mut bench, 2, trunk(&[0, 5, 100]));
    let frame = plain(mac(2), 1);
    for forged in [
        tagged(&frame, 5),
        tagged(&frame, 100),
        tagged(&frame, 0),
        tagged(&tagged(&frame, 100), 5),
        ethernet(mac(2), mac(1), 0x88a8, &[0; 60]),
    ] {
        one.transmit(&mut bench, &forged, NONE, 0);
    }
    one.transmit(&mut bench, &frame, WqeFlags::INSERT_VLAN, 5);
    assert!(two.received().is_none() && bench.wire.sent.is_empty());
    assert_eq!(one.counter(&bench, Counter::TxSpoofedVlan), 6);
    one.transmit(&mut bench, &frame, NONE, 0);
    assert_eq!(two.received().unwrap().1, tagged(&frame, 100));
    // Unchecked, a tag stays behind that of the port: no way out of its VLAN.
    let mut unchecked = access(100, 0);
    unchecked.checks.vlan = false;
    set(&mut bench, one.driver.id, unchecked);
    one.transmit(&mut bench, &tagged(&frame, 5), NONE, 0);
    assert_eq!(two.received().unwrap().1, tagged(&tagged(&frame, 5), 100));
}

#[test]
fn a_trunk_port_is_in_its_vlans_only() {
    let mut bench = Bench::default();
    let mut one = listener(&mut bench, 1, trunk(&[5, 6]));
    let mut two = listener(&mut bench, 2, trunk(&[0, 6]));
    let frame = plain(mac(2), 1);
    one.transmit(&mut bench, &frame, NONE, 0);
    one.transmit(&mut bench, &tagged(&frame, 7), NONE, 0);
    one.transmit(&mut bench, &frame, WqeFlags::INSERT_VLAN, 8);
    one.transmit(&mut bench, &tagged(&tagged(&frame, 7), 6), NONE, 0);
    assert_eq!(one.counter(&bench, Counter::TxSpoofedVlan), 4);
    assert!(two.received().is_none() && bench.wire.sent.is_empty());
    one.transmit(&mut bench, &tagged(&frame, 6), NONE, 0);
    assert_eq!(two.received().unwrap().1, tagged(&frame, 6));
    assert!(bench.wire.sent.is_empty());
    // In VLAN 5 there is no station 2: it is looked for on the link.
    one.transmit(&mut bench, &tagged(&frame, 5), NONE, 0);
    assert!(two.received().is_none());
    assert_eq!(bench.wire.sent.pop_front(), Some(tagged(&frame, 5)));
    assert_eq!(two.counter(&bench, Counter::RxNotAllowed), 1);
    // Unchecked, it sends wherever it likes, but still hears nothing.
    let mut unchecked = trunk(&[5, 6]);
    unchecked.checks.vlan = false;
    set(&mut bench, one.driver.id, unchecked);
    one.transmit(&mut bench, &frame, NONE, 0);
    assert_eq!(two.received().unwrap().1, frame);
    two.transmit(&mut bench, &plain(mac(1), 2), NONE, 0);
    assert!(one.received().is_none());
}

/// Each function of a mixture of ports hears a broadcast in the VLANs that it is in, and counts those
/// that it would have heard otherwise.
#[test]
fn a_broadcast_reaches_the_ports_of_its_vlan() {
    let mut bench = Bench::default();
    let policies = [
        access(5, 0),
        access(6, 7),
        trunk(&[0, 5]),
        trunk(&[]),
        Policy::default(),
    ];
    let mut stations: Vec<Station> = (1..)
        .zip(policies.clone())
        .map(|(n, policy)| listener(&mut bench, n, policy))
        .collect();
    let frame = ethernet(Mac::BROADCAST, STRANGER, 0x0806, &[7; 60]);
    let mut barred = [0; 5];
    for vlan in [0, 5, 6, 7] {
        let sent = if vlan == 0 {
            frame.clone()
        } else {
            tagged(&frame, vlan)
        };
        arrive(&mut bench, &sent);
        for (index, station) in stations.iter_mut().enumerate() {
            let inward = policies[index].vlan.inward(vlan);
            let expected = inward.map(|seen| if seen == 0 { &frame } else { &sent });
            let got = station.received().map(|(_, bytes, _)| bytes);
            assert_eq!(got.as_ref(), expected, "vlan {vlan}, port {index}");
            barred[index] += u64::from(inward.is_none());
        }
    }
    for (station, barred) in stations.iter().zip(barred) {
        assert_eq!(station.counter(&bench, Counter::RxNotAllowed), barred);
    }
    assert_eq!(barred, [3, 3, 2, 4, 0]);
    // From one of them: to the others of its VLAN and out, with the tag.
    let own = ethernet(Mac::BROADCAST, mac(1), 0x0806, &[8; 60]);
    stations[0].transmit(&mut bench, &own, NONE, 0);
    let got: Vec<_> = stations
        .iter_mut()
        .map(|station| station.received().map(|(_, bytes, _)| bytes))
        .collect();
    let out = Some(tagged(&own, 5));
    assert_eq!(got, [None, None, out.clone(), None, out.clone()]);
    assert_eq!(bench.wire.sent.pop_front(), out);
}

fn any_vlan(random: &mut Random) -> u16 {
    [0, 5, 6, 4094][random.below(4) as usize]
}

fn any_policy(random: &mut Random) -> Policy {
    let some = [0; 3].map(|_| any_vlan(random));
    match (random.below(3), some[0]) {
        (0, 1..) => access(some[0], 2),
        (0 | 1, _) => trunk(&some),
        _ => Policy::default(),
    }
}

/// Any ports, any tags, against a model: who hears a broadcast, as what, and what goes out.
#[test]
fn a_broadcast_is_heard_in_its_vlan_and_nowhere_else() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut stations: Vec<_> = (1..=4)
            .map(|n| listener(&mut bench, n, Policy::default()))
            .collect();
        for round in 0..60 {
            let policies = [0; 4].map(|_| any_policy(&mut random));
            for (station, policy) in stations.iter().zip(&policies) {
                set(&mut bench, station.driver.id, policy.clone());
            }
            // From a function or the link, in a VLAN as the sender calls it.
            let (from, id) = (random.below(5) as usize, any_vlan(&mut random));
            let source = [STRANGER, mac(1), mac(2), mac(3), mac(4)][from];
            let frame = ethernet(Mac::BROADCAST, source, 0x88b5, &[round; 60]);
            let tag = |control: u16| match control {
                0 => frame.clone(),
                control => tagged(&frame, control),
            };
            let (vlan, priority) = match from.checked_sub(1) {
                Some(index) => {
                    stations[index].transmit(&mut bench, &tag(id), NONE, 0);
                    let mode = &policies[index].vlan;
                    (mode.outward(id), u16::from(mode.is_access()) * (2 << 13))
                }
                None => {
                    arrive(&mut bench, &tag(id));
                    (Some(id), 0)
                }
            };
            let at = format!("seed {seed}, round {round}");
            for (index, station) in stations.iter_mut().enumerate() {
                let inward = vlan.and_then(|vlan| policies[index].vlan.inward(vlan));
                let inward = inward.filter(|_| index + 1 != from);
                let expected = inward.map(|id| tag(if id == 0 { 0 } else { id | priority }));
                let got = station.received().map(|(_, bytes, _)| bytes);
                assert_eq!(got, expected, "{at}, port {index}");
                assert!(station.received().is_none(), "{at}, port {index}");
                if got.is_some() {
                    station.repost(&[0]);
                }
            }
            let out = vlan.filter(|_| from > 0).map(|vlan| tag(vlan | priority));
            assert_eq!(bench.wire.sent.pop_front(), out, "{at}");
        }
    }
}

#[test]
fn rdma_of_access_ports_is_in_their_vlan() {
    for mut connection in Connection::each() {
        connection.set(0, access(100, 3));
        connection.set(1, access(100, 5));
        for from in [0, 1] {
            let frames = connection.works(from);
            assert_eq!(frames.is_empty(), connection.way != Way::Wire);
            let controls: Vec<_> = frames.iter().map(|frame| control_of(frame)).collect();
            assert!(controls.contains(&Some(3 << 13 | 100)) || frames.is_empty());
            assert!(controls.contains(&Some(5 << 13 | 100)) || frames.is_empty());
            assert!(controls.iter().flatten().all(|c| c & 0xfff == 100));
            assert!(!controls.contains(&None));
        }
    }
}

#[test]
fn rdma_does_not_cross_vlans() {
    for (one, two) in [(5, 6), (5, 0), (0, 5)] {
        for mut connection in Connection::each() {
            let policy = |vlan| match vlan {
                0 => trunk(&[0]),
                vlan => access(vlan, 0),
            };
            connection.set(0, policy(one));
            connection.set(1, policy(two));
            let frames = connection.fails(0);
            // They are looked for on the link, in the VLAN of their sender.
            assert!(!frames.is_empty());
            for frame in frames {
                let control = control_of(&frame).unwrap_or(0);
                assert_eq!(control, one, "{:?}", connection.way);
            }
            assert_eq!(connection.counter(1, Counter::PortRcvPackets), 0);
        }
    }
}

#[test]
fn an_access_port_talks_to_a_trunk_port_in_its_vlan() {
    for way in [Way::Direct, Way::Looped] {
        let mut bench = Bench::new(NicConfig {
            direct: way == Way::Direct,
            ..NicConfig::default()
        });
        let mut a = Node::new(&mut bench, 1);
        let mut b = Node::new(&mut bench, 2);
        let id = a.driver.id;
        set(&mut bench, id, access(5, 0));
        set_gid(&mut bench, &mut b.driver, &gid_entry(gid(2), mac(2), 5));
        super::nic_bench::join(&mut bench, &mut a, &mut b);
        for (from, to) in [(0, 1), (1, 0)] {
            let nodes = [&mut a, &mut b];
            let to = (nodes[to].memory, nodes[to].key);
            let node = &mut *nodes.into_iter().nth(from).unwrap();
            let segment = node.segment(0, 4000);
            (node.qp).rdma(&node.driver.hw, WqeOpcode::Write, to, &[segment]);
            bench.run();
            assert_eq!(node.poll().unwrap().status, 0, "{way:?}");
        }
        assert!(bench.wire.sent.is_empty());
    }
}

/// A function cannot set a GID, or join a group, in a VLAN that it is not in, and keeps none.
#[test]
fn addresses_are_in_the_vlans_of_the_port() {
    let mut bench = Bench::default();
    let mut one = Driver::ready(&mut bench, 1);
    set(&mut bench, one.id, trunk(&[0, 5]));
    let status = |bench: &mut Bench, driver: &mut Driver, vlan| {
        let entry = gid_entry(gid(9), mac(1), vlan);
        let entry = vrnic_abi::admin::SetGid { index: 3, ..entry };
        let completion = driver.command(bench, AdminOpcode::SetGid, &entry);
        (
            Status::from_raw(completion.status).unwrap(),
            completion.syndrome,
        )
    };
    let refused = (Status::NotPermitted, 8 + 6);
    assert_eq!(status(&mut bench, &mut one, 6), refused);
    assert_eq!(status(&mut bench, &mut one, 5), (Status::Success, 0));
    set(&mut bench, one.id, access(7, 0));
    assert_eq!(status(&mut bench, &mut one, 5), refused);
    // In VLAN 5 of the network there is no such GID any more, so another function can have it.
    let mut two = Driver::ready(&mut bench, 2);
    let entry = gid_entry(gid(9), mac(2), 5);
    two.ok(
        &mut bench,
        AdminOpcode::SetGid,
        &vrnic_abi::admin::SetGid { index: 3, ..entry },
    );
    // Entry 0, in no VLAN, is in VLAN 7 now.
    let entry = gid_entry(gid(1), mac(2), 7);
    let taken = two.command(&mut bench, AdminOpcode::SetGid, &entry);
    assert_eq!(Status::from_raw(taken.status), Some(Status::Busy));
    // The other way round: what another has taken meanwhile stays with it.
    set(&mut bench, one.id, trunk(&[0, 5]));
    assert_eq!(status(&mut bench, &mut one, 5).0, Status::Busy);
    let counters = &bench.nic.function(one.id).unwrap().objects.counters;
    let refusals = counters[usize::from(Counter::PolicyRefusals.raw())];
    assert_eq!(refusals, 2);
    let wrong = access(4095, 0);
    assert_eq!(bench.nic.set_policy(one.id, wrong), Err(PolicyError::Vlan));
    assert_eq!(bench.nic.policy(one.id), Some(&trunk(&[0, 5])));
}

/// Members of one group in different VLANs; the group of a function that moves to another one.
#[test]
fn groups_are_in_the_vlans_of_their_members() {
    const QKEY: u32 = 0x1234;
    let to = Gid::from_v4([239, 1, 2, 3]);
    let to_mac = Mac([1, 0, 0x5e, 1, 2, 3]);
    let mut bench = Bench::default();
    let mut nodes: Vec<_> = (1..=3)
        .map(|n| {
            let mut node = Node::new(&mut bench, n);
            let (pd, driver) = (node.pd, &mut node.driver);
            let mut qp = driver.datagram_qp(&mut bench, pd, &node.cq, QpType::Ud, QKEY);
            driver.attach(&mut bench, &group(qp.number, 0, to));
            for at in 0..8 {
                let buffer = super::nic_bench::data(node.memory + at * 256, 256, node.key);
                qp.receive(&node.driver.hw, &[buffer]);
            }
            (node, qp)
        })
        .collect();
    let ids: Vec<_> = nodes.iter().map(|(node, _)| node.driver.id).collect();
    set(&mut bench, ids[0], access(5, 0));
    set(&mut bench, ids[1], access(5, 0));
    set(&mut bench, ids[2], access(6, 0));
    let mut hear = |bench: &mut Bench| -> Vec<bool> {
        let (node, qp) = &mut nodes[0];
        let segment = node.segment(4096, 100);
        let target = datagram(0xff_ffff, QKEY, to, to_mac);
        let control = control(WqeOpcode::Send, 0, 1);
        qp.send_datagram(&node.driver.hw, control, &target, &[segment]);
        bench.run();
        assert_eq!(nodes[0].0.poll().unwrap().status, 0, "it is sent");
        let heard = nodes.iter_mut().map(|(node, _)| match node.poll() {
            Some(entry) => {
                assert_eq!((entry.status, entry.vlan), (0, 0));
                true
            }
            None => false,
        });
        heard.collect()
    };
    assert_eq!(hear(&mut bench), [true, true, false]);
    let sent = bench.wire.sent.pop_front().unwrap();
    assert_eq!(control_of(&sent), Some(5));
    // As from the link.
    set(&mut bench, ids[2], access(5, 0));
    assert_eq!(hear(&mut bench), [true, true, true]);
    set(&mut bench, ids[1], trunk(&[0]));
    assert_eq!(hear(&mut bench), [true, false, true]);
    let mut node = nodes.remove(1);
    let other = group(node.1.number, 9, to);
    let driver = &mut node.0.driver;
    let refused = driver.command(&mut bench, AdminOpcode::AttachMulticast, &other);
    assert_eq!(Status::from_raw(refused.status), Some(Status::NotPermitted));
    assert_eq!(refused.syndrome, 8 + 4);
}
