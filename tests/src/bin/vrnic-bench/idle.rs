//! What a NIC with many functions and no work costs: processor time and memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vrnic_driver_vfio::Options;

use crate::function::Function;
use crate::nic::{self, Nic};
use crate::row::Measured;

/// Functions without SR-IOV.
const FUNCTIONS: usize = 64;
/// Virtual functions, as many as there can be.
const VFS: usize = 256;
/// Time for whatever follows bring-up to end.
const SETTLE: Duration = Duration::from_millis(500);
/// The kernel counts in ticks, usually of 10 ms: 0.2 % of this.
const WINDOW: Duration = Duration::from_secs(5);

/// Processor time of functions that are up and have a queue pair, as with so many guests that do
/// nothing.
pub(crate) fn functions() -> Result<Measured> {
    Idle::new(Nic::start(FUNCTIONS, "none")?)?.processor()
}

/// The same of a physical function and its virtual ones.
pub(crate) fn family() -> Result<Measured> {
    Idle::new(Nic::start_family(VFS)?)?.processor()
}

/// Memory of those.
pub(crate) fn memory() -> Result<Measured> {
    Idle::new(Nic::start_family(VFS)?)?.memory()
}

/// A NIC all of whose functions are up and have a queue pair.
struct Idle {
    functions: Vec<Function>,
    nic: Nic,
    /// Resident when clients were attached, and no function up.
    before: Resident,
}

impl Idle {
    fn new(mut nic: Nic) -> Result<Self> {
        let options = Options {
            vectors: 2,
            ..Options::default()
        };
        let platforms = nic.open(options)?;
        let before = Resident::of(nic.pid())?;
        let functions = platforms
            .into_iter()
            .map(|platform| Function::new(platform, 4096));
        let functions = nic::explain(std::slice::from_ref(&nic), functions.collect())?;
        std::thread::sleep(SETTLE);
        Ok(Self {
            functions,
            nic,
            before,
        })
    }

    fn processor(self) -> Result<Measured> {
        let used = processor_time(self.nic.pid())?;
        let start = Instant::now();
        std::thread::sleep(WINDOW);
        let used = processor_time(self.nic.pid())?.saturating_sub(used);
        let window = start.elapsed();
        self.check()?;
        Ok(Measured {
            value: 100.0 * used.as_secs_f64() / window.as_secs_f64(),
            note: format!(
                "{} functions up, each with a QP: {used:?} of processor time in {window:.1?}",
                self.functions.len()
            ),
        })
    }

    fn memory(self) -> Result<Measured> {
        let resident = Resident::of(self.nic.pid())?;
        self.check()?;
        let count = self.functions.len();
        let each = |kib: u64| kib as f64 / count as f64;
        Ok(Measured {
            value: resident.all() as f64 / 1024.0,
            note: format!(
                "{count} functions up, each with a QP: {:.0} KiB each, of which {:.0} KiB are shared \
                 with clients; {:.1} MiB in all before they were up",
                each(resident.all()),
                each(resident.shared),
                self.before.all() as f64 / 1024.0,
            ),
        })
    }

    /// All functions still answer.
    fn check(&self) -> Result<()> {
        let answer = |function: &Function| function.driver.query_port();
        let all: Result<Vec<_>, _> = self.functions.iter().map(answer).collect();
        let all = all.context("a function does not answer afterwards");
        nic::explain(std::slice::from_ref(&self.nic), all).map(drop)
    }
}

/// Resident memory of a process in KiB, from `/proc/PID/status`.
struct Resident {
    own: u64,
    /// Of programs and libraries.
    file: u64,
    /// Of clients' memory, doorbell pages and the like.
    shared: u64,
}

impl Resident {
    fn of(pid: u32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name} in the status of a process"))
        };
        Ok(Self {
            own: field("RssAnon:")?,
            file: field("RssFile:")?,
            shared: field("RssShmem:")?,
        })
    }

    fn all(&self) -> u64 {
        self.own + self.file + self.shared
    }
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
