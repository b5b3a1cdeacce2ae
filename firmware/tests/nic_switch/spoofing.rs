//! Forged sources: Ethernet addresses, VLANs, GIDs and queue pair numbers of another tenant.

use vrnic_abi::admin::{AdminOpcode, FilterType, SetGid, Status};
use vrnic_abi::counter::Counter;
use vrnic_abi::wqe::{WqeFlags, WqeOpcode};
use vrnic_firmware::nic::{Policy, SpoofChecks, UplinkPolicy};
use vrnic_firmware::types::{Gid, Mac};

use super::nic_bench::net::{WAYS, Way, gid6};
use super::nic_bench::{Bench, Driver, Node, gid, mac};
use super::rules::*;
use super::support::*;

const NONE: WqeFlags = WqeFlags::empty();
const ALLOWED: Mac = Mac([2, 0, 0, 0, 7, 7]);

fn mac_checked(macs: &[Mac]) -> Policy {
    Policy {
        macs: macs.to_vec(),
        checks: SpoofChecks {
            mac: true,
            ..SpoofChecks::default()
        },
        ..Policy::default()
    }
}

fn gid_checked(gids: Option<&[Gid]>) -> Policy {
    Policy {
        gids: gids.map(<[Gid]>::to_vec),
        checks: SpoofChecks {
            gid: true,
            ..SpoofChecks::default()
        },
        ..Policy::default()
    }
}

#[test]
fn a_frame_from_a_forged_address_is_dropped() {
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    set(&mut bench, one.driver.id, mac_checked(&[ALLOWED]));
    for to in [mac(2), STRANGER, Mac::BROADCAST] {
        for from in [mac(2), STRANGER, Mac::BROADCAST, Mac::default()] {
            one.transmit(&mut bench, &ethernet(to, from, 0x88b5, &[1; 80]), NONE, 0);
        }
    }
    assert!(two.received().is_none() && bench.wire.sent.is_empty());
    assert_eq!(bench.wire.looped, 0);
    assert_eq!(one.counter(&bench, Counter::TxSpoofedMac), 12);
    assert_eq!(one.counter(&bench, Counter::PortXmitPackets), 0);
    for from in [mac(1), ALLOWED] {
        let frame = ethernet(mac(2), from, 0x88b5, &[1; 80]);
        one.transmit(&mut bench, &frame, NONE, 0);
        assert_eq!(two.received().unwrap().1, frame);
    }
    assert_eq!(one.counter(&bench, Counter::TxSpoofedMac), 12);
}

/// A GID with an Ethernet address that its function may not have: no packet leaves if it was set
/// before, and it cannot be set.
#[test]
fn rdma_from_a_forged_ethernet_address_is_dropped() {
    let forged = Mac([2, 0, 0, 0, 6, 6]);
    for way in WAYS {
        let entries = [gid_entry(gid(1), forged, 0), gid_entry(gid(2), mac(2), 0)];
        let mut connection = Connection::with(way, entries);
        connection.works(0);
        connection.set(0, mac_checked(&[]));
        let (at, bytes) = connection.post(0, 2000);
        assert_eq!(connection.net.run(), Vec::<Vec<u8>>::new());
        assert!(connection.nodes[0].poll().is_none());
        assert_eq!(connection.counter(1, Counter::RxWriteRequests), 1);
        let dropped = connection.counter(0, Counter::TxSpoofedMac);
        assert!(dropped > 0, "{way:?}");
        // What is allowed again goes on where it was.
        connection.set(0, mac_checked(&[forged]));
        connection.recovers(0);
        assert_eq!(connection.nodes[1].hw().bytes(at, 2000), bytes);
        assert_eq!(connection.counter(0, Counter::TxSpoofedMac), dropped);
        // Nor does anything reach it at that address.
        connection.set(0, mac_checked(&[]));
        connection.fails(1);
        assert_eq!(connection.counter(0, Counter::RxWriteRequests), 0);
    }
}

