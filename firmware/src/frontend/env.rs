//! What a queue pair sees while it is called: [`Env`] over guest memory and the port.

use alloc::boxed::Box;

use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::wqe::{MAX_SEGMENTED_HEADERS, RESERVED_LKEY};

use super::address::{resolve, udp_source};
use super::frame::FrameCopy;
use super::keys;
use super::objects::Objects;
use super::payload::{copy_chunks, copy_payload, scatter, scatter_pieces};
use super::ring::{ReceiveRing, SendRing};
use super::shared_receive::shared;
use crate::host::{Host, Memory, TraceEvent};
use crate::pdu::{AtomicOperation, Body, Pdu, SendTail, Service};
use crate::resource::{KeyUser, PageMap, WindowList, append};
use crate::transport::{
    Congestion, DatagramTarget, Domain, Env, Kind, LocalOperation, NoReceive, Offload, Part, Path,
    Payload, QpEvent, ReceiveCompletion, ReceiveKind, ReceiveWork, Route, SendWork, TransferError,
    Transmit,
};
use crate::types::{Access, AccessError, Chunk, Chunks, Gid, Mac, Mtu, Outcome, Qpn, Time};
use crate::wire::frame::Template;
use crate::wire::{self, Received};

/// Length of an Ethernet header with a VLAN tag.
const ETHERNET_HEADER: u32 = 18;

/// ECN bits of the traffic class (RFC 3168): all of them, those of a packet whose sender reacts to
/// marks, ECT(0), and those of a packet that was marked, CE.
const ECN_MASK: u8 = 3;
const ECN_CAPABLE: u8 = 2;
const ECN_MARKED: u8 = 3;

/// Why a queue pair is in an error state: what its driver was told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A work request ended with this.
    Completion(Outcome),
    /// This event was reported.
    Event(QpEvent),
}

/// The work queues of a queue pair, and what else of it the front end keeps.
#[derive(Clone, Debug)]
pub struct WorkQueues {
    /// Queue pair number.
    pub qpn: u32,
    /// Protection domain; 0 for an XRC target that has none.
    pub pd: u32,
    /// Completion queue of the send queue.
    pub send_cq: u32,
    /// Completion queue of the receive queue.
    pub receive_cq: u32,
    /// Every send work request writes a completion.
    pub signal_all: bool,
    /// The reserved local key is allowed.
    pub privileged: bool,
    /// The VLAN tag of received frames is taken out.
    pub strip_vlan: bool,
    /// A packet waits for room in the port.
    pub waits: bool,
    /// Type of the queue pair.
    pub kind: Kind,
    /// Headers of the TCP segment that is being sent, once there was one.
    pub template: Option<Box<Template>>,
    /// Memory windows of type 2 that are bound to the queue pair.
    pub windows: WindowList,
    /// The memory of both rings.
    pub pages: PageMap,
    /// Send queue, if it has one.
    pub send: Option<SendRing>,
    /// Receive queue, if it has one of its own.
    pub receive: Option<ReceiveRing>,
    /// Shared receive queue that it was created with.
    pub srq: Option<u32>,
    /// XRC domain, of an XRC target.
    pub xrcd: Option<u32>,
    /// The shared receive queue of type XRC whose entry it has in use.
    pub held: Option<u32>,
    /// What went wrong first since the queue pair was reset.
    pub trouble: Option<Trouble>,
}

impl WorkQueues {
    /// Notes what a work request ended with, if it is the first one that failed by itself.
    #[cold]
    fn note(&mut self, outcome: Outcome) {
        if !matches!(outcome, Outcome::Success | Outcome::Flushed) {
            self.trouble = self.trouble.or(Some(Trouble::Completion(outcome)));
        }
    }

    /// In whose name the queue pair uses keys.
    #[must_use]
    pub const fn key_user(&self) -> KeyUser {
        KeyUser {
            pd: self.pd,
            qp: self.qpn,
        }
    }

