//! The doorbell pages of a function: memory that the client maps and the engine polls.
//!
//! Owns this process's mapping of the sealed memfd behind the first half of BAR2. A client that is gone
//! may keep its mapping, so the next one gets another memfd ([`DoorbellPages::renew`]). A client
//! that maps it stores into it without a message; one that cannot is served by [`DoorbellPages::read`]
//! and [`DoorbellPages::write`] with the same effect. The engine reads slots and takes marks through
//! the same pages; the protocol between the two is stated in [`vrnic_abi::doorbell`].
//!
//! Everything here is shared with processes that do not follow any rule, so every access is atomic,
//! no reference to plain bytes is ever made, and nothing read is trusted.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use vrnic_abi::doorbell::{
    DIRTY, ENGINE_ASLEEP, ENGINE_AWAKE, ENGINE_STATE_OFFSET, FIRST_SLOT, GROUPS, PAGE_SIZE, PAGES,
    SLOTS_PER_GROUP, mark_offset, slot_offset,
};

/// Length of the mapping in bytes.
const LENGTH: usize = (PAGES * PAGE_SIZE) as usize;

/// The doorbell pages of one function.
#[derive(Debug)]
pub struct DoorbellPages {
    base: NonNull<u8>,
}

// SAFETY: the mapping lives as long as the value and is accessed through atomics only.
unsafe impl Send for DoorbellPages {}
// SAFETY: as above.
unsafe impl Sync for DoorbellPages {}

