//! Spin locks that keep interrupts off, and mutexes.

use core::cell::UnsafeCell;

use vrnic_driver::Lock;

use crate::bindings;

/// A value behind a `spinlock_t`, taken with interrupts off. Nothing may sleep under it.
pub(crate) struct SpinLock<T> {
    lock: UnsafeCell<bindings::spinlock_t>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached under the lock only, by one context at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}
// SAFETY: a lock that nobody holds is its own value and nothing else: it may move.
unsafe impl<T: Send> Send for SpinLock<T> {}

impl<T> Lock<T> for SpinLock<T> {
    fn new(value: T) -> Self {
        let mut lock = bindings::spinlock_t::default();
        // SAFETY: the memory is ours. The lock may move afterwards, as long as nobody holds it.
        unsafe { bindings::vrnic_spin_init(&raw mut lock) };
        Self {
            lock: UnsafeCell::new(lock),
            value: UnsafeCell::new(value),
        }
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the lock was initialized, and lives as long as the borrow of self.
        let flags = unsafe { bindings::vrnic_spin_lock(self.lock.get()) };
        // SAFETY: the lock is held; calls do not nest, as `Lock` demands.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: it was taken above.
        unsafe { bindings::vrnic_spin_unlock(self.lock.get(), flags) };
        result
    }
}

/// A value behind a `struct mutex`. It stays where it is: tasks that wait are linked to it.
pub(crate) struct Mutex<T> {
    lock: UnsafeCell<bindings::mutex>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached under the lock only, by one task at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// A mutex that is not usable before [`Self::init`].
    pub(crate) fn new(value: T) -> Self {
        Self {
            lock: UnsafeCell::new(bindings::mutex::default()),
            value: UnsafeCell::new(value),
        }
    }

    /// Makes it usable.
    ///
    /// # Safety
    /// It does not move from now on, and nobody uses it yet.
    pub(crate) unsafe fn init(&self) {
        // SAFETY: by the contract of this function.
        unsafe { bindings::vrnic_mutex_init(self.lock.get()) };
    }

    /// Runs `f` on the value. Sleepable context; calls do not nest.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: it was initialized and has not moved since.
        unsafe { bindings::mutex_lock(self.lock.get()) };
        // SAFETY: the lock is held.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: it was taken above.
        unsafe { bindings::mutex_unlock(self.lock.get()) };
        result
    }
}
