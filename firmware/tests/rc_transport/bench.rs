//! A bench for the reliable connected transport in virtual time.
//!
//! A [`Node`] is what surrounds one queue pair: flat memory, a table of keys, work queues,
//! completions. A [`Solo`] is a queue pair whose peer the test plays by hand; a [`Pair`] is two of
//! them and a simulated wire that loses, doubles and delays PDUs by a seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use vrnic_abi::counter::Counter;
use vrnic_firmware::pdu::{
    Acknowledge, AtomicOperation, Body, NakCode, Pdu, Place, RemoteRange, SendTail, Service,
    Syndrome,
};
use vrnic_firmware::transport::{
    Bounds, Congestion, DatagramTarget, Domain, Env, Kind, LocalOperation, Modify, NoReceive,
    Offload, Part, Path, Payload, Pkey, Poll, Qp, QpConfig, QpEvent, Rate, ReceiveCompletion,
    ReceiveWork, Remote, Route, SendOperation, SendWork, TransferError, Transmit,
};
use vrnic_firmware::types::{
    Access, AccessError, Chunk, Chunks, Mtu, Outcome, Psn, Qpn, Sge, State, Time,
};

pub use crate::seeded::Random;

/// What memory holds before anybody writes.
pub const PATTERN: u8 = 0xee;
/// Key of the region that covers all memory with all rights.
pub const KEY: u32 = 0x100;
/// Virtual address of the first byte of memory.
pub const BASE: u64 = 0x7000_0000_0000;
pub const MTU: u32 = 256;
/// What both ends do about congestion, if there is any.
pub const CONGESTION: Congestion = Congestion {
    notify: true,
    react: true,
    interval: Duration::from_micros(20),
    bounds: Bounds {
        line: Rate::megabits(1_000),
        minimum: Rate::megabits(2),
    },
    ..Congestion::OFF
};
/// The only shared receive queue.
pub const SRQN: u32 = 0x55;
/// The only address handle.
pub const HANDLE: u32 = 3;
/// What the route header consists of.
pub const HEADER: u8 = 0x6e;

#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub start: u64,
    pub length: u64,
    pub access: Access,
}

/// A PDU on its way, with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub pdu: Pdu,
    pub payload: Vec<u8>,
    /// The sender's memory is unreachable when the payload is copied (direct path).
    pub lost_source: bool,
    /// It met congestion on its way.
    pub marked: bool,
}

/// What surrounds a queue pair.
pub struct Node {
    pub memory: Vec<u8>,
    pub regions: BTreeMap<u32, Region>,
    pub sends: VecDeque<SendWork>,
    pub receives: VecDeque<ReceiveWork>,
    /// Cookies of sends handed out and not ended.
    pub handed: VecDeque<u64>,
    pub receives_handed: VecDeque<u64>,
    pub sent: Vec<(u64, Outcome, u32)>,
    pub received: Vec<ReceiveCompletion>,
    pub events: Vec<QpEvent>,
    pub counters: BTreeMap<Counter, u64>,
    pub invalidated: Vec<u32>,
    /// Receives come from a shared receive queue.
    pub shared: bool,
    pub fences: u32,
    pub frames: Vec<(Offload, Vec<u8>)>,
    /// Headers of the TCP segment that is being sent, and the parts that were.
    pub headers: Vec<u8>,
    pub parts: Vec<Part>,
    pub local: Vec<LocalOperation>,
    /// Memory offsets from here on cannot be reached by DMA.
    pub dma_limit: u64,
    pub burst: u32,
    /// What is sent from memory cannot be read any more when it arrives.
    pub lost_source: bool,
    /// PDUs that fit on the wire.
    pub room: usize,
    /// Sends that are handed out at a time.
    pub hand_out: usize,
}

