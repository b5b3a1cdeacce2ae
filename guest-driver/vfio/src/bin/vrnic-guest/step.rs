//! One transfer, as both sides agree on it, and the list of them that the demonstration goes
//! through.

use anyhow::Context as _;

use crate::pattern::{Piece, pieces};

/// What is transferred how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Send,
    SendImmediate,
    Write,
    WriteImmediate,
    Read,
}

impl Op {
    pub(crate) const ALL: [Self; 5] = [
        Self::Send,
        Self::SendImmediate,
        Self::Write,
        Self::WriteImmediate,
        Self::Read,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Send => "SEND",
            Self::SendImmediate => "SEND_IMM",
            Self::Write => "WRITE",
            Self::WriteImmediate => "WRITE_IMM",
            Self::Read => "READ",
        }
    }

    /// Whether the responder needs a receive work request for each.
    pub(crate) fn consumes_receive(self) -> bool {
        !matches!(self, Self::Write | Self::Read)
    }

    /// Whether the responder's receive work requests say where the data goes.
    pub(crate) fn is_send(self) -> bool {
        matches!(self, Self::Send | Self::SendImmediate)
    }

    pub(crate) fn has_immediate(self) -> bool {
        matches!(self, Self::SendImmediate | Self::WriteImmediate)
    }
}

/// A transfer. Offsets and sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) size: u64,
    /// Of the initiator's memory.
    pub(crate) local_offset: u64,
    pub(crate) local_pieces: u64,
    /// Of the responder's memory; more than one piece only for SEND.
    pub(crate) remote_offset: u64,
    pub(crate) remote_pieces: u64,
    pub(crate) seed: u64,
    /// One after the other, for the latency.
    pub(crate) singly: u64,
    /// Many at a time, for the bandwidth.
    pub(crate) together: u64,
}

impl Step {
    /// A transfer of `size` bytes, repeated as often as is quick enough.
    pub(crate) fn new(op: Op, size: u64, seed: u64) -> Self {
        let (singly, together) = match size {
            0..=65_536 => (8, 32),
            65_537..=1_048_576 => (4, 8),
            _ => (1, 3),
        };
        Self {
            op,
            size,
            local_offset: 64,
            local_pieces: 1,
            remote_offset: 64,
            remote_pieces: 1,
            seed,
            singly,
            together,
        }
    }

    fn scattered(mut self, local: (u64, u64), remote: (u64, u64)) -> Self {
        (self.local_offset, self.local_pieces) = local;
        (self.remote_offset, self.remote_pieces) = remote;
        if !self.op.is_send() {
            self.remote_pieces = 1;
        }
        self
    }

    pub(crate) fn local(&self) -> Vec<Piece> {
        pieces(self.local_offset, self.size, self.local_pieces)
    }

    pub(crate) fn remote(&self) -> Vec<Piece> {
        pieces(self.remote_offset, self.size, self.remote_pieces)
    }

    /// Immediate data of this transfer.
    pub(crate) fn immediate(&self) -> u32 {
        (self.seed as u32).rotate_left(7) ^ 0x1234_5678
    }

    /// How often in all.
    pub(crate) fn count(&self) -> u64 {
        self.singly + self.together
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "step {} {} {} {} {} {} {} {} {}",
            self.op.name(),
            self.size,
            self.local_offset,
            self.local_pieces,
            self.remote_offset,
            self.remote_pieces,
            self.seed,
            self.singly,
            self.together,
        )
    }

    /// The step in what follows the word `step`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut words = text.split(' ');
        let name = words.next();
        let op = Op::ALL.into_iter().find(|op| Some(op.name()) == name);
        let mut number = || -> anyhow::Result<u64> {
            let word = words.next().context("a step is too short")?;
            Ok(word.parse()?)
        };
        Ok(Self {
            op: op.context("unknown operation")?,
            size: number()?,
            local_offset: number()?,
            local_pieces: number()?,
            remote_offset: number()?,
            remote_pieces: number()?,
            seed: number()?,
            singly: number()?,
            together: number()?,
        })
    }
}

/// The transfers of the demonstration, up to `max_size`; the way back is a part of it.
pub(crate) fn plan(seed: u64, max_size: u64, back: bool) -> Vec<Step> {
    const SIZES: [u64; 9] = [0, 1, 64, 1023, 4096, 65_536, 65_537, 1 << 20, 8 << 20];
    const BACK: [u64; 3] = [64, 65_537, 1 << 20];
    let sizes: &[u64] = if back { &BACK } else { &SIZES };
    let mut steps = Vec::new();
    for op in Op::ALL {
        for size in sizes {
            steps.push(Step::new(op, *size, 0));
        }
        let scattered = [
            (777, (101, 3), (67, 2)),
            (70_001, (64, 7), (131, 5)),
            (1_048_577, (4095, 16), (64, 8)),
        ];
        for (size, local, remote) in scattered {
            steps.push(Step::new(op, size, 0).scattered(local, remote));
        }
    }
    steps.retain(|step| step.size <= max_size);
    for (index, step) in steps.iter_mut().enumerate() {
        step.seed = seed.wrapping_mul(1_000_003).wrapping_add(index as u64 + 1);
    }
    steps
}

/// A random transfer.
pub(crate) fn random(next: &mut impl FnMut() -> u64, max_size: u64) -> Step {
    let op = Op::ALL[(next() % 5) as usize];
    // Every magnitude is as likely as any other.
    let limit = (1 << (next() % 24)).min(max_size.max(1));
    let step = Step::new(op, next() % (limit + 1), next() >> 1);
    let place = |a: u64, b: u64, most: u64| (37 + a % 8192, 1 + b % most);
    step.scattered(place(next(), next(), 16), place(next(), next(), 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_the_channel() {
        for step in plan(7, 8 << 20, false) {
            let text = step.text();
            let rest = text.strip_prefix("step ").expect("prefix");
            assert_eq!(Step::parse(rest).expect("parses"), step);
        }
        assert!(Step::parse("WRITE 1").is_err());
        assert!(Step::parse("JUMP 1 2 3 4 5 6 7 8").is_err());
    }
}
