//! The transport in virtual time: rule by rule with one queue pair whose peer the test plays by hand,
//! and two reliably connected queue pairs under random work over a bad wire.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests.

mod acknowledging;
mod answering;
mod bench;
mod connections;
mod datagrams;
mod extended;
mod hostile;
mod local_operations;
mod placement;
mod random;
mod receiving;
mod rules;
#[path = "../seeded/mod.rs"]
mod seeded;
mod sending;
mod states;
