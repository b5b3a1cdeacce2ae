//! Mutual exclusion for queues: a spin lock that costs two instructions when nobody contends.
//!
//! What it protects takes some hundred instructions, and a thread that waits gives its processor
//! away after a few attempts, so that a holder that was preempted can go on. An application that
//! promises to use a queue from one thread at a time (a thread domain, a single-threaded
//! completion queue) does not pay for it.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

/// Attempts before the processor is given away.
const ATTEMPTS: u32 = 100;

/// A value that one thread at a time uses.
pub(crate) struct Lock<T> {
    held: AtomicBool,
    /// The application does the locking.
    single: bool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock, or the application, lets one thread at a time at the value.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to use the value, given back when dropped.
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// Wraps a value; with `single`, the application promises to use it from one thread at a time.
    pub(crate) fn new(value: T, single: bool) -> Self {
        Self {
            held: AtomicBool::new(false),
            single,
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the value.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        if !self.single && self.held.swap(true, Ordering::Acquire) {
            self.wait();
        }
        Guard(self)
    }

    #[cold]
    fn wait(&self) {
        let mut attempts = 0;
        while self.held.load(Ordering::Relaxed) || self.held.swap(true, Ordering::Acquire) {
            attempts += 1;
            if attempts % ATTEMPTS == 0 {
                // SAFETY: has no preconditions.
                unsafe { libc::sched_yield() };
            } else {
                core::hint::spin_loop();
            }
        }
    }

    /// The right that was kept by [`Guard::keep`].
    ///
    /// # Safety
    /// The calling thread has kept it, and has no other one.
    #[inline]
    pub(crate) unsafe fn kept(&self) -> Guard<'_, T> {
        Guard(self)
    }
}

impl<T> Guard<'_, T> {
    /// Keeps the value locked beyond the guard's life, until [`Lock::kept`].
    #[inline]
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: there is one guard at a time.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: there is one guard at a time.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if !self.0.single {
            self.0.held.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_has_the_value() {
        let lock = Lock::new(0u64, false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut value = lock.lock();
                        let before = *value;
                        *value = before + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 40_000);
    }

    #[test]
    fn a_kept_right_keeps_others_out_until_it_is_taken_up() {
        let lock = Lock::new(1, false);
        lock.lock().keep();
        assert!(lock.held.load(Ordering::Relaxed));
        // SAFETY: kept above.
        drop(unsafe { lock.kept() });
        assert_eq!(*lock.lock(), 1);
    }
}
