//! How fast functions may send, and how they share the link and the engine: caps and weights, for
//! RDMA and Ethernet, to a neighbour on the direct path and over a link.
//!
//! `caps` holds what one limited function gets, `changes` what happens when a limit changes under
//! traffic, `weights` how functions share what is too little for all.

#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;

mod caps;
mod changes;
mod weights;
mod world;
