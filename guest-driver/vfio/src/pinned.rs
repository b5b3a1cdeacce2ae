//! Existing memory of this process, made accessible to the device.

use std::io;
use std::sync::Arc;

use vrnic_driver::{PinnedMemory, Segment};

use crate::arena::{Arena, PAGE};
use crate::bus::DmaRange;

/// Memory of this process that the device can access until the value is dropped.
pub struct PinnedRange {
    arena: Arc<Arena>,
    /// DMA address and length of the pages.
    iova: u64,
    pages: u64,
    /// The range in them.
    offset: u64,
    length: u64,
}

impl PinnedRange {
    /// Makes `length` bytes at `address` accessible to the device.
    ///
    /// # Safety
    /// The memory must stay mapped until the value is dropped, and nothing may hold a reference
    /// into it while the device may write to it.
    pub(crate) unsafe fn new(
        arena: &Arc<Arena>,
        address: *mut u8,
        length: usize,
    ) -> io::Result<Self> {
        let offset = address as u64 % PAGE as u64;
        let pages = offset.checked_add(length as u64);
        let pages = pages.and_then(|end| end.checked_next_multiple_of(PAGE as u64));
        let pages = pages
            .filter(|_| length > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let iova = arena.take_iova(pages).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapped = arena.bus().map_dma(&DmaRange {
            iova,
            length: pages,
            address: address as u64 - offset,
            file: None,
        });
        if let Err(error) = mapped {
            arena.give_iova(iova, pages);
            return Err(error);
        }
        Ok(Self {
            arena: Arc::clone(arena),
            iova,
            pages,
            offset,
            length: length as u64,
        })
    }
}

impl PinnedMemory for PinnedRange {
    fn segments(&self) -> usize {
        1
    }

    fn segment(&self, index: usize) -> Option<Segment> {
        (index == 0).then_some(Segment {
            address: self.iova + self.offset,
            length: self.length,
        })
    }
}

impl Drop for PinnedRange {
    fn drop(&mut self) {
        match self.arena.bus().unmap_dma(self.iova, self.pages) {
            Ok(()) => self.arena.give_iova(self.iova, self.pages),
            Err(error) => log::warn!("cannot unpin memory: {error}"),
        }
    }
}
