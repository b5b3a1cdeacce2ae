//! What the two ends tell each other.
//!
//! The end of the vrnic leads: it says something, and the other end answers, until it says that it
//! is over.

use serde::{Deserialize, Serialize};

use crate::step::{Connection, Step};

/// What an end is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Ethernet address.
    pub(crate) mac: [u8; 6],
    /// GIDs of the IPv4 and of the IPv6 address.
    pub(crate) gids: [[u8; 16]; 2],
    /// Virtual address of the memory that the other end may access.
    pub(crate) address: u64,
    /// Key of that memory.
    pub(crate) rkey: u32,
}

/// One end of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QpEnd {
    pub(crate) qpn: u32,
    /// Sequence number of the first packet that it sends.
    pub(crate) psn: u32,
}

/// What the leading end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Who it is.
    Hello(Identity),
    /// Make queue pairs and connect them with these.
    Open(Connection, Vec<QpEnd>),
    /// Get memory and receive requests ready for a step. With the keys of our memory windows, if
    /// there are any.
    Prepare(Step, Vec<u32>),
    /// Post the step's requests, if they are yours, and look at what came of it.
    Go,
    /// Destroy the queue pairs.
    Close,
    /// That was all.
    Finish,
}

/// What the following end answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Who it is.
    Hello(Identity),
    /// Its ends of the queue pairs.
    Opened(Vec<QpEnd>),
    /// All is ready for the step. With the keys of its memory windows, if there are any.
    Prepared(Vec<u32>),
    /// What was asked for is done.
    Done,
    /// The step went as it should; so many messages arrived or were answered, and so many bytes
    /// were looked at.
    Verified(Outcome),
    /// Something went wrong.
    Failed(String),
}

/// What an end saw of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests that completed at this end, of either kind.
    pub(crate) completions: u32,
    /// Bytes of memory that were compared.
    pub(crate) bytes: u64,
    /// Microseconds from the first request to the last completion; 0 at the responder.
    pub(crate) microseconds: u64,
}
