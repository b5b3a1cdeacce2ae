//! Page lists of commands: checking a [`Buffer`] and reading its list in slices.

use alloc::vec::Vec;

use vrnic_abi::admin::{Buffer, Status};

use super::command::Refusal;
use crate::host::Memory;
use crate::resource::{PageMap, limits};

/// Entries that are read at a time.
const SLICE: usize = 512;

/// A buffer whose description holds.
#[derive(Debug)]
pub(super) enum Pages {
    /// One contiguous range.
    Known(PageMap),
    /// A list that has to be read.
    Listed(ListReader),
}

/// Checks a buffer for at least `needed` bytes. `at` is the buffer's byte offset in the command.
///
/// # Errors
/// Which argument is wrong.
pub(super) fn check(buffer: &Buffer, needed: u64, at: u32) -> Result<Pages, Refusal> {
    let bad = |offset| Refusal::new(Status::BadArgument, at + offset);
    let [address_at, pages_at, shift_at, list_at] = [
        core::mem::offset_of!(Buffer, address) as u32,
        core::mem::offset_of!(Buffer, pages) as u32,
        core::mem::offset_of!(Buffer, page_shift) as u32,
        core::mem::offset_of!(Buffer, list) as u32,
    ];
    let shift = buffer.page_shift;
    if !(limits::MIN_PAGE_SHIFT..=limits::MAX_PAGE_SHIFT).contains(&shift) {
        return Err(bad(shift_at));
    }
    if buffer.pages == 0 || buffer.pages > limits::PAGES {
        return Err(bad(pages_at));
    }
    let bytes = u64::from(buffer.pages) << shift;
    if bytes < needed {
        return Err(bad(pages_at));
    }
    match buffer.list {
        0 if buffer.address & ((1 << shift) - 1) == 0 => PageMap::contiguous(buffer.address, bytes)
            .map(Pages::Known)
            .ok_or(bad(address_at)),
        1 if buffer.address % 8 == 0 && list_end(buffer).is_some() => {
            Ok(Pages::Listed(ListReader {
                address: buffer.address,
                pages: buffer.pages,
                shift,
                address_at: at + address_at,
                list: Vec::new(),
            }))
        }
        0 | 1 => Err(bad(address_at)),
        _ => Err(bad(list_at)),
    }
}

fn list_end(buffer: &Buffer) -> Option<u64> {
    buffer.address.checked_add(u64::from(buffer.pages) * 8)
}

/// Reads a page list, a slice at a time.
#[derive(Clone, Debug)]
pub(super) struct ListReader {
    address: u64,
    pages: u32,
    shift: u8,
    /// Byte offset of the list's address in the command.
    address_at: u32,
    list: Vec<u64>,
}

impl ListReader {
    /// Entries of the whole list.
    #[must_use]
    pub(super) const fn entries(&self) -> u32 {
        self.pages
    }

    /// Reads the next slice; returns the pages when the list is complete.
    ///
    /// # Errors
    /// If the list cannot be read, or has an entry that is no page.
    pub(super) fn read<M: Memory>(&mut self, memory: &M) -> Result<Option<PageMap>, Refusal> {
        let done = self.list.len();
        let rest = (self.pages as usize).saturating_sub(done);
        let mut slice = [0u64; SLICE];
        let slice = slice.get_mut(..rest.min(SLICE)).unwrap_or_default();
        let address = self.address.wrapping_add(done as u64 * 8);
        memory
            .read(address, bytemuck::cast_slice_mut(slice))
            .map_err(|_| Refusal::new(Status::DmaFailed, self.address_at))?;
        self.list.extend_from_slice(slice);
        if self.list.len() < self.pages as usize {
            return Ok(None);
        }
        let mut list = core::mem::take(&mut self.list);
        list.shrink_to_fit();
        self.finish(list).map(Some)
    }

    /// The pages; as one range if they are one, so that nothing needs to be kept.
    fn finish(&self, list: Vec<u64>) -> Result<PageMap, Refusal> {
        let bad = Refusal::new(Status::BadArgument, self.address_at);
        let size = 1u64 << self.shift;
        let first = list.first().copied().unwrap_or_default();
        let bytes = u64::from(self.pages) << self.shift;
        let contiguous = list
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.checked_add(size) == Some(*b)));
        let map = if contiguous && first % size == 0 {
            PageMap::contiguous(first, bytes)
        } else {
            PageMap::list(list, self.shift)
        };
        map.ok_or(bad)
    }
}
