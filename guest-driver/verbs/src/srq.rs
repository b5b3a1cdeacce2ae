//! Shared receive queues, basic ones and those for XRC.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use std::sync::Arc;

use vrnic_abi::verbs::{CreateSrqRequest, SrqAnswer};
use vrnic_abi::wqe::SEGMENT;
use vrnic_driver::queues::{MAX_RECEIVE_SEGMENTS, RingSize, SrqRequests};
use vrnic_ibverbs::*;

use crate::buffer::Buffer;
use crate::context::{Context, Own};
use crate::cq::Cq;
use crate::ffi::command::{Answer, Nothing, Request, answer, request};
use crate::ffi::provider::*;
use crate::lock::Lock;
use crate::queue::SharedQueue;
use crate::{fail, qp};

/// A shared receive queue.
#[repr(C)]
pub(crate) struct Srq {
    ibv: UnsafeCell<verbs_srq>,
    pub(crate) queue: Arc<Lock<SharedQueue>>,
    /// The device's number.
    pub(crate) number: u32,
    /// Where its completions go, if it is for XRC; else null.
    cq: *mut ibv_cq,
}

impl Srq {
    /// The queue behind `srq`.
    ///
    /// # Safety
    /// `srq` is alive, for as long as the answer is used.
    #[inline]
    pub(crate) unsafe fn of<'a>(srq: *mut ibv_srq) -> &'a Self {
        // SAFETY: as the caller says; what others change of it is in cells.
        unsafe { &*srq.cast::<Self>() }
    }
}

/// The rings of a queue.
struct Shape {
    size: RingSize,
    segments: RingSize,
    buffer: Buffer,
}

impl Shape {
    /// What `attributes` ask for, within what the device has.
    fn new(own: &Own, attributes: &ibv_srq_attr) -> Result<Self, c_int> {
        if attributes.max_sge > MAX_RECEIVE_SEGMENTS {
            return Err(libc::EINVAL);
        }
        let size = RingSize::at_least(attributes.max_wr);
        let size = size.filter(|size| size.log() <= own.limits.log_max_srq_entries);
        let size = size.ok_or(libc::EINVAL)?;
        let segments = RingSize::at_least(attributes.max_sge).ok_or(libc::EINVAL)?;
        let length = (size.entries() as usize * SEGMENT) << segments.log();
        let buffer = Buffer::new(own.library, length).ok_or(libc::ENOMEM)?;
        Ok(Self {
            size,
            segments,
            buffer,
        })
    }

    fn request(&self) -> CreateSrqRequest {
        CreateSrqRequest {
            buffer: self.buffer.address(),
            log_entries: self.size.log(),
            log_segments: self.segments.log(),
            ..CreateSrqRequest::default()
        }
    }

    /// What the application gets.
    fn tell(&self, attributes: &mut ibv_srq_attr) {
        attributes.max_wr = self.size.entries();
        attributes.max_sge = self.segments.entries();
    }

    fn into_queue(self, own: &Own, answer: &SrqAnswer) -> Option<SharedQueue> {
        Some(SharedQueue {
            doorbell: own.doorbell(&answer.page, answer.slot)?,
            segments: self.segments.entries() as usize,
            requests: SrqRequests::new(self.size),
            size: self.size,
            buffer: self.buffer,
            head: 0,
        })
    }
}

