//! UDP headers (RFC 768), as RoCEv2 uses them (IBTA A17.4.5.3).
//!
//! The checksum is sent as 0, over IPv6 too: the ICRC protects the packet, and it covers neither.
//! For the same reason a received checksum is not looked at.

use super::DropReason;
use super::field::Field;

/// IP protocol number of UDP.
pub(super) const PROTOCOL: u8 = 17;
/// Destination port of RoCEv2.
pub(super) const ROCE_V2: u16 = 4791;
/// Length of the header.
pub(super) const LENGTH: usize = 8;

mod field {
    use super::Field;

    pub(super) const SOURCE: Field<0, 2> = Field;
    pub(super) const DESTINATION: Field<2, 2> = Field;
    pub(super) const LENGTH: Field<4, 2> = Field;
    pub(super) const CHECKSUM: Field<6, 2> = Field;
}

/// What the header of a RoCEv2 packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Source port: entropy for load balancing.
    pub(super) source: u16,
    /// Length of the datagram with this header.
    pub(super) length: u16,
}

impl Repr {
    /// The header and what follows it, if the datagram is a RoCEv2 packet.
    pub(super) fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (header, rest) = datagram
            .split_first_chunk::<LENGTH>()
            .ok_or(DropReason::Truncated)?;
        if field::DESTINATION.u16(header) != ROCE_V2 {
            return Err(DropReason::NotRoce);
        }
        let repr = Self {
            source: field::SOURCE.u16(header),
            length: field::LENGTH.u16(header),
        };
        if usize::from(repr.length) != datagram.len() {
            return Err(DropReason::Length);
        }
        Ok((repr, rest))
    }

    /// Writes the header and returns the room behind it, or `None` if there is too little room.
    pub(super) fn emit<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (header, rest) = datagram.split_first_chunk_mut::<LENGTH>()?;
        field::SOURCE.set(header, self.source.to_be_bytes());
        field::DESTINATION.set(header, ROCE_V2.to_be_bytes());
        field::LENGTH.set(header, self.length.to_be_bytes());
        field::CHECKSUM.set(header, [0; 2]);
        Some(rest)
    }
}

/// Replaces by ones what may change on the way (IBTA A17.3.3).
pub(super) fn mask(header: &mut [u8; LENGTH]) {
    field::CHECKSUM.set(header, [0xff; 2]);
}
