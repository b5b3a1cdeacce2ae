//! Queue pairs: of processes, of the kernel itself, and XRC targets, which are nobody's to post to.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_int;
use core::sync::atomic::{AtomicU8, Ordering};

use vrnic_driver::abi::admin::QpType;
use vrnic_driver::abi::object::{QpAttributes, QpMask, QpState};
use vrnic_driver::abi::verbs::{CreateQpRequest, QpAnswer};
use vrnic_driver::abi::wqe::{BASIC_BLOCK, SEGMENT};
use vrnic_driver::{
    Error, Lock, ProtectionDomain, QpConfig, QpControl, QueuePair, ReceiveQueue, RegionMemory,
    SendQueue, UserQpConfig, UserQueuePair, UserReceive, XrcTarget,
};

use super::attributes;
use super::context::Context;
use super::cq::CqObject;
use super::device::Shared;
use super::object::Object;
use super::pd::PdObject;
use super::srq::SrqObject;
use super::udata::UserData;
use super::umem::UserMemory;
use super::xrcd::XrcdObject;
use crate::bindings;
use crate::kernel::errno::{EINVAL, EOPNOTSUPP};
use crate::kernel::lock::Mutex;
use crate::kernel::{Errno, SpinLock};
use crate::platform::Kernel;

/// A queue pair as the core keeps it.
pub(super) type QpObject = Object<bindings::ib_qp, Qp>;

/// A queue pair that the kernel posts to: its parts, so that posting waits for nothing.
pub(super) struct KernelQp {
    control: Mutex<QpControl<Kernel>>,
    send: SpinLock<SendQueue<Kernel>>,
    receive: SpinLock<ReceiveQueue<Kernel>>,
}

enum Kind {
    Kernel(KernelQp),
    User(Mutex<UserQueuePair<Kernel>>),
    Target(Mutex<XrcTarget<Kernel>>),
}

/// The driver's part of a queue pair.
pub(super) struct Qp {
    kind: Kind,
    qp_type: QpType,
    /// The state that it was brought to last.
    state: AtomicU8,
}

impl Qp {
    /// Posts to the send queue of a queue pair of the kernel; `f` also gets whether it sends
    /// datagrams. Atomic context.
    pub(super) fn with_send_queue<R>(
        &self,
        f: impl FnOnce(&mut SendQueue<Kernel>, bool) -> R,
    ) -> Result<R, Errno> {
        let datagrams = matches!(self.qp_type, QpType::Ud | QpType::Gsi);
        match &self.kind {
            Kind::Kernel(qp) => Ok(qp.send.with(|queue| f(queue, datagrams))),
            Kind::User(_) | Kind::Target(_) => Err(EINVAL),
        }
    }

    /// Posts to its receive queue. Atomic context.
    pub(super) fn with_receive_queue<R>(
        &self,
        f: impl FnOnce(&mut ReceiveQueue<Kernel>) -> R,
    ) -> Result<R, Errno> {
        match &self.kind {
            Kind::Kernel(qp) => Ok(qp.receive.with(f)),
            Kind::User(_) | Kind::Target(_) => Err(EINVAL),
        }
    }

    /// Uses what all queue pairs with queues have. Sleepable context.
    pub(super) fn with_control<R>(
        &self,
        f: impl FnOnce(&mut QpControl<Kernel>) -> R,
    ) -> Result<R, Errno> {
        match &self.kind {
            Kind::Kernel(qp) => Ok(qp.control.with(f)),
            Kind::User(qp) => Ok(qp.with(|qp| f(qp.as_mut()))),
            Kind::Target(_) => Err(EINVAL),
        }
    }

    fn number(&self) -> u32 {
        match &self.kind {
            Kind::Kernel(qp) => qp.control.with(|control| control.number()),
            Kind::User(qp) => qp.with(|qp| qp.number()),
            Kind::Target(qp) => qp.with(|qp| qp.number()),
        }
    }

