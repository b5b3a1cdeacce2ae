//! Protocol data units: what queue pairs say to each other, apart from its encoding.
//!
//! [`crate::transport`] produces and consumes them, [`crate::wire`] turns them into RoCEv2 packets
//! and back. On the wire a PDU is one packet. Between two queue pairs of one process a PDU may
//! stand for a run of consecutive packets of one message ([`Pdu::packets`]), which are then
//! processed as one, with the effect that the single packets would have had; its payload stays in
//! the sender's memory until it is copied to its destination.

use crate::types::{Msn, Psn, Qpn};

/// A protocol data unit (IBTA volume 1, 9.2 to 9.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pdu {
    /// Destination queue pair.
    pub destination: Qpn,
    /// Transport service that it belongs to.
    pub service: Service,
    /// Sequence number of the first packet; for responses, the request packet that is answered.
    pub psn: Psn,
    /// Packets that the PDU stands for: 1 on the wire.
    pub packets: u32,
    /// Bytes of payload, without padding.
    pub length: u32,
    /// The responder is asked to acknowledge.
    pub ack_request: bool,
    /// The receiver's completion is to be solicited.
    pub solicited: bool,
    /// What is said.
    pub body: Body,
}

/// The transport service of a PDU, with what the extended header of that service says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// Reliable connection.
    #[default]
    Reliable,
    /// Unreliable connection.
    Unreliable,
    /// Unreliable datagram (DETH, IBTA volume 1, 9.3.2).
    Datagram {
        /// Queue key of the destination.
        qkey: u32,
        /// Queue pair that sent it.
        source: Qpn,
    },
    /// Extended reliable connection (XRCETH, IBTA volume 1, annex A14.4).
    Extended {
        /// Shared receive queue of the responder, 24 bits; 0 in responses, which do not carry it.
        srqn: u32,
    },
}

/// What a PDU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Part of a SEND.
    Send {
        /// Where in the message it stands.
        place: Place,
        /// What the last packet carries besides the data.
        tail: SendTail,
    },
    /// Part of an RDMA WRITE.
    Write {
        /// Where in the message it stands.
        place: Place,
        /// Target of the whole message; in the first packet only.
        target: Option<RemoteRange>,
        /// Immediate data in the byte order of the wire; in the last packet only.
        immediate: Option<u32>,
    },
    /// RDMA READ request. On retransmission the rest of the range only.
    Read {
        /// What to read.
        source: RemoteRange,
    },
    /// Atomic request.
    Atomic {
        /// Virtual address, a multiple of 8.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// What to do.
        operation: AtomicOperation,
    },
    /// Atomic write of 8 bytes (IBTA volume 1, annex A19.3).
    AtomicWrite {
        /// Virtual address, a multiple of 8.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// The bytes, in the order in which they stand in memory.
        value: [u8; 8],
    },
    /// Flush request (IBTA volume 1, annex A19.2).
    Flush {
        /// What to flush; without meaning unless `extent` is a range.
        target: RemoteRange,
        /// How much.
        extent: FlushExtent,
        /// How far.
        placement: Placement,
    },
    /// Part of the response to a READ; the only and empty one also answers an atomic write or a
    /// flush.
    ReadResponse {
        /// Where in the response it stands.
        place: Place,
        /// Message sequence number and credits; not in middle packets.
        acknowledge: Option<Acknowledge>,
    },
    /// Response to an atomic request.
    AtomicResponse {
        /// Message sequence number and credits.
        acknowledge: Acknowledge,
        /// The number that was there.
        original: u64,
    },
    /// Acknowledgement, positive or negative.
    Acknowledge(Acknowledge),
    /// A congestion notification packet: the peer's packets met congestion.
    Congestion,
}

/// Where a packet stands in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The first of several.
    First,
    /// Neither first nor last.
    Middle,
    /// The last of several.
    Last,
    /// The only one.
    Only,
}

impl Place {
    /// From whether the packet starts and ends the message.
    #[must_use]
    pub const fn new(starts: bool, ends: bool) -> Self {
        match (starts, ends) {
            (true, true) => Self::Only,
            (true, false) => Self::First,
            (false, true) => Self::Last,
            (false, false) => Self::Middle,
        }
    }

    /// Whether it starts the message.
    #[must_use]
    pub const fn starts(self) -> bool {
        matches!(self, Self::First | Self::Only)
    }

    /// Whether it ends the message.
    #[must_use]
    pub const fn ends(self) -> bool {
        matches!(self, Self::Last | Self::Only)
    }
}

/// What the last packet of a SEND carries besides the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendTail {
    /// Nothing, or not the last packet.
    #[default]
    None,
    /// Immediate data in the byte order of the wire.
    Immediate(u32),
    /// A key of the receiver's to invalidate.
    Invalidate(u32),
}

/// A range of the peer's memory (RETH, IBTA volume 1, 9.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteRange {
    /// Virtual address.
    pub address: u64,
    /// Remote key.
    pub rkey: u32,
    /// Length in bytes.
    pub length: u32,
}

/// Operands of an atomic request (AtomicETH, IBTA volume 1, 9.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOperation {
    /// Store `swap` if the number equals `compare`.
    CompareSwap {
        /// To compare with.
        compare: u64,
        /// To store.
        swap: u64,
    },
    /// Add to the number.
    FetchAdd(u64),
}

/// Selectivity level of a flush (FETH, IBTA volume 1, annex A19.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushExtent {
    /// The range.
    Range,
    /// All of the memory region that the key names.
    Region,
}

/// Placement types of a flush (FETH, IBTA volume 1, annex A19.4.1): at least one is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Earlier writes become visible to all.
    pub global: bool,
    /// Earlier writes survive a loss of power.
    pub persistent: bool,
}

/// The ACK extended transport header (IBTA volume 1, 9.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledge {
    /// Positive or negative.
    pub syndrome: Syndrome,
    /// Messages completed by the responder.
    pub msn: Msn,
}

/// AETH syndrome (IBTA volume 1, 9.7.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syndrome {
    /// ACK with a credit code (0 to 31; 31 means that credits are not used).
    Ack(u8),
    /// Receiver not ready, with a timer code (0 to 31).
    RnrNak(u8),
    /// NAK.
    Nak(NakCode),
}

/// NAK codes (IBTA volume 1, 9.7.5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NakCode {
    /// A packet is missing.
    PsnSequence,
    /// The request is not valid.
    InvalidRequest,
    /// The memory may not be accessed.
    RemoteAccess,
    /// The responder could not carry the request out.
    RemoteOperational,
    /// Invalid RD request.
    InvalidRdRequest,
}
