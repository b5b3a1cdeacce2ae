//! The rate that congestion leaves to a queue pair: the reaction point of DCQCN (Zhu et al.,
//! "Congestion Control for Large-Scale RDMA Deployments", SIGCOMM 2015, section 3).
//!
//! A notification cuts the current rate by half of `alpha`, the share of congested time as the
//! queue pair knows it, and makes the old rate the target. Without notifications `alpha` decays,
//! and two clocks raise the rate, one that counts time and one that counts bytes: at first half of
//! the way back to the target at each tick, then the target itself moves up, faster when both
//! clocks have ticked often.
//!
//! Nothing here runs by itself. Ticks of the time that has passed are made up for when the rate is
//! next needed, in a bounded number of steps however long that was. Rates are whole kbit/s, shares
//! are fractions of 2^20, times are nanoseconds; no product exceeds 64 bits for any rate that
//! [`Rate::megabits`] can make. Holding packets back until their time is left to
//! [`super::congestion`].

use crate::types::Time;

/// Period of the clock that counts time, in nanoseconds.
const TIMER: u64 = 55_000;
/// Period of the clock that counts bytes, in bytes.
const BYTE_COUNTER: u64 = 10_000_000;
/// Time without notification after which `alpha` decays by one step, in nanoseconds; longer than
/// the interval of notifications.
const ALPHA_TIMER: u64 = 55_000;
/// Least time between two cuts in nanoseconds: notifications that follow sooner tell of the same
/// queue.
const DECREASE_PERIOD: u64 = 4_000;
/// Ticks of a clock until recovery ends and increase begins.
const FAST_RECOVERY: u32 = 5;
/// How far the target moves at a tick, and when both clocks have passed recovery.
const ADDITIVE_INCREASE: u64 = 40_000;
const HYPER_INCREASE: u64 = 400_000;
/// The weight of news in `alpha` as a power of two: 1/256.
const GAIN_SHIFT: u32 = 8;
/// `alpha` of constant congestion.
const ONE: u64 = 1 << 20;

/// A rate in kbit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// A rate in Mbit/s, at least 1.
    #[must_use]
    pub const fn megabits(rate: u32) -> Self {
        Self(if rate == 0 { 1000 } else { rate as u64 * 1000 })
    }

    /// The rate in Mbit/s, rounded, at least 1.
    #[must_use]
    pub fn to_megabits(self) -> u32 {
        let rounded = self.0.saturating_add(500) / 1000;
        u32::try_from(rounded.max(1)).unwrap_or(u32::MAX)
    }

    /// Nanoseconds that so many bytes take, rounded up.
    pub(super) const fn nanoseconds(self, bytes: u32) -> u64 {
        // Bits times 10^6 are fewer than 2^56; a rate is never 0.
        (bytes as u64 * 8_000_000).div_ceil(self.0)
    }
}

/// Between what a rate may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The speed of the port, from which a queue pair comes down and to which it recovers.
    pub line: Rate,
    /// No cut goes below.
    pub minimum: Rate,
}

/// State of a queue pair that was notified and has not recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReactionPoint {
    current: u64,
    target: u64,
    /// Share of congested time, of [`ONE`], at `alpha_at`.
    alpha: u64,
    alpha_at: Time,
    cut_at: Time,
    /// When the clock that counts time last ticked.
    tick_at: Time,
    /// Ticks since the last cut.
    ticks: u32,
    /// Bytes since the clock that counts them last ticked.
    bytes: u64,
    /// Ticks of that clock since the last cut.
    rounds: u32,
}

impl ReactionPoint {
    /// The state after the first notification of a queue pair that sent at line rate.
    pub(super) fn new(now: Time, bounds: &Bounds) -> Self {
        let mut point = Self {
            current: bounds.line.0,
            target: bounds.line.0,
            alpha: ONE,
            alpha_at: now,
            cut_at: now,
            tick_at: now,
            ticks: 0,
            bytes: 0,
            rounds: 0,
        };
        point.cut(now, bounds);
        point
    }

    /// The rate as it was when time was last told.
    pub(super) const fn rate(&self) -> Rate {
        Rate(self.current)
    }

    /// Whether the rate is that of the line, so that nothing needs to be limited.
    pub(super) const fn recovered(&self, bounds: &Bounds) -> bool {
        self.current >= bounds.line.0
    }

