//! How memory is described to the device: the best page size, and the pages.
//!
//! The device is never told about a page that does not lie in the memory, rounded out to 4 KiB.

use alloc::vec::Vec;

use crate::platform::Segment;

/// Smallest page size as a power of two.
const MIN_SHIFT: u32 = 12;
/// Largest page size as a power of two.
const MAX_SHIFT: u32 = 30;

/// Pages of equal size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageList {
    pub(crate) shift: u8,
    pub(crate) pages: Pages,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// `count` pages from `address` on.
    Contiguous { address: u64, count: u32 },
    /// Page by page.
    List(Vec<u64>),
}

impl PageList {
    /// The pages one by one.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        let (first, count, list): (u64, u32, &[u64]) = match &self.pages {
            Pages::Contiguous { address, count } => (*address, *count, &[]),
            Pages::List(list) => (0, 0, list),
        };
        let shift = self.shift;
        let contiguous = (0..u64::from(count)).map(move |index| first + (index << shift));
        contiguous.chain(list.iter().copied())
    }
}

/// Why memory cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageError {
    /// There is no memory.
    Empty,
    /// A piece in the middle does not fill its 4 KiB pages, or addresses wrap around.
    Misaligned,
    /// The virtual address and the first DMA address differ modulo 4 KiB.
    Offset,
    /// More pages than the device takes.
    TooMany,
    /// No memory for the list of them.
    OutOfMemory,
}

fn round_down(value: u64, shift: u32) -> u64 {
    value >> shift << shift
}

/// Joins pieces that touch each other, rounds the outer ends to 4 KiB.
fn normalize(segments: impl Iterator<Item = Segment>) -> Result<Vec<(u64, u64)>, PageError> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for segment in segments.filter(|segment| segment.length > 0) {
        let end = segment.address.checked_add(segment.length);
        let end = end.ok_or(PageError::Misaligned)?;
        match joined.last_mut() {
            Some(last) if last.1 == segment.address => last.1 = end,
            _ => {
                // How many there are is up to whoever owns the memory.
                let room = joined.try_reserve(1);
                room.map_err(|_| PageError::OutOfMemory)?;
                joined.push((segment.address, end));
            }
        }
    }
    if let Some(first) = joined.first_mut() {
        first.0 = round_down(first.0, MIN_SHIFT);
    }
    if let Some(last) = joined.last_mut() {
        let end = last.1.checked_next_multiple_of(1 << MIN_SHIFT);
        last.1 = end.ok_or(PageError::Misaligned)?;
    }
    Ok(joined)
}

/// Describes memory that starts at virtual address `start` with pages of one of the sizes in
/// `supported` (bit n for 2^n bytes), at most `max_pages` of them.
pub(crate) fn describe(
    segments: impl Iterator<Item = Segment>,
    start: u64,
    supported: u64,
    max_pages: u32,
) -> Result<PageList, PageError> {
    let mut segments = segments.peekable();
    let first = segments.peek().ok_or(PageError::Empty)?.address;
    if (first ^ start) & ((1 << MIN_SHIFT) - 1) != 0 {
        return Err(PageError::Offset);
    }
    let joined = normalize(segments)?;
    // Every end of a piece must be a page boundary; the first byte must have the same offset in
    // its page as the virtual address.
    let ends = joined.iter().fold(0, |bits, (from, to)| bits | from | to);
    let bits = (first ^ start) | ends;
    let fits = |shift: &u32| supported >> shift & 1 == 1 && bits & ((1 << shift) - 1) == 0;
    let shift = (MIN_SHIFT..=MAX_SHIFT).rev().find(fits);
    let shift = shift.ok_or(PageError::Misaligned)?;
    let count: u64 = joined.iter().map(|(from, to)| (to - from) >> shift).sum();
    let count = u32::try_from(count).map_err(|_| PageError::TooMany)?;
    if count > max_pages {
        return Err(PageError::TooMany);
    }
    let pages = match joined.as_slice() {
        [(address, _)] => Pages::Contiguous {
            address: *address,
            count,
        },
        _ => Pages::List(list(&joined, shift, count)?),
    };
    Ok(PageList {
        shift: shift as u8,
        pages,
    })
}

/// The `count` pages one by one.
fn list(joined: &[(u64, u64)], shift: u32, count: u32) -> Result<Vec<u64>, PageError> {
    let step = 1usize << shift;
    let pages = joined
        .iter()
        .flat_map(|(from, to)| (*from..*to).step_by(step));
    let mut list = Vec::new();
    let room = list.try_reserve_exact(count as usize);
    room.map_err(|_| PageError::OutOfMemory)?;
    list.extend(pages.take(count as usize));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 0x7fff_f000;

    #[track_caller]
    fn described(segments: &[(u64, u64)], start: u64) -> Result<PageList, PageError> {
        let segments = segments
            .iter()
            .map(|&(address, length)| Segment { address, length });
        describe(segments, start, ALL, 1000)
    }

    #[test]
    fn touching_pieces_are_contiguous() {
        let list = described(&[(0x20_0000, 0x10_0000), (0x30_0000, 0x10_0000)], 0);
        let pages = Pages::Contiguous {
            address: 0x20_0000,
            count: 1,
        };
        assert_eq!(list, Ok(PageList { shift: 21, pages }));
    }

    #[test]
    fn scattered_pieces_use_the_largest_page_that_divides_them() {
        let list = described(&[(0x3_0000, 0x1_0000), (0x8_0000, 0x2_0000)], 0x10_0000);
        let pages = Pages::List([0x3_0000, 0x8_0000, 0x9_0000].into());
        assert_eq!(list, Ok(PageList { shift: 16, pages }));
    }

    #[test]
    fn pages_are_told_one_by_one_however_they_are_described() {
        let list = described(&[(0x3000, 0x2000)], 0x1000).expect("fits");
        assert_eq!(list.addresses().collect::<Vec<_>>(), [0x3000, 0x4000]);
        let list = described(&[(0x3000, 0x1000), (0x9000, 0x1000)], 0).expect("fits");
        assert_eq!(list.addresses().collect::<Vec<_>>(), [0x3000, 0x9000]);
    }

    #[test]
    fn start_limits_the_page_size() {
        let list = described(&[(0x20_0000, 0x20_0000)], 0x3000);
        assert_eq!(list.map(|list| list.shift), Ok(12));
    }

    #[test]
    fn odd_ends_are_rounded_out_and_odd_middles_refused() {
        let list = described(&[(0x1_0ffb, 5), (0x5000, 3)], 0xffb);
        let pages = Pages::List([0x1_0000, 0x5000].into());
        assert_eq!(list, Ok(PageList { shift: 12, pages }));
        let list = described(&[(0x1000, 0x800), (0x5000, 0x1000)], 0);
        assert_eq!(list, Err(PageError::Misaligned));
    }

    #[test]
    fn bad_input_is_refused() {
        assert_eq!(described(&[], 0), Err(PageError::Empty));
        assert_eq!(described(&[(0x1004, 8)], 0x2008), Err(PageError::Offset));
        assert_eq!(
            described(&[(!0xfff, 0x1000)], 0),
            Err(PageError::Misaligned)
        );
        let segments = [(0, 0x1000), (0x1000 * 3, 0x1000 * 1001)];
        assert_eq!(described(&segments, 0x1000), Err(PageError::TooMany));
    }
}
