//! The Ethernet interface of a function.

use alloc::sync::Arc;

use crate::bindings;
use crate::function::Nic;
use crate::kernel::Errno;

/// A registered network device.
pub(crate) struct Interface {
    netdev: *mut bindings::net_device,
    _nic: Arc<Nic>,
}

// SAFETY: the kernel's functions for network devices synchronize themselves.
unsafe impl Send for Interface {}

impl Interface {
    /// Registers the interface. Sleepable context.
    pub(crate) fn new(nic: &Arc<Nic>) -> Result<Self, Errno> {
        Ok(Self {
            netdev: core::ptr::null_mut(),
            _nic: Arc::clone(nic),
        })
    }

    /// The network device, which lives as long as the value.
    pub(crate) fn netdev(&self) -> *mut bindings::net_device {
        self.netdev
    }
}
