//! Protection domains, memory regions and memory windows.
//!
//! The device gets all it needs of them from the kernel. A *thread domain* is the application's
//! promise to use queues that are created in it from one thread at a time; a *parent domain* joins
//! one with a protection domain, and stands for that everywhere else.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use vrnic_abi::verbs::PdAnswer;
use vrnic_ibverbs::*;

use crate::context::Context;
use crate::fail;
use crate::ffi::command::{Answer, Nothing, Request, answer, request};
use crate::ffi::provider::*;

/// A protection domain, or a parent domain.
#[repr(C)]
pub(crate) struct Pd {
    ibv: UnsafeCell<ibv_pd>,
    /// The domain that a parent domain stands for.
    of: *mut Pd,
    /// The thread domain of a parent domain.
    thread: *mut Td,
    /// Parent domains that stand for this one.
    users: AtomicU32,
}

/// A thread domain.
#[repr(C)]
pub(crate) struct Td {
    ibv: UnsafeCell<ibv_td>,
    /// Parent domains that it belongs to.
    users: AtomicU32,
}

/// Whether queues of `pd`, which may be null, are used from one thread at a time.
///
/// # Safety
/// `pd` is null or alive.
pub(crate) unsafe fn is_single_threaded(pd: *mut ibv_pd) -> bool {
    // SAFETY: as the caller says.
    !pd.is_null() && unsafe { !(*pd.cast::<Pd>()).thread.is_null() }
}

/// # Safety
/// The context is open.
pub(crate) unsafe extern "C" fn alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    let pd = Box::new(Pd {
        ibv: UnsafeCell::new(ibv_pd { context, handle: 0 }),
        of: core::ptr::null_mut(),
        thread: core::ptr::null_mut(),
        users: AtomicU32::new(0),
    });
    let mut ask = Request::<{ request::ALLOC_PD }, Nothing>::new([]);
    let mut told = Answer::<{ answer::ALLOC_PD }, PdAnswer>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // SAFETY: request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        (library.alloc_pd)(context, pd.ibv.get(), ask, ask_size, told, told_size)
    };
    if error != 0 {
        return fail(error);
    }
    Box::into_raw(pd).cast()
}

