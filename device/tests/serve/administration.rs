//! The driver of a physical function administers virtual ones that others use, and the operator has
//! the last word.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;
use vrnic_abi::admin::{Status, VfFlags, VfLink};
use vrnic_abi::object::PortState;
use vrnic_abi::registers::{Capabilities, HealthCode};
use vrnic_driver::{Error, Health, VfChange};

use crate::control::Client;
use crate::endpoint::{Retries, exchange, open, pair};
use crate::process::{Nic, directory, until};
use crate::traffic::{End, Pump};

const CHOSEN: [u8; 6] = [2, 0, 0, 0, 7, 7];

/// The status of a command that was refused.
#[track_caller]
fn refused<T: core::fmt::Debug>(result: Result<T, Error>) -> Status {
    match result {
        Err(Error::Command { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_take_effect_under_traffic_of_others() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 2, &[]);
    let pf = open(nic.socket(0), 1);
    let (a, b) = (open(nic.socket(1), 2), open(nic.socket(2), 3));
    assert!(pf.capabilities().contains(Capabilities::SRIOV));
    assert_eq!(pf.attributes().max_vf, 2);
    assert!(!a.capabilities().contains(Capabilities::SRIOV));
    let change = VfChange {
        trust: Some(true),
        ..VfChange::default()
    };
    assert!(matches!(
        a.configure_vf(2, &change),
        Err(Error::Unsupported(_))
    ));
    assert_eq!(refused(pf.query_vf(3)), Status::NoSuchObject);

    let (near, _far) = pair(&a, &b, Retries::Short);
    let pump = Pump::start(near);
    pump.flows();
    let change = VfChange {
        spoof_check: Some(true),
        trust: Some(false),
        link: Some(VfLink::Enabled),
        ..VfChange::default()
    };
    pf.configure_vf(1, &change).unwrap();
    pump.flows();
    let seen = pf.query_vf(1).unwrap();
    let flags = VfFlags::SPOOF_CHECK | VfFlags::ENABLED | VfFlags::LINK_UP;
    assert_eq!(
        (seen.flags, seen.link),
        (flags.bits(), VfLink::Enabled.raw())
    );
    assert!(seen.local_bytes > 0);

    let into = |vlan| VfChange {
        vlan: Some((vlan, 3)),
        ..VfChange::default()
    };
    pf.configure_vf(1, &into(100)).unwrap();
    let (_near, end) = pump.ends();
    assert!(matches!(end, End::Failed(_)), "{end:?}");
    pf.configure_vf(2, &into(100)).unwrap();
    let (mut near, mut far) = pair(&a, &b, Retries::Long);
    exchange(&mut near, &mut far, &mut SmallRng::seed_from_u64(7));

    let change = VfChange {
        link: Some(VfLink::Disabled),
        ..VfChange::default()
    };
    pf.configure_vf(1, &change).unwrap();
    assert_eq!(a.query_port().unwrap().state, PortState::Down.raw());
    assert_eq!(b.query_port().unwrap().state, PortState::Active.raw());
    nic.stop();
}

#[test]
fn an_address_and_a_shut_function_wait_for_the_next_driver() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 1, &["--control", "c"]);
    let pf = open(nic.socket(0), 1);
    let vf = open(nic.socket(1), 2);
    let own = vf.query_port().unwrap().mac;
    let change = VfChange {
        mac: Some(CHOSEN),
        ..VfChange::default()
    };
    pf.configure_vf(1, &change).unwrap();
    assert_eq!(vf.query_port().unwrap().mac, own);
    drop(vf);
    let vf = open(nic.socket(1), 2);
    assert_eq!(vf.query_port().unwrap().mac, CHOSEN);
    let mut client = Client::connect(&dir.path().join("c"));
    let functions = client.execute("query-functions", json!({}));
    assert_eq!(functions[1]["mac"], "02:00:00:00:07:07", "{functions}");

    let enabled = |enabled| VfChange {
        enabled: Some(enabled),
        ..VfChange::default()
    };
    pf.configure_vf(1, &enabled(false)).unwrap();
    until("the function has failed", || match vf.health() {
        Health::Failed(Error::DeviceFailed { code, .. }) => {
            (code == u32::from(HealthCode::Disabled.raw())).then_some(())
        }
        _ => None,
    });
    pf.configure_vf(1, &enabled(true)).unwrap();
    drop(vf);
    let vf = open(nic.socket(1), 2);
    assert_eq!(vf.query_port().unwrap().mac, CHOSEN);
    nic.stop();
}

#[test]
fn the_operator_has_the_last_word() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 1, &["--control", "c"]);
    let pf = open(nic.socket(0), 1);
    let mut client = Client::connect(&dir.path().join("c"));
    let change = VfChange {
        vlan: Some((100, 0)),
        ..VfChange::default()
    };
    pf.configure_vf(1, &change).unwrap();
    let rules = client.execute("query-policy", json!({"function": 1}));
    let access = json!({"mode": "access", "vlan": 100, "priority": 0});
    assert_eq!(
        (&rules["vlan"], &rules["pf_may_change"]),
        (&access, &json!(true))
    );
    client.execute("set-policy", json!({"function": 1, "trusted": false}));
    assert_eq!(refused(pf.configure_vf(1, &change)), Status::NotPermitted);
    let seen = pf.query_vf(1).unwrap();
    assert_eq!(seen.flags & VfFlags::FIXED.bits(), VfFlags::FIXED.bits());
    let let_it = json!({"function": 1, "pf_may_change": true});
    client.execute("set-policy", let_it);
    let change = VfChange {
        vlan: Some((0, 0)),
        ..change
    };
    pf.configure_vf(1, &change).unwrap();
    let rules = client.execute("query-policy", json!({"function": 1}));
    assert_eq!(
        (&rules["vlan"], &rules["trusted"]),
        (&json!({"mode": "trunk"}), &json!(false))
    );
    nic.stop();
}
