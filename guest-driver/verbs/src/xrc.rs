//! XRC domains, and XRC targets that another process has created.

use core::ffi::c_int;

use vrnic_ibverbs::*;

use crate::context::Context;
use crate::fail;
use crate::ffi::command::{Answer, Nothing, Request, answer, request};
use crate::ffi::provider::*;
use crate::qp::Qp;

/// # Safety
/// The context is open; the attributes are alive.
pub(crate) unsafe extern "C" fn open_xrcd(
    context: *mut ibv_context,
    attributes: *mut ibv_xrcd_init_attr,
) -> *mut ibv_xrcd {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    // SAFETY: all zeros are a domain.
    let mut xrcd: Box<verbs_xrcd> = unsafe { Box::new(core::mem::zeroed()) };
    let mut ask = Request::<{ request::OPEN_XRCD }, Nothing>::new([]);
    let mut told = Answer::<{ answer::OPEN_XRCD }, Nothing>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    let size = size_of::<verbs_xrcd>() as c_int;
    // SAFETY: request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        let xrcd = &raw mut *xrcd;
        (library.open_xrcd)(
            context, xrcd, size, attributes, ask, ask_size, told, told_size,
        )
    };
    if error != 0 {
        return fail(error);
    }
    Box::into_raw(xrcd).cast()
}

/// # Safety
/// `xrcd` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn close_xrcd(xrcd: *mut ibv_xrcd) -> c_int {
    let own = xrcd.cast::<verbs_xrcd>();
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*xrcd).context).library.close_xrcd)(own) };
    if error == 0 {
        // SAFETY: of a box, and not used any more.
        drop(unsafe { Box::from_raw(own) });
    }
    error
}

/// # Safety
/// The context is open; the attributes are alive.
pub(crate) unsafe extern "C" fn open_qp(
    context: *mut ibv_context,
    attributes: *mut ibv_qp_open_attr,
) -> *mut ibv_qp {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    let qp = Qp::without_queues();
    let mut ask = Request::<{ request::OPEN_QP }, Nothing>::new([]);
    let mut told = Answer::<{ answer::CREATE_QP }, Nothing>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    let size = size_of::<verbs_qp>() as c_int;
    // SAFETY: request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        let qp = qp.verbs();
        (library.open_qp)(
            context, qp, size, attributes, ask, ask_size, told, told_size,
        )
    };
    if error != 0 {
        return fail(error);
    }
    Box::into_raw(qp).cast()
}
