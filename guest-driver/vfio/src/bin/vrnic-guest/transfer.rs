//! A transfer, from both ends.
//!
//! The initiator announces the step; the responder prepares its memory and answers `ready`; the
//! initiator moves the data and sends `done` with the checksum of its end; the responder computes
//! its own, compares, and answers `verdict`. So the comparison is made on the far side, by a
//! program that has not seen the other end's data.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use vrnic_abi::cqe::CompletionOpcode;
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{Data, Operation, ReceiveRequest, Remote, SendRequest, Sge, Work};

use crate::endpoint::{DEPTH, Endpoint, Side};
use crate::pattern::{self, Piece};
use crate::peer::{ANSWER, Link};
use crate::report::{self, mib_s, microseconds, say};
use crate::step::{Op, Step};

/// Requests in flight when many are.
const WINDOW: usize = 16;

fn sges(endpoint: &Endpoint, pieces: &[Piece]) -> Vec<Sge> {
    let sge = |piece: &Piece| Sge {
        address: endpoint.address(piece.offset),
        length: piece.length as u32,
        lkey: endpoint.key(),
    };
    pieces.iter().map(sge).collect()
}

/// Times of a transfer.
struct Times {
    latency: Duration,
    together: Duration,
}

impl Link {
    /// Carries a step out as the initiator and prints how it went.
    pub(crate) fn initiate(&mut self, step: &Step, quiet: bool) -> anyhow::Result<()> {
        self.channel.send(&step.text(), ANSWER)?;
        let pieces = step.local();
        let memory = &self.endpoint.memory;
        if step.op == Op::Read {
            pattern::guard(memory, pattern::extent(&pieces));
        } else {
            pattern::fill(memory, &pieces, step.seed);
        }
        let ready = self.channel.expect("ready", ANSWER)?;
        let times = self.carry_out(step, &pieces).with_context(|| step.text());
        let times = times.inspect_err(|error| {
            let _ = self.channel.send(&format!("error {error:#}"), ANSWER);
        })?;
        let sum = pattern::checksum(&self.endpoint.memory, &pieces);
        let broken = match step.op {
            Op::Read => pattern::broken_guard(&self.endpoint.memory, &pieces),
            _ => None,
        };
        self.channel.send(&format!("done {sum:016x}"), ANSWER)?;
        let verdict = self.channel.expect("verdict", ANSWER + self.timeout)?;
        let (remote_sum, reason) = verdict.split_once(' ').unwrap_or((&verdict, ""));
        let ok = reason == "ok" && broken.is_none();
        if !quiet || !ok {
            self.print(step, (sum, remote_sum), ok, &times);
        }
        ensure!(
            broken.is_none(),
            "{}: byte {broken:?} was overwritten",
            step.text()
        );
        ensure!(ok, "{}: {reason} (ready: {ready})", step.text());
        Ok(())
    }

    fn print(&self, step: &Step, (sum, remote_sum): (u64, &str), ok: bool, times: &Times) {
        let bytes = step.size * step.together;
        let rate = mib_s(bytes, times.together);
        let latency = microseconds(times.latency);
        say!(
            "{}  {:<9} {:>8} B  {:>2}->{:<2} SGE  {latency:>10.1} µs  {rate:>9.1} MiB/s  {sum:016x} {}",
            self.side,
            step.op.name(),
            step.size,
            step.local_pieces,
            step.remote_pieces,
            if ok { "ok" } else { "MISMATCH" },
        );
        report::result(&json!({
            "step": "transfer",
            "side": self.side,
            "op": step.op.name(),
            "size": step.size,
            "sges": step.local_pieces,
            "remote_sges": step.remote_pieces,
            "bytes": step.size * step.count(),
            "checksum_local": format!("{sum:016x}"),
            "checksum_remote": remote_sum,
            "ok": ok,
            "mib_s": rate,
            "latency_us": latency,
        }));
    }

    /// Moves the data as often as the step says.
    fn carry_out(&mut self, step: &Step, pieces: &[Piece]) -> anyhow::Result<Times> {
        let sges = sges(&self.endpoint, pieces);
        let (address, rkey) = self.remote;
        let remote = Remote {
            address: address + step.remote_offset,
            rkey,
        };
        let operation = match step.op {
            Op::Send => Operation::Send,
            Op::SendImmediate => Operation::SendImmediate(step.immediate()),
            Op::Write => Operation::Write(remote),
            Op::WriteImmediate => Operation::WriteImmediate(remote, step.immediate()),
            Op::Read => Operation::Read(remote),
        };
        let mut latencies = Vec::new();
        for id in 0..step.singly {
            let start = Instant::now();
            self.endpoint.qp.post_send(&request(id, operation, &sges))?;
            self.complete(id, step)?;
            latencies.push(start.elapsed());
        }
        latencies.sort_unstable();
        let latency = latencies
            .get(latencies.len() / 2)
            .copied()
            .unwrap_or_default();
        let start = Instant::now();
        let mut in_flight = VecDeque::new();
        for id in 0..step.together {
            if in_flight.len() == WINDOW {
                self.complete(in_flight.pop_front().unwrap_or_default(), step)?;
            }
            self.endpoint.qp.post_send(&request(id, operation, &sges))?;
            in_flight.push_back(id);
        }
        for id in in_flight {
            self.complete(id, step)?;
        }
        Ok(Times {
            latency,
            together: start.elapsed(),
        })
    }

