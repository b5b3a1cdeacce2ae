//! Doorbell pages of a function, and which queue owns which of their slots.

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

/// The doorbell pages that exist.
#[derive(Clone, Debug)]
pub struct DoorbellPages {
    pages: Vec<Option<Box<Page>>>,
    /// Numbers of the pages that exist, for scanning.
    in_use: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Page {
    owners: [Option<Owner>; END_SLOT as usize],
    used: u32,
    /// Marks that were taken off the page but not looked at yet.
    marks: u64,
}

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self {
            owners: [None; END_SLOT as usize],
            used: 0,
            marks: 0,
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
        }
    }
}

impl DoorbellPages {
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

    /// Allocates a page; `None` if all exist.
    pub fn allocate(&mut self) -> Option<u32> {
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
        self.in_use.retain(|page| *page != number);
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

    /// Keeps marks of page `number` that were taken but not looked at.
    pub fn keep_marks(&mut self, number: u32, marks: u64) {
        if let Some(page) = self.page_mut(number) {
            page.marks |= marks;
        }
    }

    /// Takes the kept marks of page `number`.
    pub fn kept_marks(&mut self, number: u32) -> u64 {
        self.page_mut(number)
            .map_or(0, |page| core::mem::take(&mut page.marks))
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
