//! Numbers as people write them: `1%`, `0.5ms`, `2.5G`, `0x11`.
//!
//! All are read as decimals of a fixed number of places, exactly and without floating point. A
//! number without the unit that it needs is refused, never guessed: `drop=1` could be one percent or
//! all.

use core::time::Duration;

use super::spec::{Problem, SpecError};

/// Parts per billion: of every frame.
const WHOLE: u64 = 1_000_000_000;

/// The longest delay. With it, the memory that delayed frames take comes back.
pub const MAX_DELAY: Duration = Duration::from_secs(10);

/// The lowest rate, at which an Ethernet frame of 9000 bytes takes about a second.
const MIN_RATE: u64 = 64_000;
/// The highest rate.
const MAX_RATE: u64 = 1_000_000_000_000;

/// How likely something happens to a frame, exact to a billionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance(u32);

impl Chance {
    /// `parts` of a billion; more than all is all.
    #[must_use]
    pub const fn parts_per_billion(parts: u32) -> Self {
        let whole = WHOLE as u32;
        Self(if parts < whole { parts } else { whole })
    }

    /// `percent` of a hundred; more than all is all.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self::parts_per_billion(percent.saturating_mul(10_000_000))
    }

    /// Parts of a billion.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether it happens when `random` is drawn from all 64-bit numbers.
    pub(super) const fn hits(self, random: u64) -> bool {
        super::rng::below(random, WHOLE) < self.0 as u64
    }

    /// Reads `1%`, `0.1%` or `0.001`.
    pub(super) fn parse(text: &str) -> Result<Self, SpecError> {
        let parts = match text.strip_suffix('%') {
            Some(percent) => decimal(percent, 7),
            None if text.contains('.') || text == "0" => decimal(text, 9),
            None => None,
        };
        let parts = parts.filter(|parts| *parts <= WHOLE);
        let parts = parts.and_then(|parts| u32::try_from(parts).ok());
        parts.map(Self).ok_or(SpecError::new(text, Problem::Chance))
    }
}

/// Reads a duration up to [`MAX_DELAY`], such as `10us` or `0.5ms`.
pub(super) fn duration(text: &str) -> Result<Duration, SpecError> {
    let wrong = || SpecError::new(text, Problem::Duration);
    let unit = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = unit
        .and_then(|at| text.split_at_checked(at))
        .ok_or_else(wrong)?;
    let places = match unit {
        "ns" => 0,
        "us" => 3,
        "ms" => 6,
        "s" => 9,
        _ => return Err(wrong()),
    };
    let duration = Duration::from_nanos(decimal(number, places).ok_or_else(wrong)?);
    if duration > MAX_DELAY {
        return Err(SpecError::new(text, Problem::TooLong));
    }
    Ok(duration)
}

/// Reads a rate in bits per second, such as `10G` or `64K`.
pub(super) fn rate(text: &str) -> Result<u64, SpecError> {
    let places = match text.chars().next_back() {
        Some('K') => 3,
        Some('M') => 6,
        Some('G') => 9,
        Some('T') => 12,
        _ => 0,
    };
    let number = if places == 0 {
        text
    } else {
        text.get(..text.len().saturating_sub(1)).unwrap_or_default()
    };
    decimal(number, places)
        .filter(|rate| (MIN_RATE..=MAX_RATE).contains(rate))
        .ok_or(SpecError::new(text, Problem::Rate))
}

/// Reads a whole number up to `max`, decimal or with `0x`.
pub(super) fn whole(text: &str, max: u64) -> Result<u64, SpecError> {
    let number = match text.strip_prefix("0x") {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            u64::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => decimal(text, 0),
    };
    number
        .filter(|number| *number <= max)
        .ok_or(SpecError::new(text, Problem::Number(max)))
}

/// Reads digits with at most `places` of them behind a point, and returns their value times
/// 10^`places`.
fn decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.is_empty() || fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| {
        text.bytes().try_fold(0_u64, |value, digit| {
            let digit = char::from(digit).to_digit(10)?;
            value.checked_mul(10)?.checked_add(digit.into())
        })
    };
    let fraction = fraction.trim_end_matches('0');
    let missing = places.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let whole = digits(whole)?.checked_mul(10_u64.checked_pow(places)?)?;
    let fraction = digits(fraction)?.checked_mul(10_u64.checked_pow(missing)?)?;
    whole.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances() {
        let parts = |text| Chance::parse(text).map(|chance| chance.0).ok();
        assert_eq!(parts("1%"), Some(10_000_000));
        assert_eq!(parts("0.1%"), Some(1_000_000));
        assert_eq!(parts("0.0000001%"), Some(1));
        assert_eq!(parts("100%"), Some(1_000_000_000));
        assert_eq!(parts("0.01"), Some(10_000_000));
        assert_eq!(parts("1.0"), Some(1_000_000_000));
        assert_eq!(parts("0"), Some(0));
        for wrong in [
            "",
            "%",
            "1",
            "-1%",
            "+1%",
            "101%",
            "1.1",
            "1 %",
            "1e-3",
            ".5",
            "5.%",
            "1%%",
            "0.00000001%",
            "99999999999999999999%",
        ] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn certain_and_impossible_are_exact() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(Chance::percent(100).hits(random));
            assert!(!Chance::percent(0).hits(random));
        }
    }

    #[test]
    fn durations() {
        let nanos = |text| duration(text).map(|duration| duration.as_nanos()).ok();
        assert_eq!(nanos("10us"), Some(10_000));
        assert_eq!(nanos("0.5ms"), Some(500_000));
        assert_eq!(nanos("2s"), Some(2_000_000_000));
        assert_eq!(nanos("7ns"), Some(7));
        assert_eq!(nanos("10s"), Some(10_000_000_000));
        for wrong in [
            "", "1", "ms", "1m", "1.5ns", "-1ms", "10.1s", "1 ms", "0.0001us",
        ] {
            assert_eq!(nanos(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("10G").ok(), Some(10_000_000_000));
        assert_eq!(rate("2.5G").ok(), Some(2_500_000_000));
        assert_eq!(rate("500M").ok(), Some(500_000_000));
        assert_eq!(rate("64000").ok(), Some(64_000));
        for wrong in ["", "G", "1", "63K", "1.1T", "10g", "10Gbit", "-1G"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole("17", 20).ok(), Some(17));
        assert_eq!(whole("0xff", 255).ok(), Some(255));
        for wrong in ["", "0x", "0x+1", "+1", "21", "1.5", "18446744073709551616"] {
            assert!(whole(wrong, 20).is_err(), "{wrong}");
        }
    }
}
