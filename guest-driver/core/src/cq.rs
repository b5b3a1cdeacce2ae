//! Completion queues.
//!
//! [`CompletionQueue::poll`] takes the completions that are there and finds the work request of
//! each; it takes no lock unless it meets a queue pair for the first time.
//!
//! To wait for completions: poll until there are none, [`CompletionQueue::arm`], and if that says
//! that entries are there poll again, else wait for the interrupt. The device notifies for an
//! entry that arrived before it saw the queue armed, so no order of events loses one.
//!
//! [`CompletionQueue::resize`] moves the queue into another buffer while work goes on. The device
//! goes on in the new buffer from some index on; what it has written before, and was not polled yet,
//! is copied out of the old buffer, which is then free. So completions stay in order, and none is
//! lost however often the queue is resized.

mod control;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionStatus};
use vrnic_abi::doorbell;
use vrnic_abi::object::CqAttributes;

use crate::device::{Driver, Shared};
use crate::error::Error;
use crate::memory::RegionMemory;
use crate::platform::Platform;
use crate::ring::RingSize;
use crate::tables::{CqRing, CqTable, QpTables, SrqTable};
use crate::work::Completion;

use control::BAD_BASE;
pub(crate) use control::{CqControl, CqSpec, ring_length};

/// How to create a completion queue.
#[derive(Clone, Copy, Debug)]
pub struct CqConfig {
    /// Completions it must hold.
    pub entries: u32,
    /// Which of the driver's event queues for completions, modulo their number.
    pub completion_vector: u16,
    /// Handed back in every event of the queue: to [`Platform::completion_event`], and in
    /// [`crate::AsyncEvent`].
    pub context: u64,
    /// Doorbell page.
    pub doorbell_page: u32,
    /// When an armed queue notifies.
    pub moderation: Moderation,
}

/// When an armed queue notifies: after so many completions, or so long after the first of them,
/// whichever comes first. A condition of 0 is not waited for; with both 0 it notifies at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// Time in microseconds.
    pub period: u16,
    /// Number of completions.
    pub count: u16,
}

impl Default for CqConfig {
    fn default() -> Self {
        Self {
            entries: 256,
            completion_vector: 0,
            context: 0,
            doorbell_page: doorbell::KERNEL_PAGE,
            moderation: Moderation::default(),
        }
    }
}

/// Queue pairs that the poller remembers, by the low bits of their numbers.
const REMEMBERED: usize = 256;

/// A completion queue, used by one context at a time.
pub struct CompletionQueue<P: Platform> {
    pub(crate) control: CqControl<P>,
    pub(crate) table: Arc<CqTable<P>>,
    consumer: u32,
    sequence: u16,
    /// How the queue was armed last; repeated with the sequence number.
    solicited_only: bool,
    /// The function is lost, and all that the device has written was polled: from now on requests
    /// complete as flushed.
    flushing: bool,
    /// The number from which on the next queue pair to flush is looked for.
    flush_from: u32,
    /// The ring in use.
    ring: CqRing<P::Dma>,
    /// Entries that stood in rings of before and were not polled yet.
    backlog: VecDeque<CompletionEntry>,
    remembered: Box<[Option<Arc<QpTables<P>>>]>,
    /// The shared receive queue for XRC that the last completion was from.
    remembered_srq: Option<Arc<SrqTable<P>>>,
}

