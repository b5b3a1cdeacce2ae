//! Two NICs and the wire between them, in virtual time.
//!
//! The wire is the one that `vrnic serve --impair` puts before a link: what chance or exact events
//! do to frames is done by the same code.

#![allow(dead_code, reason = "not every test looks at everything")]

use vrnic_firmware::impair::{Direction, Impairment, Spec};
use vrnic_firmware::nic::Progress;
use vrnic_firmware::types::Time;

use crate::nic_bench::Bench;

/// Two NICs, and what happens to frames on the way from each.
pub struct Link {
    pub nics: [Bench; 2],
    /// From the first NIC to the second, and back.
    pub wires: [Impairment; 2],
    /// Every frame that a NIC handed to its wire, if that is wanted.
    pub log: Option<Vec<Sent>>,
}

/// A frame that a NIC sent.
pub struct Sent {
    pub at: Time,
    pub from: usize,
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
                log.push(Sent { at, from, frame });
            }
            any = true;
        }
        let to = &mut self.nics[1 - from];
        while let Some(frame) = wire.peek(to.now) {
            to.nic.receive(to.now, frame, &mut to.wire);
            wire.pop();
            any = true;
        }
        any
    }
}
