//! The admin queue, and objects that commands create.

use std::sync::Arc;

use vrnic_driver::abi::admin::{AccessFlags, AdminOpcode, Completion, ReregisterMr, Status};
use vrnic_driver::abi::object::QpState;
use vrnic_driver::{CqConfig, DmaBuffer, Driver, Error, MrConfig, QpConfig, RegionMemory, Segment};

use crate::fake::FakePlatform;
use crate::fake_memory::FakePinned;
use crate::{Bench, region, up};

#[test]
fn commands_complete_in_any_order() {
    let (world, driver) = up();
    world.with(|device| device.hold_commands = true);
    let mut pending: Vec<_> = (0..5).map(|_| driver.nop().expect("room")).collect();
    for left in (1..=5).rev() {
        for command in &mut pending {
            assert!(command.poll().is_none());
        }
        world.with(|device| device.run_command(left - 1));
        let done = pending.pop().expect("one is left");
        assert_eq!(done.wait().map(|answer| answer.status), Ok(0));
    }
}

#[test]
fn the_ring_wraps_with_commands_in_flight() {
    let (world, driver) = up();
    for round in 0..200 {
        world.with(|device| device.hold_commands = true);
        let pending: Vec<_> = (0..7).map(|_| driver.nop().expect("room")).collect();
        for index in [3, 0, 4, 1, 0, 1, 0] {
            world.with(|device| device.run_command(index));
        }
        for command in pending {
            assert!(command.wait().is_ok(), "round {round}");
        }
    }
}

#[test]
fn a_full_queue_is_refused_and_abandoned_commands_free_their_place() {
    let (world, driver) = up();
    world.with(|device| device.hold_commands = true);
    let pending: Vec<_> = (0..64).map(|_| driver.nop().expect("room")).collect();
    assert_eq!(driver.nop().err(), Some(Error::AdminQueueFull));
    drop(pending);
    assert_eq!(driver.nop().err(), Some(Error::AdminQueueFull));
    world.with(|device| {
        for _ in 0..64 {
            device.run_command(0);
        }
    });
    assert!(FakePlatform::deliver(&driver));
    assert!(driver.nop().is_ok());
}

#[test]
fn a_refused_command_reports_the_status() {
    let (world, driver) = up();
    let opcode = AdminOpcode::AllocPd;
    world.with(|device| device.refuse = Some(opcode.raw()));
    let error = Error::Command {
        opcode,
        status: Status::NoResources,
        syndrome: 0,
    };
    assert_eq!(driver.create_pd().err(), Some(error));
    assert!(!driver.is_lost());
}

#[test]
fn completions_of_no_command_make_the_device_lost() {
    for id in [5, 9999] {
        let (world, driver) = up();
        let completion = Completion {
            id,
            ..Completion::default()
        };
        world.with(|device| device.complete_command(&completion));
        FakePlatform::deliver(&driver);
        assert!(driver.is_lost());
        assert_eq!(driver.create_pd().err(), Some(Error::DeviceLost));
        driver.recover().expect("recover");
        assert!(driver.create_pd().is_ok());
    }
}

/// Lets every slot of the admin queue be used again, which frees the memory that it kept.
#[track_caller]
fn reuse_admin_slots(driver: &Driver<FakePlatform>) {
    let pending: Vec<_> = (0..64).map(|_| driver.nop().expect("room")).collect();
    for command in pending {
        assert!(command.wait().is_ok());
    }
}

