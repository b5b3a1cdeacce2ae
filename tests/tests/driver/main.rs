//! The driver core against the firmware: in one process, in virtual time, over a bad wire.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends by panicking"
)]

mod bring_up;
mod keys;
mod pair;
mod process;
mod reset;
mod resize;
mod services;
mod shared;
mod traffic;
mod user;