    fn modify(&self, attributes: &QpAttributes, mask: QpMask) -> Result<(), Error> {
        match &self.kind {
            Kind::Kernel(qp) => {
                qp.control.with(|control| {
                    if let Some(restart) = control.modify(attributes, mask)? {
                        qp.send.with(|queue| queue.restart(&restart));
                        qp.receive.with(|queue| queue.restart(&restart));
                    }
                    Ok::<_, Error>(())
                })?;
            }
            Kind::User(qp) => qp.with(|qp| qp.modify(attributes, mask))?,
            Kind::Target(qp) => qp.with(|qp| qp.modify(attributes, mask))?,
        }
        if mask.contains(QpMask::STATE) {
            self.state.store(attributes.state, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The queue pair as the device sees it. Sleepable context.
    pub(super) fn query(&self) -> Result<QpAttributes, Error> {
        match &self.kind {
            Kind::Kernel(qp) => qp.control.with(|control| control.query()),
            Kind::User(qp) => qp.with(|qp| qp.query()),
            Kind::Target(qp) => qp.with(|qp| qp.query()),
        }
    }

    fn destroy(&mut self) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Kernel(qp) => qp.control.get_mut().destroy(),
            Kind::User(qp) => qp.get_mut().destroy(),
            Kind::Target(qp) => qp.get_mut().destroy(),
        }
    }
}

fn type_of(qp_type: bindings::ib_qp_type) -> Result<QpType, Errno> {
    Ok(match qp_type {
        bindings::IB_QPT_RC => QpType::Rc,
        bindings::IB_QPT_UC => QpType::Uc,
        bindings::IB_QPT_UD => QpType::Ud,
        bindings::IB_QPT_GSI => QpType::Gsi,
        bindings::IB_QPT_RAW_PACKET => QpType::RawPacket,
        bindings::IB_QPT_XRC_INI => QpType::XrcInitiator,
        bindings::IB_QPT_XRC_TGT => QpType::XrcTarget,
        _ => return Err(EOPNOTSUPP),
    })
}

/// What the core asks for.
struct Request<'a> {
    shared: &'a Shared,
    ibqp: *mut bindings::ib_qp,
    attr: &'a mut bindings::ib_qp_init_attr,
    qp_type: QpType,
}

