//! Queue pairs.
//!
//! * [`create`]: their rings, and the kernel's part in their creation;
//! * [`post`]: `ibv_post_send`, `ibv_post_recv`, `ibv_bind_mw`;
//! * [`builder`]: the extended interface, which builds work requests call by call;
//! * [`request`]: work requests of verbs as the driver's descriptors know them.
//!
//! Requests can be posted in the states that let them (InfiniBand Architecture volume 1, 10.3.1):
//! receive requests from INIT on, send requests from RTS on, and both in ERR, where they are flushed.
//!
//! Sending and receiving have a lock each. An XRC target, which receives into shared receive
//! queues and sends nothing, has no queues here.

mod builder;
mod create;
mod post;
mod request;

use core::cell::UnsafeCell;
use core::ffi::c_int;
use std::sync::Arc;

use vrnic_ibverbs::*;

use crate::context::Context;
use crate::cq::Cq;
use crate::ffi::command::{Answer, Nothing, Request, answer, request as head};
use crate::ffi::provider::*;
use crate::lock::Lock;
use crate::queue::{ReceiveQueue, SendQueue, Tables};
use builder::Builder;

pub(crate) use create::{create_qp, create_qp_ex};
pub(crate) use post::{bind_mw, post_receives, post_recv, post_send};

/// A queue pair.
#[repr(C)]
pub(crate) struct Qp {
    ibv: UnsafeCell<verbs_qp>,
    /// Not of an XRC target.
    queues: Option<Queues>,
}

/// The queues of a queue pair, and where they complete.
struct Queues {
    send: Lock<Sender>,
    /// Not with a shared receive queue, and not of an XRC initiator.
    receive: Option<Lock<ReceiveQueue>>,
    send_cq: *mut ibv_cq,
    /// Null if nothing is received.
    receive_cq: *mut ibv_cq,
    /// What the application was promised.
    cap: ibv_qp_cap,
}

/// What is behind the lock of sending.
struct Sender {
    queue: SendQueue,
    builder: Builder,
}

impl Qp {
    /// A queue pair that is not yet there, or has no queues.
    pub(crate) fn without_queues() -> Box<Self> {
        Box::new(Self {
            // SAFETY: all zeros are a queue pair without functions.
            ibv: unsafe { core::mem::zeroed() },
            queues: None,
        })
    }

    /// What `libibverbs` knows of it.
    pub(crate) fn verbs(&self) -> *mut verbs_qp {
        self.ibv.get()
    }

    /// The queues of `qp`.
    ///
    /// # Safety
    /// `qp` is alive, for as long as the answer is used.
    #[inline]
    unsafe fn queues<'a>(qp: *mut ibv_qp) -> Option<&'a Queues> {
        // SAFETY: as the caller says; what others change of it is in cells.
        unsafe { &(*qp.cast::<Self>()).queues }.as_ref()
    }
}

impl Queues {
    fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.send.lock().queue.tables)
    }

    /// Both completion queues, or one of them twice.
    fn cqs(&self) -> impl Iterator<Item = &Cq> {
        let cqs = [self.send_cq, self.receive_cq].into_iter();
        // SAFETY: a completion queue outlives the queue pairs that complete there.
        cqs.filter(|cq| !cq.is_null())
            .map(|cq| unsafe { Cq::of(cq) })
    }

    /// Has completions find the requests in `tables`.
    fn attach(&self, tables: &Arc<Tables>) {
        self.cqs().for_each(|cq| cq.queue.lock().attach(tables));
    }

    /// Receive requests can be posted from now on.
    fn take_receives(&self) {
        if let Some(receive) = &self.receive {
            receive.lock().ready = true;
        }
    }

    /// Send requests can be posted from now on.
    fn take_sends(&self) {
        self.send.lock().queue.ready = true;
    }

    /// The device has reset the queue pair: both rings start over, and nothing of before completes
    /// any more.
    fn renew(&self) {
        let mut send = self.send.lock();
        let tables = Arc::new(send.queue.tables.renewed());
        send.queue.restart(&tables);
        if let Some(receive) = &self.receive {
            receive.lock().restart(&tables);
        }
        self.attach(&tables);
    }
}

