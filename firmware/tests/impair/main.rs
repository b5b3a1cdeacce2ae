//! A bad wire does what it was asked to, no more, and the same each time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../seeded/mod.rs"]
mod seeded;

mod chance;
mod contents;
mod events;
mod order;
mod support;
mod text;