    fn complete(&mut self, id: u64, step: &Step) -> anyhow::Result<()> {
        let completion = self.endpoint.wait(Side::Send, self.timeout)?;
        ensure!(
            completion.wr_id == id,
            "{completion:?} came instead of {id}"
        );
        if step.op == Op::Read {
            let length = u64::from(completion.byte_length);
            ensure!(length == step.size, "READ returned {length} bytes");
        }
        Ok(())
    }

    /// Answers one step of the initiator, whose text follows the word `step`.
    pub(crate) fn respond(&mut self, text: &str) -> anyhow::Result<()> {
        let step = Step::parse(text)?;
        let pieces = step.remote();
        let room = vrnic_driver::DmaBuffer::len(&*self.endpoint.memory) as u64;
        ensure!(
            pattern::extent(&pieces) <= room,
            "the step is too large for this side"
        );
        let result = self.prepare(&step, &pieces);
        if let Err(error) = result {
            self.channel.send(&format!("error {error:#}"), ANSWER)?;
            return Err(error);
        }
        self.channel.send("ready", ANSWER)?;
        let done = self.channel.expect("done", ANSWER + self.timeout)?;
        let theirs = u64::from_str_radix(&done, 16)?;
        let received = self.take_receives(&step);
        let ours = pattern::checksum(&self.endpoint.memory, &pieces);
        let broken = match step.op {
            Op::Read => None,
            _ => pattern::broken_guard(&self.endpoint.memory, &pieces),
        };
        let reason = match (&received, broken) {
            (Err(error), _) => format!("{error:#}"),
            (_, Some(offset)) => format!("byte {offset} around the data was overwritten"),
            _ if ours != theirs => "the checksums differ".into(),
            _ => "ok".into(),
        };
        let verdict = format!("verdict {ours:016x} {reason}");
        self.channel.send(&verdict, ANSWER)?;
        ensure!(reason == "ok", "{}: {reason}", step.text());
        Ok(())
    }

    fn prepare(&mut self, step: &Step, pieces: &[Piece]) -> anyhow::Result<()> {
        ensure!(step.count() <= u64::from(DEPTH), "too many repetitions");
        let endpoint = &mut self.endpoint;
        if step.op == Op::Read {
            pattern::fill(&endpoint.memory, pieces, step.seed);
        } else {
            pattern::guard(&endpoint.memory, pattern::extent(pieces));
        }
        if !step.op.consumes_receive() {
            return Ok(());
        }
        let sges = if step.op.is_send() {
            sges(endpoint, pieces)
        } else {
            Vec::new()
        };
        for wr_id in 0..step.count() {
            endpoint
                .qp
                .post_receive(&ReceiveRequest { wr_id, sges: &sges })?;
        }
        Ok(())
    }

    /// Takes the completions of the receive work requests and checks what they say.
    fn take_receives(&mut self, step: &Step) -> anyhow::Result<()> {
        if !step.op.consumes_receive() {
            return Ok(());
        }
        let opcode = match step.op {
            Op::Send => CompletionOpcode::Receive,
            Op::SendImmediate => CompletionOpcode::ReceiveImmediate,
            _ => CompletionOpcode::ReceiveWriteImmediate,
        };
        for wr_id in 0..step.count() {
            let completion = self.endpoint.wait(Side::Receive, self.timeout)?;
            let right = completion.wr_id == wr_id
                && completion.work == Work::Receive(opcode)
                && u64::from(completion.byte_length) == step.size
                && (!step.op.has_immediate() || completion.immediate == step.immediate());
            if !right {
                bail!("unexpected completion {completion:?}");
            }
        }
        Ok(())
    }

    /// Answers steps until the initiator says something else, which it returns.
    pub(crate) fn respond_all(&mut self) -> anyhow::Result<String> {
        loop {
            let text = self.channel.receive(ANSWER + self.timeout)?;
            match text.split_once(' ') {
                Some(("step", rest)) => self.respond(rest)?,
                _ => return Ok(text),
            }
        }
    }
}

/// A signaled request.
pub(crate) fn request(wr_id: u64, operation: Operation, sges: &[Sge]) -> SendRequest<'_> {
    SendRequest {
        wr_id,
        operation,
        data: Data::Sges(sges),
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    }
}
