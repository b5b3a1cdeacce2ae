//! A bad wire on purpose: loss, duplicates, reordering, delay, corruption, congestion marks and a
//! slower rate, one direction of a link at a time.
//!
//! An [`Impairment`] takes frames ([`Impairment::handle`]) and gives them back when they have come
//! through ([`Impairment::peek`] and [`Impairment::pop`], due at [`Impairment::next_timeout`]). It
//! reads no clock and does no I/O, so the device puts it before a link and tests put it between two
//! NICs in virtual time. A [`Profile`] says what happens by chance, [`Event`]s say what happens to
//! certain packets; [`Spec`] reads both from text.
//!
//! What happens to a frame, in this order: it is lost; it is marked; one bit flips; it is held back
//! while others overtake it; it comes twice; it passes the bottleneck; it is delayed.
//!
//! **Reproducible.** What chance does to frame n of a direction is a function of the seed, the
//! direction, n and the kind of impairment, and of nothing else: the same seed and the same frames
//! give the same result, byte for byte, and to switch one kind on changes nothing of another.
//!
//! **Bounded.** Every call does work in proportion to the frames that it moves; at most
//! [`MAX_FRAMES`] frames in [`MAX_BYTES`] bytes wait in a direction, none much longer than
//! [`MAX_DELAY`] twice.

mod bottleneck;
mod event;
mod line;
mod number;
mod opcode;
mod packet;
mod rng;
mod spec;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::types::Time;
use bottleneck::Bottleneck;
use event::Watch;
pub use event::{Action, Event};
use line::Line;
pub use line::{MAX_BYTES, MAX_FRAMES};
pub use number::{Chance, MAX_DELAY};
use packet::Packet;
use rng::{Stream, below};
pub use spec::{Directed, Problem, Settings, Spec, SpecError};

/// Frames that overtake one that is held back.
pub const OVERTAKERS: u8 = 3;
/// How long a frame is held back when too few follow.
pub const MAX_HOLD: Duration = Duration::from_millis(1);
/// Frames that are held back at the same time; more than that just pass.
const MAX_HELD: usize = 16;

/// Which way frames go, as the NIC sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the NIC to the link.
    Transmit,
    /// From the link to the NIC.
    Receive,
}

/// What happens to frames by chance, each independently of the others, and what happens to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Lost.
    pub drop: Chance,
    /// Comes twice, the second one right behind the first.
    pub duplicate: Chance,
    /// Held back until [`OVERTAKERS`] other frames have gone past, or for [`MAX_HOLD`].
    pub reorder: Chance,
    /// One bit flips, anywhere behind the Ethernet header.
    pub corrupt: Chance,
    /// Congestion experienced, if the packet is ECN-capable.
    pub ecn: Chance,
    /// Time that every frame takes. It alone reorders nothing.
    pub delay: Duration,
    /// Up to how much more each frame takes, evenly distributed. It may reorder.
    pub jitter: Duration,
    /// Bits per second of a bottleneck, whose buffer of 1 MiB or one second drops what does not
    /// fit.
    pub rate: Option<u64>,
    /// Where chance begins.
    pub seed: u64,
}

impl Profile {
    /// Whether nothing happens to frames, whatever the seed is.
    #[must_use]
    pub fn does_nothing(&self) -> bool {
        let seed = self.seed;
        *self
            == Self {
                seed,
                ..Self::default()
            }
    }
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came in.
    pub frames: u64,
    /// Frames lost, by chance or by an event.
    pub dropped: u64,
    /// Frames that came twice.
    pub duplicated: u64,
    /// Frames held back.
    pub reordered: u64,
    /// Frames delayed by a delay, jitter or an event.
    pub delayed: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Packets marked with congestion experienced.
    pub marked: u64,
    /// Frames that the bottleneck's buffer had no room for.
    pub rate_dropped: u64,
    /// Frames lost because too many were on their way ([`MAX_FRAMES`], [`MAX_BYTES`]).
    pub overflowed: u64,
    /// Times that an event acted.
    pub events: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames: {} dropped, {} duplicated, {} reordered, {} delayed, {} corrupted, \
             {} marked, {} over the rate, {} without room; events acted {} times",
            self.frames,
            self.dropped,
            self.duplicated,
            self.reordered,
            self.delayed,
            self.corrupted,
            self.marked,
            self.rate_dropped,
            self.overflowed,
            self.events
        )
    }
}

