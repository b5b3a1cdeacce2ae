//! Processor time of a NIC with many functions and no work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::function::Function;
use crate::nic::{self, Nic};
use crate::row::Measured;

const FUNCTIONS: usize = 64;
/// Time for whatever follows bring-up to end.
const SETTLE: Duration = Duration::from_millis(500);
/// The kernel counts in ticks, usually of 10 ms: 0.2 % of this.
const WINDOW: Duration = Duration::from_secs(5);

/// All functions are brought up and have a queue pair, as with so many guests that do nothing.
pub(crate) fn measure() -> Result<Measured> {
    let mut nic = Nic::start(FUNCTIONS, "none")?;
    let options = Options {
        vectors: 2,
        ..Options::default()
    };
    let platforms = nic.open(options)?;
    let result = watch(platforms, nic.pid());
    nic::explain(&[nic], result)
}

fn watch(platforms: Vec<HostPlatform>, pid: u32) -> Result<Measured> {
    let functions = platforms
        .into_iter()
        .map(|platform| Function::new(platform, 4096));
    let functions: Vec<_> = functions.collect::<Result<_>>()?;
    std::thread::sleep(SETTLE);
    let used = processor_time(pid)?;
    let start = Instant::now();
    std::thread::sleep(WINDOW);
    let used = processor_time(pid)?.saturating_sub(used);
    let window = start.elapsed();
    for function in &functions {
        let alive = function.driver.query_port();
        alive.context("a function does not answer afterwards")?;
    }
    Ok(Measured {
        value: 100.0 * used.as_secs_f64() / window.as_secs_f64(),
        note: format!(
            "{FUNCTIONS} functions up, each with a QP: {used:?} of processor time in {window:.1?}"
        ),
    })
}

/// User and system time of a process with all its threads so far, from `/proc/PID/stat`.
fn processor_time(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; the state follows it as field 3.
    let (_, fields) = text.rsplit_once(')').context("no process name")?;
    let ticks =
        |field: usize| -> Option<u64> { fields.split_whitespace().nth(field - 3)?.parse().ok() };
    let ticks = ticks(14).zip(ticks(15)).context("no processor times")?;
    let rate = rustix::param::clock_ticks_per_second();
    ensure!(rate > 0, "no clock rate");
    Ok(Duration::from_nanos(
        (ticks.0 + ticks.1) * 1_000_000_000 / rate,
    ))
}
