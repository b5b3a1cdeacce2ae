//! DMA memory by address, for a server that asks for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mapping::Mapping;

/// What is mapped for the device.
#[derive(Default)]
pub(super) struct Memory {
    ranges: Mutex<BTreeMap<u64, Arc<Mapping>>>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Mapping>>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, iova: u64, mapping: &Arc<Mapping>) {
        self.lock().insert(iova, Arc::clone(mapping));
    }

    pub(super) fn remove(&self, iova: u64) {
        self.lock().remove(&iova);
    }

    /// The mapping that holds `length` bytes at `address`, and the offset in it.
    fn find(&self, address: u64, length: usize) -> Option<(Arc<Mapping>, usize)> {
        let ranges = self.lock();
        let (start, mapping) = ranges.range(..=address).next_back()?;
        let offset = usize::try_from(address - start).ok()?;
        let end = offset.checked_add(length)?;
        (end <= mapping.len()).then(|| (Arc::clone(mapping), offset))
    }

    pub(super) fn read(&self, address: u64, to: &mut [u8]) -> Option<()> {
        let (mapping, offset) = self.find(address, to.len())?;
        mapping.read(offset, to);
        Some(())
    }

    pub(super) fn write(&self, address: u64, from: &[u8]) -> Option<()> {
        let (mapping, offset) = self.find(address, from.len())?;
        mapping.write(offset, from);
        Some(())
    }
}
