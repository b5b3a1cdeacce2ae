//! Completion queues.
//!
//! [`CompletionQueue::poll`] takes the completions that are there and finds the work request of
//! each; it takes no lock unless it meets a queue pair for the first time.
//!
//! To wait for completions: poll until there are none, [`CompletionQueue::arm`], and if that says
//! that entries are there poll again, else wait for the interrupt. The device notifies for an
//! entry that arrived before it saw the queue armed, so no order of events loses one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use vrnic_abi::admin::{AdminOpcode, CreateCq};
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::doorbell;
use vrnic_abi::object::CqAttributes;

use crate::device::Driver;
use crate::doorbell::{Doorbell, is_page};
use crate::error::Error;
use crate::event::contiguous;
use crate::memory::{Handle, RegionMemory};
use crate::platform::{DmaBuffer, Platform};
use crate::ring::{RingSize, owner_of};
use crate::tables::{CqTable, QpTables};
use crate::work::{Completion, Work};

/// How to create a completion queue.
#[derive(Clone, Copy, Debug)]
pub struct CqConfig {
    /// Completions it must hold.
    pub entries: u32,
    /// Which of the driver's event queues for completions, modulo their number.
    pub completion_vector: u16,
    /// Handed to [`Platform::completion_event`].
    pub context: u64,
    /// Doorbell page.
    pub doorbell_page: u32,
}

impl Default for CqConfig {
    fn default() -> Self {
        Self {
            entries: 256,
            completion_vector: 0,
            context: 0,
            doorbell_page: doorbell::KERNEL_PAGE,
        }
    }
}

/// Queue pairs that the poller remembers, by the low bits of their numbers.
const REMEMBERED: usize = 256;

/// A completion queue, used by one context at a time.
pub struct CompletionQueue<P: Platform> {
    pub(crate) handle: Handle<P>,
    pub(crate) table: Arc<CqTable<P>>,
    doorbell: Doorbell,
    vector: u16,
    consumer: u32,
    sequence: u16,
    /// How the queue was armed last; repeated with the sequence number.
    solicited_only: bool,
    remembered: Box<[Option<Arc<QpTables>>]>,
}

impl<P: Platform> CompletionQueue<P> {
    /// Number of the queue.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// The MSI-X vector on which the queue's events arrive.
    #[must_use]
    pub fn vector(&self) -> u16 {
        self.vector
    }