impl Request<'_> {
    fn pd(&self) -> Result<&ProtectionDomain<Kernel>, Errno> {
        // SAFETY: the core has set it and keeps it while the queue pair exists.
        unsafe { PdObject::of((*self.ibqp).pd) }
    }

    fn context(&self) -> u64 {
        self.ibqp as u64
    }

    fn signal_all(&self) -> bool {
        self.attr.sq_sig_type == bindings::IB_SIGNAL_ALL_WR
    }

    /// As the following, in a frame of its own: stacks are small, and a queue pair is not.
    #[inline(never)]
    fn create_kernel(&mut self) -> Result<Kind, Errno> {
        let cap = self.attr.cap;
        let config = QpConfig {
            qp_type: self.qp_type,
            send_requests: cap.max_send_wr.max(1),
            receive_requests: cap.max_recv_wr.max(1),
            send_segments: cap.max_send_sge.max(1),
            receive_segments: cap.max_recv_sge.max(1),
            inline: cap.max_inline_data,
            signal_all: self.signal_all(),
            privileged: true,
            context: self.context(),
            ..QpConfig::default()
        };
        // SAFETY: the core has set them and keeps them while the queue pair exists.
        let (send_cq, receive_cq) = unsafe {
            (
                CqObject::of(self.attr.send_cq)?.reference()?,
                CqObject::of(self.attr.recv_cq)?.reference()?,
            )
        };
        let driver = &self.shared.nic.driver;
        let pd = self.pd()?;
        let qp: QueuePair<Kernel> = if self.attr.srq.is_null() {
            driver.create_qp_on(pd, &send_cq, &receive_cq, None, config)?
        } else {
            // SAFETY: as above.
            let srq = unsafe { SrqObject::of(self.attr.srq)?.reference()? };
            driver.create_qp_on(pd, &send_cq, &receive_cq, Some(srq), config)?
        };
        let (control, send, receive) = qp.split();
        Ok(Kind::Kernel(KernelQp {
            control: Mutex::new(control),
            send: SpinLock::new(send),
            receive: SpinLock::new(receive),
        }))
    }

    fn create_target(&self) -> Result<Kind, Errno> {
        // SAFETY: the core has set it and keeps it while the queue pair exists.
        let xrcd = unsafe { XrcdObject::of(self.attr.xrcd)? };
        let driver = &self.shared.nic.driver;
        let target = driver.create_xrc_target(None, xrcd, self.context())?;
        Ok(Kind::Target(Mutex::new(target)))
    }

    /// Whether a queue pair of a process has a receive queue of its own.
    fn receives(&self) -> bool {
        self.attr.srq.is_null() && self.qp_type != QpType::XrcInitiator
    }

    /// Pins the rings, whose sizes the driver core and the device check.
    fn pin(&self, request: &CreateQpRequest) -> Result<RegionMemory<Kernel>, Errno> {
        let limits = self.shared.nic.driver.attributes();
        if request.log_send_blocks > limits.log_max_send_blocks
            || request.log_receive_entries > limits.log_max_receive_entries
            || request.log_receive_segments > 8
        {
            return Err(EINVAL);
        }
        let receive = if self.receives() {
            (SEGMENT as u64) << (request.log_receive_entries + request.log_receive_segments)
        } else {
            0
        };
        let block = BASIC_BLOCK as u64;
        let length = receive.next_multiple_of(block) + (block << request.log_send_blocks);
        let memory = UserMemory::pin_queue(self.shared, request.buffer, length)?;
        Ok(RegionMemory::Pinned(Arc::new(memory)))
    }

    #[inline(never)]
    fn create_user(&self, udata: UserData) -> Result<Kind, Errno> {
        let request: CreateQpRequest = udata.read()?;
        let memory = self.pin(&request)?;
        let make = |doorbell_page| {
            let config = UserQpConfig {
                qp_type: self.qp_type,
                log_send_blocks: request.log_send_blocks,
                log_receive_entries: request.log_receive_entries,
                log_receive_segments: request.log_receive_segments,
                signal_all: self.signal_all(),
                strip_vlan: self.attr.create_flags & CREATE_FLAGS != 0,
                doorbell_page,
                context: self.context(),
            };
            self.create_user_on(memory.clone(), config)
        };
        let answer = |qp: &UserQueuePair<Kernel>, page| QpAnswer {
            qp: qp.number(),
            send_slot: qp.send_slot(),
            receive_slot: qp.receive_slot().unwrap_or(0),
            page,
            ..QpAnswer::default()
        };
        let qp = Context::create(udata, make, answer, |mut qp| {
            let _ = qp.destroy();
            drop(qp);
            // A handler may be about to tell the owner of an event.
            self.shared.nic.interrupts.synchronize(0);
        })?;
        Ok(Kind::User(Mutex::new(qp)))
    }

    fn create_user_on(
        &self,
        memory: RegionMemory<Kernel>,
        config: UserQpConfig,
    ) -> Result<UserQueuePair<Kernel>, Error> {
        let bad = |_| Error::BadArgument("objects of the queue pair");
        let driver = &self.shared.nic.driver;
        let pd = self.pd().map_err(bad)?;
        // SAFETY: the core has set them and keeps them while the queue pair exists.
        let (send_cq, receive_cq, srq) = unsafe {
            (
                CqObject::of(self.attr.send_cq).map_err(bad)?,
                self.attr.recv_cq,
                self.attr.srq,
            )
        };
        let send_cq = send_cq.user_reference().map_err(bad)?;
        if self.qp_type == QpType::XrcInitiator {
            return driver.create_user_qp(pd, &send_cq, &UserReceive::None, memory, config);
        }
        // SAFETY: as above.
        let receive_cq = unsafe { CqObject::of(receive_cq) }.map_err(bad)?;
        let receive_cq = receive_cq.user_reference().map_err(bad)?;
        if srq.is_null() {
            let receive = UserReceive::Own(receive_cq);
            return driver.create_user_qp(pd, &send_cq, &receive, memory, config);
        }
        // SAFETY: as above.
        let srq = unsafe { SrqObject::of(srq) }.map_err(bad)?;
        srq.with_user(|srq| {
            let receive = UserReceive::Shared(receive_cq, srq);
            driver.create_user_qp(pd, &send_cq, &receive, memory, config)
        })
        .map_err(bad)?
    }
}

/// Flags that a queue pair can be created with.
const CREATE_FLAGS: u32 = bindings::IB_QP_CREATE_CVLAN_STRIPPING as u32;

