//! Work requests and completions as a user sees them.
//!
//! A request says what to do ([`Operation`]), with what data ([`Data`]) and, unless the queue pair
//! is connected, to whom ([`Target`]). `descriptor` (private) turns it into what the device reads.
//! Which operations a queue pair has follows from its type and from what the device can do;
//! others are refused when they are posted.

pub(crate) mod descriptor;

use vrnic_abi::admin::AccessFlags;
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::object::AddressVector;
use vrnic_abi::wqe::{FlushExtent, FlushPlacement, WqeFlags, WqeOpcode};

use crate::address::AhNumber;
use crate::tables::Noted;

pub(crate) use descriptor::{Descriptor, DescriptorLimits, Registration, data_segment};

/// A piece of local memory; laid out as `libibverbs` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sge {
    /// Virtual address in the region.
    pub address: u64,
    /// Length in bytes; 0 means no bytes.
    pub length: u32,
    /// Local key.
    pub lkey: u32,
}

/// A place in the peer's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Virtual address in the peer's region.
    pub address: u64,
    /// The region's key.
    pub rkey: u32,
}

/// How to bind a memory window; [`crate::MemoryWindow::bind`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Key that the window has.
    pub window: u32,
    /// Key that it is to have: the window's, with bits 7:0 chosen anew.
    pub key: u32,
    /// Key of the region.
    pub region: u32,
    /// REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC, ZERO_BASED.
    pub access: AccessFlags,
    /// Virtual address of the window's first byte in the region.
    pub start: u64,
    /// Length in bytes; 0 unbinds a window of type 1.
    pub length: u64,
}

/// What a send work request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// Nothing but complete.
    #[default]
    Nop,
    /// SEND; of a datagram, or an Ethernet frame, where that is what the queue pair sends.
    Send,
    /// SEND with immediate data.
    SendImmediate(u32),
    /// SEND that invalidates a key of the peer.
    SendInvalidate(u32),
    /// RDMA WRITE.
    Write(Remote),
    /// RDMA WRITE with immediate data.
    WriteImmediate(Remote, u32),
    /// RDMA READ.
    Read(Remote),
    /// Compare and swap.
    CompareSwap {
        /// The 8 bytes to change.
        remote: Remote,
        /// Value to compare with.
        compare: u64,
        /// Value to store if the comparison holds.
        swap: u64,
    },
    /// Fetch and add.
    FetchAdd {
        /// The 8 bytes to change.
        remote: Remote,
        /// Value to add.
        add: u64,
    },
    /// Invalidates a local key.
    LocalInvalidate(u32),
    /// Binds a memory window.
    BindWindow(Bind),
    /// Writes 8 bytes atomically.
    AtomicWrite {
        /// The 8 bytes to write, at an address that is a multiple of 8.
        remote: Remote,
        /// Value to store.
        value: u64,
    },
    /// Flushes earlier writes of the queue pair.
    Flush {
        /// Where the range starts, or any address in the region.
        remote: Remote,
        /// Bytes, with extent `Range`.
        length: u32,
        /// How far; at least one.
        placement: FlushPlacement,
        /// How much.
        extent: FlushExtent,
    },
    /// A TCP segment with its Ethernet, IP and TCP headers, which the device cuts into frames.
    SendSegmented {
        /// Most bytes of TCP data in a frame, at least 1.
        mss: u16,
        /// Bytes of headers at the beginning of the data, at most
        /// [`vrnic_abi::wqe::MAX_SEGMENTED_HEADERS`].
        header_length: u16,
    },
}

/// How a datagram finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramPath {
    /// By an address handle.
    Handle(AhNumber),
    /// As the request says.
    Vector(AddressVector),
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Queue pair number, or [`vrnic_abi::wqe::MULTICAST_QPN`] for a multicast group.
    pub remote_qpn: u32,
    /// Queue key; with bit 31 set, that of the sending queue pair is used instead.
    pub qkey: u32,
    /// Path.
    pub path: DatagramPath,
}

