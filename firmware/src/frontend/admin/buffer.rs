//! Page lists of commands: checking a [`Buffer`] and reading its list in slices.

use alloc::vec::Vec;

use vrnic_abi::admin::{Buffer, Status};

use super::command::Refusal;
use crate::host::Memory;
use crate::resource::{PageList, PageMap, SEGMENT, Segment, limits};

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
                list: PageList::new(shift),
            }))
        }
        0 | 1 => Err(bad(address_at)),
        _ => Err(bad(list_at)),
    }
}

fn list_end(buffer: &Buffer) -> Option<u64> {
    buffer.address.checked_add(u64::from(buffer.pages) * 8)
}

/// Reads a page list, a segment at a time.
#[derive(Clone, Debug)]
pub(super) struct ListReader {
    address: u64,
    pages: u32,
    shift: u8,
    /// Byte offset of the list's address in the command.
    address_at: u32,
    list: PageList,
}

/// How far a page list has been read.
#[derive(Debug)]
pub(super) enum Reading {
    /// There is more.
    More,
    /// This far: the pages, or why there are none; and segments to be freed.
    Done(Result<PageMap, Refusal>, Vec<Segment>),
}

impl ListReader {
    /// Entries of the whole list.
    #[must_use]
    pub(super) const fn entries(&self) -> u32 {
        self.pages
    }

    /// Reads the next segment.
    pub(super) fn read<M: Memory>(&mut self, memory: &M) -> Reading {
        let done = self.list.entries();
        let rest = u64::from(self.pages).saturating_sub(done);
        let mut segment = [0u64; SEGMENT];
        let length = usize::try_from(rest).map_or(SEGMENT, |rest| rest.min(SEGMENT));
        let segment = segment.get_mut(..length).unwrap_or_default();
        let address = self.address.wrapping_add(done.wrapping_mul(8));
        if memory
            .read(address, bytemuck::cast_slice_mut(segment))
            .is_err()
        {
            let segments = self.clear();
            let refusal = Refusal::new(Status::DmaFailed, self.address_at);
            return Reading::Done(Err(refusal), segments);
        }
        self.list.push(segment);
        if self.list.entries() < self.pages.into() {
            return Reading::More;
        }
        let (map, segments) = self.take().finish();
        let bad = Refusal::new(Status::BadArgument, self.address_at);
        Reading::Done(map.ok_or(bad), segments)
    }

    /// Gives up what was read, to be freed.
    pub(in crate::frontend) fn clear(&mut self) -> Vec<Segment> {
        let (map, mut segments) = self.take().finish();
        segments.append(&mut map.map_or_else(Vec::new, PageMap::into_segments));
        segments
    }

    fn take(&mut self) -> PageList {
        core::mem::replace(&mut self.list, PageList::new(self.shift))
    }
}
