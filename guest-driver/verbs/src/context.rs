//! Open devices: the first exchange with the kernel driver, doorbell pages, queries.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int};
use core::mem::offset_of;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use bytemuck::Zeroable;
use vrnic_abi::registers::Capabilities;
use vrnic_abi::verbs::{self, AllocContext, ContextAnswer, PageAnswer};
use vrnic_ibverbs::*;

use crate::doorbell::{Doorbell, Page};
use crate::ffi::command::{Answer, Nothing, Request, answer, request};
use crate::ffi::provider::*;
use crate::library::Library;
use crate::load::report_version;
use crate::{address, cq, fail, memory, qp, srq, xrc};

/// An open device: what `libibverbs` knows of it, and the provider's part.
#[repr(C)]
pub(crate) struct Context {
    verbs: UnsafeCell<verbs_context>,
    own: Own,
}

/// The provider's part of a context.
pub(crate) struct Own {
    pub(crate) library: &'static Library,
    /// The file of the context, which pages are mapped from.
    file: c_int,
    /// What the driver has said of the device.
    pub(crate) limits: Limits,
    /// The doorbell pages, by the driver's numbers. They stay mapped while the context lives.
    pages: Mutex<BTreeMap<u32, Page>>,
}

/// What the device can do, as far as posting depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) capabilities: Capabilities,
    pub(crate) max_sge: u32,
    pub(crate) max_inline: u32,
    pub(crate) log_max_send_blocks: u8,
    pub(crate) log_max_receive_entries: u8,
    pub(crate) log_max_cq_entries: u8,
    pub(crate) log_max_srq_entries: u8,
}

impl Limits {
    fn new(answer: &ContextAnswer) -> Self {
        Self {
            capabilities: Capabilities::from_bits_truncate(answer.capabilities),
            max_sge: answer.max_sge,
            max_inline: answer.max_inline,
            log_max_send_blocks: answer.log_max_send_blocks,
            log_max_receive_entries: answer.log_max_receive_entries,
            log_max_cq_entries: answer.log_max_cq_entries,
            log_max_srq_entries: answer.log_max_srq_entries,
        }
    }
}

impl Context {
    /// The provider's part of `context`.
    ///
    /// # Safety
    /// `context` is one of [`open`]'s, and open.
    #[inline]
    pub(crate) unsafe fn of<'a>(context: *mut ibv_context) -> &'a Own {
        // SAFETY: what the application has stands at that place of a `Context`.
        unsafe {
            &(*context
                .byte_sub(offset_of!(verbs_context, context))
                .cast::<Self>())
            .own
        }
    }
}

impl Own {
    /// The doorbell that the driver has named; `None` if it cannot be mapped or does not exist.
    pub(crate) fn doorbell(&self, page: &PageAnswer, slot: u32) -> Option<Doorbell> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = pages.get(&page.index) {
            return page.slot(slot);
        }
        let mapped = Page::map(self.file, page)?;
        let doorbell = mapped.slot(slot);
        pages.insert(page.index, mapped);
        doorbell
    }
}

/// A string in an array.
pub(crate) fn string(array: &[c_char]) -> String {
    let bytes = array.iter().map(|&byte| byte as u8);
    let text: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&text).into_owned()
}

/// Opens a device.
///
/// # Safety
/// `device` is alive; `file` is the device's and is handed over.
pub(crate) unsafe fn open(
    library: &'static Library,
    device: *mut ibv_device,
    file: c_int,
) -> *mut verbs_context {
    let size = size_of::<Context>();
    // SAFETY: as the caller says; what `libibverbs` knows stands at the start, at offset 0.
    let allocated =
        unsafe { (library.init_and_alloc_context)(device, file, size, core::ptr::null_mut(), 0) };
    if allocated.is_null() {
        return core::ptr::null_mut();
    }
    let context = allocated.cast::<Context>();
    // SAFETY: of that size, and the part of `libibverbs` is initialized.
    let verbs = unsafe { UnsafeCell::raw_get(&raw const (*context).verbs) };
    // SAFETY: as above.
    match unsafe { exchange(library, verbs, device) } {
        Ok(answer) => {
            let own = Own {
                library,
                file,
                limits: Limits::new(&answer),
                pages: Mutex::new(BTreeMap::new()),
            };
            // SAFETY: the place is the context's, and nothing stands there yet.
            unsafe {
                (&raw mut (*context).own).write(own);
                (library.set_ops)(verbs, &raw const OPERATIONS);
            }
            verbs
        }
        Err(error) => {
            // SAFETY: nobody else knows the context; it is of `calloc`.
            unsafe {
                (library.uninit_context)(verbs);
                libc::free(allocated);
            }
            fail(error)
        }
    }
}

/// Makes the kernel's context, and compares versions.
///
/// # Safety
/// `context` was initialized for `device`, which is alive.
unsafe fn exchange(
    library: &Library,
    context: *mut verbs_context,
    device: *const ibv_device,
) -> Result<ContextAnswer, c_int> {
    let mut ask = Request::<{ request::GET_CONTEXT }, _>::new(AllocContext {
        version: verbs::VERSION,
        ..AllocContext::zeroed()
    });
    let mut told = Answer::<{ answer::GET_CONTEXT }, ContextAnswer>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // SAFETY: request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        (library.get_context)(context, ask, ask_size, told, told_size)
    };
    if error != 0 {
        return Err(error);
    }
    let answer = told.own();
    if answer.version != verbs::VERSION {
        // SAFETY: the device is alive.
        report_version(&string(unsafe { &(*device).name }), answer.version);
        return Err(libc::EOPNOTSUPP);
    }
    Ok(answer)
}

