//! What a function takes of its bus: memory decoding, bus mastering, and its BARs.
//!
//! They are taken at once, and given back in the opposite order when the value is dropped. By then the
//! device has to be silent, and nobody uses the BARs.

use core::ptr::NonNull;

use vrnic_driver::abi::pci;

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::ENOMEM;
use crate::platform::Bars;

/// A function whose memory decoding, bus mastering and BARs are ours.
pub(crate) struct Resources {
    pdev: *mut bindings::pci_dev,
    bars: Bars,
}

impl Resources {
    /// # Safety
    /// `pdev` is a PCI device that outlives the value, and nobody else uses it.
    pub(crate) unsafe fn acquire(pdev: *mut bindings::pci_dev) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function.
        unsafe {
            Errno::check(bindings::pci_enable_device_mem(pdev))?;
            let bars = Self::map(pdev).inspect_err(|_| bindings::pci_disable_device(pdev))?;
            bindings::pci_set_master(pdev);
            let this = Self { pdev, bars };
            Errno::check(bindings::vrnic_set_dma_mask(pdev))?;
            Ok(this)
        }
    }

    /// The mapped BARs, which stay so as long as the value lives.
    pub(crate) fn bars(&self) -> Bars {
        self.bars
    }

    /// # Safety
    /// As for [`Self::acquire`].
    unsafe fn map(pdev: *mut bindings::pci_dev) -> Result<Bars, Errno> {
        // SAFETY: as for the function. The lengths are 0, which means all of a BAR.
        unsafe {
            Errno::check(bindings::pci_request_regions(pdev, c"vrnic".as_ptr()))?;
            let registers = bindings::pci_iomap(pdev, i32::from(pci::BAR_REGISTERS), 0);
            let doorbells = bindings::pci_iomap(pdev, i32::from(pci::BAR_DOORBELLS), 0);
            match (
                NonNull::new(registers.cast()),
                NonNull::new(doorbells.cast()),
            ) {
                (Some(registers), Some(doorbells)) => Ok(Bars {
                    registers,
                    doorbells,
                }),
                _ => {
                    for bar in [registers, doorbells] {
                        if !bar.is_null() {
                            bindings::pci_iounmap(pdev, bar);
                        }
                    }
                    bindings::pci_release_regions(pdev);
                    Err(ENOMEM)
                }
            }
        }
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        // SAFETY: acquired above; the device no longer does DMA or is asked to.
        unsafe {
            bindings::pci_clear_master(self.pdev);
            bindings::pci_iounmap(self.pdev, self.bars.registers.as_ptr().cast());
            bindings::pci_iounmap(self.pdev, self.bars.doorbells.as_ptr().cast());
            bindings::pci_release_regions(self.pdev);
            bindings::pci_disable_device(self.pdev);
        }
    }
}
