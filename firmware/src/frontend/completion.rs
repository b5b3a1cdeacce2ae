//! Completion queues (see [`vrnic_abi::cqe`] and [`vrnic_abi::doorbell::consumer`]).
//!
//! An armed queue asks for one event: when the next entry that counts is written, or at once if
//! such an entry lies beyond the consumer index already. A queue that overflows or cannot be
//! written has failed for good; nothing is written to it any more.

use alloc::vec::Vec;

use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::doorbell;

use crate::host::{Host, Memory, TraceEvent};
use crate::resource::PageMap;

/// What became of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It stands in the ring.
    Written,
    /// It stands in the ring, and the driver wants an event.
    Notify,
    /// The queue has just failed.
    Failed,
    /// The queue failed earlier.
    Dropped,
}

/// What the driver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Armed {
    No,
    Solicited,
    Next,
}

/// A completion queue.
#[derive(Clone, Debug)]
pub struct CompletionQueue {
    /// Number.
    pub number: u32,
    /// The ring.
    pub pages: PageMap,
    /// Entries as a power of two.
    pub log_entries: u8,
    /// Event queue.
    pub eq: u32,
    /// Doorbell page and slot.
    pub doorbell: (u32, u32),
    /// Queue pairs that complete here, once for each of their work queues.
    pub users: Vec<u32>,
    /// Set while an event of the queue waits for room in the event queue.
    pub event_held: bool,
    producer: u32,
    consumer: u32,
    arm_seen: u16,
    armed: Armed,
    /// Index of the latest entry that is solicited or an error, if not consumed.
    solicited: Option<u32>,
    failed: bool,
}

impl CompletionQueue {
    /// An empty queue that is not armed.
    #[must_use]
    pub const fn new(
        number: u32,
        pages: PageMap,
        log_entries: u8,
        eq: u32,
        doorbell: (u32, u32),
    ) -> Self {
        Self {
            number,
            pages,
            log_entries,
            eq,
            doorbell,
            users: Vec::new(),
            event_held: false,
            producer: 0,
            consumer: 0,
            arm_seen: 0,
            armed: Armed::No,
            solicited: None,
            failed: false,
        }
    }

    /// Entries ever written.
    #[must_use]
    pub const fn producer(&self) -> u32 {
        self.producer
    }

    /// Entries ever consumed, as last seen.
    #[must_use]
    pub const fn consumer(&self) -> u32 {
        self.consumer
    }

    /// Whether the driver waits for an event.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed != Armed::No
    }

    /// Whether the queue has failed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Writes a completion; `solicited` if it is one, or an error.
    pub fn push<H: Host>(
        &mut self,
        host: &H,
        mut entry: CompletionEntry,
        solicited: bool,
    ) -> Pushed {
        if self.failed {
            return Pushed::Dropped;
        }
        if !self.has_room(host) {
            self.failed = true;
            return Pushed::Failed;
        }
        let mask = (1u32 << self.log_entries) - 1;
        entry.owner = u8::from(self.producer >> self.log_entries & 1 == 0);
        let bytes = bytemuck::bytes_of(&entry);
        let offset = u64::from(self.producer & mask) * CompletionEntry::SIZE as u64;
        let written = match self.pages.run(offset) {
            Some((address, _)) => host.memory().write_publish(address, bytes).is_ok(),
            None => false,
        };
        if !written {
            self.failed = true;
            return Pushed::Failed;
        }
        host.trace(&TraceEvent::Completion {
            cqn: self.number,
            entry: bytes,
        });
        if solicited {
            self.solicited = Some(self.producer);
        }
        self.producer = self.producer.wrapping_add(1);
        if self.take_notification(solicited) {
            Pushed::Notify
        } else {
            Pushed::Written
        }
    }

    /// Takes the value of the queue's doorbell slot. Returns whether the consumer index made sense
    /// and whether the driver wants an event now.
    pub fn ring(&mut self, value: u64) -> (bool, bool) {
        let valid = self.take_consumer(doorbell::index(value));
        let sequence = doorbell::arm_sequence(value);
        if sequence == self.arm_seen {
            return (valid, false);
        }
        self.arm_seen = sequence;
        // A wish for any completion is not narrowed by a later one for solicited ones (IBTA
        // volume 1, 11.4.2.2).
        if !doorbell::solicited_only(value) {
            self.armed = Armed::Next;
        } else if self.armed == Armed::No {
            self.armed = Armed::Solicited;
        }
        if self.producer == self.consumer {
            return (valid, false);
        }
        (valid, self.take_notification(self.solicited.is_some()))
    }

    fn take_notification(&mut self, solicited: bool) -> bool {
        let notify = match self.armed {
            Armed::No => false,
            Armed::Solicited => solicited,
            Armed::Next => true,
        };
        if notify {
            self.armed = Armed::No;
        }
        notify
    }

    fn take_consumer(&mut self, index: u32) -> bool {
        let outstanding = self.producer.wrapping_sub(index);
        if outstanding > self.producer.wrapping_sub(self.consumer) {
            return false;
        }
        self.consumer = index;
        let consumed = |at: u32| self.producer.wrapping_sub(at) > outstanding;
        if self.solicited.is_some_and(consumed) {
            self.solicited = None;
        }
        true
    }

    fn has_room<H: Host>(&mut self, host: &H) -> bool {
        let full =
            |queue: &Self| queue.producer.wrapping_sub(queue.consumer) >= 1u32 << queue.log_entries;
        if full(self) {
            // Arming comes with a mark and is left to that.
            let value = host.doorbell(self.doorbell.0, self.doorbell.1);
            self.take_consumer(doorbell::index(value));
        }
        !full(self)
    }
}
