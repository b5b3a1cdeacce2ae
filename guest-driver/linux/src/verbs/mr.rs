//! Memory regions.
//!
//! * Of processes: their memory is pinned for as long as the region has it. One that is registered
//!   again keeps its key, so that peers need not be told.
//! * Of the kernel, for fast registration: its users map and unmap memory in atomic context and keep
//!   it themselves; the region has but the list of its pages.
//! * The reserved local key, as a region: all memory, for local use by the kernel.
//!
//! The core does not allocate regions, so that they are Rust's as a whole.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::{c_int, c_uint};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use vrnic_driver::abi::admin::AccessFlags;
use vrnic_driver::abi::object::MrAttributes;
use vrnic_driver::abi::registers::Capabilities;
use vrnic_driver::abi::wqe::{RESERVED_LKEY, WqeFlags};
use vrnic_driver::{
    DmaBuffer, Error, FastRegion, Listed, Lock, MemoryRegion, MrConfig, PostError,
    ProtectionDomain, RegionMemory, SendQueue, Target,
};

use super::access;
use super::device::Shared;
use super::pd::PdObject;
use super::umem::UserMemory;
use crate::bindings;
use crate::kernel::dma::Coherent;
use crate::kernel::errno::{EINVAL, ENOMEM, EOPNOTSUPP};
use crate::kernel::lock::Mutex;
use crate::kernel::{Errno, SpinLock};
use crate::platform::Kernel;

/// A region as the core has it, and the driver's part.
#[repr(C)]
struct Mr {
    base: bindings::ib_mr,
    kind: Kind,
}

enum Kind {
    /// The reserved local key.
    Reserved,
    /// Behind a lock, as it can be registered again while somebody looks at it.
    User(Mutex<UserRegion>),
    Fast(Fast),
}

impl Kind {
    fn destroy(&mut self) -> Result<(), Error> {
        match self {
            Self::Reserved => Ok(()),
            Self::User(user) => user.get_mut().region.destroy(),
            Self::Fast(fast) => fast.region.get_mut().destroy(),
        }
    }
}

impl Mr {
    /// The region of a core's part.
    ///
    /// # Safety
    /// `base` is from [`Self::into_raw`] and was not destroyed; the value does not outlive the
    /// operation.
    unsafe fn of<'a>(base: *mut bindings::ib_mr) -> &'a Self {
        // SAFETY: by the contract of this function.
        unsafe { &*base.cast::<Self>() }
    }

    /// Hands a region to the core, which fills in the rest.
    fn into_raw(kind: Kind, key: u32) -> *mut bindings::ib_mr {
        let base = bindings::ib_mr {
            lkey: key,
            rkey: key,
            ..bindings::ib_mr::default()
        };
        Box::into_raw(Box::new(Self { base, kind })).cast()
    }
}

/// What a process registers.
#[derive(Clone, Copy)]
struct Registration {
    /// Address of the memory in the process.
    address: u64,
    length: u64,
    /// Address of the same as work requests name it.
    start: u64,
    /// The kernel's flags.
    access: c_int,
}

/// A region of a process.
struct UserRegion {
    region: MemoryRegion<Kernel>,
    registration: Registration,
}

impl UserRegion {
    /// # Safety
    /// `pd` is a protection domain of this driver's.
    unsafe fn new(pd: *mut bindings::ib_pd, registration: Registration) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function.
        let Pinned {
            shared,
            domain,
            memory,
            config,
        } = unsafe { Pinned::new(pd, &registration)? };
        let region = shared.nic.driver.create_mr(domain, memory, config)?;
        Ok(Self {
            region,
            registration,
        })
    }

    /// Changes what `flags` name to what is given.
    ///
    /// # Safety
    /// `pd` is the protection domain that the region belongs to from now on.
    unsafe fn reregister(
        &mut self,
        flags: u32,
        given: Registration,
        pd: *mut bindings::ib_pd,
    ) -> Result<(), Errno> {
        let mut new = self.registration;
        if flags & bindings::IB_MR_REREG_TRANS != 0 {
            let access = new.access;
            new = Registration { access, ..given };
        }
        if flags & bindings::IB_MR_REREG_ACCESS != 0 {
            new.access = given.access;
        }
        // SAFETY: by the contract of this function. The memory is pinned anew also if it is the
        // same: how depends on who may write to it.
        let pinned = unsafe { Pinned::new(pd, &new)? };
        self.region
            .reregister(pinned.domain, pinned.memory, pinned.config)?;
        self.registration = new;
        Ok(())
    }

    fn into_raw(self) -> *mut bindings::ib_mr {
        let key = self.region.key();
        let Registration { start, length, .. } = self.registration;
        let mr = Mr::into_raw(Kind::User(Mutex::new(self)), key);
        // SAFETY: the core does not have it yet.
        unsafe {
            (*mr).iova = start;
            (*mr).length = length;
        }
        mr
    }
}