impl DoorbellPages {
    /// Allocates the pages, filled with zeros. Returns the memory, too, for the client to map.
    ///
    /// # Errors
    /// If the host refuses memory.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let file = allocate()?;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe { map(std::ptr::null_mut(), MapFlags::SHARED, &file)? };
        Ok((Self { base }, file))
    }

    /// Replaces the pages by other ones, filled with zeros, and returns their memory. Whoever has
    /// mapped the former ones reaches nothing here any more.
    ///
    /// # Errors
    /// If the host refuses memory; the pages are then the former ones.
    pub fn renew(&self) -> io::Result<OwnedFd> {
        let file = allocate()?;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces exactly the mapping that is ours, in one step for all threads; accesses
        // to it are atomic, and accept any value at any time.
        unsafe { map(self.base.as_ptr(), flags, &file)? };
        Ok(file)
    }

    /// The 8 bytes at `offset`, or `None` outside of the pages or misaligned.
    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        if offset % 8 != 0 || offset >= LENGTH {
            return None;
        }
        // SAFETY: `offset` is 8-byte aligned and within the page-aligned mapping, which lives as
        // long as `self`; all accesses of this process are atomic.
        Some(unsafe { AtomicU64::from_ptr(self.base.add(offset).cast().as_ptr()) })
    }

    /// The byte at `offset`, or `None` outside of the pages.
    fn byte(&self, offset: usize) -> Option<&AtomicU8> {
        if offset >= LENGTH {
            return None;
        }
        // SAFETY: `offset` is within the mapping, which lives as long as `self`; all accesses of
        // this process are atomic.
        Some(unsafe { AtomicU8::from_ptr(self.base.add(offset).as_ptr()) })
    }

    /// Value of a slot; 0 if there is no such slot.
    #[must_use]
    #[inline]
    pub fn slot(&self, page: u32, slot: u32) -> u64 {
        offset_of(page, slot_offset(slot))
            .and_then(|offset| self.word(offset))
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets a slot to 0.
    pub fn clear_slot(&self, page: u32, slot: u32) {
        if let Some(word) = offset_of(page, slot_offset(slot)).and_then(|o| self.word(o)) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the dirty marks of a page: bit g for group g.
    #[must_use]
    #[inline]
    pub fn take_marks(&self, page: u32) -> u64 {
        let mut marks = 0;
        for eight in 0..GROUPS / 8 {
            let word = offset_of(page, eight * 8).and_then(|offset| self.word(offset));
            // Looking first keeps the line shared between the processors while nothing happens.
            let dirty = word.map_or(0, |word| word.load(Ordering::Relaxed)) & !state_mask(eight);
            if dirty != 0 {
                marks |= self.take_group_marks(page, eight * 8, dirty);
            }
        }
        marks
    }

    /// Takes those marks among the eight from group `first` on whose byte in `dirty` is not 0.
    #[cold]
    fn take_group_marks(&self, page: u32, first: u32, dirty: u64) -> u64 {
        let mut marks = 0;
        for (n, byte) in (first..).zip(dirty.to_le_bytes()) {
            if byte == 0 {
                continue;
            }
            if let Some(mark) = offset_of(page, n).and_then(|offset| self.byte(offset)) {
                // The exchange is a full barrier: slots are loaded after it.
                mark.swap(0, Ordering::SeqCst);
                marks |= 1 << n;
            }
        }
        marks
    }

    /// Fills a page with zeros, apart from the engine's state.
    pub fn clear_page(&self, page: u32) {
        for slot in FIRST_SLOT..PAGE_SIZE / 8 {
            self.clear_slot(page, slot);
        }
        let _ = self.take_marks(page);
    }

    /// Fills all pages with zeros, which says that the engine is awake, too. Pages that nobody has
    /// written to are zero and stay without memory, so that a function with few users is small.
    ///
    /// Nothing here waits for a client. To give the memory back would be less work, but the kernel
    /// takes the file's lock for that, which a client that writes to the file can hold as long as it
    /// likes, and visits every mapping that the client has made of it.
    pub fn clear(&self) {
        let resident = self.resident();
        for page in 0..PAGES {
            let at = usize::try_from(page).unwrap_or(usize::MAX);
            if resident.get(at).is_none_or(|state| state & 1 == 1) {
                self.clear_page(page);
                self.set_asleep(page, false);
            }
        }
    }

    /// For each page, whether it has memory, in the lowest bit; as if all had if the host does not say.
    /// A page that gets some after that was stored into after the clearing began.
    fn resident(&self) -> [u8; PAGES as usize] {
        let mut states = [1; PAGES as usize];
        if rustix::param::page_size() != PAGE_SIZE as usize {
            return states;
        }
        let base = self.base.as_ptr().cast();
        // SAFETY: a question about our own mapping, with room for one byte of each of its pages.
        let said = unsafe { libc::mincore(base, LENGTH, states.as_mut_ptr()) };
        if said == 0 {
            states
        } else {
            [1; PAGES as usize]
        }
    }

    /// Publishes whether the engine sleeps.
    pub fn set_asleep(&self, page: u32, asleep: bool) {
        let state = if asleep { ENGINE_ASLEEP } else { ENGINE_AWAKE };
        if let Some(byte) = offset_of(page, ENGINE_STATE_OFFSET).and_then(|o| self.byte(o)) {
            byte.store(state, Ordering::Relaxed);
        }
    }

    /// A full barrier between publishing a sleep and the last look at the marks.
    pub fn barrier(&self) {
        fence(Ordering::SeqCst);
    }

    /// Serves a trapped read from byte `offset` on; bytes outside of the pages read as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (n, byte) in data.iter_mut().enumerate() {
            let at = start.checked_add(n).and_then(|at| self.byte(at));
            *byte = at.map_or(0, |at| at.load(Ordering::Relaxed));
        }
    }

    /// Serves a trapped write to byte `offset` on, and marks the groups it touches, so that a
    /// client that traps need not be trusted to store the mark afterwards. The engine's state is
    /// left alone, and so are bytes outside of the pages.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let (Ok(bytes), Some(slot)) = (<[u8; 8]>::try_from(data), self.slot_at(start)) {
            slot.store(u64::from_le_bytes(bytes), Ordering::Release);
            return self.mark_trapped(start);
        }
        for (n, value) in data.iter().enumerate() {
            let Some(at) = start.checked_add(n) else {
                return;
            };
            if at % PAGE_SIZE as usize == ENGINE_STATE_OFFSET as usize {
                continue;
            }
            if let Some(byte) = self.byte(at) {
                byte.store(*value, Ordering::Release);
            }
        }
    }

    /// The slot at `offset`, or `None` if no slot begins there.
    fn slot_at(&self, offset: usize) -> Option<&AtomicU64> {
        let within = offset % PAGE_SIZE as usize;
        let slot = self.word(offset)?;
        (within >= slot_offset(FIRST_SLOT) as usize).then_some(slot)
    }

    fn mark_trapped(&self, offset: usize) {
        let (page, within) = (offset / PAGE_SIZE as usize, offset % PAGE_SIZE as usize);
        let group = within / (8 * SLOTS_PER_GROUP as usize);
        if let Some(mark) = self.byte(page * PAGE_SIZE as usize + group) {
            mark.store(DIRTY, Ordering::Release);
        }
    }
}

/// Memory for the pages.
fn allocate() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("vrnic-doorbells", flags)?;
    rustix::fs::ftruncate(&file, LENGTH as u64)?;
    // A client that shrank the file would make our accesses fault.
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Maps all of `file`.
///
/// # Safety
/// With [`MapFlags::FIXED`], [`LENGTH`] bytes at `at` are the caller's to replace.
unsafe fn map(at: *mut u8, flags: MapFlags, file: &OwnedFd) -> io::Result<NonNull<u8>> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: as the caller promises.
    let base = unsafe { rustix::mm::mmap(at.cast(), LENGTH, prot, flags, file, 0)? };
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Offset in the mapping of byte `within` of page `page`, or `None` if there is no such byte.
#[inline]
fn offset_of(page: u32, within: u32) -> Option<usize> {
    (page < PAGES && within < PAGE_SIZE).then_some((page * PAGE_SIZE + within) as usize)
}

/// The bits of the engine's state in the `eight`th word of the summary.
#[inline]
fn state_mask(eight: u32) -> u64 {
    if eight == 0 { 0xff } else { 0 }
}

