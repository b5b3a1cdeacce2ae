//! One end's part in a step.
//!
//! First both ends get their memory and receive requests ready; then the initiator posts the
//! requests and waits for all of them, and the responder for all of its receive requests; then each
//! compares its own memory with what it must be.
//!
//! Where a completed request does not mean that the data has arrived (WRITE over an unreliable
//! connection), an empty SEND on each queue pair follows the requests, which arrives after them.
//! Where messages may be lost, a receive request holds any one message that was sent to its queue
//! pair, later than the one before; everything that did arrive must be whole.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vrnic_driver::Operation as Verb;

use crate::image::{GRH, Image};
use crate::rnic::{Completion, Place, Queue, Request, Rnic};
use crate::step::{Connection, End, Operation, Service, Step};
use crate::talk::{Identity, Outcome};

/// Time for the completions of a step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time without a message after which no further one comes, where messages may be lost.
const SILENCE: Duration = Duration::from_millis(150);

const NOTHING: Place = Place {
    offset: 0,
    length: 0,
};

/// A step, from one end.
pub(crate) struct Transfer {
    image: Image,
    /// Of the memory windows at this end.
    keys: Vec<u32>,
}

impl Transfer {
    pub(crate) fn new(connection: Connection, step: Step, end: End) -> Result<Self> {
        let image = Image::new(connection, step, end)?;
        let keys = Vec::new();
        Ok(Self { image, keys })
    }

    fn step(&self) -> &Step {
        &self.image.step
    }

    fn connection(&self) -> &Connection {
        &self.image.connection
    }

    pub(crate) fn initiates(&self) -> bool {
        self.step().from == self.image.end
    }

    /// Empty SENDs that follow the requests.
    fn markers(&self) -> u32 {
        let connection = self.connection();
        let write = self.step().operation == Operation::Write;
        match connection.service {
            Service::Uc if write => connection.qps,
            _ => 0,
        }
    }

    fn qp(&self, index: u32) -> usize {
        (index % self.connection().qps) as usize
    }

    /// What a memory window covers: all that the request may touch, and not nothing.
    fn window(&self, index: u32) -> Place {
        let place = self.image.place(index);
        Place {
            length: place.length.max(1),
            ..place
        }
    }

    /// Receive requests that the step takes, by number.
    fn receives(&self) -> std::ops::Range<u32> {
        let count = self.step().count;
        let first = match self.step().operation.takes_receive() {
            true => 0,
            false => count,
        };
        first..count + self.markers()
    }

    /// Fills the memory, binds memory windows and posts receive requests; returns the keys of the
    /// windows.
    pub(crate) fn prepare(&mut self, rnic: &mut dyn Rnic) -> Result<Vec<u32>> {
        self.image.fill(rnic);
        if self.initiates() {
            return Ok(Vec::new());
        }
        if self.step().windows {
            self.keys = (0..self.step().count)
                .map(|index| rnic.bind(self.qp(index), self.window(index)))
                .collect::<Result<_>>()?;
        }
        for index in self.receives() {
            let place = match self.step().operation.is_send() {
                true => self.image.receive_place(index),
                false => NOTHING,
            };
            rnic.post_receive(self.qp(index), u64::from(index), place)?;
        }
        Ok(self.keys.clone())
    }

    /// Carries the step out, with the keys of the other end's windows, and compares what this end
    /// holds.
    pub(crate) fn finish(
        &self,
        rnic: &mut dyn Rnic,
        peer: &Identity,
        keys: &[u32],
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let arrived: Vec<_> = (0..self.step().count).map(|index| (index, index)).collect();
        let slots = if self.initiates() {
            let start = Instant::now();
            outcome.completions = self.initiate(rnic, peer, keys)?;
            outcome.microseconds = start.elapsed().as_micros() as u64;
            arrived
        } else if self.connection().loses_messages() {
            let found = self.take_any(rnic)?;
            outcome.completions = found.len() as u32;
            found
        } else {
            outcome.completions = self.take_all(rnic)?;
            arrived
        };
        for (index, message) in slots {
            outcome.bytes += self.image.check(rnic, index, message)?;
        }
        rnic.free_windows()?;
        Ok(outcome)
    }

