//! Requests from and answers to the provider in user space: the structures of
//! [`vrnic_driver::abi::verbs`] behind those of the kernel.

use bytemuck::Pod;

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::EINVAL;

/// The provider's side of an operation: `None` if the kernel itself calls.
#[derive(Clone, Copy)]
pub(super) struct UserData(*mut bindings::ib_udata);

impl UserData {
    /// # Safety
    /// `udata` is what an operation was called with, or null; the value does not outlive it.
    pub(super) unsafe fn new(udata: *mut bindings::ib_udata) -> Option<Self> {
        (!udata.is_null()).then_some(Self(udata))
    }

    /// The request. A shorter one is filled up with zeroes, of a longer one the rest is ignored.
    pub(super) fn read<T: Pod>(self) -> Result<T, Errno> {
        let mut request = T::zeroed();
        let to = core::ptr::from_mut(&mut request).cast();
        // SAFETY: by the contract of `new`; there is room for all of the value.
        let result = unsafe { bindings::vrnic_copy_from_udata(to, self.0, size_of::<T>() as _) };
        Errno::check(result)?;
        Ok(request)
    }

    /// Answers, with as much as the provider has room for.
    pub(super) fn write<T: Pod>(self, answer: &T) -> Result<(), Errno> {
        let from = core::ptr::from_ref(answer).cast();
        // SAFETY: by the contract of `new`.
        let result = unsafe { bindings::vrnic_copy_to_udata(self.0, from, size_of::<T>() as _) };
        Errno::check(result)
    }

    /// The context of the process that calls.
    pub(super) fn context(self) -> Result<*mut bindings::ib_ucontext, Errno> {
        // SAFETY: by the contract of `new`.
        let context = unsafe { bindings::vrnic_udata_context(self.0) };
        if context.is_null() {
            Err(EINVAL)
        } else {
            Ok(context)
        }
    }
}
