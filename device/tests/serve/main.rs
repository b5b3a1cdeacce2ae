//! The real process, `vrnic serve`, seen from outside.
//!
//! Every test starts its own in a directory of its own; it is killed when the test ends, and its
//! log is printed if the test failed. Data is compared byte by byte, on pages filled with a pattern
//! before.
//!
//! * [`client`]: a client that nobody here wrote;
//! * [`lifecycle`]: deaths and resets under traffic;
//! * [`hostile`]: clients that break every rule;
//! * [`family`]: a physical function with virtual ones; [`slots`]: virtual ones that come and go;
//! * [`crowd`]: with as many virtual ones as there can be;
//! * [`isolation`], [`forgery`]: what one tenant tries with what is another's, and in its name;
//! * [`cli`]: arguments, signals, files left behind;
//! * [`modes`]: the same data by every way that a command line can choose;
//! * [`impair`]: a link that is bad on purpose;
//! * [`quota`]: what an operator lets functions have, while they work;
//! * [`mirror`]: captures of functions; [`stations`]: the table of the switch;
//! * [`policy`], [`administration`]: rules of functions, by their operator and by the physical function;
//! * [`rates`]: limits and weights of functions;
//! * [`control`], [`control_hostile`]: the control socket, and its bad clients.
//!
//! Support: [`process`] starts and ends processes, [`endpoint`] moves data with the driver,
//! [`foreign`] runs the driver on the `vfio_user` crate's client, [`raw`] writes messages by hand,
//! [`traffic`] keeps data moving in the background, [`frames`] reads captures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod administration;
mod cli;
mod client;
mod control;
mod control_hostile;
mod crowd;
mod endpoint;
mod family;
mod foreign;
mod forgery;
mod frames;
mod hostile;
mod impair;
mod isolation;
mod lifecycle;
mod mirror;
mod modes;
mod policy;
mod process;
mod quota;
mod rates;
mod raw;
mod slots;
mod stations;
mod traffic;
