//! Work queue entries.
//!
//! A send queue is a ring of 64-byte basic blocks. A work request takes one to eight of them,
//! contiguous modulo the ring's size, and consists of 16-byte segments: [`ControlSegment`]; then,
//! by opcode, [`RemoteSegment`], [`AtomicSegment`], [`DatagramSegment`] (three segments long) and
//! others; then either [`DataSegment`]s or, if the INLINE flag is set, [`ControlSegment::inline_length`] bytes of data.
//!
//! A receive queue is a ring of entries of equal size, a power of two of 16-byte data segments. A
//! segment with key [`END_OF_LIST`] ends the list early.

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
/// Most bytes of inline data.
pub const MAX_INLINE: usize = 448;
/// Largest message in bytes.
pub const MAX_MESSAGE: u32 = 1 << 31;
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
        /// Reserved.
        0x0a reserved: u16,
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
    DatagramSegment [48] {
        /// Destination queue pair number, 24 bits.
        0x00 remote_qpn: u32,
        /// Queue key.
        0x04 qkey: u32,
        /// Address handle number.
        0x08 address_handle: u32,
        /// Reserved.
        0x0c reserved: [u32; 9],
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
        /// Invalidates a local key.
        LocalInvalidate = 0x09,
        /// Registers memory fast.
        FastRegister = 0x0a,
        /// Binds a memory window.
        BindWindow = 0x0b,
        /// Atomic write, 8 bytes.
        AtomicWrite = 0x0c,
        /// Flush.
        Flush = 0x0d,
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
    }
}
