//! Objects that the kernel's RDMA core allocates for the driver, and what the driver keeps in them.
//!
//! The core allocates as many zeroed bytes as the table of operations says, and knows the first of
//! them: its own `ib_pd`, `ib_cq`, and so on. It calls one operation that creates, then others, then
//! one that destroys, and nobody uses an object before the first has returned or after the last has
//! begun. There is one exception: tools that list queues may come upon one until the operation that
//! destroys it has returned. They [`Object::inspect`] it, and those that destroy [`Object::retire`] it.

use alloc::boxed::Box;

use vrnic_driver::Error;

use super::device::Shared;
use crate::kernel::Errno;
use crate::kernel::errno::EINVAL;

/// The core's part and the driver's.
#[repr(C)]
pub(super) struct Object<B, T> {
    pub(super) base: B,
    /// Zeroed memory is `None`.
    value: Option<Box<T>>,
}

impl<B, T> Object<B, T> {
    /// Size for the table of operations.
    pub(super) const SIZE: usize = size_of::<Self>();

    /// The object of a core's part. A process decides which objects an operation comes with: one
    /// that is missing is its mistake.
    ///
    /// # Safety
    /// `base` is null, or the core has allocated it for this type and it was not destroyed. The value
    /// does not outlive the operation.
    pub(super) unsafe fn of<'a>(base: *mut B) -> Result<&'a T, Errno> {
        if base.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: by the contract of this function.
        let value = unsafe { &(*base.cast::<Self>()).value };
        value.as_deref().ok_or(EINVAL)
    }

    /// Keeps the driver's part in a new object, where it stays until [`Self::take`].
    ///
    /// # Safety
    /// As for [`Self::of`], in an operation that creates.
    pub(super) unsafe fn put(base: *mut B, value: Box<T>) {
        // SAFETY: by the contract of this function; nobody else has the object.
        unsafe { (*base.cast::<Self>()).value = Some(value) };
    }

    /// The driver's part of an object that is to be destroyed. What fails puts it back.
    ///
    /// # Safety
    /// As for [`Self::of`], in an operation that destroys.
    pub(super) unsafe fn take(base: *mut B) -> Result<Box<T>, Errno> {
        // SAFETY: by the contract of this function; nobody else has the object.
        unsafe { (*base.cast::<Self>()).value.take() }.ok_or(EINVAL)
    }

    /// Looks at an object that another task may be destroying. Sleepable context; calls do not nest.
    ///
    /// # Safety
    /// The core has allocated `base` for this type, an object of the device, and does not free it
    /// meanwhile; it is destroyed by way of [`Self::retire`].
    pub(super) unsafe fn inspect<R>(
        shared: &Shared,
        base: *mut B,
        f: impl FnOnce(&T) -> R,
    ) -> Result<R, Errno> {
        // SAFETY: by the contract of this function; who retires it waits until this is over.
        let look = |_: &mut ()| unsafe { Self::of(base).map(f) };
        shared.inspection.with(look)
    }

    /// Destroys an object that others may be looking at: it stays if `destroy` fails. What is left of
    /// it is returned. Sleepable context.
    ///
    /// # Safety
    /// As for [`Self::of`], in an operation that destroys.
    pub(super) unsafe fn retire(
        shared: &Shared,
        base: *mut B,
        destroy: impl FnOnce(&mut T) -> Result<(), Error>,
    ) -> Result<Box<T>, Errno> {
        // SAFETY: by the contract of this function; nobody looks at the object meanwhile.
        let mut value = shared.inspection.with(|()| unsafe { Self::take(base) })?;
        if let Err(error) = destroy(&mut value) {
            // SAFETY: as above.
            shared
                .inspection
                .with(|()| unsafe { Self::put(base, value) });
            return Err(error.into());
        }
        Ok(value)
    }

    /// Destroys an object: it stays if `destroy` fails.
    ///
    /// # Safety
    /// As for [`Self::of`], in an operation that destroys.
    pub(super) unsafe fn destroy<E: Into<Errno>>(
        base: *mut B,
        destroy: impl FnOnce(&mut T) -> Result<(), E>,
    ) -> Result<(), Errno> {
        // SAFETY: by the contract of this function.
        let mut value = unsafe { Self::take(base)? };
        if let Err(error) = destroy(&mut value) {
            // SAFETY: as above.
            unsafe { Self::put(base, value) };
            return Err(error.into());
        }
        Ok(())
    }
}