#[test]
fn a_forged_ethernet_address_of_a_gid_cannot_be_set() {
    let mut bench = Bench::default();
    let mut one = Driver::ready(&mut bench, 1);
    let _two = Driver::ready(&mut bench, 2);
    let mut set_mac = |bench: &mut Bench, address: Mac| {
        let entry = SetGid {
            index: 5,
            ..gid_entry(gid(5), address, 0)
        };
        let completion = one.command(bench, AdminOpcode::SetGid, &entry);
        let status = Status::from_raw(completion.status).unwrap();
        (status, completion.syndrome, one.id)
    };
    const AT: u32 = 8 + 0x18;
    // Another function's is never free, whatever is checked.
    let (status, syndrome, id) = set_mac(&mut bench, mac(2));
    assert_eq!((status, syndrome), (Status::Busy, AT));
    set(&mut bench, id, mac_checked(&[ALLOWED, mac(2)]));
    for (address, status, syndrome) in [
        (ALLOWED, Status::Success, 0),
        (STRANGER, Status::NotPermitted, AT),
        (mac(2), Status::Busy, AT),
    ] {
        let got = set_mac(&mut bench, address);
        assert_eq!((got.0, got.1), (status, syndrome), "{address:?}");
    }
}

/// On every way: packets of a function whose rules no longer have its VLAN or GID go nowhere, and
/// those of its peer do not find it.
#[test]
fn rdma_from_a_forged_vlan_or_gid_is_dropped() {
    let cases = [
        (trunk(&[5]), Counter::TxSpoofedVlan),
        (gid_checked(Some(&[gid(9)])), Counter::TxSpoofedGid),
    ];
    for (policy, counter) in cases {
        for from in [0, 1] {
            for mut connection in Connection::each() {
                connection.works(from);
                connection.set(0, policy.clone());
                let before = connection.counter(1 - from, Counter::RxWriteRequests);
                let frames = connection.fails(from);
                let after = connection.counter(1 - from, Counter::RxWriteRequests);
                assert_eq!(before, after, "{:?}", connection.way);
                if from == 0 {
                    assert_eq!(frames, Vec::<Vec<u8>>::new());
                    assert!(connection.counter(0, counter) > 1, "{:?}", connection.way);
                }
            }
        }
    }
}

/// The list of GIDs, and GIDs of another function, which it keeps as they are in its list, too.
#[test]
fn a_forged_gid_cannot_be_set() {
    let mut bench = Bench::default();
    let mut one = Driver::ready(&mut bench, 1);
    let two = Driver::ready(&mut bench, 2);
    set(&mut bench, two.id, gid_checked(Some(&[gid(2)])));
    set(
        &mut bench,
        one.id,
        gid_checked(Some(&[gid(1), gid(2), gid6(1)])),
    );
    for (gid, status, syndrome) in [
        (gid6(1), Status::Success, 0),
        (gid(3), Status::NotPermitted, 8 + 8),
        (gid6(2), Status::NotPermitted, 8 + 8),
        (gid(2), Status::Busy, 8 + 8),
    ] {
        let entry = SetGid {
            index: 7,
            ..gid_entry(gid, Mac::default(), 0)
        };
        let completion = one.command(&mut bench, AdminOpcode::SetGid, &entry);
        let got = (Status::from_raw(completion.status), completion.syndrome);
        assert_eq!(got, (Some(status), syndrome), "{gid:?}");
    }
}

