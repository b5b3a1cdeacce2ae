//! Memory that the device may still use although its owner has given it up.
//!
//! An object of the device whose destruction was not confirmed may go on reading and writing the
//! memory it was given. The driver core keeps its own memory of that kind until the function was
//! reset; what belongs to this crate remains here for as long. Should the reset not have been
//! confirmed either, the function is kept from the bus before any of it is freed.

use alloc::boxed::Box;

use vrnic_driver::Lock;

use crate::bindings;
use crate::kernel::SpinLock;

/// A list of values, as adding one to it needs no memory under the lock.
struct Remain {
    _value: Box<dyn Send>,
    next: Option<Box<Remain>>,
}

/// What remains of a function. Dropped after its driver.
pub(crate) struct Remains {
    pdev: *mut bindings::pci_dev,
    first: SpinLock<Option<Box<Remain>>>,
}

impl Remains {
    /// Nothing yet; `pdev` outlives it.
    pub(crate) fn new(pdev: *mut bindings::pci_dev) -> Self {
        Self {
            pdev,
            first: SpinLock::new(None),
        }
    }

    /// Keeps a value until the function was reset. Sleepable context.
    pub(crate) fn add(&self, value: Box<dyn Send>) {
        let mut remain = Box::new(Remain {
            _value: value,
            next: None,
        });
        self.first.with(|first| {
            remain.next = first.take();
            *first = Some(remain);
        });
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        let mut left = self.first.with(Option::take);
        if left.is_some() {
            // SAFETY: the function is bound to this driver, and enabled.
            unsafe { bindings::pci_clear_master(self.pdev) };
        }
        while let Some(remain) = left {
            left = remain.next;
        }
    }
}
