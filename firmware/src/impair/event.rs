//! Exact events: `drop psn=5 of qp 17 once`.
//!
//! An [`Event`] is an action, what a RoCEv2 packet must be to have it done to, and how often. A
//! [`Watch`] is an event at work: it counts the packets that match. Every watch sees every packet,
//! whatever else happens to that, so no event changes what another one counts. Frames that are not
//! RoCEv2 match nothing.
//!
//! The text is words: the action first, then conditions in any order, each `KEY=VALUE` or
//! `KEY VALUE`; `of` may stand anywhere and says nothing.

use core::fmt;
use core::str::{FromStr, SplitWhitespace};
use core::time::Duration;

use super::number;
use super::opcode;
use super::packet::Roce;
use super::spec::{Problem, SpecError};
use crate::types::{Psn, Qpn};

/// Largest PSN and QP number.
const MAX_24: u64 = 0xff_ffff;

/// What is done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is lost.
    Drop,
    /// It comes twice.
    Duplicate,
    /// It is held back until [`super::OVERTAKERS`] others have gone past.
    Reorder,
    /// Congestion experienced. Only packets that are ECN-capable match.
    Mark,
    /// A bit behind the base transport header flips: the packet reaches its queue pair's NIC, and
    /// only the ICRC tells.
    Corrupt,
    /// It comes later by this much than it would have.
    Delay(Duration),
}

/// What happens to which packets, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub action: Action,
    /// PSNs from the first to the second, both included, modulo 2^24.
    pub psn: Option<(Psn, Psn)>,
    /// Destination QP.
    pub qp: Option<Qpn>,
    /// Opcode of the base transport header.
    pub opcode: Option<u8>,
    /// Number of the matching packet that is the first to act on, from 1.
    pub nth: u64,
    /// How many matching packets to act on from then on; all if `None`.
    pub times: Option<u64>,
}

impl Event {
    /// `action` on the first RoCEv2 packet: conditions are set from here.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self {
            action,
            psn: None,
            qp: None,
            opcode: None,
            nth: 1,
            times: Some(1),
        }
    }

    fn matches(&self, packet: &Roce, markable: bool) -> bool {
        let within = |(first, last): (Psn, Psn)| {
            let distance = |psn: Psn| Psn::new(psn.get().wrapping_sub(first.get())).get();
            distance(packet.psn) <= distance(last)
        };
        self.psn.is_none_or(within)
            && self.qp.is_none_or(|qp| qp == packet.destination)
            && self.opcode.is_none_or(|opcode| opcode == packet.opcode)
            && (markable || self.action != Action::Mark)
    }
}

/// An event at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) event: Event,
    matched: u64,
}

impl Watch {
    pub(super) const fn new(event: Event) -> Self {
        Self { event, matched: 0 }
    }

    /// Looks at a packet, and says whether to act on it.
    pub(super) fn sees(&mut self, packet: &Roce, markable: bool) -> bool {
        if !self.event.matches(packet, markable) {
            return false;
        }
        let before = self.matched;
        self.matched += 1;
        let first = self.event.nth.saturating_sub(1);
        let acted = before.checked_sub(first);
        acted.is_some_and(|acted| self.event.times.is_none_or(|times| acted < times))
    }

    /// Whether it has acted at least once.
    pub(super) const fn has_acted(&self) -> bool {
        self.matched >= self.event.nth
    }
}

impl FromStr for Event {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut words = text.split_whitespace();
        let action = words.next().ok_or(SpecError::new(text, Problem::Empty))?;
        let mut draft = Draft::default();
        while let Some(word) = words.next() {
            draft.take(word, &mut words)?;
        }
        Ok(draft.finish(Action::parse(action)?))
    }
}

impl Action {
    fn parse(word: &str) -> Result<Self, SpecError> {
        Ok(match word.split_once('=') {
            None => match word {
                "drop" => Self::Drop,
                "dup" => Self::Duplicate,
                "reorder" => Self::Reorder,
                "mark" => Self::Mark,
                "corrupt" => Self::Corrupt,
                "delay" => return Err(SpecError::new(word, Problem::NoValue)),
                _ => return Err(SpecError::new(word, Problem::UnknownAction)),
            },
            Some(("delay", time)) => Self::Delay(number::duration(time)?),
            Some(_) => return Err(SpecError::new(word, Problem::UnknownAction)),
        })
    }
}

