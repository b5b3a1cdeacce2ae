//! User contexts and their doorbell pages.
//!
//! A context is a process's use of the device. It has one doorbell page from its beginning on, and
//! takes another whenever the device finds no free slot for a queue in those it has, up to a limit;
//! all are freed with the context, when its queues are gone. A page and its kick page are mapped
//! into the process at offsets that only this context knows.
//!
//! Anybody can open as many contexts as he likes: pages are shared between users by the rule of
//! [`vrnic_driver::share`], which does not hold for processes with `CAP_SYS_RESOURCE`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_int;
use core::ptr::NonNull;

use bytemuck::Pod;
use vrnic_driver::abi::admin::Status;
use vrnic_driver::abi::verbs::{AllocContext, ContextAnswer, PageAnswer, VERSION};
use vrnic_driver::abi::{VERSION_MAJOR, VERSION_MINOR, doorbell, pci};
use vrnic_driver::{DoorbellPage, Error, Level, Lock};

use super::device::Shared;
use super::object::Object;
use super::udata::UserData;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, ENOMEM};
use crate::kernel::lock::Mutex;
use crate::platform::Kernel;

/// Pages of a context at most: an eighth of the device's, with slots for some 8000 queue pairs.
const MOST_PAGES: usize = doorbell::PAGES as usize / 8;
/// Logarithm of the size of a page.
const PAGE_SHIFT: u32 = doorbell::PAGE_SIZE.trailing_zeros();

/// A page of a BAR that a process may map. The core counts who uses it.
#[repr(C)]
struct Mapping {
    entry: bindings::rdma_user_mmap_entry,
    /// Physical address, in pages.
    frame: u64,
}

/// The offer to a process to map a page. It ends when the value is dropped; maps that exist then
/// keep the [`Mapping`].
struct Offer(NonNull<Mapping>);

impl Offer {
    /// # Safety
    /// `context` is a user context that outlives the value.
    unsafe fn new(context: *mut bindings::ib_ucontext, frame: u64) -> Result<Self, Errno> {
        let entry = bindings::rdma_user_mmap_entry::default();
        let mapping = Box::into_raw(Box::new(Mapping { entry, frame }));
        // SAFETY: by the contract of this function; the entry stays where it is until `mmap_free`.
        let result = unsafe {
            let entry = &raw mut (*mapping).entry;
            let length = doorbell::PAGE_SIZE as usize;
            bindings::rdma_user_mmap_entry_insert(context, entry, length)
        };
        if let Err(errno) = Errno::check(result) {
            // SAFETY: the core has not taken it.
            drop(unsafe { Box::from_raw(mapping) });
            return Err(errno);
        }
        NonNull::new(mapping).map(Self).ok_or(ENOMEM)
    }

    /// The offset to map the page at.
    fn offset(&self) -> u64 {
        // SAFETY: it lives as long as the value.
        unsafe { self.0.as_ref() }.entry.start_pgoff << PAGE_SHIFT
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // SAFETY: inserted by `new`; the core frees it when nobody uses it any more.
        unsafe { bindings::rdma_user_mmap_entry_remove(&raw mut (*self.0.as_ptr()).entry) };
    }
}

/// The offers of a doorbell page and of its kick page.
struct Offers {
    doorbell: Offer,
    kick: Offer,
}

/// One doorbell page of the share of a user, until the value is dropped.
struct Share {
    shared: NonNull<Shared>,
    user: u32,
}

impl Share {
    /// One for a context of `user`, for the process that calls.
    ///
    /// # Safety
    /// `shared` outlives the value.
    unsafe fn take(shared: NonNull<Shared>, user: u32) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function.
        let pages = unsafe { &shared.as_ref().pages };
        let take = |privileged| pages.with(|pages| pages.take(user, privileged));
        // SAFETY: no arguments.
        if take(false) || unsafe { bindings::vrnic_is_privileged() } && take(true) {
            Ok(Self { shared, user })
        } else {
            Err(ENOMEM)
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // SAFETY: it outlives the value.
        let pages = unsafe { &self.shared.as_ref().pages };
        pages.with(|pages| pages.give_back(self.user));
    }
}

/// A doorbell page of a context.
struct Page {
    /// Nothing until a queue has a slot in the page. A process can guess offsets, and keeps what it
    /// has mapped until its context ends: a page that was offered cannot be given back before, as
    /// it may be another process's next.
    offers: Option<Offers>,
    page: DoorbellPage<Kernel>,
    share: Share,
}

/// The user context of a process.
pub(super) struct Context {
    shared: NonNull<Shared>,
    base: *mut bindings::ib_ucontext,
    /// Whose share its pages count to: who has opened it, whoever uses it.
    user: u32,
    pages: Mutex<Vec<Page>>,
}

