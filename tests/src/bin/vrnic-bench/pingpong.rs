//! A ping-pong between two threads through shared memory, what latency is compared with.
//!
//! A round trip is two hand-overs of a cache line from one core to another. So is an RDMA WRITE
//! between functions of one process, as its client sees it: from the doorbell to the engine, and
//! from the engine to whoever polls the target.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::statistics::median;

/// Round trips per look at the clock, which takes a part of one.
const BATCH: u32 = 64;
const BATCHES: usize = 200;

/// A counter in a cache line of its own, and of the line that is fetched with it.
#[repr(align(128))]
struct Line(AtomicU32);

/// Median nanoseconds of a round trip between two cores.
pub(crate) fn measure() -> Result<f64> {
    let allowed = sched_getaffinity(None).context("cannot tell what cores there are")?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (first, second) = (cores.next(), cores.next());
    let (first, second) = first.zip(second).context("there is only one core")?;
    let (ping, pong) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            failed.store(!pin(second), Ordering::Relaxed);
            answer(&ping.0, &pong.0);
        });
        // A thread of its own, so that the rest of the program stays free to move.
        let asker = scope.spawn(|| {
            let pinned = pin(first);
            let time = ask(&ping.0, &pong.0);
            pinned.then_some(time)
        });
        let time = asker.join().ok().flatten();
        ensure!(!failed.load(Ordering::Relaxed), "cannot choose a core");
        time.context("cannot choose a core")
    })
}

fn pin(core: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

fn last() -> u32 {
    BATCH * BATCHES as u32
}

fn ask(ping: &AtomicU32, pong: &AtomicU32) -> f64 {
    let mut number = 0;
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            number += 1;
            ping.store(number, Ordering::Release);
            while pong.load(Ordering::Acquire) != number {
                spin_loop();
            }
        }
        times.push(start.elapsed().as_nanos() as f64 / f64::from(BATCH));
    }
    median(&mut times)
}

fn answer(ping: &AtomicU32, pong: &AtomicU32) {
    for number in 1..=last() {
        while ping.load(Ordering::Acquire) != number {
            spin_loop();
        }
        pong.store(number, Ordering::Release);
    }
}