impl Node {
    pub fn new(size: usize) -> Self {
        let everything = Region {
            start: BASE,
            length: size as u64,
            access: Access::all(),
        };
        Self {
            shared: false,
            fences: 0,
            frames: Vec::new(),
            headers: Vec::new(),
            parts: Vec::new(),
            local: Vec::new(),
            memory: vec![PATTERN; size],
            regions: [(KEY, everything)].into(),
            sends: VecDeque::new(),
            receives: VecDeque::new(),
            handed: VecDeque::new(),
            receives_handed: VecDeque::new(),
            sent: Vec::new(),
            received: Vec::new(),
            events: Vec::new(),
            counters: BTreeMap::new(),
            invalidated: Vec::new(),
            dma_limit: u64::MAX,
            burst: 1,
            lost_source: false,
            room: usize::MAX,
            hand_out: usize::MAX,
        }
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(&counter).copied().unwrap_or(0)
    }

    pub fn outcomes(&self) -> Vec<(u64, Outcome)> {
        self.sent
            .iter()
            .map(|&(cookie, outcome, _)| (cookie, outcome))
            .collect()
    }

    pub fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        &self.memory[offset as usize..offset as usize + length]
    }

    /// Fills memory with bytes that tell where they are.
    pub fn number(&mut self, offset: u64, length: usize) {
        for i in 0..length {
            self.memory[offset as usize + i] = mark(offset + i as u64);
        }
    }

    pub fn post_receive(&mut self, cookie: u64, offset: u64, length: u32) {
        self.receives.push_back(ReceiveWork {
            domain: Domain::default(),
            cookie,
            sges: [sge(offset, length)].into_iter().collect(),
            invalid: None,
        });
    }

    pub fn gather(&self, chunks: &[Chunk]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for chunk in chunks {
            if chunk.address + u64::from(chunk.length) > self.dma_limit {
                return None;
            }
            bytes.extend_from_slice(self.bytes(chunk.address, chunk.length as usize));
        }
        Some(bytes)
    }

    fn payload(&self, payload: Payload<'_>) -> Option<Vec<u8>> {
        match payload {
            Payload::Bytes(bytes) => Some(bytes.to_vec()),
            Payload::Chunks(chunks) => self.gather(chunks),
        }
    }

    fn scatter(&mut self, data: &[u8], chunks: &[Chunk]) -> Result<(), TransferError> {
        let mut at = 0;
        for chunk in chunks {
            let (start, length) = (chunk.address as usize, chunk.length as usize);
            if chunk.address + u64::from(chunk.length) > self.dma_limit {
                return Err(TransferError::Local);
            }
            self.memory[start..start + length].copy_from_slice(&data[at..at + length]);
            at += length;
        }
        Ok(())
    }
}

/// The byte that [`Node::number`] stores at an offset.
pub fn mark(offset: u64) -> u8 {
    (offset % 251) as u8
}

pub fn sge(offset: u64, length: u32) -> Sge {
    Sge {
        address: BASE + offset,
        length,
        lkey: KEY,
    }
}

/// One queue pair's view of its node during a call.
pub struct Side<'a> {
    pub node: &'a mut Node,
    pub now: Time,
    pub incoming: Option<&'a Packet>,
    pub out: &'a mut Vec<Packet>,
}

