//! What a queue pair sees while it is called: [`Env`] over guest memory and the port.

use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::wqe::RESERVED_LKEY;

use super::objects::Objects;
use super::ring::{ReceiveRing, SendRing};
use crate::host::{CopyError, Host, Memory, TraceEvent};
use crate::pdu::{AtomicOperation, Pdu, SendTail};
use crate::resource::{PageMap, append};
use crate::transport::{
    Env, Path, Payload, QpEvent, ReceiveCompletion, ReceiveKind, ReceiveWork, SendWork,
    TransferError, Transmit,
};
use crate::types::{Access, AccessError, Chunk, Chunks, Outcome, Time};

/// The work queues of a queue pair, and what else of it the front end keeps.
#[derive(Clone, Debug)]
pub struct WorkQueues {
    /// Queue pair number.
    pub qpn: u32,
    /// Protection domain.
    pub pd: u32,
    /// Completion queue of the send queue.
    pub send_cq: u32,
    /// Completion queue of the receive queue.
    pub receive_cq: u32,
    /// Every send work request writes a completion.
    pub signal_all: bool,
    /// The reserved local key is allowed.
    pub privileged: bool,
    /// The memory of both rings.
    pub pages: PageMap,
    /// Send queue.
    pub send: SendRing,
    /// Receive queue.
    pub receive: ReceiveRing,
}

/// The port as a queue pair sees it.
pub trait Port<M> {
    /// Sends a PDU whose payload lies in `memory`.
    fn transmit(&mut self, memory: &M, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit;

    /// Most packets that a PDU along `path` may stand for.
    fn burst(&self, path: &Path) -> u32;
}

/// A port for calls that send nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoPort;

impl<M> Port<M> for NoPort {
    fn transmit(&mut self, _: &M, _: &Path, _: &Pdu, _: Payload<'_>) -> Transmit {
        Transmit::NoRoom
    }

    fn burst(&self, _: &Path) -> u32 {
        1
    }
}

/// The payload of the PDU that is being handled.
#[derive(Clone, Copy, Debug)]
pub enum Incoming<'a, M> {
    /// Bytes of a frame, or inline data of the sender.
    Bytes(&'a [u8]),
    /// Pieces of the sender's memory.
    Memory(&'a M, &'a [Chunk]),
}

/// [`Env`] of one queue pair in one call.
pub struct QpEnv<'a, H: Host, P> {
    /// The current time.
    pub now: Time,
    /// The function's surroundings.
    pub host: &'a H,
    /// The function's objects.
    pub objects: &'a mut Objects,
    /// The queue pair's queues.
    pub queues: &'a mut WorkQueues,
    /// The port.
    pub port: &'a mut P,
    /// Payload of the PDU that is being handled.
    pub incoming: Incoming<'a, H::Memory>,
    /// Basic blocks of send work requests that the queue pair may have handed out.
    pub send_limit: u32,
}

impl<H: Host, P> core::fmt::Debug for QpEnv<'_, H, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("QpEnv")
            .field("now", &self.now)
            .field("qpn", &self.queues.qpn)
            .finish_non_exhaustive()
    }
}

