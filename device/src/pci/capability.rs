//! Capabilities and the two linked lists they form.
//!
//! A [`Capability`] is an ID, a length and its registers, offsets counted from its own start;
//! [`place`] gives each an address, in the order of the slice, and writes the headers that link
//! them. The registers at offset 0 (and 1, for standard ones) belong to the header.
//!
//! Clauses: PCI Express Base 6.0, sections 7.5.1.1.11 (list of PCI-compatible capabilities) and
//! 7.6.3 (extended capability header).

use super::config::ConfigError;
use super::register::{Register, RegisterFile};

/// Where PCI-compatible capabilities start.
pub(super) const STANDARD_BASE: u16 = 0x40;
/// Where extended capabilities start.
pub(super) const EXTENDED_BASE: u16 = 0x100;
const EXTENDED_END: u16 = 0x1000;

/// One capability structure.
#[derive(Clone, Debug)]
pub(super) struct Capability {
    /// Capability ID.
    pub(super) id: u16,
    /// Version, of an extended capability only.
    pub(super) version: u8,
    /// Bytes it takes, its header included.
    pub(super) length: u16,
    /// Its registers without the ID and the link.
    pub(super) registers: Vec<Register>,
}

/// Which of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// PCI-compatible capabilities, 0x40 to 0xff.
    Standard,
    /// Extended capabilities, from 0x100.
    Extended,
}

impl List {
    fn bounds(self) -> (u16, u16) {
        match self {
            Self::Standard => (STANDARD_BASE, EXTENDED_BASE),
            Self::Extended => (EXTENDED_BASE, EXTENDED_END),
        }
    }

    /// The header of a capability that is followed by one at `next` (0: by none).
    fn header(self, capability: &Capability, next: u16) -> Register {
        let id = u32::from(capability.id);
        match self {
            Self::Standard => Register::new(0, 2, id | (u32::from(next) << 8)),
            Self::Extended => Register::new(
                0,
                4,
                id | (u32::from(capability.version) << 16) | (u32::from(next) << 20),
            ),
        }
    }
}

/// Places `capabilities` one after the other, links them, and returns the offset of each.
pub(super) fn place(
    file: &mut RegisterFile,
    list: List,
    capabilities: &[Capability],
) -> Result<Vec<u16>, ConfigError> {
    let offsets = offsets(list, capabilities)?;
    for (index, (capability, &offset)) in capabilities.iter().zip(&offsets).enumerate() {
        let next = offsets.get(index + 1).copied().unwrap_or(0);
        file.define(offset, &[list.header(capability, next)])?;
        file.define(offset, &capability.registers)?;
    }
    Ok(offsets)
}

fn offsets(list: List, capabilities: &[Capability]) -> Result<Vec<u16>, ConfigError> {
    let (mut at, end) = list.bounds();
    let mut offsets = Vec::with_capacity(capabilities.len());
    for capability in capabilities {
        offsets.push(at);
        let length = capability.length.next_multiple_of(4);
        at = at.checked_add(length).ok_or(ConfigError::NoRoom)?;
        if at > end {
            return Err(ConfigError::NoRoom);
        }
    }
    Ok(offsets)
}
