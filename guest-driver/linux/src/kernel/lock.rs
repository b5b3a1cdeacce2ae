//! Spin locks that keep interrupts off, and mutexes.

use alloc::boxed::Box;
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

impl<T> SpinLock<T> {
    /// The value, of which there is no other user.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// A value behind a `struct mutex`.
pub(crate) struct Mutex<T> {
    /// In place, as tasks that wait are linked to it.
    lock: Box<UnsafeCell<bindings::mutex>>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached under the lock only, by one task at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}
// SAFETY: a lock that is in a place of its own and nobody waits for may change its owner.
unsafe impl<T: Send> Send for Mutex<T> {}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        let lock = Box::new(UnsafeCell::new(bindings::mutex::default()));
        // SAFETY: the memory is ours and stays where it is.
        unsafe { bindings::vrnic_mutex_init(lock.get()) };
        Self {
            lock,
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `f` on the value. Sleepable context; calls do not nest.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: it was initialized.
        unsafe { bindings::mutex_lock(self.lock.get()) };
        self.locked(f)
    }

    /// The same, unless somebody else has the lock.
    pub(crate) fn try_with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        // SAFETY: it was initialized.
        let locked = unsafe { bindings::mutex_trylock(self.lock.get()) } != 0;
        locked.then(|| self.locked(f))
    }

    /// Runs `f` and unlocks.
    fn locked<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the lock is held.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: it was taken by the caller.
        unsafe { bindings::mutex_unlock(self.lock.get()) };
        result
    }

    /// The value, of which there is no other user.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}