impl<H: Host, P: Port<H::Memory>> Env for QpEnv<'_, H, P> {
    fn now(&self) -> Time {
        self.now
    }

    fn next_send(&mut self) -> Option<SendWork> {
        let queues = &mut *self.queues;
        if queues.send.handed_out() >= self.send_limit {
            return None;
        }
        let mut work = queues.send.next(self.host, &queues.pages, queues.qpn)?;
        work.signaled |= queues.signal_all;
        Some(work)
    }

    fn next_receive(&mut self) -> Option<ReceiveWork> {
        let queues = &mut *self.queues;
        let (work, valid) = queues.receive.next(self.host, &queues.pages);
        if !valid {
            self.objects.count(Counter::BadDoorbell, 1);
        }
        work
    }

    fn complete_send(&mut self, work: &SendWork, outcome: Outcome, bytes: u32) {
        let index = self.queues.send.end(work.cookie);
        if outcome == Outcome::Success && !work.signaled {
            return;
        }
        let entry = CompletionEntry {
            qpn: self.queues.qpn,
            wqe_index: index,
            byte_length: bytes,
            timestamp: self.now.0,
            opcode: CompletionOpcode::Request.raw(),
            status: status(outcome).raw(),
            flags: CompletionFlags::SEND_QUEUE.bits(),
            ..CompletionEntry::default()
        };
        let error = outcome != Outcome::Success;
        self.objects
            .complete(self.host, self.now, self.queues.send_cq, entry, error);
    }

    fn complete_receive(&mut self, completion: ReceiveCompletion) {
        let index = self.queues.receive.end(completion.cookie);
        let (opcode, immediate) = received(completion.kind);
        let mut flags = CompletionFlags::empty();
        flags.set(CompletionFlags::SOLICITED, completion.solicited);
        let entry = CompletionEntry {
            qpn: self.queues.qpn,
            wqe_index: index,
            byte_length: completion.bytes,
            immediate,
            timestamp: self.now.0,
            opcode: opcode.raw(),
            status: status(completion.outcome).raw(),
            flags: flags.bits(),
            ..CompletionEntry::default()
        };
        let counts = completion.solicited || completion.outcome != Outcome::Success;
        self.objects
            .complete(self.host, self.now, self.queues.receive_cq, entry, counts);
    }

    fn event(&mut self, event: QpEvent) {
        let event = match event {
            QpEvent::CommunicationEstablished => EventType::CommunicationEstablished,
            QpEvent::SendQueueDrained => EventType::SendQueueDrained,
            QpEvent::Fatal => EventType::QpFatal,
            QpEvent::RequestError => EventType::QpRequestError,
            QpEvent::AccessError => EventType::QpAccessError,
        };
        self.objects
            .asynchronous(self.host, self.now, event, self.queues.qpn);
    }

    #[inline]
    fn translate(
        &mut self,
        key: u32,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        if length == 0 {
            return Ok(());
        }
        if key == RESERVED_LKEY {
            return self.reserved_key(access, address, length, chunks);
        }
        self.objects
            .translate(self.queues.pd, key, access, address, length, chunks)
    }

    fn place(&mut self, offset: u32, chunks: &[Chunk]) -> Result<(), TransferError> {
        self.host.trace(&TraceEvent::DmaWrite(chunks));
        match self.incoming {
            Incoming::Bytes(bytes) => {
                let offset = usize::try_from(offset).map_err(|_| TransferError::Sender)?;
                let bytes = bytes.get(offset..).ok_or(TransferError::Sender)?;
                scatter(self.host.memory(), bytes, chunks)
            }
            Incoming::Memory(source, from) => {
                copy_chunks(source, from, offset, self.host.memory(), chunks)
            }
        }
    }

    fn store(&mut self, data: &[u8], chunks: &[Chunk]) -> Result<(), TransferError> {
        self.host.trace(&TraceEvent::DmaWrite(chunks));
        scatter(self.host.memory(), data, chunks)
    }

    fn atomic(&mut self, address: u64, operation: AtomicOperation) -> Result<u64, TransferError> {
        let memory = self.host.memory();
        let result = match operation {
            AtomicOperation::CompareSwap { compare, swap } => {
                memory.compare_swap(address, compare, swap)
            }
            AtomicOperation::FetchAdd(value) => memory.fetch_add(address, value),
        };
        result.map_err(|_| TransferError::Local)
    }

    fn transmit(&mut self, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit {
        if let Payload::Chunks(chunks) = payload {
            self.host.trace(&TraceEvent::DmaRead(chunks));
        }
        let sent = self.port.transmit(self.host.memory(), path, pdu, payload);
        if sent == Transmit::Sent {
            self.host.trace(&TraceEvent::PacketSent(pdu));
        }
        sent
    }

    fn burst(&self, path: &Path) -> u32 {
        self.port.burst(path)
    }

    fn count(&mut self, counter: Counter, n: u64) {
        self.objects.count(counter, n);
    }

    fn invalidate(&mut self, _rkey: u32) -> Result<(), AccessError> {
        // Regions are the driver's; only windows and fast-registered regions can be invalidated.
        Err(AccessError::Permission)
    }
}

