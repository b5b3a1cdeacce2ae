//! Admin commands and their completions.
//!
//! The admin queue is a pair of rings in guest memory with the same number of entries: commands of
//! 64 bytes, completions of 32. A command names itself with an identifier that its completion
//! repeats; commands can complete in another order than they were given. The driver keeps at most
//! as many commands outstanding as the ring has entries.
//!
//! Every command starts with a [`CommandHeader`]. A command either takes effect and completes with
//! [`Status::Success`], or changes nothing and completes with another status.

use crate::object::AddressVector;

layout! {
    /// Start of every command.
    CommandHeader [8] {
        /// An `AdminOpcode`.
        0x00 opcode: u16,
        /// Chosen by the driver, repeated in the completion.
        0x02 id: u16,
        /// Reserved.
        0x04 reserved: u32,
    }
}

layout! {
    /// A command as it stands in the ring: header and body.
    Command [64] {
        /// Header.
        0x00 header: CommandHeader,
        /// Body; its layout depends on the opcode.
        0x08 body: [u64; 7],
    }
}

layout! {
    /// Completion of a command. The last 8 bytes are written last; bit 0 of `owner` is 1 in the
    /// first pass over the ring, 0 in the second, and so on.
    Completion [32] {
        /// First result, by opcode.
        0x00 result0: u64,
        /// Second result, by opcode.
        0x08 result1: u64,
        /// Which argument was refused: its byte offset in the command, or 0x100 plus its byte offset
        /// in the structure that the command points to, or 0.
        0x10 syndrome: u32,
        /// Reserved.
        0x14 reserved: u32,
        /// Identifier of the command.
        0x18 id: u16,
        /// A `Status`.
        0x1a status: u16,
        /// Opcode of the command.
        0x1c opcode: u16,
        /// Reserved.
        0x1e reserved1: u8,
        /// Bit 0: the owner bit.
        0x1f owner: u8,
    }
}

layout! {
    /// A buffer in guest memory that holds a queue or a memory region's pages.
    Buffer [16] {
        /// DMA address: of the buffer itself if `list` is 0, else of an array of `pages` 64-bit
        /// DMA addresses, one for each page; a multiple of the page size, or of 8 for the array.
        0x00 address: u64,
        /// Number of pages.
        0x08 pages: u32,
        /// Page size as a power of two of bytes, 12 to 30.
        0x0c page_shift: u8,
        /// 0: the pages are contiguous in DMA addresses; 1: `address` is that of a list.
        0x0d list: u8,
        /// Reserved.
        0x0e reserved: u16,
    }
}

