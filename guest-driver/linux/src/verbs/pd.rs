//! Protection domains.

use alloc::boxed::Box;
use core::ffi::c_int;

use vrnic_driver::ProtectionDomain;
use vrnic_driver::abi::verbs::PdAnswer;

use super::device::Shared;
use super::object::Object;
use super::udata::UserData;
use crate::bindings;
use crate::kernel::Errno;
use crate::platform::Kernel;

/// The core's protection domain with the driver's.
pub(super) type PdObject = Object<bindings::ib_pd, ProtectionDomain<Kernel>>;

/// # Safety
/// The arguments are those of the operation.
unsafe fn alloc(base: *mut bindings::ib_pd, udata: *mut bindings::ib_udata) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let (shared, udata) = unsafe { (Shared::of((*base).device), UserData::new(udata)) };
    let mut pd = shared.nic.driver.create_pd()?;
    if let Some(udata) = udata {
        let answer = PdAnswer {
            pd: pd.number(),
            reserved: 0,
        };
        udata.write(&answer).inspect_err(|_| {
            // A device that does not free it keeps it until it is reset.
            let _ = pd.destroy();
        })?;
    }
    // SAFETY: the domain that is being created.
    unsafe { PdObject::put(base, Box::new(pd)) };
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `base` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it,
/// `udata` that of a process or null.
unsafe extern "C" fn alloc_pd(base: *mut bindings::ib_pd, udata: *mut bindings::ib_udata) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { alloc(base, udata) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `base` that was created and that nobody
/// uses any more.
unsafe extern "C" fn dealloc_pd(
    base: *mut bindings::ib_pd,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { PdObject::destroy(base, ProtectionDomain::destroy) })
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.size_ib_pd = PdObject::SIZE;
    ops.alloc_pd = Some(alloc_pd);
    ops.dealloc_pd = Some(dealloc_pd);
}
