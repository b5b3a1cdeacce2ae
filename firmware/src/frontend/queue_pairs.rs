//! Queue pairs of a function by their numbers.
//!
//! Most numbers are given out by a table; the general services interface has number 1 in every
//! function (IBTA volume 1, 13.5.1.2), and nothing else has.

use alloc::boxed::Box;

use vrnic_abi::object::AddressVector;

use super::env::WorkQueues;
use crate::resource::{Numbering, Table, limits};
use crate::transport::Qp;
use crate::types::Time;

/// Number of the general services interface.
pub const GSI: u32 = 1;

/// Queue pair numbers: 0 and 1 are special, and so are a few more, to be safe.
const QP_NUMBERS: Numbering = Numbering {
    first: 0x10,
    index_bits: 15,
    generation_bits: 9,
};

/// A queue pair.
#[derive(Clone, Debug)]
pub struct QueuePair {
    /// The protocol.
    pub transport: Qp,
    /// The work queues.
    pub queues: WorkQueues,
    /// The primary path as the driver gave it.
    pub primary: AddressVector,
    /// Index of the GID table entry that the path holds.
    pub gid: Option<u16>,
    /// It stands in the list of those ready.
    pub(super) scheduled: bool,
    /// It stands in the list of those that are to fail.
    pub(super) doomed: bool,
    /// The earliest entry that it has in the timer heap.
    pub(super) timer: Option<Time>,
}

impl QueuePair {
    /// A queue pair in state RESET.
    #[must_use]
    pub fn new(transport: Qp, queues: WorkQueues) -> Self {
        Self {
            transport,
            queues,
            primary: AddressVector::default(),
            gid: None,
            scheduled: false,
            doomed: false,
            timer: None,
        }
    }
}

/// All queue pairs of a function.
#[derive(Clone, Debug)]
pub struct QueuePairs {
    table: Table<QueuePair>,
    gsi: Option<Box<QueuePair>>,
}

impl Default for QueuePairs {
    fn default() -> Self {
        Self {
            table: Table::new(QP_NUMBERS, limits::QUEUE_PAIRS),
            gsi: None,
        }
    }
}

impl QueuePairs {
    /// Changes how many there may be besides the general services interface. Those beyond stay.
    pub const fn set_limit(&mut self, limit: u32) {
        self.table.set_limit(limit);
    }

    /// Number of queue pairs.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.table.len() + u32::from(self.gsi.is_some())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether another one, or another general services interface, can be added.
    #[must_use]
    pub fn has_room(&self, gsi: bool) -> bool {
        if gsi {
            self.gsi.is_none()
        } else {
            !self.table.is_full()
        }
    }

    /// Adds the queue pair that `make` makes for its number; `None` if there is no room.
    pub fn insert_with(&mut self, gsi: bool, make: impl FnOnce(u32) -> QueuePair) -> Option<u32> {
        if !gsi {
            return self.table.insert_with(make);
        }
        if self.gsi.is_some() {
            return None;
        }
        self.gsi = Some(Box::new(make(GSI)));
        Some(GSI)
    }

    /// The queue pair with number `qpn`.
    #[must_use]
    #[inline]
    pub fn get(&self, qpn: u32) -> Option<&QueuePair> {
        match qpn {
            GSI => self.gsi.as_deref(),
            _ => self.table.get(qpn),
        }
    }

    /// The queue pair with number `qpn`.
    #[inline]
    pub fn get_mut(&mut self, qpn: u32) -> Option<&mut QueuePair> {
        match qpn {
            GSI => self.gsi.as_deref_mut(),
            _ => self.table.get_mut(qpn),
        }
    }

    /// Removes the queue pair with number `qpn`.
    pub fn remove(&mut self, qpn: u32) -> Option<QueuePair> {
        match qpn {
            GSI => self.gsi.take().map(|qp| *qp),
            _ => self.table.remove(qpn),
        }
    }

    /// The queue pairs that have their numbers from the table: all but the general services
    /// interface.
    #[must_use]
    pub const fn table(&self) -> &Table<QueuePair> {
        &self.table
    }

    /// As [`Table::dismantle`].
    pub fn dismantle(&mut self, slots: usize, gone: impl FnMut(QueuePair)) -> usize {
        self.gsi = None;
        self.table.dismantle(slots, gone)
    }

    /// All queue pairs with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &QueuePair)> {
        let gsi = self.gsi.as_deref().map(|qp| (GSI, qp));
        gsi.into_iter().chain(self.table.iter())
    }
}
