//! What one step does, at most, for a function that floods the NIC: its neighbours wait for it.
//!
//! Work is counted, not timed: accesses to the flooder's memory and their bytes, doorbell slots that
//! are looked at, objects that change, steps that something large is spread over. A neighbour moves data
//! meanwhile and needs as many steps as on a quiet NIC.
//!
//! * [`admin`]: commands, page lists, resets;
//! * [`failures`]: queues that fail with everything that depends on them, and held events.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;

mod admin;
mod failures;
mod world;
