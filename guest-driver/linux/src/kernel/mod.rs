//! The kernel's services as Rust values.
//!
//! Nothing here knows of the NIC. What the kernel hands out and wants back is owned by a value
//! whose drop returns it.

pub(crate) mod allocator;
pub(crate) mod compat;
pub(crate) mod dma;
pub(crate) mod errno;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod panic;
pub(crate) mod text;
pub(crate) mod wait;
pub(crate) mod work;

pub(crate) use errno::Errno;
pub(crate) use lock::SpinLock;
pub(crate) use text::{Table, Text};
