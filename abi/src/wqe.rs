//! Work queue entries.
//!
//! A send queue is a ring of 64-byte basic blocks. A work request takes one to eight of them,
//! contiguous modulo the ring's size, and consists of 16-byte segments: [`ControlSegment`]; then,
//! unless it is a NOP, by type of the queue pair, [`DatagramSegment`] (four segments long) or
//! [`XrcSegment`]; by opcode, [`RemoteSegment`], [`AtomicSegment`], [`FlushSegment`],
//! [`FastRegisterSegment`] or [`BindSegment`] (three each), [`SegmentationSegment`]; then either [`DataSegment`]s or, if the
//! INLINE flag is set, [`ControlSegment::inline_length`] bytes of data.
//!
//! A receive queue is a ring of entries of equal size, a power of two of 16-byte data segments. A
//! segment with key [`END_OF_LIST`] ends the list early.
//!
//! A shared receive queue is such a ring too. Its entries are taken in order, by any of its queue
//! pairs, and complete in any order: an entry's place is free when a completion of it *or of a later
//! one* was consumed.

use crate::object::AddressVector;

/// Size of a send queue basic block in bytes.
pub const BASIC_BLOCK: usize = 64;
/// Most basic blocks in one work request.
pub const MAX_BLOCKS: usize = 8;
/// Size of the largest work request in bytes.
pub const MAX_WQE: usize = BASIC_BLOCK * MAX_BLOCKS;
/// Size of a segment in bytes.
pub const SEGMENT: usize = 16;
/// Most data segments of a work request, send or receive.
pub const MAX_SGE: usize = 28;
/// Queue pair number that stands for all members of a multicast group.
pub const MULTICAST_QPN: u32 = 0xff_ffff;
/// Most bytes of inline data.
pub const MAX_INLINE: usize = 448;
/// Largest message in bytes.
pub const MAX_MESSAGE: u32 = 1 << 31;
/// Most bytes of data behind the headers of a `SendSegmented`.
pub const MAX_SEGMENTED: u32 = 1 << 16;
/// Most bytes of headers of a `SendSegmented`: Ethernet with a tag, and IPv4 and TCP with all the
/// options that they have room for.
pub const MAX_SEGMENTED_HEADERS: usize = 14 + 4 + 60 + 60;
/// Key that ends a list of data segments.
pub const END_OF_LIST: u32 = 0;
/// The reserved local key: addresses are DMA addresses of the function, without a memory region.
/// Usable only on queue pairs created with the PRIVILEGED flag.
pub const RESERVED_LKEY: u32 = 0xffff_ff00;

layout! {
    /// First segment of every send work request.
    ControlSegment [16] {
        /// A `WqeOpcode`.
        0x00 opcode: u8,
        /// `WqeFlags`.
        0x01 flags: u8,
        /// Length of the whole request in 16-byte segments, this one and padded inline data included.
        0x02 segments: u8,
        /// Number of data segments at the end; 0 with INLINE.
        0x03 data_segments: u8,
        /// Immediate data (in the byte order of the wire), or the key to invalidate.
        0x04 immediate: u32,
        /// Bytes of inline data.
        0x08 inline_length: u16,
        /// VLAN tag to insert behind the addresses of a raw packet, with INSERT_VLAN.
        0x0a vlan_tag: u16,
        /// Index of the request's first basic block (the low 32 bits of the producer counter): a
        /// device that reads another one has met a stale ring and fails the queue pair.
        0x0c index: u32,
    }
}

layout! {
    /// Remote address of an RDMA or atomic operation.
    RemoteSegment [16] {
        /// Virtual address in the remote memory region.
        0x00 address: u64,
        /// Remote key.
        0x08 rkey: u32,
        /// Reserved.
        0x0c reserved: u32,
    }
}

layout! {
    /// Operands of an atomic operation.
    AtomicSegment [16] {
        /// Value to add, or to store if the comparison holds.
        0x00 swap_or_add: u64,
        /// Value to compare with.
        0x08 compare: u64,
    }
}

layout! {
    /// Destination of a datagram.
    DatagramSegment [64] {
        /// Destination queue pair number, 24 bits; 0xffffff for multicast.
        0x00 remote_qpn: u32,
        /// Queue key; with bit 31 set, that of the queue pair is used instead.
        0x04 qkey: u32,
        /// Address handle number, or 0 to use `vector`.
        0x08 address_handle: u32,
        /// Reserved.
        0x0c reserved: u32,
        /// Where to send, if there is no handle.
        0x10 vector: AddressVector,
    }
}

layout! {
    /// The peer's receive queue, in all requests of XRC initiators but NOP.
    XrcSegment [16] {
        /// Shared receive queue number at the peer, 24 bits.
        0x00 remote_srqn: u32,
        /// Reserved.
        0x04 reserved: [u32; 3],
    }
}