impl Drop for DoorbellPages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length; nobody else refers to it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), LENGTH) };
    }
}

const _: () = assert!(mark_offset(FIRST_SLOT) == 1, "the state is not a mark");

#[cfg(test)]
mod tests {
    use super::*;
    use vrnic_abi::doorbell::page_offset;

    #[test]
    fn a_trapped_store_is_seen_as_a_mapped_one_is() {
        let (pages, _) = DoorbellPages::new().unwrap();
        let (page, slot) = (3, 17);
        let at = u64::from(page_offset(page) + slot_offset(slot));
        pages.write(at, &0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(pages.take_marks(page), 1 << (slot / 8));
        assert_eq!(pages.take_marks(page), 0);
        assert_eq!(pages.slot(page, slot), 0x1122_3344_5566_7788);
        let mut back = [0xaa; 8];
        pages.read(at, &mut back);
        assert_eq!(u64::from_le_bytes(back), 0x1122_3344_5566_7788);
    }

    #[test]
    fn halves_and_a_mark_are_as_good_as_a_whole() {
        let (pages, _) = DoorbellPages::new().unwrap();
        pages.write(4096 + 64, &[1, 2, 3, 4]);
        pages.write(4096 + 68, &[5, 6, 7, 8]);
        assert_eq!(pages.take_marks(1), 0);
        pages.write(4096 + 1, &[DIRTY]);
        assert_eq!(pages.take_marks(1), 1 << 1);
        assert_eq!(pages.slot(1, 8), 0x0807_0605_0403_0201);
    }

    #[test]
    fn clients_cannot_write_the_state_or_leave_the_pages() {
        let (pages, _) = DoorbellPages::new().unwrap();
        pages.set_asleep(0, true);
        pages.write(0, &[0, DIRTY]);
        pages.write(LENGTH as u64 - 1, &[1, 2]);
        pages.write(u64::MAX, &[1; 8]);
        let mut back = [0xaa; 3];
        pages.read(0, &mut back);
        assert_eq!(back, [ENGINE_ASLEEP, DIRTY, 0]);
        pages.read(LENGTH as u64 - 1, &mut back);
        assert_eq!(back, [1, 0, 0]);
        assert_eq!(pages.slot(PAGES, 8), 0);
        assert_eq!(pages.slot(0, 512), 0);
    }

    #[test]
    fn clearing_keeps_the_state() {
        let (pages, _) = DoorbellPages::new().unwrap();
        pages.set_asleep(2, true);
        pages.write(2 * 4096 + 8 * 511, &7u64.to_le_bytes());
        pages.clear_page(2);
        assert_eq!((pages.slot(2, 511), pages.take_marks(2)), (0, 0));
        let mut state = [0];
        pages.read(2 * 4096, &mut state);
        assert_eq!(state, [ENGINE_ASLEEP]);
    }

    #[test]
    fn all_pages_are_cleared_for_those_who_map_them_and_unused_ones_take_no_memory() {
        let (pages, client) = DoorbellPages::new().unwrap();
        let taken = || rustix::fs::fstat(&client).unwrap().st_blocks;
        pages.clear();
        assert_eq!(taken(), 0);
        let used = [0, 3, PAGES - 1];
        for page in used {
            pages.set_asleep(page, true);
            pages.write(u64::from(page * PAGE_SIZE) + 8 * 511, &[7; 8]);
        }
        // A client writes without a word, too.
        let at = u64::from(5 * PAGE_SIZE) + 64;
        rustix::io::pwrite(&client, &[7; 8], at).unwrap();
        let used = (used.len() + 1) as i64 * i64::from(PAGE_SIZE) / 512;
        assert_eq!(taken(), used);
        pages.clear();
        assert_eq!(taken(), used);
        let mut all = vec![0xaa; LENGTH];
        assert_eq!(rustix::io::pread(&client, &mut all, 0), Ok(LENGTH));
        assert!(all.iter().all(|byte| *byte == 0));
        assert_eq!((pages.slot(3, 511), pages.take_marks(3)), (0, 0));
        // It is the same memory as before.
        rustix::io::pwrite(&client, &[9; 8], 4096 + 64).unwrap();
        assert_eq!(pages.slot(1, 8), 0x0909_0909_0909_0909);
    }

    #[test]
    fn a_former_client_reaches_nothing() {
        let (pages, former) = DoorbellPages::new().unwrap();
        pages.write(4096 + 64, &[7; 8]);
        let next = pages.renew().unwrap();
        assert_eq!((pages.slot(1, 8), pages.take_marks(1)), (0, 0));
        rustix::io::pwrite(&former, &[9; 8], 4096 + 64).unwrap();
        assert_eq!(pages.slot(1, 8), 0);
        rustix::io::pwrite(&next, &[1; 8], 4096 + 64).unwrap();
        assert_eq!(pages.slot(1, 8), 0x0101_0101_0101_0101);
    }
}
