//! A slower wire: frames leave one after the other at a rate, and wait in a buffer until then.
//!
//! This is a token bucket that holds one frame, as the port of a switch is. No queue is kept: that
//! frames leave in order makes the time at which the last one has left say all about the buffer.
//! What does not fit is refused (tail drop). A frame that finds the wire free always fits.

use core::time::Duration;

use crate::types::Time;

/// Bytes that the buffer holds.
const BUFFER: u64 = 1 << 20;
/// How long a frame may wait in it, which makes it smaller on very slow wires.
const LONGEST: u64 = Duration::from_secs(1).as_nanos() as u64;

const NANOS: u64 = 1_000_000_000;

/// The slower wire.
#[derive(Clone, Debug)]
pub(super) struct Bottleneck {
    /// Bits per second.
    rate: u64,
    /// When the last frame has left.
    free_at: Time,
    /// Part of a nanosecond that the last frame took beyond `free_at`, in units of 1 / `rate`.
    remainder: u64,
}

impl Bottleneck {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            free_at: Time(0),
            remainder: 0,
        }
    }

    /// When the last bit of a frame has left, or `None` if the buffer is full.
    pub(super) fn admit(&mut self, now: Time, length: usize) -> Option<Time> {
        let waits = self.free_at.0.saturating_sub(now.0);
        if waits == 0 {
            self.remainder = 0;
        }
        let bits = (length as u64).saturating_mul(8);
        let work = bits.saturating_mul(NANOS).saturating_add(self.remainder);
        let takes = work / self.rate;
        if waits > 0 && waits.saturating_add(takes) > self.longest() {
            return None;
        }
        self.remainder = work % self.rate;
        self.free_at = Time(now.0.saturating_add(waits).saturating_add(takes));
        Some(self.free_at)
    }

    /// How long a frame waits behind a full buffer.
    fn longest(&self) -> u64 {
        (BUFFER * 8 * NANOS / self.rate).min(LONGEST)
    }
}
