//! Completion queues (see [`vrnic_abi::cqe`] and [`vrnic_abi::doorbell::consumer`]).
//!
//! An armed queue asks for one event: when the next entry that counts is written, or at once if
//! such an entry lies beyond the consumer index already and no event has announced it; moderation
//! can put it off. A queue that overflows or cannot be written has failed for good; nothing is
//! written to it any more.
//!
//! Verbs programs arm when they get an event, before they poll (IBTA volume 1, 11.4.2.2 counts
//! what is added after the request), and take an event for a completion that they have not seen:
//! what the last event was about must not make another one.

use vrnic_abi::cqe::{CompletionEntry, CompletionStatus};
use vrnic_abi::doorbell;

use super::entry_ring::EntryRing;
use super::moderation::{Moderation, Notifier, Urgency};
use crate::host::{Host, TraceEvent};
use crate::types::Time;

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

/// A completion queue.
#[derive(Clone, Debug)]
pub struct CompletionQueue {
    /// Number.
    pub number: u32,
    /// The entries.
    pub ring: EntryRing,
    /// Event queue.
    pub eq: u32,
    /// Work queues of queue pairs that complete here.
    pub users: u32,
    /// Shared receive queues that complete here; each finds out by itself when this one has failed.
    pub shared_users: u32,
    /// Set while an event of the queue waits for room in the event queue.
    pub event_held: bool,
    /// When the driver is notified.
    notifier: Notifier,
    /// The earliest entry that it has in the timer heap.
    pub(super) timer: Option<Time>,
    arm_seen: u16,
    /// Index behind what is consumed or was there at the last event. It follows the consumer, which
    /// cannot fall back by more than a ring, so that differences stay small.
    announced: u32,
    /// Index of the latest entry that is solicited or an error, if not before `announced`.
    solicited: Option<u32>,
    failed: bool,
}

impl CompletionQueue {
    /// An empty queue that is not armed.
    #[must_use]
    pub const fn new(number: u32, ring: EntryRing, eq: u32, moderation: Moderation) -> Self {
        Self {
            number,
            ring,
            eq,
            users: 0,
            shared_users: 0,
            event_held: false,
            notifier: Notifier::new(moderation),
            timer: None,
            arm_seen: 0,
            announced: 0,
            solicited: None,
            failed: false,
        }
    }

    /// Whether nothing completes here.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.users == 0 && self.shared_users == 0
    }

    /// Whether the queue has failed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether its event is put off to a time before that of its entry in the timer heap.
    #[must_use]
    #[inline]
    pub(super) fn needs_timer(&self) -> bool {
        let deadline = self.notifier.deadline();
        deadline.is_some_and(|due| self.timer.is_none_or(|timer| due < timer))
    }

    /// Writes a completion; `solicited` if it is one, or an error.
    pub fn push<H: Host>(
        &mut self,
        host: &H,
        now: Time,
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
        entry.owner = self.ring.owner();
        let index = self.ring.producer();
        if self.ring.write(host, &entry).is_err() {
            self.failed = true;
            return Pushed::Failed;
        }
        host.trace(&TraceEvent::Completion {
            cqn: self.number,
            entry: bytemuck::bytes_of(&entry),
        });
        let urgency = if entry.status != CompletionStatus::Success.raw() {
            Urgency::Error
        } else if solicited {
            Urgency::Solicited
        } else {
            Urgency::Plain
        };
        if urgency != Urgency::Plain {
            self.solicited = Some(index);
        }
        let notify = self.notifier.written(now, urgency);
        if self.announce(notify) {
            Pushed::Notify
        } else {
            Pushed::Written
        }
    }

    /// Takes the value of the queue's doorbell slot. Returns whether the consumer index made sense
    /// and whether the driver wants an event now.
    pub fn ring(&mut self, now: Time, value: u64) -> (bool, bool) {
        let valid = self.take_consumer(value);
        let sequence = doorbell::arm_sequence(value);
        if sequence == self.arm_seen {
            return (valid, false);
        }
        self.arm_seen = sequence;
        let only = doorbell::solicited_only(value);
        let waiting = self.ring.producer().wrapping_sub(self.announced);
        let urgent = self.solicited.is_some();
        let notify = self.notifier.arm(now, only, waiting, urgent);
        (valid, self.announce(notify))
    }

    /// When and how the driver is notified.
    #[must_use]
    pub const fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// The notifier's deadline may have passed. Returns whether the driver gets its event now.
    pub fn expire(&mut self, now: Time) -> bool {
        let notify = self.notifier.expire(now);
        self.announce(notify)
    }

    /// Changes the moderation. Returns whether the driver gets an event now.
    pub fn moderate(&mut self, now: Time, moderation: Moderation) -> bool {
        let notify = self.notifier.moderate(now, moderation);
        self.announce(notify)
    }

    /// Notes what an event is about, if there is one.
    const fn announce(&mut self, notify: bool) -> bool {
        if notify {
            self.announced = self.ring.producer();
            self.solicited = None;
        }
        notify
    }

    fn take_consumer(&mut self, value: u64) -> bool {
        let valid = self.ring.take_consumer(value);
        let (producer, outstanding) = (self.ring.producer(), self.ring.outstanding());
        let consumed = |at: u32| producer.wrapping_sub(at) > outstanding;
        if consumed(self.announced) {
            self.announced = producer.wrapping_sub(outstanding);
        }
        if self.solicited.is_some_and(consumed) {
            self.solicited = None;
        }
        valid
    }

    fn has_room<H: Host>(&mut self, host: &H) -> bool {
        if self.ring.is_full() {
            // Arming comes with a mark and is left to that.
            self.take_consumer(self.ring.slot(host));
        }
        !self.ring.is_full()
    }
}
