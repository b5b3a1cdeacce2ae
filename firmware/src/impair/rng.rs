//! Random numbers that are a function of the seed and of the frame's number, and of nothing else.
//!
//! A [`Stream`] is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014), whose n-th number can be had without the ones before it. Each kind of
//! impairment has a stream of its own, and frame n takes number n of each, whatever happens to the
//! frame: so what one kind decides never depends on whether another one is switched on.
//!
//! Not for secrets.

use super::Direction;

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One sequence of random numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    start: u64,
}

impl Stream {
    /// The sequence that `seed` gives to decisions of one `kind` in one direction.
    pub(super) const fn new(seed: u64, direction: Direction, kind: u64) -> Self {
        let way = match direction {
            Direction::Transmit => 0,
            Direction::Receive => 1,
        };
        let tag = (kind << 1 | way).wrapping_add(1);
        let start = mix(seed ^ mix(tag.wrapping_mul(STEP)));
        Self { start }
    }

    /// Number `n` of the sequence.
    pub(super) const fn at(self, n: u64) -> u64 {
        let steps = n.wrapping_add(1);
        mix(self.start.wrapping_add(steps.wrapping_mul(STEP)))
    }
}

/// Maps a random number to one below `limit`, or to 0 if that is 0.
pub(super) const fn below(random: u64, limit: u64) -> u64 {
    let product = random as u128 * limit as u128;
    (product >> 64) as u64
}

/// The output function of SplitMix64.
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first numbers that the reference implementation gives for the state 1234567.
        let stream = Stream { start: 1_234_567 };
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([0, 1, 2, 3, 4].map(|n| stream.at(n)), expected);
    }

    #[test]
    fn streams_of_different_kinds_and_directions_differ() {
        let mut starts = alloc::vec::Vec::new();
        for seed in 0..8 {
            for kind in 0..16 {
                for direction in [Direction::Transmit, Direction::Receive] {
                    starts.push(Stream::new(seed, direction, kind).start);
                }
            }
        }
        let count = starts.len();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), count);
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let stream = Stream::new(1, Direction::Transmit, 0);
        let mut seen = [0_u32; 7];
        for n in 0..7000 {
            seen[below(stream.at(n), 7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 850), "{seen:?}");
        assert_eq!(below(u64::MAX, 0), 0);
        assert_eq!(below(u64::MAX, 1), 0);
    }
}
