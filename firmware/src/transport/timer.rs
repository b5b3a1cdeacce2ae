//! Durations that a connection's attributes stand for.
//!
//! Timers themselves are plain deadlines in the requester; [`super::Qp::deadline`] is the earliest.

use core::time::Duration;

/// Local ack timeout: 4.096 µs times 2 to the power of `code`; 0 is no timeout (IBTA volume 1,
/// 9.7.6.1.3). The specification allows up to four times that; the lower bound is used.
pub(super) const fn ack_timeout(code: u8) -> Option<Duration> {
    if code == 0 || code > 31 {
        return None;
    }
    Some(Duration::from_nanos(4096 << code))
}

/// RNR NAK timer by its code (IBTA volume 1, table 45).
pub(super) fn rnr_delay(code: u8) -> Duration {
    /// Hundredths of a millisecond.
    const TABLE: [u32; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    let hundredths = TABLE.get(usize::from(code & 31)).copied().unwrap_or(1);
    Duration::from_micros(u64::from(hundredths) * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_timeouts_double() {
        assert_eq!(ack_timeout(0), None);
        assert_eq!(ack_timeout(1), Some(Duration::from_nanos(8192)));
        assert_eq!(ack_timeout(14), Some(Duration::from_nanos(67_108_864)));
        assert_eq!(ack_timeout(31), Some(Duration::from_nanos(4096 << 31)));
    }

    #[test]
    fn rnr_delays_follow_the_table() {
        assert_eq!(rnr_delay(0), Duration::from_micros(655_360));
        assert_eq!(rnr_delay(1), Duration::from_micros(10));
        assert_eq!(rnr_delay(12), Duration::from_micros(640));
        assert_eq!(rnr_delay(31), Duration::from_micros(491_520));
        for code in 2..32 {
            assert!(rnr_delay(code) > rnr_delay(code - 1), "code {code}");
        }
    }
}
