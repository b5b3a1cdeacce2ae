//! Probe, queries, removal.

use vrnic_abi::registers::{DEVICE_STATUS, DeviceState, device_status};
use vrnic_driver::{Config, Driver, Health, Platform};
use vrnic_firmware::types::Mac;
use vrnic_tests::platform::SimPlatform;
use vrnic_tests::wire::Faults;

use crate::pair::{Pair, Place, world};

#[test]
fn a_function_is_probed_and_removed_without_a_trace() {
    let world = world(Faults::default(), 1);
    let platform = SimPlatform::new(&world, 0, Mac([2, 0, 0, 0, 0, 1]));
    let function = platform.function().clone();
    let driver = Driver::probe(platform.clone(), Config::default()).unwrap();
    assert!(matches!(driver.health(), Health::Good(_)));
    assert_eq!(driver.query_port().unwrap().mac, [2, 0, 0, 0, 0, 1]);
    // The first command after it frees what the query needed.
    driver.nop().unwrap().wait().unwrap();
    let buffers = function.memory().buffers();
    for _ in 0..100 {
        assert_eq!(driver.nop().unwrap().wait().map(|done| done.status), Ok(0));
    }
    assert_eq!(function.memory().buffers(), buffers);
    driver.remove().unwrap();
    let state = device_status::STATE.get(platform.read_register(DEVICE_STATUS.offset));
    assert_eq!(state, u32::from(DeviceState::Reset.raw()));
    assert_eq!(function.memory().buffers(), 0, "removal frees all memory");
}

#[test]
fn commands_in_flight_complete_each_with_its_own_answer() {
    let world = world(Faults::default(), 1);
    let platform = SimPlatform::new(&world, 0, Mac([2, 0, 0, 0, 0, 1]));
    let driver = Driver::probe(platform, Config::default()).unwrap();
    let pending: Vec<_> = (0..20).map(|_| driver.nop().unwrap()).collect();
    for command in pending.into_iter().rev() {
        assert_eq!(command.wait().map(|done| done.status), Ok(0));
    }
}

#[test]
fn what_was_created_can_be_destroyed_and_leaves_nothing() {
    let Pair { a, b, .. } = Pair::new(
        Place::Wire,
        Faults::default(),
        1,
        vrnic_abi::object::PathMtu::Mtu1024,
    );
    for mut side in [a, b] {
        let memory = side.driver.platform().function().memory().clone();
        side.qp.destroy().unwrap();
        side.cq.destroy().unwrap();
        side.mr.destroy().unwrap();
        side.pd.destroy().unwrap();
        drop((side.qp, side.cq, side.mr, side.pd, side.memory));
        side.driver.remove().unwrap();
        assert_eq!(memory.buffers(), 0);
    }
}