layout! {
    /// What a flush covers, after the `RemoteSegment` that says where it starts.
    FlushSegment [16] {
        /// Bytes, with extent `Range`.
        0x00 length: u32,
        /// `FlushPlacement`, at least one.
        0x04 placement: u8,
        /// A `FlushExtent`.
        0x05 extent: u8,
        /// Reserved.
        0x06 reserved: [u8; 2],
        /// Reserved.
        0x08 reserved1: u64,
    }
}

flags! {
    /// How far a flush goes, InfiniBand Architecture volume 1, annex A19.
    FlushPlacement: u8 {
        /// Earlier writes of the queue pair become visible to all.
        GLOBAL = 0,
        /// Earlier writes of the queue pair become persistent.
        PERSISTENT = 1,
    }
}

codes! {
    /// How much a flush covers, InfiniBand Architecture volume 1, annex A19.
    FlushExtent: u8 {
        /// The range.
        Range = 0,
        /// All of the region.
        Region = 1,
    }
}

layout! {
    /// Fast registration: gives memory to a region of AllocMr that has none.
    FastRegisterSegment [48] {
        /// New key: the region's, with bits 7:0 chosen anew.
        0x00 key: u32,
        /// `AccessFlags`, as in `CreateMr`.
        0x04 access: u32,
        /// Virtual address of the region's first byte.
        0x08 start: u64,
        /// Length in bytes.
        0x10 length: u64,
        /// DMA address of an array of `pages` 64-bit DMA addresses, a multiple of 8. It is read
        /// when the request is carried out.
        0x18 list: u64,
        /// Number of pages.
        0x20 pages: u32,
        /// Page size as a power of two of bytes, 12 to 30.
        0x24 page_shift: u8,
        /// Reserved.
        0x25 reserved: [u8; 11],
    }
}

layout! {
    /// Binds a memory window to a range of a region, or unbinds it with a length of 0 (type 1).
    BindSegment [48] {
        /// Key that the window has.
        0x00 window: u32,
        /// Key that it is to have: the window's, with bits 7:0 chosen anew.
        0x04 key: u32,
        /// Key of the region, which allows WINDOW_BIND.
        0x08 region: u32,
        /// `AccessFlags`: REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC, ZERO_BASED.
        0x0c access: u32,
        /// Virtual address of the window's first byte in the region.
        0x10 start: u64,
        /// Length in bytes.
        0x18 length: u64,
        /// Reserved.
        0x20 reserved: [u64; 2],
    }
}

layout! {
    /// A piece of local memory.
    DataSegment [16] {
        /// Virtual address in the region, or DMA address with the reserved key.
        0x00 address: u64,
        /// Length in bytes; 0 means no bytes.
        0x08 length: u32,
        /// Local key.
        0x0c lkey: u32,
    }
}

layout! {
    /// How the device cuts a TCP segment into frames.
    SegmentationSegment [16] {
        /// Most bytes of data in a frame, at least 1.
        0x00 mss: u16,
        /// Bytes of all headers at the beginning: Ethernet, IP and TCP with their options.
        0x02 header_length: u16,
        /// Reserved.
        0x04 reserved: [u32; 3],
    }
}

codes! {
    /// Operations of send work requests.
    WqeOpcode: u8 {
        /// Does nothing but complete.
        Nop = 0x00,
        /// SEND.
        Send = 0x01,
        /// SEND with immediate data.
        SendImmediate = 0x02,
        /// SEND with invalidate.
        SendInvalidate = 0x03,
        /// RDMA WRITE.
        Write = 0x04,
        /// RDMA WRITE with immediate data.
        WriteImmediate = 0x05,
        /// RDMA READ.
        Read = 0x06,
        /// Compare and swap, 8 bytes.
        CompareSwap = 0x07,
        /// Fetch and add, 8 bytes.
        FetchAdd = 0x08,
        /// Invalidates a local key, which `immediate` names: a region of AllocMr or a window of type
        /// 2. Starts when all earlier requests of the queue are complete.
        LocalInvalidate = 0x09,
        /// Registers memory fast, on privileged queue pairs.
        FastRegister = 0x0a,
        /// Binds a memory window.
        BindWindow = 0x0b,
        /// Atomic write of 8 bytes, which are inline data, to an address that is a multiple of 8.
        AtomicWrite = 0x0c,
        /// Flush.
        Flush = 0x0d,
        /// Raw packets: a TCP segment of any length, which the device cuts into frames.
        SendSegmented = 0x0e,
    }
}

flags! {
    /// Flags of a send work request.
    WqeFlags: u8 {
        /// Writes a completion on success; errors always write one.
        SIGNALED = 0,
        /// The receiver's completion is solicited.
        SOLICITED = 1,
        /// Starts after all earlier READ and atomic operations of the queue have completed.
        FENCE = 2,
        /// The data stands in the request itself.
        INLINE = 3,
        /// Raw packets: the device fills in the checksum of the IPv4 header.
        CHECKSUM_IP = 4,
        /// Raw packets: the device fills in the checksum of the TCP or UDP header.
        CHECKSUM_TRANSPORT = 5,
        /// Raw packets: the device inserts the tag `vlan_tag`.
        INSERT_VLAN = 6,
    }
}
