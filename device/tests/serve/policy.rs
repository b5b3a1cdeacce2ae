//! The rules of the switch's ports, as an operator sets them while functions exchange data.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use vrnic_abi::object::PortState;

use crate::control::{Client, ctl, ctl_ok, serve};
use crate::endpoint::{Retries, exchange, open, pair};
use crate::process::{directory, until};
use crate::traffic::{End, Pump};

#[test]
fn rules_change_under_traffic_and_stop_what_they_forbid() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let mut client = Client::connect(&dir.path().join("c"));
    let (near, _far) = pair(&a, &b, Retries::Short);
    let pump = Pump::start(near);
    pump.flows();
    // What still allows it does not stop it.
    for change in [
        json!({"function": 0, "check": {"mac": true, "gid": true}, "trusted": false}),
        json!({"function": 0, "vlan": {"mode": "trunk", "vlans": [0, 7]}, "mac_assigned": true}),
        json!({"function": 1, "link": "enabled", "macs": ["02:00:00:00:00:77"]}),
    ] {
        client.execute("set-policy", change);
        pump.flows();
    }
    let kept = client.execute("query-policy", json!({"function": 0}));
    assert_eq!(
        kept["check"],
        json!({"mac": true, "vlan": true, "gid": true})
    );
    assert_eq!(kept["vlan"], json!({"mode": "trunk", "vlans": [0, 7]}));
    assert_eq!(
        (&kept["trusted"], &kept["mac_assigned"]),
        (&json!(false), &json!(true))
    );
    // Another VLAN than the peer's.
    let access = json!({"mode": "access", "vlan": 5, "priority": 3});
    client.execute("set-policy", json!({"function": 1, "vlan": access}));
    let (_near, end) = pump.ends();
    assert!(matches!(end, End::Failed(_)), "{end:?}");
    // Both are in it, and do not see it.
    client.execute("set-policy", json!({"function": 0, "vlan": access}));
    let (mut near, mut far) = pair(&a, &b, Retries::Long);
    exchange(&mut near, &mut far, &mut SmallRng::seed_from_u64(5));
    nic.stop();
}

#[test]
fn a_function_without_a_link_is_told_so_and_no_other_is() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let mut client = Client::connect(&dir.path().join("c"));
    client.execute("set-policy", json!({"function": 0, "link": "disabled"}));
    until("the link is down", || {
        (a.query_port().unwrap().state == PortState::Down.raw()).then_some(())
    });
    assert_eq!(b.query_port().unwrap().state, PortState::Active.raw());
    client.execute("set-policy", json!({"function": 0, "link": "auto"}));
    until("the link is up", || {
        (a.query_port().unwrap().state == PortState::Active.raw()).then_some(())
    });
    nic.stop();
}

#[test]
fn what_no_port_can_have_is_refused_and_changes_nothing() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    let before = client.execute("query-policy", json!({"function": 0}));
    let many: Vec<_> = (0..257)
        .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
        .collect();
    for (rules, word) in [
        (json!({"function": 9}), "no function 9"),
        (json!({"vlan": {"mode": "access", "vlan": 0}}), "1 to 4094"),
        (
            json!({"vlan": {"mode": "access", "vlan": 5, "priority": 8}}),
            "0 to 7",
        ),
        (json!({"vlan": {"mode": "access"}}), "`vlan`"),
        (
            json!({"vlan": {"mode": "trunk", "vlans": [4095]}}),
            "VLAN 4095",
        ),
        (json!({"vlan": {"mode": "trunk", "vlan": 5}}), "`vlan`"),
        (json!({"macs": ["01:00:5e:00:00:01"]}), "a group"),
        (json!({"macs": ["02:00"]}), "'02:00'"),
        (json!({"gids": ["10.0.0"]}), "'10.0.0'"),
        (json!({"gids": many}), "256 addresses"),
        (json!({"check": {"ip": true}}), "`ip`"),
        (json!({"trust": true}), "`trust`"),
        (json!({"link": "up"}), "`up`"),
        (json!({"max_rate": 0}), "1 Mbit/s"),
        (json!({"max_rate": 1u64 << 32}), "u32"),
        (json!({"weight": 0}), "1 to 255"),
        (json!({"weight": 256}), "u8"),
    ] {
        let mut arguments = json!({"function": 0, "trusted": false});
        let rules = rules.as_object().unwrap().clone();
        arguments.as_object_mut().unwrap().extend(rules);
        let request = json!({"execute": "set-policy", "arguments": arguments});
        let answer = client.ask(&request.to_string());
        let said = answer["error"]["desc"].as_str().unwrap_or_default();
        assert!(said.contains(word), "{request}: {answer}");
    }
    let after = client.execute("query-policy", json!({"function": 0}));
    assert_eq!(before, after);
    nic.stop();
}

#[test]
fn ctl_changes_the_rules_that_are_given() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let ok = |arguments: &[&str]| ctl_ok(dir.path(), arguments);
    let change =
        "policy 0 --vlan 0,7-9 --check mac,gid --macs 02:00:00:00:00:77 --gids 10.0.0.1,fe80::1";
    assert_eq!(ok(&change.split(' ').collect::<Vec<_>>()), "");
    let change =
        "policy 0 --trust off --mac-assigned on --link enabled --max-rate 25000 --weight 30";
    assert_eq!(ok(&change.split(' ').collect::<Vec<_>>()), "");
    let rules: Value = serde_json::from_str(&ok(&["policy", "0", "--json"])).unwrap();
    assert_eq!(
        rules,
        json!({
            "function": 0,
            "vlan": {"mode": "trunk", "vlans": [0, 7, 8, 9]},
            "check": {"mac": true, "vlan": false, "gid": true},
            "macs": ["02:00:00:00:00:77"],
            "gids": ["::ffff:10.0.0.1", "fe80::1"],
            "trusted": false,
            "mac_assigned": true,
            "link": "enabled",
            "pf_may_change": false,
            "max_rate": 25_000,
            "weight": 30,
        })
    );
    let table = ok(&["policy", "0"]);
    assert!(table.contains("vlan vlans     0,7,8,9\n"), "{table}");
    ok(&[
        "policy", "0", "--vlan", "access:5", "--macs", "none", "--gids", "any", "--check", "none",
    ]);
    let rules: Value = serde_json::from_str(&ok(&["policy", "0", "--json"])).unwrap();
    assert_eq!(
        (&rules["vlan"], &rules["macs"], &rules["gids"]),
        (
            &json!({"mode": "access", "vlan": 5, "priority": 0}),
            &json!([]),
            &Value::Null
        )
    );
    let (code, _, err) = ctl(dir.path(), &["policy", "0", "--vlan", "5000"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("5000"), "{err}");
    nic.stop();
}
