//! User contexts of one function: each has a doorbell page, a protection domain and queues of its
//! own, whose memory it writes whenever it likes. One that means no good hurts itself only.
//!
//! The victims move data that is compared, in a bounded number of steps, while [`doorbells`],
//! [`rings`] or [`overrun`] go on.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;

mod doorbells;
mod overrun;
mod rings;
mod user;