/// RoCEv2 packets in frames of a raw packet queue.
#[test]
fn a_packet_with_a_forged_gid_in_a_frame_is_dropped() {
    // Packets from function 1 to function 2, of other NICs.
    let mut elsewhere = Connection::new(Way::Wire);
    elsewhere.post(0, 3000);
    elsewhere.net.of(0).step();
    let frames: Vec<_> = elsewhere.net.of(0).wire.sent.drain(..).collect();
    assert!(!frames.is_empty());

    for (policy, allowed) in [
        (Policy::default(), true),
        (gid_checked(None), false),
        (gid_checked(Some(&[gid(3)])), false),
        (gid_checked(Some(&[gid(1), gid(3)])), true),
    ] {
        let mut bench = Bench::default();
        let mut three = Station::new(&mut bench, 3);
        let mut two = Station::listening(&mut bench, 2);
        set(&mut bench, three.driver.id, policy);
        for frame in &frames {
            let mut damaged = frame.clone();
            *damaged.last_mut().unwrap() ^= 1;
            for frame in [frame, &damaged] {
                three.transmit(&mut bench, frame, NONE, 0);
                // In another VLAN it is as forged.
                three.transmit(&mut bench, frame, WqeFlags::INSERT_VLAN, 5);
            }
        }
        let all = 4 * frames.len() as u64;
        let dropped = three.counter(&bench, Counter::TxSpoofedGid);
        assert_eq!(dropped, if allowed { 0 } else { all });
        let arrived = refused(&bench, &two)
            + two.counter(&bench, Counter::RxIcrcEncapsulated)
            + std::iter::from_fn(|| two.received()).count() as u64;
        assert_eq!(arrived, if allowed { all } else { 0 });
    }
}

