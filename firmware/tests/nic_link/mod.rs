//! Two NICs and the wire between them, in virtual time.
//!
//! The wire is the one that `vrnic serve --impair` puts before a link: what chance or exact events
//! do to frames is done by the same code.

#![allow(dead_code, reason = "not every test looks at everything")]
#![allow(missing_docs, unreachable_pub, clippy::expect_used)]

use vrnic_firmware::impair::{Direction, Impairment, Spec};
use vrnic_firmware::nic::Progress;
use vrnic_firmware::types::Time;

use crate::nic_bench::Bench;

/// Two NICs, and what happens to frames on the way from each.
pub struct Link {
    pub nics: [Bench; 2],
    /// From the first NIC to the second, and back.
    pub wires: [Impairment; 2],
    /// Every frame at both ends of its wire, in the order of things, if that is wanted.
    pub log: Option<Vec<Seen>>,
    ports: Option<Ports>,
}

/// Ports that send at a rate, and hold up their NIC when it is faster.
struct Ports {
    /// Bits per second.
    rate: u64,
    /// When the last bit of the last frame has left, for each NIC.
    free: [Time; 2],
}

/// Frames that a port of a rate takes before it sends them.
const PORT_FRAMES: usize = 8;

/// Where a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A NIC handed it to its wire.
    Sent,
    /// The other NIC got it.
    Arrived,
}

/// A frame at one end of its wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at: Time,
    /// The NIC that sent it.
    pub from: usize,
    pub point: Point,
    pub frame: Vec<u8>,
}

/// A wire with impairments and exact events as `--impair` and `--impair-event` take them; an empty
/// text for none, a semicolon between events.
#[track_caller]
pub fn wire(settings: &str, events: &str, direction: Direction) -> Impairment {
    let mut spec = Spec::default();
    if !settings.is_empty() {
        spec.set(&settings.parse().expect("settings"))
            .expect("settings");
    }
    for event in events.split(';').filter(|event| !event.is_empty()) {
        spec.add(&event.parse().expect("an event"));
    }
    let none = || Impairment::new(direction, Default::default(), &[]);
    spec.build(direction).unwrap_or_else(none)
}

impl Link {
    /// Two NICs without functions.
    pub fn new(wires: [Impairment; 2]) -> Self {
        Self {
            nics: [Bench::default(), Bench::default()],
            wires,
            log: None,
            ports: None,
        }
    }

    /// Both NICs' ports send `rate` bits per second. Unlike the rate of an impairment, which is one
    /// of a wire further down, this loses nothing: a NIC waits for room in its port.
    pub fn set_rate(&mut self, rate: u64) {
        let free = [self.now(); 2];
        self.ports = Some(Ports { rate, free });
        for nic in &mut self.nics {
            nic.wire.limit = Some(PORT_FRAMES);
        }
    }

    /// A wire with the same impairments in both directions.
    #[track_caller]
    pub fn with(settings: &str) -> Self {
        Self::new([
            wire(settings, "", Direction::Transmit),
            wire(settings, "", Direction::Receive),
        ])
    }

    pub fn now(&self) -> Time {
        self.nics[0].now
    }

    /// Does everything that can be done without waiting; each round takes a microsecond.
    pub fn settle(&mut self) {
        while self.round() {}
    }

    /// One step of both NICs and their wires; `false` if there was nothing to do.
    pub fn round(&mut self) -> bool {
        let [x, y] = &mut self.nics;
        let mut busy = x.step() == Progress::Busy;
        y.now = x.now;
        busy |= y.nic.step(y.now, &mut y.wire) == Progress::Busy;
        // What a NIC sent in its step, it sent before anything else arrives.
        busy |= self.depart(0) | self.depart(1);
        busy |= self.arrive(0) | self.arrive(1);
        busy
    }

    /// Lets time pass to the next thing that happens by itself; `false` if there is none.
    pub fn pass(&mut self) -> bool {
        let timers = self.nics.iter().map(|bench| bench.nic.next_timeout());
        let wires = self.wires.iter().map(Impairment::next_timeout);
        let nics = [0, 1].into_iter();
        let ports = nics.map(|nic| self.ports.as_ref()?.next(nic, &self.nics[nic]));
        let Some(next) = timers.chain(wires).chain(ports).flatten().min() else {
            return false;
        };
        let now = next.max(self.now());
        self.nics.iter_mut().for_each(|bench| bench.now = now);
        true
    }

    /// Lets time pass until `over`, of which `end` is a bound.
    #[track_caller]
    pub fn run(&mut self, end: Time, mut over: impl FnMut(&mut Self) -> bool) {
        loop {
            self.settle();
            if over(self) {
                return;
            }
            assert!(self.pass(), "nothing is left that could end it");
            assert!(self.now() < end, "it does not end");
        }
    }

    /// Frames on the way.
    pub fn in_flight(&self) -> usize {
        self.wires.iter().map(Impairment::in_flight).sum()
    }

    /// Puts what a NIC sent on its wire.
    fn depart(&mut self, from: usize) -> bool {
        let mut any = false;
        let now = self.nics[from].now;
        while let Some(length) = self.nics[from].wire.sent.front().map(Vec::len) {
            let at = match &mut self.ports {
                None => Some(now),
                Some(ports) => ports.send(now, from, length),
            };
            let Some(at) = at else {
                return true;
            };
            let frame = self.nics[from].wire.sent.pop_front().unwrap_or_default();
            self.wires[from].handle(at, &frame);
            self.note(at, from, Point::Sent, frame);
            any = true;
        }
        any
    }

    /// Hands what has come through a NIC's wire to the other.
    fn arrive(&mut self, from: usize) -> bool {
        let mut any = false;
        let at = self.nics[1 - from].now;
        while let Some(frame) = self.wires[from].peek(at) {
            let to = &mut self.nics[1 - from];
            to.nic.receive(at, frame, &mut to.wire);
            if self.log.is_some() {
                let frame = frame.to_vec();
                self.note(at, from, Point::Arrived, frame);
            }
            self.wires[from].pop();
            any = true;
        }
        any
    }

    fn note(&mut self, at: Time, from: usize, point: Point, frame: Vec<u8>) {
        if let Some(log) = &mut self.log {
            log.push(Seen {
                at,
                from,
                point,
                frame,
            });
        }
    }
}

impl Ports {
    /// When the last bit of the next frame leaves, if the one before has left.
    fn send(&mut self, now: Time, nic: usize, length: usize) -> Option<Time> {
        let free = &mut self.free[nic];
        if *free > now {
            return None;
        }
        let idle = Time(now.0.saturating_sub(1_000));
        let takes = length as u64 * 8_000_000_000 / self.rate;
        *free = Time(idle.max(*free).0 + takes);
        Some(*free)
    }

    /// When the next frame can leave.
    fn next(&self, nic: usize, bench: &Bench) -> Option<Time> {
        (!bench.wire.sent.is_empty()).then_some(self.free[nic])
    }
}
