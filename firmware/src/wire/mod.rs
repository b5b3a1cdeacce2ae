//! RoCEv2 frames (IBTA volume 1, annex A17): PDUs to frames and back.
//!
//! [`parse`] reads a frame from the wire, whatever it may be, and checks everything that can be
//! checked without knowing the queue pair; [`emit_headers`] and [`Headers::finish`], or [`emit`],
//! write one. Every frame written is read back as the same PDU. Frames are Ethernet frames without
//! frame check sequence; padding of the shortest ones is ours to add.
//!
//! One file per header, in the order in which they stand in a frame: `ethernet`, `ipv4` and `ipv6`,
//! `udp`, `bth`, then those that the `opcode` asks for: that of the transport service, `deth` or
//! `xrceth`; those of the operation, `feth`, `reth`, `aeth`, `atomiceth`, `atomicacketh`, `immdt`,
//! `ieth`, `atomicwrite`; at the end `icrc`. Each knows where its `field`s stand, what they may say,
//! and which of them the ICRC leaves out. `network` is either IP header.
//!
//! [`frame`] reads any other Ethernet frame, as far as queues of raw packets need it.
//!
//! Not here: which packets are addressed to whom, sequence numbers, lengths against the path MTU.

mod aeth;
mod atomicacketh;
mod atomiceth;
mod atomicwrite;
mod bth;
mod checksum;
mod deth;
mod ethernet;
mod feth;
mod field;
pub mod frame;
mod icrc;
mod ieth;
mod immdt;
mod ipv4;
mod ipv6;
mod network;
mod opcode;
mod receive;
mod reth;
mod transmit;
mod udp;
mod xrceth;

#[cfg(test)]
mod tests;

pub use ethernet::SHORTEST_FRAME;
pub use network::{ROUTE_HEADER_LENGTH, route_header};
pub use receive::{DropReason, Received, parse};
pub use transmit::{EmitError, Headers, burst_length, emit, emit_headers, frame_length};
