//! The invalidate extended transport header (IBTA volume 1, 9.3.7): the key to invalidate.

/// Length of the header.
pub(super) const LENGTH: usize = 4;

/// Reads a header.
pub(super) const fn parse(header: &[u8; LENGTH]) -> u32 {
    u32::from_be_bytes(*header)
}

/// Writes a header.
pub(super) const fn emit(rkey: u32, header: &mut [u8; LENGTH]) {
    *header = rkey.to_be_bytes();
}
