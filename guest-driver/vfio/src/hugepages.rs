//! DMA memory where no IOMMU translates: hugepages, whose bus addresses are their physical ones.
//!
//! Pages come from the kernel's preallocated pool (`hugepages=N` on its command line, or
//! `/proc/sys/vm/nr_hugepages`), in its default size. `/proc/self/pagemap` tells root where each
//! lies (`Documentation/admin-guide/mm/pagemap.rst`). Pages that lie side by side become one piece:
//! the memory file that holds them is mapped a second time, in the order of bus addresses.
//!
//! The kernel neither swaps nor compacts preallocated hugepages. It can still move them when an
//! administrator asks for it (memory hot-removal, `move_pages`, ranges for gigabyte pages); nothing
//! here can prevent that, which is one reason why an IOMMU is the better way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, ensure};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fstatfs, ftruncate, memfd_create};

use crate::arena::PAGE;
use crate::mapping::Mapping;

/// Memory that is contiguous for the device.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) mapping: Mapping,
    /// Bus address of the first byte.
    pub(crate) address: u64,
}

/// A hugepage: its bus address, and its offset in the memory file.
type Page = (u64, u64);

/// Takes at least `length` bytes of hugepages, the smallest pieces first.
pub(crate) fn take(length: usize) -> anyhow::Result<Vec<Piece>> {
    let (file, page, count) = allocate(length)?;
    let mapping = Mapping::new(&file, 0, page * count).context("cannot map hugepages")?;
    let addresses = addresses(&mapping, page)?;
    drop(mapping);
    let offsets = (0..).step_by(page);
    let pages = addresses.into_iter().zip(offsets).collect();
    let runs = runs(pages, page as u64);
    log::info!("{count} hugepages of {page} bytes in {} pieces", runs.len());
    runs.iter().map(|run| piece(&file, page, run)).collect()
}

/// A memory file of hugepages that are all there, the size of a page, and their number.
fn allocate(length: usize) -> anyhow::Result<(OwnedFd, usize, usize)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB;
    let file = memfd_create("vrnic-dma", flags).context("the kernel has no hugepages")?;
    let page = usize::try_from(fstatfs(&file)?.f_bsize)?;
    ensure!(page >= PAGE, "hugepages have {page} bytes");
    let count = length.max(1).div_ceil(page);
    let total = count.checked_mul(page).context("too much DMA memory")? as u64;
    ftruncate(&file, total)?;
    fallocate(&file, FallocateFlags::empty(), 0, total).with_context(|| {
        format!(
            "cannot get {count} hugepages of {} KiB: raise /proc/sys/vm/nr_hugepages",
            page >> 10
        )
    })?;
    Ok((file, page, count))
}

/// Bus address of each page of a mapping.
fn addresses(mapping: &Mapping, page: usize) -> anyhow::Result<Vec<u64>> {
    let pagemap = File::open("/proc/self/pagemap").context("cannot open /proc/self/pagemap")?;
    let address = |offset: usize| -> anyhow::Result<u64> {
        // The table has only what was touched.
        mapping.load_u8(offset);
        let place = (mapping.address() + offset as u64) / PAGE as u64 * size_of::<u64>() as u64;
        let mut entry = [0; size_of::<u64>()];
        pagemap.read_exact_at(&mut entry, place)?;
        bus_address(u64::from_ne_bytes(entry))
            .context("the kernel does not tell where memory lies: this needs root")
    };
    (0..mapping.len()).step_by(page).map(address).collect()
}

/// Bus address in an entry of the table; `None` if the page is not there, or its place is hidden,
/// which reads as frame 0.
fn bus_address(entry: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let frame = entry & FRAME;
    let known = entry & PRESENT != 0 && frame != 0;
    frame.checked_mul(PAGE as u64).filter(|_| known)
}

/// Pages that lie side by side, in order; the shortest runs first, so that the long ones are left
/// for those who need them.
fn runs(mut pages: Vec<Page>, page: u64) -> Vec<Vec<Page>> {
    pages.sort_unstable();
    let adjacent = |left: &Page, right: &Page| left.0 + page == right.0;
    let mut runs: Vec<_> = pages.chunk_by(adjacent).map(<[Page]>::to_vec).collect();
    runs.sort_by_key(Vec::len);
    runs
}

/// Maps a run.
fn piece(file: &OwnedFd, page: usize, run: &[Page]) -> anyhow::Result<Piece> {
    let offsets: Vec<_> = run.iter().map(|(_, offset)| *offset).collect();
    let mapping = Mapping::of_pages(file.as_fd(), page, &offsets);
    let mapping = mapping.context("cannot map hugepages in order")?;
    // The device writes to these addresses: be sure that they are what this process reads.
    let expected = run.iter().map(|(address, _)| *address);
    let same = addresses(&mapping, page)?.into_iter().eq(expected);
    ensure!(same, "hugepages moved while they were mapped");
    let (address, _) = *run.first().context("no hugepages")?;
    Ok(Piece { mapping, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_a_place_are_refused() {
        assert_eq!(bus_address(1 << 63 | 1 << 55 | 0x1234), Some(0x123_4000));
        assert_eq!(bus_address(0x1234), None);
        assert_eq!(bus_address(1 << 63), None);
        assert_eq!(bus_address(u64::MAX), None);
    }

    #[test]
    fn pages_side_by_side_are_one_run_whatever_their_order_in_the_file() {
        let pages = vec![(0x40, 0), (0x10, 1), (0x20, 2), (0x80, 3), (0x30, 4)];
        assert_eq!(
            runs(pages, 0x10),
            [
                vec![(0x80, 3)],
                vec![(0x10, 1), (0x20, 2), (0x30, 4), (0x40, 0)],
            ]
        );
        assert!(runs(Vec::new(), 0x10).is_empty());
    }
}