impl Env for Side<'_> {
    fn now(&self) -> Time {
        self.now
    }

    fn next_send(&mut self) -> Option<SendWork> {
        if self.node.handed.len() >= self.node.hand_out {
            return None;
        }
        let work = self.node.sends.pop_front()?;
        self.node.handed.push_back(work.cookie);
        Some(work)
    }

    fn next_receive(&mut self, srqn: Option<u32>) -> Result<ReceiveWork, NoReceive> {
        if srqn.is_some_and(|srqn| srqn != SRQN) {
            return Err(NoReceive::NoQueue);
        }
        let work = self.node.receives.pop_front().ok_or(NoReceive::Empty)?;
        self.node.receives_handed.push_back(work.cookie);
        Ok(work)
    }

    fn shares_receives(&self) -> bool {
        self.node.shared
    }

    fn domain(&self) -> Domain {
        Domain {
            pd: 1,
            privileged: false,
        }
    }

    fn check_key(&mut self, key: u32, access: Access) -> Result<(), AccessError> {
        let region = self.node.regions.get(&key).ok_or(AccessError::Key)?;
        if region.access.contains(access) {
            Ok(())
        } else {
            Err(AccessError::Permission)
        }
    }

    fn complete_send(&mut self, work: &SendWork, outcome: Outcome, bytes: u32) {
        assert_eq!(
            self.node.handed.pop_front(),
            Some(work.cookie),
            "sends end in order"
        );
        self.node.sent.push((work.cookie, outcome, bytes));
    }

    fn complete_receive(&mut self, completion: ReceiveCompletion) {
        let handed = self.node.receives_handed.pop_front();
        assert_eq!(handed, Some(completion.cookie), "receives end in order");
        self.node.received.push(completion);
    }

    fn event(&mut self, event: QpEvent) {
        self.node.events.push(event);
    }

    fn translate(
        &mut self,
        _domain: Domain,
        key: u32,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        if length == 0 {
            return Ok(());
        }
        let region = self.node.regions.get(&key).ok_or(AccessError::Key)?;
        if !region.access.contains(access) {
            return Err(AccessError::Permission);
        }
        let offset = address
            .checked_sub(region.start)
            .ok_or(AccessError::Bounds)?;
        if offset
            .checked_add(u64::from(length))
            .is_none_or(|end| end > region.length)
        {
            return Err(AccessError::Bounds);
        }
        // Pages of 4096 bytes, each a chunk of its own.
        let (mut at, mut left) = (address - BASE, length);
        while left > 0 {
            let take = (4096 - at % 4096).min(u64::from(left)) as u32;
            chunks.push(Chunk {
                address: at,
                length: take,
            });
            at += u64::from(take);
            left -= take;
        }
        Ok(())
    }

    fn place(&mut self, offset: u32, chunks: &[Chunk]) -> Result<(), TransferError> {
        let packet = self.incoming.expect("a PDU is being handled");
        if packet.lost_source {
            return Err(TransferError::Sender);
        }
        self.node
            .scatter(&packet.payload[offset as usize..], chunks)
    }

    fn store(&mut self, data: &[u8], chunks: &[Chunk]) -> Result<(), TransferError> {
        self.node.scatter(data, chunks)
    }

    fn atomic(&mut self, address: u64, operation: AtomicOperation) -> Result<u64, TransferError> {
        if address + 8 > self.node.dma_limit {
            return Err(TransferError::Local);
        }
        let place = &mut self.node.memory[address as usize..address as usize + 8];
        let original = u64::from_le_bytes(place.try_into().unwrap());
        let new = match operation {
            AtomicOperation::FetchAdd(add) => original.wrapping_add(add),
            AtomicOperation::CompareSwap { compare, swap } if compare == original => swap,
            AtomicOperation::CompareSwap { .. } => original,
        };
        place.copy_from_slice(&new.to_le_bytes());
        Ok(original)
    }

    fn atomic_write(&mut self, address: u64, value: [u8; 8]) -> Result<(), TransferError> {
        if address + 8 > self.node.dma_limit {
            return Err(TransferError::Local);
        }
        self.node.memory[address as usize..address as usize + 8].copy_from_slice(&value);
        Ok(())
    }

    fn fence(&mut self) {
        self.node.fences += 1;
    }

    fn route(&mut self, target: &DatagramTarget) -> Result<Path, Outcome> {
        match target.route {
            Route::Handle(HANDLE) => Ok(Path::default()),
            _ => Err(Outcome::LocalQpOperation),
        }
    }

    fn max_frame(&self) -> u32 {
        1518
    }

    fn port_mtu(&self) -> Mtu {
        Mtu::B256
    }

    fn route_header(&self) -> [u8; 40] {
        [HEADER; 40]
    }

    fn transmit_frame(&mut self, offload: Offload, length: u32, payload: Payload<'_>) -> Transmit {
        if self.node.frames.len() >= self.node.room {
            return Transmit::NoRoom;
        }
        let Some(bytes) = self.node.payload(payload) else {
            return Transmit::BadMemory;
        };
        assert_eq!(bytes.len(), length as usize);
        self.node.frames.push((offload, bytes));
        Transmit::Sent
    }

    fn keep_headers(&mut self, length: u16, headers: Payload<'_>) -> Result<(), Outcome> {
        let headers = self.node.payload(headers);
        let headers = headers.ok_or(Outcome::LocalProtection)?;
        assert_eq!(headers.len(), usize::from(length));
        self.node.headers = headers;
        Ok(())
    }

    fn transmit_part(&mut self, offload: Offload, part: &Part, payload: Payload<'_>) -> Transmit {
        let sent = self.transmit_frame(offload, part.length.into(), payload);
        if sent == Transmit::Sent {
            self.node.parts.push(*part);
        }
        sent
    }

    fn local(&mut self, operation: &LocalOperation) -> Result<(), Outcome> {
        self.node.local.push(*operation);
        match operation {
            LocalOperation::Invalidate(KEY) => Ok(()),
            _ => Err(Outcome::MemoryWindowBind),
        }
    }

    fn transmit(&mut self, _path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit {
        if self.out.len() >= self.node.room {
            return Transmit::NoRoom;
        }
        let payload = match payload {
            Payload::Bytes(bytes) => bytes.to_vec(),
            Payload::Chunks(chunks) => match self.node.gather(chunks) {
                Some(bytes) => bytes,
                None => return Transmit::BadMemory,
            },
        };
        assert_eq!(payload.len(), pdu.length as usize, "length of {pdu:?}");
        assert!((1..=self.node.burst).contains(&pdu.packets), "{pdu:?}");
        self.out.push(Packet {
            pdu: *pdu,
            payload,
            lost_source: self.node.lost_source,
            marked: false,
        });
        Transmit::Sent
    }

    fn burst(&self, _path: &Path, _mtu: Mtu) -> u32 {
        self.node.burst
    }

    fn defers(&self, _path: &Path) -> bool {
        self.node.burst > 1
    }

    fn congestion(&self) -> &Congestion {
        &CONGESTION
    }

    fn is_marked(&self) -> bool {
        self.incoming.is_some_and(|packet| packet.marked)
    }

    fn count(&mut self, counter: Counter, n: u64) {
        *self.node.counters.entry(counter).or_default() += n;
    }

    fn invalidate(&mut self, rkey: u32) -> Result<(), AccessError> {
        self.node.invalidated.push(rkey);
        self.node
            .regions
            .remove(&rkey)
            .map(|_| ())
            .ok_or(AccessError::Key)
    }
}

