//! From posting a small RDMA WRITE until its last byte is visible in the target.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vrnic_driver::abi::wqe::WqeFlags;
use vrnic_driver::{Completion, DmaBuffer as _};

use crate::function::Pair;
use crate::pingpong;
use crate::row::Measured;
use crate::statistics::median;
use crate::stream::{check, write};

const SIZE: usize = 64;
const ROUNDS: usize = 9;
/// WRITEs in a round.
const WRITES: usize = 4000;
/// One of so many is signaled, to free the send queue.
const SIGNALED: usize = 32;
/// Time after which a WRITE is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two functions of one process, against a ping-pong in turns.
pub(crate) fn measure() -> Result<Measured> {
    let mut pair = Pair::local(SIZE)?;
    let result = rounds(&mut pair);
    pair.explain(result)
}

fn rounds(pair: &mut Pair) -> Result<Measured> {
    let (mut ratios, mut writes, mut trips) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let trip = pingpong::measure(pair.cores)?;
        let mut times = Vec::with_capacity(WRITES);
        for number in 0..WRITES {
            times.push(one(pair, number)?.as_nanos() as f64);
        }
        let write = median(&mut times);
        ratios.push(write / trip);
        writes.push(write);
        trips.push(trip);
    }
    let (write, trip) = (median(&mut writes), median(&mut trips));
    Ok(Measured {
        value: median(&mut ratios),
        note: format!(
            "{write:.0} ns from post to visible in the target against {trip:.0} ns for a round \
             trip of a cache line; each hands over twice between cores"
        ),
    })
}

/// Writes once; every byte differs from the one that was there before.
fn one(pair: &mut Pair, number: usize) -> Result<Duration> {
    let fresh = (number % 251) as u8 + 1;
    let pattern = [fresh; SIZE];
    pair.a.memory.write(0, &pattern);
    let sges = [pair.a.local()];
    let mut request = write(&sges, pair.b.remote());
    let signaled = number % SIGNALED == SIGNALED - 1;
    if signaled {
        request.flags = WqeFlags::SIGNALED;
    }
    let start = Instant::now();
    pair.a.qp.post_send(&request)?;
    let mut spins = 0u32;
    while pair.b.memory.load_byte(SIZE - 1) != fresh {
        spin_loop();
        spins = spins.wrapping_add(1);
        ensure!(
            spins % (1 << 16) != 0 || start.elapsed() < PATIENCE,
            "a WRITE did not arrive"
        );
    }
    let time = start.elapsed();
    let mut found = [0; SIZE];
    pair.b.memory.read(0, &mut found);
    ensure!(
        found == pattern,
        "the last byte was visible before the others"
    );
    if signaled {
        collect(pair)?;
    }
    Ok(time)
}

/// Waits for a completion.
fn collect(pair: &mut Pair) -> Result<()> {
    let mut completions = [Completion::default(); 4];
    let start = Instant::now();
    loop {
        let count = pair.a.cq.poll(&mut completions)?;
        check(completions.get(..count).unwrap_or_default())?;
        if count > 0 {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "a completion did not arrive");
        spin_loop();
    }
}
