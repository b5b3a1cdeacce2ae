//! The programming interface of the vrnic RDMA NIC, written once.
//!
//! Device and driver both build on these definitions, and the tables of the datasheet
//! (`docs/programming-interface.md`) are generated from them. In the order in which a driver
//! meets them:
//!
//! * [`pci`]: how to find the function and what its BARs are;
//! * [`registers`]: BAR0, identity, reset, the admin queue, the health buffer;
//! * [`admin`]: the commands and their completions, [`object`]s the commands point to;
//! * [`doorbell`]: BAR2, how work is announced and how a sleeping engine is woken;
//! * [`wqe`], [`cqe`], [`eqe`]: work requests, completions and events;
//! * [`counter`]: the statistics and their order;
//! * [`verbs`]: what Linux's kernel driver and user-space provider tell each other.
//!
//! Everything is plain old data, little-endian, naturally aligned, and its size and offsets are
//! asserted at compile time. Fields named `reserved` are written as zero and ignored when read,
//! so that later versions can give them a meaning: the major number of the interface version
//! changes only when that rule does not suffice.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("the interface is little-endian and its structures are used in place");

#[macro_use]
mod describe;

pub mod admin;
pub mod counter;
pub mod cqe;
pub mod datasheet;
pub mod doorbell;
pub mod eqe;
pub mod object;
pub mod pci;
pub mod registers;
pub mod verbs;
pub mod wqe;

pub use describe::{Code, Codes, Field, Layout, Register, RegisterAccess, RegisterField};

/// Major version of this interface; a driver refuses a device with another one.
pub const VERSION_MAJOR: u16 = 1;
/// Minor version of this interface; grows when something is added that older drivers can ignore.
pub const VERSION_MINOR: u16 = 3;