/// How the connection of a test is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub kind: Kind,
    pub mtu: Mtu,
    pub send_psn: u32,
    pub receive_psn: u32,
    pub depth: u8,
    pub resources: u8,
    pub timeout: u8,
    pub retry_count: u8,
    pub rnr_retry: u8,
    pub min_rnr_timer: u8,
    pub access: Access,
    pub burst: u32,
    pub memory: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            kind: Kind::Rc,
            mtu: Mtu::B256,
            send_psn: 1000,
            receive_psn: 2000,
            depth: 4,
            resources: 4,
            timeout: 10,
            retry_count: 3,
            rnr_retry: 3,
            min_rnr_timer: 12,
            access: Access::all(),
            burst: 1,
            memory: 64 << 10,
        }
    }
}

/// Queue key of queue pairs with datagrams.
pub const QKEY: u32 = 0x1111_0001;

impl Setup {
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    pub fn init(&self) -> Modify {
        let datagrams = self.kind.is_datagram();
        let raw = self.kind == Kind::Raw;
        let pkey = Pkey {
            index: 0,
            key: 0xffff,
        };
        Modify {
            pkey: Some(pkey).filter(|_| !raw),
            port: Some(1).filter(|_| self.kind != Kind::Gsi),
            access: Some(self.access).filter(|_| self.kind.is_connected()),
            qkey: Some(QKEY).filter(|_| datagrams),
            ..Modify::to(State::Init)
        }
    }

    pub fn rtr(&self) -> Modify {
        if !self.kind.is_connected() {
            return Modify::to(State::Rtr);
        }
        let responder = matches!(self.kind, Kind::Rc | Kind::XrcTarget);
        Modify {
            path: Some(Path::default()),
            path_mtu: Some(self.mtu),
            remote_qpn: Some(Qpn::new(0x22)),
            receive_psn: Some(Psn::new(self.receive_psn)),
            responder_resources: Some(self.resources).filter(|_| responder),
            min_rnr_timer: Some(self.min_rnr_timer).filter(|_| responder),
            ..Modify::to(State::Rtr)
        }
    }

