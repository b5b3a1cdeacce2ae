//! The datagram extended transport header (IBTA volume 1, 9.3.2).

use super::field::Field;
use crate::types::Qpn;

/// Length of the header.
pub(super) const LENGTH: usize = 8;

mod field {
    use super::Field;

    pub(super) const QKEY: Field<0, 4> = Field;
    pub(super) const RESERVED: Field<4, 1> = Field;
    pub(super) const SOURCE: Field<5, 3> = Field;
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Queue key of the destination.
    pub(super) qkey: u32,
    /// Queue pair that sent the datagram.
    pub(super) source: Qpn,
}

impl Repr {
    /// Reads a header; reserved bits are ignored.
    pub(super) fn parse(header: &[u8; LENGTH]) -> Self {
        Self {
            qkey: field::QKEY.u32(header),
            source: Qpn::new(field::SOURCE.u24(header)),
        }
    }

    /// Writes the header.
    pub(super) fn emit(&self, header: &mut [u8; LENGTH]) {
        field::QKEY.set(header, self.qkey.to_be_bytes());
        field::RESERVED.set(header, [0]);
        field::SOURCE.set_u24(header, self.source.get());
    }
}
