//! From storing a dirty mark into a doorbell page until the engine has taken it.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vrnic_driver::abi::doorbell::{ENGINE_AWAKE, GROUPS, KERNEL_PAGE};
use vrnic_driver::{Config, Driver, Platform as _};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::nic::{self, Nic};
use crate::row::Measured;
use crate::statistics::median;

/// A group of slots that no queue has: what is measured is the doorbell, not work.
const GROUP: u32 = GROUPS - 1;
const STORES: usize = 20_000;
/// Stores of which the median counts.
const WANTED: usize = STORES / 2;
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn measure() -> Result<Measured> {
    let mut nic = Nic::start(1, "none")?;
    let platform = nic.open(Options::default())?.pop().context("no function")?;
    let result = stores(platform);
    nic::explain(&[nic], result)
}

fn stores(platform: HostPlatform) -> Result<Measured> {
    ensure!(
        platform.doorbells_mapped(),
        "the doorbell pages cannot be mapped"
    );
    let driver = Driver::probe(platform, Config::default())?;
    let mut times = Vec::with_capacity(STORES);
    for _ in 0..STORES {
        let time = store(driver.platform())?;
        times.extend(time.map(|time| time.as_nanos() as f64 / 1e3));
    }
    let count = times.len();
    ensure!(
        count >= WANTED,
        "the engine was awake for {count} stores of {STORES} only"
    );
    Ok(Measured {
        value: median(&mut times),
        note: format!(
            "mapped page, store of a mark until the engine took it, median of {count} stores with \
             the engine awake"
        ),
    })
}

/// Stores one mark; `None` if the engine slept before it took the mark.
fn store(platform: &HostPlatform) -> Result<Option<Duration>> {
    let awake = || platform.load_engine_state(KERNEL_PAGE) == ENGINE_AWAKE;
    let was_awake = awake();
    let start = Instant::now();
    platform.store_mark(KERNEL_PAGE, GROUP);
    let mut slept = !was_awake;
    let mut spins = 0u32;
    while platform.load_mark(KERNEL_PAGE, GROUP) != 0 {
        spin_loop();
        spins = spins.wrapping_add(1);
        if spins % 256 == 0 && !awake() {
            slept = true;
            platform.kick(KERNEL_PAGE);
        }
        ensure!(
            spins % (1 << 16) != 0 || start.elapsed() < PATIENCE,
            "the engine did not take a mark"
        );
    }
    let time = start.elapsed();
    Ok((!slept).then_some(time))
}
