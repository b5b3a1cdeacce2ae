//! A ping-pong between two threads through shared memory, what latency is compared with.
//!
//! A round trip is two hand-overs of a cache line from one core to another. So is an RDMA WRITE
//! between functions of one process, as its client sees it: from the doorbell to the engine, and
//! from the engine to whoever polls the target.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::cores;
use crate::statistics::median;

/// Round trips per look at the clock, which takes a part of one.
const BATCH: u32 = 64;
const BATCHES: usize = 200;

/// A counter in a cache line of its own, and of the line that is fetched with it.
#[repr(align(128))]
struct Line(AtomicU32);

/// Median nanoseconds of a round trip between two cores.
pub(crate) fn measure((first, second): (usize, usize)) -> Result<f64> {
    let (ping, pong) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    std::thread::scope(|scope| {
        let answerer = scope.spawn(|| {
            let pinned = cores::pin_thread(second);
            answer(&ping.0, &pong.0);
            pinned
        });
        let asker = scope.spawn(|| {
            let pinned = cores::pin_thread(first);
            let time = ask(&ping.0, &pong.0);
            pinned.map(|()| time)
        });
        let ended = "a thread of the ping-pong panicked";
        answerer.join().map_err(|_| anyhow!(ended))??;
        asker.join().map_err(|_| anyhow!(ended))?
    })
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
