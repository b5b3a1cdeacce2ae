//! Memory that the device can access, which is only ever copied, in words of 8 bytes.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use vrnic_driver::{DmaBuffer, OutOfMemory};

use crate::bindings;

/// A piece of coherent memory of a device.
pub(crate) struct Coherent {
    device: *mut bindings::device,
    memory: NonNull<AtomicU64>,
    address: u64,
    length: usize,
}

// SAFETY: it is memory, and is accessed by atomic words only.
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

    /// The word at `offset`. Panics outside of the memory, as [`DmaBuffer`] says.
    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < self.length && offset % 8 == 0, "word of a buffer");
        // SAFETY: a multiple of 8 within the memory, whose length is one too and which lives as long
        // as self. The device writes it too, which an atomic allows for.
        unsafe { self.memory.byte_add(offset).as_ref() }
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
}