/// Creates a queue: `command` has the kernel create the one that it is given, and fills in its
/// answer.
///
/// # Safety
/// The context is open; `cq` is alive, or null.
unsafe fn create(
    context: *mut ibv_context,
    cq: *mut ibv_cq,
    attributes: &mut ibv_srq_attr,
    command: impl FnOnce(&Own, *mut verbs_srq, &CreateSrqRequest) -> Result<SrqAnswer, c_int>,
) -> Result<Box<Srq>, c_int> {
    // SAFETY: as the caller says.
    let own = unsafe { Context::of(context) };
    let shape = Shape::new(own, attributes)?;
    let mut srq = Box::<Srq>::new_uninit();
    let place = srq.as_mut_ptr();
    // SAFETY: the place is the box's; all zeros are a queue that is not yet there.
    let ibv = unsafe {
        (&raw mut (*place).ibv).write(core::mem::zeroed());
        UnsafeCell::raw_get(&raw const (*place).ibv)
    };
    let answer = command(own, ibv, &shape.request())?;
    shape.tell(attributes);
    let Some(queue) = shape.into_queue(own, &answer) else {
        // SAFETY: it was created above.
        unsafe { (own.library.destroy_srq)(ibv.cast()) };
        return Err(libc::EIO);
    };
    // Pollers of any completion queue use it too, so a thread domain does not make it one thread's.
    let queue = Lock::new(queue, false);
    // SAFETY: the places are the box's; with them, all of the queue is there.
    unsafe {
        (&raw mut (*place).queue).write(Arc::new(queue));
        (&raw mut (*place).number).write(answer.srq);
        (&raw mut (*place).cq).write(cq);
        Ok(srq.assume_init())
    }
}

/// # Safety
/// `pd` and the attributes are alive.
pub(crate) unsafe extern "C" fn create_srq(
    pd: *mut ibv_pd,
    attributes: *mut ibv_srq_init_attr,
) -> *mut ibv_srq {
    let command = |own: &Own, srq: *mut verbs_srq, ring: &CreateSrqRequest| {
        let mut ask = Request::<{ request::CREATE_SRQ }, _>::new(*ring);
        let mut told = Answer::<{ answer::CREATE_SRQ }, SrqAnswer>::new();
        let (ask_size, told_size) = (size_of_val(&ask), told.size());
        // SAFETY: as the caller says; request and answer have these sizes.
        let error = unsafe {
            let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
            (own.library.create_srq)(pd, srq.cast(), attributes, ask, ask_size, told, told_size)
        };
        if error == 0 {
            Ok(told.own())
        } else {
            Err(error)
        }
    };
    // SAFETY: the attributes are alive; the kernel's are taken from them before they change.
    let mut sizes = unsafe { (*attributes).attr };
    // SAFETY: as the caller says.
    match unsafe { create((*pd).context, core::ptr::null_mut(), &mut sizes, command) } {
        Ok(srq) => {
            // SAFETY: as the caller says.
            unsafe { (*attributes).attr = sizes };
            Box::into_raw(srq).cast()
        }
        Err(error) => fail(error),
    }
}

/// # Safety
/// The context is open; what the attributes name is alive.
pub(crate) unsafe extern "C" fn create_srq_ex(
    context: *mut ibv_context,
    attributes: *mut ibv_srq_init_attr_ex,
) -> *mut ibv_srq {
    // SAFETY: the caller's attributes are alive during the call.
    let (pd, cq, mut sizes, srq_type) = unsafe {
        let ibv_srq_init_attr_ex {
            pd,
            cq,
            attr,
            srq_type,
            comp_mask,
            ..
        } = *attributes;
        let typed = comp_mask & SRQ_MASK_TYPE != 0;
        (pd, cq, attr, if typed { srq_type } else { SRQ_TYPE_BASIC })
    };
    let cq = match srq_type {
        SRQ_TYPE_BASIC => core::ptr::null_mut(),
        SRQ_TYPE_XRC if !cq.is_null() => cq,
        SRQ_TYPE_XRC => return fail(libc::EINVAL),
        _ => return fail(libc::EOPNOTSUPP),
    };
    let command = |own: &Own, srq: *mut verbs_srq, ring: &CreateSrqRequest| {
        let mut ask = Request::<{ request::CREATE_XSRQ }, _>::new(*ring);
        let mut told = Answer::<{ answer::CREATE_SRQ }, SrqAnswer>::new();
        let (ask_size, told_size) = (size_of_val(&ask), told.size());
        // SAFETY: as the caller says; request and answer have these sizes.
        let error = unsafe {
            let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
            (own.library.create_srq_ex)(context, srq, attributes, ask, ask_size, told, told_size)
        };
        if error == 0 {
            Ok(told.own())
        } else {
            Err(error)
        }
    };
    // SAFETY: as the caller says.
    match unsafe { create(context, cq, &mut sizes, command) } {
        Ok(mut srq) => {
            // SAFETY: as the caller says.
            unsafe {
                (*attributes).attr = sizes;
                srq.finish(pd, &*attributes);
            }
            Box::into_raw(srq).cast()
        }
        Err(error) => fail(error),
    }
}

