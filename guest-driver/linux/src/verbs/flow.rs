//! Flows: which Ethernet frames raw packet queue pairs receive.
//!
//! A flow is a filter of the device. Filters look at the destination address and the VLAN, so a flow
//! that asks for more is refused. Each takes a copy of what it matches: priorities have no effect,
//! and no flow takes frames away from another or from the Ethernet interface.

use alloc::boxed::Box;
use core::ffi::c_int;

use vrnic_driver::{Filter, FilterConfig, Frames};

use super::device::{PORT, Shared};
use super::qp::QpObject;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, EOPNOTSUPP};
use crate::platform::Kernel;

/// Bits of a VLAN identifier in a tag.
const VLAN: u16 = 0xfff;
/// The bit of an address that groups have, alone.
const GROUP: [u8; 6] = [1, 0, 0, 0, 0, 0];

/// A flow as the core has it, and the driver's part. The core does not allocate flows.
#[repr(C)]
struct Flow {
    base: bindings::ib_flow,
    filter: Filter<Kernel>,
}

/// The frames that one specification of an Ethernet header describes.
fn ethernet(spec: &bindings::ib_flow_spec_eth) -> Result<FilterConfig, Errno> {
    let (value, mask) = (&spec.val, &spec.mask);
    if mask.src_mac != [0; 6] || mask.ether_type != 0 {
        return Err(EOPNOTSUPP);
    }
    let frames = match (mask.dst_mac, value.dst_mac) {
        ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => {
            Frames::Broadcast
        }
        ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff], address) => Frames::Address(address),
        (GROUP, [first, ..]) if first & 1 == 1 => Frames::AllMulticast,
        ([0, 0, 0, 0, 0, 0], _) => Frames::All,
        _ => return Err(EOPNOTSUPP),
    };
    let vlan = match u16::from_be(mask.vlan_tag) {
        0 => None,
        VLAN => Some(u16::from_be(value.vlan_tag) & VLAN),
        _ => return Err(EOPNOTSUPP),
    };
    Ok(FilterConfig {
        frames,
        vlan,
        spread: false,
    })
}

/// The only specification of a flow.
///
/// # Safety
/// `attr` is the core's, and followed by as many specifications as it says.
unsafe fn specified(attr: *const bindings::ib_flow_attr) -> Result<FilterConfig, Errno> {
    // SAFETY: by the contract of this function; a specification begins with its type.
    unsafe {
        if (*attr).num_of_specs != 1 {
            return Err(EOPNOTSUPP);
        }
        let spec = (&raw const (*attr).flows).cast::<bindings::ib_flow_spec_eth>();
        if (*spec).type_ != bindings::IB_FLOW_SPEC_ETH {
            return Err(EOPNOTSUPP);
        }
        ethernet(&*spec)
    }
}

/// The filter that a flow is.
///
/// # Safety
/// As for [`specified`].
unsafe fn config(attr: *const bindings::ib_flow_attr) -> Result<FilterConfig, Errno> {
    // SAFETY: by the contract of this function.
    let (kind, flags, port) = unsafe { ((*attr).type_, (*attr).flags, (*attr).port) };
    if port != PORT {
        return Err(EINVAL);
    }
    if flags & !bindings::IB_FLOW_ATTR_FLAGS_DONT_TRAP != 0 {
        return Err(EOPNOTSUPP);
    }
    let frames = match kind {
        // SAFETY: by the contract of this function.
        bindings::IB_FLOW_ATTR_NORMAL => return unsafe { specified(attr) },
        bindings::IB_FLOW_ATTR_MC_DEFAULT => Frames::AllMulticast,
        bindings::IB_FLOW_ATTR_ALL_DEFAULT | bindings::IB_FLOW_ATTR_SNIFFER => Frames::All,
        _ => return Err(EOPNOTSUPP),
    };
    Ok(FilterConfig {
        frames,
        vlan: None,
        spread: false,
    })
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn create(
    qp: *mut bindings::ib_qp,
    attr: *const bindings::ib_flow_attr,
) -> Result<*mut bindings::ib_flow, Errno> {
    // SAFETY: by the contract of this function.
    let (shared, qp, config) =
        unsafe { (Shared::of((*qp).device), QpObject::of(qp)?, config(attr)?) };
    let driver = &shared.nic.driver;
    let filter = qp.with_control(|control| driver.create_filter(control, config))??;
    let base = bindings::ib_flow::default();
    Ok(Box::into_raw(Box::new(Flow { base, filter })).cast())
}

/// # Safety
/// `base` is from [`create`] and was not destroyed.
unsafe fn destroy(base: *mut bindings::ib_flow) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let mut flow = unsafe { Box::from_raw(base.cast::<Flow>()) };
    flow.filter.destroy().map_err(|error| {
        // It goes on.
        let _ = Box::into_raw(flow);
        error.into()
    })
}

/// # Safety
/// The RDMA core calls it in process context for a queue pair that it keeps while the flow exists;
/// `attr` is a rule with all that it counts.
unsafe extern "C" fn create_flow(
    qp: *mut bindings::ib_qp,
    attr: *mut bindings::ib_flow_attr,
    _udata: *mut bindings::ib_udata,
) -> *mut bindings::ib_flow {
    // SAFETY: by the contract of this function.
    unsafe { create(qp, attr) }.unwrap_or_else(Errno::as_pointer)
}

/// # Safety
/// The RDMA core calls it in process context for a flow of [`create_flow`], once.
unsafe extern "C" fn destroy_flow(flow: *mut bindings::ib_flow) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { destroy(flow) })
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.create_flow = Some(create_flow);
    ops.destroy_flow = Some(destroy_flow);
}