/// # Safety
/// The arguments are those of the operation.
unsafe fn create(
    ibqp: *mut bindings::ib_qp,
    attr: *mut bindings::ib_qp_init_attr,
    udata: *mut bindings::ib_udata,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments.
    let (shared, attr, udata) =
        unsafe { (Shared::of((*ibqp).device), &mut *attr, UserData::new(udata)) };
    if attr.create_flags & !CREATE_FLAGS != 0 || !attr.rwq_ind_tbl.is_null() {
        return Err(EOPNOTSUPP);
    }
    let qp_type = type_of(attr.qp_type)?;
    let mut request = Request {
        shared,
        ibqp,
        attr,
        qp_type,
    };
    let kind = match (qp_type, udata) {
        (QpType::XrcTarget, _) => request.create_target()?,
        (QpType::Gsi, Some(_)) => return Err(EOPNOTSUPP),
        (_, Some(udata)) => request.create_user(udata)?,
        (_, None) => request.create_kernel()?,
    };
    let qp = Qp {
        kind,
        qp_type,
        state: AtomicU8::new(QpState::Reset.raw()),
    };
    // SAFETY: the operation creates.
    unsafe {
        (*ibqp).qp_num = qp.number();
        QpObject::put(ibqp, Box::new(qp));
    }
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `ibqp` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it,
/// and keeps the objects that it names; `attr` is the request, `udata` that of a process or null.
unsafe extern "C" fn create_qp(
    ibqp: *mut bindings::ib_qp,
    attr: *mut bindings::ib_qp_init_attr,
    udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { create(ibqp, attr, udata) })
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn modify(
    ibqp: *mut bindings::ib_qp,
    attr: *const bindings::ib_qp_attr,
    mask: u32,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments.
    let (qp, attr, kernel_type) = unsafe { (QpObject::of(ibqp)?, &*attr, (*ibqp).qp_type) };
    let last = QpState::from_raw(qp.state.load(Ordering::Relaxed)).unwrap_or(QpState::Reset);
    let current = if mask & bindings::IB_QP_CUR_STATE != 0 {
        attr.cur_qp_state
    } else {
        attributes::kernel_state(last)
    };
    let next = if mask & bindings::IB_QP_STATE != 0 {
        attr.qp_state
    } else {
        current
    };
    // Raw packets are checked by the device: the kernel's tables know little of them.
    let sqe = last != QpState::Error && current == bindings::IB_QPS_SQE;
    // SAFETY: no arguments but numbers.
    let legal = qp.qp_type == QpType::RawPacket
        || sqe
        || unsafe { bindings::ib_modify_qp_is_ok(current, next, kernel_type, mask) };
    if !legal {
        return Err(EINVAL);
    }
    let (attributes, mask) = attributes::to_device(attr, mask, qp.qp_type)?;
    qp.modify(&attributes, mask)?;
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context for a queue pair that is not destroyed meanwhile; `attr`
/// is the request.
unsafe extern "C" fn modify_qp(
    ibqp: *mut bindings::ib_qp,
    attr: *mut bindings::ib_qp_attr,
    mask: c_int,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { modify(ibqp, attr, mask as u32) })
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn query(
    ibqp: *mut bindings::ib_qp,
    attr: *mut bindings::ib_qp_attr,
    init: *mut bindings::ib_qp_init_attr,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments. Tools that list queue pairs come here, too.
    let (found, attr, init) = unsafe {
        let found = QpObject::inspect(Shared::of((*ibqp).device), ibqp, Qp::query)?;
        (found?, &mut *attr, &mut *init)
    };
    attributes::to_kernel(&found, attr);
    // SAFETY: as above; the core has set these when the queue pair was created.
    unsafe {
        init.qp_type = (*ibqp).qp_type;
        init.send_cq = (*ibqp).send_cq;
        init.recv_cq = (*ibqp).recv_cq;
        init.srq = (*ibqp).srq;
        init.event_handler = (*ibqp).event_handler;
        init.qp_context = (*ibqp).qp_context;
    }
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context for a queue pair whose memory it keeps, which may be
/// in [`destroy_qp`]; the places are the caller's.
unsafe extern "C" fn query_qp(
    ibqp: *mut bindings::ib_qp,
    attr: *mut bindings::ib_qp_attr,
    _mask: c_int,
    init: *mut bindings::ib_qp_init_attr,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { query(ibqp, attr, init) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `ibqp` that was created and that nobody
/// uses any more, except by [`query_qp`] and lists.
unsafe extern "C" fn destroy_qp(
    ibqp: *mut bindings::ib_qp,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function; it destroys.
    let result = unsafe {
        let shared = Shared::of((*ibqp).device);
        QpObject::retire(shared, ibqp, Qp::destroy).map(|_| {
            // A handler may still be telling the owner of an event.
            shared.nic.interrupts.synchronize(0);
        })
    };
    Errno::of(result)
}

/// Adds the operations to the table.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.create_qp = Some(create_qp);
    ops.modify_qp = Some(modify_qp);
    ops.query_qp = Some(query_qp);
    ops.destroy_qp = Some(destroy_qp);
    ops.size_ib_qp = QpObject::SIZE as _;
}
