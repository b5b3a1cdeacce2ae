//! Memory regions (InfiniBand Architecture volume 1, 10.6).

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
        let offset = if self.options.contains(RegionOptions::ZERO_BASED) {
            address
        } else {
            address.checked_sub(self.start).ok_or(AccessError::Bounds)?
        };
        let end = offset.checked_add(length.into());
        if end.is_none_or(|end| end > self.length) {
            return Err(AccessError::Bounds);
        }
        let in_pages = self
            .first_offset()
            .checked_add(offset)
            .ok_or(AccessError::Bounds)?;
        if self.pages.translate(in_pages, length, chunks) {
            Ok(())
        } else {
            Err(AccessError::Bounds)
        }
    }

    /// Where the first byte lies in the first page.
    #[must_use]
    pub const fn first_offset(&self) -> u64 {
        self.start & ((1 << self.page_shift) - 1)
    }
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
