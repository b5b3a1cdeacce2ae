//! Two ends, what is posted, and what must have come of it.
//!
//! Every operation has memory of its own at both ends, with bytes that nobody may touch around it. A
//! copy of both ends' memory is kept as it has to be in the end, and compared as a whole.

use bytemuck::{bytes_of, cast_slice};
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Buffer, CreateMr};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionStatus};
use vrnic_abi::wqe::{
    AtomicSegment, FlushPlacement, FlushSegment, RemoteSegment, WqeFlags, WqeOpcode,
};
use vrnic_firmware::host::Memory;
use vrnic_firmware::impair::Direction;
use vrnic_firmware::types::Time;

use crate::nic_bench::*;
use crate::nic_link::{Link, Point, wire};
use crate::packet::{Packet, Says};
use crate::rules::{self, Terms};

const ACCESS: AccessFlags = AccessFlags::REMOTE_WRITE
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC)
    .union(AccessFlags::FLUSH_GLOBAL);
/// Bytes around each piece of memory that stay as they are.
const GAP: u64 = 64;
/// The number that atomic operations are about.
pub const COUNTER: u64 = BUFFER - 64;
/// Ack timeout of most tests: 4.096 µs times 2 to the power of this.
pub const TIMEOUT: u8 = 8;

/// First sequence numbers of a connection: nowhere near the end, and so that the numbers wrap before
/// the second, third, … packet.
pub const FIRSTS: [u32; 4] = [0, 0xff_ffff, 0xff_fffe, 0xff_fffc];

/// What a connection is like.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub first: u32,
    /// Code: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    pub timeout: u8,
    pub retries: u8,
    pub rnr_retries: u8,
    /// What the responder asks for without a receive.
    pub rnr_timer: u8,
    pub depth: u8,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            first: 0xff_fffd,
            mtu: 1,
            timeout: TIMEOUT,
            retries: 3,
            rnr_retries: 3,
            rnr_timer: 1,
            depth: 64,
        }
    }
}

impl Setup {
    pub fn from(first: u32) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    pub fn mtu(&self) -> u32 {
        128 << self.mtu
    }

    pub fn ack_timeout(&self) -> u64 {
        4096 << self.timeout
    }

    fn terms(&self) -> Terms {
        Terms {
            mtu: self.mtu(),
            timeout: (self.timeout > 0).then(|| self.ack_timeout()),
        }
    }
}

/// What is asked of the requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write(u32),
    Send(u32),
    Read(u32),
    FetchAdd(u64),
    AtomicWrite,
    Flush,
}

/// Counters that tell about recovery; the rest of both ends' is zero in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// At the requester.
    pub retransmits: u64,
    pub sequence_errors: u64,
    pub implied: u64,
    pub timeouts: u64,
    pub rnr_received: u64,
    pub rnr_exceeded: u64,
    pub errors: u64,
    pub bad_responses: u64,
    /// At the responder.
    pub out_of_sequence: u64,
    pub duplicates: u64,
    pub sequence_naks: u64,
    pub rnr_naks: u64,
    pub no_buffer: u64,
    pub bad_requests: u64,
}

pub struct World {
    pub setup: Setup,
    pub link: Link,
    pub ends: [Node; 2],
    /// The memory as it must be in the end.
    expected: [Vec<u8>; 2],
    /// First byte at each end that no operation has.
    free: [u64; 2],
    random: Random,
    /// What every atomic operation adds to, as it will be.
    counter: u64,
    posted: usize,
    pub completions: Vec<CompletionEntry>,
    /// Lengths of the messages that receives end with.
    messages: Vec<u32>,
    received: Vec<CompletionEntry>,
    /// Where each message goes.
    targets: Vec<(u64, u32)>,
    /// Receives are posted with the operations that need them.
    pub receives: bool,
    /// Events may have found no packet.
    pub optional_events: bool,
}

