//! Memory windows of types 1 and 2B (InfiniBand Architecture volume 1, 10.6.7).
//!
//! A process binds its windows by itself, which changes their keys: what the core notes as a
//! window's key is its first one.

use alloc::boxed::Box;
use core::ffi::c_int;

use vrnic_driver::MemoryWindow;
use vrnic_driver::abi::admin::WindowType;

use super::device::Shared;
use super::object::Object;
use super::pd::PdObject;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::EINVAL;
use crate::platform::Kernel;

/// The core's memory window with the driver's.
type MwObject = Object<bindings::ib_mw, MemoryWindow<Kernel>>;

/// # Safety
/// The argument is that of the operation.
unsafe fn alloc(base: *mut bindings::ib_mw) -> Result<(), Errno> {
    // SAFETY: by the contract of this function; the core has filled these in.
    let (shared, pd, mw_type) = unsafe {
        let pd = PdObject::of((*base).pd)?;
        (Shared::of((*base).device), pd, (*base).type_)
    };
    let window_type = match mw_type {
        bindings::IB_MW_TYPE_1 => WindowType::Type1,
        bindings::IB_MW_TYPE_2 => WindowType::Type2,
        _ => return Err(EINVAL),
    };
    let variant = shared.next_variant();
    let window = shared.nic.driver.create_mw(pd, window_type, variant)?;
    // SAFETY: the window that is being created.
    unsafe {
        (*base).rkey = window.key();
        MwObject::put(base, Box::new(window));
    }
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `base` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it.
unsafe extern "C" fn alloc_mw(
    base: *mut bindings::ib_mw,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { alloc(base) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `base` that was created and that nobody
/// uses any more.
unsafe extern "C" fn dealloc_mw(base: *mut bindings::ib_mw) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { MwObject::destroy(base, MemoryWindow::destroy) })
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.size_ib_mw = MwObject::SIZE;
    ops.alloc_mw = Some(alloc_mw);
    ops.dealloc_mw = Some(dealloc_mw);
}