/// The queue pair has failed, or may have.
///
/// # Safety
/// `qp` is alive.
pub(crate) unsafe fn note_failure(qp: *mut ibv_qp) {
    // SAFETY: as the caller says.
    if let Some(queues) = unsafe { Qp::queues(qp) } {
        queues.tables().set_failed();
    }
}

/// # Safety
/// `qp` and the attributes are alive.
pub(crate) unsafe extern "C" fn modify_qp(
    qp: *mut ibv_qp,
    attributes: *mut ibv_qp_attr,
    mask: c_int,
) -> c_int {
    // SAFETY: as the caller says.
    unsafe {
        let error = modify(qp, attributes, mask);
        if error == 0 && mask & qp_mask::STATE != 0 {
            note_state(qp, (*attributes).qp_state);
        }
        error
    }
}

/// The kernel has taken the queue pair to `state`.
///
/// # Safety
/// `qp` is alive.
pub(crate) unsafe fn note_state(qp: *mut ibv_qp, state: u32) {
    // SAFETY: as the caller says.
    let Some(queues) = (unsafe { Qp::queues(qp) }) else {
        return;
    };
    match state {
        qp_state::RESET => queues.renew(),
        qp_state::INIT => queues.take_receives(),
        qp_state::RTS => {
            queues.take_sends();
            queues.tables().clear_failed();
        }
        qp_state::ERR => {
            queues.take_receives();
            queues.take_sends();
            queues.tables().set_failed();
        }
        _ => {}
    }
}

/// Has the kernel modify the queue pair.
///
/// # Safety
/// `qp` and the attributes are alive.
unsafe fn modify(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*qp).context) }.library;
    if mask & qp_mask::RATE_LIMIT == 0 {
        let mut ask = Request::<{ head::MODIFY_QP }, Nothing>::new([]);
        let size = size_of_val(&ask);
        // SAFETY: the request has that size.
        return unsafe { (library.modify_qp)(qp, attributes, mask, (&raw mut ask).cast(), size) };
    }
    let mut ask = Request::<{ head::MODIFY_QP_EX }, Nothing>::new([]);
    let mut told = Answer::<{ answer::MODIFY_QP_EX }, Nothing>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // SAFETY: request and answer have these sizes.
    unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        (library.modify_qp_ex)(qp, attributes, mask, ask, ask_size, told, told_size)
    }
}

/// # Safety
/// `qp` and both sets of attributes are alive.
pub(crate) unsafe extern "C" fn query_qp(
    qp: *mut ibv_qp,
    attributes: *mut ibv_qp_attr,
    mask: c_int,
    init_attributes: *mut ibv_qp_init_attr,
) -> c_int {
    // SAFETY: as the caller says.
    let library = unsafe { Context::of((*qp).context) }.library;
    let mut ask = Request::<{ head::QUERY_QP }, Nothing>::new([]);
    let size = size_of_val(&ask);
    // SAFETY: the request has that size.
    let error = unsafe {
        let ask = (&raw mut ask).cast();
        (library.query_qp)(qp, attributes, mask, init_attributes, ask, size)
    };
    if error != 0 {
        return error;
    }
    // SAFETY: as the caller says.
    if let Some(queues) = unsafe { Qp::queues(qp) } {
        // SAFETY: as the caller says.
        let state = unsafe {
            (*attributes).cap = queues.cap;
            (*init_attributes).cap = queues.cap;
            (*attributes).qp_state
        };
        if state == qp_state::ERR {
            queues.tables().set_failed();
        }
    }
    0
}

/// # Safety
/// `qp` is alive, and not used any more if that succeeds.
pub(crate) unsafe extern "C" fn destroy_qp(qp: *mut ibv_qp) -> c_int {
    // SAFETY: as the caller says.
    let error = unsafe { (Context::of((*qp).context).library.destroy_qp)(qp) };
    if error != 0 {
        return error;
    }
    // SAFETY: of a box, and not used any more.
    let own = unsafe { Box::from_raw(qp.cast::<Qp>()) };
    if let Some(queues) = &own.queues {
        let tables = queues.tables();
        queues.cqs().for_each(|cq| cq.queue.lock().detach(&tables));
    }
    0
}
