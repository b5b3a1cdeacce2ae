//! Guest memory, reached only through the mappings its client gave.
//!
//! * [`map`]: which IOVA lies where, as intervals; knows no memory;
//! * [`mod@file`]: a client's files, each mapped once, on the control thread;
//! * [`memory`]: [`GuestMemory`], with which one engine thread reads, writes and copies;
//! * [`remote`]: memory that is not shared, reached by messages to the client;
//! * [`sigbus`]: what happens when an owner truncates a file that is mapped here.
//!
//! The control thread receives DMA_MAP and DMA_UNMAP. It maps the file ([`FileTable`]) and sends a
//! [`MapUpdate`] to the engine thread that owns the function, which applies it between two steps
//! and answers: only then is the client's message answered. So no lock guards the map, and when an
//! unmap is answered nothing here can reach the range any more.
//!
//! Guest memory changes under our hands. No reference points into it but the atomic ones of
//! `vm-memory` for single words; everything else is copied through pointers, once, and the copy is
//! what gets validated.

use thiserror::Error;

pub mod file;
mod host;
pub mod map;
pub mod memory;
pub mod remote;
pub mod sigbus;

pub use file::{FileError, FileLimits, FileTable, MappedFile};
pub use map::{IovaMap, MapError, Prot};
pub use memory::{Backing, CopyError, GuestMemory, MapUpdate};
pub use remote::RemoteMemory;

/// Why guest memory could not be reached. Nothing was written, unless a variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// No mapping holds this address.
    #[error("IOVA {0:#x} is not mapped")]
    Unmapped(u64),
    /// The mapping of this address does not permit the access.
    #[error("IOVA {0:#x} is not mapped for this access")]
    Denied(u64),
    /// An atomic access at this address is not naturally aligned.
    #[error("IOVA {0:#x} is misaligned")]
    Misaligned(u64),
    /// The file behind this address was truncated by its owner; bytes before it may be written.
    #[error("the memory at IOVA {0:#x} is gone")]
    Lost(u64),
    /// The client did not carry out the message for this address; bytes before it may be written.
    #[error("the client failed the access to IOVA {0:#x}")]
    Remote(u64),
}

impl DmaError {
    /// The first address that could not be reached.
    #[must_use]
    pub fn address(self) -> u64 {
        match self {
            Self::Unmapped(address)
            | Self::Denied(address)
            | Self::Misaligned(address)
            | Self::Lost(address)
            | Self::Remote(address) => address,
        }
    }
}