/// # Safety
/// `pd` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn dealloc_pd(pd: *mut ibv_pd) -> c_int {
    let own = pd.cast::<Pd>();
    // SAFETY: as the caller says.
    let (of, thread, users) = unsafe { ((*own).of, (*own).thread, &(*own).users) };
    if users.load(Ordering::Acquire) != 0 {
        return libc::EBUSY;
    }
    if of.is_null() {
        // SAFETY: as the caller says.
        let error = unsafe { (Context::of((*pd).context).library.dealloc_pd)(pd) };
        if error != 0 {
            return error;
        }
    } else {
        // SAFETY: what a parent domain is made of outlives it, as it is counted.
        unsafe {
            (*of).users.fetch_sub(1, Ordering::AcqRel);
            if !thread.is_null() {
                (*thread).users.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
    // SAFETY: of a box, and not used any more.
    drop(unsafe { Box::from_raw(own) });
    0
}

/// # Safety
/// The context is open.
pub(crate) unsafe extern "C" fn alloc_td(
    context: *mut ibv_context,
    attributes: *mut ibv_td_init_attr,
) -> *mut ibv_td {
    // SAFETY: the caller's attributes are alive during the call.
    if unsafe { (*attributes).comp_mask } != 0 {
        return fail(libc::EOPNOTSUPP);
    }
    let td = Box::new(Td {
        ibv: UnsafeCell::new(ibv_td { context }),
        users: AtomicU32::new(0),
    });
    Box::into_raw(td).cast()
}

/// # Safety
/// `td` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn dealloc_td(td: *mut ibv_td) -> c_int {
    let own = td.cast::<Td>();
    // SAFETY: as the caller says.
    if unsafe { &(*own).users }.load(Ordering::Acquire) != 0 {
        return libc::EBUSY;
    }
    // SAFETY: of a box, and not used any more.
    drop(unsafe { Box::from_raw(own) });
    0
}

/// # Safety
/// The context is open; what the attributes name is alive.
pub(crate) unsafe extern "C" fn alloc_parent_domain(
    context: *mut ibv_context,
    attributes: *mut ibv_parent_domain_init_attr,
) -> *mut ibv_pd {
    // SAFETY: the caller's attributes are alive during the call.
    let (pd, td, mask) = unsafe {
        let attributes = &*attributes;
        (
            attributes.pd.cast::<Pd>(),
            attributes.td.cast::<Td>(),
            attributes.comp_mask,
        )
    };
    if pd.is_null() {
        return fail(libc::EINVAL);
    }
    if mask & !PARENT_DOMAIN_KNOWN != 0 {
        return fail(libc::EOPNOTSUPP);
    }
    // SAFETY: as the caller says.
    let handle = unsafe {
        (*pd).users.fetch_add(1, Ordering::AcqRel);
        if !td.is_null() {
            (*td).users.fetch_add(1, Ordering::AcqRel);
        }
        (*(*pd).ibv.get()).handle
    };
    let parent = Box::new(Pd {
        ibv: UnsafeCell::new(ibv_pd { context, handle }),
        of: pd,
        thread: td,
        users: AtomicU32::new(0),
    });
    Box::into_raw(parent).cast()
}

/// # Safety
/// `pd` is alive.
pub(crate) unsafe extern "C" fn reg_mr(
    pd: *mut ibv_pd,
    start: *mut c_void,
    length: usize,
    address: u64,
    access: c_int,
) -> *mut ibv_mr {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*pd).context) }.library;
    // SAFETY: all zeros are a region.
    let mut mr: Box<verbs_mr> = unsafe { Box::new(core::mem::zeroed()) };
    let mut ask = Request::<{ request::REG_MR }, Nothing>::new([]);
    let mut told = Answer::<{ answer::REG_MR }, Nothing>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // SAFETY: request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        let mr = &raw mut *mr;
        (library.reg_mr)(
            pd, start, length, address, access, mr, ask, ask_size, told, told_size,
        )
    };
    if error != 0 {
        return fail(error);
    }
    Box::into_raw(mr).cast()
}

/// # Safety
/// `mr` and `pd` are alive, as far as `flags` name them.
pub(crate) unsafe extern "C" fn rereg_mr(
    mr: *mut verbs_mr,
    flags: c_int,
    pd: *mut ibv_pd,
    start: *mut c_void,
    length: usize,
    access: c_int,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*mr).ibv_mr.context) }.library;
    let mut ask = Request::<{ request::REREG_MR }, Nothing>::new([]);
    let mut told = Answer::<{ answer::REREG_MR }, Nothing>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    let address = start as u64;
    // SAFETY: request and answer have these sizes.
    unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        let flags = flags as u32;
        (library.rereg_mr)(
            mr, flags, start, length, address, access, pd, ask, ask_size, told, told_size,
        )
    }
}

/// # Safety
/// `mr` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn dereg_mr(mr: *mut verbs_mr) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*mr).ibv_mr.context).library.dereg_mr)(mr) };
    if error == 0 {
        // SAFETY: of a box, and not used any more.
        drop(unsafe { Box::from_raw(mr) });
    }
    error
}

/// # Safety
/// `pd` is alive.
pub(crate) unsafe extern "C" fn alloc_mw(pd: *mut ibv_pd, mw_type: c_uint) -> *mut ibv_mw {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*pd).context) }.library;
    // SAFETY: all zeros are a window.
    let mut mw: Box<ibv_mw> = unsafe { Box::new(core::mem::zeroed()) };
    let mut ask = Request::<{ request::ALLOC_MW }, Nothing>::new([]);
    let mut told = Answer::<{ answer::ALLOC_MW }, Nothing>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // SAFETY: request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        (library.alloc_mw)(pd, mw_type, &raw mut *mw, ask, ask_size, told, told_size)
    };
    if error != 0 {
        return fail(error);
    }
    Box::into_raw(mw)
}

/// # Safety
/// `mw` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn dealloc_mw(mw: *mut ibv_mw) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*mw).context).library.dealloc_mw)(mw) };
    if error == 0 {
        // SAFETY: of a box, and not used any more.
        drop(unsafe { Box::from_raw(mw) });
    }
    error
}
