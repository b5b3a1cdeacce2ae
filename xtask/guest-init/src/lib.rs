//! What a test guest and the machine that runs it agree on.
//!
//! - [`frame`]: the frames on the virtio-serial port by which commands are run in a guest.
//!
//! The guest's half of the work is in the program of this package, the other half in `xtask`.

#![forbid(unsafe_code)]

pub mod frame;
