//! Doorbell pages of a function, which queue owns which of their slots, and whose turn it is.
//!
//! A page can belong to a process that marks all of it all the time. So a page gets a share of each
//! step, and all pages together get no more than a step has; what is left over is kept, or left in
//! the page, for the next step, which goes on where this one stopped.

use alloc::boxed::Box;
use alloc::vec::Vec;

use vrnic_abi::doorbell::{END_SLOT, GROUPS, KERNEL_PAGE, PAGES, SLOTS_PER_GROUP};

/// The queue that a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Send queue of a queue pair.
    Send(u32),
    /// Receive queue of a queue pair.
    Receive(u32),
    /// Shared receive queue.
    SharedReceive(u32),
    /// Completion queue.
    Completion(u32),
    /// Event queue.
    Event(u32),
}

/// Why a doorbell page cannot be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// It does not exist, or belongs to the driver for as long as the function runs.
    Missing,
    /// Queues own slots of it.
    InUse,
}

/// Groups of one page that are looked at in one step.
const GROUPS_OF_A_PAGE: u32 = 8;
/// Groups of all pages of a function that are looked at in one step: 128 slots.
pub const GROUPS_A_STEP: u32 = 16;

/// The doorbell pages that exist.
#[derive(Clone, Debug)]
pub struct DoorbellPages {
    pages: Vec<Option<Box<Page>>>,
    /// Numbers of the pages that exist, for scanning.
    in_use: Vec<u32>,
    /// Where among them a step begins.
    first: usize,
    /// How many there may be.
    limit: u32,
}

#[derive(Clone, Debug)]
struct Page {
    owners: [Option<Owner>; END_SLOT as usize],
    used: u32,
    /// Marks that were taken off the page but not looked at yet.
    marks: u64,
    /// The group whose turn is first.
    first: u32,
}

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self {
            owners: [None; END_SLOT as usize],
            used: 0,
            marks: 0,
            first: 0,
        })
    }
}

impl Default for DoorbellPages {
    /// Only the driver's own page.
    fn default() -> Self {
        let mut pages: Vec<_> = (0..PAGES).map(|_| None).collect();
        if let Some(page) = pages.get_mut(KERNEL_PAGE as usize) {
            *page = Some(Page::new());
        }
        Self {
            pages,
            in_use: [KERNEL_PAGE].into(),
            first: 0,
            limit: PAGES,
        }
    }
}

impl DoorbellPages {
    /// Changes how many pages there may be, at most [`PAGES`]. Those beyond stay.
    pub const fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Numbers of the pages that exist.
    #[must_use]
    pub fn in_use(&self) -> &[u32] {
        &self.in_use
    }

