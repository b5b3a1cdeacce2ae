//! BAR0: the registers.
//!
//! All registers are 32 bits wide and are accessed with aligned 32-bit loads and stores. The
//! device also accepts other widths, as a client may split or merge accesses: bytes that belong
//! to no register read as zero, and a register is written when its most significant byte is.
//!
//! A 64-bit address is two registers; both are latched when [`DEVICE_CONTROL`] enables the
//! function.

/// Value of [`MAGIC`]: `VRNC` in ASCII, least significant byte first.
pub const MAGIC_VALUE: u32 = 0x434e_5256;
/// Value to write into [`RESET`].
pub const RESET_VALUE: u32 = 0x5445_5352;

registers! {
    /// Always reads as `0x434e5256`. A driver that reads all ones has lost the device.
    0x000 ro MAGIC;
    /// Version of this interface.
    0x004 ro INTERFACE_VERSION / interface_version {
        /// Major version; a driver refuses one that it does not know.
        MAJOR = 31:16;
        /// Minor version; larger ones only add.
        MINOR = 15:0;
    };
    /// Version of the firmware, for people.
    0x008 ro FIRMWARE_VERSION / firmware_version {
        /// Major.
        MAJOR = 31:24;
        /// Minor.
        MINOR = 23:16;
        /// Patch.
        PATCH = 15:0;
    };
    /// What the function can do, bits 31 to 0 of `Capabilities`.
    0x00c ro CAPABILITIES;
    /// What the function can do, bits 63 to 32 of `Capabilities`.
    0x010 ro CAPABILITIES_HIGH;
    /// Sizes a driver needs before it can send commands.
    0x014 ro LIMITS / limits {
        /// Number of doorbell pages in BAR2, whatever the function may have of them.
        DOORBELL_PAGES = 15:0;
        /// Largest admin queue, as a power of two of entries.
        ADMIN_QUEUE_LOG_MAX = 19:16;
    };
    /// Which function this is.
    0x018 ro FUNCTION / function {
        /// 0 is the physical function, n its nth virtual function.
        NUMBER = 15:0;
        /// Set for a virtual function.
        VIRTUAL = 16:16;
    };
    /// Enables the function.
    0x020 rw DEVICE_CONTROL / device_control {
        /// Writing 1 in state RESET latches the admin queue registers and starts the function.
        /// Writing 0 has no effect: a function stops by reset.
        ENABLE = 0:0;
    };
    /// State of the function.
    0x024 ro DEVICE_STATUS / device_status {
        /// A `DeviceState`.
        STATE = 3:0;
        /// Counts completed resets, modulo 256: changes when a requested reset is done.
        RESET_COUNT = 15:8;
    };
    /// Writing `0x54455352` resets the function, in any state: all objects are gone, all other
    /// registers hold their initial values, and no DMA or interrupt is in flight once
    /// [`DEVICE_STATUS`] has counted the reset. Other values are ignored.
    0x028 wo RESET;
    /// Address of the admin submission ring, bits 31 to 0; a multiple of 4096.
    0x030 rw ADMIN_SUBMISSION_BASE;
    /// Address of the admin submission ring, bits 63 to 32.
    0x034 rw ADMIN_SUBMISSION_BASE_HIGH;
    /// Address of the admin completion ring, bits 31 to 0; a multiple of 4096.
    0x038 rw ADMIN_COMPLETION_BASE;
    /// Address of the admin completion ring, bits 63 to 32.
    0x03c rw ADMIN_COMPLETION_BASE_HIGH;
    /// Shape of the admin queue.
    0x040 rw ADMIN_QUEUE / admin_queue {
        /// Entries in both rings, as a power of two, 1 up to the limit in `LIMITS`.
        LOG_ENTRIES = 3:0;
        /// MSI-X vector that announces admin completions.
        VECTOR = 15:4;
        /// Set if completions raise the vector.
        INTERRUPT = 16:16;
    };
    /// Announces commands: the number of entries ever put into the submission ring, modulo 2^16.
    0x044 wo ADMIN_DOORBELL;
    /// The number of entries ever taken from the completion ring, modulo 2^16. The device never
    /// has more completions outstanding than the ring holds, and raises the vector again if
    /// completions are waiting when this is written.
    0x048 wo ADMIN_COMPLETION_DOORBELL;
    /// Why the function is in state ERROR: a `HealthCode`, else 0.
    0x080 ro HEALTH_CODE;
    /// What the error happened to, for example a queue number.
    0x084 ro HEALTH_OBJECT;
    /// Address that the error happened at, bits 31 to 0.
    0x088 ro HEALTH_ADDRESS;
    /// Address that the error happened at, bits 63 to 32.
    0x08c ro HEALTH_ADDRESS_HIGH;
    /// Grows while the function is served: a driver that sees it stand still for seconds while it
    /// has work outstanding has lost the device.
    0x090 ro HEARTBEAT;
}

codes! {
    /// States of a function, in the register DEVICE_STATUS.
    DeviceState: u8 {
        /// After reset: only registers work.
        Reset = 0,
        /// The admin queue and all queues work.
        Ready = 1,
        /// A fatal error: nothing is processed until reset. HEALTH_CODE says why.
        Error = 2,
        /// A reset was requested and is under way.
        Resetting = 3,
    }
}

codes! {
    /// Causes of a fatal error of a function.
    HealthCode: u8 {
        /// The admin queue registers were not acceptable when the function was enabled.
        BadAdminQueue = 1,
        /// DMA to or from a ring of the admin queue failed.
        AdminDmaFailed = 2,
        /// The admin doorbell announced more commands than the ring holds.
        AdminRingOverrun = 3,
        /// DMA to an event queue failed.
        EventDmaFailed = 4,
        /// More asynchronous events were pending than the device keeps.
        EventsLost = 5,
        /// The device gave the function up after an internal error.
        Internal = 6,
        /// The operator has taken the function out of service. It can be reset, but fails with this
        /// code whenever a driver enables it, until the operator puts it back.
        Disabled = 7,
    }
}

flags! {
    /// Capability bits, in the registers CAPABILITIES and CAPABILITIES_HIGH. A bit that is not
    /// set means that commands and work requests of that kind are answered with an error.
    Capabilities: u64 {
        /// Reliable connected queue pairs.
        RC = 0,
        /// Unreliable connected queue pairs.
        UC = 1,
        /// Unreliable datagram queue pairs.
        UD = 2,
        /// Raw packet queue pairs.
        RAW_PACKET = 3,
        /// Extended reliable connected queue pairs.
        XRC = 4,
        /// Shared receive queues.
        SRQ = 5,
        /// Atomic operations.
        ATOMICS = 6,
        /// Memory windows of types 1 and 2.
        MEMORY_WINDOWS = 7,
        /// Fast registration and local invalidation by work requests.
        FAST_REGISTRATION = 8,
        /// The reserved local key for the kernel.
        RESERVED_LKEY = 9,
        /// Completion queues can be resized.
        CQ_RESIZE = 10,
        /// Completion events can be moderated.
        CQ_MODERATION = 11,
        /// The function has virtual functions that its driver administers.
        SRIOV = 12,
        /// Explicit congestion notification with rate control.
        ECN = 13,
        /// A special queue pair for the connection manager.
        GSI = 14,
        /// Atomic writes of 8 bytes.
        ATOMIC_WRITE = 15,
        /// Flush requests.
        FLUSH = 16,
        /// Multicast groups of datagram queue pairs.
        MULTICAST = 17,
        /// TCP segmentation by raw packet queue pairs.
        SEGMENTATION = 18,
    }
}
