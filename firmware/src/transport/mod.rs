//! Transport engines: the protocol of one queue pair at a time.
//!
//! A queue pair is driven from outside and never calls back later: doorbells and timers make the
//! NIC call it, and everything it needs during a call it gets from an [`Env`].
//!
//! Of the reliable connected service (IBTA volume 1, 9.7), `qp` holds the state machine and `modify`
//! its attributes; `requester` decides what to send and `response` what the peer's answers mean;
//! `responder` carries requests out and `answer` says how that went.
//!
//! Not here: headers, the ICRC, whether a packet comes from the right peer, and the formats that
//! guests see.

mod answer;
mod gather;
mod message;
mod modify;
mod qp;
mod requester;
mod responder;
mod response;
mod timer;

pub use modify::{AttributeSet, Attributes, Modify, ModifyError, Pkey};
pub use qp::{Qp, QpConfig};

use smallvec::SmallVec;
// The counters' names are the field's; a front end only decides how they are read.
use vrnic_abi::counter::Counter;

use crate::pdu::{AtomicOperation, Pdu, RemoteRange, SendTail};
use crate::types::{Access, AccessError, Chunk, Chunks, Gid, Mac, Outcome, Sge, Time};

/// What a queue pair needs while it is being called.
///
/// One value stands for one queue pair in one call: work queues, completion queues and protection
/// domain are those of that queue pair.
pub trait Env {
    /// The current time.
    fn now(&self) -> Time;

    /// The next send work request in the order of posting, or `None` if there is none. Each is
    /// handed out once; it stays in the queue until [`Self::complete_send`] is called for it.
    fn next_send(&mut self) -> Option<SendWork>;

    /// Consumes the next receive work request, or returns `None` if there is none.
    fn next_receive(&mut self) -> Option<ReceiveWork>;

    /// Ends the oldest send work request handed out that has not been ended. Called once for each,
    /// in order, whether or not it asks for a completion.
    fn complete_send(&mut self, work: &SendWork, outcome: Outcome, bytes: u32);

    /// Ends a receive work request.
    fn complete_receive(&mut self, completion: ReceiveCompletion);

    /// Reports an asynchronous event of the queue pair.
    fn event(&mut self, event: QpEvent);

    /// Checks that `access` to `length` bytes at virtual address `address` is allowed by the region
    /// that `key` names within the queue pair's protection domain, and appends the pieces of memory
    /// to `chunks`. A length of 0 needs no valid key.
    ///
    /// # Errors
    /// Why not; `chunks` is unchanged then.
    fn translate(
        &mut self,
        key: u32,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError>;

    /// Copies bytes of the payload of the PDU that is being handled, from its byte `offset` on, to
    /// `chunks` of the function's memory; the chunks say how many.
    ///
    /// # Errors
    /// If guest memory could not be reached, or the payload is shorter.
    fn place(&mut self, offset: u32, chunks: &[Chunk]) -> Result<(), TransferError>;

    /// Copies `data` to `chunks` of the function's memory (results of atomics).
    ///
    /// # Errors
    /// If guest memory could not be reached.
    fn store(&mut self, data: &[u8], chunks: &[Chunk]) -> Result<(), TransferError>;

    /// Executes an atomic operation on the function's memory and returns what was there.
    ///
    /// # Errors
    /// If guest memory could not be reached.
    fn atomic(&mut self, address: u64, operation: AtomicOperation) -> Result<u64, TransferError>;

    /// Sends a PDU along `path`. The payload is taken at once on the wire; on the direct path it is
    /// read when the PDU is handled, before anything else happens to the sender's memory.
    fn transmit(&mut self, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit;

    /// Most packets that a PDU along `path` may stand for: 1 on the wire, more on the direct path.
    fn burst(&self, path: &Path) -> u32;

    /// Adds to a counter.
    fn count(&mut self, counter: Counter, n: u64);

    /// Removes the memory region or window `rkey` (SEND with invalidate).
    ///
    /// # Errors
    /// If the key may not be invalidated by the peer.
    fn invalidate(&mut self, rkey: u32) -> Result<(), AccessError>;
}

/// What [`Qp::poll`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nothing can be sent until something happens.
    Idle,
    /// The budget is spent; there may be more to send.
    More,
    /// There is no room on the wire.
    Blocked,
}

/// A half of the queue pair failed: the request at fault has been told, the queue pair has to go to
/// the error state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken;

/// What [`Env::transmit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The PDU is on its way.
    Sent,
    /// There is no room now; nothing was sent. Try again when polled next.
    NoRoom,
    /// The payload could not be read from guest memory; nothing was sent.
    BadMemory,
}