#[test]
fn memory_of_an_object_with_a_bad_answer_stays_until_reset() {
    let bench = Bench::new(QpConfig::default());
    let (world, driver) = (&bench.world, &bench.driver);
    // Numbers that are none, then doorbell slots that are none. The fake device has the object,
    // and complains if its memory is freed.
    let answers = [(u64::MAX, 8 << 16 | 9), (77, 7), (77, u64::MAX)];
    for opcode in [
        AdminOpcode::CreateCq,
        AdminOpcode::CreateQp,
        AdminOpcode::CreateMr,
    ] {
        for answer in answers {
            world.with(|device| device.forged.insert(opcode.raw(), answer));
            let config = QpConfig::default();
            let error = match opcode {
                AdminOpcode::CreateCq => driver.create_cq(CqConfig::default()).err(),
                AdminOpcode::CreateQp => {
                    let qp = driver.create_qp(&bench.pd, &bench.cq, &bench.cq, config);
                    qp.err()
                }
                _ if answer.0 == 77 => continue,
                _ => {
                    let memory = RegionMemory::Dma(driver.allocate(1).expect("memory"));
                    driver.create_mr(&bench.pd, memory, whole(1)).err()
                }
            };
            assert!(
                matches!(error, Some(Error::BadAnswer(_))),
                "{opcode:?} {answer:?}"
            );
            reuse_admin_slots(driver);
        }
    }
    let kept = world.buffers();
    driver.recover().expect("recover");
    assert!(world.buffers() < kept);
}

#[test]
fn doorbell_pages_beyond_the_bar_are_refused() {
    let (world, driver) = up();
    assert!(driver.create_doorbell_page().is_ok());
    let opcode = AdminOpcode::AllocDoorbellPage.raw();
    for number in [256, u64::from(u32::MAX)] {
        world.with(|device| device.forged.insert(opcode, (number, 0)));
        let error = driver.create_doorbell_page().err();
        assert!(matches!(error, Some(Error::BadAnswer(_))), "page {number}");
        let config = CqConfig {
            doorbell_page: number as u32,
            ..CqConfig::default()
        };
        let error = driver.create_cq(config).err();
        assert!(
            matches!(error, Some(Error::BadArgument(_))),
            "page {number}"
        );
    }
}

#[test]
fn memory_of_a_region_is_freed_after_destroy_only() {
    let (world, driver) = up();
    let mut pd = driver.create_pd().expect("PD");
    let before = world.buffers();
    let mut mr = region(&driver, &pd);
    assert_eq!(mr.key() & 0xff, 3);
    mr.destroy().expect("destroy");
    assert_eq!(mr.destroy(), Ok(()));
    drop(mr);
    assert_eq!(world.buffers(), before);
    let mr = region(&driver, &pd);
    drop(mr);
    assert_eq!(world.buffers(), before + 1);
    pd.destroy().expect("free");
    assert!(
        driver
            .create_mr(
                &pd,
                RegionMemory::Dma(driver.allocate(1).expect("memory")),
                whole(1)
            )
            .is_err()
    );
    drop((driver, pd));
    assert_eq!(world.buffers(), 0);
}

fn whole(length: u64) -> MrConfig {
    MrConfig {
        offset: 0,
        length,
        start: 0,
        access: AccessFlags::empty(),
        variant: 0,
    }
}

#[test]
fn a_region_that_is_registered_again_keeps_its_key_and_lets_its_memory_go() {
    let (world, driver) = up();
    let (first, second) = (
        driver.create_pd().expect("PD"),
        driver.create_pd().expect("PD"),
    );
    let before = world.buffers();
    let mut mr = region(&driver, &first);
    let key = mr.key();
    let memory = || RegionMemory::Dma(driver.allocate(0x3000).expect("memory"));
    let config = MrConfig {
        access: AccessFlags::REMOTE_READ,
        start: 0x5000_0000,
        ..whole(0x2800)
    };
    mr.reregister(&second, memory(), config).expect("again");
    // The fake device complains of memory that is freed while it knows it; the first one was freed.
    assert_eq!(world.buffers(), before + 1);
    assert_eq!(
        (mr.key(), mr.start(), mr.length()),
        (key, 0x5000_0000, 0x2800)
    );
    let body: ReregisterMr = world.with(|device| device.latest(AdminOpcode::ReregisterMr));
    assert_eq!((body.key, body.pd), (key, second.number()));
    assert_eq!((body.start, body.length), (0x5000_0000, 0x2800));
    assert_eq!(body.access, AccessFlags::REMOTE_READ.bits());
    assert_eq!((body.buffer.pages, body.buffer.list), (3, 0));

    let refused = mr.reregister(&second, memory(), whole(0x3001));
    assert!(matches!(refused, Err(Error::BadArgument(_))));
    world.with(|device| device.refuse = Some(AdminOpcode::ReregisterMr.raw()));
    let refused = mr.reregister(&second, memory(), whole(0x3000));
    assert!(matches!(refused, Err(Error::Command { .. })));
    assert_eq!((mr.length(), world.buffers()), (0x2800, before + 1));
    world.with(|device| device.refuse = None);

    // Nobody knows whether the device has done it: both memories stay until a reset.
    world.with(|device| device.hold_commands = true);
    let lost = mr.reregister(&first, memory(), whole(0x3000));
    assert_eq!(lost, Err(Error::DeviceLost));
    drop(mr);
    assert!(world.buffers() >= before + 2);
}

