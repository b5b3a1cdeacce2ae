//! The network header of a packet, IPv4 or IPv6: what a path makes it, and the 40 bytes that stand
//! for it in front of a received datagram.
//!
//! Those bytes have the form of the global route header of InfiniBand (IBTA A17.4.5.2): the IPv6
//! header, or 20 zeros and the IPv4 header without options. [`Received::route_header`] copies what
//! was received, [`route_header`] makes what a packet would have had that was never written.
//!
//! [`Received::route_header`]: super::Received::route_header

use super::field::Field;
use super::transmit::datagram_length;
use super::{ipv4, ipv6};
use crate::pdu::Pdu;
use crate::transport::Path;

/// Length of the header in front of a received datagram.
pub const ROUTE_HEADER_LENGTH: usize = 40;

mod field {
    use super::{Field, ROUTE_HEADER_LENGTH, ipv4, ipv6};

    pub(super) const V4: Field<{ ROUTE_HEADER_LENGTH - ipv4::LENGTH }, { ipv4::LENGTH }> = Field;
    pub(super) const V6: Field<0, { ipv6::LENGTH }> = Field;
}

/// Network header of a packet, without IPv4 options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network<'a> {
    /// IPv4 header.
    V4(&'a [u8; ipv4::LENGTH]),
    /// IPv6 header.
    V6(&'a [u8; ipv6::LENGTH]),
}

impl Network<'_> {
    /// The header in front of a received datagram.
    pub(super) fn route_header(self) -> [u8; ROUTE_HEADER_LENGTH] {
        let mut bytes = [0; ROUTE_HEADER_LENGTH];
        match self {
            Self::V4(header) => field::V4.set(&mut bytes, *header),
            Self::V6(header) => field::V6.set(&mut bytes, *header),
        }
        bytes
    }
}

/// The header in front of a received datagram, as [`Received::route_header`] would have returned it
/// had the PDU been sent along the path in a frame. The IPv4 identification is 0 then (RFC 6864).
///
/// Of a path whose ends have different address families, along which no frame goes, it is an IPv6
/// header; the length of a PDU that is too long for a frame is the largest there is.
///
/// [`Received::route_header`]: super::Received::route_header
#[must_use]
pub fn route_header(path: &Path, pdu: &Pdu) -> [u8; ROUTE_HEADER_LENGTH] {
    const LONGEST: u16 = u16::MAX - ipv4::LENGTH as u16;
    let length = u16::try_from(datagram_length(pdu)).map_or(LONGEST, |length| length.min(LONGEST));
    let mut bytes = [0; ROUTE_HEADER_LENGTH];
    if let (Some(source), Some(destination)) = (path.source.to_v4(), path.destination.to_v4()) {
        let mut header = [0; ipv4::LENGTH];
        let _room = v4(path, source, destination, length, 0).emit(&mut header);
        field::V4.set(&mut bytes, header);
    } else {
        let _room = v6(path, length).emit(&mut bytes);
    }
    bytes
}

/// The IPv4 header of a datagram of `length` bytes.
pub(super) const fn v4(
    path: &Path,
    source: [u8; 4],
    destination: [u8; 4],
    length: u16,
    identification: u16,
) -> ipv4::Repr {
    ipv4::Repr {
        source,
        destination,
        traffic_class: path.traffic_class,
        time_to_live: path.hop_limit,
        identification,
        length,
    }
}

/// The IPv6 header of a datagram of `length` bytes.
pub(super) const fn v6(path: &Path, length: u16) -> ipv6::Repr {
    ipv6::Repr {
        source: path.source.0,
        destination: path.destination.0,
        traffic_class: path.traffic_class,
        flow_label: path.flow_label,
        hop_limit: path.hop_limit,
        length,
    }
}
