//! Memory that somebody else writes too: regions of a device, and memory files shared with it.
//!
//! The only place where such memory is touched. Nothing here hands out a reference into it: single
//! aligned loads and stores are atomic, everything else is copied byte by byte or in bulk, and
//! every range is checked against the mapping.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of a file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: The mapping belongs to the value and not to a thread; all access goes through raw
// pointers and atomics, which may race with the device anyway.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `file` from `offset` on, shared, for reading and writing.
    pub(crate) fn new(file: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: A new mapping at an address of the kernel's choice overlays nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                access,
                MapFlags::SHARED,
                file,
                offset,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, length })
    }

    /// Maps pages of `file` one after the other, in the order of their `offsets`. `page` is the
    /// size of the file's pages in bytes, and it has at least as many as there are offsets.
    pub(crate) fn of_pages(file: impl AsFd, page: usize, offsets: &[u64]) -> io::Result<Self> {
        let length = offsets.len().checked_mul(page);
        let mapping = Self::new(&file, 0, length.ok_or(io::ErrorKind::OutOfMemory)?)?;
        for (index, offset) in offsets.iter().enumerate() {
            let place = mapping.at(index * page, page, page);
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: This replaces a page of the mapping just made, into which nothing points.
            let mapped = unsafe { mmap(place.cast(), page, access, flags, &file, *offset) };
            if let Err(error) = mapped {
                // A page may be missing now, and its place belong to somebody else.
                std::mem::forget(mapping);
                return Err(error.into());
            }
        }
        Ok(mapping)
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Address in this process.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Pointer to `length` bytes at `offset`.
    ///
    /// # Panics
    /// If the range does not lie in the mapping, or `offset` is no multiple of `align`.
    #[inline]
    fn at(&self, offset: usize, length: usize, align: usize) -> *mut u8 {
        let inside = offset <= self.length && length <= self.length - offset;
        assert!(inside && offset % align == 0, "access outside of a mapping");
        // SAFETY: The offset lies in the mapping or at its end.
        unsafe { self.base.as_ptr().add(offset) }
    }

    #[inline]
    pub(crate) fn load_u8(&self, offset: usize) -> u8 {
        // SAFETY: The byte lies in the mapping, and is only accessed atomically or by raw copies.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1, 1)) }.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn store_u8(&self, offset: usize, value: u8) {
        // SAFETY: As in `load_u8`.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1, 1)) }.store(value, Ordering::Release);
    }

    #[inline]
    pub(crate) fn load_u32(&self, offset: usize) -> u32 {
        // SAFETY: As in `load_u8`; aligned, as mappings are page-aligned.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4, 4).cast()) }.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn store_u32(&self, offset: usize, value: u32) {
        let place = self.at(offset, 4, 4).cast();
        // SAFETY: As in `load_u32`.
        unsafe { AtomicU32::from_ptr(place) }.store(value, Ordering::Release);
    }

    #[inline]
    pub(crate) fn load_u64(&self, offset: usize) -> u64 {
        // SAFETY: As in `load_u32`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8, 8).cast()) }.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn store_u64(&self, offset: usize, value: u64) {
        let place = self.at(offset, 8, 8).cast();
        // SAFETY: As in `load_u32`.
        unsafe { AtomicU64::from_ptr(place) }.store(value, Ordering::Release);
    }

    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len(), 1);
        // SAFETY: Both ranges are valid for the length, and a slice never overlaps the mapping. The
        // other side may write at the same time: the bytes are then any mixture, which is all that
        // is promised.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len(), 1);
        // SAFETY: As in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    pub(crate) fn clear(&self, offset: usize, length: usize) {
        let to = self.at(offset, length, 1);
        // SAFETY: As in `read`.
        unsafe { std::ptr::write_bytes(to, 0, length) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The range was mapped by `new`, and nothing points into it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn pages_are_mapped_in_any_order() {
        const PAGE: usize = 4096;
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4 * PAGE as u64).unwrap();
        let straight = Mapping::new(&file, 0, 4 * PAGE).unwrap();
        (0..4u8).for_each(|page| straight.store_u8(usize::from(page) * PAGE, page));
        let order = [3, 0, 2].map(|page| page * PAGE as u64);
        let mapping = Mapping::of_pages(&file, PAGE, &order).unwrap();
        assert_eq!(mapping.len(), 3 * PAGE);
        assert_eq!(
            [0, 1, 2].map(|page| mapping.load_u8(page * PAGE)),
            [3, 0, 2]
        );
        mapping.store_u8(2 * PAGE - 1, 0x77);
        assert_eq!(straight.load_u8(PAGE - 1), 0x77);
        assert!(Mapping::of_pages(&file, PAGE, &[0, 1]).is_err());
        assert!(Mapping::of_pages(&file, PAGE, &[]).is_err());
    }
}
