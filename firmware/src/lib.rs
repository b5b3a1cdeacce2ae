//! What runs on the vrnic RDMA NIC: everything between guest-visible queues and RoCEv2 frames.
//!
//! The crate does no I/O, reads no clock, starts no thread. Time, memory, doorbells, interrupts and
//! frames reach it through the traits of [`host`], so that two NICs and a simulated wire make a
//! deterministic test bench. From the outside in:
//!
//! * [`host`]: what a NIC needs of the hardware around it;
//! * [`nic`]: all functions that one engine serves, their scheduling, the port, the direct path
//!   between two functions;
//! * [`frontend`]: the formats that guests see: registers, admin commands, queue entries, events.
//!   The rest of the crate never sees them, so that another front end can stand beside this one;
//! * [`resource`]: protection domains, memory regions, GIDs, the tables that hold objects;
//! * [`transport`]: the protocol engines, one queue pair at a time, in terms of [`pdu`]s;
//! * [`wire`]: Ethernet, IP, UDP and InfiniBand headers, ICRC: PDUs to frames and back; what queues
//!   of raw packets need to know of other frames;
//! * [`impair`]: what a bad wire does to frames, on purpose.
//!
//! # Panics
//!
//! No input from a guest or from the wire makes this crate panic.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

extern crate alloc;

pub mod frontend;
pub mod host;
pub mod impair;
pub mod nic;
pub mod pdu;
pub mod resource;
pub mod transport;
pub mod types;
pub mod wire;
