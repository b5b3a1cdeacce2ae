//! Functions that the operator does not trust: what they may see, and which addresses they take.

use vrnic_abi::admin::{AdminOpcode, FilterFlags, FilterType, SetGid, Status};
use vrnic_abi::counter::Counter;
use vrnic_firmware::nic::{Policy, PortName, UNTRUSTED_ADDRESSES};
use vrnic_firmware::types::Mac;

use super::nic_bench::{Bench, filter, gid, mac, with_flags};
use super::rules::*;
use super::support::*;

const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);

fn untrusted() -> Policy {
    Policy {
        trusted: false,
        ..Policy::default()
    }
}

fn further(n: usize) -> Mac {
    Mac([2, 0, 0, 4, 0, n as u8])
}

#[track_caller]
fn claim(bench: &mut Bench, station: &mut Station, mac: Mac) -> Status {
    let body = filter(station.queues[0].qp.number, FilterType::Address, mac);
    let completion = (station.driver).command(bench, AdminOpcode::SetFilter, &body);
    Status::from_raw(completion.status).unwrap()
}

/// A promiscuous filter is accepted, and has its effect as soon as, and as long as, there is trust.
#[test]
fn without_trust_nobody_sees_what_is_not_for_him() {
    for kind in [FilterType::Promiscuous, FilterType::AllMulticast] {
        let mut bench = Bench::default();
        let mut one = Station::new(&mut bench, 1);
        let mut two = Station::new(&mut bench, 2);
        set(&mut bench, one.driver.id, untrusted());
        one.listen(&mut bench, kind, mac(0));
        let promiscuous = kind == FilterType::Promiscuous;
        for (trusted, sees) in [(false, false), (true, true), (false, false)] {
            let policy = Policy {
                trusted,
                ..Policy::default()
            };
            set(&mut bench, one.driver.id, policy);
            for to in [STRANGER, GROUP, Mac::BROADCAST, mac(1), mac(2)] {
                let expected = match to {
                    STRANGER => promiscuous && sees,
                    GROUP => sees,
                    Mac::BROADCAST => true,
                    to => promiscuous && to == mac(1),
                };
                let frame = ethernet(to, Mac([2, 0, 0, 0, 8, 8]), 0x88b5, &[1; 80]);
                arrive(&mut bench, &frame);
                assert_eq!(
                    one.received().is_some(),
                    expected,
                    "from the link to {to:?}"
                );
                let frame = ethernet(to, mac(2), 0x88b5, &[1; 80]);
                let none = vrnic_abi::wqe::WqeFlags::empty();
                two.transmit(&mut bench, &frame, none, 0);
                assert_eq!(one.received().is_some(), expected, "from 2 to {to:?}");
            }
        }
        one.listen(&mut bench, FilterType::Address, GROUP);
        arrive(&mut bench, &ethernet(GROUP, STRANGER, 0x88b5, &[1; 80]));
        assert!(one.received().is_some(), "a group that it has joined");
    }
}

#[test]
fn without_trust_there_is_room_for_few_addresses() {
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let listed = Mac([2, 0, 0, 5, 0, 0]);
    let policy = Policy {
        macs: vec![listed],
        ..untrusted()
    };
    set(&mut bench, one.driver.id, policy);
    for n in 0..UNTRUSTED_ADDRESSES {
        assert_eq!(claim(&mut bench, &mut one, further(n)), Status::Success);
    }
    let full = claim(&mut bench, &mut one, further(UNTRUSTED_ADDRESSES));
    assert_eq!(full, Status::NoResources);
    assert_eq!(one.counter(&bench, Counter::PolicyRefusals), 1);
    // One more filter for the same address takes no more of them, nor do groups and what is listed.
    for mac in [further(0), mac(1), GROUP, listed] {
        assert_eq!(claim(&mut bench, &mut one, mac), Status::Success);
    }
    // What was seen elsewhere is not for it.
    let last = one.listen(&mut bench, FilterType::Address, further(0));
    arrive(&mut bench, &ethernet(mac(1), STRANGER, 0x88b5, &[1; 80]));
    assert_eq!(claim(&mut bench, &mut one, STRANGER), Status::Busy);
    (one.driver).destroy(&mut bench, AdminOpcode::ClearFilter, last);
    set(&mut bench, one.driver.id, Policy::default());
    assert_eq!(claim(&mut bench, &mut one, STRANGER), Status::Success);
    let trusted = claim(&mut bench, &mut one, further(UNTRUSTED_ADDRESSES));
    assert_eq!(trusted, Status::Success);
}

