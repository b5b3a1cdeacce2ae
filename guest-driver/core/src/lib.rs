//! The driver of the vrnic RDMA NIC, structured as a kernel module is.
//!
//! In the order in which a driver writer meets them:
//!
//! * [`platform`]: what the surroundings provide (registers, doorbells, DMA memory, locks, time);
//! * [`device`]: probe, reset, health, recovery and removal of a function;
//! * `admin` (private): the admin queue, commands in flight and their timeouts;
//! * `event` (private): event queues, what an interrupt handler drains;
//! * [`query`]: attributes, counters, the GID table;
//! * [`memory`]: protection domains, doorbell pages and memory regions;
//! * [`cq`], [`qp`]: completion queues and queue pairs; [`work`]: what is posted and polled.
//!
//! Two contexts exist, as in a kernel. *Sleepable* context may issue commands and wait:
//! everything that creates, queries, changes or destroys. *Atomic* context may not:
//! [`Driver::handle_interrupt`], polling, arming and posting neither sleep nor allocate, and the
//! last three take no lock while the set of queue pairs stays the same.
//!
//! Memory that the device may access is never freed under it: an object that is dropped without
//! a successful `destroy` leaves its memory in quarantine until the function has been reset.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
mod doorbell;
mod error;
mod event;
mod pages;
mod ring;
mod tables;

pub mod cq;
pub mod device;
pub mod memory;
pub mod platform;
pub mod qp;
pub mod query;
pub mod work;

pub use admin::PendingCommand;
pub use cq::{CompletionQueue, CqConfig};
pub use device::{Config, Driver, Health};
pub use error::{Error, PostError};
pub use event::AsyncEvent;
pub use memory::{DoorbellPage, MemoryRegion, MrConfig, ProtectionDomain, RegionMemory};
pub use platform::{DmaBuffer, Level, Lock, OutOfMemory, PinnedMemory, Platform, Segment};
pub use qp::{Connection, QpConfig, QueuePair};
pub use vrnic_abi as abi;
pub use work::{Completion, Data, Operation, ReceiveRequest, Remote, SendRequest, Sge, Work};
