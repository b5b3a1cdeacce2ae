//! DMA memory.
//!
//! The arena takes memory files of a few megabytes, maps each for the device once, and gives out
//! pieces in whole pages. A file is unmapped when its last piece is gone, except one that is kept
//! for the next allocation. Where no IOMMU gives memory its DMA addresses, the arena has pieces with
//! addresses of their own instead, and no more than these.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vrnic_driver::DmaBuffer;

use crate::bus::{Bus, DmaRange};
use crate::hugepages::Piece;
use crate::mapping::Mapping;

/// Size of a page in bytes.
pub(crate) const PAGE: usize = 4096;
/// Smallest memory file in bytes; also the alignment of their DMA addresses.
const CHUNK: usize = 2 << 20;
/// DMA addresses that the arena uses: above everything that platforms reserve, below the limit of
/// the smallest IOMMUs.
const IOVA_START: u64 = 1 << 32;
const IOVA_END: u64 = 1 << 38;

/// Ranges that are free, sorted and not touching each other.
#[derive(Debug, Default)]
pub(crate) struct FreeRanges {
    ranges: Vec<(u64, u64)>,
}

impl FreeRanges {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self {
            ranges: vec![(start, end)],
        }
    }

    /// Takes `length` from the first range that is large enough.
    pub(crate) fn take(&mut self, length: u64) -> Option<u64> {
        let fits = |range: &(u64, u64)| range.1 - range.0 >= length;
        let index = self.ranges.iter().position(fits)?;
        let range = self.ranges.get_mut(index)?;
        let start = range.0;
        range.0 += length;
        if range.0 == range.1 {
            self.ranges.remove(index);
        }
        Some(start)
    }

    /// Gives a range back that was taken.
    pub(crate) fn give(&mut self, start: u64, length: u64) {
        let index = self.ranges.partition_point(|range| range.0 < start);
        self.ranges.insert(index, (start, start + length));
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            match joined.last_mut() {
                Some(last) if last.1 == range.0 => last.1 = range.1,
                _ => joined.push(*range),
            }
        }
        self.ranges = joined;
    }

    fn is_whole(&self, length: u64) -> bool {
        self.ranges == [(0, length)]
    }
}

struct Chunk {
    mapping: Arc<Mapping>,
    iova: u64,
    free: FreeRanges,
}

struct State {
    iovas: FreeRanges,
    chunks: Vec<Chunk>,
}

pub(crate) struct Arena {
    // Dropped before the memory: the bus may have to silence the device first.
    bus: Arc<dyn Bus>,
    state: Mutex<State>,
    /// Whether chunks come and go.
    grows: bool,
}

impl Arena {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Arc<Self> {
        Arc::new(Self {
            bus,
            state: Mutex::new(State {
                iovas: FreeRanges::new(IOVA_START, IOVA_END),
                chunks: Vec::new(),
            }),
            grows: true,
        })
    }