    pub fn rts(&self) -> Modify {
        let requester = matches!(self.kind, Kind::Rc | Kind::XrcInitiator);
        let timer = requester || self.kind == Kind::XrcTarget;
        Modify {
            timeout: Some(self.timeout).filter(|_| timer),
            retry_count: Some(self.retry_count).filter(|_| requester),
            rnr_retry: Some(self.rnr_retry).filter(|_| requester),
            send_psn: Some(Psn::new(self.send_psn)).filter(|_| self.kind != Kind::Raw),
            initiator_depth: Some(self.depth).filter(|_| requester),
            ..Modify::to(State::Rts)
        }
    }
}

/// A queue pair whose peer the test plays.
pub struct Solo {
    pub qp: Qp,
    pub node: Node,
    pub now: Time,
    pub out: Vec<Packet>,
    pub setup: Setup,
}

impl Solo {
    pub fn reset(setup: Setup) -> Self {
        let mut node = Node::new(setup.memory);
        node.burst = setup.burst;
        Self {
            qp: Qp::new(QpConfig {
                kind: setup.kind,
                qpn: Qpn::new(0x11),
                max_initiator_depth: 16,
                max_responder_resources: 16,
            }),
            node,
            now: Time(0),
            out: Vec::new(),
            setup,
        }
    }

    pub fn rtr(setup: Setup) -> Self {
        let mut solo = Self::reset(setup);
        solo.modify(setup.init()).unwrap();
        solo.modify(setup.rtr()).unwrap();
        solo
    }

    pub fn rts(setup: Setup) -> Self {
        let mut solo = Self::rtr(setup);
        solo.modify(setup.rts()).unwrap();
        solo
    }

    pub fn new() -> Self {
        Self::rts(Setup::default())
    }

    pub fn of(kind: Kind) -> Self {
        Self::rts(Setup::of(kind))
    }

    /// Hands in an Ethernet frame.
    pub fn frame(&mut self, bytes: &[u8]) {
        let packet = packet(Psn::new(0), 1, send(Place::Only), bytes);
        let mut side = Side {
            node: &mut self.node,
            now: self.now,
            incoming: Some(&packet),
            out: &mut self.out,
        };
        self.qp.receive_frame(&mut side, bytes.len() as u32);
    }

