//! How long an engine polls in vain before it sleeps.
//!
//! With a processor to spare that is [`SPIN`]. Without one, polling is a loan from those who wait for
//! the processor, and it is given while it pays: as long as work comes within [`SPIN`]. When it has not
//! come once, because who was to make it was kept from that, the engine sleeps after [`SHORT_SPIN`]
//! from then on, until so many sleeps in a row were so short that polling would have met their ends.

use std::time::Duration;

use vrnic_firmware::types::Time;

/// How long an engine polls without finding anything before it sleeps.
pub const SPIN: Duration = Duration::from_micros(50);

/// How long it does where that has not paid: so long that the next of many frames comes in time.
const SHORT_SPIN: Duration = Duration::from_micros(5);

/// Short sleeps in a row after which it is tried again.
const TRY_AGAIN: u32 = 16;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// It did not pay the last time.
    lost: bool,
    short_sleeps: u32,
}

impl Patience {
    /// Whether to go on polling after nothing was found from `since` to `now`, where processors are
    /// `short`.
    pub(super) fn lasts(&mut self, since: Time, now: Time, short: bool) -> bool {
        let lasts = now < since.after(if short && self.lost { SHORT_SPIN } else { SPIN });
        if !lasts && !self.lost {
            self.lost = short;
            self.short_sleeps = 0;
        }
        lasts
    }

    /// The engine slept from `since` to `now`.
    pub(super) fn slept(&mut self, since: Time, now: Time) {
        match now < since.after(SPIN) {
            true => self.short_sleeps += 1,
            false => self.short_sleeps = 0,
        }
        if self.short_sleeps >= TRY_AGAIN {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN_NS: u64 = SPIN.as_nanos() as u64;
    const SHORT_NS: u64 = SHORT_SPIN.as_nanos() as u64;

    /// How long it lasts.
    fn spin(patience: &mut Patience, short: bool) -> u64 {
        let mut now = 0;
        while patience.lasts(Time(0), Time(now), short) {
            now += 1000;
        }
        now
    }

    #[test]
    fn it_does_not_wear_out_with_a_processor_to_spare() {
        let mut patience = Patience::default();
        for _ in 0..3 {
            assert_eq!(spin(&mut patience, false), SPIN_NS);
            patience.slept(Time(0), Time(SPIN_NS));
        }
    }

    #[test]
    fn without_one_it_lasts_while_it_pays() {
        let mut patience = Patience::default();
        // Work came in time, again and again.
        for now in [SHORT_NS, SPIN_NS - 1, SPIN_NS - 1] {
            assert!(patience.lasts(Time(0), Time(now), true));
        }
        assert_eq!(spin(&mut patience, true), SPIN_NS, "the first time");
        assert_eq!(spin(&mut patience, true), SHORT_NS);
        assert_eq!(spin(&mut patience, true), SHORT_NS);
        assert_eq!(spin(&mut patience, false), SPIN_NS, "there is one again");
    }

    #[test]
    fn short_sleeps_in_a_row_bring_it_back() {
        let mut patience = Patience::default();
        spin(&mut patience, true);
        for slept in [SPIN_NS - 1, SPIN_NS] {
            for _ in 1..TRY_AGAIN {
                patience.slept(Time(0), Time(SPIN_NS - 1));
            }
            assert_eq!(spin(&mut patience, true), SHORT_NS);
            patience.slept(Time(0), Time(slept));
            let expected = if slept < SPIN_NS { SPIN_NS } else { SHORT_NS };
            assert_eq!(spin(&mut patience, true), expected, "{slept}");
        }
    }
}
