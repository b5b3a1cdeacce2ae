//! What administrators see of a function with `devlink`: who it is, and, of a physical one, a port for
//! each of its virtual functions that are enabled, whose address and state they can set.
//!
//! A function is registered from probe to removal, whether it is attached meanwhile or not; while it is
//! not, questions about it fail. The ports come before the virtual functions, and go before them, too:
//! nobody sets anything of one that is about to go.
//!
//! The kernel's own lock of the instance is taken before the function's: nothing is registered here with
//! that one held.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int};
use core::fmt::Write;
use core::ptr::NonNull;

use vrnic_driver::abi::admin::VfFlags;
use vrnic_driver::abi::object::VfAttributes;
use vrnic_driver::abi::registers::{self, DeviceState};
use vrnic_driver::{Platform, VfChange};

use crate::bindings;
use crate::function::Function;
use crate::kernel::errno::{EINVAL, ENOMEM};
use crate::kernel::lock::Mutex;
use crate::kernel::{Errno, Table, Text};

static OPERATIONS: Table<bindings::devlink_ops> = Table(bindings::devlink_ops {
    info_get: Some(info_get),
    // SAFETY: operations that are not there are null.
    ..unsafe { core::mem::zeroed() }
});

static PORT_OPERATIONS: Table<bindings::devlink_port_ops> = Table(bindings::devlink_port_ops {
    port_fn_hw_addr_get: Some(hw_addr_get),
    port_fn_hw_addr_set: Some(hw_addr_set),
    port_fn_state_get: Some(state_get),
    port_fn_state_set: Some(state_set),
    // SAFETY: as above.
    ..unsafe { core::mem::zeroed() }
});

/// An instance of devlink, whose private part points to its function.
pub(crate) struct Devlink {
    handle: NonNull<bindings::devlink>,
    ports: Mutex<Vec<Box<bindings::devlink_port>>>,
}

impl Devlink {
    /// One that is not registered. Sleepable context.
    ///
    /// # Safety
    /// `pdev` is a device that outlives the value.
    pub(crate) unsafe fn new(pdev: *mut bindings::pci_dev) -> Result<Self, Errno> {
        let operations = &raw const OPERATIONS.0;
        let private = size_of::<*const Function>();
        // SAFETY: by the contract of this function.
        let handle = unsafe {
            let device = &raw mut (*pdev).dev;
            bindings::vrnic_devlink_alloc(operations, private, device)
        };
        Ok(Self {
            handle: NonNull::new(handle).ok_or(ENOMEM)?,
            ports: Mutex::new(Vec::new()),
        })
    }

    /// Shows the function to administrators. Sleepable context.
    ///
    /// # Safety
    /// The function stays where it is until [`Self::unregister`].
    pub(crate) unsafe fn register(&self, function: &Function) {
        // SAFETY: the private part is such a pointer, and nobody reads it before it is registered.
        unsafe {
            let place = bindings::devlink_priv(self.handle.as_ptr());
            place.cast::<*const Function>().write(function);
            bindings::devlink_register(self.handle.as_ptr());
        }
    }

    /// Nobody asks any more when this returns. Sleepable context.
    pub(crate) fn unregister(&self) {
        // SAFETY: it is registered.
        unsafe { bindings::devlink_unregister(self.handle.as_ptr()) };
    }

    /// Has ports for `count` virtual functions from now on, and no others. Sleepable context.
    ///
    /// # Safety
    /// `pdev` is the function's device.
    pub(crate) unsafe fn set_ports(
        &self,
        pdev: *mut bindings::pci_dev,
        count: u16,
    ) -> Result<(), Errno> {
        // SAFETY: an instance. Nothing below takes its lock.
        unsafe { bindings::devl_lock(self.handle.as_ptr()) };
        let result = self.ports.with(|ports| {
            while ports.len() > count.into() {
                self.remove_port(ports);
            }
            (ports.len()..count.into()).try_for_each(|_| {
                // SAFETY: by the contract of this function, and with that lock.
                unsafe { self.add_port(pdev, ports) }.inspect_err(|_| {
                    while !ports.is_empty() {
                        self.remove_port(ports);
                    }
                })
            })
        });
        // SAFETY: taken above.
        unsafe { bindings::devl_unlock(self.handle.as_ptr()) };
        result
    }

