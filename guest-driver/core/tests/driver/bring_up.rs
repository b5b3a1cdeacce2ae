//! Probe and removal.

use vrnic_driver::abi::registers;
use vrnic_driver::{Config, Driver, Error, Health};

use crate::fake::{Device, World};
use crate::{Bench, region, up};

#[track_caller]
fn refused(prepare: impl FnOnce(&World), error: Error) {
    let world = World::new();
    prepare(&world);
    let result = Driver::probe(world.platform(), Config::default());
    assert_eq!(result.err(), Some(error));
    assert_eq!(world.buffers(), 0);
}

#[test]
fn probe_brings_the_function_up_and_remove_takes_everything_back() {
    let (world, driver) = up();
    assert!(matches!(driver.health(), Health::Good(_)));
    assert_eq!(driver.completion_vectors(), 1);
    let async_eq = world.with(|device| (device.async_eq, device.eqs.len()));
    assert_eq!(async_eq.1, 2);
    assert_ne!(async_eq.0, 0);
    driver.remove().expect("remove");
    assert_eq!(world.buffers(), 0);
    assert_eq!(world.with(|device| device.state), 0);
}

#[test]
fn one_vector_serves_all_queues() {
    let world = World::new();
    world.with(|device| device.vectors = 1);
    let driver = Driver::probe(world.platform(), Config::default()).expect("probe");
    assert_eq!(driver.completion_vectors(), 1);
    let vectors = |device: &mut Device| device.eqs.values().map(|eq| eq.vector).collect();
    let vectors: Vec<u16> = world.with(vectors);
    assert_eq!(vectors, [0, 0], "asynchronous events, completions");
}

#[test]
fn dropping_the_driver_resets_the_function() {
    let (world, driver) = up();
    let resets = world.with(|device| device.resets);
    drop(driver);
    assert_eq!(world.with(|device| device.resets), resets + 1);
    assert_eq!(world.buffers(), 0);
}

#[test]
fn strangers_are_refused() {
    let set = |offset: u32, value: u32| {
        move |world: &World| {
            world.with(|device| device.registers.insert(offset, value));
        }
    };
    refused(
        set(registers::MAGIC.offset, 0x1234),
        Error::NotVrnic(0x1234),
    );
    let version = registers::INTERFACE_VERSION.offset;
    refused(set(version, 0x0002_0003), Error::UnsupportedVersion(2, 3));
    refused(
        |world| world.with(|device| device.gone = true),
        Error::DeviceLost,
    );
    refused(
        |world| world.with(|device| device.ignore_resets = true),
        Error::DeviceLost,
    );
}

#[test]
fn a_probe_that_fails_late_leaves_nothing() {
    use vrnic_driver::abi::admin::AdminOpcode;
    for opcode in [
        AdminOpcode::QueryDevice,
        AdminOpcode::QueryPort,
        AdminOpcode::CreateEq,
        AdminOpcode::SetAsyncEq,
    ] {
        let world = World::new();
        world.with(|device| device.refuse = Some(opcode.raw()));
        let result = Driver::probe(world.platform(), Config::default());
        assert!(matches!(result.err(), Some(Error::Command { .. })));
        assert_eq!(world.buffers(), 0, "{opcode:?}");
        assert_eq!(world.with(|device| device.state), 0, "{opcode:?}");
    }
}

#[test]
fn objects_may_outlive_the_driver() {
    let bench = Bench::new(vrnic_driver::QpConfig::default());
    let mr = region(&bench.driver, &bench.pd);
    let Bench {
        world,
        driver,
        pd,
        cq,
        qp,
    } = bench;
    drop(driver);
    assert_eq!(world.with(|device| device.state), 1);
    drop((mr, qp, cq, pd));
    assert_eq!(world.with(|device| device.state), 0);
    assert_eq!(world.buffers(), 0);
}