/// Closes a device.
///
/// # Safety
/// `context` is one of [`open`]'s, and nothing of it is in use.
unsafe extern "C" fn free_context(context: *mut ibv_context) {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    // SAFETY: what the application has stands at that place of a `Context`.
    let all = unsafe { context.byte_sub(offset_of!(verbs_context, context)) }.cast::<Context>();
    // SAFETY: this is the end of the context, which is of `calloc`.
    unsafe {
        (&raw mut (*all).own).drop_in_place();
        (library.uninit_context)(all.cast());
        libc::free(all.cast());
    }
}

/// # Safety
/// The context is open; `attributes` has `size` bytes.
unsafe extern "C" fn query_device_ex(
    context: *mut ibv_context,
    input: *const ibv_query_device_ex_input,
    attributes: *mut ibv_device_attr_ex,
    size: usize,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    let mut told = Answer::<{ answer::QUERY_DEVICE_EX }, Nothing>::new();
    let mut told_size = told.size();
    // SAFETY: as the caller says; the answer has that size.
    let error = unsafe {
        let told = (&raw mut told).cast();
        (library.query_device)(context, input, attributes, size, told, &raw mut told_size)
    };
    if error != 0 {
        return error;
    }
    // SAFETY: on success there is room for more than the firmware's version.
    let place = unsafe { &mut (*attributes).fw_ver };
    firmware_version(told.first(), place);
    0
}

/// Writes the version as people read it: the kernel has it as the register FIRMWARE_VERSION does.
fn firmware_version(version: u64, place: &mut [c_char; 64]) {
    let mut text = [0u8; 64];
    let (major, minor, patch) = (version >> 24 & 0xff, version >> 16 & 0xff, version & 0xffff);
    // It fits, with a zero behind it: the numbers have at most five digits.
    let _ = write!(&mut text[..63], "{major}.{minor}.{patch}");
    for (to, from) in place.iter_mut().zip(text) {
        *to = from as c_char;
    }
}

/// # Safety
/// The context is open.
unsafe extern "C" fn query_port(
    context: *mut ibv_context,
    port: u8,
    attributes: *mut ibv_port_attr,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of(context) }.library;
    let mut ask = Request::<{ request::QUERY_PORT }, Nothing>::new([]);
    let size = size_of_val(&ask);
    // SAFETY: the request has that size.
    unsafe { (library.query_port)(context, port, attributes, (&raw mut ask).cast(), size) }
}

/// An event was taken: of one about a failed queue pair, its queues take note.
///
/// # Safety
/// The context is open; what the event is about is alive until the event is acknowledged.
unsafe extern "C" fn async_event(_context: *mut ibv_context, event: *mut ibv_async_event) {
    // SAFETY: as the caller says.
    let (element, event) = unsafe { ((*event).element, (*event).event_type) };
    if [event::QP_FATAL, event::QP_REQ_ERR, event::QP_ACCESS_ERR].contains(&event) {
        // SAFETY: these events are about a queue pair.
        unsafe { qp::note_failure(element.cast()) };
    }
}

/// The functions of a context.
static OPERATIONS: verbs_context_ops = verbs_context_ops {
    alloc_mw: Some(memory::alloc_mw),
    alloc_parent_domain: Some(memory::alloc_parent_domain),
    alloc_pd: Some(memory::alloc_pd),
    alloc_td: Some(memory::alloc_td),
    async_event: Some(async_event),
    attach_mcast: Some(address::attach_mcast),
    bind_mw: Some(qp::bind_mw),
    close_xrcd: Some(xrc::close_xrcd),
    create_ah: Some(address::create_ah),
    create_cq: Some(cq::create_cq),
    create_cq_ex: Some(cq::create_cq_ex),
    create_flow: Some(address::create_flow),
    create_qp: Some(qp::create_qp),
    create_qp_ex: Some(qp::create_qp_ex),
    create_srq: Some(srq::create_srq),
    create_srq_ex: Some(srq::create_srq_ex),
    dealloc_mw: Some(memory::dealloc_mw),
    dealloc_pd: Some(memory::dealloc_pd),
    dealloc_td: Some(memory::dealloc_td),
    dereg_mr: Some(memory::dereg_mr),
    destroy_ah: Some(address::destroy_ah),
    destroy_cq: Some(cq::destroy_cq),
    destroy_flow: Some(address::destroy_flow),
    destroy_qp: Some(qp::destroy_qp),
    destroy_srq: Some(srq::destroy_srq),
    detach_mcast: Some(address::detach_mcast),
    free_context: Some(free_context),
    get_srq_num: Some(srq::get_srq_num),
    modify_cq: Some(cq::modify_cq),
    modify_qp: Some(qp::modify_qp),
    modify_srq: Some(srq::modify_srq),
    open_qp: Some(xrc::open_qp),
    open_xrcd: Some(xrc::open_xrcd),
    poll_cq: Some(cq::poll_cq),
    post_recv: Some(qp::post_recv),
    post_send: Some(qp::post_send),
    post_srq_recv: Some(srq::post_srq_recv),
    query_device_ex: Some(query_device_ex),
    query_port: Some(query_port),
    query_qp: Some(qp::query_qp),
    query_srq: Some(srq::query_srq),
    reg_mr: Some(memory::reg_mr),
    req_notify_cq: Some(cq::req_notify_cq),
    rereg_mr: Some(memory::rereg_mr),
    resize_cq: Some(cq::resize_cq),
    ..verbs_context_ops::NONE
};