/// The core's user context with the driver's.
type ContextObject = Object<bindings::ib_ucontext, Context>;

impl Context {
    /// The context of the process that an operation is for.
    fn of_caller<'a>(udata: UserData) -> Result<&'a Self, Errno> {
        let base = udata.context()?;
        // SAFETY: the core keeps it at least until the operation is over.
        unsafe { ContextObject::of(base) }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: the device outlives all of its contexts.
        unsafe { self.shared.as_ref() }
    }

    /// Another doorbell page beside so many.
    fn new_page(&self, count: usize) -> Result<Page, Errno> {
        if count >= MOST_PAGES {
            return Err(ENOMEM);
        }
        // SAFETY: the device outlives all of its contexts.
        let share = unsafe { Share::take(self.shared, self.user)? };
        Ok(Page {
            offers: None,
            page: self.shared().nic.driver.create_doorbell_page()?,
            share,
        })
    }

    /// Offers a page to the process.
    fn offer(&self, number: u32) -> Result<Offers, Errno> {
        // SAFETY: the PCI device lives.
        let bar = unsafe {
            let pdev = self.shared().nic.pdev;
            bindings::vrnic_bar_address(pdev, c_int::from(pci::BAR_DOORBELLS))
        };
        let frame = |offset: u32| (bar + u64::from(offset)) >> PAGE_SHIFT;
        // SAFETY: the context outlives its pages.
        unsafe {
            Ok(Offers {
                doorbell: Offer::new(self.base, frame(doorbell::page_offset(number)))?,
                kick: Offer::new(self.base, frame(doorbell::kick_offset(number)))?,
            })
        }
    }

    /// What the process is told about its page `index`, which is offered to it from now on.
    fn answer(&self, index: usize, page: &mut Page) -> Result<PageAnswer, Errno> {
        let offers = match page.offers.take() {
            Some(offers) => offers,
            None => self.offer(page.page.number())?,
        };
        let offers = page.offers.insert(offers);
        Ok(PageAnswer {
            index: index as u32,
            reserved: 0,
            doorbell: offers.doorbell.offset(),
            kick: offers.kick.offset(),
        })
    }

    /// Makes a queue for the process that calls, and answers it. Sleepable context.
    ///
    /// `make` is called with the numbers of the context's doorbell pages until it finds a free slot
    /// in one; `answer` makes the answer from the queue and its page. If the process does not get
    /// that, `unmake` destroys the queue, of which nobody may hear any more when it returns.
    pub(super) fn create<Q, A: Pod>(
        udata: UserData,
        make: impl FnMut(u32) -> Result<Q, Error>,
        answer: impl FnOnce(&Q, PageAnswer) -> A,
        unmake: impl FnOnce(Q),
    ) -> Result<Q, Errno> {
        let (queue, page) = Self::of_caller(udata)?.with_page(make)?;
        match page.and_then(|page| udata.write(&answer(&queue, page))) {
            Ok(()) => Ok(queue),
            Err(errno) => {
                unmake(queue);
                Err(errno)
            }
        }
    }

    /// Makes a queue in a page with a free slot. That no slot is free and that no queue is left look
    /// the same, so a new page that did not help is given back.
    fn with_page<Q>(
        &self,
        mut make: impl FnMut(u32) -> Result<Q, Error>,
    ) -> Result<(Q, Result<PageAnswer, Errno>), Errno> {
        self.pages.with(|pages| {
            // The newest page is the one most likely to have room.
            for (index, page) in pages.iter_mut().enumerate().rev() {
                match make(page.page.number()) {
                    Err(error) if is_full(&error) => {}
                    result => return Ok((result?, self.answer(index, page))),
                }
            }
            let index = pages.len();
            let mut page = self.new_page(index)?;
            match make(page.page.number()) {
                Ok(queue) => {
                    let answer = self.answer(index, &mut page);
                    pages.push(page);
                    Ok((queue, answer))
                }
                Err(error) => {
                    free(page);
                    Err(error.into())
                }
            }
        })
    }

