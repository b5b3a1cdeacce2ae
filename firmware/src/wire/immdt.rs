//! Immediate data (IBTA volume 1, 9.3.6): 4 bytes that nobody on the way interprets, so they keep
//! the order they have on the wire.

/// Length of the header.
pub(super) const LENGTH: usize = 4;

/// Reads a header.
pub(super) const fn parse(header: &[u8; LENGTH]) -> u32 {
    u32::from_ne_bytes(*header)
}

/// Writes a header.
pub(super) const fn emit(immediate: u32, header: &mut [u8; LENGTH]) {
    *header = immediate.to_ne_bytes();
}
