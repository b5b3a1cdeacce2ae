//! What can go wrong, by verb: [`Error`] for sleepable calls, [`PostError`] for posting.

use vrnic_abi::admin::{AdminOpcode, Status};

use crate::platform::OutOfMemory;

/// Why a call of the driver failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The registers are not those of a vrnic function.
    #[error("not a vrnic function: the magic register reads {0:#010x}")]
    NotVrnic(u32),
    /// The function speaks another version of the programming interface.
    #[error("the function has interface version {0}.{1}, which this driver does not know")]
    UnsupportedVersion(u16, u16),
    /// The function does not answer: a register reads all ones, or a deadline has passed.
    #[error("the device does not answer")]
    DeviceLost,
    /// The function is in its error state.
    #[error("the device reports fatal error {code} on object {object:#x} at {address:#x}")]
    DeviceFailed {
        /// Register HEALTH_CODE.
        code: u32,
        /// Register HEALTH_OBJECT.
        object: u32,
        /// Registers HEALTH_ADDRESS.
        address: u64,
    },
    /// The device answered with something that the interface does not allow.
    #[error("the device answered with a bad {0}")]
    BadAnswer(&'static str),
    /// A command was refused.
    #[error("command {opcode:?} failed: {status:?}, syndrome {syndrome:#x}")]
    Command {
        /// The command.
        opcode: AdminOpcode,
        /// The device's status.
        status: Status,
        /// Byte offset of the refused argument, or 0.
        syndrome: u32,
    },
    /// The admin queue is full.
    #[error("too many commands are outstanding")]
    AdminQueueFull,
    /// The object belonged to the function before it was reset.
    #[error("the object did not survive a reset of the device")]
    Stale,
    /// No memory for a buffer.
    #[error("no memory that the device can access")]
    OutOfMemory,
    /// The device lacks a capability.
    #[error("the device has no {0}")]
    Unsupported(&'static str),
    /// The object is in use.
    #[error("still in use: {0}")]
    Busy(&'static str),
    /// An argument is outside of what the device or the driver can do.
    #[error("bad argument: {0}")]
    BadArgument(&'static str),
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Why a work request was not posted. The queue is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The queue is full: poll completions first.
    #[error("the work queue is full")]
    QueueFull,
    /// More segments, or more inline data, than the queue was created for.
    #[error("the work request is larger than the queue was created for")]
    TooLarge,
    /// The queue was destroyed, or something that the request names did not survive a reset of the
    /// device.
    #[error("the queue was destroyed, or the address handle did not survive a reset of the device")]
    Stale,
    /// The queue pair's type, or the device, does not have the operation, or not with such data.
    #[error("the queue pair does not do this operation")]
    Unsupported,
    /// The queue pair's type wants another kind of target.
    #[error("the target of the request is not of the kind that the queue pair sends to")]
    WrongTarget,
    /// The region was not given memory, or its registration is in flight already.
    #[error("the region has no memory to register")]
    NotMapped,
}