/// One direction of a bad wire.
#[derive(Clone, Debug)]
pub struct Impairment {
    profile: Profile,
    dice: Dice,
    /// Events, and what each draws bits to flip from.
    events: Vec<(Watch, Stream)>,
    /// Frames held back, in the order in which they came.
    held: VecDeque<Held>,
    bottleneck: Option<Bottleneck>,
    line: Line,
    counters: Counters,
}

/// A random sequence for each kind of decision.
#[derive(Clone, Copy, Debug)]
struct Dice {
    drop: Stream,
    duplicate: Stream,
    reorder: Stream,
    corrupt: Stream,
    bit: Stream,
    ecn: Stream,
    jitter: Stream,
}

impl Dice {
    /// Kinds from here on are events'.
    const EVENTS: u64 = 16;

    const fn new(seed: u64, direction: Direction) -> Self {
        Self {
            drop: Stream::new(seed, direction, 0),
            duplicate: Stream::new(seed, direction, 1),
            reorder: Stream::new(seed, direction, 2),
            corrupt: Stream::new(seed, direction, 3),
            bit: Stream::new(seed, direction, 4),
            ecn: Stream::new(seed, direction, 5),
            jitter: Stream::new(seed, direction, 6),
        }
    }
}

/// What is to happen to a frame.
#[derive(Clone, Copy, Debug)]
struct Fate {
    drop: bool,
    mark: bool,
    /// Number of the bit that flips.
    corrupt: Option<u64>,
    reorder: bool,
    duplicate: bool,
    delay: Duration,
}

/// A frame that others are to overtake.
#[derive(Clone, Debug)]
struct Held {
    frame: Vec<u8>,
    fate: Fate,
    /// How many are still to go past.
    overtakers: u8,
    until: Time,
}

impl Impairment {
    /// A wire that does to frames in one direction what `profile` and `events` say.
    #[must_use]
    pub fn new(direction: Direction, profile: Profile, events: &[Event]) -> Self {
        let watch = |(number, event): (u64, &Event)| {
            let stream = Stream::new(profile.seed, direction, Dice::EVENTS.wrapping_add(number));
            (Watch::new(*event), stream)
        };
        Self {
            profile,
            dice: Dice::new(profile.seed, direction),
            events: (0..).zip(events).map(watch).collect(),
            held: VecDeque::new(),
            bottleneck: profile.rate.map(Bottleneck::new),
            line: Line::default(),
            counters: Counters::default(),
        }
    }

    /// Takes the place of another wire: frames that are on that one arrive when they would have.
    pub fn take_over(&mut self, old: Self) {
        let Self { held, line, .. } = old;
        (self.held, self.line) = (held, line);
    }

