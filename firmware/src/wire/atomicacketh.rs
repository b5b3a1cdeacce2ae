//! The atomic ACK extended transport header (IBTA volume 1, 9.5.3): what the number was before.

/// Length of the header.
pub(super) const LENGTH: usize = 8;

/// Reads a header.
pub(super) const fn parse(header: &[u8; LENGTH]) -> u64 {
    u64::from_be_bytes(*header)
}

/// Writes a header.
pub(super) const fn emit(original: u64, header: &mut [u8; LENGTH]) {
    *header = original.to_be_bytes();
}
