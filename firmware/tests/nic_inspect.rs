//! What an operator sees of a NIC beside its drivers.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::admin::{QpFlags, QpType};
use vrnic_abi::object::QpState;
use vrnic_abi::registers::{self as reg, DeviceState, HealthCode};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::frontend::env::Trouble;
use vrnic_firmware::frontend::inspect::{Object, ObjectKind};
use vrnic_firmware::nic::{FunctionConfig, FunctionId};
use vrnic_firmware::transport::QpEvent;
use vrnic_firmware::types::{Outcome, State};

fn trouble(bench: &Bench, node: &Node) -> Option<Trouble> {
    let function = bench.nic.function(node.driver.id).unwrap();
    function.qps.get(node.qp.number).unwrap().queues.trouble
}

/// Numbers of the queue pairs in a part of the slots.
fn queue_pairs(bench: &Bench, node: &Node, slots: std::ops::Range<u32>) -> Vec<u32> {
    let mut numbers = Vec::new();
    let function = bench.nic.function(node.driver.id).unwrap();
    function.inspect(ObjectKind::QueuePair, slots, &mut |object| match object {
        Object::QueuePair(number, qp) => {
            assert_eq!(qp.queues.qpn, number);
            numbers.push(number);
        }
        other => panic!("{other:?}"),
    });
    numbers
}

#[test]
fn functions_are_listed_until_they_are_removed() {
    let mut bench = Bench::default();
    let drivers: Vec<_> = (1..4).map(|n| Driver::add(&mut bench, n)).collect();
    bench.nic.remove_function(drivers[1].id).unwrap();
    let found: Vec<_> = bench.nic.functions().collect();
    let ids: Vec<_> = found.iter().map(|(id, _)| (*id, id.index())).collect();
    assert_eq!(ids, [(drivers[0].id, 0), (drivers[2].id, 2)]);
    assert_eq!(found[1].1.identity.mac, mac(3));
}

#[test]
fn names_can_be_chosen() {
    let mut bench = Bench::default();
    let first = Driver::add(&mut bench, 1);
    let config = |n| FunctionConfig {
        number: u16::from(n),
        mac: mac(n),
        mtu: 4200,
    };
    let mut add = |index, n| {
        let host = TestHost(Hardware::new());
        let added = bench
            .nic
            .add_function_as(FunctionId::new(index), host, config(n));
        added.is_ok()
    };
    assert!(add(5, 2) && add(2, 3));
    assert!(!add(5, 4) && !add(first.id.index(), 4));
    let found = bench.nic.functions();
    let found: Vec<_> = found.map(|(id, f)| (id.index(), f.identity.mac)).collect();
    assert_eq!(found, [(0, mac(1)), (2, mac(3)), (5, mac(2))]);
    // What is between is free.
    assert_eq!(Driver::add(&mut bench, 5).id.index(), 1);
    assert!(bench.nic.remove_function(FunctionId::new(5)).is_some());
    Driver::ready(&mut bench, 6);
}

#[test]
fn every_queue_pair_is_in_one_part() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let (pd, none) = (node.pd, QpFlags::empty());
    let gsi = node
        .driver
        .qp_of(&mut bench, pd, &node.cq, QpType::Gsi, none);
    let mut numbers = vec![gsi.number, node.qp.number];
    for _ in 0..5 {
        let cq = &node.cq;
        numbers.push(node.driver.qp(&mut bench, pd, cq, cq).number);
    }
    let function = bench.nic.function(node.driver.id).unwrap();
    assert_eq!(function.count_of(ObjectKind::QueuePair), 7);
    let slots = function.slots_of(ObjectKind::QueuePair);
    for length in 1..=slots + 1 {
        let firsts = (0..slots).step_by(length as usize);
        let parts = firsts.map(|first| queue_pairs(&bench, &node, first..first + length));
        assert_eq!(
            parts.collect::<Vec<_>>().concat(),
            numbers,
            "parts of {length}"
        );
    }
}

#[test]
fn all_kinds_are_counted() {
    let mut bench = Bench::default();
    let (a, _b) = pair(&mut bench);
    let function = bench.nic.function(a.driver.id).unwrap();
    let expected = [
        (ObjectKind::QueuePair, 1),
        (ObjectKind::CompletionQueue, 1),
        (ObjectKind::SharedReceiveQueue, 0),
        (ObjectKind::EventQueue, 1),
        (ObjectKind::MemoryKey, 1),
        (ObjectKind::ProtectionDomain, 1),
        (ObjectKind::XrcDomain, 0),
        (ObjectKind::AddressHandle, 0),
        (ObjectKind::Gid, 1),
        (ObjectKind::Filter, 0),
        (ObjectKind::Membership, 0),
    ];
    for (kind, count) in expected {
        assert_eq!(function.count_of(kind), count, "{kind:?}");
        let mut seen = 0;
        function.inspect(kind, 0..function.slots_of(kind), &mut |_| seen += 1);
        assert_eq!(seen, count, "{kind:?}");
    }
}

#[test]
fn a_failed_queue_pair_says_what_came_first_until_it_is_reset() {
    let mut bench = Bench::default();
    let (mut a, mut b) = pair(&mut bench);
    assert_eq!([trouble(&bench, &a), trouble(&bench, &b)], [None; 2]);
    let (segment, wrong) = (a.segment(0, 64), (b.memory, b.key ^ 0x100));
    for _ in 0..3 {
        let hw = a.driver.hw.clone();
        a.qp.rdma(&hw, WqeOpcode::Write, wrong, &[segment]);
    }
    bench.run();
    // Two were flushed after that.
    let remote = Trouble::Completion(Outcome::RemoteAccess);
    assert_eq!(trouble(&bench, &a), Some(remote));
    let event = Trouble::Event(QpEvent::AccessError);
    assert_eq!(trouble(&bench, &b), Some(event));
    for node in [&mut a, &mut b] {
        let qpn = node.qp.number;
        node.driver.set_state(&mut bench, qpn, QpState::Reset);
        assert_eq!(trouble(&bench, node), None);
        let function = bench.nic.function(node.driver.id).unwrap();
        let state = function.qps.get(qpn).unwrap().transport.state();
        assert_eq!(state, State::Reset);
    }
}

#[test]
fn a_failed_function_says_why_until_it_is_reset() {
    let mut bench = Bench::default();
    let driver = Driver::ready(&mut bench, 1);
    driver.write_register(&mut bench, &reg::ADMIN_DOORBELL, 0x7fff);
    let function = bench.nic.function(driver.id).unwrap();
    assert_eq!(function.registers.state(), DeviceState::Error);
    let fault = function.registers.fault().unwrap();
    assert_eq!(fault.code, HealthCode::AdminRingOverrun);
    let resets = function.registers.resets();
    bench.nic.reset(driver.id);
    let function = bench.nic.function(driver.id).unwrap();
    assert_eq!(function.registers.fault(), None);
    assert_eq!(function.registers.resets(), resets + 1);
}