    /// Doorbell pages and slots of the queues.
    pub fn doorbells(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let send = self.send.as_ref().map(|ring| ring.doorbell);
        let receive = self.receive.as_ref().map(|ring| ring.doorbell);
        send.into_iter().chain(receive)
    }
}

/// The port as a queue pair sees it.
pub trait Port<M> {
    /// Sends a PDU whose payload lies in `memory`.
    fn transmit(&mut self, memory: &M, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit;

    /// Sends an Ethernet frame whose payload lies in `memory`.
    fn transmit_frame(&mut self, memory: &M, frame: &OutgoingFrame<'_>) -> Transmit;

    /// Most packets of `mtu` that a PDU along `path` may stand for.
    fn burst(&self, path: &Path, mtu: Mtu) -> u32;

    /// Whether a turn is long enough, whatever number of PDUs it might have had.
    fn is_turn_over(&self) -> bool {
        false
    }

    /// Whether what was refused waits for room, not for its function's time.
    fn lacks_room(&self) -> bool {
        true
    }

    /// Whether the payload of a PDU along `path` is read after the call.
    fn defers(&self, path: &Path) -> bool;

    /// What is sent from now on comes from queue pair `qpn`.
    fn set_sender(&mut self, qpn: u32) {
        let _ = qpn;
    }
}

/// An Ethernet frame on its way out: headers that the front end made, then bytes of the guest's.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingFrame<'a> {
    /// What the port does to it.
    pub offload: Offload,
    /// How it begins.
    pub headers: &'a [u8],
    /// Bytes of `payload`.
    pub length: u32,
    /// How it goes on.
    pub payload: Payload<'a>,
}

/// A port for calls that send nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoPort;

impl<M> Port<M> for NoPort {
    fn transmit(&mut self, _: &M, _: &Path, _: &Pdu, _: Payload<'_>) -> Transmit {
        Transmit::NoRoom
    }

    fn transmit_frame(&mut self, _: &M, _: &OutgoingFrame<'_>) -> Transmit {
        Transmit::NoRoom
    }

    fn burst(&self, _: &Path, _: Mtu) -> u32 {
        1
    }

    fn defers(&self, _: &Path) -> bool {
        false
    }
}

/// What is being handled: a PDU, an Ethernet frame, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a, M> {
    /// Its payload.
    pub payload: Arrived<'a, M>,
    /// How it came.
    pub origin: Origin<'a>,
}

