//! Work requests: what the front end hands to a queue pair, and what it gets back.

use smallvec::SmallVec;

use super::Domain;
use crate::pdu::{AtomicOperation, FlushExtent, Placement, RemoteRange, SendTail, Service};
use crate::types::{Access, Gid, Mac, Outcome, Qpn, Sge};

/// Inline data of a work request.
pub type InlineData = SmallVec<[u8; 64]>;

/// Scatter/gather list of a work request.
pub type SgList = SmallVec<[Sge; 2]>;

/// A send work request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendWork {
    /// Chosen by the front end, repeated when the request ends.
    pub cookie: u64,
    /// What to do.
    pub operation: SendOperation,
    /// Whom it is for.
    pub remote: Remote,
    /// Local memory: source of data, or target of READ and atomic results.
    pub sges: SgList,
    /// Inline data, used instead of `sges` if not empty.
    pub inline: InlineData,
    /// The receiver's completion is to be solicited.
    pub solicited: bool,
    /// Starts after all earlier READ and atomic operations have completed.
    pub fence: bool,
    /// Writes a completion on success.
    pub signaled: bool,
}

/// Operations of a send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOperation {
    /// Completes without doing anything.
    Nop,
    /// SEND; on a raw packet queue pair, an Ethernet frame.
    Send(SendTail),
    /// A TCP segment that leaves in several Ethernet frames.
    SendSegmented(Segmentation),
    /// RDMA WRITE.
    Write {
        /// Virtual address of the target.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// Immediate data in the byte order of the wire.
        immediate: Option<u32>,
    },
    /// RDMA READ.
    Read {
        /// Virtual address of the source.
        address: u64,
        /// Remote key.
        rkey: u32,
    },
    /// Atomic operation.
    Atomic {
        /// Virtual address.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// What to do.
        operation: AtomicOperation,
    },
    /// Atomic write.
    AtomicWrite {
        /// Virtual address, a multiple of 8.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// The bytes in the order of memory.
        value: [u8; 8],
    },
    /// Flush.
    Flush {
        /// The range.
        target: RemoteRange,
        /// How much of it.
        extent: FlushExtent,
        /// How far.
        placement: Placement,
    },
    /// Something that no peer hears of.
    Local(LocalOperation),
    /// The front end could not accept the request: it ends with this outcome in its turn.
    Invalid(Outcome),
}

/// Operations of a send queue on the function's own keys (IBTA volume 1, 10.6.6.2, 10.6.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalOperation {
    /// Invalidates a key.
    Invalidate(u32),
    /// Gives memory to a region.
    FastRegister(FastRegistration),
    /// Binds a memory window.
    Bind(Bind),
}

/// A fast registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastRegistration {
    /// Key that the region has from then on.
    pub key: u32,
    /// What is allowed.
    pub access: Access,
    /// Addresses are offsets from the first byte.
    pub zero_based: bool,
    /// Memory windows may be bound to it.
    pub window_bind: bool,
    /// Writes may become visible in any order.
    pub relaxed_ordering: bool,
    /// Virtual address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// DMA address of the list of pages.
    pub list: u64,
    /// Number of pages.
    pub pages: u32,
    /// Page size as a power of two.
    pub page_shift: u8,
}

/// Binding of a memory window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Key of the window as it is.
    pub window: u32,
    /// Key that the window has from then on.
    pub key: u32,
    /// Key of the region.
    pub region: u32,
    /// What is allowed.
    pub access: Access,
    /// Addresses are offsets from the first byte.
    pub zero_based: bool,
    /// Virtual address of the first byte in the region.
    pub start: u64,
    /// Length in bytes; 0 unbinds.
    pub length: u64,
}

/// Whom a send work request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remote {
    /// The peer that the queue pair is connected to.
    #[default]
    Peer,
    /// A shared receive queue of the peer (XRC).
    SharedQueue(u32),
    /// Another queue pair for each request.
    Datagram(DatagramTarget),
    /// Whoever receives the frame, which the port may have to complete.
    Frame(Offload),
}

/// The destination of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramTarget {
    /// Queue pair.
    pub qpn: Qpn,
    /// Queue key; with bit 31 set, the sending queue pair's own is used (IBTA volume 1, 10.2.5).
    pub qkey: u32,
    /// The way there.
    pub route: Route,
}

/// The way of a datagram. Requests of all types carry it about, so it is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// An address handle.
    Handle(u32),
    /// The address vector in the request that was last handed out, which the front end keeps.
    InRequest,
}

/// An address vector (IBTA volume 1, 10.2.2.2), not resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vector {
    /// Destination GID.
    pub gid: Gid,
    /// Destination Ethernet address.
    pub mac: Mac,
    /// Index of the source GID.
    pub source_index: u16,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Service level.
    pub service_level: u8,
}

/// What the port does to an Ethernet frame before it sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Fill in the checksum of the IPv4 header.
    pub ip_checksum: bool,
    /// Fill in the checksum of the TCP or UDP header.
    pub transport_checksum: bool,
    /// Insert this VLAN tag.
    pub vlan_tag: Option<u16>,
}

/// How a TCP segment is cut into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Most bytes of data in a frame.
    pub mss: u16,
    /// Bytes of headers in front of the data.
    pub header_length: u16,
}

/// Which part of a TCP segment's data a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Frames before it.
    pub index: u32,
    /// Bytes of data before it.
    pub offset: u32,
    /// Bytes of data in it.
    pub length: u16,
    /// None comes after it.
    pub last: bool,
}

/// A receive work request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveWork {
    /// Chosen by the front end, repeated when the request ends.
    pub cookie: u64,
    /// In whose name its buffers are accessed: with a shared receive queue, that queue's.
    pub domain: Domain,
    /// Buffers.
    pub sges: SgList,
    /// Set if the front end could not accept the request.
    pub invalid: Option<Outcome>,
}

/// The end of a receive work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCompletion {
    /// The request's cookie.
    pub cookie: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes received: SEND data placed, or the length of the WRITE with immediate data. Of a
    /// datagram, the 40 bytes before its data count.
    pub bytes: u32,
    /// What was received.
    pub kind: ReceiveKind,
    /// Whether the completion is solicited.
    pub solicited: bool,
}

/// What a receive work request received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveKind {
    /// A SEND.
    Send(SendTail),
    /// An RDMA WRITE with immediate data, in the byte order of the wire.
    Write(u32),
    /// A datagram.
    Datagram {
        /// What it carried besides the data.
        tail: SendTail,
        /// Queue pair that sent it.
        source: Qpn,
    },
    /// An Ethernet frame.
    Frame,
}

impl ReceiveCompletion {
    /// The end of a request that received nothing.
    #[must_use]
    pub const fn without_data(cookie: u64, outcome: Outcome) -> Self {
        Self {
            cookie,
            outcome,
            bytes: 0,
            kind: ReceiveKind::Send(SendTail::None),
            solicited: false,
        }
    }
}

impl Remote {
    /// The service of requests to it over a reliable connection.
    #[must_use]
    pub const fn reliable_service(&self) -> Service {
        match *self {
            Self::SharedQueue(srqn) => Service::Extended { srqn },
            _ => Service::Reliable,
        }
    }
}

impl SendOperation {
    /// Remote range of `length` bytes, for operations that have one.
    #[must_use]
    pub const fn remote(&self, length: u32) -> Option<RemoteRange> {
        match *self {
            Self::Write { address, rkey, .. } | Self::Read { address, rkey } => Some(RemoteRange {
                address,
                rkey,
                length,
            }),
            _ => None,
        }
    }
}
