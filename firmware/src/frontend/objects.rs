//! What a function's queue pairs work with: everything but the queue pairs themselves.
//!
//! Kept apart from the queue pairs so that one of them can be called with all this at hand. A
//! failure that concerns more than the caller is only noted here ([`Objects::fault`],
//! [`Objects::cq_failed`]) and acted upon after the call.

use alloc::vec::Vec;

use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::eqe::{EventEntry, EventType};
use vrnic_abi::object::AddressVector;

use super::completion::{CompletionQueue, Pushed};
use super::event::{EventQueue, Posted};
use super::moderation::Moderation;
use super::registers::Fault;
use super::shared_receive::{Look, SharedReceiveQueue};
use crate::host::Host;
use crate::resource::{
    DoorbellPages, Filters, GidTable, Keys, Memberships, Numbering, Quota, Table, limits,
};
use crate::transport::{Congestion, NoReceive, Path, ReceiveWork};
use crate::types::Time;

/// Number of counters.
pub const COUNTERS: usize = Counter::ALL.len();

/// Events that were held back and are written in one step.
const EVENTS_A_STEP: u32 = 64;
/// What a look at an event queue counts among them.
const LOOK: u32 = 4;

/// Completion queues: an event of one that is gone does not name its successor.
const CQ_NUMBERS: Numbering = Numbering {
    first: 1,
    index_bits: 15,
    generation_bits: 9,
};

/// Shared receive queues: requests of XRC initiators name them, so that one that is gone must not
/// be taken for its successor.
const SRQ_NUMBERS: Numbering = CQ_NUMBERS;

/// A protection domain: how many objects belong to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProtectionDomain {
    /// Objects of all kinds.
    pub users: u32,
}

/// An XRC domain: how many objects belong to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct XrcDomain {
    /// Shared receive queues and XRC targets.
    pub users: u32,
}

/// An address handle.
#[derive(Clone, Copy, Debug)]
pub struct AddressHandle {
    /// Protection domain.
    pub pd: u32,
    /// Where it leads, as the driver said it.
    pub vector: AddressVector,
    /// The same, resolved.
    pub path: Path,
}

/// The objects of a function without its queue pairs.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Protection domains.
    pub pds: Table<ProtectionDomain>,
    /// Memory regions and windows.
    pub keys: Keys,
    /// Completion queues.
    pub cqs: Table<CompletionQueue>,
    /// Shared receive queues.
    pub srqs: Table<SharedReceiveQueue>,
    /// XRC domains.
    pub xrcds: Table<XrcDomain>,
    /// Event queues.
    pub eqs: Table<EventQueue>,
    /// The event queue for asynchronous events.
    pub async_eq: Option<u32>,
    /// Address handles.
    pub handles: Table<AddressHandle>,
    /// Addresses.
    pub gids: GidTable,
    /// Filters of received frames.
    pub filters: Filters,
    /// Multicast groups.
    pub memberships: Memberships,
    /// Doorbell pages.
    pub doorbells: DoorbellPages,
    /// What the port does about congestion.
    pub congestion: Congestion,
    /// Statistics.
    pub counters: [u64; COUNTERS],
    /// Entries of page lists that all objects hold, those being read included.
    pub page_entries: u32,
    /// How many there may be.
    page_limit: u32,
    /// How many asynchronous events may wait for room.
    held_limit: usize,
    /// A completion queue has failed, and its queue pairs have not been looked for yet.
    pub cq_failed: bool,
    /// Completion queues whose events are put off and that need a timer.
    pub moderated_cqs: Vec<u32>,
    /// A completion was lost, as its queue has failed.
    pub dropped: bool,
    /// The payload of the PDU that was handled could not be read from its sender's memory.
    pub unreadable: bool,
    /// Event queues hold events back.
    pub events_held: bool,
    /// The event queue, by its slot, that is the first to be rid of held events.
    pub next_held: u32,
    /// What ends the function, if anything.
    pub fault: Option<Fault>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            pds: Table::new(Numbering::PLAIN, limits::PROTECTION_DOMAINS),
            keys: Keys::default(),
            cqs: Table::new(CQ_NUMBERS, limits::COMPLETION_QUEUES),
            srqs: Table::new(SRQ_NUMBERS, limits::SHARED_RECEIVE_QUEUES),
            xrcds: Table::new(Numbering::PLAIN, limits::XRC_DOMAINS),
            eqs: Table::new(Numbering::PLAIN, limits::EVENT_QUEUES),
            async_eq: None,
            handles: Table::new(Numbering::PLAIN, limits::ADDRESS_HANDLES),
            gids: GidTable::default(),
            filters: Filters::default(),
            memberships: Memberships::default(),
            doorbells: DoorbellPages::default(),
            congestion: Congestion::OFF,
            counters: [0; COUNTERS],
            page_entries: 0,
            page_limit: limits::PAGE_LIST_ENTRIES,
            held_limit: 0,
            cq_failed: false,
            moderated_cqs: Vec::new(),
            dropped: false,
            unreadable: false,
            events_held: false,
            next_held: 0,
            fault: None,
        }
    }
}