/// Whom a send work request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// RC and UC: the connected queue pair.
    #[default]
    Peer,
    /// UD and GSI: a datagram.
    Datagram(Datagram),
    /// XRC initiators: the shared receive queue with that number at the peer. All operations but Nop
    /// name one.
    SharedReceiveQueue(u32),
    /// Raw packets: the wire, with a VLAN tag to insert.
    Wire {
        /// The tag: priority (15:13), drop eligibility (12), identifier (11:0).
        vlan_tag: Option<u16>,
    },
}

/// Where the data of a send work request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// In local memory, or for READ and atomics: goes there.
    Sges(&'a [Sge]),
    /// Here; copied into the descriptor.
    Inline(&'a [u8]),
}

impl Default for Data<'_> {
    /// No data.
    fn default() -> Self {
        Self::Sges(&[])
    }
}

/// A send work request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendRequest<'a> {
    /// Returned in the completion.
    pub wr_id: u64,
    /// What to do.
    pub operation: Operation,
    /// For whom.
    pub target: Target,
    /// With what data.
    pub data: Data<'a>,
    /// SIGNALED, SOLICITED, FENCE, CHECKSUM_IP and CHECKSUM_TRANSPORT; INLINE and INSERT_VLAN
    /// follow from `data` and `target`.
    pub flags: WqeFlags,
}

/// A receive work request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveRequest<'a> {
    /// Returned in the completion.
    pub wr_id: u64,
    /// Where a message goes.
    pub sges: &'a [Sge],
}

/// What completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A send work request.
    Request(WqeOpcode),
    /// A receive work request.
    Receive(CompletionOpcode),
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The work request's.
    pub wr_id: u64,
    /// Local queue pair number.
    pub qpn: u32,
    /// The context that the queue pair was created with; 0 for XRC targets, which have none.
    pub context: u64,
    /// What completed.
    pub work: Work,
    /// How. All but `wr_id`, `qpn`, `context`, `work` and `syndrome` means nothing unless it is `Success`.
    pub status: CompletionStatus,
    /// Vendor detail of an error.
    pub syndrome: u32,
    /// Bytes received or read. Of a datagram, 40 bytes for the routing header are counted.
    pub byte_length: u32,
    /// Immediate data; or the key that was invalidated, bound or registered, depending on `work`.
    pub immediate: u32,
    /// Flags: GRH, VLAN, IPV4, SOLICITED, and the checksums of received frames.
    pub flags: CompletionFlags,
    /// When, in nanoseconds of the device's clock.
    pub timestamp: u64,
    /// Datagrams: the sender's queue pair number.
    pub source_qpn: u32,
    /// Number of the shared receive queue that the request was taken from, or 0.
    pub srqn: u32,
    /// Datagrams: index of the P_Key.
    pub pkey_index: u16,
    /// Datagrams and frames: the VLAN tag, with the flag VLAN.
    pub vlan_tag: u16,
    /// Datagrams: the sender's Ethernet address.
    pub source_mac: [u8; 6],
    /// Frames: hash of addresses and ports.
    pub hash: u32,
}

impl Default for Completion {
    fn default() -> Self {
        Self {
            wr_id: 0,
            qpn: 0,
            context: 0,
            work: Work::Request(WqeOpcode::Nop),
            status: CompletionStatus::General,
            syndrome: 0,
            byte_length: 0,
            immediate: 0,
            flags: CompletionFlags::empty(),
            timestamp: 0,
            source_qpn: 0,
            srqn: 0,
            pkey_index: 0,
            vlan_tag: 0,
            source_mac: [0; 6],
            hash: 0,
        }
    }
}

