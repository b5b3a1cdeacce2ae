//! The provider against the firmware, in one process: applications' calls on one side, the
//! device's code on the other, and between them a kernel that is as small as can be.
//!
//! * [`device`]: a NIC whose DMA addresses are addresses of this process, and whose doorbell pages
//!   are a file that the provider maps;
//! * [`kernel`]: the commands of `libibverbs`, by way of the device's admin queue;
//! * [`app`]: an application with two queue pairs that are connected to each other;
//! * the others: tests, by what they are about.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    reason = "a test ends by panicking, and calls the provider as applications do"
)]

mod app;
mod device;
mod extended;
mod kernel;
mod queues;
mod shared;
mod traffic;
