//! Completion queues: of processes, and of the kernel itself.
//!
//! An event finds its queue by the address of a [`Target`], which the queue owns.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_int;
use core::ptr::NonNull;

use vrnic_driver::abi::cqe::CompletionEntry;
use vrnic_driver::abi::object::CqAttributes;
use vrnic_driver::abi::verbs::{CqAnswer, CreateCqRequest, ResizeCqAnswer};
use vrnic_driver::{
    CompletionQueue, CqConfig, CqReference, Error, Lock, Moderation, RegionMemory,
    UserCompletionQueue, UserCqConfig, UserCqReference,
};

use super::context::Context;
use super::device::Shared;
use super::object::Object;
use super::udata::UserData;
use super::umem::UserMemory;
use crate::bindings;
use crate::kernel::compat::{self, CqEntries};
use crate::kernel::errno::{EINVAL, EOPNOTSUPP};
use crate::kernel::lock::Mutex;
use crate::kernel::{Errno, SpinLock};
use crate::platform::{Kernel, Notify};

/// A completion queue as the core keeps it.
pub(super) type CqObject = Object<bindings::ib_cq, Cq>;

/// Where events of a queue go.
#[repr(C)]
struct Target {
    notify: Notify,
    ibcq: *mut bindings::ib_cq,
}

// SAFETY: the core's queue outlives the target, and its handler can be called from anywhere.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// Tells the owner of a queue of completions.
///
/// # Safety
/// `notify` is the first part of a target.
unsafe fn notify(notify: NonNull<Notify>) {
    // SAFETY: by the contract of this function, and of `Notify`.
    unsafe {
        let ibcq = notify.cast::<Target>().as_ref().ibcq;
        if let Some(handler) = (*ibcq).comp_handler {
            handler(ibcq, (*ibcq).cq_context);
        }
    }
}

/// The queue whose events have this context; `None` for 0.
///
/// # Safety
/// The context is one that a queue was created with, and the queue was not destroyed.
pub(super) unsafe fn of_context(context: u64) -> Option<*mut bindings::ib_cq> {
    // SAFETY: by the contract of this function.
    unsafe { (context as *const Target).as_ref() }.map(|target| target.ibcq)
}

/// The driver's part of a completion queue.
pub(super) struct Cq {
    kind: Kind,
    vector: u16,
    _target: Box<Target>,
}

enum Kind {
    Kernel(SpinLock<CompletionQueue<Kernel>>),
    User(Mutex<UserCompletionQueue<Kernel>>),
}

/// What there is to tell of a queue.
pub(super) struct Look {
    pub(super) number: u32,
    pub(super) entries: u32,
    /// How the device sees it, if that can be found out.
    pub(super) device: Option<CqAttributes>,
}

impl Cq {
    /// Uses a queue of the kernel. Atomic context.
    pub(super) fn with_kernel<R>(
        &self,
        f: impl FnOnce(&mut CompletionQueue<Kernel>) -> R,
    ) -> Result<R, Errno> {
        match &self.kind {
            Kind::Kernel(cq) => Ok(cq.with(f)),
            Kind::User(_) => Err(EINVAL),
        }
    }

    /// Uses a queue of a process. Sleepable context.
    pub(super) fn with_user<R>(
        &self,
        f: impl FnOnce(&mut UserCompletionQueue<Kernel>) -> R,
    ) -> Result<R, Errno> {
        match &self.kind {
            Kind::User(cq) => Ok(cq.with(f)),
            Kind::Kernel(_) => Err(EINVAL),
        }
    }

    /// What there is to tell of it. Sleepable context.
    pub(super) fn look(&self) -> Look {
        let (number, entries, device) = match &self.kind {
            // Its lock is one that nobody may sleep under, as who asks the device does.
            Kind::Kernel(cq) => cq.with(|cq| (cq.number(), cq.entries(), None)),
            Kind::User(cq) => cq.with(|cq| (cq.number(), cq.entries(), cq.query().ok())),
        };
        Look {
            number,
            entries,
            device,
        }
    }

