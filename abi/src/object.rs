//! Structures that commands read from or write to buffers in guest memory.

layout! {
    /// Limits and identity of the function, written by QueryDevice.
    DeviceAttributes [256] {
        /// Globally unique identifier of the node, network byte order.
        0x00 node_guid: [u8; 8],
        /// `Capabilities`.
        0x08 capabilities: u64,
        /// Firmware version as in the register FIRMWARE_VERSION.
        0x10 firmware_version: u32,
        /// Number of ports.
        0x14 ports: u32,
        /// Most queue pairs.
        0x18 max_qp: u32,
        /// Most basic blocks of a send queue, as a power of two.
        0x1c log_max_send_blocks: u8,
        /// Most entries of a receive queue, as a power of two.
        0x1d log_max_receive_entries: u8,
        /// Most entries of a completion queue, as a power of two.
        0x1e log_max_cq_entries: u8,
        /// Most entries of an event queue, as a power of two.
        0x1f log_max_eq_entries: u8,
        /// Most data segments of a work request.
        0x20 max_sge: u32,
        /// Most bytes of inline data.
        0x24 max_inline: u32,
        /// Most completion queues.
        0x28 max_cq: u32,
        /// Most event queues.
        0x2c max_eq: u32,
        /// Most protection domains.
        0x30 max_pd: u32,
        /// Most memory regions.
        0x34 max_mr: u32,
        /// Largest memory region in bytes.
        0x38 max_mr_size: u64,
        /// Page sizes of memory regions: bit n set if 2^n bytes are supported.
        0x40 page_sizes: u64,
        /// Most pages in one region or queue.
        0x48 max_pages: u32,
        /// Most doorbell pages.
        0x4c max_doorbell_pages: u32,
        /// Most READ and atomic operations a queue pair answers at a time.
        0x50 max_responder_resources: u32,
        /// Most READ and atomic operations a queue pair has in flight.
        0x54 max_initiator_depth: u32,
        /// Most shared receive queues.
        0x58 max_srq: u32,
        /// Most address handles.
        0x5c max_ah: u32,
        /// Most memory windows.
        0x60 max_mw: u32,
        /// Most multicast groups.
        0x64 max_multicast_groups: u32,
        /// Largest message in bytes.
        0x68 max_message: u32,
        /// MSI-X vectors.
        0x6c vectors: u32,
        /// Time that the device needs to answer a request: 4.096 µs times 2 to this power.
        0x70 local_ack_delay: u8,
        /// Most entries of a shared receive queue, as a power of two.
        0x71 log_max_srq_entries: u8,
        /// Reserved.
        0x72 reserved: [u8; 2],
        /// Most pages of a fast registration.
        0x74 max_fast_pages: u32,
        /// Most XRC domains.
        0x78 max_xrcd: u32,
        /// Most filters of received frames.
        0x7c max_filters: u32,
        /// Most attachments of queue pairs to multicast groups, all groups together.
        0x80 max_multicast_attachments: u32,
        /// Physical function: the largest number of a virtual function, 0 if it has none.
        0x84 max_vf: u32,
        /// Reserved.
        0x88 reserved1: [u64; 15],
    }
}

layout! {
    /// The port, written by QueryPort.
    PortAttributes [128] {
        /// A `PortState`.
        0x00 state: u8,
        /// Largest path MTU, as a `PathMtu`.
        0x01 max_mtu: u8,
        /// Path MTU that the Ethernet MTU allows, as a `PathMtu`.
        0x02 active_mtu: u8,
        /// Reserved.
        0x03 reserved: u8,
        /// Entries of the GID table.
        0x04 gid_entries: u32,
        /// Speed in Mbit/s.
        0x08 speed: u32,
        /// Largest Ethernet payload in bytes.
        0x0c mtu: u32,
        /// Ethernet address.
        0x10 mac: [u8; 6],
        /// Entries of the P_Key table.
        0x16 pkey_entries: u16,
        /// Reserved.
        0x18 reserved1: [u64; 13],
    }
}

