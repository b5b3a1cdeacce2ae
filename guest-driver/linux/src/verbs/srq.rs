//! Shared receive queues: of processes, basic and for XRC, and basic ones of the kernel itself.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_int;

use vrnic_driver::abi::object::SrqAttributes;
use vrnic_driver::abi::verbs::{CreateSrqRequest, SrqAnswer};
use vrnic_driver::abi::wqe::SEGMENT;
use vrnic_driver::{
    Error, Lock, ProtectionDomain, RegionMemory, SrqConfig, SrqControl, SrqQueue, SrqReference,
    UserSharedReceiveQueue, UserSrqConfig,
};

use super::context::Context;
use super::cq::CqObject;
use super::device::Shared;
use super::object::Object;
use super::pd::PdObject;
use super::udata::UserData;
use super::umem::UserMemory;
use super::xrcd::XrcdObject;
use crate::bindings;
use crate::kernel::errno::{EINVAL, EOPNOTSUPP};
use crate::kernel::lock::Mutex;
use crate::kernel::{Errno, SpinLock};
use crate::platform::Kernel;

/// A shared receive queue as the core keeps it.
pub(super) type SrqObject = Object<bindings::ib_srq, Srq>;

/// A queue that the kernel posts to: its parts, so that posting waits for nothing.
pub(super) struct KernelSrq {
    control: Mutex<SrqControl<Kernel>>,
    queue: SpinLock<SrqQueue<Kernel>>,
    reference: SrqReference<Kernel>,
}

/// The driver's part of a shared receive queue.
pub(super) enum Srq {
    Kernel(KernelSrq),
    User(Mutex<UserSharedReceiveQueue<Kernel>>),
}

impl Srq {
    /// Posts to a queue of the kernel. Atomic context.
    pub(super) fn with_queue<R>(
        &self,
        f: impl FnOnce(&mut SrqQueue<Kernel>) -> R,
    ) -> Result<R, Errno> {
        match self {
            Self::Kernel(srq) => Ok(srq.queue.with(f)),
            Self::User(_) => Err(EINVAL),
        }
    }

    /// Uses a queue of a process. Sleepable context.
    pub(super) fn with_user<R>(
        &self,
        f: impl FnOnce(&mut UserSharedReceiveQueue<Kernel>) -> R,
    ) -> Result<R, Errno> {
        match self {
            Self::User(srq) => Ok(srq.with(f)),
            Self::Kernel(_) => Err(EINVAL),
        }
    }

    /// A queue of the kernel as queue pairs name it.
    pub(super) fn reference(&self) -> Result<&SrqReference<Kernel>, Errno> {
        match self {
            Self::Kernel(srq) => Ok(&srq.reference),
            Self::User(_) => Err(EINVAL),
        }
    }

    fn set_limit(&self, limit: u32) -> Result<(), Error> {
        match self {
            Self::Kernel(srq) => srq.control.with(|srq| srq.set_limit(limit)),
            Self::User(srq) => srq.with(|srq| srq.set_limit(limit)),
        }
    }

    /// Number of the queue. Sleepable context.
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Kernel(srq) => srq.control.with(|srq| srq.number()),
            Self::User(srq) => srq.with(|srq| srq.number()),
        }
    }

    fn destroy(&mut self) -> Result<(), Error> {
        match self {
            Self::Kernel(srq) => srq.control.get_mut().destroy(),
            Self::User(srq) => srq.get_mut().destroy(),
        }
    }

    /// The queue as the device sees it. Sleepable context.
    pub(super) fn query(&self) -> Result<SrqAttributes, Error> {
        match self {
            Self::Kernel(srq) => srq.control.with(|srq| srq.query()),
            Self::User(srq) => srq.with(|srq| srq.query()),
        }
    }
}

/// What the core asks for: a basic queue, or one for XRC with its domain and completion queue.
struct Request<'a> {
    shared: &'a Shared,
    ibsrq: *mut bindings::ib_srq,
    pd: &'a ProtectionDomain<Kernel>,
    attr: &'a bindings::ib_srq_init_attr,
}

