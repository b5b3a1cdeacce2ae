//! Memory regions (InfiniBand Architecture volume 1, 10.6).
//!
//! A [`Region`] translates: virtual addresses to pieces of DMA address space, if it allows the
//! access. A [`FastRegion`] is one that work requests give memory to and take it from again
//! (10.6.6); the room for its page list is set aside once, so that registering allocates nothing.

use alloc::vec::Vec;

use super::PageMap;
use crate::types::{Access, AccessError, Chunks};

bitflags::bitflags! {
    /// Properties of a region that are not rights.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RegionOptions: u8 {
        /// Addresses are offsets from the first byte.
        const ZERO_BASED = 1 << 0;
        /// Memory windows may be bound to it.
        const WINDOW_BIND = 1 << 1;
        /// Writes may become visible in any order.
        const RELAXED_ORDERING = 1 << 2;
    }
}

/// A memory region.
#[derive(Clone, Debug)]
pub struct Region {
    /// Local and remote key.
    pub key: u32,
    /// Protection domain.
    pub pd: u32,
    /// Virtual address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// What is allowed.
    pub access: Access,
    /// Other properties.
    pub options: RegionOptions,
    /// Page size as a power of two, as the driver gave it.
    pub page_shift: u8,
    /// Memory windows that are bound to it.
    pub windows: u32,
    /// The memory.
    pub pages: PageMap,
}

impl Region {
    /// Appends the pieces of `length` bytes at virtual address `address` to `chunks`.
    ///
    /// # Errors
    /// If the region does not allow `access` or the range leaves it; `chunks` is unchanged then.
    #[inline]
    pub fn translate(
        &self,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        if !self.access.contains(access) {
            return Err(AccessError::Permission);
        }
        self.pieces(address, length, chunks)
    }

    /// As [`Self::translate`], for somebody whose rights were found elsewhere.
    #[inline]
    pub(super) fn pieces(
        &self,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        let in_pages = self
            .offset(address, length.into())
            .and_then(|offset| offset.checked_add(self.first_offset()))
            .ok_or(AccessError::Bounds)?;
        if self.pages.translate(in_pages, length, chunks) {
            Ok(())
        } else {
            Err(AccessError::Bounds)
        }
    }

    /// Where `length` bytes at virtual address `address` lie in the region, if they do.
    #[inline]
    pub(super) fn offset(&self, address: u64, length: u64) -> Option<u64> {
        let offset = if self.options.contains(RegionOptions::ZERO_BASED) {
            address
        } else {
            address.checked_sub(self.start)?
        };
        let end = offset.checked_add(length)?;
        (end <= self.length).then_some(offset)
    }

    /// Where the first byte lies in the first page.
    #[must_use]
    pub const fn first_offset(&self) -> u64 {
        self.start & ((1 << self.page_shift) - 1)
    }
}

/// A memory region for fast registration.
#[derive(Clone, Debug)]
pub struct FastRegion {
    /// The key that it has, whether or not it has memory.
    pub key: u32,
    /// Protection domain.
    pub pd: u32,
    /// Most pages of a registration.
    pub max_pages: u32,
    /// The registration, in state valid; `None` in state free.
    pub region: Option<Region>,
    /// Room for the page list of the next registration.
    spare: Vec<u64>,
}

impl FastRegion {
    /// A region without memory.
    #[must_use]
    pub fn new(key: u32, pd: u32, max_pages: u32) -> Self {
        Self {
            key,
            pd,
            max_pages,
            region: None,
            spare: room(max_pages),
        }
    }

    /// Takes the room for the page list; it comes back with [`Self::register`] or
    /// [`Self::give_room_back`].
    pub fn take_room(&mut self) -> Vec<u64> {
        core::mem::take(&mut self.spare)
    }

    /// Gives the room for the page list back.
    pub fn give_room_back(&mut self, mut list: Vec<u64>) {
        list.clear();
        self.spare = list;
    }

    /// Gives the region memory; `false`, and nothing has changed, if it has some already, or a page
    /// is not aligned.
    #[must_use]
    pub fn register(&mut self, registration: Registration, list: Vec<u64>) -> bool {
        let Registration {
            key,
            start,
            length,
            access,
            options,
            page_shift,
        } = registration;
        let pages = match self.region {
            None => PageMap::list(list, page_shift),
            Some(_) => None,
        };
        let Some(pages) = pages else {
            self.spare = room(self.max_pages);
            return false;
        };
        self.key = key;
        self.region = Some(Region {
            key,
            pd: self.pd,
            start,
            length,
            access,
            options,
            page_shift,
            windows: 0,
            pages,
        });
        true
    }

    /// Takes the memory away again.
    pub(super) fn invalidate(&mut self) {
        if let Some(region) = self.region.take() {
            self.spare = region.pages.into_spare_list();
        }
    }
}

/// What a region becomes by a fast registration.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    /// Key.
    pub key: u32,
    /// Virtual address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// What is allowed.
    pub access: Access,
    /// Other properties.
    pub options: RegionOptions,
    /// Page size as a power of two.
    pub page_shift: u8,
}

fn room(pages: u32) -> Vec<u64> {
    Vec::with_capacity(usize::try_from(pages).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn region(start: u64, length: u64, options: RegionOptions) -> Region {
        Region {
            key: 0x100,
            pd: 1,
            start,
            length,
            access: Access::LOCAL_READ | Access::REMOTE_READ,
            options,
            page_shift: 12,
            windows: 0,
            pages: PageMap::list(vec![0x8000, 0x2000], 12).unwrap(),
        }
    }

    #[test]
    fn addresses_count_from_the_start() {
        let region = region(0x7f00_0123, 0x1000, RegionOptions::empty());
        let mut chunks = Chunks::new();
        region
            .translate(Access::REMOTE_READ, 0x7f00_0124, 0xfff, &mut chunks)
            .unwrap();
        let pieces: vec::Vec<_> = chunks.iter().map(|c| (c.address, c.length)).collect();
        assert_eq!(pieces, [(0x8124, 0xedc), (0x2000, 0x123)]);
        for (address, length) in [
            (0x7f00_0122, 1),
            (0x7f00_0123, 0x1001),
            (0x7f00_1123, 1),
            (u64::MAX, 1),
            (0, u32::MAX),
        ] {
            assert_eq!(
                region.translate(Access::LOCAL_READ, address, length, &mut chunks),
                Err(AccessError::Bounds)
            );
        }
    }

    #[test]
    fn zero_based_addresses_are_offsets() {
        let region = region(0x0123, 0x1000, RegionOptions::ZERO_BASED);
        let mut chunks = Chunks::new();
        region
            .translate(Access::LOCAL_READ, 0, 1, &mut chunks)
            .unwrap();
        assert_eq!(chunks.first().unwrap().address, 0x8123);
        assert_eq!(
            region.translate(Access::LOCAL_READ, 0x1000, 1, &mut chunks),
            Err(AccessError::Bounds)
        );
    }

    #[test]
    fn rights_are_needed_even_for_no_bytes() {
        let region = region(0, 0x1000, RegionOptions::empty());
        assert_eq!(
            region.translate(Access::LOCAL_WRITE, 0, 0, &mut Chunks::new()),
            Err(AccessError::Permission)
        );
    }
}