    /// A notification arrived.
    pub(super) fn notified(&mut self, now: Time, bounds: &Bounds) {
        self.advance(now, bounds);
        if now.0.saturating_sub(self.cut_at.0) >= DECREASE_PERIOD {
            self.cut(now, bounds);
        }
    }

    fn cut(&mut self, now: Time, bounds: &Bounds) {
        let quiet = now.0.saturating_sub(self.alpha_at.0) / ALPHA_TIMER;
        let alpha = decayed(self.alpha, quiet);
        self.target = self.current;
        // Half of alpha: one bit more.
        let cut = self.current.saturating_mul(alpha) / (2 * ONE);
        self.current = self.current.saturating_sub(cut).max(bounds.minimum.0);
        self.target = self.target.max(self.current);
        self.alpha = alpha - (alpha >> GAIN_SHIFT) + (ONE >> GAIN_SHIFT);
        self.alpha_at = now;
        self.cut_at = now;
        self.tick_at = now;
        self.ticks = 0;
        self.bytes = 0;
        self.rounds = 0;
    }

    /// Makes up for the time that has passed, and for bounds that have changed.
    pub(super) fn advance(&mut self, now: Time, bounds: &Bounds) {
        self.current = self.current.max(bounds.minimum.0);
        self.target = self.target.max(self.current);
        let mut due = now.0.saturating_sub(self.tick_at.0) / TIMER;
        self.tick_at = Time(self.tick_at.0.saturating_add(due.saturating_mul(TIMER)));
        while due > 0 && !self.recovered(bounds) {
            due -= 1;
            self.ticks = self.ticks.saturating_add(1);
            self.increase(bounds);
            due -= self.leap(due, bounds);
        }
    }

    /// So many bytes were sent.
    pub(super) fn sent(&mut self, bytes: u32, bounds: &Bounds) {
        self.bytes = self.bytes.saturating_add(bytes.into());
        while self.bytes >= BYTE_COUNTER {
            self.bytes -= BYTE_COUNTER;
            self.rounds = self.rounds.saturating_add(1);
            self.increase(bounds);
        }
    }

    /// How far the target moves at the ticks that come next.
    const fn step(&self) -> u64 {
        if self.ticks < FAST_RECOVERY && self.rounds < FAST_RECOVERY {
            0
        } else if self.ticks > FAST_RECOVERY && self.rounds > FAST_RECOVERY {
            HYPER_INCREASE
        } else {
            ADDITIVE_INCREASE
        }
    }

    /// One of the clocks ticked.
    fn increase(&mut self, bounds: &Bounds) {
        self.target = (self.target + self.step()).min(bounds.line.0);
        // Rounded up, so that it arrives.
        self.current = (self.target + self.current).div_ceil(2).min(bounds.line.0);
    }

    /// After a while each tick moves current and target rate by the same step. Does as many of the
    /// `due` ticks as are like that at once, and returns how many.
    fn leap(&mut self, due: u64, bounds: &Bounds) -> u64 {
        let (step, behind) = (self.step(), self.target.saturating_sub(self.current));
        let settled = self.ticks > FAST_RECOVERY && (behind + step) / 2 == behind;
        if !settled {
            return 0;
        }
        let room = bounds.line.0.saturating_sub(self.target);
        let count = due.min(room.checked_div(step).unwrap_or(0));
        self.target += count * step;
        self.current += count * step;
        let ticks = u32::try_from(count).unwrap_or(u32::MAX);
        self.ticks = self.ticks.saturating_add(ticks);
        count
    }
}