impl World {
    #[track_caller]
    pub fn new(setup: Setup) -> Self {
        let mut link = Link::with("");
        let [x, y] = &mut link.nics;
        let mut ends = [Node::new(x, 1), Node::new(y, 2)];
        let numbers = [ends[0].qp.number, ends[1].qp.number];
        for (end, node) in ends.iter_mut().enumerate() {
            let bench = &mut link.nics[end];
            node.key = region(bench, node);
            node.hw().ram.write(node.memory + COUNTER, &[0; 8]).unwrap();
            connect(bench, node, numbers[1 - end], 2 - end as u8, setup);
        }
        let now = link.nics.iter().map(|nic| nic.now).max().unwrap();
        link.nics.iter_mut().for_each(|nic| nic.now = now);
        link.log = Some(Vec::new());
        let memory = |node: &Node| node.hw().bytes(node.memory, BUFFER as usize);
        Self {
            setup,
            link,
            expected: [memory(&ends[0]), memory(&ends[1])],
            ends,
            free: [GAP; 2],
            random: Random(setup.first.into()),
            counter: 0,
            posted: 0,
            completions: Vec::new(),
            messages: Vec::new(),
            received: Vec::new(),
            targets: Vec::new(),
            receives: true,
            optional_events: false,
        }
    }

    /// Sets what happens on the way to the responder and back. `@3` is the fourth sequence number
    /// of the connection, `@peer` the number of the queue pair at the other end.
    #[track_caller]
    pub fn events(&mut self, there: &str, back: &str) {
        let peer = [self.ends[1].qp.number, self.ends[0].qp.number];
        for (end, events) in [there, back].into_iter().enumerate() {
            let events = absolute(events, self.setup.first, peer[end]);
            let direction = [Direction::Transmit, Direction::Receive][end];
            self.link.wires[end] = wire("", &events, direction);
        }
    }

    /// Sets what happens by chance, in both directions.
    #[track_caller]
    pub fn chance(&mut self, settings: &str) {
        self.link.wires = [Direction::Transmit, Direction::Receive]
            .map(|direction| wire(settings, "", direction));
    }

    /// As [`Self::events`], for a world that does what they say and to which all `operations` are
    /// posted.
    #[track_caller]
    pub fn with(setup: Setup, there: &str, back: &str, operations: &[Op]) -> Self {
        let mut world = Self::new(setup);
        world.events(there, back);
        operations.iter().for_each(|op| world.post(*op));
        world
    }

    /// As [`Self::with`], until all operations have succeeded.
    #[track_caller]
    pub fn done(setup: Setup, there: &str, back: &str, operations: &[Op]) -> Self {
        let mut world = Self::with(setup, there, back, operations);
        world.succeed();
        world
    }

    /// Posts an operation, and a receive if it needs one.
    #[track_caller]
    pub fn post(&mut self, op: Op) {
        let hw = self.ends[0].driver.hw.clone();
        self.posted += 1;
        match op {
            Op::Write(length) | Op::Send(length) => {
                let data = self.data(length);
                let (from, to) = (self.place(0, length), self.place(1, length));
                self.fill(0, from, &data);
                self.expect(1, to, &data);
                self.targets.push((to, length));
                let piece = self.ends[0].segment(from, length);
                let remote = self.remote(to);
                let qp = &mut self.ends[0].qp;
                if let Op::Write(_) = op {
                    qp.rdma(&hw, WqeOpcode::Write, remote, &[piece]);
                } else {
                    qp.send(&hw, WqeOpcode::Send, 0, &[piece]);
                    self.messages.push(length);
                    if self.receives {
                        self.post_receive(to, length);
                    }
                }
            }
            Op::Read(length) => {
                let data = self.data(length);
                let (to, from) = (self.place(0, length), self.place(1, length));
                self.fill(1, from, &data);
                self.expect(0, to, &data);
                let piece = self.ends[0].segment(to, length);
                let remote = self.remote(from);
                self.ends[0].qp.rdma(&hw, WqeOpcode::Read, remote, &[piece]);
            }
            Op::FetchAdd(add) => self.post_fetch_add(add),
            Op::AtomicWrite => {
                let data = self.data(8);
                let to = self.place(1, 8);
                self.expect(1, to, &data);
                let mut control = control(WqeOpcode::AtomicWrite, 0, 0);
                control.flags |= WqeFlags::INLINE.bits();
                control.inline_length = 8;
                let remote = self.remote_segment(to);
                let inline: Vec<u8> = data.into_iter().chain([0; 8]).collect();
                let qp = &mut self.ends[0].qp;
                qp.post(&hw, control, &[bytes_of(&remote), &inline]);
            }
            Op::Flush => {
                let remote = self.remote_segment(0);
                let flush = FlushSegment {
                    length: 64,
                    placement: FlushPlacement::GLOBAL.bits(),
                    ..FlushSegment::default()
                };
                let control = control(WqeOpcode::Flush, 0, 0);
                let qp = &mut self.ends[0].qp;
                qp.post(&hw, control, &[bytes_of(&remote), bytes_of(&flush)]);
            }
        }
    }