    fn call<R>(&mut self, f: impl FnOnce(&mut Qp, &mut Side<'_>) -> R) -> R {
        let mut side = Side {
            node: &mut self.node,
            now: self.now,
            incoming: None,
            out: &mut self.out,
        };
        f(&mut self.qp, &mut side)
    }

    pub fn modify(&mut self, change: Modify) -> Result<(), vrnic_firmware::transport::ModifyError> {
        self.call(|qp, side| qp.modify(side, &change))
    }

    /// Polls until there is nothing to do and returns what was sent.
    #[track_caller]
    pub fn run(&mut self) -> Vec<Packet> {
        for _ in 0..10_000 {
            let done = self.call(|qp, side| qp.poll(side, 7)) != Poll::More;
            if done && !self.qp.has_work() {
                return std::mem::take(&mut self.out);
            }
        }
        panic!("polling does not come to an end");
    }

    /// Polls once, and returns how many PDUs are on the wire.
    pub fn poll_once(&mut self) -> usize {
        self.call(|qp, side| qp.poll(side, 64));
        self.out.len()
    }

    /// As [`Self::run`], without the payload.
    #[track_caller]
    pub fn pdus(&mut self) -> Vec<Pdu> {
        self.run().into_iter().map(|packet| packet.pdu).collect()
    }

    pub fn post(&mut self, cookie: u64, operation: SendOperation, offset: u64, length: u32) {
        self.post_to(Remote::Peer, cookie, operation, offset, length);
    }

    pub fn post_to(
        &mut self,
        remote: Remote,
        cookie: u64,
        operation: SendOperation,
        offset: u64,
        length: u32,
    ) {
        let work = work(cookie, operation, offset, length);
        self.node.sends.push_back(SendWork { remote, ..work });
        self.qp.post_notify();
    }

    pub fn deliver(&mut self, packet: &Packet) {
        let mut side = Side {
            node: &mut self.node,
            now: self.now,
            incoming: Some(packet),
            out: &mut self.out,
        };
        self.qp.receive(&mut side, &packet.pdu);
    }

    /// Hands in a request of one packet; `psn` counts from the first expected.
    pub fn request(&mut self, psn: i32, body: Body, payload: &[u8]) {
        self.requests(psn, 1, body, payload);
    }

    pub fn requests(&mut self, psn: i32, packets: u32, body: Body, payload: &[u8]) {
        let psn = Psn::new(self.setup.receive_psn.wrapping_add_signed(psn));
        let mut packet = packet(psn, packets, body, payload);
        packet.pdu.service = self.service();
        self.deliver(&packet);
    }

    /// What the peer's requests belong to.
    fn service(&self) -> Service {
        match self.setup.kind {
            Kind::Uc => Service::Unreliable,
            Kind::Ud | Kind::Gsi => Service::Datagram {
                qkey: QKEY,
                source: Qpn::new(0x22),
            },
            Kind::XrcInitiator | Kind::XrcTarget => Service::Extended { srqn: SRQN },
            Kind::Rc | Kind::Raw => Service::Reliable,
        }
    }

    /// Hands in a response; `psn` counts from the first sent.
    pub fn response(&mut self, psn: i32, body: Body, payload: &[u8]) {
        let psn = Psn::new(self.setup.send_psn.wrapping_add_signed(psn));
        let mut packet = packet(psn, 1, body, payload);
        if matches!(self.setup.kind, Kind::XrcInitiator | Kind::XrcTarget) {
            packet.pdu.service = Service::Extended { srqn: 0 };
        }
        self.deliver(&packet);
    }

    pub fn ack(&mut self, psn: i32) {
        self.response(psn, acknowledge(Syndrome::Ack(31)), &[]);
    }

    /// Says that the payload of a packet that was sent could not be read.
    pub fn unreadable(&mut self, packet: &Packet) {
        self.call(|qp, side| qp.unreadable(side, &packet.pdu));
    }

    pub fn nak(&mut self, psn: i32, code: NakCode) {
        self.response(psn, acknowledge(Syndrome::Nak(code)), &[]);
    }

    /// Lets the next timer expire.
    #[track_caller]
    pub fn expire(&mut self) {
        let deadline = self.qp.deadline().expect("a timer runs");
        self.now = self.now.max(deadline);
        self.call(|qp, side| qp.expire(side));
    }

    /// Sequence numbers sent, counted from the first.
    #[track_caller]
    pub fn sent_psns(&mut self) -> Vec<i32> {
        let first = Psn::new(self.setup.send_psn);
        self.pdus().iter().map(|pdu| pdu.psn.since(first)).collect()
    }

    /// The answers sent: sequence number counted from the first expected, and what was said.
    #[track_caller]
    pub fn answers(&mut self) -> Vec<(i32, Syndrome)> {
        let first = Psn::new(self.setup.receive_psn);
        let pdus = self.pdus();
        let mut answers = Vec::new();
        for pdu in pdus {
            if let Body::Acknowledge(ack) = pdu.body {
                answers.push((pdu.psn.since(first), ack.syndrome));
            }
        }
        answers
    }
}

pub fn work(cookie: u64, operation: SendOperation, offset: u64, length: u32) -> SendWork {
    SendWork {
        remote: Remote::Peer,
        cookie,
        operation,
        sges: [sge(offset, length)].into_iter().collect(),
        inline: Default::default(),
        solicited: false,
        fence: false,
        signaled: true,
    }
}

pub fn packet(psn: Psn, packets: u32, body: Body, payload: &[u8]) -> Packet {
    Packet {
        pdu: Pdu {
            destination: Qpn::new(0x11),
            service: Service::Reliable,
            psn,
            packets,
            length: payload.len() as u32,
            ack_request: true,
            solicited: false,
            body,
        },
        payload: payload.to_vec(),
        lost_source: false,
        marked: false,
    }
}

pub fn acknowledge(syndrome: Syndrome) -> Body {
    Body::Acknowledge(Acknowledge {
        syndrome,
        msn: Psn::new(0),
    })
}

pub const SEND: SendOperation = SendOperation::Send(SendTail::None);

pub fn send(place: Place) -> Body {
    Body::Send {
        place,
        tail: SendTail::None,
    }
}

pub fn range(offset: u64, length: u32) -> RemoteRange {
    RemoteRange {
        address: BASE + offset,
        rkey: KEY,
        length,
    }
}

pub fn write_operation(offset: u64) -> SendOperation {
    SendOperation::Write {
        address: BASE + offset,
        rkey: KEY,
        immediate: None,
    }
}

pub fn read_operation(offset: u64) -> SendOperation {
    SendOperation::Read {
        address: BASE + offset,
        rkey: KEY,
    }
}

pub fn read_response(place: Place) -> Body {
    Body::ReadResponse {
        place,
        acknowledge: Some(Acknowledge {
            syndrome: Syndrome::Ack(31),
            msn: Psn::new(0),
        }),
    }
}

/// What the wire does to PDUs, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplication: u64,
    /// Largest extra delay in nanoseconds: reorders.
    pub jitter: u64,
    /// Marks of congestion.
    pub marks: u64,
}

