//! The DMA mappings that a client has made: their ranges, nothing more.
//!
//! It enforces the rules that VFIO has for them (`VFIO_IOMMU_MAP_DMA`,
//! `VFIO_IOMMU_UNMAP_DMA` of type 1 version 2): no two overlap, there are no
//! more than negotiated, and an unmap covers each mapping it touches whole;
//! it may cover several, or none.

use std::collections::BTreeMap;

use rustix::io::Errno;

use crate::device::DmaUnmap;

#[derive(Debug, Default)]
pub(crate) struct Mappings {
    // First address to last address, both inclusive; disjoint.
    ranges: BTreeMap<u64, u64>,
}

impl Mappings {
    /// Whether `[iova, iova + size)`, a valid range, can be added.
    pub(crate) fn check(&self, iova: u64, size: u64, max: u32) -> Result<(), Errno> {
        let last = iova.saturating_add(size.saturating_sub(1));
        let before = self.ranges.range(..=last).next_back();
        if before.is_some_and(|(_, end)| *end >= iova) {
            return Err(Errno::EXIST);
        }
        if u32::try_from(self.ranges.len()).map_or(true, |n| n >= max) {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    /// Adds a range that passed [`Mappings::check`].
    pub(crate) fn add(&mut self, iova: u64, size: u64) {
        let last = iova.saturating_add(size.saturating_sub(1));
        self.ranges.insert(iova, last);
    }

    /// Removes what `unmap` covers; changes nothing if it would cut one.
    pub(crate) fn remove(&mut self, unmap: DmaUnmap) -> Result<(), Errno> {
        let DmaUnmap::Range { iova, size } = unmap else {
            self.ranges.clear();
            return Ok(());
        };
        let last = iova.saturating_add(size.saturating_sub(1));
        if self.is_cut(iova) || last.checked_add(1).is_some_and(|end| self.is_cut(end)) {
            return Err(Errno::INVAL);
        }
        // One at a time: the cost is that of what is removed, not of all.
        while let Some(start) = self.ranges.range(iova..=last).next().map(|(s, _)| *s) {
            self.ranges.remove(&start);
        }
        Ok(())
    }

    /// Whether a mapping holds both `address` and the byte before it.
    fn is_cut(&self, address: u64) -> bool {
        let before = self.ranges.range(..address).next_back();
        before.is_some_and(|(_, last)| *last >= address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 4096;

    fn with(ranges: &[(u64, u64)]) -> Mappings {
        let mut mappings = Mappings::default();
        for (iova, size) in ranges {
            mappings.check(*iova, *size, 100).unwrap();
            mappings.add(*iova, *size);
        }
        mappings
    }

    fn range(iova: u64, size: u64) -> DmaUnmap {
        DmaUnmap::Range { iova, size }
    }

    #[test]
    fn overlaps_are_refused_and_neighbours_are_not() {
        let m = with(&[(4 * K, 4 * K)]);
        for (iova, size) in [
            (4 * K, 4 * K),
            (0, 5 * K),
            (7 * K, K),
            (0, 20 * K),
            (5 * K, K),
        ] {
            assert_eq!(m.check(iova, size, 100), Err(Errno::EXIST), "{iova:#x}");
        }
        for (iova, size) in [(0, 4 * K), (8 * K, K), (u64::MAX - K + 1, K)] {
            assert_eq!(m.check(iova, size, 100), Ok(()), "{iova:#x}");
        }
        assert_eq!(m.check(0, K, 1), Err(Errno::NOSPC));
    }

    #[test]
    fn an_unmap_covers_several_one_or_none_but_cuts_none() {
        let mut m = with(&[(0, K), (2 * K, 2 * K), (u64::MAX - K + 1, K)]);
        assert_eq!(m.remove(range(K, K)), Ok(()));
        assert_eq!(m.remove(range(3 * K, K)), Err(Errno::INVAL));
        assert_eq!(m.remove(range(0, 3 * K)), Err(Errno::INVAL));
        assert_eq!(m.ranges.len(), 3);
        assert_eq!(m.remove(range(0, 1 << 40)), Ok(()));
        assert_eq!(m.ranges.len(), 1);
        assert_eq!(m.remove(range(1, u64::MAX)), Ok(()));
        assert_eq!(m.ranges.len(), 0);
    }

    #[test]
    fn unmap_all_takes_all() {
        let mut m = with(&[(0, K), (2 * K, K)]);
        assert_eq!(m.remove(DmaUnmap::All), Ok(()));
        assert_eq!(m.check(0, 8 * K, 1), Ok(()));
    }
}
