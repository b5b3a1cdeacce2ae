//! What the kernel driver and the user-space provider tell each other: the driver-private parts
//! of Linux's uverbs commands.
//!
//! The common part of each command is the kernel's; behind it the provider's request follows, and
//! behind the common answer the driver's. The two are released together, but installed apart, so
//! the first exchange ([`AllocContext`], [`ContextAnswer`]) carries [`VERSION`], and the provider
//! refuses a driver with another one. Within a version, structures only grow at their end: a
//! receiver takes missing bytes as zero and ignores surplus ones.
//!
//! A context owns doorbell pages. It gets one when it is opened, and another when a queue finds no
//! free slot in those it has; each answer that names a slot says on which page it is, and where
//! that page and its kick page are mapped. User space posts, polls and arms through them without a
//! system call.
//!
//! Buffers are the provider's own memory, pinned for as long as the object lives. Rings are laid
//! out as in [`crate::admin`]; their sizes are chosen by the provider and checked by the device.

use crate::object::AddressVector;

/// Version of these structures, which the kernel also reports as the device's uverbs ABI version.
pub const VERSION: u32 = 1;

layout! {
    /// Request of `alloc_ucontext`.
    AllocContext [16] {
        /// [`VERSION`] of the provider.
        0x00 version: u32,
        /// Reserved.
        0x04 reserved: u32,
        /// Reserved.
        0x08 reserved1: u64,
    }
}

layout! {
    /// Answer of `alloc_ucontext`.
    ContextAnswer [96] {
        /// [`VERSION`] of the driver.
        0x00 version: u32,
        /// Version of the device's interface: major in bits 31:16, minor in bits 15:0.
        0x04 interface: u32,
        /// `Capabilities` of the device.
        0x08 capabilities: u64,
        /// The context's first doorbell page.
        0x10 page: PageAnswer,
        /// Most data segments of a work request.
        0x28 max_sge: u32,
        /// Most bytes of inline data.
        0x2c max_inline: u32,
        /// Most basic blocks of a send queue, as a power of two.
        0x30 log_max_send_blocks: u8,
        /// Most entries of a receive queue, as a power of two.
        0x31 log_max_receive_entries: u8,
        /// Most entries of a completion queue, as a power of two.
        0x32 log_max_cq_entries: u8,
        /// Most entries of a shared receive queue, as a power of two.
        0x33 log_max_srq_entries: u8,
        /// Reserved.
        0x34 reserved: u32,
        /// Reserved.
        0x38 reserved1: [u64; 5],
    }
}

layout! {
    /// Where a doorbell page of the context is.
    PageAnswer [24] {
        /// Which of the context's pages, from 0 on; the same page has the same number for ever.
        0x00 index: u32,
        /// Reserved.
        0x04 reserved: u32,
        /// Offset to `mmap` the doorbell page at, 4096 bytes, readable and writable.
        0x08 doorbell: u64,
        /// Offset to `mmap` its kick page at, 4096 bytes, writable.
        0x10 kick: u64,
    }
}

layout! {
    /// Answer of `alloc_pd`.
    PdAnswer [8] {
        /// Number of the protection domain.
        0x00 pd: u32,
        /// Reserved.
        0x04 reserved: u32,
    }
}

layout! {
    /// Request of `create_cq` and `resize_cq`.
    CreateCqRequest [24] {
        /// Virtual address of the ring, a multiple of 4096.
        0x00 buffer: u64,
        /// Entries as a power of two. The ring is 64 bytes times this.
        0x08 log_entries: u8,
        /// Reserved.
        0x09 reserved: [u8; 7],
        /// Reserved.
        0x10 reserved1: u64,
    }
}

layout! {
    /// Answer of `create_cq`.
    CqAnswer [32] {
        /// Number of the completion queue.
        0x00 cq: u32,
        /// Its doorbell slot.
        0x04 slot: u32,
        /// The page of the slot.
        0x08 page: PageAnswer,
    }
}

layout! {
    /// Answer of `resize_cq`: entries before `base` are in the old buffer, which the provider
    /// keeps until it has polled them.
    ResizeCqAnswer [8] {
        /// Index of the first entry in the new buffer.
        0x00 base: u32,
        /// Reserved.
        0x04 reserved: u32,
    }
}

layout! {
    /// Request of `create_qp`. The receive ring comes first in the buffer, unless it is absent; the
    /// send ring follows as in `CreateQp`. An XRC target has no buffer: all fields are zero.
    CreateQpRequest [24] {
        /// Virtual address of the rings, a multiple of 4096.
        0x00 buffer: u64,
        /// Basic blocks of the send queue as a power of two.
        0x08 log_send_blocks: u8,
        /// Entries of the receive queue as a power of two.
        0x09 log_receive_entries: u8,
        /// Data segments of a receive queue entry as a power of two.
        0x0a log_receive_segments: u8,
        /// Reserved.
        0x0b reserved: [u8; 5],
        /// Reserved.
        0x10 reserved1: u64,
    }
}

layout! {
    /// Answer of `create_qp`.
    QpAnswer [40] {
        /// Number of the queue pair.
        0x00 qp: u32,
        /// Doorbell slot of the send queue.
        0x04 send_slot: u32,
        /// Doorbell slot of the receive queue; 0 if it has none.
        0x08 receive_slot: u32,
        /// Reserved.
        0x0c reserved: u32,
        /// The page of both slots.
        0x10 page: PageAnswer,
    }
}

layout! {
    /// Request of `create_srq`.
    CreateSrqRequest [24] {
        /// Virtual address of the ring, a multiple of 4096.
        0x00 buffer: u64,
        /// Entries as a power of two.
        0x08 log_entries: u8,
        /// Data segments of an entry as a power of two.
        0x09 log_segments: u8,
        /// Reserved.
        0x0a reserved: [u8; 6],
        /// Reserved.
        0x10 reserved1: u64,
    }
}

layout! {
    /// Answer of `create_srq`.
    SrqAnswer [32] {
        /// Number of the shared receive queue.
        0x00 srq: u32,
        /// Its doorbell slot.
        0x04 slot: u32,
        /// The page of the slot.
        0x08 page: PageAnswer,
    }
}

layout! {
    /// Answer of `create_ah`. Datagrams name their way in the work request, so that a handle costs
    /// the device nothing.
    AhAnswer [48] {
        /// Where the handle leads.
        0x00 vector: AddressVector,
    }
}