layout! {
    /// A virtual function, written by QueryVf. What it counts is what its own counters say, from its
    /// reset on.
    VfAttributes [128] {
        /// `VfFlags`.
        0x00 flags: u32,
        /// Most that it sends, in Mbit/s; 0 for no limit.
        0x04 max_rate: u32,
        /// Ethernet address that it has from its next reset on.
        0x08 mac: [u8; 6],
        /// VLAN that the switch puts it into, or 0.
        0x0e vlan: u16,
        /// Priority of its frames in that VLAN.
        0x10 priority: u8,
        /// A `VfLink`.
        0x11 link: u8,
        /// Its share of the port.
        0x12 weight: u8,
        /// A `DeviceState`.
        0x13 state: u8,
        /// Ethernet address that it has now.
        0x14 current_mac: [u8; 6],
        /// Reserved.
        0x1a reserved: [u8; 6],
        /// Packets and frames sent through the port.
        0x20 tx_packets: u64,
        /// Their bytes, to 4 for each.
        0x28 tx_bytes: u64,
        /// Dropped, as its rules do not allow them or it had no link.
        0x30 tx_dropped: u64,
        /// Packets and frames received through the port.
        0x38 rx_packets: u64,
        /// Their bytes, to 4 for each.
        0x40 rx_bytes: u64,
        /// Dropped, as its rules do not allow them, their source was forged, or it had no room.
        0x48 rx_dropped: u64,
        /// Received datagrams to multicast groups.
        0x50 rx_multicast: u64,
        /// Bytes sent directly to another function of the process.
        0x58 local_bytes: u64,
        /// Reserved.
        0x60 reserved1: [u64; 4],
    }
}

codes! {
    /// State of the port.
    PortState: u8 {
        /// No link.
        Down = 1,
        /// Link, traffic flows.
        Active = 4,
    }
}

codes! {
    /// Path MTU, InfiniBand Architecture volume 1, 9.4.3.
    PathMtu: u8 {
        /// 256 bytes.
        Mtu256 = 1,
        /// 512 bytes.
        Mtu512 = 2,
        /// 1024 bytes.
        Mtu1024 = 3,
        /// 2048 bytes.
        Mtu2048 = 4,
        /// 4096 bytes.
        Mtu4096 = 5,
    }
}

impl PathMtu {
    /// The MTU in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        128 << self.raw()
    }
}

layout! {
    /// How the port deals with congestion, written by QueryCongestion.
    CongestionAttributes [32] {
        /// `CongestionFlags`.
        0x00 flags: u32,
        /// Least time between two congestion notification packets of a queue pair in microseconds.
        0x04 notification_interval: u16,
        /// Differentiated services code point of congestion notification packets.
        0x06 notification_dscp: u8,
        /// Reserved.
        0x07 reserved: u8,
        /// Least rate of a queue pair in Mbit/s that the reaction goes down to.
        0x08 minimum_rate: u32,
        /// Reserved.
        0x0c reserved1: u32,
        /// Reserved.
        0x10 reserved2: [u64; 2],
    }
}

layout! {
    /// An entry of the GID table, written by QueryGid.
    GidEntry [32] {
        /// The GID in network byte order.
        0x00 gid: [u8; 16],
        /// Ethernet address to send from.
        0x10 mac: [u8; 6],
        /// VLAN identifier, or 0.
        0x16 vlan: u16,
        /// A `GidType`.
        0x18 gid_type: u8,
        /// Reserved.
        0x19 reserved: [u8; 7],
    }
}

layout! {
    /// A memory region, written by QueryMr.
    MrAttributes [48] {
        /// Its key.
        0x00 key: u32,
        /// Protection domain.
        0x04 pd: u32,
        /// Virtual address of the first byte.
        0x08 start: u64,
        /// Length in bytes.
        0x10 length: u64,
        /// `AccessFlags`.
        0x18 access: u32,
        /// Page size as a power of two of bytes.
        0x1c page_shift: u32,
        /// A `KeyType`.
        0x20 key_type: u8,
        /// 1 if the key gives access now: a region that is registered, a window that is bound.
        0x21 valid: u8,
        /// Reserved.
        0x22 reserved: [u8; 2],
        /// The region that the window is bound to, or 0.
        0x24 region: u32,
        /// The queue pair that a window of type 2 is bound to, or 0.
        0x28 qp: u32,
        /// Most pages of a region for fast registration, or 0.
        0x2c max_pages: u32,
    }
}

codes! {
    /// What a key names.
    KeyType: u8 {
        /// A region of CreateMr.
        Region = 0,
        /// A region of AllocMr.
        FastRegion = 1,
        /// A memory window of type 1.
        Window1 = 2,
        /// A memory window of type 2.
        Window2 = 3,
    }
}

