//! Memory that the kernel's Soft-RoCE reads and writes.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Anonymous memory. It changes under our hands, so nothing ever refers into it; it is copied.
pub(super) struct Memory {
    start: NonNull<u8>,
    length: usize,
}

impl Memory {
    pub(super) fn new(length: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses the place; no mapping is replaced.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, protection, MapFlags::PRIVATE)? };
        let start = NonNull::new(start.cast()).context("memory at address 0")?;
        Ok(Self { start, length })
    }

    /// Address of the first byte.
    pub(super) fn start(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Copies in. Bytes outside are a mistake of the caller's.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: The range lies in the mapping, which no slice overlaps.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len());
        }
    }

    /// Copies out.
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: The range lies in the mapping, which no slice overlaps.
        unsafe {
            ptr::copy_nonoverlapping(
                self.start.as_ptr().add(offset),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
    }

    fn check(&self, offset: usize, length: usize) {
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        assert!(
            inside,
            "{length} bytes at {offset} are outside of the memory"
        );
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and nobody has a reference into it.
        let unmapped = unsafe { munmap(self.start(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}
