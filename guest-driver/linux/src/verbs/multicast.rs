//! Multicast groups of datagram queue pairs (InfiniBand Architecture volume 1, 10.5).
//!
//! The core names a group by its GID alone: the driver core finds the VLANs that are meant.

use core::ffi::c_int;

use vrnic_driver::{Error, QpControl};

use super::qp::QpObject;
use crate::bindings;
use crate::kernel::Errno;
use crate::platform::Kernel;

/// Does something about a queue pair's membership in a group.
///
/// # Safety
/// The arguments are those of the operation.
unsafe fn change(
    qp: *mut bindings::ib_qp,
    gid: *mut bindings::ib_gid,
    change: impl FnOnce(&mut QpControl<Kernel>, [u8; 16]) -> Result<(), Error>,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function; all forms of a GID are the same bytes.
    let (qp, gid) = unsafe { (QpObject::of(qp)?, (*gid).raw) };
    qp.with_control(|control| change(control, gid))??;
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context for a queue pair that is not destroyed meanwhile;
/// `gid` is the request.
unsafe extern "C" fn attach_mcast(
    qp: *mut bindings::ib_qp,
    gid: *mut bindings::ib_gid,
    _lid: u16,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { change(qp, gid, QpControl::join_group) })
}

/// # Safety
/// As for [`attach_mcast`].
unsafe extern "C" fn detach_mcast(
    qp: *mut bindings::ib_qp,
    gid: *mut bindings::ib_gid,
    _lid: u16,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { change(qp, gid, QpControl::leave_group) })
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.attach_mcast = Some(attach_mcast);
    ops.detach_mcast = Some(detach_mcast);
}
