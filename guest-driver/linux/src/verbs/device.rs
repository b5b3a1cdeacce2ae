//! Registration and identity.
//!
//! [`Shared`] is what operations work with. It outlives the registration, which ends when the core
//! has taken all objects of the device from their users.

use alloc::sync::Arc;
use core::ffi::{c_char, c_int};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use vrnic_driver::abi::doorbell;
use vrnic_driver::abi::object::{DeviceAttributes, PortAttributes};
use vrnic_driver::abi::registers::{Capabilities, firmware_version};
use vrnic_driver::abi::wqe::RESERVED_LKEY;
use vrnic_driver::{Lock, Shares};

use crate::bindings;
use crate::function::Nic;
use crate::interrupts::Part;
use crate::kernel::errno::{ENOMEM, EOPNOTSUPP};
use crate::kernel::lock::Mutex;
use crate::kernel::log::Line;
use crate::kernel::{Errno, SpinLock};
use crate::net;

/// The only port.
pub(super) const PORT: u32 = 1;
/// Bytes of a firmware version, as the core has room for.
const FIRMWARE_LENGTH: usize = bindings::ETHTOOL_FWVERS_LEN as usize;

/// What the operations on a device share.
pub(super) struct Shared {
    pub(super) nic: Arc<Nic>,
    pub(super) ibdev: NonNull<bindings::ib_device>,
    pub(super) netdev: *mut bindings::net_device,
    /// Counts the keys that were made.
    keys: AtomicU8,
    /// Doorbell pages by the users who have them.
    pub(super) pages: SpinLock<Shares<u32>>,
    /// Whether clients know the port as active.
    pub(super) told_up: Mutex<bool>,
    /// Held by who looks at an object that others may be destroying, and by who begins to do so.
    pub(super) inspection: Mutex<()>,
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

    /// Limits and identity.
    pub(super) fn attributes(&self) -> &DeviceAttributes {
        self.nic.driver.attributes()
    }

    /// Whether the device can do all of these.
    pub(super) fn has(&self, capabilities: Capabilities) -> bool {
        self.nic.driver.capabilities().contains(capabilities)
    }

    /// Whether packets can go by the Ethernet interface.
    pub(super) fn interface_is_up(&self) -> bool {
        // SAFETY: it outlives the value.
        unsafe { bindings::vrnic_netdev_is_up(self.netdev) }
    }

    /// Bits 7:0 of a new key: others each time, so that an old key is not soon valid again.
    pub(super) fn next_variant(&self) -> u8 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    fn write_firmware_version(&self, to: *mut c_char) {
        let version = self.attributes().firmware_version;
        let text = Line::new(format_args!(
            "{}.{}.{}",
            firmware_version::MAJOR.get(version),
            firmware_version::MINOR.get(version),
            firmware_version::PATCH.get(version),
        ));
        // SAFETY: the core has room for so many bytes.
        unsafe { text.copy_to(to, FIRMWARE_LENGTH) };
    }

    /// Names the node, which is all that can be changed.
    fn modify(&self, mask: c_int, change: &bindings::ib_device_modify) -> Result<(), Errno> {
        let mask = mask as u32;
        if mask & !bindings::IB_DEVICE_MODIFY_NODE_DESC != 0 {
            return Err(EOPNOTSUPP);
        }
        if mask & bindings::IB_DEVICE_MODIFY_NODE_DESC != 0 {
            // SAFETY: the device lives; readers of the text copy as many bytes as there are,
            // whatever they say.
            unsafe { (*self.ibdev.as_ptr()).node_desc = change.node_desc };
        }
        Ok(())
    }
}

/// A registered RDMA device.
pub(crate) struct Device {
    ibdev: NonNull<bindings::ib_device>,
    shared: Arc<Shared>,
    registered: bool,
}

// SAFETY: the kernel's functions for devices synchronize themselves.
unsafe impl Send for Device {}

