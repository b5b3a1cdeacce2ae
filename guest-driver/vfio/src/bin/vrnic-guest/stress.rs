//! Traffic for as long as a test wants it: random transfers that are compared, or a flood.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde_json::json;
use vrnic_driver::{Operation, Remote, Sge};

use crate::cli::{PairArguments, StressArguments};
use crate::demo::pair;
use crate::endpoint::Side;
use crate::peer::{ANSWER, Link};
use crate::report::{self, mib_s, say};
use crate::step;
use crate::transfer::request;

/// Bytes of a request of the flood.
const FLOOD_SIZE: u32 = 64 << 10;
/// Requests of the flood in flight.
const FLOOD_DEPTH: usize = 32;

pub(crate) fn run(arguments: &StressArguments) -> anyhow::Result<()> {
    let end = match arguments.seconds {
        0 => None,
        seconds => Some(Instant::now() + Duration::from_secs(seconds)),
    };
    let over = move || end.is_some_and(|end| Instant::now() >= end);
    let flood = arguments.flood;
    let first = move |link: &mut Link, pair: &PairArguments| {
        if flood {
            pour(link, over)?;
        } else {
            shuffle(link, pair, over)?;
        }
        link.channel.send("finish", ANSWER)
    };
    pair(&arguments.pair, first, |link, _| wait(link))
}

/// Answers until the other side has finished, however long it says nothing.
fn wait(link: &mut Link) -> anyhow::Result<()> {
    loop {
        let text = link.channel.receive(Duration::from_secs(u32::MAX.into()))?;
        match text.split_once(' ') {
            Some(("step", rest)) => link.respond(rest)?,
            _ if text == "finish" => return Ok(()),
            _ => bail!("the other side said {text:?}"),
        }
    }
}

/// Random transfers, each compared.
fn shuffle(link: &mut Link, pair: &PairArguments, over: impl Fn() -> bool) -> anyhow::Result<()> {
    let mut state = pair.seed;
    // xorshift64*, never zero.
    let mut next = move || {
        state = state.max(1);
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    };
    say!("seed {}", pair.seed);
    let (mut count, mut bytes) = (0u64, 0u64);
    while !over() {
        let step = step::random(&mut next, pair.max_size);
        link.initiate(&step, true)?;
        count += 1;
        bytes += step.size * step.count();
    }
    let side = link.side;
    say!("{side}  {count} transfers, {bytes} bytes, all as they should be");
    report::result(&json!({
        "step": "stress", "side": side, "ok": true, "transfers": count, "bytes": bytes,
        "seed": pair.seed,
    }));
    Ok(())
}

/// WRITEs without end.
fn pour(link: &mut Link, over: impl Fn() -> bool) -> anyhow::Result<()> {
    let (address, rkey) = link.remote;
    let operation = Operation::Write(Remote { address, rkey });
    let sges = [Sge {
        address: link.endpoint.address(0),
        length: FLOOD_SIZE,
        lkey: link.endpoint.key(),
    }];
    let start = Instant::now();
    let mut in_flight = VecDeque::with_capacity(FLOOD_DEPTH);
    let mut count = 0u64;
    report::result(&json!({"step": "flood", "side": link.side, "ok": true}));
    while !over() {
        if in_flight.len() == FLOOD_DEPTH {
            let completion = link.endpoint.wait(Side::Send, link.timeout)?;
            ensure!(
                in_flight.pop_front() == Some(completion.wr_id),
                "{completion:?}"
            );
        }
        link.endpoint
            .qp
            .post_send(&request(count, operation, &sges))?;
        in_flight.push_back(count);
        count += 1;
    }
    while in_flight.pop_front().is_some() {
        link.endpoint.wait(Side::Send, link.timeout)?;
    }
    let bytes = count * u64::from(FLOOD_SIZE);
    let rate = mib_s(bytes, start.elapsed());
    say!("{}  {count} WRITEs, {rate:.1} MiB/s", link.side);
    report::result(&json!({
        "step": "flooded", "side": link.side, "ok": true, "bytes": bytes, "mib_s": rate,
    }));
    Ok(())
}