codes! {
    /// Commands.
    AdminOpcode: u16 {
        /// Does nothing. Body: none.
        Nop = 0x0000,
        /// Writes `DeviceAttributes`. Body: `OutputBuffer`.
        QueryDevice = 0x0001,
        /// Writes `PortAttributes`. Body: `OutputBuffer`.
        QueryPort = 0x0002,
        /// Changes the port. Body: `ModifyPort`.
        ModifyPort = 0x0003,
        /// Writes the counters, 64-bit each, in the order of `Counter`. Body: `OutputBuffer`.
        /// result0: how many were written.
        QueryCounters = 0x0004,
        /// Sets how the port deals with congestion. Body: `ConfigureCongestion`.
        ConfigureCongestion = 0x0005,
        /// Writes `CongestionAttributes`. Body: `OutputBuffer`.
        QueryCongestion = 0x0006,
        /// Sets or clears an entry of the GID table. Body: `SetGid`.
        SetGid = 0x0008,
        /// Writes a `GidEntry`. Body: `ObjectOutput`, the object is the index.
        QueryGid = 0x0009,
        /// Allocates a doorbell page. result0: its number.
        AllocDoorbellPage = 0x0010,
        /// Frees a doorbell page. Body: `ObjectReference`.
        FreeDoorbellPage = 0x0011,
        /// Allocates a protection domain. result0: its number.
        AllocPd = 0x0012,
        /// Frees a protection domain that has no objects. Body: `ObjectReference`.
        FreePd = 0x0013,
        /// Creates a memory region. Body: `CreateMr`. result0: its key (lkey and rkey).
        CreateMr = 0x0018,
        /// Destroys a memory region that no memory window is bound to. Body: `ObjectReference`, the
        /// object is the key. When it completes, no access through the key is in flight.
        DestroyMr = 0x0019,
        /// Writes `MrAttributes` of a memory region or window. Body: `ObjectOutput`, the object is
        /// the key.
        QueryMr = 0x001a,
        /// Allocates a memory window that is not bound. Body: `AllocMw`. result0: its key.
        AllocMw = 0x001b,
        /// Frees a memory window, bound or not. Body: `ObjectReference`, the object is the key. When
        /// it completes, no access through the key is in flight.
        FreeMw = 0x001c,
        /// Allocates a memory region without memory, for fast registration. Body: `AllocMr`.
        /// result0: its key.
        AllocMr = 0x001d,
        /// Makes a memory region of CreateMr, that no memory window is bound to, another one with
        /// the same key. Body: `ReregisterMr`. When it completes, no access to what the region was
        /// is in flight.
        ReregisterMr = 0x001e,
        /// Creates an event queue. Body: `CreateEq`. result0: its number; result1: its slot.
        CreateEq = 0x0020,
        /// Destroys an event queue that nothing refers to. Body: `ObjectReference`.
        DestroyEq = 0x0021,
        /// Names the event queue for asynchronous events of the function, or 0 for none, which no
        /// object has as its number. Busy while the present one holds such events back. Body:
        /// `ObjectReference`.
        SetAsyncEq = 0x0022,
        /// Writes `EqAttributes`. Body: `ObjectOutput`.
        QueryEq = 0x0023,
        /// Creates a completion queue. Body: `CreateCq`. result0: its number; result1: its slot.
        CreateCq = 0x0028,
        /// Destroys a completion queue that nothing refers to. Body: `ObjectReference`.
        DestroyCq = 0x0029,
        /// Moves a completion queue into another buffer. Body: `ResizeCq`. result0: the index of
        /// the first entry that stands in the new buffer.
        ResizeCq = 0x002a,
        /// Sets the moderation of a completion queue. Body: `ModifyCq`.
        ModifyCq = 0x002b,
        /// Writes `CqAttributes`. Body: `ObjectOutput`.
        QueryCq = 0x002c,
        /// Creates a shared receive queue. Body: `CreateSrq`. result0: its number (23:0); result1:
        /// its slot.
        CreateSrq = 0x0030,
        /// Destroys a shared receive queue that no queue pair was created with. Queue pairs that have an
        /// entry in use go to ERR. Body: `ObjectReference`. When it completes, no access to the buffers
        /// of its entries is in flight.
        DestroySrq = 0x0031,
        /// Arms the limit of a shared receive queue. Body: `ModifySrq`.
        ModifySrq = 0x0032,
        /// Writes `SrqAttributes`. Body: `ObjectOutput`.
        QuerySrq = 0x0033,
        /// Creates a queue pair in state RESET. Body: `CreateQp`. result0: its number (23:0);
        /// result1: slot of the send queue (15:0) and of the receive queue (31:16), 0 for a queue that
        /// does not exist.
        CreateQp = 0x0038,
        /// Destroys a queue pair. Body: `ObjectReference`. When it completes, no access of the
        /// queue pair to memory is in flight.
        DestroyQp = 0x0039,
        /// Changes attributes and state of a queue pair. Body: `ModifyQp`.
        ModifyQp = 0x003a,
        /// Writes `QpAttributes`. Body: `ObjectOutput`.
        QueryQp = 0x003b,
        /// Creates an address handle. Body: `CreateAh`. result0: its number, which is never 0.
        CreateAh = 0x0040,
        /// Destroys an address handle. Body: `ObjectReference`.
        DestroyAh = 0x0041,
        /// Attaches a datagram queue pair to a multicast group; once is enough. Body:
        /// `MulticastGroup`.
        AttachMulticast = 0x0042,
        /// Detaches a queue pair from a multicast group. Body: `MulticastGroup`.
        DetachMulticast = 0x0043,
        /// Writes `AhAttributes`. Body: `ObjectOutput`.
        QueryAh = 0x0044,
        /// Allocates an XRC domain. result0: its number.
        AllocXrcd = 0x0048,
        /// Frees an XRC domain that has no objects. Body: `ObjectReference`.
        FreeXrcd = 0x0049,
        /// Directs received Ethernet frames to a raw packet queue pair. Body: `SetFilter`. result0:
        /// number of the filter.
        SetFilter = 0x0050,
        /// Removes a filter. Body: `ObjectReference`.
        ClearFilter = 0x0051,
        /// Physical function: changes settings of a virtual function. Body: `ConfigureVf`.
        ConfigureVf = 0x0060,
        /// Physical function: writes `VfAttributes`. Body: `ObjectOutput`, the object is the number of
        /// the virtual function.
        QueryVf = 0x0061,
        /// Sets the quotas of a virtual function. Reserved for SRIOV.
        SetVfQuota = 0x0062,
    }
}