impl<H: Host, P> QpEnv<'_, H, P> {
    fn reserved_key(
        &self,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        let local = Access::LOCAL_READ | Access::LOCAL_WRITE;
        if !self.queues.privileged || !local.contains(access) {
            return Err(AccessError::Key);
        }
        if address.checked_add(u64::from(length) - 1).is_none() {
            return Err(AccessError::Bounds);
        }
        append(chunks, Chunk { address, length });
        Ok(())
    }
}

/// Copies the first bytes of `data` to `chunks`, which say how many.
fn scatter<M: Memory>(memory: &M, data: &[u8], chunks: &[Chunk]) -> Result<(), TransferError> {
    let mut rest = data;
    for chunk in chunks {
        let length = usize::try_from(chunk.length).map_err(|_| TransferError::Sender)?;
        let (bytes, after) = rest.split_at_checked(length).ok_or(TransferError::Sender)?;
        memory
            .write(chunk.address, bytes)
            .map_err(|_| TransferError::Local)?;
        rest = after;
    }
    Ok(())
}

/// Copies what lies `offset` bytes into the chunks `from` of `source` to the chunks `to` of
/// `target`, which say how many bytes.
fn copy_chunks<M: Memory>(
    source: &M,
    from: &[Chunk],
    offset: u32,
    target: &M,
    to: &[Chunk],
) -> Result<(), TransferError> {
    let mut skip = offset;
    let mut pieces = from.iter().filter_map(|chunk| {
        let skipped = skip.min(chunk.length);
        skip -= skipped;
        (skipped < chunk.length).then(|| Chunk {
            address: chunk.address.wrapping_add(skipped.into()),
            length: chunk.length - skipped,
        })
    });
    let mut piece: Option<Chunk> = pieces.next();
    for chunk in to {
        let mut wanted = *chunk;
        while wanted.length > 0 {
            let mut available = piece.ok_or(TransferError::Sender)?;
            let length = wanted.length.min(available.length);
            let bytes = usize::try_from(length).map_err(|_| TransferError::Sender)?;
            source
                .copy_to(available.address, target, wanted.address, bytes)
                .map_err(|error| match error {
                    CopyError::Source(_) => TransferError::Sender,
                    CopyError::Target(_) => TransferError::Local,
                })?;
            advance(&mut wanted, length);
            advance(&mut available, length);
            piece = if available.length > 0 {
                Some(available)
            } else {
                pieces.next()
            };
        }
    }
    Ok(())
}

fn advance(chunk: &mut Chunk, length: u32) {
    chunk.address = chunk.address.wrapping_add(length.into());
    chunk.length = chunk.length.saturating_sub(length);
}

const fn received(kind: ReceiveKind) -> (CompletionOpcode, u32) {
    match kind {
        ReceiveKind::Send(SendTail::None) => (CompletionOpcode::Receive, 0),
        ReceiveKind::Send(SendTail::Immediate(data)) => (CompletionOpcode::ReceiveImmediate, data),
        ReceiveKind::Send(SendTail::Invalidate(key)) => (CompletionOpcode::ReceiveInvalidate, key),
        ReceiveKind::Write(data) => (CompletionOpcode::ReceiveWriteImmediate, data),
    }
}

const fn status(outcome: Outcome) -> CompletionStatus {
    match outcome {
        Outcome::Success => CompletionStatus::Success,
        Outcome::LocalLength => CompletionStatus::LocalLength,
        Outcome::LocalQpOperation => CompletionStatus::LocalQpOperation,
        Outcome::LocalProtection => CompletionStatus::LocalProtection,
        Outcome::Flushed => CompletionStatus::Flushed,
        Outcome::BadResponse => CompletionStatus::BadResponse,
        Outcome::LocalAccess => CompletionStatus::LocalAccess,
        Outcome::RemoteInvalidRequest => CompletionStatus::RemoteInvalidRequest,
        Outcome::RemoteAccess => CompletionStatus::RemoteAccess,
        Outcome::RemoteOperation => CompletionStatus::RemoteOperation,
        Outcome::RetryExceeded => CompletionStatus::RetryExceeded,
        Outcome::RnrRetryExceeded => CompletionStatus::RnrRetryExceeded,
    }
}
