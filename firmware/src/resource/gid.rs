//! The GID table: the addresses that a function sends from and receives at.

use alloc::vec;
use alloc::vec::Vec;

use super::limits;
use crate::types::{Gid, Mac};

/// An entry of the GID table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GidEntry {
    /// The GID.
    pub gid: Gid,
    /// Ethernet address, resolved: never all zeros.
    pub mac: Mac,
    /// VLAN identifier, or 0.
    pub vlan: u16,
}

/// The GID table of a function, with a count of the queue pairs that use each entry.
#[derive(Clone, Debug)]
pub struct GidTable {
    entries: Vec<(Option<GidEntry>, u32)>,
}

impl Default for GidTable {
    fn default() -> Self {
        Self {
            entries: vec![(None, 0); limits::GIDS as usize],
        }
    }
}

impl GidTable {
    /// The entry at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&GidEntry> {
        self.slot(index)?.0.as_ref()
    }

    /// Whether `index` lies in the table.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.slot(index).is_some()
    }

    /// Whether a queue pair uses the entry at `index`.
    #[must_use]
    pub fn in_use(&self, index: u32) -> bool {
        self.slot(index).is_some_and(|slot| slot.1 > 0)
    }

    /// Sets or clears an entry and returns what was there.
    pub fn set(&mut self, index: u32, entry: Option<GidEntry>) -> Option<GidEntry> {
        let slot = self.entries.get_mut(usize::try_from(index).ok()?)?;
        core::mem::replace(&mut slot.0, entry)
    }

    /// Counts a user of the entry at `index`.
    pub fn hold(&mut self, index: u16) {
        if let Some(slot) = self.entries.get_mut(usize::from(index)) {
            slot.1 = slot.1.saturating_add(1);
        }
    }

    /// Takes a user of the entry at `index` away.
    pub fn release(&mut self, index: u16) {
        if let Some(slot) = self.entries.get_mut(usize::from(index)) {
            slot.1 = slot.1.saturating_sub(1);
        }
    }

    /// All entries that are set.
    pub fn iter(&self) -> impl Iterator<Item = &GidEntry> {
        self.entries.iter().filter_map(|slot| slot.0.as_ref())
    }

    fn slot(&self, index: u32) -> Option<&(Option<GidEntry>, u32)> {
        self.entries.get(usize::try_from(index).ok()?)
    }
}
