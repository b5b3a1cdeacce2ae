//! Completion queues.
//!
//! Every one is created with room for the extended interface's functions, so that `ibv_cq` and
//! `ibv_cq_ex` are the same object. [`extended`] has those functions, [`wc`] says how a completion
//! looks to applications.

mod extended;
mod wc;

use core::cell::UnsafeCell;
use core::ffi::c_int;

use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::verbs::{CqAnswer, CreateCqRequest, ResizeCqAnswer};
use vrnic_driver::queues::RingSize;
use vrnic_ibverbs::*;

use crate::buffer::Buffer;
use crate::context::{Context, Own};
use crate::fail;
use crate::ffi::command::{Answer, Nothing, Request, answer, request};
use crate::lock::Lock;
use crate::queue::{BadBase, CompletionQueue};

pub(crate) use extended::create_cq_ex;

/// A completion queue.
#[repr(C)]
pub(crate) struct Cq {
    ibv: UnsafeCell<ibv_cq_ex>,
    pub(crate) queue: Lock<CompletionQueue>,
    /// The completion that the extended interface is at; whoever has the lock uses it.
    current: UnsafeCell<vrnic_driver::Completion>,
}

impl Cq {
    /// The queue behind `cq`.
    ///
    /// # Safety
    /// `cq` is alive, for as long as the answer is used.
    #[inline]
    pub(crate) unsafe fn of<'a>(cq: *mut ibv_cq) -> &'a Self {
        // SAFETY: as the caller says; what others change of it is in cells.
        unsafe { &*cq.cast::<Self>() }
    }
}

/// A ring for at least `entries` completions, within what the device has.
fn ring(own: &Own, entries: u32) -> Result<(Buffer, RingSize), c_int> {
    let size = RingSize::at_least(entries.max(4));
    let size = size.filter(|size| size.log() <= own.limits.log_max_cq_entries);
    let size = size.ok_or(libc::EINVAL)?;
    let length = size.entries() as usize * CompletionEntry::SIZE;
    let buffer = Buffer::new(own.library, length).ok_or(libc::ENOMEM)?;
    Ok((buffer, size))
}

fn ring_request(buffer: &Buffer, size: RingSize) -> CreateCqRequest {
    CreateCqRequest {
        buffer: buffer.address(),
        log_entries: size.log(),
        ..CreateCqRequest::default()
    }
}

/// What a completion queue is created with.
struct Wanted {
    entries: u32,
    channel: *mut ibv_comp_channel,
    vector: c_int,
    single: bool,
}

/// Creates a completion queue.
///
/// # Safety
/// The context is open; the channel is alive, or null.
unsafe fn create(context: *mut ibv_context, wanted: &Wanted) -> Result<Box<Cq>, c_int> {
    // SAFETY: as the caller says.
    let own = unsafe { Context::of(context) };
    let (buffer, size) = ring(own, wanted.entries)?;
    let mut cq = Box::<Cq>::new_uninit();
    let place = cq.as_mut_ptr();
    // SAFETY: the place is the box's; all zeros are a queue without functions.
    let ibv = unsafe {
        (&raw mut (*place).ibv).write(core::mem::zeroed());
        UnsafeCell::raw_get(&raw const (*place).ibv)
    };
    // SAFETY: as the caller says; the queue is where it stays.
    let answer = unsafe {
        command(
            own,
            context,
            ibv.cast(),
            wanted,
            &ring_request(&buffer, size),
        )
    }?;
    let Some(doorbell) = own.doorbell(&answer.page, answer.slot) else {
        // SAFETY: it was created above.
        unsafe { (own.library.destroy_cq)(ibv.cast()) };
        return Err(libc::EIO);
    };
    let queue = CompletionQueue::new(buffer, size, doorbell);
    // SAFETY: the places are the box's; with them, all of the queue is there.
    unsafe {
        (*ibv).base.cqe = size.entries() as c_int;
        (&raw mut (*place).queue).write(Lock::new(queue, wanted.single));
        (&raw mut (*place).current).write(UnsafeCell::default());
        Ok(cq.assume_init())
    }
}

