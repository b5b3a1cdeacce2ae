//! Memory of user processes, pinned and mapped for the device.

use alloc::vec::Vec;
use core::ptr::NonNull;

use vrnic_driver::{PinnedMemory, Segment};

use super::device::Shared;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, ENOMEM};

/// A range of a process's memory, accessible to the device until the value is dropped.
pub(crate) struct UserMemory {
    umem: NonNull<bindings::ib_umem>,
    /// A reference: memory that the device may still access stays pinned until it is reset, when
    /// the RDMA device is gone.
    device: *mut bindings::ib_device,
    segments: Vec<Segment>,
}

// SAFETY: the pages are pinned whoever has the value; it is released in sleepable context.
unsafe impl Send for UserMemory {}
// SAFETY: as above.
unsafe impl Sync for UserMemory {}

impl UserMemory {
    /// Pins the range. Sleepable context of the process.
    ///
    /// # Safety
    /// `device` is an RDMA device, whose parent outlives the value.
    pub(crate) unsafe fn pin(
        device: *mut bindings::ib_device,
        address: u64,
        length: u64,
        access: i32,
    ) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function; the kernel checks address and length.
        let umem = unsafe { bindings::vrnic_umem_pin(device, address, length, access) };
        let umem = NonNull::new(Errno::check_pointer(umem)?).ok_or(ENOMEM)?;
        // SAFETY: by the contract of this function.
        unsafe { bindings::get_device(&raw mut (*device).__bindgen_anon_1.dev) };
        let mut memory = Self {
            umem,
            device,
            segments: Vec::new(),
        };
        memory.read_segments(address, length)?;
        Ok(memory)
    }

    /// Pins a queue of the process, which begins at the start of a page.
    pub(super) fn pin_queue(shared: &Shared, address: u64, length: u64) -> Result<Self, Errno> {
        if address % 4096 != 0 {
            return Err(EINVAL);
        }
        let access = bindings::IB_ACCESS_LOCAL_WRITE as i32;
        // SAFETY: the RDMA device of the operation, whose parent outlives the driver.
        unsafe { Self::pin(shared.ibdev.as_ptr(), address, length, access) }
    }

    /// Notes where the device sees the range.
    fn read_segments(&mut self, address: u64, length: u64) -> Result<(), Errno> {
        // SAFETY: the memory is mapped, and its table has as many entries as it says.
        let table = unsafe { &self.umem.as_ref().sgt_append.sgt };
        let count = table.nents as usize;
        self.segments.try_reserve_exact(count).map_err(|_| ENOMEM)?;
        let mut skip = address & 4095;
        let mut left = length;
        let mut entry = table.sgl;
        for _ in 0..count {
            // SAFETY: as above.
            let (start, size) = unsafe {
                let found = ((*entry).dma_address, u64::from((*entry).dma_length));
                entry = bindings::vrnic_sg_next(entry);
                found
            };
            let size = size.saturating_sub(skip).min(left);
            if size > 0 {
                let address = start + skip;
                let segment = Segment {
                    address,
                    length: size,
                };
                self.segments.push(segment);
            }
            left -= size;
            skip = 0;
        }
        Ok(())
    }
}

impl PinnedMemory for UserMemory {
    fn segments(&self) -> usize {
        self.segments.len()
    }

    fn segment(&self, index: usize) -> Option<Segment> {
        self.segments.get(index).copied()
    }
}

impl Drop for UserMemory {
    fn drop(&mut self) {
        // SAFETY: pinned by `pin`, and the device is done with it.
        unsafe {
            bindings::ib_umem_release(self.umem.as_ptr());
            bindings::put_device(&raw mut (*self.device).__bindgen_anon_1.dev);
        }
    }
}
