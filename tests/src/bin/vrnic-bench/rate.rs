//! Small RDMA WRITEs per second through one engine.

use anyhow::Result;
use vrnic_driver::DmaBuffer as _;

use crate::function::{DEPTH, Pair};
use crate::row::Measured;
use crate::statistics::median;
use crate::stream::{Stream, Wait};

const SIZE: usize = 64;
/// Requests posted with one doorbell, one of them signaled.
const LIST: usize = 32;
/// Requests in a round.
const ROUND: usize = 32_000;
const ROUNDS: usize = 61;

/// Both functions belong to one engine, which is requester and responder.
pub(crate) fn measure() -> Result<Measured> {
    let mut pair = Pair::local(SIZE)?;
    let result = rounds(&mut pair);
    pair.explain(result)
}

fn rounds(pair: &mut Pair) -> Result<Measured> {
    let stream = Stream {
        list: LIST,
        lists: DEPTH / LIST,
        wait: Wait::Spin,
    };
    let (source, target) = (pair.a.local(), pair.b.remote());
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let pattern = [round as u8 + 1; SIZE];
        pair.a.memory.write(0, &pattern);
        stream.run(&mut pair.a, source, target, 8)?;
        let lists = ROUND / LIST;
        let time = stream.run(&mut pair.a, source, target, lists)?;
        pair.b.verify(&pattern)?;
        rates.push((lists * LIST) as f64 / time.as_secs_f64() / 1e6);
    }
    Ok(Measured {
        value: median(&mut rates),
        note: format!("1 engine, 1 QP, {DEPTH} in flight, lists of {LIST}, 1 of {LIST} signaled"),
    })
}