codes! {
    /// Results of commands.
    Status: u16 {
        /// Done.
        Success = 0x00,
        /// The opcode is unknown.
        BadOpcode = 0x01,
        /// The opcode is known, but the function lacks the capability.
        Unsupported = 0x02,
        /// An argument is out of range, misaligned, or contradicts another; syndrome says which.
        BadArgument = 0x03,
        /// A number does not name an object of the wanted kind; syndrome says which.
        NoSuchObject = 0x04,
        /// The object is in use by others.
        Busy = 0x05,
        /// The function's limit for objects of this kind is reached, or no slot is left in the
        /// doorbell page.
        NoResources = 0x06,
        /// The state transition is not allowed, or an attribute is missing or not allowed for it,
        /// or the object has failed.
        BadState = 0x07,
        /// DMA to or from a buffer of the command failed.
        DmaFailed = 0x08,
        /// An output buffer is too small; nothing was written.
        BufferTooSmall = 0x09,
        /// The function may not do this.
        NotPermitted = 0x0a,
    }
}

layout! {
    /// Body: one object.
    ObjectReference [8] {
        /// Number or key of the object.
        0x00 object: u32,
        /// Reserved.
        0x04 reserved: u32,
    }
}

layout! {
    /// Body: where to write a result.
    OutputBuffer [16] {
        /// DMA address, a multiple of 8.
        0x00 address: u64,
        /// Bytes that may be written.
        0x08 length: u32,
        /// Reserved.
        0x0c reserved: u32,
    }
}

layout! {
    /// Body: an object, and where to write its description.
    ObjectOutput [24] {
        /// Number or key of the object.
        0x00 object: u32,
        /// Reserved.
        0x04 reserved: u32,
        /// Where to write.
        0x08 output: OutputBuffer,
    }
}

layout! {
    /// Body of ModifyPort.
    ModifyPort [8] {
        /// Largest Ethernet payload in bytes, 576 to 9000.
        0x00 mtu: u32,
        /// Reserved.
        0x04 reserved: u32,
    }
}

layout! {
    /// Body of ConfigureCongestion; after reset, 0 for all.
    ConfigureCongestion [16] {
        /// `CongestionFlags`.
        0x00 flags: u32,
        /// Least time between two congestion notification packets of a queue pair in microseconds;
        /// 0 for the device's default.
        0x04 notification_interval: u16,
        /// Differentiated services code point of congestion notification packets, 0 to 63.
        0x06 notification_dscp: u8,
        /// Reserved.
        0x07 reserved: u8,
        /// Least rate of a queue pair in Mbit/s that the reaction goes down to; 0 for the device's
        /// default.
        0x08 minimum_rate: u32,
        /// Reserved.
        0x0c reserved1: u32,
    }
}

flags! {
    /// What a port does about congestion (RFC 3168; IBTA volume 1, annex A17.9).
    CongestionFlags: u32 {
        /// Packets of queue pairs are sent as ECN-capable.
        CAPABLE = 0,
        /// Packets that met congestion are answered with congestion notification packets.
        NOTIFY = 1,
        /// Queue pairs lower their rate when they are notified (DCQCN).
        REACT = 2,
    }
}