    /// # Safety
    /// As for [`Self::set_ports`], under the lock of the instance.
    unsafe fn add_port(
        &self,
        pdev: *mut bindings::pci_dev,
        ports: &mut Vec<Box<bindings::devlink_port>>,
    ) -> Result<(), Errno> {
        let vf = u16::try_from(ports.len()).map_err(|_| EINVAL)?;
        let mut port = Box::new(bindings::devlink_port::default());
        let operations = &raw const PORT_OPERATIONS.0;
        // SAFETY: by the contract of this function. The port stays where it is.
        unsafe {
            let physical = ((*pdev).devfn & 7) as u16;
            bindings::devlink_port_attrs_pci_vf_set(&raw mut *port, 0, physical, vf, false);
            Errno::check(bindings::devl_port_register_with_ops(
                self.handle.as_ptr(),
                &raw mut *port,
                number(vf).into(),
                operations,
            ))?;
        }
        // It has no type: the interface may be another kernel's, and without it there is none to say.
        ports.push(port);
        Ok(())
    }

    /// Removes the last port, under the lock of the instance.
    fn remove_port(&self, ports: &mut Vec<Box<bindings::devlink_port>>) {
        if let Some(mut port) = ports.pop() {
            // SAFETY: it is registered.
            unsafe { bindings::devl_port_unregister(&raw mut *port) };
        }
    }
}

impl Drop for Devlink {
    fn drop(&mut self) {
        // SAFETY: it is not registered, and has no ports.
        unsafe { bindings::devlink_free(self.handle.as_ptr()) };
    }
}

/// The device's number of a virtual function, which is also that of its port.
const fn number(vf: u16) -> u16 {
    vf + 1
}

/// # Safety
/// The instance is one of this driver, and registered.
unsafe fn function<'a>(devlink: *mut bindings::devlink) -> &'a Function {
    // SAFETY: `register` has put it there, and it lives until the instance is unregistered.
    unsafe {
        let place = bindings::devlink_priv(devlink);
        &*place.cast::<*const Function>().read()
    }
}

/// # Safety
/// The port is one of this driver.
unsafe fn change(port: *mut bindings::devlink_port, change: &VfChange) -> c_int {
    // SAFETY: by the contract of this function.
    let (function, number) = unsafe { (function((*port).devlink), (*port).index as u16) };
    Errno::of(function.ask(|driver| driver.configure_vf(number, change)))
}

/// # Safety
/// As for [`change`].
unsafe fn query(port: *mut bindings::devlink_port) -> Result<VfAttributes, Errno> {
    // SAFETY: by the contract of this function.
    let (function, number) = unsafe { (function((*port).devlink), (*port).index as u16) };
    function.ask(|driver| driver.query_vf(number))
}

