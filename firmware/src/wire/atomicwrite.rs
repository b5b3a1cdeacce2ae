//! What an atomic write carries (IBTA volume 1, annex A19.3): a RETH whose length is that of the
//! value, and the value as payload, in the order in which its bytes stand in memory.
//!
//! The length is fixed, so the value is taken for a header here, and the PDU has no payload.

use super::field::Field;
use super::{DropReason, reth};
use crate::pdu::RemoteRange;

/// Length of header and value.
pub(super) const LENGTH: usize = reth::LENGTH + VALUE;

/// Length of the value.
const VALUE: usize = 8;

mod field {
    use super::{Field, VALUE, reth};

    pub(super) const TARGET: Field<0, { reth::LENGTH }> = Field;
    pub(super) const VALUE_BYTES: Field<{ reth::LENGTH }, VALUE> = Field;
}

/// What header and payload say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Virtual address.
    pub(super) address: u64,
    /// Remote key.
    pub(super) rkey: u32,
    /// What to write.
    pub(super) value: [u8; VALUE],
}

impl Repr {
    /// Reads header and payload.
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Result<Self, DropReason> {
        let target = reth::parse(&field::TARGET.get(bytes));
        if target.length != VALUE as u32 {
            return Err(DropReason::AtomicWriteLength);
        }
        Ok(Self {
            address: target.address,
            rkey: target.rkey,
            value: field::VALUE_BYTES.get(bytes),
        })
    }

    /// Writes header and payload.
    pub(super) fn emit(&self, bytes: &mut [u8; LENGTH]) {
        let mut target = [0; reth::LENGTH];
        let range = RemoteRange {
            address: self.address,
            rkey: self.rkey,
            length: VALUE as u32,
        };
        reth::emit(&range, &mut target);
        field::TARGET.set(bytes, target);
        field::VALUE_BYTES.set(bytes, self.value);
    }
}
