//! Keys of all kinds, with real queue pairs and data: what gives access, to what, for how long.
//!
//! `world` has two functions, one of which owns memory and keys, while the other tries to use them;
//! `fast`, `windows` and `again` hold what each kind promises, `refusals` everything that must not
//! work, `random` a long history against a model.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;

mod again;
mod fast;
mod random;
mod refusals;
mod windows;
mod world;
