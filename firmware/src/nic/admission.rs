//! What a function may send in frames of raw packet queues: source address, VLAN, source of RoCEv2
//! packets (ingress filtering, IEEE 802.1Q, 8.6.2, and what virtual switches call anti-spoofing).
//!
//! A frame is looked at in the room in which it leaves, so that a guest that changes its memory
//! meanwhile changes nothing. Frames that fail are dropped and counted at their sender.

use super::address::{Addresses, Breach};
use super::policy::VlanMode;
use super::ports::Port;
use crate::types::{Gid, Mac};
use crate::wire::frame::{Addresses as IpAddresses, Frame};
use crate::wire::{self, DropReason};

/// Ethertypes of VLAN tags: of customers, of providers (IEEE 802.1Q, 9.5), and the one that was in
/// use before the latter.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// A frame that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Its VLAN in the network.
    pub(super) vlan: u16,
    pub(super) source: Mac,
    pub(super) destination: Mac,
}

impl Addresses {
    /// Checks a frame that a function sends, as the function sees it.
    pub(super) fn admit(&self, function: u16, frame: &[u8]) -> Result<Admitted, Breach> {
        let port = self.switch.ports.get(function).ok_or(Breach::Mac)?;
        let parts = Frame::parse(frame).ok_or(Breach::Vlan)?;
        let checks = port.policy.checks;
        if checks.mac && !port.allows_mac(parts.source) {
            return Err(Breach::Mac);
        }
        let vlan = vlan_of(port, &parts)?;
        if checks.gid && self.is_forged(function, port, vlan, &parts, frame) {
            return Err(Breach::Gid);
        }
        Ok(Admitted {
            vlan,
            source: parts.source,
            destination: parts.destination,
        })
    }

    /// Whether a frame has an IP source that the function may not send from.
    fn is_forged(
        &self,
        function: u16,
        port: &Port,
        vlan: u16,
        parts: &Frame<'_>,
        frame: &[u8],
    ) -> bool {
        let source = parts.flow().map(|flow| match flow.addresses {
            IpAddresses::V4 { source, .. } => Gid::from_v4(source),
            IpAddresses::V6 { source, .. } => Gid(source),
        });
        let Some(source) = source else {
            return !matches!(wire::parse(frame), Err(DropReason::NotRoce));
        };
        if port.policy.lists_gid(source) {
            return false;
        }
        if matches!(wire::parse(frame), Err(DropReason::NotRoce)) {
            return self.switch.ports.has_listed_gid(function, source);
        }
        port.policy.gids.is_some() || self.owner_of_gid(vlan, source) != Some(function)
    }
}

/// The VLAN in the network of a frame that comes from a function.
fn vlan_of(port: &Port, parts: &Frame<'_>) -> Result<u16, Breach> {
    let policy = &port.policy;
    let id = parts.tag.map_or(0, |tag| tag.id);
    let tagged_inside = TAGS.contains(&parts.ethertype);
    // Behind a second tag, nobody here sees what the next switch may.
    let restricted = policy.checks.vlan && policy.vlan.is_restricted();
    if tagged_inside && (restricted || policy.checks.gid) {
        return Err(Breach::Vlan);
    }
    match &policy.vlan {
        VlanMode::Access { .. } if policy.checks.vlan && parts.tag.is_some() => Err(Breach::Vlan),
        VlanMode::Access { vlan, .. } => Ok(*vlan),
        VlanMode::Trunk(vlans) if policy.checks.vlan && !vlans.contains(id) => Err(Breach::Vlan),
        VlanMode::Trunk(_) => Ok(id),
    }
}
