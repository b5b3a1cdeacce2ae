//! Error numbers, as the kernel's functions return them.

use core::ffi::{c_int, c_void};

use vrnic_driver::abi::admin::Status;
use vrnic_driver::{Error, OutOfMemory, PostError};

use crate::bindings;

/// A negative error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(c_int);

pub(crate) const EINVAL: Errno = Errno(-(bindings::EINVAL as c_int));
pub(crate) const ENOMEM: Errno = Errno(-(bindings::ENOMEM as c_int));
pub(crate) const ENODEV: Errno = Errno(-(bindings::ENODEV as c_int));
pub(crate) const EIO: Errno = Errno(-(bindings::EIO as c_int));
pub(crate) const EPERM: Errno = Errno(-(bindings::EPERM as c_int));
pub(crate) const EBUSY: Errno = Errno(-(bindings::EBUSY as c_int));
pub(crate) const EAGAIN: Errno = Errno(-(bindings::EAGAIN as c_int));
pub(crate) const EMSGSIZE: Errno = Errno(-(bindings::EMSGSIZE as c_int));
pub(crate) const EOPNOTSUPP: Errno = Errno(-(bindings::EOPNOTSUPP as c_int));

impl Errno {
    /// What an `extern "C"` function returns for a result.
    pub(crate) fn of(result: Result<(), Errno>) -> c_int {
        result.map_or_else(|errno| errno.0, |()| 0)
    }

    /// The result of a kernel function that returns 0 or a negative error number.
    pub(crate) fn check(value: c_int) -> Result<(), Errno> {
        if value < 0 { Err(Errno(value)) } else { Ok(()) }
    }

    /// The same for one that returns a number.
    pub(crate) fn check_value(value: c_int) -> Result<u32, Errno> {
        u32::try_from(value).map_err(|_| Errno(value))
    }

    /// The same for one that returns a pointer with errors in it.
    pub(crate) fn check_pointer<T>(pointer: *mut T) -> Result<*mut T, Errno> {
        let value = pointer as isize;
        match value {
            -4095..=-1 => Err(Errno(value as c_int)),
            0 => Err(ENOMEM),
            _ => Ok(pointer),
        }
    }

    /// The number, negative.
    pub(crate) fn get(self) -> c_int {
        self.0
    }

    /// The number in a pointer, as `ERR_PTR` makes it.
    pub(crate) fn as_pointer<T>(self) -> *mut T {
        (self.0 as isize as *mut c_void).cast()
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Self {
        ENOMEM
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match error {
            Error::NotVrnic(_) | Error::UnsupportedVersion(..) => ENODEV,
            Error::DeviceLost | Error::DeviceFailed { .. } | Error::BadAnswer(_) => EIO,
            Error::Stale => EIO,
            Error::Command { status, .. } => of_status(status),
            Error::AdminQueueFull => EAGAIN,
            Error::OutOfMemory => ENOMEM,
            Error::Unsupported(_) => EOPNOTSUPP,
            Error::Busy(_) => EBUSY,
            Error::BadArgument(_) => EINVAL,
        }
    }
}

impl From<PostError> for Errno {
    fn from(error: PostError) -> Self {
        match error {
            PostError::QueueFull => ENOMEM,
            PostError::TooLarge | PostError::WrongTarget | PostError::NotMapped => EINVAL,
            PostError::Stale => EIO,
            PostError::Unsupported => EOPNOTSUPP,
        }
    }
}

fn of_status(status: Status) -> Errno {
    match status {
        Status::Success | Status::BadArgument | Status::NoSuchObject | Status::BadState => EINVAL,
        Status::BadOpcode | Status::Unsupported => EOPNOTSUPP,
        Status::Busy => EBUSY,
        Status::NoResources => ENOMEM,
        Status::DmaFailed | Status::BufferTooSmall => EIO,
        Status::NotPermitted => EPERM,
    }
}