layout! {
    /// Body of SetGid.
    SetGid [40] {
        /// Index in the table.
        0x00 index: u32,
        /// A `GidType`.
        0x04 gid_type: u8,
        /// Reserved.
        0x05 reserved: u8,
        /// VLAN identifier, 1 to 4094, or 0 for none.
        0x06 vlan: u16,
        /// The GID in network byte order; an IPv4 address is `::ffff:a.b.c.d`.
        0x08 gid: [u8; 16],
        /// Ethernet address to send from; all zero for the port's.
        0x18 mac: [u8; 6],
        /// Reserved.
        0x1e reserved1: [u8; 2],
        /// Reserved.
        0x20 reserved2: u64,
    }
}

codes! {
    /// Kinds of GID table entries.
    GidType: u8 {
        /// The entry is free.
        Empty = 0,
        /// RoCEv2, IPv4 or IPv6 by the form of the GID.
        RoceV2 = 1,
    }
}

layout! {
    /// Body of CreateMr.
    CreateMr [56] {
        /// Protection domain.
        0x00 pd: u32,
        /// `AccessFlags`.
        0x04 access: u32,
        /// Virtual address of the region's first byte, as work requests name it.
        0x08 start: u64,
        /// Length in bytes.
        0x10 length: u64,
        /// The pages. The first byte lies in the first page at `start` modulo the page size.
        0x18 buffer: Buffer,
        /// Bits 7:0 of the key, the driver's to choose.
        0x28 variant: u8,
        /// Reserved.
        0x29 reserved: [u8; 7],
        /// Reserved.
        0x30 reserved1: u64,
    }
}

flags! {
    /// What a memory region or queue pair allows, InfiniBand Architecture volume 1, 10.6.3 and
    /// 11.2.4.2.
    AccessFlags: u32 {
        /// Local writes: receive buffers, READ and atomic results.
        LOCAL_WRITE = 0,
        /// RDMA WRITE by the peer; needs LOCAL_WRITE.
        REMOTE_WRITE = 1,
        /// RDMA READ by the peer.
        REMOTE_READ = 2,
        /// Atomic operations by the peer; needs LOCAL_WRITE.
        REMOTE_ATOMIC = 3,
        /// Memory windows may be bound to the region.
        WINDOW_BIND = 4,
        /// Addresses are offsets from the region's first byte.
        ZERO_BASED = 5,
        /// Writes may become visible in any order.
        RELAXED_ORDERING = 6,
        /// Flushes by the peer that make earlier writes visible to all.
        FLUSH_GLOBAL = 7,
        /// Flushes by the peer that make earlier writes persistent. No region of this device is.
        FLUSH_PERSISTENT = 8,
    }
}

layout! {
    /// Body of ReregisterMr.
    ReregisterMr [56] {
        /// Protection domain.
        0x00 pd: u32,
        /// `AccessFlags`.
        0x04 access: u32,
        /// Virtual address of the region's first byte, as work requests name it.
        0x08 start: u64,
        /// Length in bytes.
        0x10 length: u64,
        /// The pages. The first byte lies in the first page at `start` modulo the page size.
        0x18 buffer: Buffer,
        /// The region's key, which stays.
        0x28 key: u32,
        /// Reserved.
        0x2c reserved: u32,
        /// Reserved.
        0x30 reserved1: u64,
    }
}

layout! {
    /// Body of AllocMr.
    AllocMr [16] {
        /// Protection domain.
        0x00 pd: u32,
        /// Most pages of a registration, 1 to `max_fast_pages` in `DeviceAttributes`.
        0x04 max_pages: u32,
        /// Bits 7:0 of the first key, the driver's to choose.
        0x08 variant: u8,
        /// Reserved.
        0x09 reserved: [u8; 7],
    }
}

layout! {
    /// Body of AllocMw.
    AllocMw [16] {
        /// Protection domain.
        0x00 pd: u32,
        /// A `WindowType`.
        0x04 window_type: u8,
        /// Bits 7:0 of the first key, the driver's to choose.
        0x05 variant: u8,
        /// Reserved.
        0x06 reserved: [u8; 2],
        /// Reserved.
        0x08 reserved1: u64,
    }
}

