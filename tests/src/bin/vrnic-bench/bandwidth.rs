//! RDMA WRITE of large messages against `memcpy` of the same size, in turns.

use anyhow::{Context as _, Result};
use vrnic_driver::DmaBuffer as _;

use crate::function::Pair;
use crate::memory_copy::MemoryCopy;
use crate::row::Measured;
use crate::stream::{Stream, Wait};

/// Rounds of both; odd, so that there is a middle.
const ROUNDS: usize = 41;
/// Bytes moved in a round by each.
const ROUND: usize = 16 << 20;
/// Doorbells and completions in a round.
const LISTS: usize = 4;

/// Between two functions of one process.
pub(crate) fn local(size: usize) -> Result<Measured> {
    let mut pair = Pair::local(size)?;
    let result = compare(&mut pair, size, Wait::Spin, "1 process, direct");
    pair.explain(result)
}

/// Between two processes: every byte crosses in RoCEv2 frames.
pub(crate) fn wire(size: usize) -> Result<Measured> {
    let mut pair = Pair::wire(size)?;
    let result = compare(
        &mut pair,
        size,
        Wait::Interrupt,
        "2 processes, frames of MTU 4096",
    );
    pair.explain(result)
}

fn compare(pair: &mut Pair, size: usize, wait: Wait, how: &str) -> Result<Measured> {
    // All of a round is in flight, so that no engine waits for the client, which has no core of its
    // own where there are two engines.
    let list = ROUND / LISTS / size;
    let stream = Stream {
        list,
        lists: LISTS,
        wait,
    };
    let count = ROUND / size;
    let mut copy = MemoryCopy::new(size);
    let (source, target) = (pair.a.local(), pair.b.remote());
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let pattern = pattern(size, round);
        pair.a.memory.write(0, &pattern);
        copy.run(1);
        let copied = copy.run(count).as_secs_f64();
        stream.run(&mut pair.a, source, target, 1)?;
        let written = stream.run(&mut pair.a, source, target, LISTS)?;
        pair.b.verify(&pattern)?;
        rounds.push((copied, written.as_secs_f64()));
    }
    let ratio = |times: &(f64, f64)| times.0 / times.1;
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let middle = rounds.get(ROUNDS / 2).context("no rounds")?;
    let speed = |time: f64| ROUND as f64 / time / 1e9;
    Ok(Measured {
        value: ratio(middle),
        note: format!(
            "{:.1} GB/s against {:.1} GB/s of memcpy on one core; {how}",
            speed(middle.1),
            speed(middle.0)
        ),
    })
}

/// Bytes that differ from round to round and from place to place.
fn pattern(size: usize, round: usize) -> Vec<u8> {
    let start = (round as u32 + 1).wrapping_mul(0x9e37_79b9);
    let byte = |index: u32| (start ^ index.wrapping_mul(0x85eb_ca6b)).to_be_bytes()[0];
    (0..size as u32).map(byte).collect()
}
