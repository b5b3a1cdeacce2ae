//! The RDMA extended transport header (IBTA volume 1, 9.3.3); its values are a [`RemoteRange`].

use super::field::Field;
use crate::pdu::RemoteRange;

/// Length of the header.
pub(super) const LENGTH: usize = 16;

mod field {
    use super::Field;

    pub(super) const ADDRESS: Field<0, 8> = Field;
    pub(super) const RKEY: Field<8, 4> = Field;
    pub(super) const DMA_LENGTH: Field<12, 4> = Field;
}

/// Reads a header.
pub(super) fn parse(header: &[u8; LENGTH]) -> RemoteRange {
    RemoteRange {
        address: field::ADDRESS.u64(header),
        rkey: field::RKEY.u32(header),
        length: field::DMA_LENGTH.u32(header),
    }
}

/// Writes a header.
pub(super) fn emit(range: &RemoteRange, header: &mut [u8; LENGTH]) {
    field::ADDRESS.set(header, range.address.to_be_bytes());
    field::RKEY.set(header, range.rkey.to_be_bytes());
    field::DMA_LENGTH.set(header, range.length.to_be_bytes());
}
