//! What a user asks for: `drop=1%,delay=1ms` and events, for one direction or both.
//!
//! A [`Directed`] argument is one `[tx:|rx:]…`; a [`Spec`] collects any number of them and becomes
//! the two [`Impairment`]s of a link. Nothing is given twice for one direction. A mistake names the
//! part of the text that is wrong, and the right form.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use super::number::{self, Chance};
use super::{Direction, Event, Impairment, Profile};

/// What is wrong with an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The part that is wrong, as it was written.
    pub part: String,
    /// Why.
    pub problem: Problem,
}

/// Why a part of an argument is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is nothing.
    Empty,
    /// Not `KEY=VALUE`.
    NotKeyValue,
    /// No impairment has this name.
    UnknownKey,
    /// Given before, for the same direction.
    Twice,
    /// Neither a percentage nor a fraction.
    Chance,
    /// Not a duration.
    Duration,
    /// Longer than frames are held.
    TooLong,
    /// Not a rate, or out of range.
    Rate,
    /// Not a whole number up to this one.
    Number(u64),
    /// No event does this.
    UnknownAction,
    /// A word that an event does not have.
    UnknownWord,
    /// A value must follow.
    NoValue,
    /// A count without `times`.
    NoTimes,
    /// A count from 1 on.
    Zero,
    /// No packet has this opcode.
    Opcode,
}

impl SpecError {
    pub(super) fn new(part: &str, problem: Problem) -> Self {
        let part = part.into();
        Self { part, problem }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, problem } = self;
        write!(f, "'{part}' {problem}")
    }
}

impl core::error::Error for SpecError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "asks for nothing",
            Self::NotKeyValue => "is not KEY=VALUE, such as drop=1%",
            Self::UnknownKey => {
                "is no impairment; use drop, dup, reorder, delay, jitter, corrupt, ecn, rate or seed"
            }
            Self::Twice => "is given twice for one direction",
            Self::Chance => "is neither a percentage such as 1% nor a fraction such as 0.01",
            Self::Duration => "is not a duration such as 10us, 0.5ms or 2s",
            Self::TooLong => "is too long; frames are delayed by at most 10s",
            Self::Rate => "is not a rate from 64K to 1T bits per second, such as 500M or 10G",
            Self::Number(max) => return write!(f, "is not a whole number from 0 to {max}"),
            Self::UnknownAction => {
                "is no action; use drop, dup, reorder, mark, corrupt or delay=TIME"
            }
            Self::UnknownWord => {
                "says nothing about an event; use psn=N or psn=A..B, qp=N, opcode=NAME, nth=N, and \
                 once, N times or always"
            }
            Self::NoValue => "needs a value",
            Self::NoTimes => "is a number that says nothing; use N times",
            Self::Zero => "would never act; count from 1",
            Self::Opcode => "is no opcode; use a name such as rc_send_only or ack, or a number",
        })
    }
}

/// An argument for one direction, or for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directed<T> {
    /// Which; both if `None`.
    pub direction: Option<Direction>,
    /// What.
    pub value: T,
}

impl<T: FromStr<Err = SpecError>> FromStr for Directed<T> {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let prefixed = |prefix| text.strip_prefix(prefix);
        let (direction, rest) = if let Some(rest) = prefixed("tx:") {
            (Some(Direction::Transmit), rest)
        } else if let Some(rest) = prefixed("rx:") {
            (Some(Direction::Receive), rest)
        } else {
            (None, text)
        };
        if rest.trim().is_empty() {
            return Err(SpecError::new(text, Problem::Empty));
        }
        let value = rest.parse()?;
        Ok(Self { direction, value })
    }
}

/// Random impairments: `KEY=VALUE[,KEY=VALUE]…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

/// One `KEY=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Drop(Chance),
    Duplicate(Chance),
    Reorder(Chance),
    Corrupt(Chance),
    Ecn(Chance),
    Delay(Duration),
    Jitter(Duration),
    Rate(u64),
    Seed(u64),
}

impl FromStr for Settings {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let parts = text.split(',').map(str::trim);
        let settings: Result<Vec<_>, _> = parts.map(Setting::parse).collect();
        settings.map(Self)
    }
}

