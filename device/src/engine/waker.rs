//! Wakes a sleeping engine, and costs a system call only then.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Tells an engine thread that there is something for it.
///
/// The engine announces that it is about to sleep and then looks for work once more; others leave
/// work first and then look whether it sleeps. Both put a full barrier in between, so at least one
/// of them sees the other.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    asleep: AtomicBool,
}

impl Waker {
    /// A waker for an engine that is awake.
    ///
    /// # Errors
    /// If the host refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: AtomicBool::new(false),
        })
    }

    /// To be called after work was left for the engine.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // The counter cannot overflow: it is written once a sleep.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Engine: it will sleep unless it finds work now.
    pub(super) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Engine: it is awake again.
    pub(super) fn awake(&self) {
        if !self.asleep.swap(false, Ordering::Relaxed) {
            // Somebody woke us: empty the counter for the next sleep.
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
    }

    /// Readable when the engine was woken.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