/// The payload of the PDU that is being handled.
#[derive(Clone, Copy, Debug)]
pub enum Arrived<'a, M> {
    /// Bytes of a frame, or inline data of the sender.
    Bytes(&'a [u8]),
    /// Two pieces of a frame, one behind the other.
    Pieces([&'a [u8]; 2]),
    /// Pieces of the sender's memory.
    Memory(&'a M, &'a [Chunk]),
}

/// How the PDU that is being handled came.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// None is being handled.
    Nowhere,
    /// In a packet.
    Packet(&'a Received<'a>),
    /// Along a path between two functions of the NIC.
    Direct(&'a Path, &'a Pdu),
    /// As an Ethernet frame for a raw packet queue pair.
    Frame(&'a FrameCopy<'a>),
}

impl<M> Incoming<'_, M> {
    /// Nothing is being handled.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            payload: Arrived::Bytes(&[]),
            origin: Origin::Nowhere,
        }
    }
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
    /// Largest Ethernet payload in bytes.
    pub mtu: u32,
    /// Protection domain in which memory is accessed.
    pub pd: u32,
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
        let send = queues.send.as_mut()?;
        if send.handed_out() >= self.send_limit {
            return None;
        }
        let (pages, who) = (&queues.pages, (queues.kind, queues.qpn));
        send.next(self.host, pages, who, queues.signal_all)
    }

    fn hold_sends(&mut self) {
        if let Some(send) = &mut self.queues.send {
            send.hold();
        }
    }

    fn release_sends(&mut self) {
        if let Some(send) = &mut self.queues.send {
            send.release();
        }
    }

    fn next_receive(&mut self, srqn: Option<u32>) -> Result<ReceiveWork, NoReceive> {
        if let Some(srqn) = srqn {
            let xrcd = self.queues.xrcd.ok_or(NoReceive::NoQueue)?;
            let work = self
                .objects
                .take_shared(self.host, self.now, srqn, Some(xrcd))?;
            self.queues.held = Some(srqn);
            return Ok(work);
        }
        if let Some(srqn) = self.queues.srq {
            return self.objects.take_shared(self.host, self.now, srqn, None);
        }
        let domain = self.domain();
        let queues = &mut *self.queues;
        let receive = queues.receive.as_mut().ok_or(NoReceive::NoQueue)?;
        let (work, valid) = receive.next(self.host, &queues.pages, domain);
        if !valid {
            self.objects.count(Counter::BadDoorbell, 1);
        }
        work.ok_or(NoReceive::Empty)
    }

    fn shares_receives(&self) -> bool {
        self.queues.srq.is_some() || self.queues.xrcd.is_some()
    }

    fn complete_send(&mut self, work: &SendWork, outcome: Outcome, bytes: u32) {
        let Some(send) = &mut self.queues.send else {
            return;
        };
        let index = send.end(work.cookie);
        if outcome == Outcome::Flushed {
            self.objects.count(Counter::ReqCqeFlushError, 1);
        }
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
        if error {
            self.queues.note(outcome);
        }
        self.objects
            .complete(self.host, self.now, self.queues.send_cq, entry, error);
    }

    fn complete_receive(&mut self, completion: ReceiveCompletion) {
        let Some((srqn, index, cqn)) = self.end_receive(completion.cookie) else {
            return;
        };
        if completion.outcome == Outcome::Flushed {
            self.objects.count(Counter::RespCqeFlushError, 1);
        }
        let entry = CompletionEntry {
            qpn: self.queues.qpn,
            wqe_index: index,
            srqn,
            byte_length: completion.bytes,
            timestamp: self.now.0,
            status: status(completion.outcome).raw(),
            ..received(&completion, &self.incoming.origin)
        };
        let error = completion.outcome != Outcome::Success;
        if error {
            self.queues.note(completion.outcome);
        }
        let counts = completion.solicited || error;
        self.objects
            .complete(self.host, self.now, cqn, entry, counts);
    }

    fn event(&mut self, event: QpEvent) {
        if let QpEvent::Fatal | QpEvent::RequestError | QpEvent::AccessError = event {
            let queues = &mut self.queues;
            queues.trouble = queues.trouble.or(Some(Trouble::Event(event)));
        }
        let event = match event {
            QpEvent::CommunicationEstablished => EventType::CommunicationEstablished,
            QpEvent::SendQueueDrained => EventType::SendQueueDrained,
            QpEvent::Fatal => EventType::QpFatal,
            QpEvent::RequestError => EventType::QpRequestError,
            QpEvent::AccessError => EventType::QpAccessError,
            QpEvent::LastWqeReached => EventType::LastWqeReached,
        };
        self.objects
            .asynchronous(self.host, self.now, event, self.queues.qpn);
    }

    fn domain(&self) -> Domain {
        Domain {
            pd: self.pd,
            privileged: self.queues.privileged,
        }
    }

    fn act_for(&mut self, service: Service) {
        if let (Service::Extended { srqn }, 0) = (service, self.queues.pd) {
            let srq = self.objects.srqs.get(srqn);
            let srq = srq.filter(|srq| srq.xrcd() == self.queues.xrcd);
            self.pd = srq.map_or(0, |srq| srq.domain.pd);
        }
    }

    #[inline]
    fn translate(
        &mut self,
        domain: Domain,
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
            return reserved_key(domain, access, address, length, chunks);
        }
        let user = KeyUser {
            pd: domain.pd,
            qp: self.queues.qpn,
        };
        self.objects
            .keys
            .translate(user, key, access, address, length, chunks)
    }

    fn check_key(&mut self, key: u32, access: Access) -> Result<(), AccessError> {
        self.objects.keys.check(self.key_user(), key, access)
    }

    fn place(&mut self, offset: u32, chunks: &[Chunk]) -> Result<(), TransferError> {
        self.host.trace(&TraceEvent::DmaWrite(chunks));
        match self.incoming.payload {
            Arrived::Bytes(bytes) => {
                let offset = usize::try_from(offset).map_err(|_| TransferError::Sender)?;
                let bytes = bytes.get(offset..).ok_or(TransferError::Sender)?;
                scatter(self.host.memory(), bytes, chunks)
            }
            // Frames are placed whole.
            Arrived::Pieces(_) if offset != 0 => Err(TransferError::Sender),
            Arrived::Pieces(pieces) => scatter_pieces(self.host.memory(), pieces, chunks),
            Arrived::Memory(source, from) => {
                let placed = copy_chunks(source, from, offset, self.host.memory(), chunks);
                self.objects.unreadable |= placed == Err(TransferError::Sender);
                placed
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

    fn atomic_write(&mut self, address: u64, value: [u8; 8]) -> Result<(), TransferError> {
        let written = self.host.memory().write_publish(address, &value);
        written.map_err(|_| TransferError::Local)
    }

    fn fence(&mut self) {
        self.host.barrier();
    }

    fn route(&mut self, target: &DatagramTarget) -> Result<Path, Outcome> {
        let mut path = match &target.route {
            Route::InRequest => {
                let send = self.queues.send.as_ref();
                send.and_then(|send| resolve(&self.objects.gids, &send.vector, true).ok())
            }
            Route::Handle(number) => self
                .objects
                .handles
                .get(*number)
                .filter(|handle| handle.pd == self.queues.pd)
                .map(|handle| handle.path),
        }
        .ok_or(Outcome::LocalQpOperation)?;
        // A group has the queue pair number of groups, and nobody else has.
        if path.destination_mac.is_group() != (target.qpn == Qpn::MULTICAST) {
            return Err(Outcome::LocalQpOperation);
        }
        path.udp_source = udp_source(path.flow_label, self.queues.qpn, target.qpn.get());
        Ok(path)
    }

    fn max_frame(&self) -> u32 {
        self.mtu.saturating_add(ETHERNET_HEADER)
    }

    fn port_mtu(&self) -> Mtu {
        Mtu::fitting(self.mtu)
    }

    fn route_header(&self) -> [u8; 40] {
        match self.incoming.origin {
            Origin::Packet(packet) => packet.route_header(),
            Origin::Direct(path, pdu) => wire::route_header(path, pdu),
            Origin::Nowhere | Origin::Frame(_) => [0; 40],
        }
    }

    fn transmit(&mut self, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit {
        if let Payload::Chunks(chunks) = payload {
            self.host.trace(&TraceEvent::DmaRead(chunks));
        }
        let capable;
        let path = if self.objects.congestion.capable && may_be_marked(path, pdu) {
            capable = Path {
                traffic_class: path.traffic_class | ECN_CAPABLE,
                ..*path
            };
            &capable
        } else {
            path
        };
        let sent = self.port.transmit(self.host.memory(), path, pdu, payload);
        if sent == Transmit::Sent {
            self.host.trace(&TraceEvent::PacketSent(pdu));
        }
        self.note_room(sent)
    }

    fn transmit_frame(&mut self, offload: Offload, length: u32, payload: Payload<'_>) -> Transmit {
        self.send_frame(&OutgoingFrame {
            offload,
            headers: &[],
            length,
            payload,
        })
    }

    fn keep_headers(&mut self, length: u16, headers: Payload<'_>) -> Result<(), Outcome> {
        let mut room = [0; MAX_SEGMENTED_HEADERS];
        let bytes = room.get_mut(..usize::from(length));
        let bytes = bytes.ok_or(Outcome::LocalQpOperation)?;
        if let Payload::Chunks(chunks) = headers {
            self.host.trace(&TraceEvent::DmaRead(chunks));
        }
        copy_payload(self.host.memory(), headers, bytes).ok_or(Outcome::LocalProtection)?;
        let template = Template::parse(bytes).ok_or(Outcome::LocalQpOperation)?;
        match &mut self.queues.template {
            Some(room) => **room = template,
            None => self.queues.template = Some(Box::new(template)),
        }
        Ok(())
    }

    fn transmit_part(&mut self, offload: Offload, part: &Part, payload: Payload<'_>) -> Transmit {
        // It stays where it is while its request does.
        let Some(mut template) = self.queues.template.take() else {
            return Transmit::BadMemory;
        };
        let sent = self.send_frame(&OutgoingFrame {
            offload,
            headers: template.headers(part),
            length: part.length.into(),
            payload,
        });
        self.queues.template = Some(template);
        sent
    }

    fn burst(&self, path: &Path, mtu: Mtu) -> u32 {
        self.port.burst(path, mtu)
    }

    fn defers(&self, path: &Path) -> bool {
        self.port.defers(path)
    }

    #[inline]
    fn spend(&self, budget: &mut u32) {
        *budget = if self.port.is_turn_over() {
            0
        } else {
            *budget - 1
        };
    }

    #[inline]
    fn congestion(&self) -> &Congestion {
        &self.objects.congestion
    }

    #[inline]
    fn is_marked(&self) -> bool {
        matches!(self.incoming.origin, Origin::Packet(packet) if packet.ecn() == ECN_MARKED)
    }

    fn count(&mut self, counter: Counter, n: u64) {
        self.objects.count(counter, n);
    }

    fn invalidate(&mut self, rkey: u32) -> Result<(), AccessError> {
        let user = self.key_user();
        let invalidated = self
            .objects
            .keys
            .invalidate(user, &mut self.queues.windows, rkey);
        invalidated.map_err(|_| AccessError::Key)
    }

    fn local(&mut self, operation: &LocalOperation) -> Result<(), Outcome> {
        keys::local(
            self.host.memory(),
            &mut self.objects.keys,
            self.queues,
            operation,
        )
    }
}

impl<H: Host, P: Port<H::Memory>> QpEnv<'_, H, P> {
    /// In whose name keys are used.
    const fn key_user(&self) -> KeyUser {
        KeyUser {
            pd: self.pd,
            qp: self.queues.qpn,
        }
    }

    fn send_frame(&mut self, frame: &OutgoingFrame<'_>) -> Transmit {
        if let Payload::Chunks(chunks) = frame.payload {
            self.host.trace(&TraceEvent::DmaRead(chunks));
        }
        let sent = self.port.transmit_frame(self.host.memory(), frame);
        if sent == Transmit::Sent {
            // CAST: headers are short.
            let length = frame.length.saturating_add(frame.headers.len() as u32);
            self.host.trace(&TraceEvent::FrameSent { length });
            self.objects.count(Counter::TxFrames, 1);
        }
        self.note_room(sent)
    }

    /// Counts a packet that has to wait for room, once.
    #[inline]
    fn note_room(&mut self, sent: Transmit) -> Transmit {
        let waits = sent == Transmit::NoRoom;
        if waits && !self.queues.waits {
            self.objects.count(Counter::PortXmitWait, 1);
        }
        self.queues.waits = waits;
        sent
    }

    /// Gives up the receive work request with `cookie`: returns the number of its shared receive
    /// queue, or 0, its index, and the completion queue that is told.
    fn end_receive(&mut self, cookie: u64) -> Option<(u32, u32, u32)> {
        let Some((srqn, index)) = shared(cookie) else {
            let index = self.queues.receive.as_mut()?.end(cookie);
            return Some((0, index, self.queues.receive_cq));
        };
        self.queues.held = None;
        let extended = self.objects.srqs.get(srqn)?.extended;
        let cqn = extended.map_or(self.queues.receive_cq, |extended| extended.cq);
        Some((srqn, index, cqn))
    }
}

/// Whether a PDU leaves as ECN-capable where packets do: what a driver has put into the ECN bits
/// stays, and congestion notifications are not to be marked.
fn may_be_marked(path: &Path, pdu: &Pdu) -> bool {
    path.traffic_class & ECN_MASK == 0 && pdu.body != Body::Congestion
}

/// The memory behind the reserved key, which is all of it.
fn reserved_key(
    domain: Domain,
    access: Access,
    address: u64,
    length: u32,
    chunks: &mut Chunks,
) -> Result<(), AccessError> {
    let local = Access::LOCAL_READ | Access::LOCAL_WRITE;
    if !domain.privileged || !local.contains(access) {
        return Err(AccessError::Key);
    }
    if address.checked_add(u64::from(length) - 1).is_none() {
        return Err(AccessError::Bounds);
    }
    append(chunks, Chunk { address, length });
    Ok(())
}

/// What a completion says about what was received and where it came from.
fn received(completion: &ReceiveCompletion, origin: &Origin<'_>) -> CompletionEntry {
    let (opcode, tail) = match completion.kind {
        ReceiveKind::Send(tail) | ReceiveKind::Datagram { tail, .. } => match tail {
            SendTail::None => (CompletionOpcode::Receive, 0),
            SendTail::Immediate(data) => (CompletionOpcode::ReceiveImmediate, data),
            SendTail::Invalidate(key) => (CompletionOpcode::ReceiveInvalidate, key),
        },
        ReceiveKind::Write(data) => (CompletionOpcode::ReceiveWriteImmediate, data),
        ReceiveKind::Frame => (CompletionOpcode::ReceiveFrame, 0),
    };
    let mut flags = CompletionFlags::empty();
    flags.set(CompletionFlags::SOLICITED, completion.solicited);
    let mut entry = CompletionEntry {
        immediate: tail,
        opcode: opcode.raw(),
        ..CompletionEntry::default()
    };
    if let (ReceiveKind::Frame, Origin::Frame(frame)) = (completion.kind, origin) {
        frame.describe(&mut flags, &mut entry);
    }
    if let ReceiveKind::Datagram { source, .. } = completion.kind {
        let (mac, vlan, gid) = match origin {
            Origin::Packet(packet) => (packet.source_mac, packet.vlan, packet.source),
            Origin::Direct(path, _) => (path.source_mac, path.vlan, path.source),
            Origin::Nowhere | Origin::Frame(_) => (Mac::default(), 0, Gid::default()),
        };
        flags |= CompletionFlags::GRH;
        flags.set(CompletionFlags::IPV4, gid.to_v4().is_some());
        flags.set(CompletionFlags::VLAN, vlan != 0);
        entry.source_qpn = source.get();
        entry.source_mac = mac.0;
        // There is one partition, at index 0.
        entry.vlan = vlan.into();
    }
    entry.flags = flags.bits();
    entry
}

const fn status(outcome: Outcome) -> CompletionStatus {
    match outcome {
        Outcome::Success => CompletionStatus::Success,
        Outcome::LocalLength => CompletionStatus::LocalLength,
        Outcome::LocalQpOperation => CompletionStatus::LocalQpOperation,
        Outcome::LocalProtection => CompletionStatus::LocalProtection,
        Outcome::Flushed => CompletionStatus::Flushed,
        Outcome::MemoryWindowBind => CompletionStatus::MemoryWindowBind,
        Outcome::BadResponse => CompletionStatus::BadResponse,
        Outcome::LocalAccess => CompletionStatus::LocalAccess,
        Outcome::RemoteInvalidRequest => CompletionStatus::RemoteInvalidRequest,
        Outcome::RemoteAccess => CompletionStatus::RemoteAccess,
        Outcome::RemoteOperation => CompletionStatus::RemoteOperation,
        Outcome::RetryExceeded => CompletionStatus::RetryExceeded,
        Outcome::RnrRetryExceeded => CompletionStatus::RnrRetryExceeded,
    }
}
