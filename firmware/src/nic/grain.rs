//! How much is done for one function before somebody else has a turn.
//!
//! Long turns move large messages fastest: what a PDU costs besides its bytes, the look at all
//! doorbells and the acknowledgements are shared by more of them. But everybody else waits that long.
//! So they are long only as long as there is nobody to wait: while all that is sent is the doing of
//! one function. As soon as a second one sends they are short, and stay that until one has been alone
//! for a while, so that who sends a little now and then finds them short.

use crate::types::Time;

/// Time in nanoseconds for which the grain stays fine after the last change of who sends.
const HOLD: u64 = 10_000_000;

/// Sizes of what is done without a pause, in bytes copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grain {
    /// Most bytes of data of a PDU on the direct path.
    pub(super) longest: u32,
    /// Cost after which a turn is over.
    pub(super) turn: u64,
    /// What all turns in one step may cost before new work is looked for.
    pub(super) step: u64,
}

impl Grain {
    /// While one function sends.
    pub(super) const COARSE: Self = Self {
        longest: 256 << 10,
        turn: 256 << 10,
        step: 512 << 10,
    };
    /// While several do.
    pub(super) const FINE: Self = Self {
        longest: 8 << 10,
        turn: 2 << 10,
        step: 3 << 10,
    };
}

/// Whether several functions send.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contention {
    /// Whose doing the last PDU was.
    last: Option<u16>,
    /// When that changed last.
    changed: Option<Time>,
}

impl Contention {
    /// Something was sent because function `number` wanted it.
    #[inline]
    pub(super) fn sent(&mut self, number: u16, now: Time) {
        let last = self.last.replace(number);
        if last.is_some_and(|last| last != number) {
            self.changed = Some(now);
        }
    }

    /// The grain of the next turn.
    #[inline]
    pub(super) fn grain(&self, now: Time) -> Grain {
        let fresh = |changed: Time| now.0.saturating_sub(changed.0) < HOLD;
        if self.changed.is_some_and(fresh) {
            Grain::FINE
        } else {
            Grain::COARSE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_has_long_turns_after_a_while() {
        let mut contention = Contention::default();
        assert_eq!(contention.grain(Time(0)), Grain::COARSE);
        contention.sent(2, Time(50));
        assert_eq!(contention.grain(Time(50)), Grain::COARSE);
        contention.sent(3, Time(100));
        contention.sent(3, Time(HOLD));
        assert_eq!(contention.grain(Time(HOLD + 99)), Grain::FINE);
        assert_eq!(contention.grain(Time(HOLD + 100)), Grain::COARSE);
    }

    #[test]
    fn several_have_short_ones() {
        let mut contention = Contention::default();
        contention.sent(2, Time(0));
        for n in 0..100 {
            let now = Time(n * (HOLD - 1));
            contention.sent((n % 2) as u16 + 1, now);
            assert_eq!(contention.grain(now), Grain::FINE);
        }
    }
}
