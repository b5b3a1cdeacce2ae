//! Address handles, multicast groups, and rules for received frames.
//!
//! The driver answers where a handle leads, and each datagram carries that: the device keeps
//! nothing of a handle.

use core::cell::UnsafeCell;
use core::ffi::c_int;

use vrnic_abi::object::AddressVector;
use vrnic_abi::verbs::AhAnswer;
use vrnic_ibverbs::*;

use crate::context::Context;
use crate::fail;
use crate::ffi::command::{Answer, answer};

/// An address handle.
#[repr(C)]
pub(crate) struct Ah {
    ibv: UnsafeCell<ibv_ah>,
    vector: AddressVector,
}

/// Where `ah` leads.
///
/// # Safety
/// `ah` is alive.
#[inline]
pub(crate) unsafe fn vector(ah: *mut ibv_ah) -> AddressVector {
    // SAFETY: as the caller says.
    unsafe { (*ah.cast::<Ah>()).vector }
}

/// # Safety
/// `pd` and the attributes are alive.
pub(crate) unsafe extern "C" fn create_ah(
    pd: *mut ibv_pd,
    attributes: *mut ibv_ah_attr,
) -> *mut ibv_ah {
    // SAFETY: as the caller says.
    let context = unsafe { (*pd).context };
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    let mut ah = Box::new(Ah {
        ibv: UnsafeCell::new(ibv_ah {
            context,
            pd,
            handle: 0,
        }),
        vector: AddressVector::default(),
    });
    let mut told = Answer::<{ answer::CREATE_AH }, AhAnswer>::new();
    let size = told.size();
    // SAFETY: the answer has that size.
    let error = unsafe {
        let told = (&raw mut told).cast();
        (library.create_ah)(pd, ah.ibv.get(), attributes, told, size)
    };
    if error != 0 {
        return fail(error);
    }
    ah.vector = told.own().vector;
    Box::into_raw(ah).cast()
}

/// # Safety
/// `ah` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn destroy_ah(ah: *mut ibv_ah) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*ah).context).library.destroy_ah)(ah) };
    if error == 0 {
        // SAFETY: of a box, and not used any more.
        drop(unsafe { Box::from_raw(ah.cast::<Ah>()) });
    }
    error
}

/// # Safety
/// `qp` and `gid` are alive.
pub(crate) unsafe extern "C" fn attach_mcast(
    qp: *mut ibv_qp,
    gid: *const ibv_gid,
    lid: u16,
) -> c_int {
    // SAFETY: as the caller says.
    unsafe { (Context::of((*qp).context).library.attach_mcast)(qp, gid, lid) }
}

/// # Safety
/// `qp` and `gid` are alive.
pub(crate) unsafe extern "C" fn detach_mcast(
    qp: *mut ibv_qp,
    gid: *const ibv_gid,
    lid: u16,
) -> c_int {
    // SAFETY: as the caller says.
    unsafe { (Context::of((*qp).context).library.detach_mcast)(qp, gid, lid) }
}

/// # Safety
/// `qp` and the attributes are alive.
pub(crate) unsafe extern "C" fn create_flow(
    qp: *mut ibv_qp,
    attributes: *mut ibv_flow_attr,
) -> *mut ibv_flow {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*qp).context) }.library;
    // SAFETY: all zeros are a rule.
    let mut flow: Box<ibv_flow> = unsafe { Box::new(core::mem::zeroed()) };
    // SAFETY: there is no part of the provider's.
    let error = unsafe {
        let none = core::ptr::null_mut();
        (library.create_flow)(qp, &raw mut *flow, attributes, none, 0)
    };
    if error != 0 {
        return fail(error);
    }
    Box::into_raw(flow)
}

/// # Safety
/// `flow` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn destroy_flow(flow: *mut ibv_flow) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*flow).context).library.destroy_flow)(flow) };
    if error == 0 {
        // SAFETY: of a box, and not used any more.
        drop(unsafe { Box::from_raw(flow) });
    }
    error
}
