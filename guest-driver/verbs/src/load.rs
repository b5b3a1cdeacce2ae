//! How `libibverbs` finds the provider, and the provider its devices.
//!
//! `libibverbs` loads the file `libvrnic-rdmav34.so`, whose constructor registers the provider.
//! Devices are recognized by their PCI IDs. One line on the error output says why a library or a
//! kernel driver of another version is not used.

use core::ffi::c_void;
use std::sync::OnceLock;

use vrnic_abi::{pci, verbs};
use vrnic_ibverbs::{ibv_device, verbs_context};

use crate::context;
use crate::ffi::provider::*;
use crate::library::{Library, Missing};

/// The functions of `libibverbs`, from its loading of this file on.
static LIBRARY: OnceLock<Library> = OnceLock::new();

/// A constant that holds pointers to other constants.
#[repr(transparent)]
struct Constant<T>(T);

// SAFETY: what is inside never changes, and neither does what it points to.
unsafe impl<T> Sync for Constant<T> {}

const fn pci_device(device: u16) -> verbs_match_ent {
    verbs_match_ent {
        driver_data: core::ptr::null_mut(),
        driver_id: 0,
        vendor: pci::VENDOR_ID,
        device,
        kind: MATCH_PCI,
    }
}

static DEVICES: Constant<[verbs_match_ent; 3]> = Constant([
    pci_device(pci::DEVICE_ID_PF),
    pci_device(pci::DEVICE_ID_VF),
    verbs_match_ent {
        kind: MATCH_SENTINEL,
        ..pci_device(0)
    },
]);

/// Kernel drivers of any version are accepted here, so that [`alloc_device`] can say what is wrong.
static PROVIDER: Constant<verbs_device_ops> = Constant(verbs_device_ops {
    name: c"vrnic".as_ptr(),
    match_min_abi_version: 0,
    match_max_abi_version: u32::MAX,
    match_table: DEVICES.0.as_ptr(),
    static_providers: core::ptr::null(),
    match_device: None,
    alloc_context: Some(alloc_context),
    import_context: None,
    alloc_device: Some(alloc_device),
    uninit_device: Some(uninit_device),
});

/// Registers the provider with the `libibverbs` that has loaded it.
extern "C" fn register() {
    match Library::of_process() {
        Ok(library) => {
            let library = LIBRARY.get_or_init(|| library);
            // SAFETY: the structure lives as long as this file is loaded, which is for ever.
            unsafe { (library.register_driver)(&raw const PROVIDER.0) };
        }
        // Whoever loads the file without `libibverbs` wants no provider.
        Err(Missing::Library) => {}
        Err(Missing::Symbol { symbol, file }) => eprintln!(
            "vrnic: {file} has no {symbol} of {INTERFACE}: this provider needs rdma-core 56, or \
             another with that interface",
            symbol = symbol.to_string_lossy(),
        ),
    }
}

/// Called when the file is loaded.
#[used]
#[cfg(not(test))]
// SAFETY: the loader calls what this section holds, once all that the file needs is loaded.
#[unsafe(link_section = ".init_array")]
static REGISTER: extern "C" fn() = register;

#[cfg(test)]
const _: extern "C" fn() = register;

/// A device for what `libibverbs` has found in sysfs.
///
/// # Safety
/// Called by `libibverbs`, with a device that it has found.
unsafe extern "C" fn alloc_device(found: *mut verbs_sysfs_dev) -> *mut verbs_device {
    // SAFETY: the caller's device is alive during the call.
    let (version, name) = unsafe { ((*found).abi_ver, &(*found).ibdev_name) };
    if version != verbs::VERSION {
        let name = context::string(name);
        report_version(&name, version);
        return crate::fail(libc::EOPNOTSUPP);
    }
    // SAFETY: allocates; all zeros are a valid device.
    unsafe { libc::calloc(1, size_of::<verbs_device>()).cast() }
}

/// Says that a kernel driver has another version.
pub(crate) fn report_version(device: &str, version: u32) {
    eprintln!(
        "vrnic: the kernel driver of {device} has version {version} of the interface to user \
         space, this provider needs version {}: install both from the same release",
        verbs::VERSION
    );
}

/// # Safety
/// Called by `libibverbs`, with a device of [`alloc_device`].
unsafe extern "C" fn uninit_device(device: *mut verbs_device) {
    // SAFETY: from `calloc`, and not used any more.
    unsafe { libc::free(device.cast()) };
}

/// # Safety
/// Called by `libibverbs`, with a device of [`alloc_device`] and a file that is handed over.
unsafe extern "C" fn alloc_context(
    device: *mut ibv_device,
    file: core::ffi::c_int,
    _private: *mut c_void,
) -> *mut verbs_context {
    match LIBRARY.get() {
        // SAFETY: as the caller says.
        Some(library) => unsafe { context::open(library, device, file) },
        None => crate::fail(libc::ENODEV),
    }
}