#[test]
fn regions_of_scattered_memory_use_a_page_list() {
    let (world, driver) = up();
    let pd = driver.create_pd().expect("PD");
    let segments = [
        (0x80_0000, 0x2000),
        (0x90_0000, 0x1000),
        (0xa0_0000, 0x3000),
    ];
    let segments = segments.map(|(address, length)| Segment { address, length });
    let memory = RegionMemory::Pinned(Arc::new(FakePinned(segments.to_vec())));
    world.with(|device| device.hold_commands = true);
    // The command waits; look at what it would do when it is given up.
    let config = MrConfig {
        offset: 0x1800,
        length: 0x2000,
        start: 0x5000_0800,
        ..whole(0)
    };
    assert_eq!(
        driver.create_mr(&pd, memory, config).err(),
        Some(Error::DeviceLost)
    );
    world.with(|device| {
        let command = device.held.back().expect("the command");
        let body = bytemuck::bytes_of(&command.body);
        let buffer: vrnic_driver::abi::admin::Buffer = bytemuck::pod_read_unaligned(&body[24..40]);
        assert_eq!((buffer.pages, buffer.page_shift, buffer.list), (3, 12, 1));
        let pages: [u64; 3] = device.read_pod(buffer.address);
        assert_eq!(pages, [0x80_1000, 0x90_0000, 0xa0_0000]);
    });
}

#[test]
fn ranges_outside_of_the_memory_are_refused() {
    let (_world, driver) = up();
    let pd = driver.create_pd().expect("PD");
    let memory = driver.allocate(0x3000).expect("memory");
    assert_eq!(memory.device_address() % 4096, 0);
    let bad = [(0, 0x3001, 0), (0x3000, 1, 0), (0, 0, 0), (4, 8, 8)];
    for (offset, length, start) in bad {
        let config = MrConfig {
            offset,
            start,
            ..whole(length)
        };
        let result = driver.create_mr(&pd, RegionMemory::Dma(Arc::clone(&memory)), config);
        assert!(matches!(result.err(), Some(Error::BadArgument(_))));
    }
}

#[test]
fn a_queue_pair_goes_through_its_states() {
    let mut bench = Bench::new(QpConfig::default());
    bench.qp.to_init(AccessFlags::REMOTE_READ).expect("INIT");
    let connection = vrnic_driver::Connection::default();
    bench.qp.to_rtr(&connection).expect("RTR");
    bench.qp.to_rts(&connection).expect("RTS");
    let state = bench.qp.query().expect("query").state;
    assert_eq!(state, QpState::Rts.raw());
    bench.qp.destroy().expect("destroy");
    bench.cq.destroy().expect("destroy");
    assert!(bench.qp.query().is_err());
}

#[test]
fn queue_pairs_beyond_the_limits_are_refused() {
    let bench = Bench::new(QpConfig::default());
    let default = QpConfig::default;
    let configs = [
        QpConfig {
            send_requests: 1025,
            ..default()
        },
        QpConfig {
            receive_requests: u32::MAX,
            ..default()
        },
        QpConfig {
            send_segments: 29,
            ..default()
        },
        QpConfig {
            receive_segments: 17,
            ..default()
        },
        QpConfig {
            inline: 449,
            ..default()
        },
    ];
    for config in configs {
        let result = bench
            .driver
            .create_qp(&bench.pd, &bench.cq, &bench.cq, config);
        assert!(
            matches!(result.err(), Some(Error::BadArgument(_))),
            "{config:?}"
        );
    }
}
