//! IPv6 headers (RFC 8200), as RoCEv2 uses them: UDP follows directly (IBTA A17.4.5).

use super::field::Field;
use super::{DropReason, udp};

/// Length of the header.
pub(super) const LENGTH: usize = 40;

mod field {
    use super::Field;

    /// Version (4 bits), traffic class (8), flow label (20).
    pub(super) const VERSION_CLASS_FLOW: Field<0, 4> = Field;
    pub(super) const PAYLOAD_LENGTH: Field<4, 2> = Field;
    pub(super) const NEXT_HEADER: Field<6, 1> = Field;
    pub(super) const HOP_LIMIT: Field<7, 1> = Field;
    pub(super) const SOURCE: Field<8, 16> = Field;
    pub(super) const DESTINATION: Field<24, 16> = Field;
}

/// What the header of a UDP datagram says, or that of another packet, apart from what makes it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Source address.
    pub(super) source: [u8; 16],
    /// Destination address.
    pub(super) destination: [u8; 16],
    /// DSCP and ECN.
    pub(super) traffic_class: u8,
    /// Flow label, 20 bits.
    pub(super) flow_label: u32,
    /// Hop limit.
    pub(super) hop_limit: u8,
    /// Length of what follows the header.
    pub(super) length: u16,
}

/// The parts of a packet.
pub(super) struct Parts<'a> {
    pub(super) repr: Repr,
    pub(super) header: &'a [u8; LENGTH],
    /// What follows the header, without the frame's padding.
    pub(super) datagram: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes a packet apart that holds a UDP datagram.
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, DropReason> {
        let header = packet
            .first_chunk::<LENGTH>()
            .ok_or(DropReason::Truncated)?;
        if field::NEXT_HEADER.byte(header) != udp::PROTOCOL {
            return Err(DropReason::NotRoce);
        }
        Self::parse_any(packet)
    }

    /// Takes any packet apart.
    pub(super) fn parse_any(packet: &'a [u8]) -> Result<Self, DropReason> {
        let (header, rest) = packet
            .split_first_chunk::<LENGTH>()
            .ok_or(DropReason::Truncated)?;
        let first = field::VERSION_CLASS_FLOW.u32(header);
        if first >> 28 != 6 {
            return Err(DropReason::IpHeader);
        }
        let repr = Repr {
            source: field::SOURCE.get(header),
            destination: field::DESTINATION.get(header),
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            hop_limit: field::HOP_LIMIT.byte(header),
            length: field::PAYLOAD_LENGTH.u16(header),
        };
        let datagram = rest
            .get(..usize::from(repr.length))
            .ok_or(DropReason::Truncated)?;
        Ok(Self {
            repr,
            header,
            datagram,
        })
    }

    /// What follows the header: an extension header or what the packet carries.
    pub(super) fn next_header(&self) -> u8 {
        field::NEXT_HEADER.byte(self.header)
    }
}

/// The length of the header at the start of a packet that `protocol` follows directly. Its other
/// fields mean nothing.
pub(super) fn direct(packet: &[u8], protocol: u8) -> Option<usize> {
    let header = packet.first_chunk::<LENGTH>()?;
    let version = field::VERSION_CLASS_FLOW.u32(header) >> 28;
    (version == 6 && field::NEXT_HEADER.byte(header) == protocol).then_some(LENGTH)
}

/// Makes the header at the start of a packet that of a part of it.
pub(super) fn set_part(packet: &mut [u8], payload_length: u16) {
    if let Some(header) = packet.first_chunk_mut::<LENGTH>() {
        field::PAYLOAD_LENGTH.set(header, payload_length.to_be_bytes());
    }
}

impl Repr {
    /// Writes the header and returns the room behind it, or `None` if there is too little room.
    pub(super) fn emit<'a>(&self, packet: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (header, rest) = packet.split_first_chunk_mut::<LENGTH>()?;
        let first =
            (6 << 28) | (u32::from(self.traffic_class) << 20) | (self.flow_label & 0xf_ffff);
        field::VERSION_CLASS_FLOW.set(header, first.to_be_bytes());
        field::PAYLOAD_LENGTH.set(header, self.length.to_be_bytes());
        field::NEXT_HEADER.set(header, [udp::PROTOCOL]);
        field::HOP_LIMIT.set(header, [self.hop_limit]);
        field::SOURCE.set(header, self.source);
        field::DESTINATION.set(header, self.destination);
        Some(rest)
    }
}

/// Replaces by ones what may change on the way (IBTA A17.3.3).
pub(super) fn mask(header: &mut [u8; LENGTH]) {
    let first = field::VERSION_CLASS_FLOW.u32(header) | 0x0fff_ffff;
    field::VERSION_CLASS_FLOW.set(header, first.to_be_bytes());
    field::HOP_LIMIT.set(header, [0xff]);
}
