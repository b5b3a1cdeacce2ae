//! Memory that the device can access.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use vrnic_driver::{DmaBuffer, OutOfMemory};

use crate::bindings;

/// A piece of coherent memory of a device.
pub(crate) struct Coherent {
    device: *mut bindings::device,
    memory: NonNull<u8>,
    address: u64,
    length: usize,
}

// SAFETY: it is memory, and is accessed through copies and atomics only.
unsafe impl Send for Coherent {}
// SAFETY: as above.
unsafe impl Sync for Coherent {}

impl Coherent {
    /// Allocates zeroed memory, rounded up to whole pages. Sleepable context.
    ///
    /// # Safety
    /// `device` is a device that can do DMA, and outlives the value.
    pub(crate) unsafe fn new(
        device: *mut bindings::device,
        length: usize,
    ) -> Result<Self, OutOfMemory> {
        let length = length.checked_next_multiple_of(4096).ok_or(OutOfMemory)?;
        let mut address = 0;
        // SAFETY: by the contract of this function.
        let memory = unsafe {
            let flags = bindings::VRNIC_GFP_KERNEL | bindings::VRNIC_GFP_NOWARN;
            bindings::dma_alloc_attrs(device, length as _, &raw mut address, flags, 0)
        };
        Ok(Self {
            device,
            memory: NonNull::new(memory.cast()).ok_or(OutOfMemory)?,
            address,
            length,
        })
    }

    fn place(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "range of a buffer"
        );
        // SAFETY: it lies in the allocation.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0, "alignment in a buffer");
        // SAFETY: in the allocation, aligned, and it lives as long as self. The device writes it
        // too, which an atomic allows for.
        unsafe { AtomicU64::from_ptr(self.place(offset, 8).cast()) }
    }
}

impl Drop for Coherent {
    fn drop(&mut self) {
        let memory = self.memory.as_ptr().cast();
        // SAFETY: allocated by `new` with these values, and the device is done with it.
        unsafe {
            bindings::dma_free_attrs(self.device, self.length as _, memory, self.address, 0);
        }
    }
}

impl DmaBuffer for Coherent {
    fn device_address(&self) -> u64 {
        self.address
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

    fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.place(offset, to.len());
        // SAFETY: in the allocation; `to` is not, as no reference into it exists.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    fn write(&self, offset: usize, from: &[u8]) {
        let to = self.place(offset, from.len());
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }
}
