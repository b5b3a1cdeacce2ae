//! Loss recovery of reliable connections, seen on the wire.
//!
//! Two NICs in virtual time, exact events on the wire between them, and the log of all frames at
//! both of its ends. A test injects a few events and says which packets must follow, in which order
//! and when, what the counters say, and that all memory of both ends is what it would be without the
//! events. Whatever a test looks at, [`rules`] is held against all of its frames: what public test
//! suites of RNICs check in captures (Lumina, SIGCOMM 2023), and the timers.
//!
//! Requirements are those of IBTA volume 1, 9.7. Time is exact but for the bench: it moves in steps
//! of a microsecond, so that a timer is noticed up to one step late.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;
#[path = "../nic_link/mod.rs"]
mod nic_link;

mod packet;
mod rules;
mod world;

mod acknowledgements;
mod atomics;
mod chance;
mod go_back_n;
mod naks;
mod not_ready;
mod reads;
mod timeouts;
