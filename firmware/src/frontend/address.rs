//! Address vectors: from what a driver says about a way to a path that packets take.

use crate::resource::GidTable;
use crate::transport::{Path, Vector};
use crate::types::{Gid, Mac};

/// The partition that every function is a full member of.
pub const DEFAULT_PKEY: u16 = 0xffff;
/// Hop limit of packets whose vector has none.
const DEFAULT_HOP_LIMIT: u8 = 64;

/// What is wrong with an address vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadVector {
    /// No GID has that index.
    SourceIndex,
    /// The destination is nobody, of another address family than the source, or a group where one
    /// peer is wanted.
    Gid,
    /// The Ethernet address is none that the GID can have.
    Mac,
    /// The flow label has more than 20 bits.
    FlowLabel,
    /// The service level is none of 0 to 7.
    ServiceLevel,
}

/// Whether packets to an address are for a group.
#[must_use]
pub fn is_multicast(gid: Gid) -> bool {
    let [first, ..] = gid.0;
    first == 0xff || gid.to_v4().is_some_and(|[a, ..]| a >> 4 == 0xe)
}

/// Resolves an address vector; `groups` says whether it may lead to a multicast group. The UDP
/// source port is left to the sender.
///
/// # Errors
/// What is wrong with it.
pub fn resolve(gids: &GidTable, vector: &Vector, groups: bool) -> Result<Path, BadVector> {
    let source = gids.get(vector.source_index.into());
    let source = source.ok_or(BadVector::SourceIndex)?;
    let multicast = is_multicast(vector.gid);
    let same_family = vector.gid.to_v4().is_some() == source.gid.to_v4().is_some();
    if vector.gid.is_zero() || !same_family || multicast && !groups {
        return Err(BadVector::Gid);
    }
    let [first, ..] = vector.mac.0;
    if (first & 1 == 1) != multicast || vector.mac == Mac::default() {
        return Err(BadVector::Mac);
    }
    if vector.flow_label >> 20 != 0 {
        return Err(BadVector::FlowLabel);
    }
    if vector.service_level > 7 {
        return Err(BadVector::ServiceLevel);
    }
    Ok(Path {
        source: source.gid,
        source_mac: source.mac,
        source_index: vector.source_index,
        vlan: source.vlan,
        destination: vector.gid,
        destination_mac: vector.mac,
        udp_source: 0,
        flow_label: vector.flow_label,
        hop_limit: match vector.hop_limit {
            0 => DEFAULT_HOP_LIMIT,
            limit => limit,
        },
        traffic_class: vector.traffic_class,
        service_level: vector.service_level,
        pkey: DEFAULT_PKEY,
        armed: false,
    })
}

/// A UDP source port from the dynamic range that is the same for all packets between two queue
/// pairs, so that they take one way (IBTA volume 1, annex A17.9.2).
#[must_use]
pub fn udp_source(flow_label: u32, qpn: u32, remote_qpn: u32) -> u16 {
    let entropy = if flow_label != 0 {
        flow_label ^ flow_label >> 14
    } else {
        let mixed = qpn.wrapping_mul(0x9e37_79b1) ^ remote_qpn.wrapping_mul(0x85eb_ca6b);
        mixed >> 16
    };
    0xc000 | (entropy & 0x3fff) as u16
}
