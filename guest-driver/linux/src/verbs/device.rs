//! Registration, identity and limits.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use crate::bindings;
use crate::function::Nic;
use crate::kernel::Errno;
use crate::kernel::errno::ENOMEM;
use crate::net;

/// What the operations on a device share.
pub(super) struct Shared {
    pub(super) nic: Arc<Nic>,
    pub(super) ibdev: NonNull<bindings::ib_device>,
    pub(super) netdev: *mut bindings::net_device,
}

// SAFETY: device and interface outlive the value, and the kernel's functions synchronize.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// What belongs to a device that the core calls with.
    ///
    /// # Safety
    /// `ibdev` is a device of this driver; the value does not outlive the operation.
    pub(super) unsafe fn of<'a>(ibdev: *mut bindings::ib_device) -> &'a Self {
        // SAFETY: set by `Device::new` before the device was registered.
        unsafe {
            &*(*ibdev.cast::<bindings::vrnic_ib_device>())
                .data
                .cast::<Self>()
        }
    }
}

/// A registered RDMA device.
pub(crate) struct Device {
    ibdev: NonNull<bindings::ib_device>,
    shared: Box<Shared>,
}

// SAFETY: the kernel's functions for devices synchronize themselves.
unsafe impl Send for Device {}

impl Device {
    /// Registers the device, bound to an Ethernet interface. Sleepable context.
    pub(crate) fn new(nic: &Arc<Nic>, net: &net::Interface) -> Result<Self, Errno> {
        // SAFETY: no arguments.
        let ibdev = unsafe { bindings::vrnic_alloc_ib_device() };
        let ibdev = NonNull::new(ibdev).ok_or(ENOMEM)?;
        let mut shared = Box::new(Shared {
            nic: Arc::clone(nic),
            ibdev,
            netdev: net.netdev(),
        });
        let data = core::ptr::from_mut(&mut *shared);
        // SAFETY: a device that is not registered is ours alone.
        unsafe {
            (*ibdev.as_ptr().cast::<bindings::vrnic_ib_device>()).data = data.cast();
        }
        Ok(Self { ibdev, shared })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`.
        unsafe { bindings::ib_dealloc_device(self.ibdev.as_ptr()) };
    }
}
