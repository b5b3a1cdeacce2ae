//! What functions may use of the port and of the engine.
//!
//! A function whose rate is limited has a meter. While that is closed its queue pairs get no turn:
//! they wait as for room in the port, and the engine can sleep until the meter opens.

use alloc::vec::Vec;

use super::meter::{Allowance, Meter};
use crate::types::Time;

/// What one function may use.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    meter: Option<Meter>,
}

/// The same for all functions, by their indices.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    shares: Vec<Share>,
}

impl Shares {
    /// Adds a function, or exchanges it for another.
    pub(super) fn add(&mut self, index: usize) {
        if index >= self.shares.len() {
            self.shares.resize(index + 1, Share::default());
        }
        if let Some(share) = self.shares.get_mut(index) {
            *share = Share::default();
        }
    }

    /// Limits how fast a function may send, in Mbit/s, or does so no longer.
    pub(super) fn set_max_rate(&mut self, index: usize, rate: Option<u32>, now: Time) {
        let Some(share) = self.shares.get_mut(index) else {
            return;
        };
        match (&mut share.meter, rate) {
            (Some(meter), Some(rate)) => meter.set_rate(rate, now),
            (None, Some(rate)) => share.meter = Some(Meter::new(rate, now)),
            (_, None) => share.meter = None,
        }
    }

    /// What a function may send now: nothing (`None`), or so much, if that is limited.
    #[inline]
    pub(super) fn allowance(&mut self, index: usize, now: Time) -> Option<Option<Allowance>> {
        match &mut self.shares.get_mut(index)?.meter {
            None => Some(None),
            Some(meter) => meter.allowance(now).map(Some),
        }
    }

    /// Takes note of the bytes that a function has sent, if that is limited.
    #[inline]
    pub(super) fn charge(&mut self, index: usize, bytes: u64) {
        let meter = self.shares.get_mut(index);
        if let Some(meter) = meter.and_then(|share| share.meter.as_mut()) {
            meter.charge(bytes);
        }
    }

    /// Until when a function may send nothing, if that is so.
    pub(super) fn held_until(&self, index: usize, now: Time) -> Option<Time> {
        let meter = self.shares.get(index)?.meter.as_ref()?;
        Some(meter.opens()).filter(|at| *at > now)
    }
}
