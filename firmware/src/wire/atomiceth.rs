//! The atomic extended transport header (IBTA volume 1, 9.3.5).
//!
//! COMPARE & SWAP and FETCH & ADD differ by opcode only; the latter leaves the compare field unused.

use super::field::Field;

/// Length of the header.
pub(super) const LENGTH: usize = 28;

mod field {
    use super::Field;

    pub(super) const ADDRESS: Field<0, 8> = Field;
    pub(super) const RKEY: Field<8, 4> = Field;
    pub(super) const SWAP_OR_ADD: Field<12, 8> = Field;
    pub(super) const COMPARE: Field<20, 8> = Field;
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Virtual address.
    pub(super) address: u64,
    /// Remote key.
    pub(super) rkey: u32,
    /// To store, or to add.
    pub(super) swap_or_add: u64,
    /// To compare with.
    pub(super) compare: u64,
}

impl Repr {
    /// Reads a header.
    pub(super) fn parse(header: &[u8; LENGTH]) -> Self {
        Self {
            address: field::ADDRESS.u64(header),
            rkey: field::RKEY.u32(header),
            swap_or_add: field::SWAP_OR_ADD.u64(header),
            compare: field::COMPARE.u64(header),
        }
    }

    /// Writes the header.
    pub(super) fn emit(&self, header: &mut [u8; LENGTH]) {
        field::ADDRESS.set(header, self.address.to_be_bytes());
        field::RKEY.set(header, self.rkey.to_be_bytes());
        field::SWAP_OR_ADD.set(header, self.swap_or_add.to_be_bytes());
        field::COMPARE.set(header, self.compare.to_be_bytes());
    }
}