    /// Whether page `number` exists.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.page(number).is_some()
    }

    /// Allocates a page; `None` if there may not be another one.
    pub fn allocate(&mut self) -> Option<u32> {
        if self.in_use.len() >= self.limit as usize {
            return None;
        }
        let index = self.pages.iter().position(Option::is_none)?;
        let number = u32::try_from(index).ok()?;
        *self.pages.get_mut(index)? = Some(Page::new());
        self.in_use.push(number);
        Some(number)
    }

    /// Frees page `number`.
    ///
    /// # Errors
    /// Why not.
    pub fn free(&mut self, number: u32) -> Result<(), PageError> {
        if number == KERNEL_PAGE {
            return Err(PageError::Missing);
        }
        if self.page(number).ok_or(PageError::Missing)?.used > 0 {
            return Err(PageError::InUse);
        }
        if let Some(slot) = self.pages.get_mut(number as usize) {
            *slot = None;
        }
        if let Some(at) = self.in_use.iter().position(|page| *page == number) {
            self.in_use.remove(at);
            // Pages that come and go must not change whose turn is next.
            if at < self.first {
                self.first -= 1;
            }
            if self.first >= self.in_use.len() {
                self.first = 0;
            }
        }
        Ok(())
    }

    /// Gives a slot of page `number` to `owner`; `None` if no slot is left. Slots are spread over
    /// the groups, so that few queues share a mark.
    pub fn allocate_slot(&mut self, number: u32, owner: Owner) -> Option<u32> {
        let page = self.page_mut(number)?;
        let slot = (0..SLOTS_PER_GROUP)
            .flat_map(|within| (1..GROUPS).map(move |group| group * SLOTS_PER_GROUP + within))
            .find(|slot| matches!(page.owners.get(*slot as usize), Some(None)))?;
        *page.owners.get_mut(slot as usize)? = Some(owner);
        page.used = page.used.saturating_add(1);
        Some(slot)
    }

    /// Renames the owner of a slot that is allocated.
    pub fn set_owner(&mut self, number: u32, slot: u32, owner: Owner) {
        let page = self.page_mut(number);
        if let Some(Some(old)) = page.and_then(|page| page.owners.get_mut(slot as usize)) {
            *old = owner;
        }
    }

    /// Takes a slot of page `number` away from its owner.
    pub fn free_slot(&mut self, number: u32, slot: u32) {
        let Some(page) = self.page_mut(number) else {
            return;
        };
        if let Some(owner) = page.owners.get_mut(slot as usize) {
            if owner.take().is_some() {
                page.used = page.used.saturating_sub(1);
            }
        }
    }

    /// The owner of a slot.
    #[must_use]
    pub fn owner(&self, number: u32, slot: u32) -> Option<Owner> {
        *self.page(number)?.owners.get(slot as usize)?
    }

    /// The `n`th page of a step; `None` after the last one.
    #[must_use]
    pub fn in_turn(&self, n: usize) -> Option<u32> {
        let count = self.in_use.len();
        let at = self.first.checked_add(n).filter(|_| n < count)?;
        let at = at.checked_sub(count).unwrap_or(at);
        self.in_use.get(at).copied()
    }

    /// The next step begins with the page after the `n`th one of this.
    pub fn begin_after(&mut self, n: usize) {
        let next = self.first.saturating_add(n).saturating_add(1);
        self.first = next.checked_rem(self.in_use.len()).unwrap_or(0);
    }

    /// Keeps marks of page `number` that were taken but not looked at.
    pub fn keep_marks(&mut self, number: u32, marks: u64) {
        if let Some(page) = self.page_mut(number) {
            page.marks |= marks;
        }
    }

    /// Whether marks of page `number` are kept.
    #[must_use]
    pub fn keeps_marks(&self, number: u32) -> bool {
        self.page(number).is_some_and(|page| page.marks != 0)
    }

    /// Of the marks of page `number` that were `taken` just now or kept before, those that are
    /// looked at now, `most` at most. The others are kept.
    pub fn share(&mut self, number: u32, taken: u64, most: u32) -> u64 {
        let Some(page) = self.page_mut(number) else {
            return 0;
        };
        let marks = page.marks | taken;
        let most = most.min(GROUPS_OF_A_PAGE);
        if marks.count_ones() <= most {
            page.marks = 0;
            return marks;
        }
        // In turn, so that no group waits for others that are marked again and again.
        let mut left = marks.rotate_right(page.first);
        for _ in 0..most {
            left &= left.wrapping_sub(1);
        }
        let shared = marks & !left.rotate_left(page.first);
        page.first = (page.first + left.trailing_zeros()) % u64::BITS;
        page.marks = marks & !shared;
        shared
    }

    fn page(&self, number: u32) -> Option<&Page> {
        self.pages.get(number as usize)?.as_deref()
    }

    fn page_mut(&mut self, number: u32) -> Option<&mut Page> {
        self.pages.get_mut(number as usize)?.as_deref_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vrnic_abi::doorbell::FIRST_SLOT;

    #[test]
    fn slots_are_spread_and_counted() {
        let mut pages = DoorbellPages::default();
        let mut slots: Vec<u32> = (0..END_SLOT - FIRST_SLOT)
            .map(|n| pages.allocate_slot(0, Owner::Completion(n)).unwrap())
            .collect();
        assert_eq!(slots.iter().take(2).copied().collect::<Vec<_>>(), [8, 16]);
        assert_eq!(pages.allocate_slot(0, Owner::Send(1)), None);
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(FIRST_SLOT..END_SLOT));
        pages.free_slot(0, 9);
        pages.free_slot(0, 9);
        assert_eq!(pages.allocate_slot(0, Owner::Send(1)), Some(9));
        assert_eq!(pages.allocate_slot(0, Owner::Send(1)), None);
    }

    #[test]
    fn marked_groups_take_turns() {
        let mut pages = DoorbellPages::default();
        let few = 1 << 63 | 1 << 1;
        assert_eq!(pages.share(0, few, 64), few);
        let mut seen = [0; 64];
        for _ in 0..63 {
            // All are marked again and again.
            let shared = pages.share(0, !1, GROUPS_A_STEP);
            assert_eq!(shared.count_ones(), GROUPS_OF_A_PAGE);
            for (group, seen) in seen.iter_mut().enumerate() {
                *seen += shared >> group & 1;
            }
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|times| *times == 8), "{seen:?}");
        assert!(pages.keeps_marks(0));
        assert_eq!(pages.share(0, 0, 3).count_ones(), 3);
        while pages.share(0, 0, 64) != 0 {}
        assert!(!pages.keeps_marks(0));
    }

    #[test]
    fn pages_take_turns() {
        let mut pages = DoorbellPages::default();
        for _ in 0..3 {
            pages.allocate().unwrap();
        }
        let turns =
            |pages: &DoorbellPages| (0..9).map_while(|n| pages.in_turn(n)).collect::<Vec<_>>();
        assert_eq!(turns(&pages), [0, 1, 2, 3]);
        pages.begin_after(2);
        assert_eq!(turns(&pages), [3, 0, 1, 2]);
        pages.begin_after(1);
        assert_eq!(turns(&pages), [1, 2, 3, 0]);
        pages.free(2).unwrap();
        assert_eq!(turns(&pages), [1, 3, 0]);
        pages.begin_after(0);
        pages.free(1).unwrap();
        assert_eq!(turns(&pages), [3, 0]);
        pages.free(3).unwrap();
        assert_eq!(turns(&pages), [0]);
    }

    #[test]
    fn pages_in_use_stay() {
        let mut pages = DoorbellPages::default();
        let page = pages.allocate().unwrap();
        assert_eq!(pages.free(0), Err(PageError::Missing));
        let slot = pages.allocate_slot(page, Owner::Event(1)).unwrap();
        assert_eq!(pages.free(page), Err(PageError::InUse));
        pages.free_slot(page, slot);
        assert_eq!(pages.free(page), Ok(()));
        assert_eq!(pages.free(page), Err(PageError::Missing));
        assert_eq!(pages.in_use(), [0]);
    }
}