    /// An arena of these pieces.
    pub(crate) fn of_pieces(bus: Arc<dyn Bus>, pieces: Vec<Piece>) -> Arc<Self> {
        let chunks = pieces.into_iter().map(|piece| Chunk {
            free: FreeRanges::new(0, piece.mapping.len() as u64),
            iova: piece.address,
            mapping: Arc::new(piece.mapping),
        });
        Arc::new(Self {
            bus,
            state: Mutex::new(State {
                iovas: FreeRanges::default(),
                chunks: chunks.collect(),
            }),
            grows: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Takes DMA addresses for memory that is not the arena's.
    pub(crate) fn take_iova(&self, length: u64) -> Option<u64> {
        let length = length.checked_next_multiple_of(CHUNK as u64)?;
        self.lock().iovas.take(length)
    }

    pub(crate) fn give_iova(&self, iova: u64, length: u64) {
        let length = length.next_multiple_of(CHUNK as u64);
        self.lock().iovas.give(iova, length);
    }

    /// Allocates zeroed memory.
    pub(crate) fn allocate(self: &Arc<Self>, length: usize) -> io::Result<DmaMemory> {
        let size = length.max(1).checked_next_multiple_of(PAGE);
        let size = size.ok_or(io::ErrorKind::OutOfMemory)?;
        let mut state = self.lock();
        let found = state.chunks.iter_mut().find_map(|chunk| chunk.take(size));
        let (mapping, offset, iova) = match found {
            Some(found) => found,
            None if !self.grows => return Err(io::ErrorKind::OutOfMemory.into()),
            None => {
                let mut chunk = self.create_chunk(&mut state, size)?;
                let found = chunk.take(size).ok_or(io::ErrorKind::OutOfMemory)?;
                state.chunks.push(chunk);
                found
            }
        };
        drop(state);
        mapping.clear(offset, size);
        Ok(DmaMemory {
            arena: Arc::clone(self),
            mapping,
            offset,
            length: length.max(1).next_multiple_of(8),
            iova: iova + offset as u64,
        })
    }

    fn create_chunk(&self, state: &mut State, size: usize) -> io::Result<Chunk> {
        let length = size.checked_next_multiple_of(CHUNK);
        let length = length.ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("vrnic-dma", flags)?;
        ftruncate(&file, length as u64)?;
        // The device maps the file: it must never find an end that moved.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        let mapping = Arc::new(Mapping::new(&file, 0, length)?);
        let iova = state.iovas.take(length as u64);
        let iova = iova.ok_or(io::ErrorKind::OutOfMemory)?;
        let mapped = self.bus.map_dma(&DmaRange {
            iova,
            length: length as u64,
            address: mapping.address(),
            file: Some((file.as_fd(), &mapping)),
        });
        if let Err(error) = mapped {
            state.iovas.give(iova, length as u64);
            return Err(error);
        }
        Ok(Chunk {
            mapping,
            iova,
            free: FreeRanges::new(0, length as u64),
        })
    }

    fn free(&self, memory: &DmaMemory) {
        let mut state = self.lock();
        let same = |chunk: &Chunk| Arc::ptr_eq(&chunk.mapping, &memory.mapping);
        let Some(index) = state.chunks.iter().position(same) else {
            return;
        };
        let size = memory.length.max(1).next_multiple_of(PAGE) as u64;
        let Some(chunk) = state.chunks.get_mut(index) else {
            return;
        };
        chunk.free.give(memory.offset as u64, size);
        if !self.grows {
            return;
        }
        let length = chunk.mapping.len() as u64;
        if !chunk.free.is_whole(length) || (length == CHUNK as u64 && state.chunks.len() == 1) {
            return;
        }
        let chunk = state.chunks.swap_remove(index);
        match self.bus.unmap_dma(chunk.iova, length) {
            Ok(()) => state.iovas.give(chunk.iova, length),
            // Never used again: the device may still have it.
            Err(error) => log::warn!("cannot unmap DMA memory: {error}"),
        }
    }
}

impl Chunk {
    fn take(&mut self, size: usize) -> Option<(Arc<Mapping>, usize, u64)> {
        let offset = self.free.take(size as u64)?;
        Some((Arc::clone(&self.mapping), offset as usize, self.iova))
    }
}

/// A piece of memory that the device can access.
pub struct DmaMemory {
    arena: Arc<Arena>,
    mapping: Arc<Mapping>,
    offset: usize,
    length: usize,
    iova: u64,
}

impl DmaMemory {
    /// Offset in the mapping.
    ///
    /// # Panics
    /// If the range lies outside of this piece.
    #[inline]
    fn at(&self, offset: usize, length: usize) -> usize {
        let inside = offset <= self.length && length <= self.length - offset;
        assert!(inside, "access outside of a DMA buffer");
        self.offset + offset
    }

    /// One aligned byte load, for polling memory that the peer writes.
    #[inline]
    #[must_use]
    pub fn load_byte(&self, offset: usize) -> u8 {
        self.mapping.load_u8(self.at(offset, 1))
    }
}

impl DmaBuffer for DmaMemory {
    fn device_address(&self) -> u64 {
        self.iova
    }

    fn len(&self) -> usize {
        self.length
    }

    #[inline]
    fn load(&self, offset: usize) -> u64 {
        self.mapping.load_u64(self.at(offset, 8))
    }

    #[inline]
    fn store(&self, offset: usize, value: u64) {
        self.mapping.store_u64(self.at(offset, 8), value);
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        self.arena.free(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_first_fit_and_joined_again() {
        let mut free = FreeRanges::new(0, 100);
        assert_eq!(free.take(40), Some(0));
        assert_eq!(free.take(40), Some(40));
        assert_eq!(free.take(40), None);
        free.give(0, 40);
        assert_eq!(free.take(30), Some(0));
        free.give(40, 40);
        assert_eq!(free.ranges, [(30, 100)]);
        free.give(0, 30);
        assert!(free.is_whole(100));
        assert_eq!(free.take(100), Some(0));
        assert_eq!(free.take(1), None);
    }
}
