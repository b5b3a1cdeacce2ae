//! Turns: whose queue pair sends next, and how much.
//!
//! A turn lets one queue pair send until it has cost the engine as much as copying a number of bytes
//! (`grain`), with one PDU more or two. Turns of a step end when together they have cost a few times
//! that: then new doorbells are looked for, so that who has been silent waits for little, whatever others
//! send. That a function sends nothing costs a look at its doorbells.

use super::port::{FunctionPort, Tally};
use super::{Nic, add};
use crate::host::{Host, Wire};
use crate::transport::Poll;
use crate::types::Time;

/// What turns in one step may cost at least for each function whose doorbells are looked at before,
/// so that looking stays a small part of the work.
const STEP_FOR_FUNCTION: u64 = 512;
/// The least that a turn costs.
const LEAST_COST: u64 = 1 << 10;
/// What one costs in which requests end and nothing is sent.
const SILENT_COST: u64 = 8 << 10;
/// PDUs that a queue pair may send in one turn.
const BUDGET: u32 = 16;

impl<H: Host> Nic<H> {
    /// Gives queue pairs turns; returns whether any did something.
    pub(super) fn give_turns<W: Wire>(&mut self, now: Time, wire: &mut W) -> bool {
        let looked = (self.functions.len() as u64).saturating_mul(STEP_FOR_FUNCTION);
        let step = self.shares.contention.grain(now).step.max(looked);
        // What may take longest comes last, with a half of its own: a turn may use up more than there
        // was, but not what is kept for the others.
        self.shared.closed = !self.shares.link.is_empty();
        let kept = if self.shared.closed { step / 2 } else { 0 };
        let mut left = step - kept;
        let busy = self.share_engine(now, wire, &mut left);
        left += kept;
        busy | self.share_link(now, wire, &mut left)
    }

    /// Gives room on the link to those who have had to wait for it, in their order. As long as one of
    /// them waits, nobody else gets any.
    fn share_link<W: Wire>(&mut self, now: Time, wire: &mut W, left: &mut u64) -> bool {
        let mut busy = false;
        self.shared.closed = false;
        while *left > 0 && !self.shared.closed {
            let Some(owner) = self.shares.link.next() else {
                break;
            };
            busy |= self.turn(owner, now, wire, true, left);
        }
        self.shared.closed |= !self.shares.link.is_empty();
        busy
    }

    /// Gives the other queue pairs their turns.
    fn share_engine<W: Wire>(&mut self, now: Time, wire: &mut W, left: &mut u64) -> bool {
        let mut busy = false;
        while *left > 0 {
            let Some(owner) = self.shares.engine.next() else {
                break;
            };
            busy |= self.turn(owner, now, wire, false, left);
        }
        busy
    }

    /// One turn of a function, for its next queue pair or, with `room`, the next of those that wait
    /// for the link; returns whether that did anything.
    fn turn<W: Wire>(
        &mut self,
        owner: u16,
        now: Time,
        wire: &mut W,
        room: bool,
        left: &mut u64,
    ) -> bool {
        let Some((outcome, tally)) = self.poll_next(owner, now, wire, room) else {
            return false;
        };
        let least = match outcome {
            Poll::More if tally.pdus == 0 => SILENT_COST,
            _ => LEAST_COST,
        };
        let cost = tally.cost().max(least);
        *left = left.saturating_sub(cost);
        // Who is sent away for lack of room has had nothing.
        let cost = match outcome {
            Poll::Blocked => tally.cost(),
            Poll::Idle | Poll::More => cost,
        };
        if let Some(initiator) = tally.initiator {
            self.shares.contention.sent(initiator, now);
        }
        self.shares.charge(owner, tally.metered);
        self.shares.engine.charge(owner, cost);
        if room {
            self.shares.link.charge(owner, tally.bytes);
        }
        let busy = self.drain(now, wire) || outcome != Poll::Blocked;
        let function = self.functions.get(usize::from(owner));
        let function = function.and_then(Option::as_ref);
        let wants = function.is_some_and(|function| {
            if room {
                function.has_blocked()
            } else {
                function.has_senders()
            }
        });
        if wants {
            self.shares.want(owner, now, room);
        }
        busy
    }

    /// Polls a function's queue pair; returns what came of it and what was sent.
    fn poll_next<W: Wire>(
        &mut self,
        owner: u16,
        now: Time,
        wire: &mut W,
        room: bool,
    ) -> Option<(Poll, Tally)> {
        let index = usize::from(owner);
        let host = self.hosts.get(index)?.as_ref()?;
        let function = self.functions.get_mut(index)?.as_mut()?;
        let allowance = self.shares.allowance(owner, now)?;
        let grain = self.shares.contention.grain(now);
        let port = FunctionPort::new(&mut self.shared, wire, owner);
        let mut port = port.grained(grain).metered(allowance);
        let outcome = function.poll_next(host, now, &mut port, BUDGET, room)?;
        let tally = port.tally;
        add(function, tally);
        Some((outcome, tally))
    }
}
