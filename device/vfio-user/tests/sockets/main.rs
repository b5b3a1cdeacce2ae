//! The server over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod common;
mod crate_client;
mod dma;
mod hostile;
mod lifecycle;
mod protocol;
