//! Kernels without devlink: there is nothing to see, and nothing to set.

use crate::bindings;
use crate::function::Function;
use crate::kernel::Errno;

/// In place of an instance.
pub(crate) struct Devlink;

impl Devlink {
    /// # Safety
    /// None here.
    pub(crate) unsafe fn new(_pdev: *mut bindings::pci_dev) -> Result<Self, Errno> {
        Ok(Self)
    }

    /// # Safety
    /// None here.
    pub(crate) unsafe fn register(&self, _function: &Function) {}

    /// Does nothing.
    pub(crate) fn unregister(&self) {}

    /// # Safety
    /// None here.
    pub(crate) unsafe fn set_ports(
        &self,
        _pdev: *mut bindings::pci_dev,
        _count: u16,
    ) -> Result<(), Errno> {
        Ok(())
    }
}
