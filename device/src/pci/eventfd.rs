//! A client's eventfd, signalled so that the client cannot make us wait.
//!
//! A write to an eventfd whose counter is full waits until somebody reads it, unless the file
//! description is non-blocking; and that flag belongs to the client as much as to us, who can clear it
//! at any time. What never waits is the kernel's own way of signalling, which asynchronous I/O offers:
//! a read of no bytes is submitted, and its completion adds one to the eventfd. Where the host refuses
//! that (some sandboxes do), a write follows a look whether there is room, and a client that fills
//! the counter just in between stops the caller until it reads.
//!
//! Clauses: `io_submit(2)`, `IOCB_FLAG_RESFD`; `eventfd(2)`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// An eventfd that a client gave.
#[derive(Debug)]
pub(super) struct Eventfd(OwnedFd);

impl Eventfd {
    /// Takes a descriptor; gives it back if it is no eventfd.
    pub(super) fn new(fd: OwnedFd) -> Result<Self, OwnedFd> {
        if is_eventfd(&fd) {
            Ok(Self(fd))
        } else {
            Err(fd)
        }
    }

    /// Adds one by a write, if there is room.
    fn write(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::OUT)];
        let now = rustix::time::Timespec::default();
        if poll(&mut fds, Some(&now))? == 0 {
            return Err(Errno::AGAIN);
        }
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).map(|_| ())
    }
}

/// Whether `fd` is an eventfd, by the name the kernel gives it.
fn is_eventfd(fd: impl AsFd) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    std::fs::read_link(path).is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]")
}

/// Signals eventfds, from any thread. Clones share one context of asynchronous I/O: a host has not many
/// to give away, and takes a while for each to end.
#[derive(Clone, Debug)]
pub struct Signaller(Arc<Option<Aio>>);

impl Default for Signaller {
    /// Takes a context now, before there is a client that could see to it that there is none left.
    fn default() -> Self {
        let aio = Aio::new();
        if let Err(error) = &aio {
            log::warn!(
                "interrupts are signalled by writes, which a client can hold up: no asynchronous I/O \
                 ({error}; see fs.aio-max-nr)"
            );
        }
        Self(Arc::new(aio.ok()))
    }
}

impl Signaller {
    /// Adds one to the eventfd, without waiting for anything.
    pub(super) fn signal(&self, eventfd: &Eventfd) -> Result<(), Errno> {
        let aio = Option::as_ref(&self.0);
        aio.map_or_else(|| eventfd.write(), |aio| aio.signal(&eventfd.0))
    }
}

/// Operations that can be complete and not yet reaped.
const EVENTS: usize = 32;

/// As the kernel takes numbers: as words.
const NONE: libc::c_long = 0;
const ONE: libc::c_long = 1;

/// `struct iocb` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    /// Key and flags, whose order depends on the byte order; both are 0.
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64);

/// A read (`IOCB_CMD_PREAD`).
const READ: u16 = 0;
/// Completion signals `result_fd` (`IOCB_FLAG_RESFD`).
const RESULT_FD: u32 = 1;

/// A context of asynchronous I/O.
#[derive(Debug)]
struct Aio {
    context: libc::c_ulong,
    /// An empty file, of which nothing is read.
    file: OwnedFd,
}

impl Aio {
    fn new() -> Result<Self, Errno> {
        let file = memfd_create("vrnic-interrupts", MemfdFlags::CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number into a local variable that holds 0.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, EVENTS, &raw mut context) };
        check(result).map(|_| Self { context, file })
    }

    fn signal(&self, eventfd: &OwnedFd) -> Result<(), Errno> {
        match self.submit(eventfd) {
            Err(Errno::AGAIN) => {
                self.reap();
                self.submit(eventfd)
            }
            result => result,
        }
    }

    /// Reads nothing, and signals `eventfd` when that is done: before this returns.
    fn submit(&self, eventfd: &OwnedFd) -> Result<(), Errno> {
        let iocb = Iocb {
            opcode: READ,
            // CAST: descriptors are not negative.
            file: self.file.as_raw_fd() as u32,
            flags: RESULT_FD,
            result_fd: eventfd.as_raw_fd() as u32,
            ..Iocb::default()
        };
        let list = [&raw const iocb];
        // SAFETY: one pointer to a whole iocb, whose buffer has no bytes; the kernel keeps neither.
        let result =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, ONE, list.as_ptr()) };
        check(result).map(|_| ())
    }

    /// Takes the completions there are.
    fn reap(&self) {
        let mut events = [[0u64; 4]; EVENTS];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let room = events.as_mut_ptr();
        // SAFETY: room for as many events, of 32 bytes each, as are asked for.
        let _ = unsafe {
            let number = libc::SYS_io_getevents;
            libc::syscall(number, self.context, NONE, EVENTS, room, &raw const now)
        };
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and nothing is in flight in it.
        let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(result)
}
