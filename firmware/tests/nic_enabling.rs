//! Functions that the operator takes out of service and puts back.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::eqe::EventType;
use vrnic_abi::registers::{self as reg, DeviceState, HealthCode};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Memory;

#[track_caller]
fn is_in(driver: &Driver, state: DeviceState, health: Option<HealthCode>) {
    let code = health.map_or(0, |code| u32::from(code.raw()));
    let found = (driver.state(), driver.hw.register(&reg::HEALTH_CODE));
    assert_eq!(found, (u32::from(state.raw()), code));
}

fn resets(driver: &Driver) -> u32 {
    reg::device_status::RESET_COUNT.get(driver.hw.register(&reg::DEVICE_STATUS))
}

/// A WRITE of other bytes than `to` has, which arrive.
#[track_caller]
fn writes(bench: &mut Bench, from: &mut Node, to: &Node, fill: u8) {
    let bytes = [fill; 5000];
    from.hw().ram.write(from.memory, &bytes).unwrap();
    let list = [from.segment(0, 5000)];
    let remote = (to.memory + 7, to.key);
    from.qp
        .rdma(&from.driver.hw, WqeOpcode::Write, remote, &list);
    bench.run();
    let done = from.poll().expect("the WRITE completes");
    assert_eq!(done.status, CompletionStatus::Success.raw());
    assert!(to.hw().bytes(to.memory + 7, 5000) == bytes);
}

#[test]
fn a_function_out_of_service_is_a_peer_that_does_not_answer() {
    let mut bench = Bench::default();
    let (mut a, mut b) = pair(&mut bench);
    let (mut c, mut d) = (Node::new(&mut bench, 3), Node::new(&mut bench, 4));
    join(&mut bench, &mut c, &mut d);
    let list = [a.segment(0, 1 << 20)];
    let remote = (b.memory, b.key);
    for _ in 0..4 {
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
    }
    bench.step();
    assert_eq!(bench.nic.is_enabled(b.driver.id), Some(true));
    assert!(bench.nic.set_enabled(b.driver.id, false));
    assert_eq!(bench.nic.is_enabled(b.driver.id), Some(false));
    is_in(&b.driver, DeviceState::Error, Some(HealthCode::Disabled));
    let hw = b.driver.hw.clone();
    let event = b.eq.poll(&hw).expect("the driver is told");
    assert_eq!(event.event, EventType::DeviceFatal.raw());
    // Nothing of it moves any more, neither what others send it nor what its driver asks for.
    b.hw()
        .ram
        .write(b.memory, &[PATTERN; BUFFER as usize])
        .unwrap();
    let own = [b.segment(0, 4096)];
    b.qp.rdma(&b.driver.hw, WqeOpcode::Write, (a.memory, a.key), &own);
    let before = a.hw().bytes(a.memory, BUFFER as usize);
    while a.cq.poll(&a.driver.hw).is_some() {}
    let mut failed = None;
    for _ in 0..1_000 {
        bench.run();
        failed = a.poll();
        if failed.is_some() || !bench.skip() {
            break;
        }
    }
    let failed = failed.expect("the peer notices");
    assert_eq!(failed.status, CompletionStatus::RetryExceeded.raw());
    let all = |node: &Node| node.hw().bytes(node.memory, BUFFER as usize);
    assert!(all(&b).iter().all(|byte| *byte == PATTERN));
    assert!(all(&a) == before);
    assert!(b.poll().is_none() && b.eq.poll(&hw).is_none());
    assert!(b.counter(&bench, Counter::RxNoQp) > 0);
    // The others have not noticed.
    writes(&mut bench, &mut c, &d, 0x11);
    writes(&mut bench, &mut d, &c, 0x22);
}

#[test]
fn no_reset_puts_it_back_into_service() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let id = node.driver.id;
    bench.nic.set_enabled(id, false);
    for flr in [false, true, false] {
        let before = resets(&node.driver);
        if flr {
            bench.nic.reset(id);
        } else {
            let driver = &node.driver;
            driver.write_register(&mut bench, &reg::RESET, reg::RESET_VALUE);
        }
        assert_eq!(resets(&node.driver), before + 1);
        is_in(&node.driver, DeviceState::Reset, None);
        // Again and again: the second is no more than a write to a failed function.
        for _ in 0..2 {
            let driver = &node.driver;
            driver.write_register(&mut bench, &reg::DEVICE_CONTROL, 1);
            is_in(driver, DeviceState::Error, Some(HealthCode::Disabled));
        }
        bench.run();
    }
    let before = resets(&node.driver);
    assert!(bench.nic.set_enabled(id, true));
    is_in(&node.driver, DeviceState::Reset, None);
    assert_eq!(resets(&node.driver), before + 1);
    // What is so already changes nothing.
    assert!(bench.nic.set_enabled(id, true));
    assert_eq!(resets(&node.driver), before + 1);
    let mut peer = Node::new(&mut bench, 2);
    let driver = again(node.driver, &mut bench);
    node = Node::on(&mut bench, driver);
    join(&mut bench, &mut node, &mut peer);
    writes(&mut bench, &mut node, &peer, 0x33);
    writes(&mut bench, &mut peer, &node, 0x44);
}

/// The driver enables its function anew, and gives it its address.
#[track_caller]
fn again(mut driver: Driver, bench: &mut Bench) -> Driver {
    driver.enable(bench);
    let mut body = vrnic_abi::admin::SetGid {
        gid_type: vrnic_abi::admin::GidType::RoceV2.raw(),
        ..Default::default()
    };
    body.gid = gid(driver.n).0;
    driver.ok(bench, vrnic_abi::admin::AdminOpcode::SetGid, &body);
    driver
}

#[test]
fn a_function_without_a_driver_is_put_out_and_back() {
    let mut bench = Bench::default();
    let mut driver = Driver::add(&mut bench, 1);
    bench.nic.set_enabled(driver.id, false);
    is_in(&driver, DeviceState::Error, Some(HealthCode::Disabled));
    bench.nic.set_enabled(driver.id, true);
    is_in(&driver, DeviceState::Reset, None);
    driver.enable(&mut bench);
}

#[test]
fn another_failure_stays_what_it_was() {
    let mut bench = Bench::default();
    let mut driver = Driver::add(&mut bench, 1);
    let id = driver.id;
    driver.write_register(&mut bench, &reg::DEVICE_CONTROL, 1);
    is_in(&driver, DeviceState::Error, Some(HealthCode::BadAdminQueue));
    bench.nic.set_enabled(id, false);
    bench.nic.set_enabled(id, true);
    is_in(&driver, DeviceState::Error, Some(HealthCode::BadAdminQueue));
    driver.write_register(&mut bench, &reg::RESET, reg::RESET_VALUE);
    driver.enable(&mut bench);
}

#[test]
fn what_the_operator_said_goes_with_the_function() {
    let mut bench = Bench::default();
    let driver = Driver::add(&mut bench, 1);
    let id = driver.id;
    bench.nic.set_enabled(id, false);
    bench.nic.remove_function(id);
    assert_eq!(bench.nic.is_enabled(id), None);
    assert!(!bench.nic.set_enabled(id, true));
    let mut next = Driver::add(&mut bench, 1);
    assert_eq!((next.id, bench.nic.is_enabled(id)), (id, Some(true)));
    next.enable(&mut bench);
}