    fn post_fetch_add(&mut self, add: u64) {
        let hw = self.ends[0].driver.hw.clone();
        let to = self.place(0, 8);
        let original = self.counter.to_le_bytes();
        self.expect(0, to, &original);
        self.counter += add;
        let counter = self.counter.to_le_bytes();
        self.expect(1, COUNTER, &counter);
        let operands = AtomicSegment {
            swap_or_add: add,
            compare: 0,
        };
        let pieces = [self.ends[0].segment(to, 8)];
        let remote = self.remote_segment(COUNTER);
        let rest: [&[u8]; 3] = [bytes_of(&remote), bytes_of(&operands), cast_slice(&pieces)];
        let control = control(WqeOpcode::FetchAdd, 0, 1);
        self.ends[0].qp.post(&hw, control, &rest);
    }

    /// Posts a receive at byte `offset` of the responder.
    fn post_receive(&mut self, offset: u64, length: u32) {
        let piece = self.ends[1].segment(offset, length);
        let hw = self.ends[1].driver.hw.clone();
        self.ends[1].qp.receive(&hw, &[piece]);
    }

    /// Posts the receive of the last SEND.
    pub fn post_held_receive(&mut self) {
        let (offset, length) = *self.targets.last().expect("a SEND");
        self.post_receive(offset, length);
    }

    /// Posts the receive of the SEND that is the nth WRITE or SEND, from 0.
    pub fn post_receive_of(&mut self, n: usize) {
        let (offset, length) = self.targets[n];
        self.post_receive(offset, length);
    }

    /// Writes other data to the last piece of memory of the requester, which is to stay.
    pub fn overwrite_result(&mut self, length: u32) {
        let data = self.data(length);
        let offset = self.last_place(0, length) - self.ends[0].memory;
        self.fill(0, offset, &data);
    }

    /// Address of the last piece of memory of `length` bytes at an end.
    pub fn last_place(&self, end: usize, length: u32) -> u64 {
        let offset = self.free[end] - GAP - u64::from(length).next_multiple_of(8);
        self.ends[end].memory + offset
    }

    fn data(&mut self, length: u32) -> Vec<u8> {
        let mut data = vec![0; length as usize];
        self.random.fill(&mut data);
        data
    }

    fn place(&mut self, end: usize, length: u32) -> u64 {
        let at = self.free[end];
        self.free[end] = at + u64::from(length).next_multiple_of(8) + GAP;
        assert!(self.free[end] < COUNTER, "too much memory is used");
        at
    }

    fn fill(&mut self, end: usize, offset: u64, data: &[u8]) {
        let node = &self.ends[end];
        node.hw().ram.write(node.memory + offset, data).unwrap();
        self.expect(end, offset, data);
    }

    fn expect(&mut self, end: usize, offset: u64, data: &[u8]) {
        let at = offset as usize;
        self.expected[end][at..at + data.len()].copy_from_slice(data);
    }

