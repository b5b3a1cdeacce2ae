//! Functions on one NIC or on two with a link of a rate between them, and streams of requests that
//! never run dry.

use bytemuck::bytes_of;
use vrnic_abi::admin::{QpFlags, QpType};
use vrnic_abi::counter::Counter;
use vrnic_abi::wqe::{DataSegment, WqeOpcode};
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::{NicConfig, Policy, Progress};

use crate::nic_bench::*;

pub const MICRO: u64 = 1_000;
pub const MILLI: u64 = 1_000_000;
const QKEY: u32 = 0x1234;
/// Frames that wait in the port of the link.
const PORT_FRAMES: usize = 8;
/// Ethernet, IPv4 and UDP headers, BTH and ICRC.
const HEADERS: u64 = 14 + 20 + 8 + 12 + 4;
/// Data of a packet of a connection.
const MTU: u64 = 1024;

/// Where the peers of the functions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On the same NIC.
    Direct,
    /// Behind a link of so many Mbit/s.
    Link(u64),
}

/// One or two NICs.
pub struct World {
    pub nics: Vec<Bench>,
    /// Mbit/s of the link.
    rate: u64,
    /// Bytes that have left the first NIC.
    pub crossed: u64,
    /// When the last bit of what has left the port is on the link.
    free: u64,
}

impl World {
    pub fn new(way: Way) -> Self {
        let bench = || Bench::new(NicConfig::default());
        let (mut nics, mut rate) = (vec![bench()], 1);
        if let Way::Link(mbit) = way {
            nics.push(bench());
            nics[0].wire.limit = Some(PORT_FRAMES);
            rate = mbit;
        }
        Self {
            nics,
            rate,
            crossed: 0,
            free: 0,
        }
    }

    pub fn now(&self) -> u64 {
        self.nics[0].now.0
    }

    /// The NIC that has the peers.
    pub fn far(&mut self) -> &mut Bench {
        self.nics.last_mut().unwrap()
    }

    /// Two connected functions, `n` on the first NIC and its peer `n + 100`.
    #[track_caller]
    pub fn pair(&mut self, n: u8) -> [Node; 2] {
        let mut near = Node::new(&mut self.nics[0], n);
        let mut far = Node::new(self.far(), n + 100);
        let (a, b) = (near.qp.number, far.qp.number);
        let peer = far.driver.n;
        near.driver.connect(&mut self.nics[0], a, peer, b);
        far.driver.connect(self.far(), b, n, a);
        let bytes: Vec<u8> = (0..BUFFER).map(|at| (at * 7 + at / 251) as u8).collect();
        near.hw().ram.write(near.memory, &bytes).unwrap();
        [near, far]
    }

    /// Changes the rules of a function of the first NIC.
    #[track_caller]
    pub fn set(&mut self, node: &Node, change: impl FnOnce(&mut Policy)) {
        let nic = &mut self.nics[0].nic;
        let mut policy = nic.policy(node.driver.id).unwrap().clone();
        change(&mut policy);
        nic.set_policy(node.driver.id, policy).unwrap();
    }

    /// Lets a microsecond pass; returns whether anything happened.
    pub fn tick(&mut self) -> bool {
        let mut busy = self.nics[0].step() == Progress::Busy;
        let now = self.nics[0].now;
        let [near, far] = &mut self.nics[..] else {
            return busy;
        };
        far.now = now;
        busy |= far.nic.step(now, &mut far.wire) == Progress::Busy;
        while self.free <= now.0 {
            let Some(frame) = near.wire.sent.pop_front() else {
                break;
            };
            self.crossed += frame.len() as u64;
            let begin = self.free.max(now.0 - MICRO);
            self.free = begin + frame.len() as u64 * 8_000 / self.rate;
            far.nic.receive(now, &frame, &mut far.wire);
            busy = true;
        }
        for frame in far.wire.sent.drain(..) {
            near.nic.receive(now, &frame, &mut near.wire);
            busy = true;
        }
        busy
    }

    /// When something happens by itself.
    pub fn next(&self) -> Option<u64> {
        let timers = self
            .nics
            .iter()
            .filter_map(|bench| bench.nic.next_timeout());
        let port = !self.nics[0].wire.sent.is_empty();
        let timers = timers.map(|time| time.0);
        timers.chain(port.then_some(self.free)).min()
    }

    /// Lets time pass until `end`, and keeps streams going; the engine sleeps when it can.
    #[track_caller]
    pub fn run(&mut self, streams: &mut [Stream], end: u64) {
        while self.now() < end {
            for stream in &mut *streams {
                stream.pump();
            }
            if !self.tick() {
                let next = self.next().unwrap_or(end).min(end);
                let now = &mut self.nics[0].now.0;
                *now = next.saturating_sub(MICRO).max(*now);
            }
        }
    }
}

/// What is posted again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WRITE of so many bytes.
    Write(u32),
    /// READ of so many bytes by the far function: the near one sends them.
    Read(u32),
    /// Datagrams.
    Datagram(u32),
    /// Ethernet frames, with their header.
    Frame(u32),
}

impl Kind {
    /// Bytes of all frames of one of them.
    pub fn on_the_wire(self) -> u64 {
        let message = |length: u32, extra| {
            let length = u64::from(length);
            let packets = length.div_ceil(MTU).max(1);
            length.next_multiple_of(4) + packets * HEADERS + extra
        };
        match self {
            Self::Write(length) => message(length, 16),
            Self::Read(length) => message(length, if u64::from(length) > MTU { 8 } else { 4 }),
            Self::Datagram(length) => message(length, 8),
            Self::Frame(length) => length.into(),
        }
    }
}

