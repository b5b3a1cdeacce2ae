//! What the `rdma` tool shows of objects beyond what the core knows: how the device sees them.
//!
//! `rdma resource show … -dd` asks for each object in turn, in sleepable context, with an object
//! being destroyed among them at times. An object that is going, or whose device does not answer, is
//! shown without the driver's part, so that a list never ends early because of it. The queues that the
//! kernel itself polls cannot be asked about from here without stopping them: of those there is only
//! what the driver knows.

use core::ffi::{CStr, c_int};

use vrnic_driver::abi::object::{CqAttributes, MrAttributes, QpAttributes, SrqAttributes};

use super::cq::{Cq, CqObject};
use super::device::Shared;
use super::mr;
use super::qp::{Qp, QpObject};
use super::srq::SrqObject;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::EMSGSIZE;

/// A message to the tool, in which a nest of the driver's attributes is open.
struct Message(*mut bindings::sk_buff);

impl Message {
    fn number(&self, name: &CStr, value: impl Into<u32>) -> Result<(), Errno> {
        // SAFETY: the core's message, and a name that ends with 0.
        let result =
            unsafe { bindings::rdma_nl_put_driver_u32(self.0, name.as_ptr(), value.into()) };
        Errno::check(result)
    }

    fn bits(&self, name: &CStr, value: u32) -> Result<(), Errno> {
        // SAFETY: as above.
        Errno::check(unsafe { bindings::rdma_nl_put_driver_u32_hex(self.0, name.as_ptr(), value) })
    }

    fn numbers<const N: usize>(&self, all: [(&CStr, u32); N]) -> Result<(), Errno> {
        all.iter()
            .try_for_each(|(name, value)| self.number(name, *value))
    }
}

/// Adds the driver's attributes with `fill`; a message that has no room for them is as it was.
///
/// # Safety
/// `message` is the core's.
unsafe fn nest(
    message: *mut bindings::sk_buff,
    fill: impl FnOnce(&Message) -> Result<(), Errno>,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function; a nest that was begun is ended or taken back.
    unsafe {
        let nest = bindings::vrnic_nest_start(message, bindings::RDMA_NLDEV_ATTR_DRIVER as c_int);
        if nest.is_null() {
            return Err(EMSGSIZE);
        }
        let result = fill(&Message(message));
        match result {
            Ok(()) => bindings::vrnic_nest_end(message, nest),
            Err(_) => bindings::vrnic_nest_cancel(message, nest),
        }
        result
    }
}

fn queue_pair(message: &Message, found: &QpAttributes) -> Result<(), Errno> {
    message.numbers([
        (c"pdn", found.pd),
        (c"send_cqn", found.send_cq),
        (c"receive_cqn", found.receive_cq),
        (c"srqn", found.srq),
        (c"xrcdn", found.xrcd),
        (c"send_producer", found.send_producer),
        (c"send_consumer", found.send_consumer),
        (c"receive_consumer", found.receive_consumer),
        (c"current_rate", found.current_rate),
    ])
}

fn completion_queue(message: &Message, found: &CqAttributes) -> Result<(), Errno> {
    message.numbers([
        (c"eqn", found.eq),
        (c"producer", found.producer),
        (c"consumer", found.consumer),
        (c"armed", found.armed.into()),
        (c"failed", found.failed.into()),
        (c"moderation_period", found.moderation_period.into()),
        (c"moderation_count", found.moderation_count.into()),
    ])
}

fn shared_receive_queue(message: &Message, found: &SrqAttributes) -> Result<(), Errno> {
    message.numbers([
        (c"pdn", found.pd),
        (c"entries", found.entries),
        (c"segments", found.segments),
        (c"limit", found.limit),
        (c"producer", found.producer),
        (c"consumer", found.consumer),
        (c"failed", found.failed.into()),
        (c"users", found.users),
    ])
}

fn region(message: &Message, found: &MrAttributes) -> Result<(), Errno> {
    message.bits(c"key", found.key)?;
    message.bits(c"access", found.access)?;
    message.numbers([
        (c"pdn", found.pd),
        (c"page_shift", found.page_shift),
        (c"valid", found.valid.into()),
    ])
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn fill_qp(
    message: *mut bindings::sk_buff,
    base: *mut bindings::ib_qp,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    unsafe {
        let shared = Shared::of((*base).device);
        match QpObject::inspect(shared, base, Qp::query) {
            Ok(Ok(found)) => nest(message, |message| queue_pair(message, &found)),
            _ => Ok(()),
        }
    }
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn fill_cq(
    message: *mut bindings::sk_buff,
    base: *mut bindings::ib_cq,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    unsafe {
        let shared = Shared::of((*base).device);
        let Ok(look) = CqObject::inspect(shared, base, Cq::look) else {
            return Ok(());
        };
        nest(message, |message| {
            message.number(c"cqn", look.number)?;
            message.number(c"entries", look.entries)?;
            match &look.device {
                Some(found) => completion_queue(message, found),
                None => Ok(()),
            }
        })
    }
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn fill_srq(
    message: *mut bindings::sk_buff,
    base: *mut bindings::ib_srq,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    unsafe {
        let shared = Shared::of((*base).device);
        match SrqObject::inspect(shared, base, |srq| (srq.number(), srq.query())) {
            Ok((number, Ok(found))) => nest(message, |message| {
                message.number(c"srqn", number)?;
                shared_receive_queue(message, &found)
            }),
            _ => Ok(()),
        }
    }
}

/// # Safety
/// The arguments are those of the operation: the core lists a region no more before it is destroyed.
unsafe fn fill_mr(
    message: *mut bindings::sk_buff,
    base: *mut bindings::ib_mr,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    unsafe {
        match mr::look(base) {
            mr::Look::Reserved => Ok(()),
            mr::Look::User(Ok(found)) => nest(message, |message| region(message, &found)),
            mr::Look::User(Err(_)) => Ok(()),
            mr::Look::Fast { pages, most } => nest(message, |message| {
                message.numbers([(c"pages", pages), (c"max_pages", most)])
            }),
        }
    }
}

/// # Safety
/// The RDMA core calls it in process context to list an object whose memory it keeps, which may be
/// in the operation that destroys it; `message` has an open nest.
unsafe extern "C" fn fill_res_qp_entry(
    message: *mut bindings::sk_buff,
    qp: *mut bindings::ib_qp,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { fill_qp(message, qp) })
}

/// # Safety
/// As for [`fill_res_qp_entry`].
unsafe extern "C" fn fill_res_cq_entry(
    message: *mut bindings::sk_buff,
    cq: *mut bindings::ib_cq,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { fill_cq(message, cq) })
}

/// # Safety
/// As for [`fill_res_qp_entry`].
unsafe extern "C" fn fill_res_srq_entry(
    message: *mut bindings::sk_buff,
    srq: *mut bindings::ib_srq,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { fill_srq(message, srq) })
}

/// # Safety
/// As for [`fill_res_qp_entry`].
unsafe extern "C" fn fill_res_mr_entry(
    message: *mut bindings::sk_buff,
    mr: *mut bindings::ib_mr,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { fill_mr(message, mr) })
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.fill_res_qp_entry = Some(fill_res_qp_entry);
    ops.fill_res_cq_entry = Some(fill_res_cq_entry);
    ops.fill_res_srq_entry = Some(fill_res_srq_entry);
    ops.fill_res_mr_entry = Some(fill_res_mr_entry);
}