impl Completion {
    /// What `entry` says of the send work request that `noted` is; its queue pair's context is not
    /// known here.
    #[inline]
    #[must_use]
    pub fn of_request(entry: &CompletionEntry, noted: Noted) -> Self {
        let Noted { wr_id, opcode, key } = noted;
        Self::decode(entry, wr_id, Work::Request(opcode), key)
    }

    /// What `entry` says of the receive work request `wr_id`; its queue pair's context is not known
    /// here.
    #[inline]
    #[must_use]
    pub fn of_receive(entry: &CompletionEntry, wr_id: u64) -> Self {
        let opcode = CompletionOpcode::from_raw(entry.opcode);
        let opcode = opcode.unwrap_or(CompletionOpcode::Receive);
        let immediate = match opcode {
            CompletionOpcode::ReceiveInvalidate => entry.immediate,
            _ => u32::from_be(entry.immediate),
        };
        Self::decode(entry, wr_id, Work::Receive(opcode), immediate)
    }

    #[inline]
    fn decode(entry: &CompletionEntry, wr_id: u64, work: Work, immediate: u32) -> Self {
        let status = CompletionStatus::from_raw(entry.status);
        Self {
            wr_id,
            qpn: entry.qpn,
            context: 0,
            work,
            status: status.unwrap_or(CompletionStatus::General),
            syndrome: entry.syndrome,
            byte_length: entry.byte_length,
            immediate,
            flags: CompletionFlags::from_bits_truncate(entry.flags),
            timestamp: entry.timestamp,
            source_qpn: entry.source_qpn,
            srqn: entry.srqn,
            pkey_index: (entry.vlan >> 16) as u16,
            vlan_tag: entry.vlan as u16,
            source_mac: entry.source_mac,
            hash: entry.hash,
        }
    }

    /// The local key that is invalid from now on: a LocalInvalidate has completed, or a SEND with
    /// invalidate arrived.
    #[must_use]
    pub fn invalidated_key(&self) -> Option<u32> {
        let invalidated = matches!(
            self.work,
            Work::Request(WqeOpcode::LocalInvalidate)
                | Work::Receive(CompletionOpcode::ReceiveInvalidate)
        );
        (self.status == CompletionStatus::Success && invalidated).then_some(self.immediate)
    }

    /// The local key that is valid from now on: a fast registration or a bind has completed.
    #[must_use]
    pub fn validated_key(&self) -> Option<u32> {
        let validated = matches!(
            self.work,
            Work::Request(WqeOpcode::FastRegister | WqeOpcode::BindWindow)
        );
        (self.status == CompletionStatus::Success && validated).then_some(self.immediate)
    }
}

impl Operation {
    /// The operation's code in descriptors and completions.
    #[must_use]
    pub const fn opcode(&self) -> WqeOpcode {
        match self {
            Self::Nop => WqeOpcode::Nop,
            Self::Send => WqeOpcode::Send,
            Self::SendImmediate(_) => WqeOpcode::SendImmediate,
            Self::SendInvalidate(_) => WqeOpcode::SendInvalidate,
            Self::Write(_) => WqeOpcode::Write,
            Self::WriteImmediate(..) => WqeOpcode::WriteImmediate,
            Self::Read(_) => WqeOpcode::Read,
            Self::CompareSwap { .. } => WqeOpcode::CompareSwap,
            Self::FetchAdd { .. } => WqeOpcode::FetchAdd,
            Self::LocalInvalidate(_) => WqeOpcode::LocalInvalidate,
            Self::BindWindow(_) => WqeOpcode::BindWindow,
            Self::AtomicWrite { .. } => WqeOpcode::AtomicWrite,
            Self::Flush { .. } => WqeOpcode::Flush,
            Self::SendSegmented { .. } => WqeOpcode::SendSegmented,
        }
    }

    /// The local key that the operation changes, or 0.
    #[must_use]
    pub const fn local_key(&self) -> u32 {
        match *self {
            Self::LocalInvalidate(key) | Self::BindWindow(Bind { key, .. }) => key,
            _ => 0,
        }
    }
}
