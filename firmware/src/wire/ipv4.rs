//! IPv4 headers (RFC 791), as RoCEv2 uses them: UDP inside, not fragmented (IBTA A17.4.5).
//!
//! Options are accepted and skipped, never sent.

use super::checksum::Sum;
use super::field::Field;
use super::{DropReason, udp};

/// Length of the header without options.
pub(super) const LENGTH: usize = 20;
/// Where in the header the checksum stands.
pub(super) const CHECKSUM_AT: usize = 10;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

mod field {
    use super::{CHECKSUM_AT, Field};

    pub(super) const VERSION_IHL: Field<0, 1> = Field;
    pub(super) const TRAFFIC_CLASS: Field<1, 1> = Field;
    pub(super) const TOTAL_LENGTH: Field<2, 2> = Field;
    pub(super) const IDENTIFICATION: Field<4, 2> = Field;
    pub(super) const FRAGMENT: Field<6, 2> = Field;
    pub(super) const TIME_TO_LIVE: Field<8, 1> = Field;
    pub(super) const PROTOCOL: Field<9, 1> = Field;
    pub(super) const CHECKSUM: Field<CHECKSUM_AT, 2> = Field;
    pub(super) const SOURCE: Field<12, 4> = Field;
    pub(super) const DESTINATION: Field<16, 4> = Field;
}

/// What the header of an unfragmented UDP datagram says, or that of another packet, apart from what
/// makes it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Source address.
    pub(super) source: [u8; 4],
    /// Destination address.
    pub(super) destination: [u8; 4],
    /// DSCP and ECN.
    pub(super) traffic_class: u8,
    /// Time to live.
    pub(super) time_to_live: u8,
    /// Identification.
    pub(super) identification: u16,
    /// Length of what follows the header.
    pub(super) length: u16,
}

/// The parts of a packet.
pub(super) struct Parts<'a> {
    pub(super) repr: Repr,
    /// The header without options.
    pub(super) header: &'a [u8; LENGTH],
    pub(super) options: &'a [u8],
    /// What follows the header, without the frame's padding.
    pub(super) datagram: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes a packet apart that holds an unfragmented UDP datagram. The checksum is
    /// [left](Self::checksum_holds) to the caller, who first wants to know whether the datagram is
    /// any of our business.
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, DropReason> {
        let header = packet
            .first_chunk::<LENGTH>()
            .ok_or(DropReason::Truncated)?;
        if field::PROTOCOL.byte(header) != udp::PROTOCOL || is_fragment(header) {
            return Err(DropReason::NotRoce);
        }
        Self::parse_any(packet)
    }

    /// Takes any packet apart.
    pub(super) fn parse_any(packet: &'a [u8]) -> Result<Self, DropReason> {
        let (header, rest) = packet
            .split_first_chunk::<LENGTH>()
            .ok_or(DropReason::Truncated)?;
        let version_ihl = field::VERSION_IHL.byte(header);
        if version_ihl >> 4 != 4 {
            return Err(DropReason::IpHeader);
        }
        let header_length = usize::from(version_ihl & 0xf) * 4;
        let total_length = usize::from(field::TOTAL_LENGTH.u16(header));
        let options_length = header_length
            .checked_sub(LENGTH)
            .ok_or(DropReason::IpHeader)?;
        let length = total_length
            .checked_sub(header_length)
            .ok_or(DropReason::Length)?;
        let (options, rest) = rest
            .split_at_checked(options_length)
            .ok_or(DropReason::Truncated)?;
        let datagram = rest.get(..length).ok_or(DropReason::Truncated)?;
        Ok(Self {
            repr: Repr::read(header, length as u16),
            header,
            options,
            datagram,
        })
    }

    /// Whether the header's checksum is right.
    pub(super) fn checksum_holds(&self) -> bool {
        self.sum().fold() == 0xffff
    }

    /// The checksum that would be right.
    pub(super) fn right_checksum(&self) -> u16 {
        // Ones' complement arithmetic subtracts by adding the complement.
        let wrong = field::CHECKSUM.u16(self.header);
        !self.sum().add(&(!wrong).to_be_bytes()).fold()
    }

    fn sum(&self) -> Sum {
        // The header's length is a multiple of 4.
        Sum::default().add(self.header).add(self.options)
    }

    /// What the packet carries, unless it is a fragment.
    pub(super) fn whole_protocol(&self) -> Option<u8> {
        (!is_fragment(self.header)).then(|| field::PROTOCOL.byte(self.header))
    }
}

/// Of the header at the start of a packet that `protocol` is all of, and no fragment: its
/// identification, and its length with options, which are all there. Its other fields mean nothing.
pub(super) fn whole(packet: &[u8], protocol: u8) -> Option<(u16, usize)> {
    let header = packet.first_chunk::<LENGTH>()?;
    let version_ihl = field::VERSION_IHL.byte(header);
    let length = usize::from(version_ihl & 0xf) * 4;
    let is_whole = version_ihl >> 4 == 4
        && (LENGTH..=packet.len()).contains(&length)
        && field::PROTOCOL.byte(header) == protocol
        && !is_fragment(header);
    is_whole.then(|| (field::IDENTIFICATION.u16(header), length))
}

/// Makes the header at the start of a packet that of a part of it.
pub(super) fn set_part(packet: &mut [u8], total_length: u16, identification: u16) {
    if let Some(header) = packet.first_chunk_mut::<LENGTH>() {
        field::TOTAL_LENGTH.set(header, total_length.to_be_bytes());
        field::IDENTIFICATION.set(header, identification.to_be_bytes());
    }
}

fn is_fragment(header: &[u8; LENGTH]) -> bool {
    field::FRAGMENT.u16(header) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
}

impl Repr {
    fn read(header: &[u8; LENGTH], length: u16) -> Self {
        Self {
            source: field::SOURCE.get(header),
            destination: field::DESTINATION.get(header),
            traffic_class: field::TRAFFIC_CLASS.byte(header),
            time_to_live: field::TIME_TO_LIVE.byte(header),
            identification: field::IDENTIFICATION.u16(header),
            length,
        }
    }

    /// Writes the header and returns the room behind it, or `None` if there is too little room.
    pub(super) fn emit<'a>(&self, packet: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (header, rest) = packet.split_first_chunk_mut::<LENGTH>()?;
        let total = self.length.checked_add(LENGTH as u16)?;
        field::VERSION_IHL.set(header, [0x45]);
        field::TRAFFIC_CLASS.set(header, [self.traffic_class]);
        field::TOTAL_LENGTH.set(header, total.to_be_bytes());
        field::IDENTIFICATION.set(header, self.identification.to_be_bytes());
        field::FRAGMENT.set(header, DONT_FRAGMENT.to_be_bytes());
        field::TIME_TO_LIVE.set(header, [self.time_to_live]);
        field::PROTOCOL.set(header, [udp::PROTOCOL]);
        field::CHECKSUM.set(header, [0; 2]);
        field::SOURCE.set(header, self.source);
        field::DESTINATION.set(header, self.destination);
        let checksum = !Sum::default().add(header).fold();
        field::CHECKSUM.set(header, checksum.to_be_bytes());
        Some(rest)
    }
}

/// Replaces by ones what may change on the way (IBTA A17.3.3).
pub(super) fn mask(header: &mut [u8; LENGTH]) {
    field::TRAFFIC_CLASS.set(header, [0xff]);
    field::TIME_TO_LIVE.set(header, [0xff]);
    field::CHECKSUM.set(header, [0xff; 2]);
}
