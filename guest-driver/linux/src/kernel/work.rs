//! Work that is done later in sleepable context.

use core::cell::UnsafeCell;

use crate::bindings;

/// A function that runs on a kernel thread some time after [`Work::schedule`]. It is part of the
/// object that it works on and finds that by its own address.
pub(crate) struct Work(UnsafeCell<bindings::delayed_work>);

// SAFETY: the kernel's functions are safe to call from any context.
unsafe impl Send for Work {}
// SAFETY: as above.
unsafe impl Sync for Work {}

/// What runs. The pointer is the [`Work`]'s, by [`Work::from_raw`].
pub(crate) type Function = unsafe extern "C" fn(*mut bindings::work_struct);

impl Work {
    /// Work that is not usable before [`Self::init`].
    pub(crate) fn new() -> Self {
        Self(UnsafeCell::new(bindings::delayed_work::default()))
    }

    /// # Safety
    /// It does not move from now on, is not dropped before [`Self::cancel`], and was not
    /// initialized before.
    pub(crate) unsafe fn init(&self, function: Function) {
        // SAFETY: by the contract of this function.
        unsafe { bindings::vrnic_work_init(self.0.get(), Some(function)) };
    }

    /// The work that the kernel calls its function with.
    pub(crate) fn from_raw(work: *mut bindings::work_struct) -> *const Work {
        // The work is the first member of the delayed work, and that all there is here.
        const { assert!(core::mem::offset_of!(bindings::delayed_work, work) == 0) };
        work.cast_const().cast()
    }

    /// Lets it run in so many milliseconds, whatever was scheduled before. Any context.
    pub(crate) fn schedule(&self, milliseconds: u64) {
        // SAFETY: it was initialized.
        unsafe { bindings::vrnic_schedule(self.0.get(), milliseconds) };
    }

    /// Waits until it neither runs nor is scheduled. Sleepable context.
    pub(crate) fn cancel(&self) {
        // SAFETY: it was initialized.
        unsafe { bindings::cancel_delayed_work_sync(self.0.get()) };
    }
}
