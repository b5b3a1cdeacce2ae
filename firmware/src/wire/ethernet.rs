//! Ethernet headers (IEEE 802.3) with at most one customer VLAN tag (IEEE 802.1Q, 9.6).
//!
//! Frames come without preamble and frame check sequence.

use super::DropReason;
use super::field::Field;
use crate::types::Mac;

/// Length of the header without a tag.
pub(super) const LENGTH: usize = 14;
/// Length of a VLAN tag.
pub(super) const TAG_LENGTH: usize = 4;
/// Shortest frame; shorter ones are padded.
pub const SHORTEST_FRAME: usize = 60;

/// Ethertype of IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub(super) const IPV6: u16 = 0x86dd;
/// Ethertype of a customer VLAN tag.
pub(super) const VLAN: u16 = 0x8100;

mod field {
    use super::Field;

    pub(super) const DESTINATION: Field<0, 6> = Field;
    pub(super) const SOURCE: Field<6, 6> = Field;
    pub(super) const ETHERTYPE: Field<12, 2> = Field;

    /// The tag stands between the addresses and the Ethertype; counted here from the first
    /// Ethertype on, it is the tag's control information and the second Ethertype.
    pub(super) const TAG_CONTROL: Field<0, 2> = Field;
    pub(super) const TAGGED_TYPE: Field<2, 2> = Field;
}

/// What a VLAN tag says (IEEE 802.1Q, 9.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag {
    /// VLAN identifier, 12 bits; 0 for a tag that gives a priority only.
    pub id: u16,
    /// Priority code point, 3 bits.
    pub priority: u8,
    /// Drop eligible indicator.
    pub drop_eligible: bool,
}

impl Tag {
    const DROP_ELIGIBLE: u16 = 1 << 12;

    /// From its control information.
    #[must_use]
    pub const fn from_control(control: u16) -> Self {
        Self {
            id: control & 0xfff,
            priority: (control >> 13) as u8,
            drop_eligible: control & Self::DROP_ELIGIBLE != 0,
        }
    }

    /// Its control information.
    #[must_use]
    pub fn control(self) -> u16 {
        let drop_eligible = if self.drop_eligible {
            Self::DROP_ELIGIBLE
        } else {
            0
        };
        u16::from(self.priority & 7) << 13 | drop_eligible | self.id & 0xfff
    }
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Destination address.
    pub(super) destination: Mac,
    /// Source address.
    pub(super) source: Mac,
    /// VLAN identifier, 12 bits; 0 for none.
    pub(super) vlan: u16,
    /// Priority code point, 3 bits; on the wire only if there is a tag.
    pub(super) priority: u8,
    /// Type of what follows.
    pub(super) ethertype: u16,
}

impl Repr {
    /// The header and what follows it.
    pub(super) fn parse(frame: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (header, rest) = frame
            .split_first_chunk::<LENGTH>()
            .ok_or(DropReason::Truncated)?;
        let untagged = Self {
            destination: Mac(field::DESTINATION.get(header)),
            source: Mac(field::SOURCE.get(header)),
            vlan: 0,
            priority: 0,
            ethertype: field::ETHERTYPE.u16(header),
        };
        if untagged.ethertype != VLAN {
            return Ok((untagged, rest));
        }
        let (tag, rest) = rest
            .split_first_chunk::<TAG_LENGTH>()
            .ok_or(DropReason::Truncated)?;
        let control = Tag::from_control(field::TAG_CONTROL.u16(tag));
        let tagged = Self {
            vlan: control.id,
            priority: control.priority,
            ethertype: field::TAGGED_TYPE.u16(tag),
            ..untagged
        };
        Ok((tagged, rest))
    }

    /// Length of the header with its tag.
    pub(super) const fn length(vlan: u16) -> usize {
        if vlan == 0 {
            LENGTH
        } else {
            LENGTH + TAG_LENGTH
        }
    }

    /// Writes the header and returns the room behind it, or `None` if there is too little room.
    pub(super) fn emit<'a>(&self, frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (header, rest) = frame.split_first_chunk_mut::<LENGTH>()?;
        field::DESTINATION.set(header, self.destination.0);
        field::SOURCE.set(header, self.source.0);
        if self.vlan == 0 {
            field::ETHERTYPE.set(header, self.ethertype.to_be_bytes());
            return Some(rest);
        }
        field::ETHERTYPE.set(header, VLAN.to_be_bytes());
        let (tag, rest) = rest.split_first_chunk_mut::<TAG_LENGTH>()?;
        let control = Tag {
            id: self.vlan,
            priority: self.priority,
            drop_eligible: false,
        };
        field::TAG_CONTROL.set(tag, control.control().to_be_bytes());
        field::TAGGED_TYPE.set(tag, self.ethertype.to_be_bytes());
        Some(rest)
    }
}