impl Srq {
    /// Fills in what `libibverbs` leaves to the provider, and has completions of a queue for XRC
    /// find it.
    ///
    /// # Safety
    /// The completion queue is alive.
    unsafe fn finish(&mut self, pd: *mut ibv_pd, attributes: &ibv_srq_init_attr_ex) {
        let ibv = &mut self.ibv.get_mut().srq;
        ibv.srq_context = attributes.srq_context;
        ibv.pd = pd;
        if !self.cq.is_null() {
            // SAFETY: as the caller says.
            let cq = unsafe { Cq::of(self.cq) };
            cq.queue.lock().attach_shared(self.number, &self.queue);
        }
    }
}

/// # Safety
/// `srq` and the attributes are alive.
pub(crate) unsafe extern "C" fn modify_srq(
    srq: *mut ibv_srq,
    attributes: *mut ibv_srq_attr,
    mask: c_int,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*srq).context) }.library;
    let mut ask = Request::<{ request::MODIFY_SRQ }, Nothing>::new([]);
    let size = size_of_val(&ask);
    // SAFETY: the request has that size.
    unsafe { (library.modify_srq)(srq, attributes, mask, (&raw mut ask).cast(), size) }
}

/// # Safety
/// `srq` and the attributes are alive.
pub(crate) unsafe extern "C" fn query_srq(
    srq: *mut ibv_srq,
    attributes: *mut ibv_srq_attr,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*srq).context) }.library;
    let mut ask = Request::<{ request::QUERY_SRQ }, Nothing>::new([]);
    let size = size_of_val(&ask);
    // SAFETY: the request has that size.
    unsafe { (library.query_srq)(srq, attributes, (&raw mut ask).cast(), size) }
}

/// # Safety
/// `srq` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn destroy_srq(srq: *mut ibv_srq) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*srq).context).library.destroy_srq)(srq) };
    if error != 0 {
        return error;
    }
    // SAFETY: of a box, and not used any more.
    let own = unsafe { Box::from_raw(srq.cast::<Srq>()) };
    if !own.cq.is_null() {
        // SAFETY: a completion queue outlives what completes there.
        let cq = unsafe { Cq::of(own.cq) };
        cq.queue.lock().detach_shared(own.number, &own.queue);
    }
    0
}

/// # Safety
/// `srq` is alive; `number` can be written.
pub(crate) unsafe extern "C" fn get_srq_num(srq: *mut ibv_srq, number: *mut u32) -> c_int {
    // SAFETY: as the caller says.
    unsafe { *number = Srq::of(srq).number };
    0
}

/// # Safety
/// `srq` and the list of requests are alive; `bad` can be written.
pub(crate) unsafe extern "C" fn post_srq_recv(
    srq: *mut ibv_srq,
    requests: *mut ibv_recv_wr,
    bad: *mut *mut ibv_recv_wr,
) -> c_int {
    // SAFETY: as the caller says.
    let mut queue = unsafe { Srq::of(srq) }.queue.lock();
    // SAFETY: as the caller says.
    let error = unsafe { qp::post_receives(requests, bad, |wr_id, sges| queue.write(wr_id, sges)) };
    queue.announce();
    error
}
