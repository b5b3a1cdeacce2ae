//! The extended reliable connection's extended transport header (IBTA volume 1, annex A14): the
//! responder's shared receive queue. It stands directly behind the base transport header of every
//! request packet; responses have none.

use super::field::Field;

/// Length of the header.
pub(super) const LENGTH: usize = 4;
/// The largest number of a shared receive queue.
pub(super) const LARGEST: u32 = 0xff_ffff;

mod field {
    use super::Field;

    pub(super) const RESERVED: Field<0, 1> = Field;
    pub(super) const SHARED_RECEIVE_QUEUE: Field<1, 3> = Field;
}

/// Reads a header; reserved bits are ignored.
pub(super) fn parse(header: &[u8; LENGTH]) -> u32 {
    field::SHARED_RECEIVE_QUEUE.u24(header)
}

/// Writes a header; `srqn` is at most [`LARGEST`].
pub(super) fn emit(srqn: u32, header: &mut [u8; LENGTH]) {
    field::RESERVED.set(header, [0]);
    field::SHARED_RECEIVE_QUEUE.set_u24(header, srqn);
}
