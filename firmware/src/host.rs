//! What the firmware needs of the hardware around it.
//!
//! [`Host`] is one function's surroundings: its guest memory, doorbell pages, interrupt vectors and
//! registers. [`Wire`] is the port's transmit side; received frames are handed to
//! [`crate::nic`]. The device implements both over vfio-user and links, tests over
//! plain memory and a simulated wire.

use vrnic_abi::doorbell::PAGES;

use crate::nic::FunctionId;
use crate::types::Chunk;

/// Guest memory could not be reached: an address is not mapped, or not for this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaError {
    /// The first address that could not be reached.
    pub address: u64,
}

/// A function's view of guest memory: DMA addresses, translated by what the client has mapped.
///
/// Guest memory changes under our hands: everything is copied once, and the copy is validated.
pub trait Memory {
    /// Copies guest memory into `buffer`.
    ///
    /// # Errors
    /// If any byte cannot be read; `buffer` is then unspecified.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), DmaError>;

    /// Copies `data` into guest memory.
    ///
    /// # Errors
    /// If any byte cannot be written; bytes before it may have been.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError>;

    /// Copies `data` into guest memory so that another processor that sees the last 8 bytes also
    /// sees all bytes before them, and all earlier writes. `address` and the length are multiples
    /// of 8.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn write_publish(&self, address: u64, data: &[u8]) -> Result<(), DmaError>;

    /// Copies `length` bytes directly into the memory of `other`.
    ///
    /// # Errors
    /// [`CopyError`] says whose memory could not be reached.
    fn copy_to(&self, from: u64, other: &Self, to: u64, length: usize) -> Result<(), CopyError>;

    /// Adds to the naturally aligned 64-bit number at `address`, atomically towards processors, and
    /// returns what it was.
    ///
    /// # Errors
    /// If it cannot be written, or is misaligned.
    fn fetch_add(&self, address: u64, value: u64) -> Result<u64, DmaError>;

    /// Stores `swap` into the naturally aligned 64-bit number at `address` if it equals `compare`,
    /// atomically towards processors, and returns what it was.
    ///
    /// # Errors
    /// If it cannot be written, or is misaligned.
    fn compare_swap(&self, address: u64, compare: u64, swap: u64) -> Result<u64, DmaError>;
}

/// Whose memory a direct copy could not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyError {
    /// The memory that was read.
    Source(DmaError),
    /// The memory that was written.
    Target(DmaError),
}

/// One function's surroundings.
pub trait Host {
    /// Guest memory.
    type Memory: Memory;

    /// The function's view of guest memory.
    fn memory(&self) -> &Self::Memory;

    /// The value of a doorbell slot, with acquire ordering: descriptors stored before it are seen.
    /// Pages and slots that do not exist read as 0.
    fn doorbell(&self, page: u32, slot: u32) -> u64;

    /// The dirty marks of a doorbell page (bit g for group g), which are cleared, with a full
    /// barrier between clearing a mark and later calls of [`Self::doorbell`].
    fn take_marks(&self, page: u32) -> u64;

    /// Fills a doorbell page with zeros, apart from the engine's state.
    fn clear_doorbells(&self, page: u32);

    /// Fills all doorbell pages with zeros. That the engine sleeps is said anew before it does.
    fn clear_all_doorbells(&self) {
        for page in 0..PAGES {
            self.clear_doorbells(page);
        }
    }

    /// Zeros one slot of a doorbell page: the queue that it is given to starts at 0.
    fn clear_slot(&self, page: u32, slot: u32);

    /// Publishes in a doorbell page whether the engine sleeps.
    fn set_asleep(&self, page: u32, asleep: bool);

    /// A full memory barrier: between [`Self::set_asleep`] and the last look at the marks.
    fn barrier(&self);

    /// Raises an MSI-X vector. Vectors that do not exist are ignored.
    fn raise(&self, vector: u16);

    /// Gives the function `vectors` MSI-X vectors for whoever uses it next; `false`, and nothing
    /// changes, if somebody does now who has seen how many there are.
    fn set_vectors(&self, vectors: u16) -> bool;

    /// Publishes the value that a register has from now on. Read-write registers are kept by the
    /// host as the guest writes them, and published here only with their initial values.
    fn set_register(&self, offset: u32, value: u32);

    /// Tells an observer what happens; costs nothing when nobody listens.
    #[inline]
    fn trace(&self, event: &TraceEvent<'_>) {
        let _ = event;
    }
}

/// Something that a driver writer would want to see.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum TraceEvent<'a> {
    /// A register was written.
    RegisterWrite {
        /// Offset in BAR0.
        offset: u32,
        /// Value.
        value: u32,
    },
    /// An admin command was fetched.
    Command(&'a [u8]),
    /// An admin command was completed.
    CommandDone(&'a [u8]),
    /// A doorbell was seen.
    Doorbell {
        /// Doorbell page.
        page: u32,
        /// Slot in the page.
        slot: u32,
        /// Value.
        value: u64,
    },
    /// A work queue entry was fetched.
    WorkRequest {
        /// Queue pair.
        qpn: u32,
        /// The entry.
        entry: &'a [u8],
    },
    /// Guest memory was read for a message.
    DmaRead(&'a [Chunk]),
    /// Guest memory was written for a message.
    DmaWrite(&'a [Chunk]),
    /// A packet was sent.
    PacketSent(&'a crate::pdu::Pdu),
    /// A packet was received for a queue pair.
    PacketReceived(&'a crate::pdu::Pdu),
    /// An Ethernet frame of a raw packet queue was sent.
    FrameSent {
        /// Length in bytes as the guest gave it.
        length: u32,
    },
    /// An Ethernet frame was received for a raw packet queue.
    FrameReceived {
        /// Queue pair.
        qpn: u32,
        /// The frame as it came.
        frame: &'a [u8],
    },
    /// A completion was written.
    Completion {
        /// Completion queue.
        cqn: u32,
        /// The entry.
        entry: &'a [u8],
    },
    /// An event was written.
    Event {
        /// Event queue.
        eqn: u32,
        /// The entry.
        entry: &'a [u8],
    },
    /// An interrupt was raised.
    Interrupt {
        /// MSI-X vector.
        vector: u16,
    },
    /// A queue pair changed its state.
    StateChange {
        /// Queue pair.
        qpn: u32,
        /// From.
        from: crate::types::State,
        /// To.
        to: crate::types::State,
    },
}

/// The transmit side of the port.
///
/// Frames are Ethernet frames without the frame check sequence.
pub trait Wire {
    /// Room for a frame of `length` bytes, with unspecified contents, or `None` if there is none
    /// now: the caller tries again in a later step.
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]>;

    /// Sends the frame built in the room last reserved.
    fn commit(&mut self, length: usize);

    /// Shows a frame between two functions of the NIC, which does not leave it, to whoever captures.
    fn looped(&mut self, frame: &[u8]) {
        let _ = frame;
    }

    /// Shows a frame that a mirrored function has sent or got ([`crate::nic::Nic::set_mirror`]), as
    /// it is in the network, to whoever captures.
    fn mirrored(&mut self, function: FunctionId, side: MirrorSide, frame: &[u8]) {
        let _ = (function, side, frame);
    }
}

/// What a mirrored function did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorSide {
    /// It sent it.
    Sent,
    /// It got it.
    Received,
}