    /// Posts all requests and waits for them; returns their number.
    fn initiate(&self, rnic: &mut dyn Rnic, peer: &Identity, keys: &[u32]) -> Result<u32> {
        let count = self.step().count;
        let all = count + self.markers();
        for index in 0..all {
            let key = *keys.get(index as usize).unwrap_or(&peer.rkey);
            let (operation, place) = if index < count {
                let operation = self.image.verb(index, peer.address, key);
                (operation, self.image.place(index))
            } else {
                (Verb::Send, NOTHING)
            };
            let request = Request {
                id: u64::from(index),
                operation,
                place,
            };
            rnic.post_send(self.qp(index), &request)?;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut next: Vec<u32> = (0..self.connection().qps).collect();
        for done in 0..all {
            let completion = rnic.wait(Queue::Send, deadline)?;
            let completion =
                completion.with_context(|| format!("{done} of {all} requests completed"))?;
            self.in_order(&mut next, &completion)?;
        }
        Ok(all)
    }

    /// Completions of a queue pair come in the order of its requests.
    fn in_order(&self, next: &mut [u32], completion: &Completion) -> Result<u32> {
        let index = u32::try_from(completion.id).context("a completion of another step")?;
        let expected = next.get_mut(self.qp(index)).context("unknown queue pair")?;
        ensure!(
            *expected == index,
            "{completion:?} came instead of {expected}"
        );
        *expected += self.connection().qps;
        Ok(index)
    }

    /// Takes all receive completions and checks what they say; returns their number.
    fn take_all(&self, rnic: &mut dyn Rnic) -> Result<u32> {
        let deadline = Instant::now() + PATIENCE;
        let receives = self.receives();
        let qps = self.connection().qps;
        let mut next: Vec<u32> = (receives.start..receives.start + qps).collect();
        // The first of each queue pair, in the order of the queue pairs.
        next.sort_unstable_by_key(|index| index % qps);
        for done in receives.clone() {
            let completion = rnic.wait(Queue::Receive, deadline)?;
            let completion = completion
                .with_context(|| format!("receive request {done} of {} completed", receives.end))?;
            let index = self.in_order(&mut next, &completion)?;
            self.judge(&completion, index)?;
        }
        Ok(receives.len() as u32)
    }

    /// Checks what a completion says about message `index`.
    fn judge(&self, completion: &Completion, index: u32) -> Result<()> {
        let step = self.step();
        let marker = index >= step.count;
        let header = match self.connection().service {
            Service::Ud => GRH as u32,
            _ => 0,
        };
        let immediate = step.operation.has_immediate() && !marker;
        let expected = Completion {
            id: completion.id,
            length: header + if marker { 0 } else { step.size },
            immediate: immediate.then(|| step.immediate(index)),
            invalidated: match step.operation {
                Operation::SendInvalidate => self.keys.get(index as usize).copied(),
                _ => None,
            },
            written: step.operation == Operation::WriteImmediate,
        };
        ensure!(
            *completion == expected,
            "{completion:?} instead of {expected:?}"
        );
        Ok(())
    }

    /// Takes what arrives; returns, for each slot that a whole message lies in, which one it is.
    fn take_any(&self, rnic: &mut dyn Rnic) -> Result<Vec<(u32, u32)>> {
        let step = self.step();
        let qps = self.connection().qps;
        let mut next: Vec<u32> = (0..qps).collect();
        let mut found = Vec::new();
        while let Some(completion) = rnic.wait(Queue::Receive, Instant::now() + SILENCE)? {
            let slot = u32::try_from(completion.id).context("a completion of another step")?;
            if slot >= step.count {
                continue;
            }
            let next = next.get_mut(self.qp(slot)).context("unknown queue pair")?;
            let candidates = (*next..step.count).step_by(qps as usize);
            let message = self.which(rnic, &completion, slot, candidates)?;
            *next = message + qps;
            // What an RDMA WRITE writes does not depend on the receive request that it takes.
            let place = if step.operation.is_send() {
                slot
            } else {
                message
            };
            found.push((place, message));
        }
        Ok(found)
    }

    /// Which of the messages arrived: the one whose immediate data or whose contents it has.
    fn which(
        &self,
        rnic: &dyn Rnic,
        completion: &Completion,
        slot: u32,
        mut candidates: impl Iterator<Item = u32>,
    ) -> Result<u32> {
        let fits = |message: &u32| match completion.immediate {
            Some(immediate) => immediate == self.step().immediate(*message),
            None => self.image.check(rnic, slot, *message).is_ok(),
        };
        let Some(message) = candidates.find(fits) else {
            bail!("{completion:?} is none of the messages that were sent");
        };
        self.judge(completion, message)?;
        Ok(message)
    }
}