codes! {
    /// Types of memory windows, InfiniBand Architecture volume 1, 10.6.7.2.
    WindowType: u8 {
        /// Bound to a protection domain.
        Type1 = 1,
        /// Type 2B: bound to a protection domain and a queue pair, and invalidated by requests.
        Type2 = 2,
    }
}

layout! {
    /// Body of CreateEq.
    CreateEq [32] {
        /// The ring: 2^log_entries entries of 32 bytes.
        0x00 buffer: Buffer,
        /// Doorbell page of the slot.
        0x10 doorbell_page: u32,
        /// Entries as a power of two, 4 to the limit in `DeviceAttributes`.
        0x14 log_entries: u8,
        /// Reserved.
        0x15 reserved: u8,
        /// MSI-X vector.
        0x16 vector: u16,
        /// Reserved.
        0x18 reserved1: u64,
    }
}

layout! {
    /// Body of CreateCq.
    CreateCq [40] {
        /// The ring: 2^log_entries entries of 64 bytes.
        0x00 buffer: Buffer,
        /// Doorbell page of the slot.
        0x10 doorbell_page: u32,
        /// Entries as a power of two, 2 to the limit in `DeviceAttributes`.
        0x14 log_entries: u8,
        /// Reserved.
        0x15 reserved: [u8; 3],
        /// Event queue.
        0x18 eq: u32,
        /// Moderation as in `ModifyCq`: time in microseconds.
        0x1c moderation_period: u16,
        /// Moderation as in `ModifyCq`: number of completions.
        0x1e moderation_count: u16,
        /// Reserved.
        0x20 reserved1: u64,
    }
}

layout! {
    /// Body of ResizeCq.
    ResizeCq [32] {
        /// Completion queue.
        0x00 cq: u32,
        /// Entries of the new ring as a power of two, 2 to the limit in `DeviceAttributes`.
        0x04 log_entries: u8,
        /// Reserved.
        0x05 reserved: [u8; 3],
        /// The new ring, filled with zeros.
        0x08 buffer: Buffer,
        /// Reserved.
        0x18 reserved1: u64,
    }
}

layout! {
    /// Body of ModifyCq. An armed queue notifies when `moderation_count` entries that count have
    /// been written since it was armed, or `moderation_period` after the first of them, whichever
    /// comes first. With 0 in either field, that condition is not waited for; with both 0, the
    /// queue notifies at once. Entries that wait when the queue is armed count as written then.
    /// Errors notify at once, and so do solicited entries that wait when the queue is armed.
    ModifyCq [16] {
        /// Completion queue.
        0x00 cq: u32,
        /// Time in microseconds.
        0x04 moderation_period: u16,
        /// Number of completions.
        0x06 moderation_count: u16,
        /// Reserved.
        0x08 reserved: u64,
    }
}

layout! {
    /// Body of CreateSrq.
    CreateSrq [56] {
        /// Protection domain, whose keys the receive requests use.
        0x00 pd: u32,
        /// Doorbell page of the slot.
        0x04 doorbell_page: u32,
        /// The ring: 2^log_entries entries of 2^log_segments data segments.
        0x08 buffer: Buffer,
        /// A `SrqType`.
        0x18 srq_type: u8,
        /// Entries as a power of two, 0 to the limit.
        0x19 log_entries: u8,
        /// Data segments in an entry as a power of two, 0 to 4.
        0x1a log_segments: u8,
        /// Reserved.
        0x1b reserved: u8,
        /// `QpFlags`; only PRIVILEGED has a meaning.
        0x1c flags: u32,
        /// XRC domain, with type `Xrc`; else 0.
        0x20 xrcd: u32,
        /// Completion queue, with type `Xrc`; else 0.
        0x24 cq: u32,
        /// Reserved.
        0x28 reserved1: [u64; 2],
    }
}

codes! {
    /// Types of shared receive queues.
    SrqType: u8 {
        /// For the queue pairs that name it when they are created.
        Basic = 0,
        /// For the requests of XRC target queue pairs that name it.
        Xrc = 1,
    }
}

