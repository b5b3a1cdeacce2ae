//! A completion queue.
//!
//! The device writes entries that name a queue pair and the index of a request; the queue knows
//! the tables of all queue pairs that complete here and finds the request.
//!
//! Entries can be taken out of the ring before they are polled, into a *backlog*: when the queue
//! moves to another buffer, and when a queue pair goes away, so that what it has left can be
//! crossed out. The device's idea of what was consumed does not change by that: it counts what the
//! application has polled, and what was crossed out once the application has passed it.
//!
//! A queue pair's number may be given away again before its old owner was forgotten here. Whoever
//! comes or goes crosses out the entries of whoever had the number before: a new queue pair has
//! none yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionStatus};
use vrnic_abi::doorbell;
use vrnic_driver::Completion;
use vrnic_driver::queues::{CqRing, RingSize};

use crate::buffer::Buffer;
use crate::doorbell::Doorbell;
use crate::lock::Lock;
use crate::queue::{SharedQueue, Source, Tables};

/// Queue pairs that are found without a search, by the low bits of their numbers.
const RECENT: usize = 64;

/// A completion queue.
pub(crate) struct CompletionQueue {
    ring: CqRing<Buffer>,
    doorbell: Doorbell,
    /// Entries ever polled or crossed out.
    consumer: u32,
    /// The consumer index that the device was told.
    published: u32,
    sequence: u16,
    /// How the queue was armed last; repeated with the sequence number.
    solicited_only: bool,
    /// Entries that were taken out of the ring; `None` if crossed out.
    backlog: VecDeque<Option<CompletionEntry>>,
    recent: [Option<Arc<Tables>>; RECENT],
    queue_pairs: BTreeMap<u32, Arc<Tables>>,
    /// Shared receive queues whose completions all come here: those for XRC.
    shared: BTreeMap<u32, Arc<Lock<SharedQueue>>>,
}

/// The answer to a resize names an index that cannot be.
#[derive(Debug)]
pub(crate) struct BadBase;

impl CompletionQueue {
    /// A queue in `buffer`, which holds `size` entries of zeros.
    pub(crate) fn new(buffer: Buffer, size: RingSize, doorbell: Doorbell) -> Self {
        Self {
            ring: CqRing {
                buffer: Arc::new(buffer),
                size,
                base: 0,
            },
            doorbell,
            consumer: 0,
            published: 0,
            sequence: 0,
            solicited_only: false,
            backlog: VecDeque::new(),
            recent: [const { None }; RECENT],
            queue_pairs: BTreeMap::new(),
            shared: BTreeMap::new(),
        }
    }