/// What the driver makes a region of.
struct Pinned<'a> {
    shared: &'a Shared,
    domain: &'a ProtectionDomain<Kernel>,
    memory: RegionMemory<Kernel>,
    config: MrConfig,
}

impl Pinned<'_> {
    /// # Safety
    /// `pd` is a protection domain of this driver's, which outlives the value.
    unsafe fn new(pd: *mut bindings::ib_pd, registration: &Registration) -> Result<Self, Errno> {
        let &Registration {
            address,
            length,
            start,
            access: flags,
        } = registration;
        let access = access::from_kernel(flags as u32)?;
        // SAFETY: by the contract of this function; the memory keeps its device.
        let (shared, domain, memory) = unsafe {
            let ibdev = (*pd).device;
            let memory = UserMemory::pin(ibdev, address, length, flags)?;
            (Shared::of(ibdev), PdObject::of(pd)?, memory)
        };
        Ok(Self {
            shared,
            domain,
            memory: RegionMemory::Pinned(Arc::new(memory)),
            config: MrConfig {
                offset: 0,
                length,
                start,
                access,
                variant: shared.next_variant(),
            },
        })
    }
}

/// The driver's part of a region for fast registration.
struct Fast {
    region: SpinLock<FastRegion<Kernel>>,
    /// The region's, written without its lock: a region is mapped by one context at a time.
    list: Arc<Coherent>,
    /// Pages in the list.
    pages: AtomicU32,
    most: u32,
}

/// A region of the kernel for fast registration.
pub(super) struct FastMr<'a> {
    base: &'a bindings::ib_mr,
    fast: &'a Fast,
}