    /// Completions it holds.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.table.size.entries()
    }

    /// How often an interrupt handler has found an event of this queue, modulo 2^32.
    #[must_use]
    pub fn notifications(&self) -> u32 {
        self.table.notifications()
    }

    /// Takes completions, the oldest first, and returns how many. Atomic context.
    #[inline]
    pub fn poll(&mut self, completions: &mut [Completion]) -> Result<usize, Error> {
        self.handle.check()?;
        let first = self.consumer;
        let mut count = 0;
        // Entries of queue pairs that are gone are dropped, so bound the loop by the ring.
        while self.consumer.wrapping_sub(first) < self.table.size.entries() {
            let Some(place) = completions.get_mut(count) else {
                break;
            };
            let Some(entry) = self.next() else {
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
            let value = self.slot_value();
            self.doorbell.publish(&self.handle.shared.platform, value);
        }
        Ok(count)
    }

    #[inline]
    fn slot_value(&self) -> u64 {
        doorbell::consumer(self.consumer, self.sequence, self.solicited_only)
    }

    #[inline]
    fn next(&self) -> Option<CompletionEntry> {
        let table = &*self.table;
        let base = table.size.position(self.consumer) * CompletionEntry::SIZE;
        let last = table.buffer.load(base + 56);
        if !table.size.is_valid(self.consumer, owner_of(last)) {
            return None;
        }
        fence(Ordering::Acquire);
        let load = |index: usize| table.buffer.load(base + index * 8);
        let words = [load(0), load(1), load(2), load(3), load(4), 0, 0, last];
        Some(bytemuck::cast(words))
    }

    /// The completion of `entry`; `None` if its queue pair is gone, or has no such request.
    #[inline]
    fn resolve(&mut self, entry: &CompletionEntry) -> Option<Completion> {
        let tables = self.tables(entry.qpn)?;
        let flags = CompletionFlags::from_bits_truncate(entry.flags);
        let (wr_id, work) = if flags.contains(CompletionFlags::SEND_QUEUE) {
            let (wr_id, opcode) = tables.send.complete(entry.wqe_index)?;
            (wr_id, Work::Request(opcode))
        } else {
            let wr_id = tables.receive.complete(entry.wqe_index)?;
            let opcode = CompletionOpcode::from_raw(entry.opcode);
            (
                wr_id,
                Work::Receive(opcode.unwrap_or(CompletionOpcode::Receive)),
            )
        };
        let immediate = match work {
            Work::Receive(CompletionOpcode::ReceiveInvalidate) => entry.immediate,
            _ => u32::from_be(entry.immediate),
        };
        let status = CompletionStatus::from_raw(entry.status);
        Some(Completion {
            wr_id,
            qpn: entry.qpn,
            work,
            status: status.unwrap_or(CompletionStatus::General),
            syndrome: entry.syndrome,
            byte_length: entry.byte_length,
            immediate,
            flags,
            timestamp: entry.timestamp,
        })
    }

    /// After an error the queue pair is in the error state, or soon will be.
    #[cold]
    fn note_error(&mut self, qpn: u32) {
        let shared = Arc::clone(&self.handle.shared);
        if let Some(tables) = self.tables(qpn) {
            tables.set_failed(&shared.platform);
        }
    }

    #[inline]
    fn tables(&mut self, qpn: u32) -> Option<&QpTables> {
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
    pub fn arm(&mut self, solicited_only: bool) -> Result<bool, Error> {
        self.handle.check()?;
        self.sequence = self.sequence.wrapping_add(1);
        self.solicited_only = solicited_only;
        self.doorbell
            .ring(&self.handle.shared.platform, self.slot_value());
        Ok(self.table.is_valid(self.consumer))
    }

    /// The queue as the device sees it. Sleepable context.
    pub fn query(&self) -> Result<CqAttributes, Error> {
        self.handle.check()?;
        let shared = &self.handle.shared;
        shared.query_object(self.handle.generation, AdminOpcode::QueryCq, self.number())
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        let current = self.handle.check().is_ok();
        self.handle.destroy(AdminOpcode::DestroyCq)?;
        if current {
            self.handle.shared.cqs.remove(self.handle.number);
        }
        Ok(())
    }
}

impl<P: Platform> Drop for CompletionQueue<P> {
    fn drop(&mut self) {
        let memory = RegionMemory::Dma(Arc::clone(&self.table.buffer));
        self.handle
            .shared
            .quarantine(self.handle.generation, memory);
    }
}

impl<P: Platform> Driver<P> {
    /// Creates a completion queue.
    pub fn create_cq(&self, config: CqConfig) -> Result<CompletionQueue<P>, Error> {
        let shared = &self.shared;
        let generation = shared.generation();
        if !is_page(config.doorbell_page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        let size = RingSize::at_least(config.entries.max(4));
        let size = size.filter(|size| size.log() <= shared.attributes.log_max_cq_entries);
        let size = size.ok_or(Error::BadArgument("entries of the completion queue"))?;
        let count = shared.eqs.len().saturating_sub(1).max(1);
        let eq = shared
            .eqs
            .get(1 + usize::from(config.completion_vector) % count);
        let eq = eq.ok_or(Error::BadArgument("completion vector"))?;
        let length = size.entries() as usize * CompletionEntry::SIZE;
        let buffer = self.allocate(length)?;
        let body = CreateCq {
            buffer: contiguous(&*buffer),
            doorbell_page: config.doorbell_page,
            log_entries: size.log(),
            eq: eq.number().ok_or(Error::Stale)?,
            ..CreateCq::default()
        };
        let keep = Some(Arc::clone(&buffer));
        let created = shared
            .execute(generation, AdminOpcode::CreateCq, &body, keep)
            .and_then(|answer| {
                let handle = Handle::new(shared, generation, answer.result0)?;
                let doorbell = Doorbell::new(config.doorbell_page, answer.result1)?;
                Ok((handle, doorbell))
            });
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let (handle, doorbell) = shared.keep_unless_refused(generation, &memory, created)?;
        let table = Arc::new(CqTable::new(buffer, size, config.context));
        shared.cqs.insert(handle.number, Arc::clone(&table));
        Ok(CompletionQueue {
            handle,
            table,
            doorbell,
            vector: eq.vector(),
            consumer: 0,
            sequence: 0,
            solicited_only: false,
            remembered: (0..REMEMBERED).map(|_| None).collect(),
        })
    }
}
