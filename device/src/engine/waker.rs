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
        self.asleep.store(false, Ordering::Relaxed);
        // Empties the counter for the next sleep, whoever woke us. A waker that took the flag but
        // comes to write only now makes one later sleep short, and that one empties it.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Readable when the engine was woken.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_wake_shortens_one_sleep_only() {
        let waker = Waker::new().unwrap();
        waker.announce_sleep();
        // A waker between its two steps, while something else wakes the engine.
        assert!(waker.asleep.swap(false, Ordering::Relaxed));
        waker.awake();
        rustix::io::write(&waker.event, &1u64.to_ne_bytes()).unwrap();
        // The next sleep ends at once, and leaves nothing for the one after it.
        waker.announce_sleep();
        waker.awake();
        let again = rustix::io::read(&waker.event, &mut [0; 8]);
        assert_eq!(again, Err(rustix::io::Errno::AGAIN));
    }
}
