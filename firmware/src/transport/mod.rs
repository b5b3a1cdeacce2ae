//! Transport engines: the protocol of one queue pair at a time.
//!
//! A queue pair is driven from outside and never calls back later: doorbells and timers make the
//! NIC call it, and everything it needs during a call it gets from an [`Env`]. `env` is that
//! interface, `work` what passes through it; `kind` says which halves a queue pair has, `qp` holds
//! the state machine and `modify` the attributes.
//!
//! * Reliable services, connected and extended (IBTA volume 1, 9.7 and A14): `requester` decides
//!   what to send and `response` what the peer's answers mean; `responder` carries requests out and
//!   `answer` says how that went.
//! * Unreliable services (9.8): `unacknowledged` sends; `unreliable` receives on a connection,
//!   `datagram` receives datagrams and Ethernet frames.
//! * Congestion, of connections: `congestion` notifies peers and holds data back, at the rate that
//!   `rate` computes.
//! * `failure` says which counters an error goes to.
//! * Of all that receive: `in_use` is the receive work request that a message is placed into.
//!
//! Not here: headers, the ICRC, whether a packet comes from the right peer, and the formats that
//! guests see.

mod answer;
mod congestion;
mod datagram;
mod env;
mod failure;
mod gather;
mod in_use;
mod kind;
mod message;
mod modify;
mod qp;
mod rate;
mod requester;
mod responder;
mod response;
mod segmented;
mod timer;
mod unacknowledged;
mod unreliable;
mod work;

pub use congestion::Congestion;
pub use env::{Env, NoReceive, Payload, QpEvent, TransferError, Transmit};
pub use kind::Kind;
pub use modify::{AttributeSet, Attributes, Modify, ModifyError, Pkey};
pub use qp::{Qp, QpConfig};
pub use rate::{Bounds, Rate};
pub use work::{
    Bind, DatagramTarget, FastRegistration, InlineData, LocalOperation, Offload, Part,
    ReceiveCompletion, ReceiveKind, ReceiveWork, Remote, Route, Segmentation, SendOperation,
    SendWork, SgList, Vector,
};

use crate::types::{Gid, Mac};

/// What [`Qp::poll`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nothing can be sent until something happens.
    Idle,
    /// The budget is spent; there may be more to send.
    More,
    /// There is no room on the wire.
    Blocked,
}

/// A half of the queue pair failed: the request at fault has been told, the queue pair has to go to
/// the error state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken;

/// In whose name memory is accessed: keys of other protection domains name nothing, and memory
/// windows of type 2 belong to one queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Protection domain.
    pub pd: u32,
    /// The reserved local key is allowed.
    pub privileged: bool,
}

/// Where a queue pair sends to, resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Source GID.
    pub source: Gid,
    /// Source Ethernet address.
    pub source_mac: Mac,
    /// Index of the source in the GID table.
    pub source_index: u16,
    /// VLAN identifier, or 0.
    pub vlan: u16,
    /// Destination GID.
    pub destination: Gid,
    /// Destination Ethernet address.
    pub destination_mac: Mac,
    /// UDP source port.
    pub udp_source: u16,
    /// Flow label as given, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: DSCP and ECN bits.
    pub traffic_class: u8,
    /// Service level.
    pub service_level: u8,
    /// Partition key.
    pub pkey: u16,
    /// Automatic path migration is armed, or is being armed again: packets then carry the migration
    /// request bit 0 (IBTA volume 1, 17.2.8). Our queue pairs are always in the state Migrated, where
    /// it is 1; some adapters send 0 nevertheless.
    pub armed: bool,
}