layout! {
    /// A shared receive queue, written by QuerySrq.
    SrqAttributes [48] {
        /// Protection domain.
        0x00 pd: u32,
        /// Number of entries.
        0x04 entries: u32,
        /// Data segments in an entry.
        0x08 segments: u32,
        /// The limit, 0 if it is not armed.
        0x0c limit: u32,
        /// Entries ever posted as last seen, modulo 2^32.
        0x10 producer: u32,
        /// Entries ever taken, modulo 2^32.
        0x14 consumer: u32,
        /// A `SrqType`.
        0x18 srq_type: u8,
        /// 1 if the queue failed.
        0x19 failed: u8,
        /// Reserved.
        0x1a reserved: [u8; 2],
        /// XRC domain, or 0.
        0x1c xrcd: u32,
        /// Completion queue of an XRC queue, or 0.
        0x20 cq: u32,
        /// Queue pairs that were created with it.
        0x24 users: u32,
        /// Reserved.
        0x28 reserved1: u64,
    }
}

layout! {
    /// An address handle, written by QueryAh.
    AhAttributes [56] {
        /// Protection domain.
        0x00 pd: u32,
        /// Reserved.
        0x04 reserved: u32,
        /// Where it leads.
        0x08 vector: AddressVector,
    }
}

layout! {
    /// An event queue, written by QueryEq.
    EqAttributes [32] {
        /// Number of entries.
        0x00 entries: u32,
        /// Entries ever written, modulo 2^32.
        0x04 producer: u32,
        /// Entries ever consumed as last seen, modulo 2^32.
        0x08 consumer: u32,
        /// MSI-X vector.
        0x0c vector: u16,
        /// 1 if the queue waits to raise its vector.
        0x0e armed: u8,
        /// Reserved.
        0x0f reserved: u8,
        /// Events that wait for room.
        0x10 held: u32,
        /// Completion queues and roles that refer to it.
        0x14 users: u32,
        /// Reserved.
        0x18 reserved1: u64,
    }
}

layout! {
    /// A completion queue, written by QueryCq.
    CqAttributes [32] {
        /// Event queue.
        0x00 eq: u32,
        /// Number of entries.
        0x04 entries: u32,
        /// Entries ever written, modulo 2^32.
        0x08 producer: u32,
        /// Entries ever consumed as last seen, modulo 2^32.
        0x0c consumer: u32,
        /// 1 if the queue waits to notify.
        0x10 armed: u8,
        /// 1 if the queue failed.
        0x11 failed: u8,
        /// Moderation: time in microseconds.
        0x12 moderation_period: u16,
        /// Moderation: number of completions.
        0x14 moderation_count: u16,
        /// Reserved.
        0x16 reserved: [u8; 2],
        /// Index of the first entry in the ring's present buffer.
        0x18 base: u32,
        /// Reserved.
        0x1c reserved1: u32,
    }
}

codes! {
    /// States of a queue pair, InfiniBand Architecture volume 1, 10.3.1.
    QpState: u8 {
        /// Created or reset.
        Reset = 0,
        /// Receives can be posted.
        Init = 1,
        /// Ready to receive.
        Rtr = 2,
        /// Ready to send.
        Rts = 3,
        /// Send queue drained or draining.
        Sqd = 4,
        /// Send queue error.
        Sqe = 5,
        /// Error: all work requests are flushed.
        Error = 6,
    }
}

codes! {
    /// State of automatic path migration.
    MigrationState: u8 {
        /// Migrated.
        Migrated = 0,
        /// Rearm.
        Rearm = 1,
        /// Armed.
        Armed = 2,
    }
}

layout! {
    /// Where a queue pair or address handle sends to.
    AddressVector [48] {
        /// Destination GID in network byte order.
        0x00 gid: [u8; 16],
        /// Destination Ethernet address.
        0x10 mac: [u8; 6],
        /// Index of the source GID.
        0x16 sgid_index: u16,
        /// Flow label, 20 bits; 0 lets the device choose the UDP source port.
        0x18 flow_label: u32,
        /// Hop limit, or time to live; 0 is taken as 64.
        0x1c hop_limit: u8,
        /// Traffic class: differentiated services code point (7:2) and ECN bits (1:0).
        0x1d traffic_class: u8,
        /// Service level.
        0x1e service_level: u8,
        /// Reserved.
        0x1f reserved: u8,
        /// Reserved.
        0x20 reserved1: [u64; 2],
    }
}