    /// What the process is told about the device and its context.
    fn describe(&self) -> Result<ContextAnswer, Errno> {
        let shared = self.shared();
        let has = shared.attributes();
        let page = self.pages.with(|pages| {
            let mut page = self.new_page(0)?;
            let answer = self.answer(0, &mut page);
            pages.push(page);
            answer
        })?;
        Ok(ContextAnswer {
            version: VERSION,
            interface: u32::from(VERSION_MAJOR) << 16 | u32::from(VERSION_MINOR),
            capabilities: has.capabilities,
            page,
            max_sge: has.max_sge,
            max_inline: has.max_inline,
            log_max_send_blocks: has.log_max_send_blocks,
            log_max_receive_entries: has.log_max_receive_entries,
            log_max_cq_entries: has.log_max_cq_entries,
            log_max_srq_entries: has.log_max_srq_entries,
            ..ContextAnswer::default()
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.pages.get_mut().drain(..).for_each(free);
    }
}

/// Whether the device may have meant that the page has no free slot.
fn is_full(error: &Error) -> bool {
    matches!(
        error,
        Error::Command {
            status: Status::NoResources,
            ..
        }
    )
}

/// Frees a page that no queue has a slot in, and that no process has mapped or can map.
fn free(page: Page) {
    let Page {
        offers,
        mut page,
        share,
    } = page;
    drop(offers);
    if page.destroy().is_err() {
        // A device that does not free it keeps it until it is reset, when all shares end.
        core::mem::forget(share);
    }
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn alloc(
    base: *mut bindings::ib_ucontext,
    udata: *mut bindings::ib_udata,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    let (udata, shared) = unsafe {
        let udata = UserData::new(udata).ok_or(EINVAL)?;
        (udata, Shared::of((*base).device))
    };
    let request: AllocContext = udata.read()?;
    if request.version != VERSION {
        // Anybody can bring this about, as often as he likes.
        // SAFETY: no arguments.
        if unsafe { bindings::vrnic_may_log() } {
            shared.nic.log(
                Level::Error,
                format_args!(
                    "a provider of version {} does not fit this driver of version {VERSION}",
                    request.version
                ),
            );
        }
        return Err(EINVAL);
    }
    let context = Box::new(Context {
        shared: NonNull::from(shared),
        base,
        // SAFETY: no arguments.
        user: unsafe { bindings::vrnic_user() },
        pages: Mutex::new(Vec::new()),
    });
    udata.write(&context.describe()?)?;
    // SAFETY: the context that is being created.
    unsafe { ContextObject::put(base, context) };
    Ok(())
}

/// # Safety
/// The arguments are those of the operation.
unsafe fn map(
    base: *mut bindings::ib_ucontext,
    vma: *mut bindings::vm_area_struct,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function; the core finds only what is this context's, with
    // the length that it was inserted with, and keeps it until it is put.
    unsafe {
        let entry = bindings::rdma_user_mmap_entry_get(base, vma);
        if entry.is_null() {
            return Err(EINVAL);
        }
        let frame = (*entry.cast::<Mapping>()).frame;
        let result = bindings::vrnic_mmap_page(base, vma, frame, entry);
        bindings::rdma_user_mmap_entry_put(entry);
        Errno::check(result)
    }
}

/// # Safety
/// The RDMA core calls it in process context to create an object: `base` is zeroed memory of the
/// size that the table of operations names, with the core's part filled in, and nobody else has it,
/// `udata` that of the process.
unsafe extern "C" fn alloc_ucontext(
    base: *mut bindings::ib_ucontext,
    udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { alloc(base, udata) })
}

/// # Safety
/// The RDMA core calls it in process context for an object `base` that was created and that nobody
/// uses any more: its queues are gone.
unsafe extern "C" fn dealloc_ucontext(base: *mut bindings::ib_ucontext) {
    // SAFETY: by the contract of this function.
    let context = unsafe { ContextObject::take(base) };
    drop(context);
}

/// # Safety
/// The RDMA core calls it in `mmap` of a process, with its lock for memory, for a context that was
/// created and an area that is being made.
unsafe extern "C" fn mmap(
    base: *mut bindings::ib_ucontext,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: by the contract of this function.
    Errno::of(unsafe { map(base, vma) })
}

/// # Safety
/// The RDMA core calls it once, when the last reference to an entry that this driver inserted is
/// gone.
unsafe extern "C" fn mmap_free(entry: *mut bindings::rdma_user_mmap_entry) {
    // SAFETY: the first member of a mapping that `Offer::new` has made, and that nobody has now.
    drop(unsafe { Box::from_raw(entry.cast::<Mapping>()) });
}

/// That the operation exists lets the core take a device from processes that have it open; their
/// maps it takes away itself.
///
/// # Safety
/// The RDMA core calls it for a context that was created.
unsafe extern "C" fn disassociate_ucontext(_base: *mut bindings::ib_ucontext) {}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.size_ib_ucontext = ContextObject::SIZE;
    ops.alloc_ucontext = Some(alloc_ucontext);
    ops.dealloc_ucontext = Some(dealloc_ucontext);
    ops.mmap = Some(mmap);
    ops.mmap_free = Some(mmap_free);
    ops.disassociate_ucontext = Some(disassociate_ucontext);
}
