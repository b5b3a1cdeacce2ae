//! The driver against a device that watches how it is used.
//!
//! [`fake`] is the platform and the device behind it: it answers commands, lets the test decide
//! when and how work completes, and panics when the driver frees memory that the device knows,
//! announces a descriptor that it has not written, or calls what it may not.

// A test that cannot go on panics.
#![allow(clippy::expect_used, clippy::panic)]

mod bring_up;
mod commands;
mod fake;
mod fake_commands;
mod fake_memory;
mod fake_objects;
mod keys;
mod lost;
mod objects;
mod queues;
mod recovery;
mod resize;
mod services;
mod shared;

use vrnic_driver::abi::admin::AccessFlags;
use vrnic_driver::{
    CompletionQueue, Config, CqConfig, Driver, MemoryRegion, MrConfig, ProtectionDomain, QpConfig,
    QueuePair, RegionMemory,
};

use fake::{FakePlatform, World};

/// A driver that is up, and the device under it.
fn up() -> (World, Driver<FakePlatform>) {
    let world = World::new();
    let driver = Driver::probe(world.platform(), Config::default()).expect("probe");
    (world, driver)
}

/// What a connection needs.
struct Bench {
    world: World,
    driver: Driver<FakePlatform>,
    pd: ProtectionDomain<FakePlatform>,
    cq: CompletionQueue<FakePlatform>,
    qp: QueuePair<FakePlatform>,
}

impl Bench {
    fn new(config: QpConfig) -> Self {
        let (world, driver) = up();
        let pd = driver.create_pd().expect("PD");
        let entries = CqConfig {
            entries: 16,
            context: 77,
            ..CqConfig::default()
        };
        let cq = driver.create_cq(entries).expect("CQ");
        let qp = driver.create_qp(&pd, &cq, &cq, config).expect("QP");
        Self {
            world,
            driver,
            pd,
            cq,
            qp,
        }
    }
}

#[track_caller]
fn region(
    driver: &Driver<FakePlatform>,
    pd: &ProtectionDomain<FakePlatform>,
) -> MemoryRegion<FakePlatform> {
    let memory = RegionMemory::Dma(driver.allocate(10_000).expect("memory"));
    let config = MrConfig {
        offset: 0,
        length: 10_000,
        start: 0x7000_0000,
        access: AccessFlags::LOCAL_WRITE,
        variant: 3,
    };
    driver.create_mr(pd, memory, config).expect("MR")
}