/// `alpha` after so many periods without notification: each leaves 255/256 of it.
fn decayed(alpha: u64, periods: u64) -> u64 {
    /// Fractions of 2^30.
    const SHIFT: u32 = 30;
    /// After so many, nothing is left of any `alpha`.
    const FORGOTTEN: u64 = 1 << 13;
    if periods >= FORGOTTEN {
        return 0;
    }
    let mut left = periods;
    let mut factor = (1 << SHIFT) - (1 << (SHIFT - GAIN_SHIFT));
    let mut product: u64 = 1 << SHIFT;
    while left > 0 {
        if left & 1 == 1 {
            product = (product * factor) >> SHIFT;
        }
        factor = (factor * factor) >> SHIFT;
        left >>= 1;
    }
    (alpha * product) >> SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const LINE: u32 = 40_000;

    fn bounds(line: u32, minimum: u32) -> Bounds {
        Bounds {
            line: Rate::megabits(line),
            minimum: Rate::megabits(minimum),
        }
    }

    fn at(micros: u64) -> Time {
        Time(micros * 1000)
    }

    /// The equations of the paper, in floating point, one tick at a time.
    struct Model {
        current: f64,
        target: f64,
        alpha: f64,
        alpha_at: u64,
        cut_at: u64,
        tick_at: u64,
        ticks: u32,
        bytes: u64,
        rounds: u32,
        line: f64,
        minimum: f64,
    }

    impl Model {
        fn new(now: u64, line: u32, minimum: u32) -> Self {
            let line = f64::from(line) * 1000.0;
            let mut model = Self {
                current: line,
                target: line,
                alpha: 1.0,
                alpha_at: now,
                cut_at: now,
                tick_at: now,
                ticks: 0,
                bytes: 0,
                rounds: 0,
                line,
                minimum: f64::from(minimum) * 1000.0,
            };
            model.cut(now);
            model
        }

        fn cut(&mut self, now: u64) {
            while self.alpha_at + 55_000 <= now {
                self.alpha *= 1.0 - 1.0 / 256.0;
                self.alpha_at += 55_000;
            }
            self.target = self.current;
            self.current = (self.current * (1.0 - self.alpha / 2.0)).max(self.minimum);
            self.alpha = self.alpha * (1.0 - 1.0 / 256.0) + 1.0 / 256.0;
            (self.alpha_at, self.cut_at, self.tick_at) = (now, now, now);
            (self.ticks, self.bytes, self.rounds) = (0, 0, 0);
        }

        fn notified(&mut self, now: u64) {
            self.advance(now);
            if now - self.cut_at >= 4_000 {
                self.cut(now);
            }
        }

        fn advance(&mut self, now: u64) {
            while self.tick_at + 55_000 <= now {
                self.tick_at += 55_000;
                self.ticks += 1;
                self.increase();
            }
        }

        fn sent(&mut self, bytes: u64) {
            self.bytes += bytes;
            while self.bytes >= 10_000_000 {
                self.bytes -= 10_000_000;
                self.rounds += 1;
                self.increase();
            }
        }

        fn increase(&mut self) {
            self.target += match (self.ticks.max(self.rounds), self.ticks.min(self.rounds)) {
                (0..5, _) => 0.0,
                (_, 0..=5) => 40_000.0,
                _ => 400_000.0,
            };
            self.target = self.target.min(self.line);
            self.current = f64::midpoint(self.current, self.target);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Notified,
        Sent(u32),
        Looked,
    }

    fn event() -> impl Strategy<Value = (u64, Event)> {
        let gap = prop_oneof![0..5_000u64, 40_000..70_000u64, 0..3_000_000u64];
        let event = prop_oneof![
            Just(Event::Notified),
            (0..4_000_000u32).prop_map(Event::Sent),
            Just(Event::Looked),
        ];
        (gap, event)
    }

    proptest! {
        #[test]
        fn the_rate_is_that_of_the_equations(
            line in prop_oneof![Just(1_000u32), Just(40_000), Just(400_000)],
            minimum in 1..500u32,
            events in prop::collection::vec(event(), 1..300),
        ) {
            let bounds = bounds(line, minimum);
            let mut now = 1_000;
            let mut point = ReactionPoint::new(Time(now), &bounds);
            let mut model = Model::new(now, line, minimum);
            for (gap, event) in events {
                now += gap;
                point.advance(Time(now), &bounds);
                model.advance(now);
                match event {
                    Event::Notified => {
                        point.notified(Time(now), &bounds);
                        model.notified(now);
                    }
                    Event::Sent(bytes) => {
                        point.sent(bytes, &bounds);
                        model.sent(bytes.into());
                    }
                    Event::Looked => {}
                }
                let (is, wanted) = (point.current as f64, model.current);
                let near = 50.0 + wanted / 1000.0;
                prop_assert!((is - wanted).abs() < near, "{is} for {wanted}, {event:?} at {now}");
            }
        }

        #[test]
        fn one_look_at_the_end_is_as_good_as_many(
            cuts in prop::collection::vec(60_000..2_000_000u64, 0..20),
            rounds in 0..12u32,
            wait in 0..400_000_000u64,
            look in 1..500_000u64,
        ) {
            let bounds = bounds(LINE, 10);
            let mut point = ReactionPoint::new(Time(0), &bounds);
            let mut now = 0;
            for gap in cuts {
                now += gap;
                point.notified(Time(now), &bounds);
            }
            point.sent(rounds * 10_000_000, &bounds);
            let mut often = point;
            let mut then = now;
            while then < now + wait {
                then = (then + look).min(now + wait);
                often.advance(Time(then), &bounds);
            }
            point.advance(Time(now + wait), &bounds);
            prop_assert_eq!(point.current, often.current);
            prop_assert_eq!(point.target, often.target);
        }

        #[test]
        fn no_input_leaves_the_bounds(
            line in 1..=u32::MAX,
            share in 1..=u32::MAX,
            events in prop::collection::vec((any::<u64>(), any::<u32>()), 1..50),
        ) {
            let minimum = share % line + 1;
            let bounds = bounds(line, minimum.min(line));
            let mut point = ReactionPoint::new(Time(0), &bounds);
            for (time, bytes) in events {
                // Also times that go back, and those at the end of time.
                point.notified(Time(time), &bounds);
                point.sent(bytes, &bounds);
                point.advance(Time(time.saturating_add(time / 2)), &bounds);
                prop_assert!(point.current >= bounds.minimum.0);
                prop_assert!(point.current <= bounds.line.0);
                prop_assert!(point.alpha <= ONE);
            }
        }
    }

    #[test]
    fn the_first_cut_halves_and_recovery_halves_the_distance() {
        let bounds = bounds(LINE, 1);
        let mut point = ReactionPoint::new(at(0), &bounds);
        let mut rates = Vec::new();
        for tick in 0..5 {
            point.advance(at(55 * tick + 54), &bounds);
            rates.push(point.rate().to_megabits());
        }
        assert_eq!(rates, [20_000, 30_000, 35_000, 37_500, 38_750]);
    }

    #[test]
    fn notifications_at_once_cut_once() {
        let bounds = bounds(LINE, 1);
        let mut point = ReactionPoint::new(at(0), &bounds);
        point.notified(at(3), &bounds);
        assert_eq!(point.rate(), Rate::megabits(20_000));
        point.notified(at(4), &bounds);
        assert_eq!(point.rate(), Rate::megabits(10_000));
    }

    #[test]
    fn cuts_end_at_the_minimum() {
        let bounds = bounds(LINE, 3_000);
        let mut point = ReactionPoint::new(at(0), &bounds);
        for cut in 1..10 {
            point.notified(at(50 * cut), &bounds);
        }
        assert_eq!(point.rate(), Rate::megabits(3_000));
        point.advance(at(450), &self::bounds(LINE, 5_000));
        assert_eq!(point.rate(), Rate::megabits(5_000));
    }

    #[test]
    fn a_quiet_network_recovers_completely() {
        let bounds = bounds(LINE, 1);
        let mut point = ReactionPoint::new(at(0), &bounds);
        for cut in 1..20 {
            point.notified(at(50 * cut), &bounds);
        }
        point.advance(at(10_000), &bounds);
        assert!(!point.recovered(&bounds));
        point.advance(at(100_000), &bounds);
        assert!(point.recovered(&bounds));
    }

    #[test]
    fn alpha_forgets() {
        assert_eq!(decayed(ONE, 0), ONE);
        assert_eq!(decayed(ONE, 1), ONE * 255 / 256);
        // 1/e after 256 periods, within the fractions' precision.
        let share = decayed(ONE, 256) as f64 / ONE as f64;
        assert!((share - 0.367_16).abs() < 1e-4, "{share}");
        assert_eq!(decayed(ONE, 8_000), 0);
        assert_eq!(decayed(ONE, u64::MAX), 0);
    }

    #[test]
    fn bytes_take_their_time() {
        assert_eq!(Rate::megabits(1_000).nanoseconds(125), 1_000);
        assert_eq!(Rate::megabits(100_000).nanoseconds(4_178), 335);
        assert_eq!(Rate::megabits(0), Rate::megabits(1));
        assert_eq!(Rate::megabits(1).nanoseconds(u32::MAX), 34_359_738_360_000);
    }
}
