//! What a function that floods the NIC costs a neighbour: latency, in real time.
//!
//! The victim is a virtual function that writes 64 bytes into the physical function's memory and
//! waits for the completion, again and again. Quiet and flooded stretches alternate, so that whatever
//! else the machine does hits both, and the median of the one must not be more than twice that of
//! the other. A sample counts as flooded only if the flood was still going on when it ended.
//!
//! One thread floods and measures: a second one would have the scheduler measured instead of the NIC.
//! It keeps the flooder's queues full, which takes no time of the samples. For the same reason it has a
//! processor that the NIC's process does not run on, as far as there are two, and these tests run one
//! after the other, in a program of their own. What else the machine does makes a ratio larger or
//! smaller for as long as it lasts: the measurement has parts, and the least of them counts, as a NIC that
//! lets a flood through does so in all of them. A sample begins at a random time: samples one right after
//! the other keep step with the engine, and all of them come just before it looks for doorbells, or all
//! just after.
//!
//! * [`admin`], [`doorbells`], [`messages`], [`wire`]: what the flooder does;
//! * [`flooder`]: an admin queue made by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs,
    reason = "tests, with the support of others"
)]

mod admin;
mod doorbells;
#[path = "../serve/endpoint.rs"]
mod endpoint;
mod flooder;
#[path = "../serve/foreign.rs"]
mod foreign;
mod messages;
#[path = "../serve/process.rs"]
mod process;
#[path = "../serve/raw.rs"]
mod raw;
mod wire;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vrnic_driver::{Completion, DmaBuffer, Operation};
use vrnic_driver_vfio::HostPlatform;

use crate::endpoint::{Endpoint, Retries, open, pair};
use crate::process::{Nic, PATIENCE, directory};

/// Parts of a measurement.
const PARTS: usize = 4;
/// Times that quiet and flood take turns in each.
const ROUNDS: usize = 10;
/// Samples of one stretch.
const SAMPLES: usize = 25;
/// Samples before a quiet stretch that do not count: the engine may have gone to sleep.
const WARM_UP: usize = 50;
/// The longest time before a sample: several steps of the engine.
const PAUSE: Duration = Duration::from_micros(4);
/// Bytes of a sample's WRITE.
const LENGTH: usize = 64;
/// The most that a flood may do to the median.
const FACTOR: f64 = 2.0;

/// Something that a function does without end.
trait Flood {
    /// Fills up what is flooded.
    fn feed(&mut self);
    /// Whether there is something left of it for the NIC to do.
    fn is_on(&mut self) -> bool;
    /// Waits until nothing is.
    fn quench(&mut self) {
        let deadline = deadline();
        while self.is_on() {
            assert!(Instant::now() < deadline, "the flood does not end");
        }
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// The function whose latency counts, and whom it writes to.
struct Victim {
    near: Endpoint<HostPlatform>,
    far: Endpoint<HostPlatform>,
    written: u64,
    rng: SmallRng,
}

impl Victim {
    #[track_caller]
    fn new(near: &Path, far: &Path) -> Self {
        let (near, far) = (open(near, 2), open(far, 1));
        let (near, far) = pair(&near, &far, Retries::Long);
        Self {
            near,
            far,
            written: 0,
            rng: SmallRng::seed_from_u64(17),
        }
    }

    /// Writes once, and says how long it took. The data is looked at afterwards.
    #[track_caller]
    fn sample(&mut self) -> Duration {
        self.written += 1;
        self.near.memory.write(0, &self.written.to_le_bytes());
        let remote = self.near.peer().remote(0);
        let begin = Instant::now() + self.rng.random_range(Duration::ZERO..PAUSE);
        while Instant::now() < begin {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        let posted = self
            .near
            .post(self.written, Operation::Write(remote), (0, LENGTH));
        posted.unwrap();
        let mut found = [Completion::default()];
        while self.near.cq.poll(&mut found).unwrap() == 0 {
            assert!(start.elapsed() < PATIENCE, "the victim starves");
            std::hint::spin_loop();
        }
        let took = start.elapsed();
        assert_eq!(found[0].wr_id, self.written);
        let mut data = [0; 8];
        self.far.memory.read(0, &mut data);
        assert_eq!(u64::from_le_bytes(data), self.written);
        took
    }
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Measures what `flood` does to `victim`, and compares.
#[track_caller]
fn compare(what: &str, victim: &mut Victim, flood: &mut impl Flood) {
    let parts = (0..PARTS).map(|_| {
        let (quiet, flooded) = measure(what, victim, flood);
        let factor = flooded.as_secs_f64() / quiet.as_secs_f64();
        println!("{what}: {quiet:?} quiet, {flooded:?} flooded, {factor:.2}");
        factor
    });
    let least = parts.fold(f64::INFINITY, f64::min);
    assert!(least <= FACTOR, "{what}: {least:.2} times as long");
}

/// The medians of quiet and flooded samples.
#[track_caller]
fn measure(what: &str, victim: &mut Victim, flood: &mut impl Flood) -> (Duration, Duration) {
    let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    for round in 1..=ROUNDS {
        flood.quench();
        for _ in 0..WARM_UP {
            victim.sample();
        }
        quiet.extend((0..SAMPLES).map(|_| victim.sample()));
        while flooded.len() < round * SAMPLES {
            flood.feed();
            let took = victim.sample();
            if flood.is_on() {
                flooded.push(took);
            }
            assert!(Instant::now() < deadline, "{what}: the flood runs dry");
        }
    }
    flood.quench();
    (median(&mut quiet), median(&mut flooded))
}

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

/// A processor for this thread, and the others; `None` if there is only one.
fn processors() -> Option<(CpuSet, CpuSet)> {
    let mut others = sched_getaffinity(None).unwrap();
    let own = (0..CpuSet::MAX_CPU).rfind(|n| others.is_set(*n))?;
    others.unset(own);
    let mut one = CpuSet::new();
    one.set(own);
    (others.count() > 0).then_some((one, others))
}

/// A NIC with a victim; the flooder is virtual function 1.
struct Scene {
    nic: Nic,
    victim: Victim,
    _dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    #[track_caller]
    fn new(arguments: &[&str]) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = directory();
        let processors = processors();
        // The process has the set of the thread that starts it.
        if let Some((_, others)) = &processors {
            sched_setaffinity(None, others).unwrap();
        }
        let nic = Nic::start_family(dir.path(), 3, arguments);
        if let Some((one, _)) = &processors {
            sched_setaffinity(None, one).unwrap();
        }
        Self {
            victim: Victim::new(nic.socket(1), nic.socket(0)),
            nic,
            _dir: dir,
            _alone: alone,
        }
    }

    fn flooder(&self) -> &Path {
        self.nic.socket(2)
    }

    /// A function that is neither.
    fn other(&self) -> &Path {
        self.nic.socket(3)
    }

    #[track_caller]
    fn end(mut self) {
        self.victim.sample();
        self.victim.near.assert_good();
        self.nic.assert_alive();
        self.nic.stop();
    }
}