/// Requests that follow each other.
pub struct Stream {
    pub kind: Kind,
    pub near: Node,
    pub far: Node,
    /// The queue pair of datagrams or frames, and that of the peer.
    other: Option<(Qp, u32)>,
    /// Requests that may wait for their completions.
    depth: u64,
    pub posted: u64,
    pub done: u64,
    /// No more are posted.
    pub over: bool,
}

impl Stream {
    /// A stream of function `n`.
    #[track_caller]
    pub fn new(world: &mut World, n: u8, kind: Kind) -> Self {
        let [mut near, mut far] = world.pair(n);
        let other = match kind {
            Kind::Write(_) | Kind::Read(_) => None,
            Kind::Datagram(_) => {
                let to = far
                    .driver
                    .datagram_qp(world.far(), far.pd, &far.cq, QpType::Ud, QKEY);
                let bench = &mut world.nics[0];
                let driver = &mut near.driver;
                let from = driver.datagram_qp(bench, near.pd, &near.cq, QpType::Ud, QKEY);
                Some((from, to.number))
            }
            Kind::Frame(length) => {
                let header = [&mac(n + 100).0[..], &mac(n).0, &[0x88, 0xb5]].concat();
                near.hw().ram.write(near.memory, &header).unwrap();
                assert!(length >= 60, "no padding");
                let bench = &mut world.nics[0];
                let driver = &mut near.driver;
                let qp = driver.raw_qp(bench, near.pd, &near.cq, QpFlags::empty());
                Some((qp, 0))
            }
        };
        Self {
            kind,
            near,
            far,
            other,
            depth: 16,
            posted: 0,
            done: 0,
            over: false,
        }
    }

    /// Bytes of frames of the requests that are done.
    pub fn bytes(&self) -> u64 {
        self.done * self.kind.on_the_wire()
    }

    /// Takes completions, and posts as many requests.
    #[track_caller]
    pub fn pump(&mut self) {
        let from = match self.kind {
            Kind::Read(_) => &mut self.far,
            _ => &mut self.near,
        };
        while let Some(entry) = from.poll() {
            assert_eq!(entry.status, 0, "{:?} after {}", self.kind, self.done);
            self.done += 1;
        }
        while !self.over && self.posted < self.done + self.depth {
            self.post();
            self.posted += 1;
        }
    }

    fn post(&mut self) {
        let list = |node: &Node, length| [node.segment(0, length)];
        match self.kind {
            Kind::Write(length) => {
                let (to, list) = ((self.far.memory, self.far.key), list(&self.near, length));
                let hw = &self.near.driver.hw;
                self.near.qp.rdma(hw, WqeOpcode::Write, to, &list);
            }
            Kind::Read(length) => {
                let (to, list) = ((self.near.memory, self.near.key), list(&self.far, length));
                let hw = &self.far.driver.hw;
                self.far.qp.rdma(hw, WqeOpcode::Read, to, &list);
            }
            Kind::Datagram(length) => {
                let n = self.far.driver.n;
                let (qp, to) = self.other.as_mut().unwrap();
                let to = datagram(*to, QKEY, gid(n), mac(n));
                let control = control(WqeOpcode::Send, 0, 1);
                let list = [self.near.segment(0, length)];
                qp.send_datagram(&self.near.driver.hw, control, &to, &list);
            }
            Kind::Frame(length) => {
                let list: [DataSegment; 1] = list(&self.near, length);
                let (qp, _) = self.other.as_mut().unwrap();
                let control = control(WqeOpcode::Send, 0, 1);
                qp.post(&self.near.driver.hw, control, &[bytes_of(&list[0])]);
            }
        }
    }

    /// Lets what is posted end, and looks at what came of it.
    #[track_caller]
    pub fn finish(mut self, world: &mut World) {
        self.over = true;
        for _ in 0..1_000_000 {
            self.pump();
            if self.done == self.posted {
                break;
            }
            let end = world.next().unwrap_or(world.now()) + MICRO;
            world.run(&mut [], end);
        }
        assert_eq!(self.done, self.posted, "{:?} is lost", self.kind);
        let [sent, got] = [&self.near, &self.far].map(|node| (node.hw(), node.memory));
        if let Kind::Write(length) | Kind::Read(length) = self.kind {
            let bytes = |(hw, memory): (&Hardware, u64)| hw.bytes(memory, BUFFER as usize);
            let (sent, got) = (bytes(sent), bytes(got));
            let (data, rest) = got.split_at(length as usize);
            assert!(data == &sent[..length as usize], "{:?} changed", self.kind);
            assert!(rest.iter().all(|byte| *byte == PATTERN));
        }
        for (node, bench) in [(&self.near, 0), (&self.far, world.nics.len() - 1)] {
            for counter in [Counter::LocalAckTimeoutErr, Counter::TxRetransmits] {
                let count = node.counter(&world.nics[bench], counter);
                assert_eq!(count, 0, "{counter:?} with {:?}", self.kind);
            }
        }
    }
}

/// Bytes that a rate in Mbit/s brings in so many nanoseconds.
pub const fn due(rate: u64, nanoseconds: u64) -> u64 {
    rate * nanoseconds / 8_000
}

/// Checks that one number is another, but for so many percent.
#[track_caller]
pub fn close(found: u64, wanted: u64, percent: u64, what: &str) {
    let bound = wanted * percent / 100;
    assert!(
        found.abs_diff(wanted) <= bound,
        "{what}: {found} is not {wanted}"
    );
}