impl<P: Platform> CompletionQueue<P> {
    /// Number of the queue.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.control.object.handle.number
    }

    /// The MSI-X vector on which the queue's events arrive.
    #[must_use]
    pub fn vector(&self) -> u16 {
        self.control.vector
    }

    /// Completions it holds.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.ring.size.entries()
    }

    /// How often an interrupt handler has found an event of this queue, modulo 2^32.
    #[must_use]
    pub fn notifications(&self) -> u32 {
        self.table.notifications()
    }

    /// Takes completions, the oldest first, and returns how many. Atomic context.
    ///
    /// If the function is lost or was reset, those come first that the device had written. Then every
    /// request in flight completes as flushed, signaled or not, once and in the order of its queue;
    /// so do requests that are posted later. Requests of shared receive queues belong to no queue
    /// pair and do not complete. When nothing is left, the error says how the function was lost.
    #[inline]
    pub fn poll(&mut self, completions: &mut [Completion]) -> Result<usize, Error> {
        let live = self.control.object.handle.is_live();
        if self.flushing {
            return self.flush(completions, 0);
        }
        let mut empty = false;
        let first = self.consumer;
        let mut count = 0;
        // Entries of queue pairs that are gone are dropped, so bound the loop by what there can be.
        let most = self.entries().saturating_add(self.backlog.len() as u32);
        while self.consumer.wrapping_sub(first) < most {
            let Some(place) = completions.get_mut(count) else {
                break;
            };
            let Some(entry) = self.next() else {
                empty = true;
                break;
            };
            if let Some(completion) = self.resolve(&entry) {
                *place = completion;
                count += 1;
                if completion.status != CompletionStatus::Success {
                    self.note_error(completion.qpn);
                }
            }
            self.consumer = self.consumer.wrapping_add(1);
        }
        if self.consumer != first {
            self.table.consumed(self.consumer);
            if live {
                let value = self.slot_value();
                let platform = &self.control.object.handle.shared.platform;
                self.control.doorbell.publish(platform, value);
            }
        }
        if empty && !live {
            return self.flush(completions, count);
        }
        Ok(count)
    }

    /// Completes requests as flushed, behind the `count` completions that are there. What the device
    /// may write from now on is not looked at: a request completes once.
    #[cold]
    fn flush(&mut self, completions: &mut [Completion], mut count: usize) -> Result<usize, Error> {
        self.flushing = true;
        // What was posted before the loss was noted must be seen: see `Queue::announce`.
        fence(Ordering::SeqCst);
        let (first, cq) = (self.flush_from, self.number());
        let mut wrapped = false;
        while count < completions.len() {
            match self.table.attached_from(self.flush_from) {
                Some(tables) if !wrapped || tables.qpn < first => {
                    let room = completions.get_mut(count..).unwrap_or_default();
                    let length = room.len();
                    let flushed = tables.flush(cq, room);
                    count += flushed;
                    // With all room used, the next call goes on with this one.
                    self.flush_from = tables.qpn.wrapping_add(u32::from(flushed < length));
                }
                None if !wrapped => (wrapped, self.flush_from) = (true, 0),
                _ => break,
            }
        }
        if count == 0 && !completions.is_empty() {
            return Err(self.control.object.handle.loss());
        }
        Ok(count)
    }

    #[inline]
    fn slot_value(&self) -> u64 {
        doorbell::consumer(self.consumer, self.sequence, self.solicited_only)
    }

    #[inline]
    fn next(&mut self) -> Option<CompletionEntry> {
        if self.backlog.is_empty() {
            self.ring.entry(self.consumer)
        } else {
            self.backlog.pop_front()
        }
    }

    /// The completion of `entry`; `None` if its queue pair is gone, or has no such request.
    #[inline]
    fn resolve(&mut self, entry: &CompletionEntry) -> Option<Completion> {
        if entry.flags & CompletionFlags::SEND_QUEUE.bits() != 0 {
            let tables = self.tables(entry.qpn)?;
            let noted = tables.send.complete(entry.wqe_index)?;
            Some(Completion {
                context: tables.context,
                ..Completion::of_request(entry, noted)
            })
        } else {
            let (wr_id, context) = self.received(entry)?;
            Some(Completion {
                context,
                ..Completion::of_receive(entry, wr_id)
            })
        }
    }

    /// The receive request of `entry`: of a queue pair's own queue, of a shared one, or of a shared
    /// one for XRC, whose queue pair need not be known here. With it, the queue pair's context.
    #[inline]
    fn received(&mut self, entry: &CompletionEntry) -> Option<(u64, u64)> {
        if let Some(srq) = &self.remembered_srq {
            if srq.number() == entry.srqn && srq.is_attached() {
                return Some((srq.complete(entry.wqe_index)?, 0));
            }
        }
        let Some(tables) = self.tables(entry.qpn) else {
            return Some((self.received_elsewhere(entry)?, 0));
        };
        let wr_id = match &tables.srq {
            None if entry.srqn == 0 => tables.receive.complete(entry.wqe_index),
            Some(srq) if entry.srqn == srq.number() => srq.complete(entry.wqe_index),
            _ => None,
        };
        Some((wr_id?, tables.context))
    }

    #[cold]
    fn received_elsewhere(&mut self, entry: &CompletionEntry) -> Option<u64> {
        if entry.srqn == 0 {
            return None;
        }
        self.remembered_srq = self.table.find_srq(entry.srqn, self.consumer);
        if let Some(srq) = &self.remembered_srq {
            return srq.complete(entry.wqe_index);
        }
        let (qpn, index) = (entry.qpn, entry.wqe_index);
        self.table.retire(qpn, index, self.consumer);
        None
    }

    /// After an error the queue pair is in the error state, or soon will be.
    #[cold]
    fn note_error(&mut self, qpn: u32) {
        let handle = &self.control.object.handle;
        if !handle.is_live() {
            return;
        }
        let shared = Arc::clone(&handle.shared);
        if let Some(tables) = self.tables(qpn) {
            tables.set_failed(&shared.platform);
        }
    }

    #[inline]
    fn tables(&mut self, qpn: u32) -> Option<&QpTables<P>> {
        let place = self.remembered.get_mut(qpn as usize % REMEMBERED)?;
        let known = place
            .as_ref()
            .is_some_and(|tables| tables.qpn == qpn && tables.attached.load(Ordering::Acquire));
        if !known {
            *place = self.table.find(qpn, self.consumer);
        }
        place.as_deref()
    }

    /// Asks for an event when the next completion (the next solicited one or error, if
    /// `solicited_only`) arrives. True if entries are there already, so that polling again is
    /// better than waiting. Atomic context.
    ///
    /// If the function is lost, the event comes from [`Driver::flush_lost`], or when a request is
    /// posted.
    pub fn arm(&mut self, solicited_only: bool) -> Result<bool, Error> {
        let handle = &self.control.object.handle;
        if handle.is_destroyed() {
            return Err(Error::Stale);
        }
        self.table.arm();
        self.sequence = self.sequence.wrapping_add(1);
        self.solicited_only = solicited_only;
        if handle.is_live() {
            let value = self.slot_value();
            self.control.doorbell.ring(&handle.shared.platform, value);
        }
        let written = !self.backlog.is_empty() || self.ring.is_valid(self.consumer);
        // The doorbell has a fence: whoever notes the loss after this look finds the queue armed.
        if handle.is_live() {
            return Ok(written);
        }
        fence(Ordering::SeqCst);
        Ok(written && !self.flushing || self.table.is_outstanding())
    }

    /// Changes when the queue notifies. Sleepable context.
    pub fn set_moderation(&mut self, moderation: Moderation) -> Result<(), Error> {
        self.control.set_moderation(moderation)
    }

    /// Moves the queue into a buffer for `entries` completions, with all that were not polled yet.
    /// Poll once afterwards: an event that came meanwhile may have been about the new buffer.
    /// Sleepable context.
    pub fn resize(&mut self, entries: u32) -> Result<(), Error> {
        let handle = &self.control.object.handle;
        handle.check()?;
        let shared = Arc::clone(&handle.shared);
        let generation = handle.generation;
        let size = ring_size(&shared, entries)?;
        let buffer = Arc::new(shared.platform.allocate_dma(ring_length(size))?);
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let ring = CqRing {
            buffer,
            size,
            base: 0,
        };
        self.table.prepare_move(ring.clone());
        let resized = self.control.resize(&memory, size);
        let moved = resized.and_then(|base| self.move_to(base, ring));
        match moved {
            Ok(()) => self.control.object.memory = Some(memory),
            Err(_) => {
                self.table.abandon_move();
                // If the device has moved, it writes where nobody looks.
                shared.quarantine(generation, memory);
            }
        }
        moved
    }

    /// The device goes on in `ring` from index `base` on, so that all before is in the old ring.
    fn move_to(&mut self, base: u32, ring: CqRing<P::Dma>) -> Result<(), Error> {
        let mut counter = self.consumer.wrapping_add(self.backlog.len() as u32);
        let left = base.wrapping_sub(counter);
        if left > self.entries() {
            return Err(BAD_BASE);
        }
        let mut backlog = VecDeque::with_capacity(self.backlog.len() + left as usize);
        backlog.extend(self.backlog.iter().copied());
        while counter != base {
            backlog.push_back(self.ring.entry(counter).ok_or(BAD_BASE)?);
            counter = counter.wrapping_add(1);
        }
        self.backlog = backlog;
        self.ring = CqRing { base, ..ring };
        self.table.finish_move(self.ring.clone());
        Ok(())
    }

    /// The queue as the device sees it. Sleepable context.
    pub fn query(&self) -> Result<CqAttributes, Error> {
        self.control.query()
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()
    }
}