/// An address that the operator has chosen stays, and filters that were there before lose it.
#[test]
fn an_assigned_address_cannot_be_changed() {
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    assert_eq!(claim(&mut bench, &mut one, further(1)), Status::Success);
    let mut policy = Policy {
        mac_assigned: true,
        ..untrusted()
    };
    set(&mut bench, one.driver.id, policy.clone());
    assert_eq!(
        claim(&mut bench, &mut one, further(2)),
        Status::NotPermitted
    );
    let entry = SetGid {
        index: 3,
        ..gid_entry(gid(77), further(2), 0)
    };
    let refused = (one.driver).command(&mut bench, AdminOpcode::SetGid, &entry);
    assert_eq!(Status::from_raw(refused.status), Some(Status::NotPermitted));
    assert_eq!(one.counter(&bench, Counter::PolicyRefusals), 2);
    let frame = ethernet(further(1), STRANGER, 0x88b5, &[1; 80]);
    arrive(&mut bench, &frame);
    assert!(one.received().is_none());
    // Another function can have it then.
    let mut two = Station::listening(&mut bench, 2);
    assert_eq!(claim(&mut bench, &mut two, further(1)), Status::Success);
    arrive(&mut bench, &frame);
    assert!(two.received().is_some() && one.received().is_none());
    policy.trusted = true;
    set(&mut bench, one.driver.id, policy);
    assert_eq!(claim(&mut bench, &mut one, further(2)), Status::Success);
}

#[test]
fn an_address_in_use_elsewhere_cannot_be_taken() {
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    // The Ethernet address of a GID.
    let entry = SetGid {
        index: 3,
        ..gid_entry(gid(77), further(1), 0)
    };
    two.driver.ok(&mut bench, AdminOpcode::SetGid, &entry);
    assert_eq!(claim(&mut bench, &mut one, further(1)), Status::Busy);
    assert_eq!(claim(&mut bench, &mut two, further(1)), Status::Success);
    // One that the operator has put on the link.
    bench.nic.add_station(0, STRANGER, PortName::Link).unwrap();
    assert_eq!(claim(&mut bench, &mut one, STRANGER), Status::Busy);
    assert!(bench.nic.remove_station(0, STRANGER));
    assert_eq!(claim(&mut bench, &mut one, STRANGER), Status::Success);
}

/// A filter looks at one VLAN; the address that it takes is the function's in all of them. So nobody
/// without trust takes that of a station by naming another VLAN than the station's, or one that is not
/// his at all.
#[test]
fn an_address_in_use_cannot_be_taken_by_way_of_another_vlan() {
    for (seen, rules) in [(7, untrusted()), (7, access(7, 0)), (0, trunk(&[0, 5]))] {
        let mut bench = Bench::default();
        let mut one = Station::listening(&mut bench, 1);
        let policy = Policy {
            trusted: false,
            ..rules
        };
        set(&mut bench, one.driver.id, policy);
        let frame = ethernet(mac(1), STRANGER, 0x88b5, &[1; 80]);
        let frame = if seen == 0 {
            frame
        } else {
            tagged(&frame, seen)
        };
        arrive(&mut bench, &frame);
        for vlan in [None, Some(0), Some(5), Some(4000)] {
            let body = filter(one.queues[0].qp.number, FilterType::Address, STRANGER);
            let flags = match vlan {
                Some(_) => FilterFlags::VLAN,
                None => FilterFlags::empty(),
            };
            let body = with_flags(body, flags, vlan.unwrap_or(0));
            let completion = one
                .driver
                .command(&mut bench, AdminOpcode::SetFilter, &body);
            let status = Status::from_raw(completion.status).unwrap();
            assert_eq!(status, Status::Busy, "{seen} {vlan:?}");
        }
    }
}

