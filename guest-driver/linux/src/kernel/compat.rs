//! Where kernels differ in what the Rust part sees of them.
//!
//! A difference is called by its shape, `cfg(kernel = "…")`, which `shim/shapes.sh` finds in the
//! headers; `shim/compat.h` has those of the C part. The rest of the module sees one interface.
//!
//! * `create_user_cq`: there is an operation of its own to create the completion queue of a process;
//! * `resize_user_cq`: completion queues of processes are the only ones that can be resized, and the
//!   operation says so in its name;
//! * `reg_user_mr_dmah`: memory can be registered with hints for the PCIe steering of what the device
//!   writes. Where that is an argument of an operation, the operation itself names the shape;
//! * `report_port_event`: the core tells clients of a port what its Ethernet interface does, unless
//!   the driver has an operation for that;
//! * `devlink`: the kernel has devlink.
//!
//! Numbers that are signed in one kernel and unsigned in another need no shape: they are converted
//! to whatever the field is.

use core::ffi::c_int;

use crate::bindings;

/// An operation that creates a completion queue: for the kernel, if there are no attributes.
pub(crate) type CreateCq = unsafe extern "C" fn(
    *mut bindings::ib_cq,
    *const bindings::ib_cq_init_attr,
    *mut bindings::uverbs_attr_bundle,
) -> c_int;

/// Sets the operation that creates completion queues, of processes and of the kernel.
pub(crate) fn set_create_cq(ops: &mut bindings::ib_device_ops, create: CreateCq) {
    ops.create_cq = Some(create);
    #[cfg(kernel = "create_user_cq")]
    {
        ops.create_user_cq = Some(create);
    }
}

/// Number of entries that a completion queue is to have.
#[cfg(not(kernel = "resize_user_cq"))]
pub(crate) type CqEntries = c_int;
/// Number of entries that a completion queue is to have.
#[cfg(kernel = "resize_user_cq")]
pub(crate) type CqEntries = core::ffi::c_uint;

/// An operation that resizes the completion queue of a process.
pub(crate) type ResizeCq =
    unsafe extern "C" fn(*mut bindings::ib_cq, CqEntries, *mut bindings::ib_udata) -> c_int;

/// Sets the operation that resizes completion queues.
pub(crate) fn set_resize_cq(ops: &mut bindings::ib_device_ops, resize: ResizeCq) {
    #[cfg(not(kernel = "resize_user_cq"))]
    {
        ops.resize_cq = Some(resize);
    }
    #[cfg(kernel = "resize_user_cq")]
    {
        ops.resize_user_cq = Some(resize);
    }
}

/// Keeps the core from telling clients what a port's Ethernet interface does: the driver does, in
/// every kernel, and they are not to hear it twice.
pub(crate) fn report_own_port_events(ops: &mut bindings::ib_device_ops) {
    #[cfg(not(kernel = "report_port_event"))]
    let _ = ops;
    #[cfg(kernel = "report_port_event")]
    {
        unsafe extern "C" fn nothing(
            _ibdev: *mut bindings::ib_device,
            _netdev: *mut bindings::net_device,
            _event: core::ffi::c_ulong,
        ) {
        }
        ops.report_port_event = Some(nothing);
    }
}