layout! {
    /// Attributes of a queue pair, read by ModifyQp and written by QueryQp.
    QpAttributes [256] {
        /// A `QpState`: the one to go to, or the current one.
        0x00 state: u8,
        /// A `QpState` that the driver takes to be the current one (with CURRENT_STATE).
        0x01 current_state: u8,
        /// A `PathMtu`.
        0x02 path_mtu: u8,
        /// A `MigrationState`.
        0x03 migration_state: u8,
        /// Destination queue pair number, 24 bits.
        0x04 remote_qpn: u32,
        /// Packet sequence number of the first request to send, 24 bits.
        0x08 send_psn: u32,
        /// Packet sequence number of the first request expected, 24 bits.
        0x0c receive_psn: u32,
        /// Queue key of datagram queue pairs.
        0x10 qkey: u32,
        /// `AccessFlags` for remote operations.
        0x14 access: u32,
        /// Index in the P_Key table.
        0x18 pkey_index: u16,
        /// Port number, from 1.
        0x1a port: u8,
        /// READ and atomic operations in flight as initiator.
        0x1b initiator_depth: u8,
        /// READ and atomic operations answered at a time.
        0x1c responder_resources: u8,
        /// RNR NAK timer code to send, InfiniBand Architecture volume 1, table 45 (0 to 31).
        0x1d min_rnr_timer: u8,
        /// Local ack timeout: 4.096 µs times 2 to this power; 0 for none; at most 31.
        0x1e timeout: u8,
        /// Retries after timeouts and sequence errors, 0 to 7.
        0x1f retry_count: u8,
        /// Retries after RNR NAKs, 0 to 7; 7 is without limit.
        0x20 rnr_retry: u8,
        /// 1 while the send queue is draining (query).
        0x21 sq_draining: u8,
        /// 1 to report SendQueueDrained (with EN_SQD_ASYNC_NOTIFY).
        0x22 sqd_notify: u8,
        /// Reserved.
        0x23 reserved: u8,
        /// Limit of the send rate in Mbit/s; 0 for none.
        0x24 rate_limit: u32,
        /// Primary path.
        0x28 primary: AddressVector,
        /// Alternate path.
        0x58 alternate: AddressVector,
        /// Send queue: basic blocks ever posted as last seen, modulo 2^32 (query).
        0x88 send_producer: u32,
        /// Send queue: basic blocks ever completed, modulo 2^32 (query).
        0x8c send_consumer: u32,
        /// Receive queue: entries ever consumed, modulo 2^32 (query).
        0x90 receive_consumer: u32,
        /// A `QpType` (query).
        0x94 qp_type: u32,
        /// Protection domain (query).
        0x98 pd: u32,
        /// Completion queue of the send queue (query).
        0x9c send_cq: u32,
        /// Completion queue of the receive queue (query).
        0xa0 receive_cq: u32,
        /// Shared receive queue, or 0 (query).
        0xa4 srq: u32,
        /// XRC domain, or 0 (query).
        0xa8 xrcd: u32,
        /// Send rate that congestion control allows now in Mbit/s; 0 if it does not limit (query).
        0xac current_rate: u32,
        /// Reserved.
        0xb0 reserved2: [u64; 10],
    }
}

flags! {
    /// Attributes of a queue pair that ModifyQp takes, InfiniBand Architecture volume 1, 11.2.5.2.
    QpMask: u32 {
        /// `state`.
        STATE = 0,
        /// `current_state`.
        CURRENT_STATE = 1,
        /// `sqd_notify`.
        EN_SQD_ASYNC_NOTIFY = 2,
        /// `access`.
        ACCESS = 3,
        /// `pkey_index`.
        PKEY_INDEX = 4,
        /// `port`.
        PORT = 5,
        /// `qkey`.
        QKEY = 6,
        /// `primary`.
        PRIMARY_PATH = 7,
        /// `path_mtu`.
        PATH_MTU = 8,
        /// `timeout`.
        TIMEOUT = 9,
        /// `retry_count`.
        RETRY_COUNT = 10,
        /// `rnr_retry`.
        RNR_RETRY = 11,
        /// `receive_psn`.
        RECEIVE_PSN = 12,
        /// `initiator_depth`.
        INITIATOR_DEPTH = 13,
        /// `alternate`.
        ALTERNATE_PATH = 14,
        /// `min_rnr_timer`.
        MIN_RNR_TIMER = 15,
        /// `send_psn`.
        SEND_PSN = 16,
        /// `responder_resources`.
        RESPONDER_RESOURCES = 17,
        /// `migration_state`.
        MIGRATION_STATE = 18,
        /// `remote_qpn`.
        REMOTE_QPN = 19,
        /// `rate_limit`.
        RATE_LIMIT = 20,
    }
}