    /// Whether it does nothing to frames that enter, and none is on the way: it can be left out.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.in_flight() == 0 && self.events.is_empty() && self.profile.does_nothing()
    }

    /// Takes a frame that enters the wire.
    pub fn handle(&mut self, now: Time, frame: &[u8]) {
        self.release(now);
        let number = self.counters.frames;
        self.counters.frames += 1;
        let packet = Packet::parse(frame);
        let mut fate = self.chance(number, &packet, frame);
        self.apply_events(number, &packet, frame, &mut fate);
        if fate.drop {
            self.counters.dropped += 1;
            return;
        }
        let mut frame = self.line.copy(frame);
        if fate.mark && packet.mark(&mut frame) {
            self.counters.marked += 1;
        }
        if let Some(bit) = fate.corrupt {
            self.counters.corrupted += 1;
            packet::flip(&mut frame, bit);
        }
        if fate.reorder && self.held.len() < MAX_HELD {
            self.counters.reordered += 1;
            self.held.push_back(Held {
                frame,
                fate,
                overtakers: OVERTAKERS,
                until: now.after(MAX_HOLD),
            });
            return;
        }
        self.pass(now, frame, &fate);
        self.overtake(now);
    }

    /// The next frame that leaves the wire by `now`, without taking it: whoever cannot take it now
    /// finds it again.
    pub fn peek(&mut self, now: Time) -> Option<&[u8]> {
        self.release(now);
        self.line.peek(now)
    }

    /// Takes the frame that [`Self::peek`] returned.
    pub fn pop(&mut self) {
        self.line.pop();
    }

    /// When to call [`Self::peek`] next, if no frame comes in before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let held = self.held.front().map(|held| held.until);
        held.into_iter().chain(self.line.next_due()).min()
    }

    /// Frames on the wire.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.line.len() + self.held.len()
    }

    /// What happens to frames by chance.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What was done so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Events, and whether each has acted.
    pub fn events(&self) -> impl Iterator<Item = (&Event, bool)> {
        let watches = self.events.iter().map(|(watch, _)| watch);
        watches.map(|watch| (&watch.event, watch.has_acted()))
    }

    /// Events that have not acted yet: most likely, they name packets that do not exist.
    pub fn idle_events(&self) -> impl Iterator<Item = &Event> {
        let idle = self.events().filter(|(_, acted)| !acted);
        idle.map(|(event, _)| event)
    }

    /// What chance does to frame `n`.
    fn chance(&self, n: u64, packet: &Packet, frame: &[u8]) -> Fate {
        let Self { profile, dice, .. } = self;
        let corrupt = profile.corrupt.hits(dice.corrupt.at(n));
        let jitter = u64::try_from(profile.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = below(dice.jitter.at(n), jitter.saturating_add(1));
        Fate {
            drop: profile.drop.hits(dice.drop.at(n)),
            mark: profile.ecn.hits(dice.ecn.at(n)),
            corrupt: pick(packet.bits(frame), dice.bit.at(n)).filter(|_| corrupt),
            reorder: profile.reorder.hits(dice.reorder.at(n)),
            duplicate: profile.duplicate.hits(dice.duplicate.at(n)),
            delay: profile.delay.saturating_add(Duration::from_nanos(jitter)),
        }
    }

    fn apply_events(&mut self, n: u64, packet: &Packet, frame: &[u8], fate: &mut Fate) {
        let Some(roce) = &packet.roce else {
            return;
        };
        let markable = packet.is_markable(frame);
        for (watch, stream) in &mut self.events {
            if !watch.sees(roce, markable) {
                continue;
            }
            self.counters.events += 1;
            match watch.event.action {
                Action::Drop => fate.drop = true,
                Action::Duplicate => fate.duplicate = true,
                Action::Reorder => fate.reorder = true,
                Action::Mark => fate.mark = true,
                // One bit at most: a second flip could undo the first.
                Action::Corrupt => fate.corrupt = pick(roce.bits(), stream.at(n)),
                Action::Delay(delay) => fate.delay = fate.delay.saturating_add(delay),
            }
        }
    }

    /// Sends a frame through the bottleneck and on its way.
    fn pass(&mut self, now: Time, frame: Vec<u8>, fate: &Fate) {
        if fate.duplicate {
            self.counters.duplicated += 1;
            let first = self.line.copy(&frame);
            self.pass_once(now, first, fate.delay);
        }
        self.pass_once(now, frame, fate.delay);
    }

    fn pass_once(&mut self, now: Time, frame: Vec<u8>, delay: Duration) {
        let leaves = match &mut self.bottleneck {
            None => Some(now),
            Some(bottleneck) => bottleneck.admit(now, frame.len()),
        };
        let Some(leaves) = leaves else {
            self.counters.rate_dropped += 1;
            self.line.recycle(frame);
            return;
        };
        if !self.line.push(leaves.after(delay), frame) {
            self.counters.overflowed += 1;
        } else if !delay.is_zero() {
            self.counters.delayed += 1;
        }
    }

    /// A frame has gone past those that are held back.
    fn overtake(&mut self, now: Time) {
        for held in &mut self.held {
            held.overtakers = held.overtakers.saturating_sub(1);
        }
        self.pass_held(now, |held| held.overtakers == 0);
    }

    /// Lets go of frames that were held back for long enough.
    fn release(&mut self, now: Time) {
        self.pass_held(now, |held| held.until <= now);
    }

    /// Those that came first go first, and no later one can be ready before them.
    fn pass_held(&mut self, now: Time, ready: impl Fn(&Held) -> bool) {
        while self.held.front().is_some_and(&ready) {
            if let Some(held) = self.held.pop_front() {
                self.pass(now.min(held.until), held.frame, &held.fate);
            }
        }
    }
}

/// One of `count` bits from the first on; `None` if there is none.
const fn pick((first, count): (u64, u64), random: u64) -> Option<u64> {
    if count == 0 {
        return None;
    }
    Some(first + below(random, count))
}