struct Flight {
    at: Time,
    to: usize,
    packet: Packet,
}

/// Two queue pairs and a wire.
pub struct Pair {
    pub ends: [Solo; 2],
    pub faults: Faults,
    pub random: Random,
    flights: Vec<Flight>,
    pub now: Time,
    pub delivered: u64,
}

impl Pair {
    pub fn new(seed: u64, mut setup: Setup, faults: Faults) -> Self {
        let first = Solo::rts(setup);
        std::mem::swap(&mut setup.send_psn, &mut setup.receive_psn);
        let mut ends = [first, Solo::rts(setup)];
        if seed % 4 == 0 {
            // The front end holds requests back; all must be done nevertheless.
            let hand_out = 1 + usize::try_from(seed / 4 % 5).unwrap_or(0);
            ends.iter_mut().for_each(|end| end.node.hand_out = hand_out);
        }
        Self {
            ends,
            faults,
            random: Random(seed),
            flights: Vec::new(),
            now: Time(0),
            delivered: 0,
        }
    }

    /// Lets both ends send what they can; random budgets and room.
    pub fn poll(&mut self) {
        for end in 0..2 {
            self.ends[end].now = self.now;
            while self.ends[end].qp.has_work() {
                let budget = 1 + self.random.below(20) as u32;
                self.ends[end].node.room = 1 + self.random.below(30) as usize;
                self.ends[end].call(|qp, side| qp.poll(side, budget));
                let out = std::mem::take(&mut self.ends[end].out);
                for packet in out {
                    self.launch(1 - end, packet);
                }
            }
        }
    }

    fn launch(&mut self, to: usize, packet: Packet) {
        let copies = if self.random.percent(self.faults.loss) {
            0
        } else {
            1 + usize::from(self.random.percent(self.faults.duplication))
        };
        for _ in 0..copies {
            let delay = 1000 + self.random.below(self.faults.jitter + 1);
            let marked = self.random.percent(self.faults.marks);
            self.flights.push(Flight {
                at: Time(self.now.0 + delay),
                to,
                packet: Packet {
                    marked,
                    ..packet.clone()
                },
            });
        }
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Time> {
        let flights = self.flights.iter().map(|flight| flight.at);
        let timers = self.ends.iter().filter_map(|end| end.qp.deadline());
        flights.chain(timers).min()
    }

    /// Advances time and handles what happens at or before `until`, if anything does.
    pub fn advance(&mut self, until: Time) {
        self.now = self.now.max(until);
        // The order of simultaneous arrivals is that of sending.
        let mut due: Vec<Flight> = Vec::new();
        let now = self.now;
        let mut index = 0;
        while index < self.flights.len() {
            if self.flights[index].at <= now {
                due.push(self.flights.remove(index));
            } else {
                index += 1;
            }
        }
        due.sort_by_key(|flight| flight.at);
        for flight in due {
            let end = &mut self.ends[flight.to];
            end.now = now;
            end.deliver(&flight.packet);
            self.delivered += 1;
        }
        for end in &mut self.ends {
            end.now = now;
            end.call(|qp, side| qp.expire(side));
        }
    }
}