/// The conditions that were read so far.
#[derive(Default)]
struct Draft {
    psn: Option<(Psn, Psn)>,
    qp: Option<Qpn>,
    opcode: Option<u8>,
    nth: Option<u64>,
    /// How often, and the word that said so.
    times: Option<Option<u64>>,
}

impl Draft {
    /// Reads one condition that begins with `word`.
    fn take(&mut self, word: &str, rest: &mut SplitWhitespace<'_>) -> Result<(), SpecError> {
        match word {
            "of" => return Ok(()),
            "once" => return set(&mut self.times, word, Some(1)),
            "always" => return set(&mut self.times, word, None),
            _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
                let count = count(word)?;
                return match rest.next() {
                    Some("times" | "time") => set(&mut self.times, word, Some(count)),
                    _ => Err(SpecError::new(word, Problem::NoTimes)),
                };
            }
            _ => {}
        }
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        if !["psn", "qp", "opcode", "nth"].contains(&key) {
            return Err(SpecError::new(word, Problem::UnknownWord));
        }
        let value = value
            .or_else(|| rest.next())
            .filter(|value| !value.is_empty());
        let value = value.ok_or(SpecError::new(word, Problem::NoValue))?;
        self.condition(key, value)
    }

    fn condition(&mut self, key: &str, value: &str) -> Result<(), SpecError> {
        match key {
            "psn" => set(&mut self.psn, key, psns(value)?),
            "qp" => set(&mut self.qp, key, Qpn::new(number_24(value)?)),
            "opcode" => set(&mut self.opcode, key, opcode(value)?),
            _ => set(&mut self.nth, key, count(value)?),
        }
    }

    fn finish(self, action: Action) -> Event {
        Event {
            action,
            psn: self.psn,
            qp: self.qp,
            opcode: self.opcode,
            nth: self.nth.unwrap_or(1),
            times: self.times.unwrap_or(Some(1)),
        }
    }
}

/// Sets what was not set before.
fn set<T>(place: &mut Option<T>, word: &str, value: T) -> Result<(), SpecError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(SpecError::new(word, Problem::Twice)),
    }
}

fn psns(text: &str) -> Result<(Psn, Psn), SpecError> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let psn = |text| number_24(text).map(Psn::new);
    Ok((psn(first)?, psn(last)?))
}

fn number_24(text: &str) -> Result<u32, SpecError> {
    let number = number::whole(text, MAX_24)?;
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

fn count(text: &str) -> Result<u64, SpecError> {
    match number::whole(text, u64::MAX)? {
        0 => Err(SpecError::new(text, Problem::Zero)),
        count => Ok(count),
    }
}

fn opcode(text: &str) -> Result<u8, SpecError> {
    let number = || number::whole(text, 0xff).ok();
    let number = || number().and_then(|number| u8::try_from(number).ok());
    let code = opcode::by_name(text).or_else(number);
    code.ok_or(SpecError::new(text, Problem::Opcode))
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Drop => f.write_str("drop")?,
            Action::Duplicate => f.write_str("dup")?,
            Action::Reorder => f.write_str("reorder")?,
            Action::Mark => f.write_str("mark")?,
            Action::Corrupt => f.write_str("corrupt")?,
            Action::Delay(delay) => write!(f, "delay={}ns", delay.as_nanos())?,
        }
        match self.psn {
            Some((first, last)) if first == last => write!(f, " psn={first}")?,
            Some((first, last)) => write!(f, " psn={first}..{last}")?,
            None => {}
        }
        if let Some(qp) = self.qp {
            write!(f, " qp={qp}")?;
        }
        if let Some(opcode) = self.opcode {
            write!(f, " opcode={opcode:#04x}")?;
        }
        if self.nth != 1 {
            write!(f, " nth={}", self.nth)?;
        }
        match self.times {
            None => f.write_str(" always"),
            Some(1) => f.write_str(" once"),
            Some(times) => write!(f, " {times} times"),
        }
    }
}
