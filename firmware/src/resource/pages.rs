//! Where a queue's or region's bytes lie in the function's DMA address space.

use alloc::vec::Vec;

use crate::types::{Chunk, Chunks};

/// A run of bytes in pages of equal size.
#[derive(Clone, Debug)]
pub struct PageMap {
    shift: u8,
    /// Bytes in all pages.
    bytes: u64,
    pages: Pages,
}

#[derive(Clone, Debug)]
enum Pages {
    /// The first byte's address; `address + bytes` does not exceed 2^64.
    Contiguous(u64),
    /// Addresses of the pages, aligned to their size.
    List(Vec<u64>),
}

impl PageMap {
    /// No bytes: the map of what has no buffer.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            shift: 63,
            bytes: 0,
            pages: Pages::Contiguous(0),
        }
    }

    /// `bytes` bytes from `address` on; `None` if they leave the address space.
    #[must_use]
    pub fn contiguous(address: u64, bytes: u64) -> Option<Self> {
        address.checked_add(bytes.checked_sub(1)?)?;
        Some(Self {
            shift: 63,
            bytes,
            pages: Pages::Contiguous(address),
        })
    }

    /// Pages of 2^`shift` bytes; `None` if there is none, or one that is not aligned.
    #[must_use]
    pub fn list(pages: Vec<u64>, shift: u8) -> Option<Self> {
        let size = 1u64.checked_shl(shift.into())?;
        let bytes = size.checked_mul(u64::try_from(pages.len()).ok()?)?;
        if bytes == 0 || pages.iter().any(|page| page % size != 0) {
            return None;
        }
        Some(Self {
            shift,
            bytes,
            pages: Pages::List(pages),
        })
    }

    /// The memory that the page list took, to be used for another one.
    #[must_use]
    pub fn into_spare_list(self) -> Vec<u64> {
        match self.pages {
            Pages::Contiguous(_) => Vec::new(),
            Pages::List(mut pages) => {
                pages.clear();
                pages
            }
        }
    }

    /// Bytes in all pages.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries of the page list that the map keeps.
    #[must_use]
    pub fn list_entries(&self) -> u32 {
        match &self.pages {
            Pages::Contiguous(_) => 0,
            Pages::List(pages) => u32::try_from(pages.len()).unwrap_or(u32::MAX),
        }
    }

    /// Address of the byte at `offset` and how many bytes follow it without a break, itself
    /// included.
    #[must_use]
    #[inline]
    pub fn run(&self, offset: u64) -> Option<(u64, u64)> {
        if offset >= self.bytes {
            return None;
        }
        match &self.pages {
            Pages::Contiguous(base) => Some((base.checked_add(offset)?, self.bytes - offset)),
            Pages::List(pages) => {
                let size = 1u64 << self.shift;
                let page = pages.get(usize::try_from(offset >> self.shift).ok()?)?;
                let within = offset & (size - 1);
                Some((page | within, size - within))
            }
        }
    }

    /// Appends the pieces of `length` bytes from `offset` on to `chunks`. `false` if they leave the
    /// map; `chunks` is unchanged then.
    #[must_use]
    #[inline]
    pub fn translate(&self, mut offset: u64, length: u32, chunks: &mut Chunks) -> bool {
        match offset.checked_add(length.into()) {
            Some(end) if end <= self.bytes => {}
            _ => return false,
        }
        let mut rest = length;
        while rest > 0 {
            let Some((address, run)) = self.run(offset) else {
                return false;
            };
            let length = u32::try_from(run).map_or(rest, |run| run.min(rest));
            append(chunks, Chunk { address, length });
            offset += u64::from(length);
            rest -= length;
        }
        true
    }
}

/// Appends a piece of memory, as part of the last one if it continues that.
#[inline]
pub fn append(chunks: &mut Chunks, chunk: Chunk) {
    if let Some(last) = chunks.last_mut() {
        let end = last.address.checked_add(last.length.into());
        let length = last.length.checked_add(chunk.length);
        if let (Some(end), Some(length)) = (end, length) {
            if end == chunk.address {
                last.length = length;
                return;
            }
        }
    }
    chunks.push(chunk);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn chunks(map: &PageMap, offset: u64, length: u32) -> Option<Vec<(u64, u32)>> {
        let mut chunks = Chunks::new();
        map.translate(offset, length, &mut chunks)
            .then(|| chunks.iter().map(|c| (c.address, c.length)).collect())
    }

    #[test]
    fn neighbouring_pages_become_one_piece() {
        let map = PageMap::list(vec![0x5000, 0x6000, 0x1000], 12).unwrap();
        assert_eq!(
            chunks(&map, 0x10, 0x2000),
            Some(vec![(0x5010, 0x1ff0), (0x1000, 0x10)])
        );
        assert_eq!(chunks(&map, 0x2fff, 1), Some(vec![(0x1fff, 1)]));
        assert_eq!(chunks(&map, 0x2fff, 2), None);
        assert_eq!(chunks(&map, 0x3000, 0), Some(vec![]));
    }

    #[test]
    fn the_end_of_the_address_space_is_the_end() {
        assert!(PageMap::contiguous(u64::MAX - 0xfff, 0x1000).is_some());
        assert!(PageMap::contiguous(u64::MAX - 0xffe, 0x1000).is_none());
        let map = PageMap::contiguous(u64::MAX - 0xfff, 0x1000).unwrap();
        assert_eq!(chunks(&map, 0xfff, 1), Some(vec![(u64::MAX, 1)]));
        assert_eq!(chunks(&map, u64::MAX, 1), None);
        assert!(PageMap::list(vec![0xf000_0001], 12).is_none());
        let map = PageMap::list(vec![u64::MAX - 0xfff, 0], 12).unwrap();
        assert_eq!(
            chunks(&map, 0, 0x2000),
            Some(vec![(u64::MAX - 0xfff, 0x1000), (0, 0x1000)])
        );
    }
}
