//! Which thread runs on which core.
//!
//! A NIC and its client poll; what is measured is how they exchange work between two cores, not
//! how long the scheduler of a busy machine leaves both on one.

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Name of a NIC's engine threads.
const ENGINE: &str = "vrnic-engine";

/// Two cores that this process may use.
pub(crate) fn two() -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(None).context("cannot tell what cores there are")?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let both = cores.next().zip(cores.next());
    both.context("there is only one core, and this needs two")
}

/// Keeps this thread on `core`.
pub(crate) fn pin_thread(core: usize) -> Result<()> {
    pin(None, core)
}

/// Keeps the engines of process `pid` on `core`.
pub(crate) fn pin_engines(pid: u32, core: usize) -> Result<()> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let name = std::fs::read_to_string(entry.path().join("comm"))?;
        let thread = entry.file_name().to_string_lossy().parse().ok();
        if name.trim() == ENGINE {
            pin(thread.and_then(Pid::from_raw), core)?;
        }
    }
    Ok(())
}

fn pin(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set).context("cannot choose a core for a thread")
}

/// This thread on a core, until the value is dropped.
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(crate) fn to(core: usize) -> Result<Self> {
        let before = sched_getaffinity(None).context("cannot tell what cores there are")?;
        pin_thread(core)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}
