//! The RDMA device of a function.

pub(crate) mod umem;

use alloc::sync::Arc;

use crate::function::Nic;
use crate::kernel::Errno;
use crate::net;

/// A registered RDMA device.
pub(crate) struct Device {
    _nic: Arc<Nic>,
}

impl Device {
    /// Registers the device, bound to an Ethernet interface. Sleepable context.
    pub(crate) fn new(nic: &Arc<Nic>, _net: &net::Interface) -> Result<Self, Errno> {
        Ok(Self {
            _nic: Arc::clone(nic),
        })
    }
}
