//! The arithmetic of rings with an owner bit.
//!
//! A counter of entries ever used, modulo 2^32, splits into the position in the ring and the
//! pass; the owner bit of an entry is 1 in even passes and 0 in odd ones.

/// Size of a ring, a power of two of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize {
    log: u8,
}

impl RingSize {
    /// A ring of 2^`log` entries, `log` at most 31.
    #[must_use]
    pub const fn from_log(log: u8) -> Self {
        Self {
            log: if log > 31 { 31 } else { log },
        }
    }

    /// A ring of 2^`log` entries that the device has, if it has rings of up to 2^`limit`.
    pub(crate) fn within(log: u8, limit: u8) -> Option<Self> {
        (log <= limit.min(31)).then_some(Self { log })
    }

    /// The smallest ring with at least `entries` entries.
    #[must_use]
    pub fn at_least(entries: u32) -> Option<Self> {
        let size = entries.max(1).checked_next_power_of_two()?;
        Some(Self {
            log: size.trailing_zeros() as u8,
        })
    }

    /// Its number of entries as a power of two.
    #[must_use]
    pub const fn log(self) -> u8 {
        self.log
    }

    /// Its number of entries.
    #[must_use]
    pub const fn entries(self) -> u32 {
        1 << self.log
    }

    /// Position in the ring of counter value `counter`.
    #[must_use]
    pub const fn position(self, counter: u32) -> usize {
        (counter & (self.entries() - 1)) as usize
    }

    /// Whether an entry with `owner` in its last byte is valid for counter value `counter`.
    #[must_use]
    pub const fn is_valid(self, counter: u32, owner: u8) -> bool {
        let pass = (counter >> self.log) & 1;
        (owner & 1) as u32 != pass
    }
}

/// The last byte of an entry's last 8 bytes, where the owner bit is.
#[must_use]
pub const fn owner_of(last: u64) -> u8 {
    (last >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_ring_is_invalid_in_the_first_pass_only() {
        for log in 0..=8 {
            let ring = RingSize::from_log(log);
            for counter in 0..4 * ring.entries() {
                let pass = counter / ring.entries();
                assert_eq!(ring.is_valid(counter, 0), pass % 2 == 1);
                assert_eq!(ring.is_valid(counter, 1), pass % 2 == 0);
                assert_eq!(ring.position(counter) as u32, counter % ring.entries());
            }
        }
    }

    #[test]
    fn passes_continue_across_the_wrap_of_the_counter() {
        let ring = RingSize::from_log(4);
        assert!(ring.is_valid(u32::MAX, 0));
        assert!(ring.is_valid(u32::MAX.wrapping_add(1), 1));
    }

    #[test]
    fn sizes_are_rounded_up() {
        let logs = [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1 << 31, 31),
        ];
        for (entries, log) in logs {
            assert_eq!(RingSize::at_least(entries).map(RingSize::log), Some(log));
        }
        assert_eq!(RingSize::at_least((1 << 31) + 1), None);
    }
}