    /// The next completion. [`Self::publish`] afterwards tells the device.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Completion> {
        if !self.backlog.is_empty() {
            return self.next_of_backlog();
        }
        self.next_of_ring()
    }

    #[inline(always)]
    fn next_of_ring(&mut self) -> Option<Completion> {
        // Entries of nobody are passed over, so bound the loop by what there can be.
        for _ in 0..self.ring.size.entries() {
            let entry = self.ring.entry(self.consumer)?;
            self.consumer = self.consumer.wrapping_add(1);
            if let Some(completion) = self.resolve(&entry) {
                return Some(completion);
            }
        }
        None
    }

    /// The same while there is a backlog, which ends at the latest when what follows is in the ring.
    #[cold]
    #[inline(never)]
    fn next_of_backlog(&mut self) -> Option<Completion> {
        while let Some(entry) = self.backlog.pop_front() {
            self.consumer = self.consumer.wrapping_add(1);
            let completion = entry.and_then(|entry| self.resolve(&entry));
            if completion.is_some() {
                return completion;
            }
        }
        self.next_of_ring()
    }

    /// Tells the device what was consumed.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.consumer != self.published {
            self.published = self.consumer;
            self.doorbell.publish(self.slot_value());
        }
    }

    #[inline]
    fn slot_value(&self) -> u64 {
        doorbell::consumer(self.consumer, self.sequence, self.solicited_only)
    }

    /// Asks for an event when the next completion (the next solicited one or error, if
    /// `solicited_only`) arrives, or at once if one is there.
    pub(crate) fn arm(&mut self, solicited_only: bool) {
        self.sequence = self.sequence.wrapping_add(1);
        self.solicited_only = solicited_only;
        self.published = self.consumer;
        self.doorbell.ring(self.slot_value());
    }

    /// The completion of `entry`; `None` if nobody has such a request.
    #[inline(always)]
    fn resolve(&mut self, entry: &CompletionEntry) -> Option<Completion> {
        let completion = if entry.flags & CompletionFlags::SEND_QUEUE.bits() != 0 {
            let noted = self.find(entry.qpn)?.send.complete(entry.wqe_index)?;
            Completion::of_request(entry, noted)
        } else {
            Completion::of_receive(entry, self.received(entry)?)
        };
        if completion.status != CompletionStatus::Success {
            self.note_error(completion.qpn);
        }
        Some(completion)
    }

    /// After an error the queue pair is in the error state, or soon will be.
    #[cold]
    fn note_error(&mut self, qpn: u32) {
        if let Some(tables) = self.find(qpn) {
            tables.set_failed();
        }
    }

    /// The receive request of `entry`: of a queue pair's own queue, of a shared one, or of a shared
    /// one for XRC, whose queue pairs are not known here.
    #[inline(always)]
    fn received(&mut self, entry: &CompletionEntry) -> Option<u64> {
        let index = entry.wqe_index;
        if entry.srqn == 0 {
            return self.find(entry.qpn)?.receive.complete(index);
        }
        if let Some(queue) = self.shared.get(&entry.srqn) {
            return queue.lock().complete(index);
        }
        match &self.find(entry.qpn)?.source {
            Source::Shared(queue, number) if *number == entry.srqn => queue.lock().complete(index),
            _ => None,
        }
    }

    #[inline(always)]
    fn find(&mut self, qpn: u32) -> Option<&Tables> {
        let place = self.recent.get_mut(qpn as usize % RECENT)?;
        if place.as_ref().is_none_or(|tables| tables.qpn != qpn) {
            *place = Some(search(&self.queue_pairs, qpn)?);
        }
        place.as_deref()
    }

    /// Completions of a queue pair come here from now on.
    pub(crate) fn attach(&mut self, tables: &Arc<Tables>) {
        if let Some(old) = self.queue_pairs.insert(tables.qpn, Arc::clone(tables)) {
            if !Arc::ptr_eq(&old, tables) {
                self.cross_out(&old);
            }
        }
    }

    /// No completion of a queue pair comes here any more: the device has destroyed or reset it.
    pub(crate) fn detach(&mut self, tables: &Arc<Tables>) {
        let known = self.queue_pairs.get(&tables.qpn);
        if known.is_some_and(|known| Arc::ptr_eq(known, tables)) {
            self.queue_pairs.remove(&tables.qpn);
            self.cross_out(tables);
        }
    }

    /// The same for a shared receive queue whose completions come here.
    pub(crate) fn attach_shared(&mut self, number: u32, queue: &Arc<Lock<SharedQueue>>) {
        if self.shared.insert(number, Arc::clone(queue)).is_some() {
            self.cross_out_where(|entry| is_receive(entry) && entry.srqn == number);
        }
    }

    /// The same for a shared receive queue whose completions come here.
    pub(crate) fn detach_shared(&mut self, number: u32, queue: &Arc<Lock<SharedQueue>>) {
        let known = self.shared.get(&number);
        if known.is_some_and(|known| Arc::ptr_eq(known, queue)) {
            self.shared.remove(&number);
            self.cross_out_where(|entry| is_receive(entry) && entry.srqn == number);
        }
    }

    /// Crosses out what a queue pair has left. Its requests of a shared receive queue have completed.
    fn cross_out(&mut self, tables: &Tables) {
        if let Some(place) = self.recent.get_mut(tables.qpn as usize % RECENT) {
            *place = None;
        }
        self.cross_out_where(|entry| {
            if entry.qpn != tables.qpn {
                return false;
            }
            match &tables.source {
                _ if !is_receive(entry) || entry.srqn == 0 => true,
                Source::Shared(queue, number) if *number == entry.srqn => {
                    queue.lock().complete(entry.wqe_index);
                    true
                }
                // Of an XRC target that has the number now.
                _ => false,
            }
        });
    }

    fn cross_out_where(&mut self, mut leaves: impl FnMut(&CompletionEntry) -> bool) {
        self.drain(None);
        for place in &mut self.backlog {
            if place.as_ref().is_some_and(&mut leaves) {
                *place = None;
            }
        }
    }

    /// Takes entries out of the ring, up to index `end`, or all that the device has written.
    fn drain(&mut self, end: Option<u32>) {
        let mut counter = self.consumer.wrapping_add(self.backlog.len() as u32);
        for _ in 0..self.ring.size.entries() {
            if Some(counter) == end {
                break;
            }
            let Some(entry) = self.ring.entry(counter) else {
                break;
            };
            self.backlog.push_back(Some(entry));
            counter = counter.wrapping_add(1);
        }
    }

    /// The device goes on in `buffer` from index `base` on, so that all before is in the old one.
    /// Fails if that cannot be; the queue is lost then.
    pub(crate) fn move_to(
        &mut self,
        buffer: Buffer,
        size: RingSize,
        base: u32,
    ) -> Result<(), BadBase> {
        let counter = self.consumer.wrapping_add(self.backlog.len() as u32);
        if base.wrapping_sub(counter) <= self.ring.size.entries() {
            self.drain(Some(base));
        }
        let reached = self.consumer.wrapping_add(self.backlog.len() as u32);
        if reached != base {
            // The device may write to it for as long as the queue exists.
            core::mem::forget(buffer);
            return Err(BadBase);
        }
        self.ring = CqRing {
            buffer: Arc::new(buffer),
            size,
            base,
        };
        Ok(())
    }
}

#[cold]
fn search(queue_pairs: &BTreeMap<u32, Arc<Tables>>, qpn: u32) -> Option<Arc<Tables>> {
    queue_pairs.get(&qpn).map(Arc::clone)
}

/// Whether `entry` is of a receive request.
fn is_receive(entry: &CompletionEntry) -> bool {
    entry.flags & CompletionFlags::SEND_QUEUE.bits() == 0
}
