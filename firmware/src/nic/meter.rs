//! How fast a function may send: a token bucket (RFC 2475, 4.2).
//!
//! The owner of a meter asks it before each call what may be sent, and charges it afterwards with what
//! was. The bucket may be overdrawn by the last PDU of a call, so that one of any length gets
//! through, and debts are paid by time. Tokens are thousandths of a bit, which is what a rate in
//! Mbit/s brings in a nanosecond: nothing is divided but to find out how long to sleep, and nothing
//! is lost by rounding.

use crate::types::Time;

/// Tokens of a byte.
const BYTE: i64 = 8 * 1000;
/// Time for which tokens are kept, in nanoseconds: an engine that got its processor back that late
/// makes up for it.
const DEPTH: u64 = 2_000_000;
/// Time for which one PDU of several packets may put the function into debt, in nanoseconds.
const STRIDE: u64 = 100_000;

/// What a function may send in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Bytes of frames; the last PDU may exceed them.
    pub(super) bytes: u64,
    /// Bytes of data that a PDU of several packets should not exceed.
    pub(super) longest: u32,
}

/// Bytes that a rate in Mbit/s brings in a number of nanoseconds.
const fn bytes_in(rate: u32, nanoseconds: u64) -> u64 {
    rate as u64 * nanoseconds / BYTE.unsigned_abs()
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meter {
    /// In Mbit/s, not 0.
    rate: u32,
    /// What may be sent; less than 0 is a debt.
    tokens: i64,
    /// When that was so.
    at: Time,
}

impl Meter {
    /// A meter of a rate in Mbit/s, with an empty bucket.
    pub(super) const fn new(rate: u32, now: Time) -> Self {
        Self {
            rate,
            tokens: 0,
            at: now,
        }
    }

    /// Changes the rate. A debt remains.
    pub(super) fn set_rate(&mut self, rate: u32, now: Time) {
        self.fill(now);
        self.rate = rate;
        self.tokens = self.tokens.min(self.full());
    }

    /// What the bucket holds.
    fn full(&self) -> i64 {
        self.brought(DEPTH)
    }

    fn brought(&self, nanoseconds: u64) -> i64 {
        let tokens = u64::from(self.rate).saturating_mul(nanoseconds);
        i64::try_from(tokens).unwrap_or(i64::MAX)
    }

    fn fill(&mut self, now: Time) {
        let elapsed = now.0.saturating_sub(self.at.0);
        if elapsed > 0 {
            self.at = now;
            let tokens = self.tokens.saturating_add(self.brought(elapsed));
            self.tokens = tokens.min(self.full());
        }
    }

    /// What may be sent now, if anything.
    pub(super) fn allowance(&mut self, now: Time) -> Option<Allowance> {
        self.fill(now);
        // The last token is enough for a byte.
        let bytes = self.tokens.saturating_add(BYTE - 1) / BYTE;
        let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
        let longest = u32::try_from(bytes_in(self.rate, STRIDE)).unwrap_or(u32::MAX);
        Some(Allowance { bytes, longest })
    }

    /// Takes away what was sent.
    pub(super) fn charge(&mut self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_sub(bytes.saturating_mul(BYTE));
    }

    /// From when on something may be sent.
    pub(super) fn opens(&self) -> Time {
        let debt = 1i64.saturating_sub(self.tokens);
        match u64::try_from(debt) {
            Ok(debt) => Time(self.at.0.saturating_add(debt.div_ceil(self.rate.into()))),
            Err(_) => self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends PDUs of `length` bytes as soon as the meter lets it, until `end`; returns the bytes.
    fn pump(meter: &mut Meter, length: u64, end: u64) -> u64 {
        let mut sent = 0;
        let mut now = meter.at;
        while now.0 < end {
            if meter.allowance(now).is_some() {
                meter.charge(length);
                sent += length;
            } else {
                let opens = meter.opens();
                assert!(opens > now, "it opens when it is closed");
                now = opens;
                assert!(meter.allowance(now).is_some(), "it opens when it says");
            }
        }
        sent
    }

    #[test]
    fn any_rate_and_length_is_met_over_time() {
        for rate in [1, 7, 1_000, 25_000, 100_000, 4_000_000_000] {
            for length in [60, 4_190, 70_000] {
                let time = 1_000u64.max(200 * length * 8_000 / u64::from(rate));
                let mut meter = Meter::new(rate, Time(5));
                let sent = pump(&mut meter, length, 5 + time);
                let due = bytes_in(rate, time);
                let bound = length + bytes_in(rate, 1) + 1;
                assert!(sent.abs_diff(due) <= bound, "{rate} {length}: {sent} {due}");
            }
        }
    }

    #[test]
    fn who_has_been_silent_for_long_may_send_a_burst_and_no_more() {
        let mut meter = Meter::new(1_000, Time(0));
        let full = Some(bytes_in(1_000, DEPTH));
        let bytes = |meter: &mut Meter, now| meter.allowance(now).map(|allowance| allowance.bytes);
        assert_eq!(bytes(&mut meter, Time(0)), None);
        assert_eq!(bytes(&mut meter, Time(u64::MAX)), full);
        assert_eq!(bytes(&mut meter, Time(0)), full, "no time is taken back");
    }

    #[test]
    fn a_debt_outlasts_a_change_of_the_rate_and_a_credit_does_not_exceed_it() {
        let mut meter = Meter::new(1_000, Time(0));
        meter.charge(1_000);
        assert_eq!(meter.opens(), Time(8_001));
        meter.set_rate(10, Time(0));
        assert_eq!(meter.opens(), Time(800_001));
        meter.set_rate(1_000, Time(0));
        let long = Time(1_000_000_000);
        assert_eq!(meter.allowance(long).unwrap().bytes, bytes_in(1_000, DEPTH));
        meter.set_rate(10, long);
        assert_eq!(meter.allowance(long).unwrap().bytes, bytes_in(10, DEPTH));
        meter.charge(u64::MAX);
        meter.charge(u64::MAX);
        assert!(meter.opens() > long);
    }
}
