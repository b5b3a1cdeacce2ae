//! What the test needs of an RNIC, in terms that both kinds have.
//!
//! An RNIC has one region of [`MEMORY`] bytes that the other end may access, one completion queue
//! for what it sends and one for what it receives, and a set of queue pairs that is made and
//! destroyed as a whole. Work requests are those of our driver's interface, which says what verbs
//! say.

use std::time::Instant;

use anyhow::Result;
use vrnic_driver::Operation;

use crate::step::Connection;
use crate::talk::{Identity, QpEnd};

/// Bytes of the region.
pub(crate) const MEMORY: usize = 12 << 20;
/// Requests of either kind that a queue pair takes.
pub(crate) const DEPTH: u32 = 64;
/// Most queue pairs at a time.
pub(crate) const MAX_QPS: u32 = 64;
/// Q_Key of all datagram queue pairs; not a controlled one (10.2.5).
pub(crate) const QKEY: u32 = 0x1a2b_3c4d;
/// READ and atomic requests in flight, as initiator and as responder.
pub(crate) const READS: u8 = 4;
/// RNR NAK timer code: 0.64 ms.
pub(crate) const RNR_TIMER: u8 = 12;

/// Local ack timeout code, 4.096 µs times 2 to this power. Without loss it must not strike because
/// an emulated guest is slow; with loss it should not take long, and still be longer than it takes
/// Soft-RoCE to send all that it was asked to before.
pub(crate) const fn timeout(connection: &Connection) -> u8 {
    if connection.lossy { 16 } else { 18 }
}

/// A part of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) length: u32,
}

/// A send work request, always signaled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) operation: Operation,
    pub(crate) place: Place,
}

/// A completion queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Send,
    Receive,
}

/// What a successful completion says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) id: u64,
    /// Of receive requests and of READ: bytes; with a datagram, also those of the global route
    /// header.
    pub(crate) length: u32,
    pub(crate) immediate: Option<u32>,
    /// The key that the message invalidated.
    pub(crate) invalidated: Option<u32>,
    /// An RDMA WRITE with immediate took the receive request.
    pub(crate) written: bool,
}

/// An RNIC.
pub(crate) trait Rnic {
    fn identity(&self) -> Identity;

    /// Makes queue pairs that can receive requests, and be posted to, once they are connected.
    fn create(&mut self, connection: &Connection) -> Result<Vec<QpEnd>>;

    /// Connects the queue pairs with those of the other end, each with its counterpart.
    fn connect(&mut self, connection: &Connection, peer: &Identity, ends: &[QpEnd]) -> Result<()>;

    /// Destroys the queue pairs.
    fn destroy(&mut self) -> Result<()>;

    /// Posts a request to the queue pair with that place in the set.
    fn post_send(&mut self, qp: usize, request: &Request) -> Result<()>;

    /// Posts a receive request.
    fn post_receive(&mut self, qp: usize, id: u64, place: Place) -> Result<()>;

    /// Binds a new memory window (type 2) to a part of the region, for the peer of that connected
    /// queue pair, and returns its key. Nothing else may be on the send queue.
    fn bind(&mut self, qp: usize, place: Place) -> Result<u32>;

    /// Frees all memory windows.
    fn free_windows(&mut self) -> Result<()>;

    /// Waits for a completion; `None` if there is none by `deadline`. One with an error is an
    /// error.
    fn wait(&mut self, queue: Queue, deadline: Instant) -> Result<Option<Completion>>;

    /// Copies into the region.
    fn write(&self, offset: usize, bytes: &[u8]);

    /// Copies out of the region.
    fn read(&self, offset: usize, bytes: &mut [u8]);
}
