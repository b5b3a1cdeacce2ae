//! The checksum of IPv4, UDP and TCP headers (RFC 1071): the ones' complement sum of 16-bit words.
//!
//! The sum is made of words as the machine reads them and put into order at the end, which RFC 1071
//! (2, B) shows to be the same. Its result is never 0 unless all words are.

/// A sum that is being made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// With more bytes. Only the last ones may have an odd number.
    #[inline]
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(4);
        let rest = words.remainder();
        // No overflow: that would take 2^32 words.
        for word in words.filter_map(|word| word.first_chunk::<4>()) {
            self.0 += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.0 += u64::from(u32::from_ne_bytes(last));
        self
    }

    /// The sum as a number; its complement is the checksum. With the checksum among the words it is
    /// all ones.
    #[inline]
    pub(super) fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::from_be(sum as u16)
    }
}
