//! Memory of rings: pages of the process, which the kernel pins for the device.
//!
//! The device reads and writes it at any time, so it is only ever copied, in words of 8 bytes.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use vrnic_driver::DmaBuffer;

use crate::library::Library;

/// Size of a page.
pub(crate) const PAGE: usize = 4096;

/// Zeroed pages that nobody else has.
pub(crate) struct Buffer {
    library: &'static Library,
    start: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the memory belongs to the value, and is accessed by atomic words.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// At least `length` bytes, zeroed, from a page boundary on; `None` if there is no memory.
    pub(crate) fn new(library: &'static Library, length: usize) -> Option<Self> {
        let length = length.max(1).checked_next_multiple_of(PAGE)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory at an address of the kernel's choice.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), length, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let buffer = Self {
            library,
            start: NonNull::new(start.cast())?,
            length,
        };
        // SAFETY: the range is the buffer's. It fails only where nothing is to be done.
        unsafe { (library.dontfork_range)(start, length) };
        Some(buffer)
    }

    /// Address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The word at `offset`. Panics outside of the buffer, as [`DmaBuffer`] says.
    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < self.length && offset % 8 == 0);
        // SAFETY: a multiple of 8 within the buffer, whose length is one too.
        unsafe { self.start.byte_add(offset).as_ref() }
    }
}

impl DmaBuffer for Buffer {
    fn device_address(&self) -> u64 {
        self.address()
    }

    fn len(&self) -> usize {
        self.length
    }

    #[inline]
    fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let start = self.start.as_ptr().cast();
        // SAFETY: the range is the buffer's, and nobody refers to it any more.
        unsafe {
            (self.library.dofork_range)(start, self.length);
            libc::munmap(start, self.length);
        }
    }
}