    fn remote(&self, offset: u64) -> (u64, u32) {
        (self.ends[1].memory + offset, self.ends[1].key)
    }

    fn remote_segment(&self, offset: u64) -> RemoteSegment {
        let (address, rkey) = self.remote(offset);
        RemoteSegment {
            address,
            rkey,
            reserved: 0,
        }
    }

    /// Lets time pass until all that was posted has completed, and nothing is on its way.
    #[track_caller]
    pub fn finish(&mut self) {
        self.run(|link| link.in_flight() == 0);
    }

    /// Lets time pass until all that was posted has completed.
    #[track_caller]
    pub fn succeed_so_far(&mut self) {
        self.run(|_| true);
        let last = self.completions.last().expect("a completion");
        assert_eq!(last.status, CompletionStatus::Success.raw());
    }

    #[track_caller]
    fn run(&mut self, over: impl Fn(&Link) -> bool) {
        let end = Time(self.link.now().0 + 60_000_000_000);
        let Self {
            link,
            ends: [a, b],
            completions,
            received,
            posted,
            ..
        } = self;
        link.run(end, |link| {
            completions.extend(std::iter::from_fn(|| a.poll()));
            received.extend(std::iter::from_fn(|| b.poll()));
            completions.len() == *posted && over(link)
        });
    }

    /// As [`Self::finish`]; all operations succeeded in order, all memory is as it must be, all
    /// events have acted, and all rules were kept.
    #[track_caller]
    pub fn succeed(&mut self) {
        self.finish();
        for (n, entry) in self.completions.iter().enumerate() {
            assert_eq!(entry.status, CompletionStatus::Success.raw(), "request {n}");
            assert_eq!(entry.wqe_index as usize, n, "in order");
        }
        let lengths: Vec<_> = self
            .received
            .iter()
            .map(|entry| entry.byte_length)
            .collect();
        assert_eq!(lengths, self.messages);
        for entry in &self.received {
            assert_eq!(entry.status, CompletionStatus::Success.raw());
            assert_eq!(entry.flags & CompletionFlags::SEND_QUEUE.bits(), 0);
        }
        self.check_memory();
        self.check_events();
        rules::check(self.setup.terms(), &self.packets());
    }

    #[track_caller]
    pub fn check_memory(&self) {
        for (end, node) in self.ends.iter().enumerate() {
            let bytes = node.hw().bytes(node.memory, BUFFER as usize);
            if bytes != self.expected[end] {
                let mut pairs = bytes.iter().zip(&self.expected[end]);
                let at = pairs.position(|(got, want)| got != want);
                panic!("{:?}: byte {at:?} of end {end} is wrong", self.setup);
            }
        }
    }

    #[track_caller]
    pub fn check_events(&self) {
        if self.optional_events {
            return;
        }
        for wire in &self.link.wires {
            let idle: Vec<_> = wire.idle_events().map(ToString::to_string).collect();
            assert!(idle.is_empty(), "never acted: {idle:?}");
        }
    }

    /// Everything that was seen at the ends of the wire and not damaged.
    pub fn packets(&self) -> Vec<Packet> {
        let log = self.link.log.as_ref().unwrap();
        log.iter()
            .filter_map(|seen| Packet::parse(seen, self.setup.first))
            .collect()
    }

    /// What an end sent, in order.
    pub fn sent(&self, from: usize) -> Vec<Packet> {
        let mut packets = self.packets();
        packets.retain(|packet| packet.point == Point::Sent && packet.from == from);
        packets
    }

    /// Sequence numbers of the request packets that were sent, in order.
    pub fn requests(&self) -> Vec<u32> {
        self.sent(0).iter().map(|packet| packet.index).collect()
    }

    /// Sequence numbers of a kind of answer, in order.
    pub fn answers(&self, says: Says) -> Vec<u32> {
        let answers = self.sent(1).into_iter();
        let answers = answers.filter(|packet| packet.says == says);
        answers.map(|packet| packet.index).collect()
    }