impl Request<'_> {
    fn context(&self) -> u64 {
        self.ibsrq as u64
    }

    fn create_kernel(&self) -> Result<Srq, Errno> {
        if self.attr.srq_type != bindings::IB_SRQT_BASIC {
            return Err(EOPNOTSUPP);
        }
        let config = SrqConfig {
            requests: self.attr.attr.max_wr,
            segments: self.attr.attr.max_sge.max(1),
            privileged: true,
            context: self.context(),
            ..SrqConfig::default()
        };
        let srq = self.shared.nic.driver.create_srq(self.pd, config)?;
        let reference = srq.reference();
        let (control, queue) = srq.split();
        Ok(Srq::Kernel(KernelSrq {
            control: Mutex::new(control),
            queue: SpinLock::new(queue),
            reference,
        }))
    }

    fn create_user(&self, udata: UserData) -> Result<Srq, Errno> {
        let request: CreateSrqRequest = udata.read()?;
        let driver = &self.shared.nic.driver;
        let limit = driver.attributes().log_max_srq_entries;
        if request.log_entries > limit || request.log_segments > 8 {
            return Err(EINVAL);
        }
        let length = (SEGMENT as u64) << (request.log_entries + request.log_segments);
        let memory = UserMemory::pin_queue(self.shared, request.buffer, length)?;
        let memory = RegionMemory::Pinned(Arc::new(memory));
        let make = |doorbell_page| {
            let config = UserSrqConfig {
                log_entries: request.log_entries,
                log_segments: request.log_segments,
                doorbell_page,
                context: self.context(),
            };
            self.create_user_on(memory.clone(), config)
        };
        let answer = |srq: &UserSharedReceiveQueue<Kernel>, page| SrqAnswer {
            srq: srq.number(),
            slot: srq.slot(),
            page,
        };
        let srq = Context::create(udata, make, answer, |mut srq| {
            let _ = srq.destroy();
            drop(srq);
            // A handler may be about to tell the owner of an event.
            self.shared.nic.interrupts.synchronize(0);
        })?;
        Ok(Srq::User(Mutex::new(srq)))
    }

    fn create_user_on(
        &self,
        memory: RegionMemory<Kernel>,
        config: UserSrqConfig,
    ) -> Result<UserSharedReceiveQueue<Kernel>, Error> {
        let driver = &self.shared.nic.driver;
        if self.attr.srq_type == bindings::IB_SRQT_BASIC {
            return driver.create_user_srq(self.pd, memory, config);
        }
        // SAFETY: of a queue for XRC the core has set both, and keeps them while it exists.
        let (xrcd, cq) = unsafe {
            let ext = &self.attr.ext;
            (
                XrcdObject::of(ext.__bindgen_anon_1.xrc.xrcd),
                CqObject::of(ext.cq),
            )
        };
        let bad = |_| Error::BadArgument("XRC domain or completion queue");
        let (xrcd, cq) = (xrcd.map_err(bad)?, cq.map_err(bad)?);
        cq.with_user(|cq| driver.create_user_xrc_srq(self.pd, xrcd, cq, memory, config))
            .map_err(bad)?
    }
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn create(
    ibsrq: *mut bindings::ib_srq,
    attr: *const bindings::ib_srq_init_attr,
    udata: *mut bindings::ib_udata,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments.
    let (request, udata) = unsafe {
        let request = Request {
            shared: Shared::of((*ibsrq).device),
            ibsrq,
            pd: PdObject::of((*ibsrq).pd)?,
            attr: &*attr,
        };
        (request, UserData::new(udata))
    };
    let attr = request.attr;
    let known = [bindings::IB_SRQT_BASIC, bindings::IB_SRQT_XRC];
    if !known.contains(&attr.srq_type) {
        return Err(EOPNOTSUPP);
    }
    let srq = match udata {
        Some(udata) => request.create_user(udata)?,
        None => request.create_kernel()?,
    };
    if attr.srq_type == bindings::IB_SRQT_XRC {
        let number = srq.number();
        // SAFETY: the operation creates; a queue for XRC has a number here.
        unsafe { (*ibsrq).ext.__bindgen_anon_1.xrc.srq_num = number };
    }
    // SAFETY: the operation creates.
    unsafe { SrqObject::put(ibsrq, Box::new(srq)) };
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `ibsrq` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it,
/// and keeps the objects that it names; `attr` is the request, `udata` that of a process or null.
unsafe extern "C" fn create_srq(
    ibsrq: *mut bindings::ib_srq,
    attr: *mut bindings::ib_srq_init_attr,
    udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { create(ibsrq, attr, udata) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `ibsrq` that was created and that nobody
/// uses any more, except by lists.
unsafe extern "C" fn destroy_srq(
    ibsrq: *mut bindings::ib_srq,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function; it destroys.
    let result = unsafe {
        let shared = Shared::of((*ibsrq).device);
        SrqObject::retire(shared, ibsrq, Srq::destroy).map(|_| {
            // A handler may still be telling the owner of an event.
            shared.nic.interrupts.synchronize(0);
        })
    };
    Errno::of(result)
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn modify(
    ibsrq: *mut bindings::ib_srq,
    attr: *const bindings::ib_srq_attr,
    mask: u32,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments.
    let (srq, attr) = unsafe { (SrqObject::of(ibsrq)?, &*attr) };
    if mask & bindings::IB_SRQ_MAX_WR != 0 {
        return Err(EOPNOTSUPP);
    }
    if mask & bindings::IB_SRQ_LIMIT != 0 {
        srq.set_limit(attr.srq_limit)?;
    }
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context for a queue that is not destroyed meanwhile; `attr` is
/// the request.
unsafe extern "C" fn modify_srq(
    ibsrq: *mut bindings::ib_srq,
    attr: *mut bindings::ib_srq_attr,
    mask: bindings::ib_srq_attr_mask,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { modify(ibsrq, attr, mask) })
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn query(
    ibsrq: *mut bindings::ib_srq,
    attr: *mut bindings::ib_srq_attr,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments.
    let (srq, attr) = unsafe { (SrqObject::of(ibsrq)?, &mut *attr) };
    let found = srq.query()?;
    attr.max_wr = found.entries;
    attr.max_sge = found.segments;
    attr.srq_limit = found.limit;
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context for a queue that is not destroyed meanwhile; `attr` is
/// the caller's.
unsafe extern "C" fn query_srq(
    ibsrq: *mut bindings::ib_srq,
    attr: *mut bindings::ib_srq_attr,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { query(ibsrq, attr) })
}

/// Adds the operations to the table.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.create_srq = Some(create_srq);
    ops.destroy_srq = Some(destroy_srq);
    ops.modify_srq = Some(modify_srq);
    ops.query_srq = Some(query_srq);
    ops.size_ib_srq = SrqObject::SIZE as _;
}
