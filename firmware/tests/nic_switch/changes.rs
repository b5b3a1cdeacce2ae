//! Rules change under traffic: nothing of what they allow is lost.

use vrnic_abi::counter::Counter;
use vrnic_firmware::nic::{LinkMode, Policy, PortName, UplinkPolicy};
use vrnic_firmware::types::Mac;

use super::nic_bench::net::WAYS;
use super::nic_bench::{Node, Random, gid, mac};
use super::rules::*;

/// Some rules; those for nodes of the connection allow what it does.
fn any_policy(random: &mut Random, of_the_pair: Option<u8>) -> Policy {
    let mut policy = match (random.below(4), of_the_pair) {
        (0, _) => Policy::default(),
        (1, Some(_)) => trunk(&[0]),
        (1, None) => trunk(&[5, 6]),
        (2, None) => access(1 + random.below(4000) as u16, 3),
        _ => trunk(&[0, 7, 4094]),
    };
    policy.checks.mac = random.below(2) == 0;
    policy.checks.vlan = random.below(2) == 0;
    policy.checks.gid = random.below(2) == 0;
    policy.trusted = random.below(2) == 0;
    policy.mac_assigned = random.below(2) == 0;
    policy.gids = match (random.below(3), of_the_pair) {
        (0, None) => Some(vec![gid(99)]),
        (0, Some(n)) => Some(vec![gid(99), gid(n)]),
        _ => None,
    };
    policy.link = match (random.below(3), of_the_pair) {
        (0, None) => LinkMode::Disabled,
        (1, _) => LinkMode::Enabled,
        _ => LinkMode::Auto,
    };
    policy
}

/// A connection that writes both ways all the time, while rules of a third function and its own
/// change between the steps.
#[test]
fn a_connection_loses_nothing_that_it_may_send() {
    for mut connection in Connection::each() {
        let way = connection.way;
        let third = Node::new(connection.net.of(0), 3);
        for seed in 0..3 {
            let mut random = Random(seed);
            for round in 0..40 {
                let posted = [0, 1].map(|from| connection.post(from, 60_000));
                for _ in 0..4 {
                    for index in [0, 1] {
                        let policy = any_policy(&mut random, Some(index as u8 + 1));
                        connection.set(index, policy);
                    }
                    let bench = connection.net.of(0);
                    set(bench, third.driver.id, any_policy(&mut random, None));
                    bench.nic.set_uplink_policy(UplinkPolicy {
                        check_sources: random.below(2) == 0,
                    });
                    connection.net.step(&mut Vec::new());
                }
                connection.net.run();
                for (from, (at, bytes)) in posted.into_iter().enumerate() {
                    let entry = connection.nodes[from].poll();
                    let status = entry.map(|entry| entry.status);
                    assert_eq!(status, Some(0), "{way:?}, seed {seed}, round {round}");
                    let there = connection.nodes[1 - from].hw().bytes(at, bytes.len());
                    assert!(there == bytes, "{way:?}, seed {seed}, round {round}");
                }
            }
        }
        for index in [0, 1] {
            for counter in [
                Counter::TxRetransmits,
                Counter::LocalAckTimeoutErr,
                Counter::OutOfSequence,
                Counter::TxSpoofedGid,
                Counter::TxSpoofedMac,
                Counter::TxSpoofedVlan,
                Counter::RxNotAllowed,
                Counter::RxWrongSource,
            ] {
                let count = connection.counter(index, counter);
                assert_eq!(count, 0, "{way:?}: {counter:?}");
            }
        }
        let carried_out = connection.counter(1, Counter::RxWriteRequests);
        assert_eq!(carried_out, 120, "{way:?}");
    }
}

/// A rule holds from the next PDU on, whatever was remembered of a path before.
#[test]
fn a_change_holds_at_once() {
    for mut connection in Connection::each() {
        for round in 0..3 {
            connection.works(0);
            connection.works(1);
            let before = connection.counter(1, Counter::RxWriteRequests);
            connection.set(0, trunk(&[9]));
            let (at, bytes) = connection.post(0, 5000);
            connection.net.run();
            let stopped = connection.counter(1, Counter::RxWriteRequests);
            assert_eq!(stopped, before, "{:?}, round {round}", connection.way);
            connection.set(0, trunk(&[0]));
            connection.recovers(0);
            assert_eq!(connection.nodes[1].hw().bytes(at, 5000), bytes);
        }
    }
}

/// Nothing arrives from node 0, which is as if its address were nobody's.
#[track_caller]
fn stops(connection: &mut Connection) {
    let before = connection.counter(1, Counter::RxWriteRequests);
    connection.post(0, 3000);
    connection.net.run();
    let after = connection.counter(1, Counter::RxWriteRequests);
    assert_eq!(after, before, "{:?}", connection.way);
}

/// A GID that the rules of another function take from its owner is the owner's again as soon as they do
/// not: nobody has to set it again.
#[test]
fn a_gid_comes_back_with_the_rule_that_took_it() {
    for mut connection in Connection::each() {
        let third = Node::new(connection.net.of(0), 3);
        for _ in 0..2 {
            connection.works(0);
            let lists = Policy {
                gids: Some(vec![gid(1)]),
                ..Policy::default()
            };
            set(connection.net.of(0), third.driver.id, lists);
            stops(&mut connection);
            set(connection.net.of(0), third.driver.id, Policy::default());
            connection.recovers(0);
            connection.works(1);
        }
        // With its lister, too, it comes back.
        let lists = Policy {
            gids: Some(vec![gid(1)]),
            ..Policy::default()
        };
        set(connection.net.of(0), third.driver.id, lists);
        stops(&mut connection);
        connection.net.of(0).nic.remove_function(third.driver.id);
        connection.recovers(0);
    }
}

/// The same of a GID whose Ethernet address is not the function's own: it goes with trust, and with a
/// station that the operator puts elsewhere.
#[test]
fn a_gid_comes_back_with_its_ethernet_address() {
    const FURTHER: Mac = Mac([2, 0, 0, 4, 0, 1]);
    for way in WAYS {
        let entries = [gid_entry(gid(1), FURTHER, 0), gid_entry(gid(2), mac(2), 0)];
        let mut connection = Connection::with(way, entries);
        for _ in 0..2 {
            connection.works(0);
            let untrusted = Policy {
                trusted: false,
                ..Policy::default()
            };
            connection.set(0, untrusted);
            stops(&mut connection);
            connection.set(0, Policy::default());
            connection.recovers(0);
            let bench = connection.net.of(0);
            bench.nic.add_station(0, FURTHER, PortName::Link).unwrap();
            stops(&mut connection);
            assert!(connection.net.of(0).nic.remove_station(0, FURTHER));
            connection.recovers(0);
            connection.works(1);
        }
    }
}