/// The ring for `entries` completions.
fn ring_size<P: Platform>(shared: &Shared<P>, entries: u32) -> Result<RingSize, Error> {
    let size = RingSize::at_least(entries.max(4));
    let size = size.filter(|size| size.log() <= shared.attributes.log_max_cq_entries);
    size.ok_or(Error::BadArgument("entries of the completion queue"))
}

impl<P: Platform> Driver<P> {
    /// Creates a completion queue.
    pub fn create_cq(&self, config: CqConfig) -> Result<CompletionQueue<P>, Error> {
        let shared = &self.shared;
        let size = ring_size(shared, config.entries)?;
        let buffer = self.allocate(ring_length(size))?;
        let spec = CqSpec {
            size,
            completion_vector: config.completion_vector,
            doorbell_page: config.doorbell_page,
            moderation: config.moderation,
        };
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let mut control = CqControl::create(shared, memory, &spec)?;
        let ring = CqRing {
            buffer,
            size,
            base: 0,
        };
        let table = CqTable::new(ring.clone(), control.object.handle.number, config.context);
        let table = Arc::new(table);
        control.listen(config.context, Some(&table));
        Ok(CompletionQueue {
            control,
            table,
            consumer: 0,
            sequence: 0,
            solicited_only: false,
            flushing: false,
            flush_from: 0,
            ring,
            backlog: VecDeque::new(),
            remembered: (0..REMEMBERED).map(|_| None).collect(),
            remembered_srq: None,
        })
    }
}
