//! The driver of the vrnic RDMA NIC, structured as a kernel module is.
//!
//! In the order in which a driver writer meets them:
//!
//! * [`platform`]: what the surroundings provide (registers, doorbells, DMA memory, locks, time);
//! * [`device`]: probe, reset, health, recovery and removal of a function;
//! * `admin` (private): the admin queue, commands in flight and their timeouts;
//! * `event` (private): event queues, what an interrupt handler drains;
//! * [`query`]: attributes, counters, the GID table;
//! * [`memory`]: protection domains, doorbell pages and memory regions; [`window`]: memory windows;
//!   [`fast`]: regions for fast registration;
//! * [`cq`], [`qp`], [`srq`]: completion queues, queue pairs and shared receive queues; [`xrc`]:
//!   XRC domains and targets; [`work`]: what is posted and polled;
//! * [`user`]: queues that a user process posts to and polls by itself;
//! * [`address`]: address handles and multicast groups; `group` (private): joining groups by address
//!   alone; [`filter`]: which frames raw packet queue
//!   pairs receive;
//! * [`vf`]: what a physical function's driver settles for the virtual ones;
//! * [`share`]: who may have how many of the few doorbell pages;
//! * [`queues`]: what queues are made of, for those who post to queues that others create.
//!
//! What the device can do is in its capabilities: what needs one that it lacks fails with
//! [`Error::Unsupported`] or [`PostError::Unsupported`], before the device sees it.
//!
//! Two contexts exist, as in a kernel. *Sleepable* context may issue commands and wait:
//! everything that creates, queries, changes or destroys. *Atomic* context may not:
//! [`Driver::handle_interrupt`], polling, arming and posting neither sleep nor allocate, and the
//! last three take no lock while the set of queue pairs stays the same, except that of a shared
//! receive queue.
//!
//! A function that is lost, because it failed, was reset or is gone, ends its consumers' work in an
//! orderly way: what they have posted completes as flushed, and what they post until they are done
//! does too. [`device`] says in which order a function is taken down.
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
mod group;
mod key;
mod pages;
mod reference;
mod ring;
mod tables;
#[cfg(test)]
mod threads;

pub mod address;
pub mod cq;
pub mod device;
pub mod fast;
pub mod filter;
pub mod memory;
pub mod platform;
pub mod qp;
pub mod query;
pub mod queues;
pub mod share;
pub mod srq;
pub mod user;
pub mod vf;
pub mod window;
pub mod work;
pub mod xrc;

pub use address::{AddressHandle, AhNumber};
pub use admin::PendingCommand;
pub use cq::{CompletionQueue, CqConfig, Moderation};
pub use device::{Config, Driver, Health};
pub use error::{Error, PostError};
pub use event::AsyncEvent;
pub use fast::{FastRegion, Listed};
pub use filter::{Filter, FilterConfig, Frames};
pub use memory::{DoorbellPage, MemoryRegion, MrConfig, ProtectionDomain, RegionMemory};
pub use platform::{DmaBuffer, Level, Lock, OutOfMemory, PinnedMemory, Platform, Segment};
pub use qp::{Connection, QpConfig, QpControl, QueuePair, ReceiveQueue, Restart, SendQueue};
pub use query::{Congestion, Counters};
pub use reference::{CqReference, SrqReference, UserCqReference};
pub use share::Shares;
pub use srq::{SharedReceiveQueue, SrqConfig, SrqControl, SrqQueue};
pub use user::{
    UserCompletionQueue, UserCqConfig, UserQpConfig, UserQueuePair, UserReceive,
    UserSharedReceiveQueue, UserSrqConfig,
};
pub use vf::VfChange;
pub use vrnic_abi as abi;
pub use window::{BindConfig, MemoryWindow};
pub use work::{
    Bind, Completion, Data, Datagram, DatagramPath, Operation, ReceiveRequest, Remote, SendRequest,
    Sge, Target, Work,
};
pub use xrc::{XrcDomain, XrcTarget};
