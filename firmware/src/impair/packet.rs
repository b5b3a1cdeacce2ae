//! As much of a frame as impairments need to see, and the changes that they make.
//!
//! [`Packet::parse`] finds the IP header and, in RoCEv2 packets, the base transport header (IBTA
//! volume 1, annex A17; 9.2). It tolerates everything: a frame that is something else has fewer
//! parts. It checks no checksum and no ICRC, unlike [`crate::wire::parse`], because a wire does not
//! either. Positions that it returns are inside the frame.

use crate::types::{Psn, Qpn};

const ETHERNET: usize = 14;
const TAG: usize = 4;
const UDP: usize = 8;
const BTH: usize = 12;
const IPV6: usize = 40;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
/// C-tag and S-tag (IEEE 802.1Q, table 9-1).
const TYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];
const PROTOCOL_UDP: u8 = 17;
/// IBTA A17.3.1.
const ROCE_PORT: u16 = 4791;
/// "More fragments" and the fragment offset.
const FRAGMENTED: u16 = 0x3fff;
/// Congestion experienced (RFC 3168, 5), in the two ECN bits.
const CE: u8 = 3;

/// Where the parts of a frame are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packet {
    /// Where the Ethernet header ends, tags included.
    payload: usize,
    ip: Option<Version>,
    /// The base transport header of a RoCEv2 packet.
    pub(super) roce: Option<Roce>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// A RoCEv2 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roce {
    pub(super) opcode: u8,
    pub(super) destination: Qpn,
    pub(super) psn: Psn,
    /// What follows the base transport header, up to the end of the ICRC.
    rest: (usize, usize),
}

impl Packet {
    pub(super) fn parse(frame: &[u8]) -> Self {
        let mut payload = ETHERNET;
        let mut kind = u16_at(frame, 12);
        for _ in 0..2 {
            if kind.is_some_and(|kind| TYPE_TAGS.contains(&kind)) {
                kind = u16_at(frame, payload + 2);
                payload += TAG;
            }
        }
        let nibble = frame.get(payload).map(|byte| byte >> 4);
        let ip = match (kind, nibble) {
            (Some(TYPE_IPV4), Some(4)) => Some(Version::V4),
            (Some(TYPE_IPV6), Some(6)) => Some(Version::V6),
            _ => None,
        };
        let udp = ip.and_then(|ip| udp(frame, payload, ip));
        Self {
            payload,
            ip,
            roce: udp.and_then(|udp| roce(frame, udp)),
        }
    }

    /// Whether marks may be set: the ECN bits say "ECN-capable transport" and not yet "congestion
    /// experienced".
    pub(super) fn is_markable(&self, frame: &[u8]) -> bool {
        let ecn = match self.ip {
            Some(Version::V4) => frame.get(self.payload + 1).copied(),
            Some(Version::V6) => frame.get(self.payload + 1).map(|byte| byte >> 4),
            None => None,
        };
        ecn.is_some_and(|ecn| matches!(ecn & CE, 1 | 2))
    }

    /// Sets "congestion experienced", if that [may be](Self::is_markable). The ICRC does not cover
    /// these bits (IBTA A17.3.3); the checksum of IPv4 follows.
    pub(super) fn mark(&self, frame: &mut [u8]) -> bool {
        if !self.is_markable(frame) {
            return false;
        }
        let header = frame.get_mut(self.payload..).unwrap_or_default();
        match (self.ip, header) {
            (Some(Version::V4), [a, b, _, _, _, _, _, _, _, _, c, d, ..]) => {
                let before = u16::from_be_bytes([*a, *b]);
                *b |= CE;
                let after = u16::from_be_bytes([*a, *b]);
                let checksum = u16::from_be_bytes([*c, *d]);
                [*c, *d] = adjust(checksum, before, after).to_be_bytes();
                true
            }
            (Some(Version::V6), [_, b, ..]) => {
                *b |= CE << 4;
                true
            }
            _ => false,
        }
    }

    /// The bits behind the Ethernet header, as the first one and how many.
    pub(super) fn bits(&self, frame: &[u8]) -> (u64, u64) {
        span(self.payload, frame.len())
    }
}

impl Roce {
    /// The bits behind the base transport header, all of which the ICRC covers, or is.
    pub(super) fn bits(&self) -> (u64, u64) {
        span(self.rest.0, self.rest.1)
    }
}

fn span(from: usize, to: usize) -> (u64, u64) {
    let bits = |bytes: usize| bytes as u64 * 8;
    (bits(from), bits(to.saturating_sub(from)))
}

/// The UDP datagram of an unfragmented packet, without padding: where it is.
fn udp(frame: &[u8], ip: usize, version: Version) -> Option<(usize, usize)> {
    let (header, protocol) = match version {
        Version::V4 => {
            let words = usize::from(frame.get(ip)? & 0xf);
            if u16_at(frame, ip + 6)? & FRAGMENTED != 0 || words < 5 {
                return None;
            }
            (words * 4, *frame.get(ip + 9)?)
        }
        Version::V6 => (IPV6, *frame.get(ip + 6)?),
    };
    let start = ip + header;
    let length = usize::from(u16_at(frame, start + 4)?);
    let end = (start + length).min(frame.len());
    (protocol == PROTOCOL_UDP).then_some((start, end))
}

fn roce(frame: &[u8], (start, end): (usize, usize)) -> Option<Roce> {
    if u16_at(frame, start + 2)? != ROCE_PORT {
        return None;
    }
    let datagram = frame.get(start..end)?;
    let bth = datagram.get(UDP..)?.first_chunk::<BTH>()?;
    let [opcode, _, _, _, _, q0, q1, q2, _, p0, p1, p2] = *bth;
    Some(Roce {
        opcode,
        destination: Qpn::new(u32::from_be_bytes([0, q0, q1, q2])),
        psn: Psn::new(u32::from_be_bytes([0, p0, p1, p2])),
        rest: (start + UDP + BTH, end),
    })
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// The checksum after one word has changed (RFC 1624, equation 3): right if it was right before,
/// and as wrong as before if not.
fn adjust(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let folded = (sum >> 16) + (sum & 0xffff);
    !(((folded >> 16) + folded) as u16)
}

/// Flips a bit, numbered from the first byte on, the most significant one first.
pub(super) fn flip(frame: &mut [u8], bit: u64) {
    let byte = usize::try_from(bit / 8)
        .ok()
        .and_then(|at| frame.get_mut(at));
    if let Some(byte) = byte {
        *byte ^= 0x80 >> (bit % 8);
    }
}
