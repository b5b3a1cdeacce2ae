//! Addresses that the driver of a physical function assigns: whoever else they belong to keeps them.

use vrnic_abi::admin::{AdminOpcode, SetGid, Status};
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::nic::{Policy, PortName};

use super::administration::*;
use super::nic_bench::{Bench, Driver, gid, mac};
use super::rules::*;
use super::support::*;

/// The first entry of a GID table, which has a function's own address.
fn own_gid(number: u8) -> SetGid {
    gid_entry(gid(number), mac(number), 0)
}

#[track_caller]
fn set_gid(bench: &mut Bench, driver: &mut Driver, body: &SetGid) -> Status {
    refusal(driver.command(bench, AdminOpcode::SetGid, body)).0
}

#[test]
fn a_function_that_is_added_later_has_its_address() {
    for in_use in [false, true] {
        let mut bench = Bench::default();
        let mut pf = Driver::ready(&mut bench, 0);
        let mut thief = Driver::ready(&mut bench, 1);
        configured(&mut bench, &mut pf, &assign(mac(5)));
        if in_use {
            bench.nic.reset(thief.id);
            thief.enable(&mut bench);
            assert_eq!(port(&mut bench, &mut thief).mac, mac(5).0);
        }
        let mut victim = Driver::add(&mut bench, 5);
        victim.enable(&mut bench);
        assert_eq!(port(&mut bench, &mut victim).mac, mac(5).0);
        assert_eq!(port(&mut bench, &mut thief).mac, mac(1).0);
        // The one's own address is not the other's to use, in any life of it.
        assert_ne!(
            set_gid(&mut bench, &mut thief, &own_gid(5)),
            Status::Success
        );
        bench.nic.reset(thief.id);
        thief.enable(&mut bench);
        assert_eq!(port(&mut bench, &mut thief).mac, mac(1).0);
        assert_ne!(
            set_gid(&mut bench, &mut thief, &own_gid(5)),
            Status::Success
        );
        assert_eq!(
            set_gid(&mut bench, &mut victim, &own_gid(5)),
            Status::Success
        );
        let (status, _) = refusal(configure(&mut bench, &mut pf, &assign(mac(5))));
        assert_eq!(status, Status::Busy);
        bench.nic.remove_function(thief.id).unwrap();
        let untrusted = Policy {
            trusted: false,
            ..Policy::default()
        };
        set(&mut bench, victim.id, untrusted);
        assert_eq!(
            set_gid(&mut bench, &mut victim, &own_gid(5)),
            Status::Success
        );
    }
}

#[test]
fn an_address_that_was_seen_elsewhere_is_not_assigned() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let vf = Station::listening(&mut bench, 1);
    let mut neighbour = Station::listening(&mut bench, 2);
    let gateway = mac(99);
    let frame = ethernet(mac(2), gateway, 0x88b5, &[7; 80]);
    arrive(&mut bench, &frame);
    assert!(neighbour.received().is_some());
    bench.nic.reset(vf.driver.id);
    let (status, _) = refusal(configure(&mut bench, &mut pf, &assign(gateway)));
    assert_eq!(status, Status::Busy);
    arrive(&mut bench, &frame);
    assert!(neighbour.received().is_some(), "the neighbour hears it");
    sent(&mut bench);
    let answer = padded(ethernet(gateway, mac(2), 0x88b5, b"to the gateway"));
    neighbour.transmit(&mut bench, &answer, WqeFlags::empty(), 0);
    assert_eq!(sent(&mut bench), [answer]);
}

#[test]
fn what_the_operator_puts_elsewhere_is_taken_back() {
    for listed in [false, true] {
        for in_use in [false, true] {
            let mut bench = Bench::default();
            let mut pf = Driver::ready(&mut bench, 0);
            let mut vf = Driver::ready(&mut bench, 1);
            let mut other = Driver::ready(&mut bench, 2);
            configured(&mut bench, &mut pf, &assign(CHOSEN));
            if in_use {
                bench.nic.reset(vf.id);
                vf.enable(&mut bench);
                assert_eq!(port(&mut bench, &mut vf).mac, CHOSEN.0);
            }
            if listed {
                let policy = Policy {
                    macs: vec![CHOSEN],
                    ..Policy::default()
                };
                set(&mut bench, other.id, policy);
            } else if bench.nic.add_station(0, CHOSEN, PortName::Link).is_err() {
                // What a function uses is no place for another station.
                assert!(in_use);
                continue;
            }
            bench.nic.reset(vf.id);
            vf.enable(&mut bench);
            assert_eq!(port(&mut bench, &mut vf).mac, mac(1).0);
            let body = gid_entry(gid(9), CHOSEN, 0);
            assert_ne!(set_gid(&mut bench, &mut vf, &body), Status::Success);
            let wanted = [Status::Busy, Status::Success][usize::from(listed)];
            assert_eq!(set_gid(&mut bench, &mut other, &body), wanted);
        }
    }
}

#[test]
fn a_function_whose_rules_are_kept_keeps_its_address() {
    let fixed = Policy {
        pf_may_change: false,
        ..Policy::default()
    };
    for in_use in [false, true] {
        let mut bench = Bench::default();
        let mut pf = Driver::ready(&mut bench, 0);
        let mut vf = Driver::ready(&mut bench, 1);
        configured(&mut bench, &mut pf, &assign(CHOSEN));
        if in_use {
            bench.nic.reset(vf.id);
            vf.enable(&mut bench);
        }
        let before = port(&mut bench, &mut vf).mac;
        set(&mut bench, vf.id, fixed.clone());
        bench.nic.reset(vf.id);
        vf.enable(&mut bench);
        assert_eq!(port(&mut bench, &mut vf).mac, before);
    }
}