impl FastMr<'_> {
    /// The region of a core's part.
    ///
    /// # Safety
    /// `base` is a region of this driver's. The value does not outlive the operation, in which
    /// nobody changes the region.
    pub(super) unsafe fn of(base: *mut bindings::ib_mr) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function.
        let mr = unsafe { Mr::of(base) };
        match &mr.kind {
            Kind::Fast(fast) => Ok(Self {
                base: &mr.base,
                fast,
            }),
            Kind::Reserved | Kind::User(_) => Err(EINVAL),
        }
    }

    /// Adds a page to the list.
    fn add_page(&self, address: u64) -> Result<(), Errno> {
        let index = self.fast.pages.load(Ordering::Relaxed);
        if index >= self.fast.most {
            return Err(ENOMEM);
        }
        let place = index as usize * size_of::<u64>();
        self.fast.list.store(place, address);
        self.fast.pages.store(index + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Posts the registration of the memory that was mapped last, to be accessed under `key`; the
    /// device is told later. Atomic context.
    pub(super) fn stage(
        &self,
        queue: &mut SendQueue<Kernel>,
        wr_id: u64,
        key: u32,
        access: AccessFlags,
        flags: WqeFlags,
    ) -> Result<(), PostError> {
        let listed = Listed {
            pages: self.fast.pages.load(Ordering::Relaxed),
            page_shift: self.base.page_size.trailing_zeros() as u8,
            start: self.base.iova,
            length: self.base.length,
            access,
            variant: key as u8,
        };
        self.fast.region.with(|region| {
            region.describe(&listed).map_err(|_| PostError::NotMapped)?;
            if region.key() != key {
                return Err(PostError::NotMapped);
            }
            queue.stage_fast_register(wr_id, region, Target::Peer, flags)
        })
    }
}

/// The reserved local key as a region, which gives no right but that to use memory locally.
///
/// # Safety
/// `pd` is a protection domain of this driver's.
unsafe fn reserved(pd: *mut bindings::ib_pd, access: c_int) -> Result<*mut bindings::ib_mr, Errno> {
    // SAFETY: by the contract of this function.
    let shared = unsafe { Shared::of((*pd).device) };
    let remote = access as u32 & !bindings::IB_ACCESS_OPTIONAL & !bindings::IB_ACCESS_LOCAL_WRITE;
    if remote != 0 || !shared.has(Capabilities::RESERVED_LKEY) {
        return Err(EOPNOTSUPP);
    }
    Ok(Mr::into_raw(Kind::Reserved, RESERVED_LKEY))
}

/// # Safety
/// `pd` is a protection domain of this driver's.
unsafe fn alloc(
    pd: *mut bindings::ib_pd,
    mr_type: bindings::ib_mr_type,
    most: u32,
) -> Result<*mut bindings::ib_mr, Errno> {
    if mr_type != bindings::IB_MR_TYPE_MEM_REG {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: by the contract of this function.
    let (shared, domain) = unsafe { (Shared::of((*pd).device), PdObject::of(pd)?) };
    let variant = shared.next_variant();
    let region = shared
        .nic
        .driver
        .create_fast_region(domain, most, variant)?;
    let key = region.key();
    let fast = Fast {
        list: Arc::clone(region.list()),
        pages: AtomicU32::new(0),
        most,
        region: SpinLock::new(region),
    };
    Ok(Mr::into_raw(Kind::Fast(fast), key))
}

/// Registers a region again. It stays the core's, and keeps its key.
///
/// # Safety
/// `mr` is a region, `pd` the protection domain that it belongs to from now on.
unsafe fn reregister(
    mr: *mut bindings::ib_mr,
    flags: c_int,
    given: Registration,
    pd: *mut bindings::ib_pd,
) -> Result<(), Errno> {
    let flags = flags as u32;
    if flags & !bindings::IB_MR_REREG_SUPPORTED != 0 {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: by the contract of this function.
    match unsafe { &Mr::of(mr).kind } {
        // SAFETY: by the contract of this function.
        Kind::User(user) => user.with(|user| unsafe { user.reregister(flags, given, pd) }),
        Kind::Reserved | Kind::Fast(_) => Err(EINVAL),
    }
}

/// # Safety
/// `base` is a region that nobody uses any more.
unsafe fn destroy(base: *mut bindings::ib_mr) -> Result<(), Errno> {
    // SAFETY: by the contract of this function it is from `Mr::into_raw`.
    let mut mr = unsafe { Box::from_raw(base.cast::<Mr>()) };
    mr.kind.destroy().map_err(|error| {
        // It goes on.
        let _ = Box::into_raw(mr);
        error.into()
    })
}

/// What there is to tell of a region.
pub(super) enum Look {
    Reserved,
    /// How the device sees it.
    User(Result<MrAttributes, Error>),
    /// Its lock is one that nobody may sleep under, as who asks the device does.
    Fast {
        pages: u32,
        most: u32,
    },
}

/// Looks at a region. Sleepable context.
///
/// # Safety
/// `base` is a region of this driver's that is not destroyed meanwhile.
pub(super) unsafe fn look(base: *mut bindings::ib_mr) -> Look {
    // SAFETY: by the contract of this function.
    match unsafe { &Mr::of(base).kind } {
        Kind::Reserved => Look::Reserved,
        Kind::User(user) => Look::User(user.with(|user| user.region.query())),
        Kind::Fast(fast) => Look::Fast {
            pages: fast.pages.load(Ordering::Relaxed),
            most: fast.most,
        },
    }
}

/// What an operation that creates a region returns.
fn pointer(result: Result<*mut bindings::ib_mr, Errno>) -> *mut bindings::ib_mr {
    result.unwrap_or_else(Errno::as_pointer)
}

/// # Safety
/// The RDMA core calls it in process context for a protection domain that is not destroyed
/// meanwhile.
unsafe extern "C" fn get_dma_mr(pd: *mut bindings::ib_pd, access: c_int) -> *mut bindings::ib_mr {
    // SAFETY: by the contract of this function.
    pointer(unsafe { reserved(pd, access) })
}

/// # Safety
/// The RDMA core calls it in process context for the process that owns the memory, and a protection
/// domain that it keeps while the region exists.
unsafe extern "C" fn reg_user_mr(
    pd: *mut bindings::ib_pd,
    address: u64,
    length: u64,
    start: u64,
    access: c_int,
    // Comes from an operation that this device does not have.
    #[cfg(kernel = "reg_user_mr_dmah")] _hints: *mut bindings::ib_dmah,
    _udata: *mut bindings::ib_udata,
) -> *mut bindings::ib_mr {
    let registration = Registration {
        address,
        length,
        start,
        access,
    };
    // SAFETY: by the contract of this function.
    pointer(unsafe { UserRegion::new(pd, registration) }.map(UserRegion::into_raw))
}

/// # Safety
/// As for [`reg_user_mr`]; nobody uses `mr`, a region of that, meanwhile.
unsafe extern "C" fn rereg_user_mr(
    mr: *mut bindings::ib_mr,
    flags: c_int,
    address: u64,
    length: u64,
    start: u64,
    access: c_int,
    pd: *mut bindings::ib_pd,
    _udata: *mut bindings::ib_udata,
) -> *mut bindings::ib_mr {
    let registration = Registration {
        address,
        length,
        start,
        access,
    };
    // SAFETY: by the contract of this function.
    let done = unsafe { reregister(mr, flags, registration, pd) };
    // No other region: the core notes what has changed of this one.
    pointer(done.map(|()| ptr::null_mut()))
}

/// # Safety
/// As for [`get_dma_mr`]; the core keeps the domain while the region exists.
unsafe extern "C" fn alloc_mr(
    pd: *mut bindings::ib_pd,
    mr_type: bindings::ib_mr_type,
    most: u32,
) -> *mut bindings::ib_mr {
    // SAFETY: by the contract of this function.
    pointer(unsafe { alloc(pd, mr_type, most) })
}

/// # Safety
/// The RDMA core calls it in process context for a region of this driver that nobody uses any more.
unsafe extern "C" fn dereg_mr(mr: *mut bindings::ib_mr, _udata: *mut bindings::ib_udata) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { destroy(mr) })
}

/// # Safety
/// [`map_mr_sg`] has it called, with its region.
unsafe extern "C" fn add_page(mr: *mut bindings::ib_mr, address: u64) -> c_int {
    // SAFETY: the region that `map_mr_sg` works on.
    let result = unsafe { FastMr::of(mr) };
    Errno::of(result.and_then(|mr| mr.add_page(address)))
}

/// # Safety
/// A user of the kernel calls it, in any context, for a region of [`alloc_mr`] that nobody else
/// uses meanwhile; `list` has `count` entries that are mapped for the device.
unsafe extern "C" fn map_mr_sg(
    mr: *mut bindings::ib_mr,
    list: *mut bindings::scatterlist,
    count: c_int,
    offset: *mut c_uint,
) -> c_int {
    // SAFETY: the core's argument; the value is gone before the region is changed.
    match unsafe { FastMr::of(mr) } {
        Ok(mr) => mr.fast.pages.store(0, Ordering::Relaxed),
        Err(errno) => return errno.get(),
    }
    // SAFETY: by the contract of this function.
    unsafe { bindings::ib_sg_to_pages(mr, list, count, offset, Some(add_page)) }
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.get_dma_mr = Some(get_dma_mr);
    ops.reg_user_mr = Some(reg_user_mr);
    ops.rereg_user_mr = Some(rereg_user_mr);
    ops.alloc_mr = Some(alloc_mr);
    ops.dereg_mr = Some(dereg_mr);
    ops.map_mr_sg = Some(map_mr_sg);
}
