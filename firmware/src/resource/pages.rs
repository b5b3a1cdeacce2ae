//! Where a queue's or region's bytes lie in the function's DMA address space.
//!
//! A list can have a million pages. So a long one is collected in segments ([`PageList`]), each of
//! which costs the same, and is kept and given back in segments: no step looks at all of it.

use alloc::boxed::Box;
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
    /// The same in segments of [`SEGMENT`] entries, the last of which may have fewer.
    Segments(Vec<Segment>),
}

/// Entries of a segment of a page list.
pub const SEGMENT: usize = 64;

/// A part of a page list.
pub type Segment = Box<[u64]>;

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
            Pages::Contiguous(_) | Pages::Segments(_) => Vec::new(),
            Pages::List(mut pages) => {
                pages.clear();
                pages
            }
        }
    }

    /// The segments of a long page list, to be freed in turns.
    #[must_use]
    pub fn into_segments(self) -> Vec<Segment> {
        match self.pages {
            Pages::Contiguous(_) | Pages::List(_) => Vec::new(),
            Pages::Segments(segments) => segments,
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
            Pages::Segments(_) => u32::try_from(self.bytes >> self.shift).unwrap_or(u32::MAX),
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
                let page = pages.get(usize::try_from(offset >> self.shift).ok()?)?;
                Some(self.within(*page, offset))
            }
            Pages::Segments(segments) => {
                let index = usize::try_from(offset >> self.shift).ok()?;
                let page = segments.get(index / SEGMENT)?.get(index % SEGMENT)?;
                Some(self.within(*page, offset))
            }
        }
    }

    /// The rest of the page at address `page` from the byte that `offset` names in it.
    #[inline]
    const fn within(&self, page: u64, offset: u64) -> (u64, u64) {
        let size = 1u64 << self.shift;
        let within = offset & (size - 1);
        (page | within, size - within)
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

/// A page list that is being collected. What is true of all pages is found out on the way.
#[derive(Clone, Debug)]
pub struct PageList {
    shift: u8,
    entries: u64,
    first: u64,
    /// Where the next page lies if all of them are one range.
    next: Option<u64>,
    contiguous: bool,
    aligned: bool,
    segments: Vec<Segment>,
}

impl PageList {
    /// No pages so far; each will have 2^`shift` bytes.
    #[must_use]
    pub const fn new(shift: u8) -> Self {
        Self {
            shift,
            entries: 0,
            first: 0,
            next: None,
            contiguous: true,
            aligned: true,
            segments: Vec::new(),
        }
    }

    /// Pages so far.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds pages: [`SEGMENT`] of them, or fewer if they are the last ones.
    pub fn push(&mut self, pages: &[u64]) {
        let size = 1u64.checked_shl(self.shift.into()).unwrap_or(0);
        if self.entries == 0 {
            self.first = pages.first().copied().unwrap_or_default();
            self.next = Some(self.first);
        }
        for page in pages {
            self.contiguous &= self.next == Some(*page);
            self.next = page.checked_add(size);
            self.aligned &= page & size.wrapping_sub(1) == 0;
        }
        self.entries = self.entries.saturating_add(pages.len() as u64);
        self.segments.push(pages.into());
    }

    /// The map, as one range if the pages are one, or `None` if there is no page or one that is not
    /// aligned; and segments that it does not need.
    #[must_use]
    pub fn finish(mut self) -> (Option<PageMap>, Vec<Segment>) {
        let bytes = self.entries.checked_mul(1u64 << self.shift.min(63));
        let bytes = bytes.filter(|bytes| *bytes != 0 && self.aligned);
        let Some(bytes) = bytes else {
            return (None, self.segments);
        };
        if self.contiguous {
            return (PageMap::contiguous(self.first, bytes), self.segments);
        }
        let pages = if self.segments.len() == 1 {
            let only = self.segments.pop().unwrap_or_default();
            Pages::List(only.into_vec())
        } else {
            Pages::Segments(self.segments)
        };
        let shift = self.shift;
        let map = PageMap {
            shift,
            bytes,
            pages,
        };
        (Some(map), Vec::new())
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

    fn collected(pages: &[u64]) -> (Option<PageMap>, usize) {
        let mut list = PageList::new(12);
        pages.chunks(SEGMENT).for_each(|slice| list.push(slice));
        assert_eq!(list.entries(), pages.len() as u64);
        let (map, rest) = list.finish();
        (map, rest.len())
    }

    #[test]
    fn a_list_in_segments_is_the_same_map() {
        for count in [2, SEGMENT, SEGMENT + 1, 3 * SEGMENT] {
            let pages: Vec<u64> = (0..count as u64).rev().map(|n| n << 12).collect();
            let whole = PageMap::list(pages.clone(), 12).unwrap();
            let (map, rest) = collected(&pages);
            let map = map.unwrap();
            assert_eq!((map.bytes(), rest), (whole.bytes(), 0));
            assert_eq!(map.list_entries(), count as u32);
            for page in 0..=count as u64 {
                let offset = page * 4096 + 7;
                assert_eq!(map.run(offset), whole.run(offset));
            }
            let segments = map.into_segments().len();
            assert_eq!(
                segments,
                if count > SEGMENT {
                    count.div_ceil(SEGMENT)
                } else {
                    0
                }
            );
        }
    }

    #[test]
    fn a_collected_list_is_checked() {
        let contiguous: Vec<u64> = (5..5 + 2 * SEGMENT as u64).map(|n| n << 12).collect();
        let (map, rest) = collected(&contiguous);
        let map = map.unwrap();
        assert_eq!((map.list_entries(), rest), (0, 2));
        assert_eq!(map.run(4096), Some((6 << 12, map.bytes() - 4096)));
        for wrong in [0, SEGMENT, 2 * SEGMENT - 1] {
            let mut pages = contiguous.clone();
            pages[wrong] += 8;
            let (map, rest) = collected(&pages);
            assert_eq!((map.is_none(), rest), (true, 2));
        }
        assert!(collected(&[]).0.is_none());
        // The last page may end where the address space does, and none may lie behind it.
        let last = u64::MAX - 0xfff;
        assert_eq!(collected(&[last]).0.unwrap().run(0), Some((last, 4096)));
        let around = collected(&[last, 0]).0.unwrap();
        assert_eq!(around.list_entries(), 2);
        assert_eq!(around.run(4096), Some((0, 4096)));
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
