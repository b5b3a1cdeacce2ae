//! What other threads hold of a connection: [`Deferred`] replies and
//! [`ClientHandle`], DMA through messages.
//!
//! Both send a note to the server's loop through a channel and wake the loop
//! with the embedder's `mio::Waker`; neither blocks, and neither keeps a
//! connection alive. Notes for a connection that has ended go nowhere; DMA
//! accesses among them fail with [`DmaError::Disconnected`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use rustix::io::Errno;

use crate::limits::{MAX_DMA_ACCESS, MAX_DMA_ACCESSES, MAX_DMA_BYTES};
use crate::wire::Command;
use crate::wire::dma::UnmapRequest;

/// One connection among all that a server ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId {
    pub(crate) slot: usize,
    pub(crate) generation: u64,
}

/// What other threads tell the loop.
#[derive(Debug)]
pub(crate) enum Note {
    Reply(ConnectionId, ReplyTo, Result<(), Errno>),
    Dma(ConnectionId, DmaAccess),
}

/// The sending side of the notes.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    sender: Sender<Note>,
    waker: Arc<mio::Waker>,
    // The loop is awake, or was told to wake, and looks at the notes later.
    expected: Arc<AtomicBool>,
}

/// The receiving side, in the loop.
#[derive(Debug)]
pub(crate) struct NoteBox {
    receiver: Receiver<Note>,
    expected: Arc<AtomicBool>,
}

pub(crate) fn notes(waker: Arc<mio::Waker>) -> (Notes, NoteBox) {
    let (sender, receiver) = mpsc::channel();
    let expected = Arc::new(AtomicBool::new(false));
    let notes = Notes {
        sender,
        waker,
        expected: Arc::clone(&expected),
    };
    (notes, NoteBox { receiver, expected })
}

impl Notes {
    /// Queues a note; gives it back if there is no loop any more.
    fn send(&self, note: Note) -> Result<(), Note> {
        self.sender.send(note).map_err(|error| error.0)?;
        // A flag that is already set was set before the loop's next look at
        // the notes, so that look finds this one.
        if !self.expected.swap(true, Ordering::AcqRel) {
            self.wake();
        }
        Ok(())
    }

    /// Makes the loop take another turn.
    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("the loop cannot be woken: {error}");
        }
    }
}

impl NoteBox {
    /// Says that the loop is awake and will look at the notes: no need to wake
    /// it.
    pub(crate) fn expect(&self) {
        self.expected.swap(true, Ordering::AcqRel);
    }

    /// Says that the loop will sleep unless it is woken, before its last look
    /// at the notes.
    pub(crate) fn rest(&self) {
        self.expected.swap(false, Ordering::AcqRel);
    }

    /// The next note.
    pub(crate) fn next(&self) -> Option<Note> {
        self.receiver.try_recv().ok()
    }
}

/// Where a deferred reply goes, and what it says on success.
#[derive(Debug)]
pub(crate) struct ReplyTo {
    pub(crate) id: u16,
    pub(crate) command: Command,
    pub(crate) no_reply: bool,
    /// The reply's body.
    pub(crate) echo: Option<UnmapRequest>,
}

/// A reply that the device gives when it is ready, from any thread.
///
/// Dropped without an answer it becomes the error `EIO`.
#[derive(Debug)]
pub struct Deferred {
    notes: Notes,
    connection: ConnectionId,
    to: Option<ReplyTo>,
}

impl Deferred {
    pub(crate) fn new(notes: Notes, connection: ConnectionId, to: ReplyTo) -> Self {
        Self {
            notes,
            connection,
            to: Some(to),
        }
    }

    /// Answers: success, or an errno.
    pub fn complete(mut self, result: Result<(), Errno>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<(), Errno>) {
        if let Some(to) = self.to.take() {
            // Without a loop there is no client either.
            let _ = self.notes.send(Note::Reply(self.connection, to, result));
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.send(Err(Errno::IO));
    }
}

/// Why a DMA access through messages failed. Parts of it may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// The client is gone.
    #[error("the client is disconnected")]
    Disconnected,
    /// The client refused.
    #[error("the client answered with {0}")]
    Refused(Errno),
    /// The access is larger than [`MAX_DMA_ACCESS`].
    #[error("the access is too large")]
    TooLarge,
    /// Too many accesses or bytes are waiting for the client.
    #[error("too many accesses are waiting for the client")]
    Busy,
    /// The client did not answer in time.
    #[error("the client did not answer in time")]
    TimedOut,
}

type Callback = Box<dyn FnOnce(Result<Vec<u8>, DmaError>) + Send>;

/// Calls a callback exactly once, at the latest when it is dropped.
pub(crate) struct Completion {
    callback: Option<Callback>,
    load: Arc<Load>,
    bytes: usize,
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Completion")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Completion {
    pub(crate) fn complete(mut self, result: Result<Vec<u8>, DmaError>) {
        self.call(result);
    }

