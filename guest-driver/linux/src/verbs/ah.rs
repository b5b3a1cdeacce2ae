//! Address handles and paths.
//!
//! A handle is nothing but where it leads: requests carry that themselves, so that the device has
//! no part in handles, and the kernel can make them in atomic context. A process is told what its
//! handles hold.

use core::ffi::c_int;

use vrnic_driver::abi::object::AddressVector;
use vrnic_driver::abi::verbs::AhAnswer;

use super::device::PORT;
use super::udata::UserData;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::EINVAL;

/// Bits of a flow label.
const FLOW_LABEL: u32 = 0xf_ffff;

/// The core's address handle with the driver's. It is no [`super::object::Object`], as memory for
/// that cannot be had in atomic context.
#[repr(C)]
pub(super) struct AhObject {
    base: bindings::ib_ah,
    vector: AddressVector,
}

impl AhObject {
    /// The handle of a core's part.
    ///
    /// # Safety
    /// It is null, or one that the core has allocated for this driver and that was created. The
    /// value does not outlive the operation.
    pub(super) unsafe fn of<'a>(base: *mut bindings::ib_ah) -> Result<&'a Self, Errno> {
        // SAFETY: by the contract of this function.
        unsafe { base.cast::<Self>().as_ref() }.ok_or(EINVAL)
    }

    /// Where it leads.
    pub(super) fn vector(&self) -> AddressVector {
        self.vector
    }
}

/// A path as the device has it.
pub(super) fn vector(attr: &bindings::rdma_ah_attr) -> Result<AddressVector, Errno> {
    let global = u32::from(attr.ah_flags) & bindings::IB_AH_GRH != 0;
    if attr.type_ != bindings::RDMA_AH_ATTR_TYPE_ROCE || !global {
        return Err(EINVAL);
    }
    let grh = &attr.grh;
    // SAFETY: all forms of a GID are the same bytes; the other union is as its type says.
    let (gid, mac) = unsafe { (grh.dgid.raw, attr.__bindgen_anon_1.roce.dmac) };
    Ok(AddressVector {
        gid,
        mac,
        sgid_index: u16::from(grh.sgid_index),
        flow_label: grh.flow_label & FLOW_LABEL,
        hop_limit: grh.hop_limit,
        traffic_class: grh.traffic_class,
        service_level: attr.sl,
        ..AddressVector::default()
    })
}

/// A path of the device as the kernel has it.
pub(super) fn to_kernel(vector: &AddressVector, attr: &mut bindings::rdma_ah_attr) {
    attr.type_ = bindings::RDMA_AH_ATTR_TYPE_ROCE;
    attr.ah_flags = bindings::IB_AH_GRH as u8;
    attr.port_num = PORT;
    attr.sl = vector.service_level;
    attr.__bindgen_anon_1.roce.dmac = vector.mac;
    attr.grh.dgid.raw = vector.gid;
    // The core gives out no larger ones.
    attr.grh.sgid_index = vector.sgid_index as u8;
    attr.grh.flow_label = vector.flow_label;
    attr.grh.hop_limit = vector.hop_limit;
    attr.grh.traffic_class = vector.traffic_class;
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn create(
    base: *mut bindings::ib_ah,
    init: *mut bindings::rdma_ah_init_attr,
    udata: *mut bindings::ib_udata,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let (vector, udata) = unsafe { (vector(&*(*init).ah_attr)?, UserData::new(udata)) };
    if let Some(udata) = udata {
        udata.write(&AhAnswer { vector })?;
    }
    // SAFETY: the handle that is being created.
    unsafe { (*base.cast::<AhObject>()).vector = vector };
    Ok(())
}

/// # Safety
/// The RDMA core calls it to create an address handle, in atomic context too: `base` is zeroed
/// memory of the size that the table of operations names, and nobody else has it; `init` is a
/// checked path, `udata` that of a process or null.
unsafe extern "C" fn create_ah(
    base: *mut bindings::ib_ah,
    init: *mut bindings::rdma_ah_init_attr,
    udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { create(base, init, udata) })
}

/// # Safety
/// The RDMA core calls it for a handle that was created and that nobody uses any more.
unsafe extern "C" fn destroy_ah(_base: *mut bindings::ib_ah, _flags: u32) -> c_int {
    Errno::of(Ok(()))
}

/// # Safety
/// The RDMA core calls it for a handle that was created; `attr` is the caller's.
unsafe extern "C" fn query_ah(
    base: *mut bindings::ib_ah,
    attr: *mut bindings::rdma_ah_attr,
) -> c_int {
    // SAFETY: by the contract of this function.
    let (ah, attr) = unsafe { (AhObject::of(base), &mut *attr) };
    Errno::of(ah.map(|ah| to_kernel(&ah.vector, attr)))
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.size_ib_ah = size_of::<AhObject>();
    ops.create_ah = Some(create_ah);
    ops.create_user_ah = Some(create_ah);
    ops.destroy_ah = Some(destroy_ah);
    ops.query_ah = Some(query_ah);
}