/// Guest memory could not be reached while data was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// The function's own memory.
    Local,
    /// The sender's memory, on the direct path.
    Sender,
}

/// Where a PDU's payload comes from.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Bytes that the queue pair holds (inline data).
    Bytes(&'a [u8]),
    /// Pieces of the function's memory.
    Chunks(&'a [Chunk]),
}

/// Inline data of a work request.
pub type InlineData = SmallVec<[u8; 64]>;

/// Scatter/gather list of a work request.
pub type SgList = SmallVec<[Sge; 2]>;

/// A send work request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendWork {
    /// Chosen by the front end, repeated when the request ends.
    pub cookie: u64,
    /// What to do.
    pub operation: SendOperation,
    /// Local memory: source of data, or target of READ and atomic results.
    pub sges: SgList,
    /// Inline data, used instead of `sges` if not empty.
    pub inline: InlineData,
    /// The receiver's completion is to be solicited.
    pub solicited: bool,
    /// Starts after all earlier READ and atomic operations have completed.
    pub fence: bool,
    /// Writes a completion on success.
    pub signaled: bool,
}

/// Operations of a send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOperation {
    /// Completes without doing anything.
    Nop,
    /// SEND.
    Send(SendTail),
    /// RDMA WRITE.
    Write {
        /// Virtual address of the target.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// Immediate data in the byte order of the wire.
        immediate: Option<u32>,
    },
    /// RDMA READ.
    Read {
        /// Virtual address of the source.
        address: u64,
        /// Remote key.
        rkey: u32,
    },
    /// Atomic operation.
    Atomic {
        /// Virtual address.
        address: u64,
        /// Remote key.
        rkey: u32,
        /// What to do.
        operation: AtomicOperation,
    },
    /// The front end could not accept the request: it ends with this outcome in its turn.
    Invalid(Outcome),
}

/// A receive work request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveWork {
    /// Chosen by the front end, repeated when the request ends.
    pub cookie: u64,
    /// Buffers.
    pub sges: SgList,
    /// Set if the front end could not accept the request.
    pub invalid: Option<Outcome>,
}

/// The end of a receive work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCompletion {
    /// The request's cookie.
    pub cookie: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes received: SEND data placed, or the length of the WRITE with immediate data.
    pub bytes: u32,
    /// What was received.
    pub kind: ReceiveKind,
    /// Whether the completion is solicited.
    pub solicited: bool,
}

/// What a receive work request received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveKind {
    /// A SEND.
    Send(SendTail),
    /// An RDMA WRITE with immediate data, in the byte order of the wire.
    Write(u32),
}

/// Asynchronous events of a queue pair (IBTA volume 1, 11.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QpEvent {
    /// The first message arrived in RTR.
    CommunicationEstablished,
    /// The send queue has drained in SQD.
    SendQueueDrained,
    /// The queue pair failed.
    Fatal,
    /// The peer sent a request that must be rejected.
    RequestError,
    /// The peer tried to access memory that it may not access.
    AccessError,
}

/// Where a queue pair sends to, resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Source GID.
    pub source: Gid,
    /// Source Ethernet address.
    pub source_mac: Mac,
    /// Index of the source in the GID table.
    pub source_index: u16,
    /// VLAN identifier, or 0.
    pub vlan: u16,
    /// Destination GID.
    pub destination: Gid,
    /// Destination Ethernet address.
    pub destination_mac: Mac,
    /// UDP source port.
    pub udp_source: u16,
    /// Flow label as given, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: DSCP and ECN bits.
    pub traffic_class: u8,
    /// Service level.
    pub service_level: u8,
    /// Partition key.
    pub pkey: u16,
}

impl SendOperation {
    /// Remote range of `length` bytes, for operations that have one.
    #[must_use]
    pub const fn remote(&self, length: u32) -> Option<RemoteRange> {
        match *self {
            Self::Write { address, rkey, .. } | Self::Read { address, rkey } => Some(RemoteRange {
                address,
                rkey,
                length,
            }),
            _ => None,
        }
    }
}
