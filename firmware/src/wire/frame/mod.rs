//! Any Ethernet frame, as queues of raw packets see it: what they are sorted, spread and checked by.
//!
//! [`Frame::parse`] accepts whatever has an Ethernet header. What it cannot make sense of it leaves
//! out: a frame without a sound IP header has no [`Flow`], a fragment, or a packet with IPv6
//! extension headers, has one without ports, and its checksums are [`Verdict::Unknown`]; the guest's
//! network stack decides about it then. Padding behind an IP packet is not part of it.
//!
//! The other way, [`fill_network_checksum`] and [`fill_transport_checksum`] write the checksums that
//! a guest left to the device (RFC 791, 768, 9293, 8200 8.1), and [`tag`] puts VLAN tags into frames
//! and takes them out. A TCP segment that is longer than a frame is cut with a [`Template`] of its headers.
//!
//! Nothing is counted or dropped here, and no RoCEv2 packet is recognised: [`super::parse`] goes
//! first.

mod flow;
mod segment;
pub mod tag;
mod template;

pub use super::ethernet::Tag;
pub use flow::{Addresses, Flow, Ports};
pub use template::Template;

use super::{ethernet, ipv4, ipv6};
use crate::types::Mac;
use segment::Segment;

/// What is known of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// There is none, or none that this device can check.
    Unknown,
}

impl Verdict {
    const fn new(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// A frame's parts.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Destination Ethernet address.
    pub destination: Mac,
    /// Source Ethernet address.
    pub source: Mac,
    /// The outer VLAN tag.
    pub tag: Option<Tag>,
    /// Ethertype behind the tag.
    pub ethertype: u16,
    /// What follows the Ethertype.
    packet: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a frame apart; `None` if its Ethernet header is cut off.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = ethernet::Repr::parse(frame).ok()?;
        Some(Self {
            destination: ethernet.destination,
            source: ethernet.source,
            tag: tag::of(frame),
            ethertype: ethernet.ethertype,
            packet,
        })
    }

    /// What it is spread over queues by, if it is a sound IP packet.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let internet = self.internet()?;
        Some(Flow {
            addresses: internet.addresses(),
            ports: internet.segment().map(|segment| segment.ports()),
        })
    }

    /// Whether the checksum of an IPv4 header is right.
    #[must_use]
    pub fn network_checksum(&self) -> Verdict {
        match self.internet() {
            Some(Internet::V4(parts)) => Verdict::new(parts.checksum_holds()),
            Some(Internet::V6(_)) | None => Verdict::Unknown,
        }
    }

    /// Whether the checksum of a TCP segment or UDP datagram is right. Looks at all of it.
    #[must_use]
    pub fn transport_checksum(&self) -> Verdict {
        let Some(internet) = self.internet() else {
            return Verdict::Unknown;
        };
        match internet.segment() {
            Some(segment) if segment.has_checksum() => {
                Verdict::new(segment.checksum_holds(&internet.addresses()))
            }
            _ => Verdict::Unknown,
        }
    }

    fn internet(&self) -> Option<Internet<'a>> {
        match self.ethertype {
            ethernet::IPV4 => ipv4::Parts::parse_any(self.packet).ok().map(Internet::V4),
            ethernet::IPV6 => ipv6::Parts::parse_any(self.packet).ok().map(Internet::V6),
            _ => None,
        }
    }
}

/// An IP packet.
enum Internet<'a> {
    V4(ipv4::Parts<'a>),
    V6(ipv6::Parts<'a>),
}

impl<'a> Internet<'a> {
    fn addresses(&self) -> Addresses {
        match self {
            Self::V4(parts) => Addresses::V4 {
                source: parts.repr.source,
                destination: parts.repr.destination,
            },
            Self::V6(parts) => Addresses::V6 {
                source: parts.repr.source,
                destination: parts.repr.destination,
            },
        }
    }

    /// Length of the header with options.
    fn header_length(&self) -> usize {
        match self {
            Self::V4(parts) => ipv4::LENGTH + parts.options.len(),
            Self::V6(_) => ipv6::LENGTH,
        }
    }

    /// The TCP segment or UDP datagram that follows the header, if it is all there.
    fn segment(&self) -> Option<Segment<'a>> {
        match self {
            Self::V4(parts) => Segment::parse(parts.whole_protocol()?, parts.datagram),
            Self::V6(parts) => Segment::parse(parts.next_header(), parts.datagram),
        }
    }
}

/// Writes the checksum of a frame's IPv4 header. Returns whether the frame has one; it is left
/// alone otherwise.
pub fn fill_network_checksum(frame: &mut [u8]) -> bool {
    let Some((at, Internet::V4(parts))) = locate(frame) else {
        return false;
    };
    let checksum = parts.right_checksum();
    write(frame, at + ipv4::CHECKSUM_AT, checksum)
}

/// Writes the checksum of a frame's TCP segment or UDP datagram. Returns whether the frame has one
/// of these that is whole; it is left alone otherwise.
pub fn fill_transport_checksum(frame: &mut [u8]) -> bool {
    let Some((at, internet)) = locate(frame) else {
        return false;
    };
    let Some(segment) = internet.segment() else {
        return false;
    };
    let at = at + internet.header_length() + segment.checksum_at();
    let checksum = segment.right_checksum(&internet.addresses());
    write(frame, at, checksum)
}

/// The IP packet of a frame, and where it starts.
fn locate(frame: &[u8]) -> Option<(usize, Internet<'_>)> {
    let parts = Frame::parse(frame)?;
    let at = frame.len().checked_sub(parts.packet.len())?;
    Some((at, parts.internet()?))
}

/// Writes a checksum; returns whether there was room.
fn write(frame: &mut [u8], at: usize, checksum: u16) -> bool {
    let room = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>);
    match room {
        Some(room) => {
            *room = checksum.to_be_bytes();
            true
        }
        None => false,
    }
}
