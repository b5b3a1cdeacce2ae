//! What a queue pair needs of the world while it is being called.
//!
//! One [`Env`] stands for one queue pair in one call: work queues, completion queues and protection
//! domain are those of that queue pair, time and the PDU at hand those of that call. The front end
//! implements it; here are only the questions and the shapes of the answers.

use super::{
    Congestion, DatagramTarget, Domain, LocalOperation, Offload, Part, Path, ReceiveCompletion,
    ReceiveWork, SendWork,
};
// The counters' names are the field's; a front end only decides how they are read.
use vrnic_abi::counter::Counter;

use crate::pdu::{AtomicOperation, Pdu, Service};
use crate::types::{Access, AccessError, Chunk, Chunks, Mtu, Outcome, Time};

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

    /// From now on [`Self::next_send`] returns only requests that have been posted by now, until
    /// [`Self::release_sends`].
    fn hold_sends(&mut self) {}

    /// Ends that.
    fn release_sends(&mut self) {}

    /// Consumes the next receive work request of the queue pair, or of the shared receive queue that
    /// it uses, or, with `srqn`, of the one that an XRC request names.
    ///
    /// # Errors
    /// Why there is none.
    fn next_receive(&mut self, srqn: Option<u32>) -> Result<ReceiveWork, NoReceive>;

    /// Whether receive work requests come from a shared receive queue.
    fn shares_receives(&self) -> bool;

    /// Ends the oldest send work request handed out that has not been ended. Called once for each,
    /// in order, whether or not it asks for a completion.
    fn complete_send(&mut self, work: &SendWork, outcome: Outcome, bytes: u32);

    /// Ends a receive work request.
    fn complete_receive(&mut self, completion: ReceiveCompletion);

    /// Reports an asynchronous event of the queue pair.
    fn event(&mut self, event: QpEvent);

    /// In whose name the queue pair itself accesses memory.
    fn domain(&self) -> Domain;

    /// What follows is done for a request of `service`. If that names a shared receive queue, and
    /// the queue pair has no protection domain of its own, it is done in that queue's.
    fn act_for(&mut self, service: Service) {
        let _ = service;
    }

    /// Checks that `access` to `length` bytes at virtual address `address` is allowed by the region
    /// or window that `key` names within `domain`, and appends the pieces of memory to `chunks`. A
    /// length of 0 needs no valid key.
    ///
    /// # Errors
    /// Why not; `chunks` is unchanged then.
    fn translate(
        &mut self,
        domain: Domain,
        key: u32,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError>;

    /// Checks that `key` allows `access` to something.
    ///
    /// # Errors
    /// Why not.
    fn check_key(&mut self, key: u32, access: Access) -> Result<(), AccessError>;

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

    /// Stores 8 bytes at an address that is a multiple of 8, so that nobody sees some of them.
    ///
    /// # Errors
    /// If guest memory could not be reached.
    fn atomic_write(&mut self, address: u64, value: [u8; 8]) -> Result<(), TransferError>;

    /// Makes earlier stores visible to all processors before later ones.
    fn fence(&mut self);

    /// Resolves the way of a datagram.
    ///
    /// # Errors
    /// How the work request ends if it leads nowhere.
    fn route(&mut self, target: &DatagramTarget) -> Result<Path, Outcome>;

    /// Longest Ethernet frame without frame check sequence that the port sends.
    fn max_frame(&self) -> u32;

    /// Largest datagram, and path MTU, that the port's frames have room for.
    fn port_mtu(&self) -> Mtu;

    /// The 40 bytes before the data of the datagram that is being handled: its IPv6 header, or its
    /// IPv4 header behind 20 zeros (IBTA volume 1, A17.4.5.2).
    fn route_header(&self) -> [u8; 40];

    /// Sends a PDU along `path`. The payload is taken at once on the wire; on the direct path it is
    /// read when the PDU is handled, before anything else happens to the sender's memory.
    fn transmit(&mut self, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit;

    /// Sends an Ethernet frame of `length` bytes.
    fn transmit_frame(&mut self, offload: Offload, length: u32, payload: Payload<'_>) -> Transmit;

    /// Reads the headers of a TCP segment, `length` bytes, and keeps them for
    /// [`Self::transmit_part`], in the place of those before.
    ///
    /// # Errors
    /// How the work request ends if they cannot be read, or are no such headers.
    fn keep_headers(&mut self, length: u16, headers: Payload<'_>) -> Result<(), Outcome>;

    /// Sends an Ethernet frame with a part of that segment's data behind its headers.
    fn transmit_part(&mut self, offload: Offload, part: &Part, payload: Payload<'_>) -> Transmit;

    /// Most packets of `mtu` that a PDU along `path` may stand for: 1 on the wire, more on the direct
    /// path.
    fn burst(&self, path: &Path, mtu: Mtu) -> u32;

    /// Whether the payload of a PDU along `path` is read only when that is handled, after this call.
    fn defers(&self, path: &Path) -> bool;

    /// A PDU was sent: takes it from what may be sent in this call, or all if that is enough.
    fn spend(&self, budget: &mut u32) {
        *budget -= 1;
    }

    /// What the port does about congestion.
    fn congestion(&self) -> &Congestion {
        &Congestion::OFF
    }

    /// Whether the packet that is being handled was marked on its way, as it met congestion.
    fn is_marked(&self) -> bool {
        false
    }

    /// Adds to a counter.
    fn count(&mut self, counter: Counter, n: u64);

    /// Invalidates the region or window `rkey` for the peer (SEND with invalidate).
    ///
    /// # Errors
    /// If the key may not be invalidated by the peer.
    fn invalidate(&mut self, rkey: u32) -> Result<(), AccessError>;

    /// Carries out an operation on the function's own keys.
    ///
    /// # Errors
    /// How the work request ends instead.
    fn local(&mut self, operation: &LocalOperation) -> Result<(), Outcome>;
}

/// Why there is no receive work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReceive {
    /// None is posted.
    Empty,
    /// There is no such shared receive queue.
    NoQueue,
    /// The shared receive queue has failed (IBTA volume 1, 10.2.9).
    Failed,
}

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
    /// The queue pair takes no more requests from its shared receive queue.
    LastWqeReached,
}
