//! The invariant CRC of RoCEv2 packets (IBTA volume 1, 7.8.1, and A17.3.3).
//!
//! It is the CRC-32 of Ethernet over 8 bytes of ones in place of the local route header of
//! InfiniBand, the IP header, the UDP header and everything up to the ICRC itself. What may change
//! on the way counts as ones: each header's `mask` knows that. The least significant byte comes
//! first on the wire.
//!
//! `crc32fast` uses carry-less multiplication where it may look for it at run time, which takes this
//! crate's feature `std`; without that it uses tables, some ten times slower.

use crc32fast::Hasher;

use super::field::Field;
use super::network::Network;
use super::{bth, ipv4, ipv6, udp};

/// Length of the ICRC.
pub(super) const LENGTH: usize = 4;

/// Ones in place of the local route header.
const ROUTE: usize = 8;
/// Length of what precedes the first header that changes nowhere, over IPv4 without options.
const PREFIX_V4: usize = ROUTE + ipv4::LENGTH + udp::LENGTH + bth::LENGTH;
/// The same over IPv6.
const PREFIX_V6: usize = ROUTE + ipv6::LENGTH + udp::LENGTH + bth::LENGTH;

/// Where the headers stand in those prefixes, which are put together because the CRC of one long
/// piece is cheaper than that of many short ones.
mod field {
    use super::{Field, PREFIX_V4, PREFIX_V6, ROUTE, bth, ipv4, ipv6, udp};

    pub(super) const V4: Field<ROUTE, { ipv4::LENGTH }> = Field;
    pub(super) const V4_UDP: Field<{ ROUTE + ipv4::LENGTH }, { udp::LENGTH }> = Field;
    pub(super) const V4_BTH: Field<{ PREFIX_V4 - bth::LENGTH }, { bth::LENGTH }> = Field;

    pub(super) const V6: Field<ROUTE, { ipv6::LENGTH }> = Field;
    pub(super) const V6_UDP: Field<{ ROUTE + ipv6::LENGTH }, { udp::LENGTH }> = Field;
    pub(super) const V6_BTH: Field<{ PREFIX_V6 - bth::LENGTH }, { bth::LENGTH }> = Field;
}

/// The ICRC of a packet as it stands on the wire. `options` are those of the IPv4 header; `datagram`
/// starts with the UDP header and ends before the ICRC. `None` if it is too short to be a packet.
#[inline]
pub(super) fn compute(
    network: Network<'_>,
    options: &[u8],
    datagram: &[u8],
) -> Option<[u8; LENGTH]> {
    let (udp, rest) = datagram.split_first_chunk::<{ udp::LENGTH }>()?;
    let (bth, rest) = rest.split_first_chunk::<{ bth::LENGTH }>()?;
    let (mut udp, mut bth) = (*udp, *bth);
    udp::mask(&mut udp);
    bth::mask(&mut bth);

    let mut crc = Hasher::new();
    match network {
        Network::V4(header) if options.is_empty() => crc.update(&prefix_v4(*header, udp, bth)),
        Network::V4(header) => {
            let prefix = prefix_v4(*header, udp, bth);
            let (before, after) = prefix.split_first_chunk::<{ ROUTE + ipv4::LENGTH }>()?;
            crc.update(before);
            crc.update(options);
            crc.update(after);
        }
        Network::V6(header) => crc.update(&prefix_v6(*header, udp, bth)),
    }
    crc.update(rest);
    Some(crc.finalize().to_le_bytes())
}

fn prefix_v4(
    mut ip: [u8; ipv4::LENGTH],
    udp: [u8; udp::LENGTH],
    bth: [u8; bth::LENGTH],
) -> [u8; PREFIX_V4] {
    let mut prefix = [0xff; PREFIX_V4];
    ipv4::mask(&mut ip);
    field::V4.set(&mut prefix, ip);
    field::V4_UDP.set(&mut prefix, udp);
    field::V4_BTH.set(&mut prefix, bth);
    prefix
}

fn prefix_v6(
    mut ip: [u8; ipv6::LENGTH],
    udp: [u8; udp::LENGTH],
    bth: [u8; bth::LENGTH],
) -> [u8; PREFIX_V6] {
    let mut prefix = [0xff; PREFIX_V6];
    ipv6::mask(&mut ip);
    field::V6.set(&mut prefix, ip);
    field::V6_UDP.set(&mut prefix, udp);
    field::V6_BTH.set(&mut prefix, bth);
    prefix
}
