//! A look at a function's objects, for whoever operates the NIC.
//!
//! A driver asks for one object at a time by admin commands; here somebody beside it looks at all
//! objects of a kind, while the function runs. There can be 131072 of a kind, and the caller is the
//! engine's thread between two steps. So a look takes a range of *slots*, of which each holds an
//! object or not, and costs what the range is long; the next look goes on behind it. An object stays
//! in its slot: one that is there all the time is seen once. (Memberships have an order instead of
//! slots, and shift when one comes or goes.)
//!
//! Objects are handed out as they are, and nothing changes. What of them is shown, and how, is left
//! to the caller.

use core::ops::Range;

use super::completion::CompletionQueue;
use super::event::EventQueue;
use super::function::Function;
use super::objects::{AddressHandle, ProtectionDomain, XrcDomain};
use super::queue_pairs::{GSI, QueuePair};
use super::shared_receive::SharedReceiveQueue;
use crate::resource::{Filter, GidEntry, Group, MemoryKey, limits};

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Queue pairs.
    QueuePair,
    /// Completion queues.
    CompletionQueue,
    /// Shared receive queues.
    SharedReceiveQueue,
    /// Event queues.
    EventQueue,
    /// Memory regions and windows.
    MemoryKey,
    /// Protection domains.
    ProtectionDomain,
    /// XRC domains.
    XrcDomain,
    /// Address handles.
    AddressHandle,
    /// Entries of the GID table that are set.
    Gid,
    /// Filters of received frames.
    Filter,
    /// Attachments of queue pairs to multicast groups.
    Membership,
}

/// An object, with its number unless it knows that itself.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// A queue pair.
    QueuePair(u32, &'a QueuePair),
    /// A completion queue.
    CompletionQueue(u32, &'a CompletionQueue),
    /// A shared receive queue.
    SharedReceiveQueue(u32, &'a SharedReceiveQueue),
    /// An event queue.
    EventQueue(u32, &'a EventQueue),
    /// A memory region or window.
    MemoryKey(&'a MemoryKey),
    /// A protection domain.
    ProtectionDomain(u32, &'a ProtectionDomain),
    /// An XRC domain.
    XrcDomain(u32, &'a XrcDomain),
    /// An address handle.
    AddressHandle(u32, &'a AddressHandle),
    /// An entry of the GID table, with its index.
    Gid(u32, &'a GidEntry),
    /// A filter.
    Filter(u32, &'a Filter),
    /// An attachment: the group, and the queue pair.
    Membership(Group, u32),
}

impl Function {
    /// Number of objects of a kind.
    #[must_use]
    pub fn count_of(&self, kind: ObjectKind) -> u32 {
        let objects = &self.objects;
        match kind {
            ObjectKind::QueuePair => self.qps.len(),
            ObjectKind::CompletionQueue => objects.cqs.len(),
            ObjectKind::SharedReceiveQueue => objects.srqs.len(),
            ObjectKind::EventQueue => objects.eqs.len(),
            ObjectKind::MemoryKey => objects.keys.table().len(),
            ObjectKind::ProtectionDomain => objects.pds.len(),
            ObjectKind::XrcDomain => objects.xrcds.len(),
            ObjectKind::AddressHandle => objects.handles.len(),
            ObjectKind::Gid => count(objects.gids.iter().count()),
            ObjectKind::Filter => objects.filters.table().len(),
            ObjectKind::Membership => count(objects.memberships.len()),
        }
    }

    /// Number of slots that objects of a kind lie in, from 0 on.
    #[must_use]
    pub fn slots_of(&self, kind: ObjectKind) -> u32 {
        let objects = &self.objects;
        match kind {
            // Slot 0 is the general services interface's.
            ObjectKind::QueuePair => self.qps.table().slots().saturating_add(1),
            ObjectKind::CompletionQueue => objects.cqs.slots(),
            ObjectKind::SharedReceiveQueue => objects.srqs.slots(),
            ObjectKind::EventQueue => objects.eqs.slots(),
            ObjectKind::MemoryKey => objects.keys.table().slots(),
            ObjectKind::ProtectionDomain => objects.pds.slots(),
            ObjectKind::XrcDomain => objects.xrcds.slots(),
            ObjectKind::AddressHandle => objects.handles.slots(),
            ObjectKind::Gid => limits::GIDS,
            ObjectKind::Filter => objects.filters.table().slots(),
            ObjectKind::Membership => count(objects.memberships.len()),
        }
    }

    /// Shows the objects of a kind that lie in some of its slots.
    pub fn inspect(&self, kind: ObjectKind, slots: Range<u32>, show: &mut dyn FnMut(Object<'_>)) {
        let objects = &self.objects;
        match kind {
            ObjectKind::QueuePair => self.inspect_queue_pairs(slots, show),
            ObjectKind::CompletionQueue => {
                let part = objects.cqs.part(slots);
                part.for_each(|(n, cq)| show(Object::CompletionQueue(n, cq)));
            }
            ObjectKind::SharedReceiveQueue => {
                let part = objects.srqs.part(slots);
                part.for_each(|(n, srq)| show(Object::SharedReceiveQueue(n, srq)));
            }
            ObjectKind::EventQueue => {
                let part = objects.eqs.part(slots);
                part.for_each(|(n, eq)| show(Object::EventQueue(n, eq)));
            }
            ObjectKind::MemoryKey => {
                let part = objects.keys.table().part(slots);
                part.for_each(|(_, key)| show(Object::MemoryKey(key)));
            }
            ObjectKind::ProtectionDomain => {
                let part = objects.pds.part(slots);
                part.for_each(|(n, pd)| show(Object::ProtectionDomain(n, pd)));
            }
            ObjectKind::XrcDomain => {
                let part = objects.xrcds.part(slots);
                part.for_each(|(n, xrcd)| show(Object::XrcDomain(n, xrcd)));
            }
            ObjectKind::AddressHandle => {
                let part = objects.handles.part(slots);
                part.for_each(|(n, handle)| show(Object::AddressHandle(n, handle)));
            }
            ObjectKind::Filter => {
                let part = objects.filters.table().part(slots);
                part.for_each(|(n, filter)| show(Object::Filter(n, filter)));
            }
            ObjectKind::Gid | ObjectKind::Membership => self.inspect_addresses(kind, slots, show),
        }
    }

    fn inspect_queue_pairs(&self, slots: Range<u32>, show: &mut dyn FnMut(Object<'_>)) {
        let gsi = self.qps.get(GSI).filter(|_| slots.contains(&0));
        let others = slots.start.saturating_sub(1)..slots.end.saturating_sub(1);
        let gsi = gsi.map(|gsi| (GSI, gsi));
        let all = gsi.into_iter().chain(self.qps.table().part(others));
        all.for_each(|(qpn, qp)| show(Object::QueuePair(qpn, qp)));
    }

    fn inspect_addresses(
        &self,
        kind: ObjectKind,
        slots: Range<u32>,
        show: &mut dyn FnMut(Object<'_>),
    ) {
        let objects = &self.objects;
        if kind == ObjectKind::Gid {
            for index in slots.start..slots.end.min(limits::GIDS) {
                if let Some(entry) = objects.gids.get(index) {
                    show(Object::Gid(index, entry));
                }
            }
            return;
        }
        let first = usize::try_from(slots.start).unwrap_or(usize::MAX);
        let part = objects.memberships.iter().skip(first).take(slots.len());
        part.for_each(|(group, qpn)| show(Object::Membership(group, qpn)));
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
