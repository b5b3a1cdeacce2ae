//! Doorbell pages as the kernel maps them, and doorbells in them.
//!
//! The protocol, and why no doorbell is lost, is in [`vrnic_abi::doorbell`].

use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use vrnic_abi::doorbell::{
    DIRTY, END_SLOT, ENGINE_AWAKE, ENGINE_STATE_OFFSET, FIRST_SLOT, PAGE_SIZE, mark_offset,
    slot_offset,
};
use vrnic_abi::verbs::PageAnswer;

/// A doorbell page and its kick page, mapped.
pub(crate) struct Page {
    doorbell: NonNull<u8>,
    kick: NonNull<u8>,
}

// SAFETY: the mappings belong to the value, and are accessed by atomic operations.
unsafe impl Send for Page {}

/// Maps `PAGE_SIZE` bytes at `offset` of `file`.
fn map(file: c_int, offset: u64, access: c_int) -> Option<NonNull<u8>> {
    let offset = libc::off_t::try_from(offset).ok()?;
    let length = PAGE_SIZE as usize;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            length,
            access,
            libc::MAP_SHARED,
            file,
            offset,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    NonNull::new(start.cast())
}

fn unmap(start: NonNull<u8>) {
    // SAFETY: of `map`, and nobody refers to it any more.
    unsafe { libc::munmap(start.as_ptr().cast(), PAGE_SIZE as usize) };
}

impl Page {
    /// Maps both pages that the driver has named; `None` if it refuses.
    pub(crate) fn map(file: c_int, answer: &PageAnswer) -> Option<Self> {
        let doorbell = map(file, answer.doorbell, libc::PROT_READ | libc::PROT_WRITE)?;
        let Some(kick) = map(file, answer.kick, libc::PROT_WRITE) else {
            unmap(doorbell);
            return None;
        };
        Some(Self { doorbell, kick })
    }

    /// Slot `slot` of the page; `None` if there is none. It must not outlive the page.
    pub(crate) fn slot(&self, slot: u32) -> Option<Doorbell> {
        if !(FIRST_SLOT..END_SLOT).contains(&slot) {
            return None;
        }
        // SAFETY: offsets of a slot and of its mark lie in the page.
        let (slot, mark, state) = unsafe {
            (
                self.doorbell.add(slot_offset(slot) as usize),
                self.doorbell.add(mark_offset(slot) as usize),
                self.doorbell.add(ENGINE_STATE_OFFSET as usize),
            )
        };
        Some(Doorbell {
            slot: slot.cast(),
            mark: mark.cast(),
            state: state.cast(),
            kick: self.kick.cast(),
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        unmap(self.doorbell);
        unmap(self.kick);
    }
}

/// The doorbell of one queue. It lies in a page of the context, which outlives all queues.
#[derive(Clone, Copy)]
pub(crate) struct Doorbell {
    slot: NonNull<AtomicU64>,
    mark: NonNull<AtomicU8>,
    state: NonNull<AtomicU8>,
    kick: NonNull<AtomicU32>,
}

// SAFETY: places in shared memory, accessed by atomic operations.
unsafe impl Send for Doorbell {}
// SAFETY: as above.
unsafe impl Sync for Doorbell {}

impl Doorbell {
    /// Stores a value that the engine reads when it needs it, after all that was stored before.
    #[inline]
    pub(crate) fn publish(self, value: u64) {
        // SAFETY: the page is mapped while queues use it.
        unsafe { self.slot.as_ref() }.store(value, Ordering::Release);
    }

    /// Stores a value that the engine must act on, and wakes the engine if it sleeps.
    #[inline]
    pub(crate) fn ring(self, value: u64) {
        self.publish(value);
        self.nudge();
    }

    /// Makes the engine look at the slot again.
    #[inline]
    pub(crate) fn nudge(self) {
        // SAFETY: the page is mapped while queues use it.
        let (mark, state) = unsafe { (self.mark.as_ref(), self.state.as_ref()) };
        mark.store(DIRTY, Ordering::Release);
        // The mark must be visible before the state is loaded: the engine does the reverse.
        fence(Ordering::SeqCst);
        if state.load(Ordering::Relaxed) != ENGINE_AWAKE {
            self.kick();
        }
    }

    #[cold]
    fn kick(self) {
        // SAFETY: as above; a kick page is written only.
        unsafe { self.kick.as_ref() }.store(1, Ordering::Relaxed);
    }
}
