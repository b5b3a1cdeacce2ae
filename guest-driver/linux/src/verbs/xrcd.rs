//! XRC domains (InfiniBand Architecture volume 1, annex A14).

use alloc::boxed::Box;
use core::ffi::c_int;

use vrnic_driver::XrcDomain;

use super::device::Shared;
use super::object::Object;
use crate::bindings;
use crate::kernel::Errno;
use crate::platform::Kernel;

/// The core's XRC domain with the driver's.
pub(super) type XrcdObject = Object<bindings::ib_xrcd, XrcDomain<Kernel>>;

/// # Safety
/// The argument is that of the operation.
unsafe fn alloc(base: *mut bindings::ib_xrcd) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let shared = unsafe { Shared::of((*base).device) };
    let xrcd = shared.nic.driver.create_xrcd()?;
    // SAFETY: the domain that is being created.
    unsafe { XrcdObject::put(base, Box::new(xrcd)) };
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `base` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it.
unsafe extern "C" fn alloc_xrcd(
    base: *mut bindings::ib_xrcd,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { alloc(base) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `base` that was created and that nobody
/// uses any more.
unsafe extern "C" fn dealloc_xrcd(
    base: *mut bindings::ib_xrcd,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { XrcdObject::destroy(base, XrcDomain::destroy) })
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.size_ib_xrcd = XrcdObject::SIZE;
    ops.alloc_xrcd = Some(alloc_xrcd);
    ops.dealloc_xrcd = Some(dealloc_xrcd);
}