/// What the operator lists for one function, no other gets, be it trusted or first.
#[test]
fn a_listed_address_is_kept_for_whom_it_is_listed() {
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    let lists = Policy {
        macs: vec![further(1)],
        gids: Some(vec![gid(77)]),
        ..Policy::default()
    };
    set(&mut bench, two.driver.id, lists);
    assert_eq!(claim(&mut bench, &mut one, further(1)), Status::Busy);
    for (address, own) in [(gid(76), further(1)), (gid(77), mac(1))] {
        let entry = SetGid {
            index: 3,
            ..gid_entry(address, own, 0)
        };
        let completion = (one.driver).command(&mut bench, AdminOpcode::SetGid, &entry);
        let status = Status::from_raw(completion.status).unwrap();
        assert_eq!(status, Status::Busy, "{address:?} {own:?}");
    }
    let entry = SetGid {
        index: 3,
        ..gid_entry(gid(77), further(1), 0)
    };
    two.driver.ok(&mut bench, AdminOpcode::SetGid, &entry);
    assert_eq!(claim(&mut bench, &mut two, further(1)), Status::Success);
}

/// Whether a frame to an address reaches a station.
fn hears(bench: &mut Bench, station: &mut Station, to: Mac) -> bool {
    arrive(bench, &ethernet(to, STRANGER, 0x88b5, &[1; 80]));
    let received = station.received();
    if let Some((queue, ..)) = &received {
        station.repost(&[*queue]);
    }
    received.is_some()
}

/// What a function took while it was trusted is not its own without trust, but for as many addresses as
/// it could have taken then, and is again with trust, if nobody else has it.
#[test]
fn addresses_taken_with_trust_go_and_come_with_it() {
    const MORE: usize = UNTRUSTED_ADDRESSES + 4;
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    // It was in use on the link.
    arrive(&mut bench, &ethernet(mac(2), further(1), 0x88b5, &[1; 80]));
    assert!(two.received().is_some());
    for n in 0..MORE {
        assert_eq!(claim(&mut bench, &mut one, further(n)), Status::Success);
    }
    let has = |bench: &mut Bench, one: &mut Station| -> Vec<usize> {
        (0..MORE)
            .filter(|n| hears(bench, one, further(*n)))
            .collect()
    };
    let all: Vec<_> = (0..MORE).collect();
    assert_eq!(has(&mut bench, &mut one), all);
    let first: Vec<_> = (0..=UNTRUSTED_ADDRESSES).filter(|n| *n != 1).collect();
    for _ in 0..2 {
        set(&mut bench, one.driver.id, untrusted());
        assert_eq!(has(&mut bench, &mut one), first);
        // Rules of others change nothing of that.
        set(&mut bench, two.driver.id, trunk(&[0]));
        assert_eq!(has(&mut bench, &mut one), first);
        set(&mut bench, one.driver.id, Policy::default());
        assert_eq!(has(&mut bench, &mut one), all);
    }
    set(&mut bench, one.driver.id, untrusted());
    assert_eq!(
        claim(&mut bench, &mut one, further(MORE)),
        Status::NoResources
    );
    let taken = MORE - 1;
    assert_eq!(claim(&mut bench, &mut two, further(taken)), Status::Success);
    set(&mut bench, one.driver.id, Policy::default());
    assert_eq!(has(&mut bench, &mut one), all[..taken]);
    assert!(two.received().is_some(), "it stays where it is");
    while two.received().is_some() {}
    // It is free again when the rules of its owner forbid it.
    let assigned = Policy {
        mac_assigned: true,
        ..untrusted()
    };
    set(&mut bench, two.driver.id, assigned);
    assert_eq!(has(&mut bench, &mut one), all);
    assert!(two.received().is_none());
    // A list keeps others off what they have, too, and so does a station.
    let lists = Policy {
        macs: vec![further(3)],
        ..Policy::default()
    };
    set(&mut bench, two.driver.id, lists);
    let port = PortName::Function(two.driver.id);
    bench.nic.add_station(0, further(5), port).unwrap();
    let others: Vec<_> = all
        .iter()
        .copied()
        .filter(|n| ![3, 5].contains(n))
        .collect();
    assert_eq!(has(&mut bench, &mut one), others);
    assert_eq!(claim(&mut bench, &mut two, further(3)), Status::Success);
    assert!(hears(&mut bench, &mut two, further(3)));
    set(&mut bench, two.driver.id, Policy::default());
    assert!(bench.nic.remove_station(0, further(5)));
    let others: Vec<_> = all.iter().copied().filter(|n| *n != 3).collect();
    assert_eq!(has(&mut bench, &mut one), others, "it is two's now");
    bench.nic.remove_function(two.driver.id);
    assert_eq!(has(&mut bench, &mut one), all);
}
