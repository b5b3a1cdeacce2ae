//! Event queue entries.
//!
//! An event queue is a ring of 32-byte entries with an owner bit as in [`crate::cqe`]. Completion
//! events and asynchronous events go to the event queue that the object, or for asynchronous events
//! the function, was given.

layout! {
    /// One event.
    EventEntry [32] {
        /// Number of the object: CQ, QP, SRQ, EQ or port.
        0x00 object: u32,
        /// Detail, by type.
        0x04 detail: u32,
        /// Time of the event in nanoseconds of the device's clock.
        0x08 timestamp: u64,
        /// Reserved.
        0x10 reserved: u64,
        /// An `EventType`.
        0x18 event: u8,
        /// Reserved.
        0x19 reserved1: [u8; 6],
        /// Bit 0: the owner bit.
        0x1f owner: u8,
    }
}

codes! {
    /// What happened; InfiniBand Architecture volume 1, 11.6.3 for the asynchronous events.
    EventType: u8 {
        /// An armed completion queue has a new entry.
        Completion = 0,
        /// The first request arrived at a queue pair in RTR, which stays in it.
        CommunicationEstablished = 1,
        /// The send queue of a queue pair in SQD has drained.
        SendQueueDrained = 2,
        /// Path migration succeeded.
        PathMigrated = 3,
        /// Path migration failed.
        PathMigrationFailed = 4,
        /// A queue pair failed; its work requests are flushed.
        QpFatal = 5,
        /// The peer sent a request that a queue pair must reject.
        QpRequestError = 6,
        /// The peer tried to access memory that it may not access.
        QpAccessError = 7,
        /// A completion queue overflowed or could not be written.
        CqError = 8,
        /// A shared receive queue fell below its limit.
        SrqLimit = 9,
        /// A shared receive queue failed.
        SrqError = 10,
        /// The last work request of a queue pair with a shared receive queue was consumed.
        LastWqeReached = 11,
        /// The port came up.
        PortUp = 12,
        /// The port went down.
        PortDown = 13,
        /// The GID table changed.
        GidChange = 14,
        /// The function failed; see the register HEALTH_CODE.
        DeviceFatal = 15,
    }
}