    pub fn count(&self, end: usize, counter: Counter) -> u64 {
        self.ends[end].counter(&self.link.nics[end], counter)
    }

    /// What the counters say, after making sure that those of the other half are zero.
    #[track_caller]
    pub fn tally(&self) -> Tally {
        let (a, b) = (|c| self.count(0, c), |c| self.count(1, c));
        let requesters = [
            Counter::TxRetransmits,
            Counter::PacketSeqErr,
            Counter::ImpliedNakSeqErr,
            Counter::LocalAckTimeoutErr,
            Counter::RnrNakReceived,
            Counter::RnrNakRetryErr,
        ];
        let responders = [
            Counter::OutOfSequence,
            Counter::DuplicateRequest,
            Counter::TxSeqNak,
            Counter::TxRnrNak,
            Counter::OutOfBuffer,
        ];
        assert_eq!(requesters.map(b), [0; 6], "the responder's");
        assert_eq!(responders.map(a), [0; 5], "the requester's");
        Tally {
            retransmits: a(Counter::TxRetransmits),
            sequence_errors: a(Counter::PacketSeqErr),
            implied: a(Counter::ImpliedNakSeqErr),
            timeouts: a(Counter::LocalAckTimeoutErr),
            rnr_received: a(Counter::RnrNakReceived),
            rnr_exceeded: a(Counter::RnrNakRetryErr),
            errors: a(Counter::ReqCqeError),
            bad_responses: a(Counter::RxIcrcEncapsulated),
            out_of_sequence: b(Counter::OutOfSequence),
            duplicates: b(Counter::DuplicateRequest),
            sequence_naks: b(Counter::TxSeqNak),
            rnr_naks: b(Counter::TxRnrNak),
            no_buffer: b(Counter::OutOfBuffer),
            bad_requests: b(Counter::RxIcrcEncapsulated),
        }
    }
}

/// Events with absolute sequence numbers.
fn absolute(events: &str, first: u32, peer: u32) -> String {
    let events = events.replace("@peer", &peer.to_string());
    let mut parts = events.split('@');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit());
        let (number, rest) = part.split_at(end.unwrap_or(part.len()));
        let index: u32 = number.parse().expect("a number after @");
        let psn = first.wrapping_add(index) & 0xff_ffff;
        text.push_str(&format!("{psn}{rest}"));
    }
    text
}

#[track_caller]
fn connect(bench: &mut Bench, node: &mut Node, remote: u32, peer: u8, setup: Setup) {
    let qp = node.qp.number;
    let (mask, mut given) = to_init();
    given.access = ACCESS.bits();
    node.driver.modify_ok(bench, qp, mask, &given);
    let (mask, mut given) = to_rtr(peer, remote);
    given.path_mtu = setup.mtu;
    given.receive_psn = setup.first;
    given.responder_resources = setup.depth;
    given.min_rnr_timer = setup.rnr_timer;
    node.driver.modify_ok(bench, qp, mask, &given);
    let (mask, mut given) = to_rts();
    given.send_psn = setup.first;
    given.initiator_depth = setup.depth;
    given.timeout = setup.timeout;
    given.retry_count = setup.retries;
    given.rnr_retry = setup.rnr_retries;
    node.driver.modify_ok(bench, qp, mask, &given);
}

/// A region of the whole buffer with all rights.
#[track_caller]
fn region(bench: &mut Bench, node: &mut Node) -> u32 {
    let body = CreateMr {
        pd: node.pd,
        access: (ACCESS | AccessFlags::LOCAL_WRITE).bits(),
        start: node.memory,
        length: BUFFER,
        buffer: Buffer {
            address: node.memory,
            pages: (BUFFER / 4096) as u32,
            page_shift: 12,
            ..Buffer::default()
        },
        variant: 0x11,
        ..CreateMr::default()
    };
    node.driver.ok(bench, AdminOpcode::CreateMr, &body) as u32
}
