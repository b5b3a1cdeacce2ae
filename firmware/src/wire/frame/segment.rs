//! TCP segments (RFC 9293) and UDP datagrams (RFC 768): ports, and the checksum over a pseudo header
//! (RFC 9293 3.1, RFC 8200 8.1), the header and the payload.

use super::flow::{Addresses, Ports};
use crate::wire::checksum::Sum;
use crate::wire::field::Field;
use crate::wire::udp;

/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// Length of a TCP header without options.
pub(super) const TCP_LENGTH: usize = 20;

const TCP_CHECKSUM_AT: usize = 16;
const UDP_CHECKSUM_AT: usize = 6;

mod field {
    use super::{Field, TCP_CHECKSUM_AT, UDP_CHECKSUM_AT};

    /// Alike in both protocols.
    pub(super) const SOURCE: Field<0, 2> = Field;
    pub(super) const DESTINATION: Field<2, 2> = Field;

    pub(super) const UDP_LENGTH: Field<4, 2> = Field;
    pub(super) const UDP_CHECKSUM: Field<UDP_CHECKSUM_AT, 2> = Field;

    pub(super) const TCP_CHECKSUM: Field<TCP_CHECKSUM_AT, 2> = Field;
}

/// The header, without TCP options.
#[derive(Clone, Copy)]
enum Header<'a> {
    Tcp(&'a [u8; TCP_LENGTH]),
    Udp(&'a [u8; udp::LENGTH]),
}

/// A whole segment or datagram.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    header: Header<'a>,
    /// What the checksum covers, header and payload.
    bytes: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Takes what an IP packet carries; `None` if it is something else or not whole.
    pub(super) fn parse(protocol: u8, payload: &'a [u8]) -> Option<Self> {
        match protocol {
            TCP => Some(Self {
                header: Header::Tcp(payload.first_chunk()?),
                bytes: payload,
            }),
            udp::PROTOCOL => {
                let header = payload.first_chunk::<{ udp::LENGTH }>()?;
                let length = usize::from(field::UDP_LENGTH.u16(header));
                let bytes = payload.get(..length).filter(|_| length >= udp::LENGTH)?;
                Some(Self {
                    header: Header::Udp(header),
                    bytes,
                })
            }
            _ => None,
        }
    }

    pub(super) fn ports(&self) -> Ports {
        let (source, destination) = match self.header {
            Header::Tcp(header) => (field::SOURCE.u16(header), field::DESTINATION.u16(header)),
            Header::Udp(header) => (field::SOURCE.u16(header), field::DESTINATION.u16(header)),
        };
        Ports {
            source,
            destination,
        }
    }

    /// Where the checksum stands.
    pub(super) const fn checksum_at(&self) -> usize {
        match self.header {
            Header::Tcp(_) => TCP_CHECKSUM_AT,
            Header::Udp(_) => UDP_CHECKSUM_AT,
        }
    }

    fn checksum(&self) -> u16 {
        match self.header {
            Header::Tcp(header) => field::TCP_CHECKSUM.u16(header),
            Header::Udp(header) => field::UDP_CHECKSUM.u16(header),
        }
    }

    /// Whether there is a checksum: UDP may do without (over IPv6, RFC 6935).
    pub(super) fn has_checksum(&self) -> bool {
        matches!(self.header, Header::Tcp(_)) || self.checksum() != 0
    }

    /// Whether the checksum is right.
    pub(super) fn checksum_holds(&self, addresses: &Addresses) -> bool {
        self.sum(addresses).fold() == 0xffff
    }

    /// The checksum that would be right.
    pub(super) fn right_checksum(&self, addresses: &Addresses) -> u16 {
        // Ones' complement arithmetic subtracts by adding the complement. The pseudo header comes
        // first because the bytes may have an odd number.
        let wrong = self.checksum();
        let sum = self.pseudo_header(addresses).add(&(!wrong).to_be_bytes());
        match (self.header, !sum.add(self.bytes).fold()) {
            // 0 would say that there is none.
            (Header::Udp(_), 0) => 0xffff,
            (_, checksum) => checksum,
        }
    }

    fn sum(&self, addresses: &Addresses) -> Sum {
        self.pseudo_header(addresses).add(self.bytes)
    }

    fn pseudo_header(&self, addresses: &Addresses) -> Sum {
        let protocol = match self.header {
            Header::Tcp(_) => TCP,
            Header::Udp(_) => udp::PROTOCOL,
        };
        // An IP payload has at most 65535 bytes.
        let length = self.bytes.len() as u16;
        let sum = Sum::default()
            .add(&[0, protocol])
            .add(&length.to_be_bytes());
        match addresses {
            Addresses::V4 {
                source,
                destination,
            } => sum.add(source).add(destination),
            Addresses::V6 {
                source,
                destination,
            } => sum.add(source).add(destination),
        }
    }
}
