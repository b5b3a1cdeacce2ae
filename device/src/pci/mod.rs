//! A PCI function as its driver sees it: configuration space and MSI-X.
//!
//! * [`config`]: the 4 KiB of configuration space, built from tables of registers, read and written
//!   with any offset and length; a write returns the [`Actions`] its owner has to carry out;
//! * [`msix`]: the MSI-X table, the pending bits, and [`MsixHandle`], with which engine threads
//!   raise interrupts;
//! * [`names`]: IDs in words, for log lines.
//!
//! `register` says what a register is and applies the access rules, `capability` strings
//! capabilities together, `eventfd` signals clients, `vectors` counts MSI-X vectors, `header`,
//! `standard`, `express`, `extended` and `sriov` are the tables, `quirk` is what QEMU needs. A new
//! capability is one more table and one more line in `config`.
//!
//! Nothing here knows of sockets, BAR contents or what the function does: resetting queues when a
//! function level reset is asked for, stopping DMA when bus mastering goes away, is for the owner
//! of the [`ConfigSpace`]. So is what becomes of virtual functions that the SR-IOV capability enables
//! and disables: each has a configuration space of its own.
//!
//! Clauses: PCI Express Base Specification 6.0, chapter 7 and section 9.3; PCI Local Bus 3.0, section 6.8.2 for the
//! semantics of MSI-X.

mod capability;
pub mod config;
mod eventfd;
mod express;
mod extended;
mod header;
pub mod msix;
pub mod names;
mod quirk;
mod register;
mod sriov;
mod standard;
mod vectors;

pub use config::{
    Actions, ConfigError, ConfigSpace, ConfigState, Function, Ids, Kind, PowerState, ResetKind,
};
pub use eventfd::Signaller;
pub use extended::{CorrectableError, UncorrectableError};
pub use msix::{Msix, MsixControl, MsixCounters, MsixError, MsixHandle, MsixLayout, MsixState};
pub use register::CONFIG_SPACE_SIZE;
pub use sriov::MAX_VFS;