    fn call(&mut self, result: Result<Vec<u8>, DmaError>) {
        if let Some(callback) = self.callback.take() {
            self.load.give_back(self.bytes);
            callback(result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.call(Err(DmaError::Disconnected));
    }
}

/// What waits for a client, to bound it.
#[derive(Debug, Default)]
struct Load {
    accesses: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    fn take(&self, bytes: usize) -> Result<(), DmaError> {
        let accesses = self.accesses.fetch_add(1, Ordering::Relaxed);
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if accesses >= MAX_DMA_ACCESSES || waiting.saturating_add(bytes) > MAX_DMA_BYTES {
            self.give_back(bytes);
            return Err(DmaError::Busy);
        }
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.accesses.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client's memory.
    Read,
    /// To the client's memory.
    Write,
}

/// An access to the client's memory. `data` is what to write, or as long as
/// what to read.
#[derive(Debug)]
pub(crate) struct DmaAccess {
    pub(crate) direction: Direction,
    pub(crate) iova: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) completion: Completion,
}

/// Reaches the memory of one client by `DMA_READ` and `DMA_WRITE` messages.
///
/// For memory that the client does not share. Accesses are cut into chunks of
/// the negotiated size and sent in order; several are in flight at once, and
/// they may complete out of order. The client checks the addresses.
///
/// A client may answer none of them while it waits for a region access or, in
/// QEMU's case, while anything holds its big lock: never wait for one in a
/// [`Device`](crate::Device) method.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    notes: Notes,
    connection: ConnectionId,
    load: Arc<Load>,
    attached: Arc<AtomicBool>,
}

impl ClientHandle {
    pub(crate) fn new(notes: Notes, connection: ConnectionId, attached: Arc<AtomicBool>) -> Self {
        Self {
            notes,
            connection,
            load: Arc::default(),
            attached,
        }
    }

    /// Whether the client is still there.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    /// Reads `length` bytes at `iova`. `done` is called exactly once, on the
    /// loop's thread or, when it fails at once, on this one.
    pub fn dma_read(
        &self,
        iova: u64,
        length: usize,
        done: impl FnOnce(Result<Vec<u8>, DmaError>) + Send + 'static,
    ) {
        self.submit(Direction::Read, iova, length, Vec::new(), Box::new(done));
    }

    /// Writes `data` at `iova`. `done` is called exactly once, on the loop's
    /// thread or, when it fails at once, on this one.
    pub fn dma_write(
        &self,
        iova: u64,
        data: Vec<u8>,
        done: impl FnOnce(Result<(), DmaError>) + Send + 'static,
    ) {
        let done = |result: Result<Vec<u8>, DmaError>| done(result.map(drop));
        self.submit(Direction::Write, iova, data.len(), data, Box::new(done));
    }

    /// Reads into `data` and waits for it. Deadlocks until `timeout` on the
    /// loop's thread.
    pub fn dma_read_wait(
        &self,
        iova: u64,
        data: &mut [u8],
        timeout: Duration,
    ) -> Result<(), DmaError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.dma_read(iova, data.len(), move |result| {
            let _ = sender.send(result);
        });
        let read = receiver
            .recv_timeout(timeout)
            .map_err(|_| DmaError::TimedOut)??;
        data.copy_from_slice(read.get(..data.len()).ok_or(DmaError::Disconnected)?);
        Ok(())
    }

    /// Writes `data` and waits for it. Deadlocks until `timeout` on the loop's
    /// thread. After [`DmaError::TimedOut`] it may still be written.
    pub fn dma_write_wait(
        &self,
        iova: u64,
        data: Vec<u8>,
        timeout: Duration,
    ) -> Result<(), DmaError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.dma_write(iova, data, move |result| {
            let _ = sender.send(result);
        });
        receiver
            .recv_timeout(timeout)
            .map_err(|_| DmaError::TimedOut)?
    }

    fn submit(
        &self,
        direction: Direction,
        iova: u64,
        length: usize,
        mut data: Vec<u8>,
        callback: Callback,
    ) {
        let last = (length as u64).saturating_sub(1);
        if length > MAX_DMA_ACCESS || iova.checked_add(last).is_none() {
            return callback(Err(DmaError::TooLarge));
        }
        if !self.is_attached() {
            return callback(Err(DmaError::Disconnected));
        }
        if let Err(busy) = self.load.take(length) {
            return callback(Err(busy));
        }
        data.resize(length, 0);
        let completion = Completion {
            callback: Some(callback),
            load: Arc::clone(&self.load),
            bytes: length,
        };
        let access = DmaAccess {
            direction,
            iova,
            data,
            completion,
        };
        // A note that comes back is dropped, which completes it.
        let _ = self.notes.send(Note::Dma(self.connection, access));
    }
}
