//! The virtual functions of a physical one, as its administrator enables them (`sriov_numvfs`).
//!
//! The kernel does all but one thing: on a bus of its own, a virtual function's BARs follow from
//! those in the SR-IOV capability of the physical one. Where a virtual machine monitor gives both to
//! a guest, it maps the BARs of each function where that function's own registers say, which this
//! driver therefore writes, before there are virtual functions for anybody to use. The registers
//! take that from whoever knows where the function is; it need not be enabled.
//!
//! They are called under the lock of the physical function's device.
//!
//! Clauses: PCI Express Base 6.0, sections 9.2.1.2 (routing IDs) and 9.3.3 (the capability);
//! programming interface, section 1.1.

use core::ffi::c_int;

use vrnic_driver::abi::pci;

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EIO, ENODEV, ENOMEM, EOPNOTSUPP};

/// The BARs of a function, by the first of their two registers.
const BARS: [u8; 3] = [pci::BAR_REGISTERS, pci::BAR_DOORBELLS, pci::BAR_MSIX];

/// The largest number of a device and function on a bus.
const MAX_DEVFN: u32 = 0xff;

/// Makes the physical function have `count` virtual ones; either it has none, or `count` is 0.
/// Sleepable context.
///
/// # Safety
/// `pdev` is bound to this driver, and its lock is held.
pub(crate) unsafe fn configure(pdev: *mut bindings::pci_dev, count: u16) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    unsafe {
        match count {
            0 => {
                disable(pdev);
                Ok(())
            }
            _ => enable(pdev, count),
        }
    }
}

/// Maps the BARs of the virtual functions that there are again, after a reset of the physical one,
/// with which the kernel has restored the capability, but not them. Sleepable context.
///
/// # Safety
/// As for [`configure`].
pub(crate) unsafe fn restore(pdev: *mut bindings::pci_dev) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    unsafe {
        match count(pdev) {
            0 => Ok(()),
            count => Places::find(&Capability::of(pdev)?, count)?.map_bars(),
        }
    }
}

/// How many virtual functions are enabled.
///
/// # Safety
/// `pdev` is a device.
unsafe fn count(pdev: *mut bindings::pci_dev) -> u16 {
    // SAFETY: by the contract of this function. Never negative, and at most TotalVFs.
    unsafe { bindings::pci_num_vf(pdev) as u16 }
}

/// # Safety
/// As for [`configure`].
unsafe fn enable(pdev: *mut bindings::pci_dev, count: u16) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let capability = unsafe { Capability::of(pdev)? };
    // Where they are depends on how many there are (9.3.3.7).
    capability.write(bindings::PCI_SRIOV_NUM_VF, count)?;
    let places = Places::find(&capability, count)?;
    let enabled = places.map_bars().and_then(|()| {
        // SAFETY: as above. Their drivers probe them before this returns.
        Errno::check(unsafe { bindings::pci_enable_sriov(pdev, c_int::from(count)) })
    });
    enabled.inspect_err(|_| places.unmap_bars())
}

/// Takes the virtual functions away, if there are any. Sleepable context.
///
/// # Safety
/// As for [`configure`].
pub(crate) unsafe fn disable(pdev: *mut bindings::pci_dev) {
    // SAFETY: by the contract of this function.
    unsafe {
        let count = count(pdev);
        if count == 0 {
            return;
        }
        let places = Capability::of(pdev).and_then(|capability| Places::find(&capability, count));
        // Their drivers have removed them when this returns.
        bindings::pci_disable_sriov(pdev);
        // Nothing stays mapped where the kernel may put something else. If it is not known where
        // they are, the physical function is gone, and they with it.
        places.iter().for_each(Places::unmap_bars);
    }
}

/// Where a number of virtual functions are on the bus, and their BARs in memory.
struct Places {
    pdev: *mut bindings::pci_dev,
    /// Device and function of the first, and how many there are.
    first: u32,
    stride: u32,
    count: u16,
    /// Address of the first one's BARs, and length of one.
    bars: [(u64, u64); 3],
}