/// # Safety
/// `info_get`: devlink calls it with the lock of an instance of this driver.
unsafe extern "C" fn info_get(
    devlink: *mut bindings::devlink,
    request: *mut bindings::devlink_info_req,
    _extack: *mut bindings::netlink_ext_ack,
) -> c_int {
    // SAFETY: as above.
    let function = unsafe { function(devlink) };
    let versions = function.ask(|driver| {
        let interface = registers::INTERFACE_VERSION.offset;
        let interface = driver.platform().read_register(interface);
        Ok((driver.attributes().firmware_version, interface))
    });
    let put = |name: &core::ffi::CStr, text: &[c_char]| {
        // SAFETY: a request, and texts that end with a zero byte.
        Errno::check(unsafe {
            bindings::devlink_info_version_running_put(request, name.as_ptr(), text.as_ptr())
        })
    };
    let result = versions.and_then(|(firmware, interface)| {
        let mut text = [0; 24];
        let serial = function.serial_number();
        // Texts that do not fit would be cut off.
        let _ = write!(Text::new(&mut text), "{serial:016x}");
        // SAFETY: as above.
        Errno::check(unsafe { bindings::devlink_info_serial_number_put(request, text.as_ptr()) })?;
        let _ = write!(
            Text::new(&mut text),
            "{}.{}.{}",
            registers::firmware_version::MAJOR.get(firmware),
            registers::firmware_version::MINOR.get(firmware),
            registers::firmware_version::PATCH.get(firmware),
        );
        put(c"fw", &text)?;
        let _ = write!(
            Text::new(&mut text),
            "{}.{}",
            registers::interface_version::MAJOR.get(interface),
            registers::interface_version::MINOR.get(interface),
        );
        put(c"fw.mgmt.api", &text)
    });
    Errno::of(result)
}

/// # Safety
/// `port_fn_hw_addr_get`: devlink calls it with the lock of the instance for a port of this driver;
/// there is room for an address.
unsafe extern "C" fn hw_addr_get(
    port: *mut bindings::devlink_port,
    address: *mut u8,
    length: *mut c_int,
    _extack: *mut bindings::netlink_ext_ack,
) -> c_int {
    // SAFETY: as above.
    Errno::of(unsafe { query(port) }.map(|found| {
        // SAFETY: as above.
        unsafe {
            address.cast::<[u8; 6]>().write(found.mac);
            length.write(found.mac.len() as c_int);
        }
    }))
}

/// # Safety
/// `port_fn_hw_addr_set`: as above, with an address of so many bytes.
unsafe extern "C" fn hw_addr_set(
    port: *mut bindings::devlink_port,
    address: *const u8,
    length: c_int,
    _extack: *mut bindings::netlink_ext_ack,
) -> c_int {
    if length != 6 {
        return EINVAL.get();
    }
    // SAFETY: as above.
    unsafe {
        let settings = VfChange {
            mac: Some(address.cast::<[u8; 6]>().read()),
            ..VfChange::default()
        };
        change(port, &settings)
    }
}

/// # Safety
/// `port_fn_state_get`: devlink calls it with the lock of the instance for a port of this driver.
unsafe extern "C" fn state_get(
    port: *mut bindings::devlink_port,
    state: *mut bindings::devlink_port_fn_state,
    attached: *mut bindings::devlink_port_fn_opstate,
    _extack: *mut bindings::netlink_ext_ack,
) -> c_int {
    // SAFETY: as above.
    Errno::of(unsafe { query(port) }.map(|found| {
        let enabled = found.flags & VfFlags::ENABLED.bits() != 0;
        let ready = found.state == DeviceState::Ready.raw();
        // SAFETY: as above.
        unsafe {
            state.write(match enabled {
                true => bindings::DEVLINK_PORT_FN_STATE_ACTIVE,
                false => bindings::DEVLINK_PORT_FN_STATE_INACTIVE,
            });
            attached.write(match ready {
                true => bindings::DEVLINK_PORT_FN_OPSTATE_ATTACHED,
                false => bindings::DEVLINK_PORT_FN_OPSTATE_DETACHED,
            });
        }
    }))
}

/// # Safety
/// `port_fn_state_set`: as above.
unsafe extern "C" fn state_set(
    port: *mut bindings::devlink_port,
    state: bindings::devlink_port_fn_state,
    _extack: *mut bindings::netlink_ext_ack,
) -> c_int {
    let settings = VfChange {
        enabled: Some(state == bindings::DEVLINK_PORT_FN_STATE_ACTIVE),
        ..VfChange::default()
    };
    // SAFETY: as above.
    unsafe { change(port, &settings) }
}
