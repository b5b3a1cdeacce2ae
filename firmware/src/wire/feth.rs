//! The flush extended transport header (IBTA volume 1, annex A19.4.1).
//!
//! Bits 0 to 3 are the placement type, of which two are in use, bits 4 and 5 the selectivity level.
//! Unlike elsewhere the reserved bits are looked at: one of them may ask for a kind of flush that
//! this device does not do, and to confirm that would be to confirm a flush that did not happen.

use super::DropReason;
use crate::pdu::{FlushExtent, Placement};

/// Length of the header.
pub(super) const LENGTH: usize = 4;

const GLOBAL_VISIBILITY: u32 = 1 << 0;
const PERSISTENCE: u32 = 1 << 1;
const SELECTIVITY: u32 = 0x30;
const RANGE: u32 = 0 << 4;
const REGION: u32 = 1 << 4;
const RESERVED: u32 = !(GLOBAL_VISIBILITY | PERSISTENCE | SELECTIVITY);

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Selectivity level.
    pub(super) extent: FlushExtent,
    /// Placement types.
    pub(super) placement: Placement,
}

impl Repr {
    /// Reads a header.
    pub(super) const fn parse(header: &[u8; LENGTH]) -> Result<Self, DropReason> {
        let bits = u32::from_be_bytes(*header);
        let extent = match bits & SELECTIVITY {
            RANGE => FlushExtent::Range,
            REGION => FlushExtent::Region,
            _ => return Err(DropReason::FlushHeader),
        };
        let placement = Placement {
            global: bits & GLOBAL_VISIBILITY != 0,
            persistent: bits & PERSISTENCE != 0,
        };
        if bits & RESERVED != 0 || is_nowhere(placement) {
            return Err(DropReason::FlushHeader);
        }
        Ok(Self { extent, placement })
    }

    /// Writes the header, or returns `None` if there is no placement type.
    pub(super) fn emit(&self, header: &mut [u8; LENGTH]) -> Option<()> {
        if is_nowhere(self.placement) {
            return None;
        }
        let selectivity = match self.extent {
            FlushExtent::Range => RANGE,
            FlushExtent::Region => REGION,
        };
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let placement = flag(self.placement.global, GLOBAL_VISIBILITY)
            | flag(self.placement.persistent, PERSISTENCE);
        *header = (selectivity | placement).to_be_bytes();
        Some(())
    }
}

const fn is_nowhere(placement: Placement) -> bool {
    !placement.global && !placement.persistent
}