impl Places {
    /// Of the first `count` ones, if NumVFs says that there are so many.
    fn find(capability: &Capability, count: u16) -> Result<Self, Errno> {
        let pdev = capability.pdev;
        let total = capability.read(bindings::PCI_SRIOV_TOTAL_VF)?.max(1);
        let offset = capability.read(bindings::PCI_SRIOV_VF_OFFSET)?;
        let stride = capability.read(bindings::PCI_SRIOV_VF_STRIDE)?;
        // SAFETY: it is a device.
        let first = unsafe { (*pdev).devfn } + u32::from(offset);
        let last = first + u32::from(stride) * u32::from(count.saturating_sub(1));
        if last > MAX_DEVFN {
            // The bus after this one, which is not there before they are enabled, if it ever is.
            return Err(EOPNOTSUPP);
        }
        let bar = |bar: u8| {
            let resource = bindings::PCI_IOV_RESOURCES as c_int + c_int::from(bar);
            // SAFETY: it is a device, and has such a resource.
            let (address, length) = unsafe {
                (
                    bindings::vrnic_bar_bus_address(pdev, resource),
                    bindings::vrnic_bar_length(pdev, resource),
                )
            };
            (address, length / u64::from(total))
        };
        Ok(Self {
            pdev,
            first,
            stride: u32::from(stride),
            count,
            bars: BARS.map(bar),
        })
    }

    /// Says in each virtual function where its BARs are, and that accesses get there. Nothing is
    /// written if the bus had no room for them, as accesses to what else is there would get to them.
    fn map_bars(&self) -> Result<(), Errno> {
        let missing = |(address, length): &(u64, u64)| *address == 0 || *length == 0;
        if self.bars.iter().any(missing) {
            return Err(ENOMEM);
        }
        for number in 0..self.count {
            for (bar, (address, length)) in BARS.iter().zip(self.bars) {
                let address = address + u64::from(number) * length;
                let register = bindings::PCI_BASE_ADDRESS_0 + 4 * u32::from(*bar);
                self.write(number, register, address as u32)?;
                self.write(number, register + 4, (address >> 32) as u32)?;
            }
            let command = bindings::PCI_COMMAND_MEMORY;
            self.write(number, bindings::PCI_COMMAND, command)?;
        }
        Ok(())
    }

    /// Keeps accesses from the virtual functions.
    fn unmap_bars(&self) {
        for number in 0..self.count {
            // A function that is gone has nothing mapped.
            let _ = self.write(number, bindings::PCI_COMMAND, 0);
        }
    }

    /// Writes into the configuration space of one, which need not be enabled.
    fn write(&self, number: u16, register: u32, value: u32) -> Result<(), Errno> {
        let devfn = self.first + u32::from(number) * self.stride;
        // SAFETY: the physical function's bus, which it is on.
        accessed(unsafe {
            let bus = (*self.pdev).bus;
            bindings::pci_bus_write_config_dword(bus, devfn, register as c_int, value)
        })
    }
}

/// The SR-IOV capability of a physical function.
struct Capability {
    pdev: *mut bindings::pci_dev,
    at: c_int,
}

impl Capability {
    /// # Safety
    /// `pdev` is a device that outlives the value.
    unsafe fn of(pdev: *mut bindings::pci_dev) -> Result<Self, Errno> {
        let id = bindings::PCI_EXT_CAP_ID_SRIOV as c_int;
        // SAFETY: by the contract of this function.
        match unsafe { bindings::pci_find_ext_capability(pdev, id) } {
            0 => Err(ENODEV),
            at => Ok(Self {
                pdev,
                at: c_int::from(at),
            }),
        }
    }

    fn read(&self, register: u32) -> Result<u16, Errno> {
        let mut value = 0;
        // SAFETY: a register of the capability, and a place for its value.
        accessed(unsafe {
            bindings::pci_read_config_word(self.pdev, self.at + register as c_int, &raw mut value)
        })?;
        Ok(value)
    }

    fn write(&self, register: u32, value: u16) -> Result<(), Errno> {
        // SAFETY: a register of the capability.
        accessed(unsafe {
            bindings::pci_write_config_word(self.pdev, self.at + register as c_int, value)
        })
    }
}

/// The result of an access to configuration space, whose errors are numbers of their own.
fn accessed(result: c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(EIO) }
}