impl Device {
    /// Registers the device, bound to an Ethernet interface. Sleepable context.
    #[inline(never)]
    pub(crate) fn new(nic: &Arc<Nic>, net: &net::Interface) -> Result<Self, Errno> {
        // SAFETY: no arguments.
        let ibdev = unsafe { bindings::vrnic_alloc_ib_device() };
        let ibdev = NonNull::new(ibdev).ok_or(ENOMEM)?;
        // Page 0 is the driver's own.
        let pages = nic.driver.attributes().max_doorbell_pages;
        let pages = pages.min(doorbell::PAGES).saturating_sub(1);
        let mut device = Self {
            ibdev,
            shared: Arc::new(Shared {
                nic: Arc::clone(nic),
                ibdev,
                netdev: net.netdev(),
                keys: AtomicU8::new(0),
                pages: SpinLock::new(Shares::new(pages)),
                told_up: Mutex::new(false),
                inspection: Mutex::new(()),
            }),
            registered: false,
        };
        device.describe()?;
        device.register()?;
        Ok(device)
    }

    /// Fills in what the core does not ask for by an operation.
    fn describe(&self) -> Result<(), Errno> {
        let nic = &self.shared.nic;
        let port = nic.driver.query_port()?;
        let ibdev = self.ibdev.as_ptr();
        let data = Arc::as_ptr(&self.shared).cast_mut();
        // SAFETY: a device that is not registered is ours alone, and its fields are valid.
        unsafe {
            (*ibdev.cast::<bindings::vrnic_ib_device>()).data = data.cast();
            let ib = &mut *ibdev;
            ib.node_type = bindings::RDMA_NODE_IB_CA as u8;
            ib.node_guid = node_guid(self.shared.attributes(), &port);
            ib.phys_port_cnt = PORT;
            ib.num_comp_vectors = c_int::from(nic.driver.completion_vectors());
            ib.__bindgen_anon_1.dev.parent = nic.device();
            if self.shared.has(Capabilities::RESERVED_LKEY) {
                ib.local_dma_lkey = RESERVED_LKEY;
            }
            bindings::ib_set_device_ops(ibdev, &super::operations());
            bindings::vrnic_set_max_segment(nic.device(), u32::MAX);
        }
        Ok(())
    }

    fn register(&mut self) -> Result<(), Errno> {
        let ibdev = self.ibdev.as_ptr();
        let up = self.shared.interface_is_up();
        self.shared.told_up.with(|told| *told = up);
        // SAFETY: everything that the operations need is in place.
        unsafe {
            let result = bindings::ib_device_set_netdev(ibdev, self.shared.netdev, PORT);
            Errno::check(result)?;
            let device = self.shared.nic.device();
            let result = bindings::ib_register_device(ibdev, c"vrnic%d".as_ptr(), device);
            Errno::check(result)?;
        }
        self.registered = true;
        // SAFETY: it lives until `drop` has ended that.
        unsafe {
            let interrupts = &self.shared.nic.interrupts;
            interrupts.listen(Part::Verbs, &*self.shared);
        }
        // What has changed before anybody listened.
        self.shared.tell_port_state();
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.nic.interrupts.ignore(Part::Verbs);
        // SAFETY: allocated by `new`, and unregistered if it was registered, which waits for all
        // who use it.
        unsafe {
            if self.registered {
                bindings::ib_unregister_device(self.ibdev.as_ptr());
            }
            bindings::ib_dealloc_device(self.ibdev.as_ptr());
        }
    }
}

/// The node's identifier in network byte order: the device's, or what EUI-64 makes of the port's
/// address.
fn node_guid(attributes: &DeviceAttributes, port: &PortAttributes) -> u64 {
    let guid = attributes.node_guid;
    if guid != [0; 8] {
        return u64::from_ne_bytes(guid);
    }
    let [a, b, c, d, e, f] = port.mac;
    u64::from_ne_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// # Safety
/// The RDMA core calls it for a registered device of this driver; there is room for a version.
unsafe extern "C" fn get_dev_fw_str(ibdev: *mut bindings::ib_device, to: *mut c_char) {
    // SAFETY: a device of this driver.
    unsafe { Shared::of(ibdev) }.write_firmware_version(to);
}

/// # Safety
/// The RDMA core calls it in process context for a registered device of this driver; `change` is
/// the request.
unsafe extern "C" fn modify_device(
    ibdev: *mut bindings::ib_device,
    mask: c_int,
    change: *mut bindings::ib_device_modify,
) -> c_int {
    // SAFETY: a device of this driver, and a change that the core gives.
    let (shared, change) = unsafe { (Shared::of(ibdev), &*change) };
    Errno::of(shared.modify(mask, change))
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.get_dev_fw_str = Some(get_dev_fw_str);
    ops.modify_device = Some(modify_device);
    ops.device_group = &raw const bindings::vrnic_attributes;
}
