//! Devices that fail, fall silent, or vanish.

use std::rc::Rc;

use vrnic_driver::abi::cqe::CompletionStatus;
use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::registers::{self, HealthCode};
use vrnic_driver::abi::wqe::WqeFlags;
use vrnic_driver::{Completion, CqConfig, Data, Error, Health, Operation, QpConfig, SendRequest};

use crate::fake::FakePlatform;
use crate::{Bench, region, up};

#[test]
fn a_silent_device_is_lost_and_recovers() {
    let (world, driver) = up();
    let buffers = world.buffers();
    world.with(|device| device.hold_commands = true);
    assert_eq!(driver.create_pd().err(), Some(Error::DeviceLost));
    // The queue buffer of a command that may still be carried out stays.
    assert_eq!(
        driver.create_cq(vrnic_driver::CqConfig::default()).err(),
        Some(Error::DeviceLost)
    );
    assert!(driver.is_lost());
    driver.recover().expect("recover");
    assert!(!driver.is_lost());
    assert_eq!(world.buffers(), buffers);
    assert!(driver.create_pd().is_ok());
}

#[test]
fn memory_of_an_unanswered_command_stays_until_reset() {
    let mut bench = Bench::new(QpConfig::default());
    let buffers = bench.world.buffers();
    bench.world.with(|device| device.hold_commands = true);
    assert_eq!(bench.cq.query().err(), Some(Error::DeviceLost));
    assert_eq!(bench.world.buffers(), buffers + 1);
    bench.driver.recover().expect("recover");
    assert_eq!(
        bench.cq.poll(&mut [Completion::default()]),
        Err(Error::Stale)
    );
    assert_eq!(bench.world.buffers(), buffers);
}

#[test]
fn objects_are_stale_after_recovery() {
    let mut bench = Bench::new(QpConfig::default());
    let mut mr = region(&bench.driver, &bench.pd);
    bench.driver.recover().expect("recover");
    let request = SendRequest {
        wr_id: 0,
        operation: Operation::Send,
        data: Data::Inline(b"x"),
        flags: WqeFlags::empty(),
        ..SendRequest::default()
    };
    // Nobody will carry it out, so it is flushed; that touches no doorbell, which the fake device
    // would complain about.
    assert_eq!(bench.cq.arm(false), Ok(false));
    assert_eq!(bench.qp.post_send(&request), Ok(()));
    let mut completions = [Completion::default(); 2];
    assert_eq!(bench.cq.poll(&mut completions), Ok(1));
    assert_eq!(completions[0].status, CompletionStatus::Flushed);
    assert_eq!(bench.cq.poll(&mut completions), Err(Error::Stale));
    assert_eq!(bench.qp.query().err(), Some(Error::Stale));
    assert_eq!(mr.destroy(), Ok(()));
    let config = QpConfig::default();
    let result = bench
        .driver
        .create_qp(&bench.pd, &bench.cq, &bench.cq, config);
    assert_eq!(result.err(), Some(Error::Stale));
    // The driver goes on with new ones.
    let pd = bench.driver.create_pd().expect("PD");
    drop(region(&bench.driver, &pd));
}

#[test]
fn a_recovery_in_the_middle_of_a_call_makes_it_stale() {
    let bench = Bench::new(QpConfig::default());
    let driver = Rc::new(bench.driver);
    let recover = || {
        let driver = Rc::clone(&driver);
        move || driver.recover().expect("recover")
    };
    bench.world.while_allocating(recover());
    let config = QpConfig::default();
    let result = driver.create_qp(&bench.pd, &bench.cq, &bench.cq, config);
    assert_eq!(result.err(), Some(Error::Stale));
    // No command named objects of the life before.
    assert!(bench.world.with(|device| device.qps.is_empty()));
    let cq = driver.create_cq(CqConfig::default()).expect("CQ");
    bench.world.while_allocating(recover());
    assert_eq!(cq.query().err(), Some(Error::Stale));
    // All slots of the admin queue are free.
    let pending: Vec<_> = (0..64).map(|_| driver.nop().expect("room")).collect();
    assert!(pending.into_iter().all(|command| command.wait().is_ok()));
}

#[test]
fn a_fatal_error_is_reported_to_whoever_waits() {
    let (world, driver) = up();
    world.with(|device| {
        device.hold_commands = true;
        device.state = 2;
        let code = u32::from(HealthCode::EventDmaFailed.raw());
        device.registers.insert(registers::HEALTH_CODE.offset, code);
        device
            .registers
            .insert(registers::HEALTH_ADDRESS_HIGH.offset, 1);
    });
    let error = Error::DeviceFailed {
        code: 4,
        object: 0,
        address: 1 << 32,
    };
    assert_eq!(driver.health(), Health::Failed(error));
    assert_eq!(driver.create_pd().err(), Some(error));
    driver.recover().expect("recover");
    assert!(driver.create_pd().is_ok());
}

#[test]
fn a_fatal_event_makes_commands_fail_at_once() {
    let (world, driver) = up();
    world.with(|device| {
        let eq = device.async_eq;
        device.write_event(eq, EventType::DeviceFatal, 0);
    });
    assert!(FakePlatform::deliver(&driver));
    assert!(driver.is_lost());
    assert_eq!(driver.nop().err(), Some(Error::DeviceLost));
}

#[test]
fn memory_of_a_device_that_cannot_be_reset_is_leaked() {
    let bench = Bench::new(QpConfig::default());
    let mr = region(&bench.driver, &bench.pd);
    let buffers = bench.world.buffers();
    let Bench {
        world,
        driver,
        pd,
        cq,
        qp,
    } = bench;
    world.with(|device| device.ignore_resets = true);
    assert_eq!(driver.recover(), Err(Error::DeviceLost));
    drop((mr, qp, cq, pd, driver));
    // Nothing that the device knows was freed; the fake would have complained.
    assert_eq!(world.buffers(), buffers);
}

#[test]
fn a_device_that_is_gone_is_recognized() {
    let (world, driver) = up();
    world.with(|device| {
        device.hold_commands = true;
        device.gone = true;
    });
    assert_eq!(driver.health(), Health::Gone);
    assert_eq!(driver.create_pd().err(), Some(Error::DeviceLost));
    assert_eq!(driver.recover(), Err(Error::DeviceLost));
}
