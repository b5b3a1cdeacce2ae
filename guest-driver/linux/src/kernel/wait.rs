//! Waiting for interrupts.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::bindings;

/// A counter, and those who wait for it to move.
pub(crate) struct Signal {
    count: AtomicU32,
    /// In place, as those who wait are linked to it.
    queue: Box<UnsafeCell<bindings::wait_queue_head>>,
}

// SAFETY: the kernel's functions lock the queue.
unsafe impl Send for Signal {}
// SAFETY: as above.
unsafe impl Sync for Signal {}

impl Signal {
    pub(crate) fn new() -> Self {
        let queue = Box::new(UnsafeCell::new(bindings::wait_queue_head::default()));
        // SAFETY: the memory is ours and stays where it is.
        unsafe { bindings::vrnic_waitqueue_init(queue.get()) };
        Self {
            count: AtomicU32::new(0),
            queue,
        }
    }

    /// Moves the counter and wakes all who wait. Atomic context.
    pub(crate) fn raise(&self) {
        self.count.fetch_add(1, Ordering::Release);
        // SAFETY: the queue was initialized.
        unsafe { bindings::vrnic_wake_up(self.queue.get()) };
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Sleeps until the counter is not `seen`, at most so many nanoseconds.
    pub(crate) fn wait(&self, seen: u32, nanoseconds: u64) {
        let count = self.count.as_ptr();
        // SAFETY: queue and counter live as long as self.
        unsafe { bindings::vrnic_wait(self.queue.get(), count, seen, nanoseconds) };
    }
}

/// Nanoseconds of the kernel's monotonic clock.
pub(crate) fn now() -> u64 {
    // SAFETY: callable in any context.
    let now = unsafe { bindings::ktime_get() };
    u64::try_from(now).unwrap_or(0)
}

/// Sleeps for about so many nanoseconds.
pub(crate) fn sleep(nanoseconds: u64) {
    let microseconds = (nanoseconds / 1000).clamp(20, 1_000_000);
    // SAFETY: the caller is in sleepable context, as everything here that may sleep.
    unsafe {
        bindings::usleep_range_state(
            microseconds as _,
            (microseconds * 2) as _,
            bindings::TASK_UNINTERRUPTIBLE,
        );
    }
}