/// Has the kernel create the queue at `cq`.
///
/// # Safety
/// The context is open; the channel is alive, or null; `cq` stays where it is.
unsafe fn command(
    own: &Own,
    context: *mut ibv_context,
    cq: *mut ibv_cq,
    wanted: &Wanted,
    ring: &CreateCqRequest,
) -> Result<CqAnswer, c_int> {
    let mut ask = Request::<{ request::CREATE_CQ }, _>::new(*ring);
    let mut told = Answer::<{ answer::CREATE_CQ }, CqAnswer>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    let entries = 1 << ring.log_entries;
    // SAFETY: as the caller says; request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        let Wanted {
            channel, vector, ..
        } = *wanted;
        (own.library.create_cq)(
            context, entries, channel, vector, cq, ask, ask_size, told, told_size,
        )
    };
    if error == 0 {
        Ok(told.own())
    } else {
        Err(error)
    }
}

/// # Safety
/// The context is open; the channel is alive, or null.
pub(crate) unsafe extern "C" fn create_cq(
    context: *mut ibv_context,
    entries: c_int,
    channel: *mut ibv_comp_channel,
    vector: c_int,
) -> *mut ibv_cq {
    let Ok(entries) = u32::try_from(entries) else {
        return fail(libc::EINVAL);
    };
    let wanted = Wanted {
        entries,
        channel,
        vector,
        single: false,
    };
    // SAFETY: as the caller says.
    match unsafe { create(context, &wanted) } {
        Ok(cq) => Box::into_raw(cq).cast(),
        Err(error) => fail(error),
    }
}

/// # Safety
/// `cq` is alive.
pub(crate) unsafe extern "C" fn resize_cq(cq: *mut ibv_cq, entries: c_int) -> c_int {
    // SAFETY: as the caller says.
    let (own, queue) = unsafe { (Context::of((*cq).context), &Cq::of(cq).queue) };
    let Ok(entries) = u32::try_from(entries) else {
        return libc::EINVAL;
    };
    let (buffer, size) = match ring(own, entries) {
        Ok(ring) => ring,
        Err(error) => return error,
    };
    let mut ask = Request::<{ request::RESIZE_CQ }, _>::new(ring_request(&buffer, size));
    let mut told = Answer::<{ answer::RESIZE_CQ }, ResizeCqAnswer>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // Nobody polls or forgets a queue pair while the device moves.
    let mut queue = queue.lock();
    // SAFETY: as the caller says; request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        let entries = size.entries() as c_int;
        (own.library.resize_cq)(cq, entries, ask, ask_size, told, told_size)
    };
    if error != 0 {
        return error;
    }
    // SAFETY: as the caller says.
    unsafe { (*cq).cqe = size.entries() as c_int };
    match queue.move_to(buffer, size, told.own().base) {
        Ok(()) => 0,
        Err(BadBase) => libc::EIO,
    }
}

/// # Safety
/// `cq` and the attributes are alive.
pub(crate) unsafe extern "C" fn modify_cq(
    cq: *mut ibv_cq,
    attributes: *mut ibv_modify_cq_attr,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*cq).context) }.library;
    let mut ask = Request::<{ request::MODIFY_CQ }, Nothing>::new([]);
    let size = size_of_val(&ask);
    // SAFETY: the request has that size.
    unsafe { (library.modify_cq)(cq, attributes, (&raw mut ask).cast(), size) }
}

/// # Safety
/// `cq` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn destroy_cq(cq: *mut ibv_cq) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*cq).context).library.destroy_cq)(cq) };
    if error == 0 {
        // SAFETY: of a box, and not used any more.
        drop(unsafe { Box::from_raw(cq.cast::<Cq>()) });
    }
    error
}

/// # Safety
/// `cq` is alive; `completions` has room for `count`.
pub(crate) unsafe extern "C" fn poll_cq(
    cq: *mut ibv_cq,
    count: c_int,
    completions: *mut ibv_wc,
) -> c_int {
    // SAFETY: as the caller says.
    let mut queue = unsafe { Cq::of(cq) }.queue.lock();
    let mut polled = 0;
    while polled < count {
        let Some(completion) = queue.next() else {
            break;
        };
        // SAFETY: as the caller says; `polled` is not negative and less than `count`.
        unsafe { completions.add(polled as usize).write(wc::of(&completion)) };
        polled += 1;
    }
    queue.publish();
    polled
}

/// # Safety
/// `cq` is alive.
pub(crate) unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
    // SAFETY: as the caller says.
    unsafe { Cq::of(cq) }.queue.lock().arm(solicited_only != 0);
    0
}
