//! The headers of a TCP segment that is cut into frames, and those of the frames that come of it.
//!
//! [`Template::parse`] takes what stands in front of the data, which must be Ethernet, IP and TCP
//! headers and nothing else; lengths and checksums in them mean nothing. [`Template::headers`] then
//! gives the headers of one frame after the other: they differ in the IPv4 total length and
//! identification (RFC 6864 4.1) or the IPv6 payload length, and in sequence number and flags
//! (RFC 9293 3.1; CWR marks the first packet after a reduction, RFC 3168 6.1.2). Checksums are left
//! to [`super::fill_network_checksum`] and [`super::fill_transport_checksum`].

use vrnic_abi::wqe::MAX_SEGMENTED_HEADERS;

use super::segment::{TCP, TCP_LENGTH};
use crate::transport::Part;
use crate::wire::field::Field;
use crate::wire::{ethernet, ipv4, ipv6};

const FIN: u8 = 1 << 0;
const PSH: u8 = 1 << 3;
const CWR: u8 = 1 << 7;

mod field {
    use super::Field;

    pub(super) const SEQUENCE: Field<4, 4> = Field;
    pub(super) const DATA_OFFSET: Field<12, 1> = Field;
    pub(super) const FLAGS: Field<13, 1> = Field;
}

/// The headers of a TCP segment.
#[derive(Clone, Debug)]
pub struct Template {
    /// They, and after [`Self::headers`] those of one of the frames.
    bytes: [u8; MAX_SEGMENTED_HEADERS],
    length: usize,
    /// Where the IP header starts, and which one it is.
    internet_at: usize,
    internet: Internet,
    /// Where the TCP header starts.
    transport_at: usize,
    sequence: u32,
    flags: u8,
}

#[derive(Clone, Copy, Debug)]
enum Internet {
    V4 { identification: u16 },
    V6,
}

impl Template {
    /// Takes headers; `None` unless they are those of a TCP segment, and end with `headers`.
    #[must_use]
    pub fn parse(headers: &[u8]) -> Option<Self> {
        let (ethernet, packet) = ethernet::Repr::parse(headers).ok()?;
        let internet_at = headers.len().checked_sub(packet.len())?;
        let (internet, internet_length) = match ethernet.ethertype {
            ethernet::IPV4 => {
                let (identification, length) = ipv4::whole(packet, TCP)?;
                (Internet::V4 { identification }, length)
            }
            ethernet::IPV6 => (Internet::V6, ipv6::direct(packet, TCP)?),
            _ => return None,
        };
        let segment = packet.get(internet_length..)?;
        let transport: &[u8; TCP_LENGTH] = segment.first_chunk()?;
        let transport_length = usize::from(field::DATA_OFFSET.byte(transport) >> 4) * 4;
        if transport_length < TCP_LENGTH || transport_length != segment.len() {
            return None;
        }
        let mut bytes = [0; MAX_SEGMENTED_HEADERS];
        bytes.get_mut(..headers.len())?.copy_from_slice(headers);
        Some(Self {
            bytes,
            length: headers.len(),
            internet_at,
            internet,
            transport_at: internet_at + internet_length,
            sequence: u32::from_be_bytes(field::SEQUENCE.get(transport)),
            flags: field::FLAGS.byte(transport),
        })
    }

    /// The headers of the frame that carries `part`, without checksums.
    pub fn headers(&mut self, part: &Part) -> &[u8] {
        self.set_internet(part);
        self.set_transport(part);
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn set_internet(&mut self, part: &Part) {
        // No overflow: headers are short. What would not fit into the field does not fit into a
        // frame, which was checked before.
        let behind = |at: usize| {
            let headers = u16::try_from(self.length - at).unwrap_or(u16::MAX);
            headers.saturating_add(part.length)
        };
        let (whole, payload) = (behind(self.internet_at), behind(self.transport_at));
        let Some(packet) = self.bytes.get_mut(self.internet_at..) else {
            return;
        };
        match self.internet {
            Internet::V4 { identification } => {
                // CAST: it counts modulo 2^16.
                let identification = identification.wrapping_add(part.index as u16);
                ipv4::set_part(packet, whole, identification);
            }
            Internet::V6 => ipv6::set_part(packet, payload),
        }
    }

    fn set_transport(&mut self, part: &Part) {
        let segment = self.bytes.get_mut(self.transport_at..);
        let Some(header) = segment.and_then(|segment| segment.first_chunk_mut::<TCP_LENGTH>())
        else {
            return;
        };
        let sequence = self.sequence.wrapping_add(part.offset);
        field::SEQUENCE.set(header, sequence.to_be_bytes());
        let mut flags = self.flags;
        if !part.last {
            flags &= !(FIN | PSH);
        }
        if part.index > 0 {
            flags &= !CWR;
        }
        field::FLAGS.set(header, [flags]);
    }
}
