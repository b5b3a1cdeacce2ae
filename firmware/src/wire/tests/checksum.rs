//! The ones' complement sum.

use proptest::prelude::*;

use super::super::checksum::Sum;
use super::*;

/// The definition (RFC 1071, 1): 16-bit words in the order of the wire, with end-around carry.
pub(super) fn reference_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn the_example_of_the_specification() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::default().add(&bytes).fold(), 0xddf2);
}

#[test]
fn the_longest_packet_does_not_overflow() {
    let bytes = vec![0xff; 65_536];
    assert_eq!(Sum::default().add(&bytes).fold(), 0xffff);
}

proptest! {
    #[test]
    fn sums_are_the_definition(
        first in proptest::collection::vec(any::<[u8; 2]>(), 0..20),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let first = first.concat();
        let sum = Sum::default().add(&first).add(&rest).fold();
        prop_assert_eq!(sum, reference_sum(&[first, rest].concat()));
    }
}
