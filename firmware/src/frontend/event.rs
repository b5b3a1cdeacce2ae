//! Event queues (see [`vrnic_abi::eqe`] and [`vrnic_abi::doorbell::consumer`]).
//!
//! An event that finds the ring full is held back until the driver has consumed something: of
//! completion events at most one for each completion queue, of asynchronous events a bounded
//! number. An entry is in memory before the vector is raised. A queue that is armed raises its
//! vector once: for the next entry, or at once if the driver has not consumed all entries yet.

use alloc::collections::VecDeque;

use vrnic_abi::doorbell;
use vrnic_abi::eqe::{EventEntry, EventType};
use vrnic_abi::registers::HealthCode;

use super::Fault;
use super::entry_ring::EntryRing;
use crate::host::{Host, TraceEvent};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It stands in the ring.
    Written,
    /// It waits for room.
    Held,
}

/// An event queue.
#[derive(Clone, Debug)]
pub struct EventQueue {
    /// Number.
    pub number: u32,
    /// The entries.
    pub ring: EntryRing,
    /// MSI-X vector.
    pub vector: u16,
    /// Completion queues and roles that refer to the queue.
    pub users: u32,
    arm_seen: u16,
    armed: bool,
    held: VecDeque<EventEntry>,
    /// Asynchronous events among those held.
    held_async: usize,
    /// Events among those held whose completion queues are gone.
    forgotten: usize,
}

/// Room for held events that a queue keeps when none are left.
const KEPT_ROOM: usize = 256;

impl EventQueue {
    /// An empty queue that is not armed.
    #[must_use]
    pub const fn new(number: u32, ring: EntryRing, vector: u16) -> Self {
        Self {
            number,
            ring,
            vector,
            users: 0,
            arm_seen: 0,
            armed: false,
            held: VecDeque::new(),
            held_async: 0,
            forgotten: 0,
        }
    }

    /// Whether events wait for room.
    #[must_use]
    pub fn holds_events(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether asynchronous events are among them.
    #[must_use]
    pub const fn holds_asynchronous(&self) -> bool {
        self.held_async != 0
    }

    /// Number of events that wait for room.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len().saturating_sub(self.forgotten)
    }

    /// Whether the driver waits for the vector.
    #[must_use]
    pub const fn is_armed(&self) -> bool {
        self.armed
    }

    /// Number of asynchronous events that wait for room.
    #[must_use]
    pub const fn held_asynchronous(&self) -> usize {
        self.held_async
    }

    /// Writes an event or holds it back, with at most `most` asynchronous ones.
    ///
    /// # Errors
    /// The fault that the function has if the ring cannot be written or too many events wait.
    pub fn post<H: Host>(
        &mut self,
        host: &H,
        entry: EventEntry,
        most: usize,
    ) -> Result<Posted, Fault> {
        if self.held.is_empty() && self.has_room(host) {
            self.write(host, entry)?;
            return Ok(Posted::Written);
        }
        if entry.event != EventType::Completion.raw() {
            if self.held_async >= most {
                return Err(self.fault(HealthCode::EventsLost, 0));
            }
            self.held_async += 1;
        }
        self.held.push_back(entry);
        Ok(Posted::Held)
    }

    /// Takes up to `most` events that were held back, while there is room, and writes them. Those of
    /// a completion queue only if `still` says that it waits for one. Returns how many it took.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub fn release<H: Host>(
        &mut self,
        host: &H,
        most: u32,
        mut still: impl FnMut(u32) -> bool,
    ) -> Result<u32, Fault> {
        let mut taken = 0;
        while taken < most && !self.held.is_empty() && self.has_room(host) {
            let Some(entry) = self.held.pop_front() else {
                break;
            };
            taken += 1;
            if entry.event != EventType::Completion.raw() {
                self.held_async -= 1;
            } else if !still(entry.object) {
                self.forgotten = self.forgotten.saturating_sub(1);
                continue;
            }
            self.write(host, entry)?;
        }
        if self.held.is_empty() {
            self.held.shrink_to(KEPT_ROOM);
        }
        Ok(taken)
    }

    /// A completion queue that is gone has an event here that is held back. It is passed over when
    /// its turn comes, and taken out before such events become more than others: that costs nothing on
    /// average. `still` says whether a completion queue waits for an event.
    pub fn forget(&mut self, still: impl Fn(u32) -> bool) {
        self.forgotten += 1;
        if self.forgotten > self.held.len() / 2 + KEPT_ROOM {
            self.held
                .retain(|entry| entry.event != EventType::Completion.raw() || still(entry.object));
            self.forgotten = 0;
        }
    }

    /// Takes the value of the queue's doorbell slot; `false` if it makes no sense.
    pub fn ring<H: Host>(&mut self, host: &H, value: u64) -> bool {
        let valid = self.ring.take_consumer(value);
        let sequence = doorbell::arm_sequence(value);
        if sequence != self.arm_seen {
            self.arm_seen = sequence;
            self.armed = true;
            self.notify_if(host, self.ring.outstanding() != 0);
        }
        valid
    }

    fn has_room<H: Host>(&mut self, host: &H) -> bool {
        if self.ring.is_full() {
            self.ring(host, self.ring.slot(host));
        }
        !self.ring.is_full()
    }

    fn write<H: Host>(&mut self, host: &H, mut entry: EventEntry) -> Result<(), Fault> {
        entry.owner = self.ring.owner();
        if let Err(address) = self.ring.write(host, &entry) {
            return Err(self.fault(HealthCode::EventDmaFailed, address));
        }
        host.trace(&TraceEvent::Event {
            eqn: self.number,
            entry: bytemuck::bytes_of(&entry),
        });
        self.notify_if(host, true);
        Ok(())
    }

    fn notify_if<H: Host>(&mut self, host: &H, condition: bool) {
        if condition && core::mem::take(&mut self.armed) {
            host.trace(&TraceEvent::Interrupt {
                vector: self.vector,
            });
            host.raise(self.vector);
        }
    }

    const fn fault(&self, code: HealthCode, address: u64) -> Fault {
        Fault {
            code,
            object: self.number,
            address,
        }
    }
}
