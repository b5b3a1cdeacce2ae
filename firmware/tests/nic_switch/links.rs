//! The state of the link as each function sees it.

use vrnic_abi::admin::{AdminOpcode, FilterType, OutputBuffer};
use vrnic_abi::counter::Counter;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{PortAttributes, PortState};
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::nic::{LinkMode, Policy};
use vrnic_firmware::types::Mac;

use super::nic_bench::net::Way;
use super::nic_bench::{Bench, Node, mac};
use super::rules::*;
use super::support::*;

fn link(link: LinkMode) -> Policy {
    Policy {
        link,
        ..Policy::default()
    }
}

/// What QueryPort says.
#[track_caller]
fn is_active(bench: &mut Bench, node: &mut Node) -> bool {
    let address = node.driver.memory(256, false);
    let output = OutputBuffer {
        address,
        length: size_of::<PortAttributes>() as u32,
        reserved: 0,
    };
    node.driver.ok(bench, AdminOpcode::QueryPort, &output);
    let attributes: PortAttributes = node.hw().read(address);
    match PortState::from_raw(attributes.state).unwrap() {
        PortState::Active => true,
        PortState::Down => false,
    }
}

/// The events that came, as up or down.
fn events(node: &mut Node) -> Vec<bool> {
    let mut found = Vec::new();
    while let Some(event) = node.eq.poll(&node.driver.hw) {
        match EventType::from_raw(event.event) {
            Some(EventType::PortUp) => found.push(true),
            Some(EventType::PortDown) => found.push(false),
            _ => {}
        }
    }
    found
}

#[test]
fn each_function_sees_the_link_that_it_is_to_see() {
    let mut bench = Bench::default();
    let mut nodes = [1, 2, 3].map(|n| Node::new(&mut bench, n));
    let modes = [LinkMode::Auto, LinkMode::Enabled, LinkMode::Disabled];
    for (node, mode) in nodes.iter().zip(modes) {
        set(&mut bench, node.driver.id, link(mode));
    }
    let mut look = |bench: &mut Bench| {
        let events = nodes.each_mut().map(events);
        (nodes.each_mut().map(|node| is_active(bench, node)), events)
    };
    let only_third = [vec![], vec![], vec![false]];
    assert_eq!(look(&mut bench), ([true, true, false], only_third));
    bench.nic.set_link(false);
    let only_first = [vec![false], vec![], vec![]];
    assert_eq!(look(&mut bench), ([false, true, false], only_first));
    bench.nic.set_link(true);
    let only_first = [vec![true], vec![], vec![]];
    assert_eq!(look(&mut bench), ([true, true, false], only_first));
    bench.nic.set_link(false);
    let ids = nodes.each_ref().map(|node| node.driver.id);
    for id in ids {
        set(&mut bench, id, link(LinkMode::Auto));
    }
    let mut look = |bench: &mut Bench| {
        let events = nodes.each_mut().map(events);
        (nodes.each_mut().map(|node| is_active(bench, node)), events)
    };
    let two = [vec![false], vec![false], vec![]];
    assert_eq!(look(&mut bench), ([false, false, false], two));
}

#[test]
fn functions_talk_without_a_link() {
    for way in [Way::Direct, Way::Looped] {
        let mut connection = Connection::new(way);
        connection.net.of(0).nic.set_link(false);
        connection.set(0, link(LinkMode::Enabled));
        connection.set(1, link(LinkMode::Enabled));
        connection.works(0);
        connection.works(1);
    }
}

#[test]
fn a_disabled_port_carries_nothing() {
    for disabled in [0, 1] {
        for mut connection in Connection::each() {
            connection.works(0);
            connection.set(disabled, link(LinkMode::Disabled));
            connection.fails(0);
            let counter = [Counter::PortXmitDiscards, Counter::RxNotAllowed][disabled];
            assert!(connection.counter(disabled, counter) > 1);
            assert_eq!(connection.counter(1 - disabled, counter), 0);
        }
    }
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    set(&mut bench, one.driver.id, link(LinkMode::Disabled));
    one.listen(&mut bench, FilterType::Broadcast, mac(0));
    let none = WqeFlags::empty();
    for to in [mac(2), STRANGER] {
        one.transmit(&mut bench, &ethernet(to, mac(1), 0x88b5, &[1; 80]), none, 0);
    }
    assert_eq!(one.counter(&bench, Counter::PortXmitDiscards), 2);
    for to in [mac(1), Mac::BROADCAST] {
        two.transmit(&mut bench, &ethernet(to, mac(2), 0x88b5, &[1; 80]), none, 0);
        arrive(&mut bench, &ethernet(to, STRANGER, 0x88b5, &[1; 80]));
    }
    assert!(one.received().is_none() && two.received().is_none());
    assert_eq!(one.counter(&bench, Counter::RxNotAllowed), 4);
    let sent: Vec<_> = bench.wire.sent.drain(..).collect();
    assert_eq!(sent.len(), 1, "the broadcast of function 2");
    assert_eq!(sent[0][6..12], mac(2).0);
}
