//! Completion queue entries.
//!
//! A completion queue is a ring of 64-byte entries. The device writes an entry's last 8 bytes after
//! the others; bit 0 of [`CompletionEntry::owner`] is 1 in the first pass over the ring, 0 in the
//! second, and so on, so that an entry is valid when the bit differs from the one of the pass
//! before. The driver hands the ring over filled with zeros.

layout! {
    /// One completion.
    CompletionEntry [64] {
        /// Queue pair number of the work queue.
        0x00 qpn: u32,
        /// Send queue: index of the request's first basic block. Receive queue: index of the entry.
        /// The low 32 bits of the producer counter in both cases.
        0x04 wqe_index: u32,
        /// Bytes received, or read for READ and atomic operations.
        0x08 byte_length: u32,
        /// Immediate data in the byte order of the wire, or the invalidated key.
        0x0c immediate: u32,
        /// Datagrams: source queue pair number.
        0x10 source_qpn: u32,
        /// Shared receive queue number, if one was used.
        0x14 srqn: u32,
        /// Vendor detail of an error: where it was found, see `CompletionStatus`.
        0x18 syndrome: u32,
        /// Datagrams: P_Key index (31:16). Datagrams and raw packets: VLAN tag (15:0), or 0.
        0x1c vlan: u32,
        /// Time of the completion in nanoseconds of the device's clock.
        0x20 timestamp: u64,
        /// Datagrams: Ethernet address of the sender.
        0x28 source_mac: [u8; 6],
        /// Reserved.
        0x2e reserved: [u8; 2],
        /// Raw packets: hash of addresses and ports, which the filter flag SPREAD uses.
        0x30 hash: u32,
        /// Reserved.
        0x34 reserved2: u32,
        /// A `CompletionOpcode`.
        0x38 opcode: u8,
        /// A `CompletionStatus`.
        0x39 status: u8,
        /// `CompletionFlags`.
        0x3a flags: u8,
        /// Reserved.
        0x3b reserved1: [u8; 4],
        /// Bit 0: the owner bit.
        0x3f owner: u8,
    }
}

codes! {
    /// What completed.
    CompletionOpcode: u8 {
        /// A send work request; the driver knows which by its index.
        Request = 0,
        /// A received SEND.
        Receive = 1,
        /// A received SEND with immediate data.
        ReceiveImmediate = 2,
        /// A received SEND with invalidate.
        ReceiveInvalidate = 3,
        /// A received RDMA WRITE with immediate data.
        ReceiveWriteImmediate = 4,
        /// A received Ethernet frame.
        ReceiveFrame = 5,
    }
}

codes! {
    /// Result of a work request, InfiniBand Architecture volume 1, 10.8.5.
    CompletionStatus: u8 {
        /// Done.
        Success = 0,
        /// The message is longer than the receive buffers, or than a message may be.
        LocalLength = 1,
        /// The request is malformed or does not fit the queue pair.
        LocalQpOperation = 2,
        /// A local key does not allow the access.
        LocalProtection = 3,
        /// The queue pair entered the error state before the request was carried out.
        Flushed = 4,
        /// A memory window could not be bound.
        MemoryWindowBind = 5,
        /// A response from the peer was not what the protocol allows.
        BadResponse = 6,
        /// The peer wrote to memory that it may not write to.
        LocalAccess = 7,
        /// The peer rejected the request as invalid.
        RemoteInvalidRequest = 8,
        /// The peer's memory may not be accessed so.
        RemoteAccess = 9,
        /// The peer could not carry the request out.
        RemoteOperation = 10,
        /// No answer after the last retry.
        RetryExceeded = 11,
        /// The peer had no receive buffer after the last retry.
        RnrRetryExceeded = 12,
        /// The peer aborted the operation.
        RemoteAborted = 13,
        /// Something else went wrong; syndrome has details.
        General = 14,
    }
}

flags! {
    /// Flags of a completion.
    CompletionFlags: u8 {
        /// The sender asked for a solicited event.
        SOLICITED = 0,
        /// The first 40 bytes of the receive buffer hold a global routing header.
        GRH = 1,
        /// Raw packets: the checksum of the TCP or UDP header is correct.
        CHECKSUM_TRANSPORT = 2,
        /// The completion belongs to the send queue.
        SEND_QUEUE = 3,
        /// Raw packets: the checksum of the IPv4 header is correct.
        CHECKSUM_IP = 4,
        /// The VLAN tag was removed from the frame, or stood before the datagram's headers.
        VLAN = 5,
        /// The packet came over IPv4.
        IPV4 = 6,
        /// Raw packets: `hash` is over ports too, not over addresses alone.
        HASH_PORTS = 7,
    }
}