layout! {
    /// Body of ModifySrq.
    ModifySrq [16] {
        /// Shared receive queue.
        0x00 srq: u32,
        /// When fewer entries than this are left, the event SrqLimit is reported once and the limit
        /// becomes 0; at once if that is so already. 0 for never; at most the number of entries.
        0x04 limit: u32,
        /// Reserved.
        0x08 reserved: u64,
    }
}

layout! {
    /// Body of CreateAh.
    CreateAh [56] {
        /// Protection domain: a handle serves queue pairs of its own.
        0x00 pd: u32,
        /// Reserved.
        0x04 reserved: u32,
        /// Where it leads.
        0x08 vector: AddressVector,
    }
}

layout! {
    /// Body of AttachMulticast and DetachMulticast.
    MulticastGroup [32] {
        /// Queue pair.
        0x00 qp: u32,
        /// VLAN identifier of the packets, or 0 for untagged ones.
        0x04 vlan: u16,
        /// Reserved.
        0x06 reserved: [u8; 2],
        /// Multicast GID in network byte order: an IPv6 multicast address, or an IPv4 one as
        /// `::ffff:a.b.c.d`.
        0x08 gid: [u8; 16],
        /// Reserved.
        0x18 reserved1: u64,
    }
}

layout! {
    /// Body of SetFilter.
    SetFilter [24] {
        /// Raw packet queue pair.
        0x00 qp: u32,
        /// A `FilterType`.
        0x04 filter_type: u8,
        /// `FilterFlags`.
        0x05 flags: u8,
        /// VLAN identifier, 0 for untagged frames; looked at with the flag VLAN.
        0x06 vlan: u16,
        /// Destination Ethernet address, for types that have one.
        0x08 mac: [u8; 6],
        /// Reserved.
        0x0e reserved: [u8; 2],
        /// Reserved.
        0x10 reserved1: u64,
    }
}

codes! {
    /// Which Ethernet frames a filter takes. RoCEv2 packets to addresses of the GID table are for
    /// the queue pairs that they name and are never filtered.
    FilterType: u8 {
        /// Frames to the address `mac`, unicast or multicast.
        Address = 0,
        /// Frames to the broadcast address.
        Broadcast = 1,
        /// Frames to all multicast addresses, the broadcast address included.
        AllMulticast = 2,
        /// All frames that reach the function's port: to its own addresses, to groups, and to unicast
        /// addresses that no function of the device has.
        Promiscuous = 3,
    }
}

flags! {
    /// Flags of a filter.
    FilterFlags: u8 {
        /// Takes only frames of the VLAN `vlan`. Otherwise the tag is not looked at.
        VLAN = 0,
        /// Filters that are alike, flags included, share the frames: a hash of addresses and
        /// ports chooses one of them. Without the flag each filter takes a copy.
        SPREAD = 1,
    }
}

layout! {
    /// Body of CreateQp.
    CreateQp [56] {
        /// Protection domain. XRC targets need none: with 0, keys that a packet names are looked up
        /// in the domain of the shared receive queue that it names.
        0x00 pd: u32,
        /// Completion queue of the send queue; 0 for XRC targets.
        0x04 send_cq: u32,
        /// Completion queue of the receive queue; 0 for XRC.
        0x08 receive_cq: u32,
        /// Shared receive queue of type `Basic`, for types `Rc`, `Uc` and `Ud`; or 0.
        0x0c srq: u32,
        /// Both rings: the receive queue from the buffer's first byte on, the send queue from the
        /// next multiple of 64 on. With a shared receive queue, and for XRC, there is no receive
        /// queue and the send queue comes first; for XRC targets there is no buffer at all, and all
        /// bytes here are 0.
        0x10 buffer: Buffer,
        /// Doorbell page of the slots; 0 for XRC targets, which have none.
        0x20 doorbell_page: u32,
        /// A `QpType`.
        0x24 qp_type: u8,
        /// Basic blocks of the send queue as a power of two, 0 to the limit; 0 for XRC targets.
        0x25 log_send_blocks: u8,
        /// Entries of the receive queue as a power of two, 0 to the limit; 0 without one.
        0x26 log_receive_entries: u8,
        /// Data segments in a receive entry as a power of two, 0 to 4; 0 without a receive queue.
        0x27 log_receive_segments: u8,
        /// `QpFlags`; none for XRC targets.
        0x28 flags: u32,
        /// XRC domain of XRC targets; else 0.
        0x2c xrcd: u32,
        /// Reserved.
        0x30 reserved: u64,
    }
}

