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

use super::{bth, ipv4, ipv6, udp};

/// Length of the ICRC.
pub(super) const LENGTH: usize = 4;

/// CRC-32 of 8 bytes of ones, which every packet starts with.
const START: u32 = 0x2144_df1c;

/// Network headers of a packet, as far as the ICRC covers them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Network<'a> {
    /// IPv4 header and options.
    V4(&'a [u8; ipv4::LENGTH], &'a [u8]),
    /// IPv6 header.
    V6(&'a [u8; ipv6::LENGTH]),
}

/// The ICRC of a packet as it stands on the wire. `datagram` starts with the UDP header and ends
/// before the ICRC. `None` if it is too short to be a packet.
pub(super) fn compute(network: Network<'_>, datagram: &[u8]) -> Option<[u8; LENGTH]> {
    let (udp, rest) = datagram.split_first_chunk::<{ udp::LENGTH }>()?;
    let (bth, rest) = rest.split_first_chunk::<{ bth::LENGTH }>()?;
    let (mut udp, mut bth) = (*udp, *bth);
    udp::mask(&mut udp);
    bth::mask(&mut bth);

    let mut crc = Hasher::new_with_initial(START);
    match network {
        Network::V4(header, options) => {
            let mut header = *header;
            ipv4::mask(&mut header);
            crc.update(&header);
            crc.update(options);
        }
        Network::V6(header) => {
            let mut header = *header;
            ipv6::mask(&mut header);
            crc.update(&header);
        }
    }
    crc.update(&udp);
    crc.update(&bth);
    crc.update(rest);
    Some(crc.finalize().to_le_bytes())
}