impl Objects {
    /// Changes how many objects there may be beside `queue_pairs`. Those beyond stay, and what they
    /// report still has room, as has what waits for it now.
    pub fn set_quota(&mut self, quota: &Quota, queue_pairs: u32) {
        let asynchronous = self.async_eq.and_then(|eqn| self.eqs.get(eqn));
        let waits = asynchronous.map_or(0, EventQueue::held_asynchronous);
        self.held_limit = waits.saturating_add(limits::held_events(
            quota.queue_pairs.max(queue_pairs),
            quota.shared_receive_queues.max(self.srqs.len()),
            quota.completion_queues.max(self.cqs.len()),
        ));
        self.pds.set_limit(quota.protection_domains);
        self.keys.set_limits(quota.regions, quota.windows);
        self.cqs.set_limit(quota.completion_queues);
        self.srqs.set_limit(quota.shared_receive_queues);
        self.xrcds.set_limit(quota.xrc_domains);
        self.eqs.set_limit(quota.event_queues);
        self.handles.set_limit(quota.address_handles);
        self.doorbells.set_limit(quota.doorbell_pages);
        self.page_limit = quota.pages;
    }

    /// How many entries of page lists there are with `more`, if there may be so many.
    #[must_use]
    pub fn page_entries_with(&self, more: u32) -> Option<u32> {
        let entries = self.page_entries.checked_add(more)?;
        (entries <= self.page_limit).then_some(entries)
    }

    /// Adds to a counter.
    #[inline]
    pub fn count(&mut self, counter: Counter, n: u64) {
        if let Some(value) = self.counters.get_mut(usize::from(counter.raw())) {
            *value = value.wrapping_add(n);
        }
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        let value = self.counters.get(usize::from(counter.raw()));
        value.copied().unwrap_or(0)
    }

