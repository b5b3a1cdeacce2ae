//! Driver and device in one process, in virtual time: no VM, no socket, no clock.
//!
//! [`world::World`] holds NICs (the firmware crate itself), the guest memory of each function, and
//! a [`wire::Wire`] that loses, duplicates, reorders, delays and corrupts frames by a seed.
//! [`platform::SimPlatform`] is the driver's platform on top of it: whenever the driver waits, the
//! world runs, and time goes on to the next thing that happens. The same seed gives the same run.
#![forbid(unsafe_code)]

pub mod memory;
pub mod platform;
pub mod wire;
pub mod world;