/// No IP packet at all comes from a GID that is in another function's list, and none is hidden behind
/// tags. That another function has set it is not enough: it could be anybody's address.
#[test]
fn a_packet_from_a_neighbours_address_is_dropped() {
    let mut bench = Bench::default();
    let mut one = Station::new(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    let mut own = Driver::ready(&mut bench, 3);
    set(&mut bench, one.driver.id, gid_checked(None));
    let packet = |v6, tcp| Packet {
        v6,
        tcp,
        flow: 4,
        data: &[1; 40],
    };
    let send = |bench: &mut Bench, one: &mut Station, v6, tcp| {
        let frame = packet(v6, tcp).frame(mac(2), mac(1), None, None);
        one.transmit(bench, &frame, NONE, 0);
    };
    let source = |v6| {
        let addresses = packet(v6, false).addresses();
        match v6 {
            true => Gid(addresses[..16].try_into().unwrap()),
            false => Gid::from_v4(addresses[..4].try_into().unwrap()),
        }
    };
    for v6 in [false, true] {
        for tcp in [false, true] {
            send(&mut bench, &mut one, v6, tcp);
            assert!(two.received().is_some(), "an address of nobody's");
        }
        let entry = SetGid {
            index: 1 + u32::from(v6),
            ..gid_entry(source(v6), Mac::default(), 0)
        };
        set(&mut bench, own.id, Policy::default());
        own.ok(&mut bench, AdminOpcode::SetGid, &entry);
        for tcp in [false, true] {
            send(&mut bench, &mut one, v6, tcp);
            assert!(two.received().is_some(), "an address that is claimed");
        }
        set(&mut bench, own.id, gid_checked(Some(&[source(v6)])));
        for tcp in [false, true] {
            send(&mut bench, &mut one, v6, tcp);
            assert!(two.received().is_none(), "an address that is given");
        }
        // Whoever has it in his own list, too, may send from it.
        let both = gid_checked(Some(&[source(v6)]));
        set(&mut bench, one.driver.id, both);
        send(&mut bench, &mut one, v6, true);
        assert!(two.received().is_some(), "an address of both");
        set(&mut bench, one.driver.id, gid_checked(None));
    }
    assert_eq!(one.counter(&bench, Counter::TxSpoofedGid), 4);
    let hidden = packet(false, false).frame(mac(2), mac(1), None, None);
    let hidden = tagged(&tagged(&hidden, 1), 2);
    one.transmit(&mut bench, &hidden, NONE, 0);
    assert!(two.received().is_none());
    assert_eq!(one.counter(&bench, Counter::TxSpoofedVlan), 1);
}

/// A connection that a third function claims to be the peer of.
#[test]
fn a_queue_pair_of_another_tenants_is_not_reached() {
    for mut connection in Connection::each() {
        connection.works(0);
        let way = connection.way;
        // On the NIC that the connection's end is on, or on the other one.
        let mut third = Node::new(connection.net.of(0), 3);
        let victim = connection.nodes[1].qp.number;
        connect_to(connection.net.of(0), &mut third, gid(2), mac(2), victim);
        let victim = &connection.nodes[1];
        let before = victim.hw().bytes(victim.memory, 1 << 20);
        let segment = third.segment(0, 2000);
        let to = (victim.memory, victim.key);
        (third.qp).rdma(&third.driver.hw, WqeOpcode::Write, to, &[segment]);
        connection.net.run();
        assert!(third.poll().is_none());
        let victim = &connection.nodes[1];
        assert!(
            before == victim.hw().bytes(victim.memory, 1 << 20),
            "{way:?}"
        );
        assert!(connection.counter(1, Counter::RxWrongSource) > 0, "{way:?}");
        connection.works(0);
        connection.works(1);
    }
}

/// From the link: what has one of our own addresses was forged, or sent back.
#[test]
fn what_comes_from_the_link_with_an_own_address_is_dropped() {
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    two.listen(&mut bench, FilterType::Promiscuous, mac(0));
    one.listen(&mut bench, FilterType::Address, ALLOWED);
    // An address that a function has only claimed may be somebody's on the link.
    let frame = ethernet(mac(2), ALLOWED, 0x88b5, &[1; 80]);
    arrive(&mut bench, &frame);
    assert_eq!(two.received().unwrap().1, frame);
    set(&mut bench, one.driver.id, mac_checked(&[ALLOWED]));
    for from in [mac(1), ALLOWED] {
        for to in [mac(2), Mac::BROADCAST, STRANGER] {
            arrive(&mut bench, &ethernet(to, from, 0x88b5, &[1; 80]));
        }
    }
    assert!(two.received().is_none() && one.received().is_none());
    assert_eq!(one.counter(&bench, Counter::RxSpoofedSource), 6);
    let off = UplinkPolicy {
        check_sources: false,
    };
    bench.nic.set_uplink_policy(off);
    assert_eq!(bench.nic.uplink_policy(), off);
    arrive(&mut bench, &ethernet(mac(2), mac(1), 0x88b5, &[1; 80]));
    assert!(two.received().is_some());
    bench.nic.set_uplink_policy(UplinkPolicy::default());
    // It is whose it is: in a VLAN that the function is not in, it may be somebody else's.
    set(&mut bench, one.driver.id, trunk(&[0]));
    arrive(
        &mut bench,
        &tagged(&ethernet(mac(2), mac(1), 0x88b5, &[1; 80]), 5),
    );
    assert!(two.received().is_some());
}

#[test]
fn rdma_from_the_link_with_an_own_address_is_dropped() {
    // Packets from function 1 to function 2 of other NICs.
    let mut elsewhere = Connection::new(Way::Wire);
    let (_, bytes) = elsewhere.post(0, 3000);
    elsewhere.net.of(0).step();
    let frames: Vec<_> = elsewhere.net.of(0).wire.sent.drain(..).collect();
    assert!(bytes.len() == 3000 && !frames.is_empty());
    let all = frames.len() as u64;
    let mut bench = Bench::default();
    let one = Station::new(&mut bench, 1);
    let two = Station::new(&mut bench, 2);
    for (check_sources, dropped) in [(true, all), (false, 0)] {
        bench.nic.set_uplink_policy(UplinkPolicy { check_sources });
        let before = [
            one.counter(&bench, Counter::RxSpoofedSource),
            refused(&bench, &two),
        ];
        for frame in &frames {
            arrive(&mut bench, frame);
        }
        let spoofed = one.counter(&bench, Counter::RxSpoofedSource) - before[0];
        let reached = refused(&bench, &two) - before[1];
        assert_eq!((spoofed, reached), (dropped, all - dropped));
    }
    // With another Ethernet address, the GID is forged if it is the function's for certain: a peer on
    // the link that has the same one is not silenced by a function that sets it.
    bench.nic.set_uplink_policy(UplinkPolicy::default());
    for (policy, dropped) in [
        (Policy::default(), 0),
        (gid_checked(None), 0),
        (gid_checked(Some(&[gid(1)])), all),
    ] {
        set(&mut bench, one.driver.id, policy);
        let before = one.counter(&bench, Counter::RxSpoofedSource);
        for frame in &frames {
            let mut frame = frame.clone();
            frame[6..12].copy_from_slice(&STRANGER.0);
            arrive(&mut bench, &frame);
        }
        let after = one.counter(&bench, Counter::RxSpoofedSource);
        assert_eq!(after - before, dropped);
    }
}

/// A peer of the link that says it is a neighbour: of a connection on the same NIC, no packet comes from
/// the link, whatever its Ethernet address. One of a connection over the link does, though a neighbour
/// has taken the GID of its peer.
#[test]
fn a_connection_hears_its_peer_where_that_is() {
    // What function 1 of a NIC writes to function 2 of another one, as a template.
    let mut elsewhere = Connection::new(Way::Wire);
    let (at, bytes) = elsewhere.post(0, 1000);
    elsewhere.net.of(0).step();
    let mut frame = elsewhere.net.of(0).wire.sent.pop_front().unwrap();
    frame[6..12].copy_from_slice(&STRANGER.0);
    for way in [Way::Direct, Way::Looped] {
        let mut connection = Connection::new(way);
        let memory = |connection: &Connection| {
            let node = &connection.nodes[1];
            node.hw().bytes(node.memory, 1 << 20)
        };
        let before = memory(&connection);
        arrive(connection.net.of(0), &frame);
        assert!(before == memory(&connection), "{way:?}");
        assert_eq!(connection.counter(0, Counter::RxSpoofedSource), 1);
        assert_eq!(connection.counter(1, Counter::PortRcvPackets), 0);
        connection.works(0);
    }
    let far = elsewhere.net.of(1);
    let mut thief = Driver::ready(far, 3);
    set_gid(far, &mut thief, &gid_entry(gid(1), mac(3), 0));
    arrive(far, &frame);
    assert_eq!(elsewhere.nodes[1].hw().bytes(at, 1000), bytes);
}

/// The same with the peer's Ethernet address as well: one without trust does not get it for a GID, and
/// one that is trusted with it still does not silence the peer.
#[test]
fn a_peer_on_the_link_is_not_silenced_by_a_claim_of_both_its_addresses() {
    let mut elsewhere = Connection::new(Way::Wire);
    let far = elsewhere.net.of(1);
    let mut thief = Driver::ready(far, 3);
    let id = thief.id;
    let entry = gid_entry(gid(1), mac(1), 0);
    let untrusted = Policy {
        trusted: false,
        ..Policy::default()
    };
    set(far, id, untrusted);
    let refused = thief.command(far, AdminOpcode::SetGid, &entry);
    assert_eq!(
        Status::from_raw(refused.status).unwrap(),
        Status::NotPermitted
    );
    elsewhere.works(0);
    let far = elsewhere.net.of(1);
    set(far, id, Policy::default());
    set_gid(far, &mut thief, &entry);
    let (at, bytes) = elsewhere.post(0, 1000);
    elsewhere.net.of(0).step();
    let frame = elsewhere.net.of(0).wire.sent.pop_front().unwrap();
    let far = elsewhere.net.of(1);
    arrive(far, &frame);
    assert_eq!(elsewhere.nodes[1].hw().bytes(at, 1000), bytes);
}