    fn destroy(&mut self) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Kernel(queue) => queue.get_mut().destroy(),
            Kind::User(queue) => queue.get_mut().destroy(),
        }
    }

    /// A queue of the kernel as queue pairs name it.
    pub(super) fn reference(&self) -> Result<CqReference<Kernel>, Errno> {
        self.with_kernel(|cq| cq.reference())
    }

    /// A queue of a process as queue pairs name it.
    pub(super) fn user_reference(&self) -> Result<UserCqReference<Kernel>, Errno> {
        self.with_user(|cq| cq.reference())
    }
}

/// Pins the ring that a request describes.
fn pin(shared: &Shared, request: &CreateCqRequest) -> Result<RegionMemory<Kernel>, Errno> {
    let limit = shared.nic.driver.attributes().log_max_cq_entries;
    if request.log_entries > limit {
        return Err(EINVAL);
    }
    let length = (CompletionEntry::SIZE as u64) << request.log_entries;
    let memory = UserMemory::pin_queue(shared, request.buffer, length)?;
    Ok(RegionMemory::Pinned(Arc::new(memory)))
}

fn create_user(
    shared: &Shared,
    ibcq: *mut bindings::ib_cq,
    attr: &bindings::ib_cq_init_attr,
    target: &Target,
    udata: UserData,
) -> Result<Kind, Errno> {
    let request: CreateCqRequest = udata.read()?;
    let memory = pin(shared, &request)?;
    let make = |doorbell_page| {
        let config = UserCqConfig {
            log_entries: request.log_entries,
            completion_vector: attr.comp_vector as u16,
            context: target.notify.context(),
            doorbell_page,
            moderation: Moderation::default(),
        };
        shared.nic.driver.create_user_cq(memory.clone(), config)
    };
    let answer = |cq: &UserCompletionQueue<Kernel>, page| CqAnswer {
        cq: cq.number(),
        slot: cq.slot(),
        page,
    };
    let cq = Context::create(udata, make, answer, |mut cq| {
        let vector = cq.vector();
        let _ = cq.destroy();
        drop(cq);
        // A handler may be about to use the target.
        shared.nic.interrupts.synchronize(vector);
    })?;
    // SAFETY: the queue is being created, so it is ours.
    unsafe { (*ibcq).cqe = cq.entries() as c_int };
    Ok(Kind::User(Mutex::new(cq)))
}

