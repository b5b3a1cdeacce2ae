//! What functions may use of the port and of the engine.
//!
//! Each has its part of the engine's time, by its weight, and its part of the link while there is too
//! little room on that. These are two things: what a function has to do without on a busy link is
//! not to be made up for by those who send to neighbours, and the other way around.
//!
//! A function whose rate is limited has a meter. While that is closed its queue pairs get no turn:
//! they wait as for room in the port, and the engine can sleep until the meter opens.

use alloc::vec::Vec;

use super::grain::Contention;
use super::meter::{Allowance, Meter};
use super::policy::{DEFAULT_WEIGHT, Policy};
use super::turns::Turns;
use crate::types::Time;

/// What functions may use, by their indices.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    /// Meters of those whose rates are limited.
    meters: Vec<Option<Meter>>,
    /// Whose queue pairs have their turns next.
    pub(super) engine: Turns,
    /// Who gets the next room on the link, of those who had to wait for it.
    pub(super) link: Turns,
    /// How much each gets at a time.
    pub(super) contention: Contention,
}

impl Shares {
    /// Adds a function, or exchanges it for another.
    pub(super) fn add(&mut self, number: u16) {
        let index = usize::from(number);
        if index >= self.meters.len() {
            self.meters.resize(index + 1, None);
        }
        if let Some(meter) = self.meters.get_mut(index) {
            *meter = None;
        }
        self.engine.add(number, DEFAULT_WEIGHT);
        self.link.add(number, DEFAULT_WEIGHT);
    }

    /// Makes a policy's limit and weight effective.
    pub(super) fn set(&mut self, number: u16, policy: &Policy, now: Time) {
        self.engine.set_weight(number, policy.weight);
        self.link.set_weight(number, policy.weight);
        let Some(meter) = self.meters.get_mut(usize::from(number)) else {
            return;
        };
        match (&mut *meter, policy.max_rate) {
            (Some(meter), Some(rate)) => meter.set_rate(rate, now),
            (None, Some(rate)) => *meter = Some(Meter::new(rate, now)),
            (_, None) => *meter = None,
        }
    }

    /// What a function may send now: nothing (`None`), or so much, if that is limited.
    #[inline]
    pub(super) fn allowance(&mut self, number: u16, now: Time) -> Option<Option<Allowance>> {
        match self.meters.get_mut(usize::from(number))? {
            None => Some(None),
            Some(meter) => meter.allowance(now).map(Some),
        }
    }

    /// Takes note of the bytes that a function has sent, if that is limited.
    #[inline]
    pub(super) fn charge(&mut self, number: u16, bytes: u64) {
        if let Some(Some(meter)) = self.meters.get_mut(usize::from(number)) {
            meter.charge(bytes);
        }
    }

    /// A function has queue pairs that want a turn, or (`room`) room on the link.
    #[inline]
    pub(super) fn want(&mut self, number: u16, now: Time, room: bool) {
        if self.allowance(number, now).is_some() {
            let turns = if room {
                &mut self.link
            } else {
                &mut self.engine
            };
            turns.want(number);
        }
    }

    /// Until when a function may send nothing, if that is so.
    pub(super) fn held_until(&self, index: usize, now: Time) -> Option<Time> {
        let meter = self.meters.get(index)?.as_ref()?;
        Some(meter.opens()).filter(|at| *at > now)
    }
}