impl Setting {
    fn parse(part: &str) -> Result<Self, SpecError> {
        let pair = part.split_once('=');
        let (key, value) = pair.ok_or(SpecError::new(part, Problem::NotKeyValue))?;
        let setting = match key {
            "drop" => Chance::parse(value).map(Self::Drop),
            "dup" => Chance::parse(value).map(Self::Duplicate),
            "reorder" => Chance::parse(value).map(Self::Reorder),
            "corrupt" => Chance::parse(value).map(Self::Corrupt),
            "ecn" => Chance::parse(value).map(Self::Ecn),
            "delay" => number::duration(value).map(Self::Delay),
            "jitter" => number::duration(value).map(Self::Jitter),
            "rate" => number::rate(value).map(Self::Rate),
            "seed" => number::whole(value, u64::MAX).map(Self::Seed),
            _ => return Err(SpecError::new(key, Problem::UnknownKey)),
        };
        // The whole part tells the user more than the value alone.
        setting.map_err(|error| SpecError::new(part, error.problem))
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Drop(_) => "drop",
            Self::Duplicate(_) => "dup",
            Self::Reorder(_) => "reorder",
            Self::Corrupt(_) => "corrupt",
            Self::Ecn(_) => "ecn",
            Self::Delay(_) => "delay",
            Self::Jitter(_) => "jitter",
            Self::Rate(_) => "rate",
            Self::Seed(_) => "seed",
        }
    }

    fn apply(self, profile: &mut Profile) {
        match self {
            Self::Drop(chance) => profile.drop = chance,
            Self::Duplicate(chance) => profile.duplicate = chance,
            Self::Reorder(chance) => profile.reorder = chance,
            Self::Corrupt(chance) => profile.corrupt = chance,
            Self::Ecn(chance) => profile.ecn = chance,
            Self::Delay(delay) => profile.delay = delay,
            Self::Jitter(jitter) => profile.jitter = jitter,
            Self::Rate(rate) => profile.rate = Some(rate),
            Self::Seed(seed) => profile.seed = seed,
        }
    }
}

/// What is asked for in both directions of a link.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    transmit: Plan,
    receive: Plan,
}

/// What is asked for in one direction.
#[derive(Clone, Debug, Default)]
struct Plan {
    profile: Profile,
    events: Vec<Event>,
    /// Keys that were given.
    given: Vec<&'static str>,
}

impl Spec {
    /// Adds random impairments.
    ///
    /// # Errors
    /// If one was given before for the same direction.
    pub fn set(&mut self, settings: &Directed<Settings>) -> Result<(), SpecError> {
        for plan in self.plans(settings.direction) {
            for setting in &settings.value.0 {
                plan.set(*setting)?;
            }
        }
        Ok(())
    }

    /// Adds an event. In both directions, each counts for itself.
    pub fn add(&mut self, event: &Directed<Event>) {
        for plan in self.plans(event.direction) {
            plan.events.push(event.value);
        }
    }

    /// What impairs frames in `direction`; `None` if nothing does.
    #[must_use]
    pub fn build(&self, direction: Direction) -> Option<Impairment> {
        let plan = match direction {
            Direction::Transmit => &self.transmit,
            Direction::Receive => &self.receive,
        };
        if plan.events.is_empty() && plan.profile.does_nothing() {
            return None;
        }
        Some(Impairment::new(direction, plan.profile, &plan.events))
    }

    fn plans(&mut self, direction: Option<Direction>) -> impl Iterator<Item = &mut Plan> {
        let wanted = move |way| direction.is_none_or(|direction| direction == way);
        let transmit = wanted(Direction::Transmit).then_some(&mut self.transmit);
        let receive = wanted(Direction::Receive).then_some(&mut self.receive);
        transmit.into_iter().chain(receive)
    }
}

impl Plan {
    fn set(&mut self, setting: Setting) -> Result<(), SpecError> {
        let key = setting.key();
        if self.given.contains(&key) {
            return Err(SpecError::new(key, Problem::Twice));
        }
        self.given.push(key);
        setting.apply(&mut self.profile);
        Ok(())
    }
}