fn create_kernel(
    shared: &Shared,
    ibcq: *mut bindings::ib_cq,
    attr: &bindings::ib_cq_init_attr,
    target: &Target,
) -> Result<Kind, Errno> {
    let config = CqConfig {
        entries: attr.cqe,
        completion_vector: attr.comp_vector as u16,
        context: target.notify.context(),
        ..CqConfig::default()
    };
    let cq = shared.nic.driver.create_cq(config)?;
    // SAFETY: the queue is being created, so it is ours.
    unsafe { (*ibcq).cqe = cq.entries() as c_int };
    Ok(Kind::Kernel(SpinLock::new(cq)))
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn create(
    ibcq: *mut bindings::ib_cq,
    attr: *const bindings::ib_cq_init_attr,
    udata: *mut bindings::ib_udata,
) -> Result<(), Errno> {
    // SAFETY: the operation's arguments.
    let (shared, attr, udata) =
        unsafe { (Shared::of((*ibcq).device), &*attr, UserData::new(udata)) };
    let target = Box::new(Target {
        notify: Notify { call: notify },
        ibcq,
    });
    if attr.flags & !bindings::IB_UVERBS_CQ_FLAGS_TIMESTAMP_COMPLETION != 0 {
        return Err(EOPNOTSUPP);
    }
    let kind = match udata {
        Some(udata) => create_user(shared, ibcq, attr, &target, udata)?,
        None => create_kernel(shared, ibcq, attr, &target)?,
    };
    let vector = match &kind {
        Kind::Kernel(cq) => cq.with(|cq| cq.vector()),
        Kind::User(cq) => cq.with(|cq| cq.vector()),
    };
    let cq = Box::new(Cq {
        kind,
        vector,
        _target: target,
    });
    // SAFETY: the operation creates.
    unsafe { CqObject::put(ibcq, cq) };
    Ok(())
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `ibcq` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it,
/// `attr` and `attrs` are the request.
unsafe extern "C" fn create_cq(
    ibcq: *mut bindings::ib_cq,
    attr: *const bindings::ib_cq_init_attr,
    attrs: *mut bindings::uverbs_attr_bundle,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { create(ibcq, attr, bindings::vrnic_bundle_udata(attrs)) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `ibcq` that was created and that nobody
/// uses any more.
unsafe extern "C" fn destroy_cq(
    ibcq: *mut bindings::ib_cq,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function; it destroys.
    let result = unsafe {
        let shared = Shared::of((*ibcq).device);
        CqObject::retire(shared, ibcq, Cq::destroy).map(|cq| {
            // A handler that has found the queue before may still be telling its owner.
            shared.nic.interrupts.synchronize(cq.vector);
        })
    };
    Errno::of(result)
}

/// # Safety
/// `ibcq` is a queue of this driver, and `udata` that of an operation on it.
unsafe fn resize(
    ibcq: *mut bindings::ib_cq,
    entries: CqEntries,
    udata: *mut bindings::ib_udata,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let (shared, cq, udata) = unsafe {
        (
            Shared::of((*ibcq).device),
            CqObject::of(ibcq)?,
            UserData::new(udata).ok_or(EOPNOTSUPP)?,
        )
    };
    let request: CreateCqRequest = udata.read()?;
    let memory = pin(shared, &request)?;
    if entries < 1 || i64::from(entries) > 1 << request.log_entries {
        return Err(EINVAL);
    }
    let base = cq.with_user(|cq| {
        let base = cq.resize(memory, request.log_entries)?;
        // SAFETY: by the contract of this function. The core lets several threads resize a queue at
        // the same time; only here it is changed, by one of them.
        unsafe { (*ibcq).cqe = cq.entries() as c_int };
        Ok::<_, Errno>(base)
    })??;
    udata.write(&ResizeCqAnswer { base, reserved: 0 })
}

/// # Safety
/// The RDMA core calls it in process context for a queue that is not destroyed meanwhile; `udata`
/// is that of the process.
unsafe extern "C" fn resize_cq(
    ibcq: *mut bindings::ib_cq,
    entries: CqEntries,
    udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { resize(ibcq, entries, udata) })
}

/// # Safety
/// The RDMA core calls it in process context for a queue that is not destroyed meanwhile.
unsafe extern "C" fn modify_cq(ibcq: *mut bindings::ib_cq, count: u16, period: u16) -> c_int {
    let moderation = Moderation { period, count };
    // SAFETY: by the contract of this function.
    let cq = match unsafe { CqObject::of(ibcq) } {
        Ok(cq) => cq,
        Err(errno) => return errno.get(),
    };
    let result = match &cq.kind {
        Kind::User(cq) => cq.with(|cq| cq.set_moderation(moderation)),
        // Of the kernel's queues only `rdma_dim` would ask for it, which this device does not want.
        Kind::Kernel(_) => return EOPNOTSUPP.get(),
    };
    Errno::of(result.map_err(Errno::from))
}

/// Adds the operations to the table.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    compat::set_create_cq(ops, create_cq);
    ops.destroy_cq = Some(destroy_cq);
    compat::set_resize_cq(ops, resize_cq);
    ops.modify_cq = Some(modify_cq);
    ops.size_ib_cq = CqObject::SIZE as _;
}
