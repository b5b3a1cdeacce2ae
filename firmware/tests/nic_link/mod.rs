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
}

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

/// A wire with impairments and at most one exact event as `--impair` and `--impair-event` take
/// them; empty texts for none.
#[track_caller]
pub fn wire(settings: &str, event: &str, direction: Direction) -> Impairment {
    let mut spec = Spec::default();
    if !settings.is_empty() {
        spec.set(&settings.parse().expect("settings"))
            .expect("settings");
    }
    if !event.is_empty() {
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
        loop {
            let [x, y] = &mut self.nics;
            let mut busy = x.step() == Progress::Busy;
            y.now = x.now;
            busy |= y.nic.step(y.now, &mut y.wire) == Progress::Busy;
            busy |= self.cross(0) | self.cross(1);
            if !busy {
                return;
            }
        }
    }

    /// Lets time pass to the next thing that happens by itself; `false` if there is none.
    pub fn pass(&mut self) -> bool {
        let timers = self.nics.iter().map(|bench| bench.nic.next_timeout());
        let wires = self.wires.iter().map(Impairment::next_timeout);
        let Some(next) = timers.chain(wires).flatten().min() else {
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

    fn cross(&mut self, from: usize) -> bool {
        let mut any = false;
        let wire = &mut self.wires[from];
        while let Some(frame) = self.nics[from].wire.sent.pop_front() {
            let at = self.nics[from].now;
            wire.handle(at, &frame);
            if let Some(log) = &mut self.log {
                let point = Point::Sent;
                log.push(Seen {
                    at,
                    from,
                    point,
                    frame,
                });
            }
            any = true;
        }
        let to = &mut self.nics[1 - from];
        while let Some(frame) = wire.peek(to.now) {
            to.nic.receive(to.now, frame, &mut to.wire);
            if let Some(log) = &mut self.log {
                log.push(Seen {
                    at: to.now,
                    from,
                    point: Point::Arrived,
                    frame: frame.to_vec(),
                });
            }
            wire.pop();
            any = true;
        }
        any
    }
}