    /// Writes a completion; `solicited` if it is one, or an error.
    #[inline]
    pub fn complete<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        cqn: u32,
        entry: CompletionEntry,
        solicited: bool,
    ) {
        let Some(cq) = self.cqs.get_mut(cqn) else {
            return;
        };
        match cq.push(host, now, entry, solicited) {
            Pushed::Written if cq.needs_timer() => self.moderated_cqs.push(cqn),
            Pushed::Written => {}
            Pushed::Dropped => self.dropped = true,
            Pushed::Notify => self.notify(host, now, cqn),
            Pushed::Failed => {
                // XRC targets do not stand among its users.
                self.dropped = true;
                self.cq_failed = true;
                self.asynchronous(host, now, EventType::CqError, cqn);
            }
        }
    }

    /// Takes an entry of shared receive queue `srqn`, which belongs to XRC domain `xrcd` if that is
    /// given, and else to none.
    ///
    /// # Errors
    /// Why there is none.
    #[inline]
    pub fn take_shared<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        srqn: u32,
        xrcd: Option<u32>,
    ) -> Result<ReceiveWork, NoReceive> {
        let srq = self.srqs.get_mut(srqn).ok_or(NoReceive::NoQueue)?;
        if srq.extended.map(|extended| extended.xrcd) != xrcd {
            return Err(NoReceive::NoQueue);
        }
        let cq = srq.extended.and_then(|extended| self.cqs.get(extended.cq));
        if cq.is_some_and(CompletionQueue::has_failed) {
            return Err(NoReceive::Failed);
        }
        let (work, look) = srq.take(host);
        self.looked(host, now, srqn, look);
        work
    }

    /// Arms the limit of shared receive queue `srqn`.
    pub fn arm_shared<H: Host>(&mut self, host: &H, now: Time, srqn: u32, limit: u32) {
        if let Some(srq) = self.srqs.get_mut(srqn) {
            let look = srq.arm(host, limit);
            self.looked(host, now, srqn, look);
        }
    }

    fn looked<H: Host>(&mut self, host: &H, now: Time, srqn: u32, look: Look) {
        if !look.valid {
            self.count(Counter::BadDoorbell, 1);
        }
        if let Some(event) = look.event {
            self.asynchronous(host, now, event, srqn);
        }
    }

    /// Takes the value of a completion queue's doorbell slot.
    pub fn ring_cq<H: Host>(&mut self, host: &H, now: Time, cqn: u32, value: u64) {
        let Some(cq) = self.cqs.get_mut(cqn) else {
            return;
        };
        let (valid, notify) = cq.ring(now, value);
        if !valid {
            self.count(Counter::BadDoorbell, 1);
        }
        if notify {
            self.notify(host, now, cqn);
        } else {
            self.moderated(cqn);
        }
    }

    /// Changes the moderation of a completion queue, also of an event that is pending.
    pub fn moderate<H: Host>(&mut self, host: &H, now: Time, cqn: u32, moderation: Moderation) {
        let cq = self.cqs.get_mut(cqn);
        if cq.is_some_and(|cq| cq.moderate(now, moderation)) {
            self.notify(host, now, cqn);
        } else {
            self.moderated(cqn);
        }
    }

    /// The time that a completion queue's event was put off to may have come.
    pub fn expire_cq<H: Host>(&mut self, host: &H, now: Time, cqn: u32) {
        let cq = self.cqs.get_mut(cqn);
        if cq.is_some_and(|cq| cq.expire(now)) {
            self.notify(host, now, cqn);
        }
    }

    /// Notes a completion queue whose event is put off to a time that no timer stands for yet.
    fn moderated(&mut self, cqn: u32) {
        if self.cqs.get(cqn).is_some_and(CompletionQueue::needs_timer) {
            self.moderated_cqs.push(cqn);
        }
    }

    /// Takes the value of an event queue's doorbell slot.
    pub fn ring_eq<H: Host>(&mut self, host: &H, eqn: u32, value: u64) {
        let Some(eq) = self.eqs.get_mut(eqn) else {
            return;
        };
        if !eq.ring(host, value) {
            self.count(Counter::BadDoorbell, 1);
        }
    }

    /// Writes events that were held back, as far as there is room now and a step goes.
    pub fn release_events<H: Host>(&mut self, host: &H) {
        if !self.events_held {
            return;
        }
        let slots = self.eqs.slots();
        let mut held = false;
        let mut left = EVENTS_A_STEP;
        for _ in 0..slots {
            let slot = self.next_held.checked_rem(slots).unwrap_or(0);
            let found = self.eqs.part(slot..slot.saturating_add(1)).next();
            if let Some(eqn) = found.and_then(|(eqn, eq)| eq.holds_events().then_some(eqn)) {
                held = true;
                // Even a look costs something.
                left = left
                    .saturating_sub(LOOK)
                    .saturating_sub(self.release(host, eqn, left));
            }
            self.next_held = slot.wrapping_add(1);
            if left == 0 {
                return;
            }
        }
        self.events_held = held;
    }

    /// Writes up to `most` events that event queue `eqn` holds back; returns how many.
    fn release<H: Host>(&mut self, host: &H, eqn: u32, most: u32) -> u32 {
        let cqs = &mut self.cqs;
        let Some(eq) = self.eqs.get_mut(eqn) else {
            return 0;
        };
        let result = eq.release(host, most, |cqn| {
            let cq = cqs.get_mut(cqn);
            cq.is_some_and(|cq| core::mem::take(&mut cq.event_held))
        });
        match result {
            Ok(released) => released,
            Err(fault) => {
                self.note(Some(fault));
                most
            }
        }
    }

    /// Reports an asynchronous event about object `object`. Without an event queue for them, they
    /// are lost, as the driver does not want them.
    pub fn asynchronous<H: Host>(&mut self, host: &H, now: Time, event: EventType, object: u32) {
        let Some(eq) = self.async_eq.and_then(|eqn| self.eqs.get_mut(eqn)) else {
            return;
        };
        let posted = eq.post(host, event_entry(event, object, now), self.held_limit);
        self.events_held |= eq.holds_events();
        self.note(posted.err());
    }

    fn notify<H: Host>(&mut self, host: &H, now: Time, cqn: u32) {
        let Some(cq) = self.cqs.get_mut(cqn) else {
            return;
        };
        // The event that waits says the same.
        if cq.event_held {
            return;
        }
        let Some(eq) = self.eqs.get_mut(cq.eq) else {
            return;
        };
        let entry = event_entry(EventType::Completion, cqn, now);
        match eq.post(host, entry, self.held_limit) {
            Ok(Posted::Written) => {}
            Ok(Posted::Held) => {
                cq.event_held = true;
                self.events_held = true;
            }
            Err(fault) => self.note(Some(fault)),
        }
    }

    fn note(&mut self, fault: Option<Fault>) {
        self.fault = self.fault.or(fault);
    }
}

fn event_entry(event: EventType, object: u32, now: Time) -> EventEntry {
    EventEntry {
        object,
        timestamp: now.0,
        event: event.raw(),
        ..EventEntry::default()
    }
}
