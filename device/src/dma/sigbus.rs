//! Survives the truncation of a file that is mapped here.
//!
//! A client owns the memory it shares and can truncate it at any time; the next access beyond the
//! new end raises SIGBUS, which by default ends the process and with it every other client's
//! function. Here the handler puts zero-filled memory in place of the mapping from the faulting page
//! to its end, as far as the file no longer reaches, and marks the mapping as lost; the access goes
//! on, and [`super::GuestMemory`] refuses all later ones. One replacement per mapping, whose end
//! never moves: a client cannot make the process run out of mappings.
//!
//! The handler only acts on addresses of a registered mapping, and hands every other fault to the
//! handler that was there before. What it needs is in a fixed table of atomics, because a signal
//! handler may neither lock nor allocate: one of the few justified statics.
//!
//! A table entry is read without a lock while others change: its version is odd during a change,
//! and the same before and after what was read. The entry that holds the faulting address cannot
//! change meanwhile, because the faulting thread holds the mapping.

use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

use rustix::io::Errno;

use super::file::FILES;
use crate::pci::MAX_VFS;

/// The most mappings that can be registered at a time in this process: all that a physical function
/// and its virtual functions can have, so that none of them takes another one's.
pub const MAX_REGISTRATIONS: usize = (MAX_VFS as usize + 1) * FILES;

static SLOTS: [Slot; MAX_REGISTRATIONS] = [const { Slot::new() }; MAX_REGISTRATIONS];
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();

/// One mapping, or none.
#[derive(Debug)]
struct Slot {
    /// Claimed by a registration.
    taken: AtomicBool,
    /// Odd while the next three change.
    version: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    lost: AtomicBool,
}

/// A mapping whose faults are survived; ends when dropped, which must be before it is unmapped.
#[derive(Debug)]
pub struct Registration {
    slot: &'static Slot,
}

/// Registers the mapping `addresses`, whose pages have `page` bytes, and installs the handler.
///
/// # Errors
/// When the handler cannot be installed or the table is full.
pub(super) fn register(addresses: Range<usize>, page: usize) -> io::Result<Registration> {
    (*INSTALLED.get_or_init(install))?;
    let free = SLOTS
        .iter()
        .find(|slot| !slot.taken.swap(true, Ordering::Acquire));
    let slot = free.ok_or(Errno::NOSPC)?;
    slot.lost.store(false, Ordering::Relaxed);
    slot.set(addresses.start, addresses.end, page);
    Ok(Registration { slot })
}

impl Registration {
    /// Whether the file was truncated under the mapping, and part of it reads zero.
    #[inline]
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.slot.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.slot.set(0, 0, 1);
        self.slot.taken.store(false, Ordering::Release);
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(1),
            lost: AtomicBool::new(false),
        }
    }

    /// Changes the range; only the owner of the slot does.
    fn set(&self, start: usize, end: usize, page: usize) {
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The range from the page of `address` to the end, if this mapping holds it.
    fn rest(&self, address: usize) -> Option<Range<usize>> {
        let before = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = before % 2 == 0 && self.version.load(Ordering::Relaxed) == before;
        (stable && (start..end).contains(&address)).then(|| address - (address - start) % page..end)
    }
}

/// Puts the handler in front of the one there is.
fn install() -> Result<(), Errno> {
    // SAFETY: sigaction is plain data, for which all zeros is a value.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the present action only; the pointer is to a local variable.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
        return Err(last_error());
    }
    let _ = PREVIOUS.set(previous);
    // SAFETY: as above; an empty signal mask is all zeros on Linux.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `handler` has the signature that SA_SIGINFO asks for, and does only what a signal
    // handler may: atomic loads and stores, and system calls.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(last_error());
    }
    Ok(())
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO, and si_addr is the
    // member that SIGBUS sets.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // Only for an access beyond the end of a file, not for broken hardware.
    if code == libc::BUS_ADRERR && survive(address) {
        return;
    }
    chain(signal, info, context);
}

/// Replaces what is left of the mapping that holds `address`; false if none does.
fn survive(address: usize) -> bool {
    for slot in &SLOTS {
        if let Some(rest) = slot.rest(address) {
            slot.lost.store(true, Ordering::Relaxed);
            return replace(rest);
        }
    }
    false
}

/// Maps zero-filled memory over `range`.
fn replace(range: Range<usize>) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: `range` is the end of a mapping that the faulting thread holds, so it is mapped and
    // nobody else's; all accesses to it are raw copies or atomics that accept any contents. The
    // location of errno is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        let at = range.start as *mut libc::c_void;
        let mapped = libc::mmap(at, range.len(), prot, flags, -1, 0);
        *libc::__errno_location() = errno;
        mapped != libc::MAP_FAILED
    }
}

/// Does what would have been done without this handler.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().filter(|previous| {
        previous.sa_sigaction != libc::SIG_DFL && previous.sa_sigaction != libc::SIG_IGN
    });
    let Some(previous) = previous else {
        // SAFETY: restores the default; returning then repeats the access, which ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the address was installed as a handler of this signature by whoever was before.
        let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        call(signal, info, context);
    } else {
        // SAFETY: as above, without SA_SIGINFO.
        let call: extern "C" fn(libc::c_int) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        call(signal);
    }
}