codes! {
    /// Transport services.
    QpType: u8 {
        /// Reliable connected.
        Rc = 0,
        /// Unreliable connected.
        Uc = 1,
        /// Unreliable datagram.
        Ud = 2,
        /// The connection manager's datagrams, queue pair 1.
        Gsi = 3,
        /// Raw Ethernet frames.
        RawPacket = 4,
        /// Extended reliable connected, initiator.
        XrcInitiator = 5,
        /// Extended reliable connected, target.
        XrcTarget = 6,
    }
}

flags! {
    /// Flags of a queue pair at its creation.
    QpFlags: u32 {
        /// Every send work request writes a completion.
        SIGNAL_ALL = 0,
        /// The reserved local key and fast registration are allowed.
        PRIVILEGED = 1,
        /// Raw packets: the VLAN tag of received frames is removed and reported in the completion.
        STRIP_VLAN = 2,
    }
}

layout! {
    /// Body of ModifyQp.
    ModifyQp [24] {
        /// Queue pair.
        0x00 qp: u32,
        /// `QpMask`: which attributes to take; others are not looked at.
        0x04 mask: u32,
        /// DMA address of a `QpAttributes`, a multiple of 8.
        0x08 attributes: u64,
        /// Reserved.
        0x10 reserved: u64,
    }
}

layout! {
    /// Body of ConfigureVf. What `mask` does not name is not looked at, and stays.
    ConfigureVf [32] {
        /// Number of the virtual function, as its register FUNCTION has it.
        0x00 vf: u32,
        /// `VfSettings` to change.
        0x04 mask: u32,
        /// Ethernet address, a unicast one, from the virtual function's next reset on; all zero for
        /// the one that it has of itself.
        0x08 mac: [u8; 6],
        /// VLAN that the switch puts it into without its knowledge, 1 to 4094; 0 for none: it is in
        /// all of them and makes the tags itself.
        0x0e vlan: u16,
        /// Priority of its frames in that VLAN, 0 to 7; 0 without one.
        0x10 priority: u8,
        /// A `VfLink`.
        0x11 link: u8,
        /// Its share of the port where others want it too, 1 to 255.
        0x12 weight: u8,
        /// Reserved.
        0x13 reserved: u8,
        /// `VfFlags`: SPOOF_CHECK, TRUST and ENABLED, as far as `mask` names them.
        0x14 flags: u32,
        /// Most that it sends, in Mbit/s; 0 for no limit.
        0x18 max_rate: u32,
        /// Reserved.
        0x1c reserved1: u32,
    }
}

flags! {
    /// Settings of a virtual function.
    VfSettings: u32 {
        /// The Ethernet address.
        MAC = 0,
        /// VLAN and priority.
        VLAN = 1,
        /// Whether it sees a link.
        LINK = 2,
        /// The flag SPOOF_CHECK.
        SPOOF_CHECK = 3,
        /// The flag TRUST.
        TRUST = 4,
        /// The flag ENABLED.
        ENABLED = 5,
        /// The limit of what it sends.
        MAX_RATE = 6,
        /// Its share of the port.
        WEIGHT = 7,
    }
}

flags! {
    /// What is so of a virtual function.
    VfFlags: u32 {
        /// It sends from its own addresses and in its own VLANs only.
        SPOOF_CHECK = 0,
        /// It may take further addresses, and see what is not for it.
        TRUST = 1,
        /// It is in service.
        ENABLED = 2,
        /// Its Ethernet address has been chosen for it.
        MAC_ASSIGNED = 3,
        /// The operator of the device has set its rules: ConfigureVf is not permitted.
        FIXED = 4,
        /// It sees a link.
        LINK_UP = 5,
    }
}

codes! {
    /// Whether a virtual function sees a link.
    VfLink: u8 {
        /// As the port does.
        Auto = 0,
        /// Always.
        Enabled = 1,
        /// Never: nothing that it sends goes anywhere, and nothing reaches it.
        Disabled = 2,
    }
}
