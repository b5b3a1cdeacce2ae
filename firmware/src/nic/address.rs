//! Which function of the port has which address, as far as its policy allows.
//!
//! GIDs and multicast groups are kept by the VLAN of the network, which a function behind an access
//! port does not know. What a policy does not allow is not in these tables, so whoever finds an
//! address here needs to ask for no rule: a packet cannot reach a function in a VLAN that it is not
//! in. When rules change, all addresses are looked through again (`review`).

use alloc::collections::BTreeMap;

use vrnic_abi::counter::Counter;

use super::FunctionId;
use super::group::Groups;
use super::policy::UNTRUSTED_ADDRESSES;
use super::stations::PortName;
use super::switch::Switch;
use crate::resource::{GidEntry, Group};
use crate::types::{Gid, Mac};

/// Addresses of all functions of the port. A GID belongs to one function in each VLAN.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Ethernet addresses.
    pub switch: Switch,
    /// Multicast groups.
    pub(super) groups: Groups,
    /// Owners of GIDs by VLAN of the network, with the Ethernet address.
    pub(super) owners: BTreeMap<(u16, Gid), (u16, Mac)>,
}

/// What of an address or a frame a policy does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The Ethernet address.
    Mac,
    /// The VLAN.
    Vlan,
    /// The GID, or IP address.
    Gid,
}

impl Breach {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Mac, Self::Vlan, Self::Gid];

    /// The counter of what is not sent because of it.
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::Mac => Counter::TxSpoofedMac,
            Self::Vlan => Counter::TxSpoofedVlan,
            Self::Gid => Counter::TxSpoofedGid,
        }
    }
}

/// Why a function cannot have a GID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The GID is another one's in that VLAN, or the function has it already.
    TakenGid,
    /// The Ethernet address is another function's.
    TakenMac,
    /// Its policy does not allow it.
    Forbidden(Breach),
}

/// Whether a function can have the frames to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is its own, or that of a group.
    Own,
    /// It can, if it has fewer than `most` others besides its own.
    Further {
        /// Addresses that it can have.
        most: usize,
    },
    /// It is another one's, or the operator has put it behind another port.
    Taken,
    /// Its policy does not allow it.
    Forbidden,
}

impl Addresses {
    /// Exchanges an address of function `owner` for another one; nothing changes if that fails.
    ///
    /// # Errors
    /// Why it cannot have the new one.
    pub fn replace(
        &mut self,
        owner: u16,
        old: Option<GidEntry>,
        new: Option<GidEntry>,
    ) -> Result<(), Unusable> {
        let new = match new {
            Some(new) => Some((self.check(owner, &new)?, new)),
            None => None,
        };
        let old_key = old.and_then(|old| Some((self.outward(owner, old.vlan)?, old.gid)));
        let old_key = old_key.filter(|key| self.owners.get(key).is_some_and(|(o, _)| *o == owner));
        if let Some((vlan, new)) = new {
            let key = (vlan, new.gid);
            if old_key != Some(key) && self.owners.contains_key(&key) {
                return Err(Unusable::TakenGid);
            }
        }
        if let Some(key) = old_key {
            self.owners.remove(&key);
        }
        if let Some((vlan, new)) = new {
            self.owners.insert((vlan, new.gid), (owner, new.mac));
        }
        self.switch.ports.change();
        Ok(())
    }

    /// Checks that function `owner` may have an address, and returns its VLAN in the network.
    pub(super) fn check(&self, owner: u16, entry: &GidEntry) -> Result<u16, Unusable> {
        let forbidden = Unusable::Forbidden;
        let port = self.switch.ports.get(owner);
        let port = port.ok_or(forbidden(Breach::Mac))?;
        let vlan = port.policy.vlan.outward(entry.vlan);
        let vlan = vlan.ok_or(forbidden(Breach::Vlan))?;
        if !port.allows_mac(entry.mac) {
            return Err(forbidden(Breach::Mac));
        }
        if !port.policy.allows_gid(entry.gid) {
            return Err(forbidden(Breach::Gid));
        }
        if self.switch.ports.has_listed_gid(owner, entry.gid) {
            return Err(Unusable::TakenGid);
        }
        match self.switch.owner(entry.mac) {
            Some(own) if own == owner => Ok(vlan),
            Some(_) => Err(Unusable::TakenMac),
            None if self.is_listed(owner, entry.mac) => Ok(vlan),
            None if self.is_reserved(owner, entry.mac) => Err(Unusable::TakenMac),
            // Without trust, only a filter makes an address one's own, as far as it may be.
            None if !port.policy.trusted => Err(forbidden(Breach::Mac)),
            None => Ok(vlan),
        }
    }

    /// Whether an address was given to others than function `owner`, or the operator has put it behind
    /// another port.
    pub(super) fn is_reserved(&self, owner: u16, mac: Mac) -> bool {
        let port = PortName::Function(FunctionId(owner));
        self.switch.ports.has_promised_mac(owner, mac)
            || self.switch.stations.is_fixed_elsewhere(mac, port)
    }

    /// Takes all addresses away from function `owner`, but the one that it has from the start.
    pub fn remove_all(&mut self, owner: u16) {
        self.switch.remove_filters(owner);
        self.unregister(owner);
    }

    fn unregister(&mut self, owner: u16) {
        self.groups.remove_all(owner);
        self.owners.retain(|_, (o, _)| *o != owner);
        self.switch.ports.change();
    }

    /// Registers all GIDs and memberships of function `owner` anew, as its rules have changed. What
    /// they do not allow, or what another function has taken meanwhile, is left out.
    pub(super) fn register_again<'a>(
        &mut self,
        owner: u16,
        gids: impl Iterator<Item = &'a GidEntry>,
        memberships: impl Iterator<Item = (Group, u32)>,
    ) {
        self.unregister(owner);
        for entry in gids {
            // What cannot be registered is not received, and counted when it is sent from.
            let _left_out = self.replace(owner, None, Some(*entry)).is_err();
        }
        for (group, qpn) in memberships {
            self.attach(owner, group, qpn);
        }
    }

    /// The function that receives what is sent to these addresses.
    #[must_use]
    #[inline]
    pub fn owner(&self, vlan: u16, gid: Gid, mac: Mac) -> Option<u16> {
        let (owner, own_mac) = self.owners.get(&(vlan, gid))?;
        (*own_mac == mac).then_some(*owner)
    }

    /// The function that has a GID.
    pub(super) fn owner_of_gid(&self, vlan: u16, gid: Gid) -> Option<u16> {
        self.owners.get(&(vlan, gid)).map(|(owner, _)| *owner)
    }

    /// Whether function `owner` can have the frames to an address.
    #[must_use]
    pub fn claim(&self, owner: u16, mac: Mac) -> Claim {
        self.claim_unless(owner, mac, || self.is_bound_elsewhere(owner, mac))
    }

    /// The same; whether a GID of another function has the address says `is_bound`.
    pub(super) fn claim_unless(
        &self,
        owner: u16,
        mac: Mac,
        is_bound: impl FnOnce() -> bool,
    ) -> Claim {
        if mac.is_group() {
            return Claim::Own;
        }
        let Some(port) = self.switch.ports.get(owner) else {
            return Claim::Forbidden;
        };
        if self.switch.owner(mac).is_some_and(|other| other != owner) {
            return Claim::Taken;
        }
        if mac == port.mac {
            return Claim::Own;
        }
        let port_name = PortName::Function(FunctionId(owner));
        if self.is_reserved(owner, mac) || is_bound() {
            return Claim::Taken;
        }
        if !port.allows_mac(mac) {
            return Claim::Forbidden;
        }
        if port.policy.trusted || self.is_listed(owner, mac) {
            return Claim::Further { most: usize::MAX };
        }
        // Only with trust does it take over what somebody else was using a moment ago, in whatever
        // VLAN: an address belongs to one function in all of them.
        if self.switch.stations.is_seen_elsewhere(mac, port_name) {
            return Claim::Taken;
        }
        Claim::Further {
            most: UNTRUSTED_ADDRESSES,
        }
    }

    /// Whether a GID of another function than `owner` has an address.
    fn is_bound_elsewhere(&self, owner: u16, mac: Mac) -> bool {
        let mut gids = self.owners.values();
        gids.any(|(other, own_mac)| *other != owner && *own_mac == mac)
    }

    /// Whether a unicast address can become the own one of function `owner`: nobody has it, it is
    /// reserved for nobody else, and it was not seen behind another port.
    pub(super) fn is_free_for(&self, owner: u16, mac: Mac) -> bool {
        let other = self.switch.owner(mac).filter(|other| *other != owner);
        let port = PortName::Function(FunctionId(owner));
        other.is_none()
            && !self.is_reserved(owner, mac)
            && !self.is_bound_elsewhere(owner, mac)
            && !self.switch.stations.is_seen_elsewhere(mac, port)
    }

    /// Whether the operator has listed an address as one of function `owner`.
    #[must_use]
    pub fn is_listed(&self, owner: u16, mac: Mac) -> bool {
        let port = self.switch.ports.get(owner);
        port.is_some_and(|port| port.policy.macs.contains(&mac))
    }

    /// Whether function `owner` is in a VLAN.
    #[must_use]
    pub fn has_vlan(&self, owner: u16, vlan: u16) -> bool {
        self.outward(owner, vlan).is_some()
    }

    /// Attaches queue pair `qpn` of function `owner` to a group, if it is in the group's VLAN.
    pub fn attach(&mut self, owner: u16, group: Group, qpn: u32) {
        if let Some(vlan) = self.outward(owner, group.vlan) {
            self.groups.attach(Group { vlan, ..group }, owner, qpn);
        }
    }

    /// Detaches queue pair `qpn` of function `owner` from a group.
    pub fn detach(&mut self, owner: u16, group: Group, qpn: u32) {
        if let Some(vlan) = self.outward(owner, group.vlan) {
            self.groups.detach(Group { vlan, ..group }, owner, qpn);
        }
    }

    /// What the network calls a VLAN of function `owner`.
    pub(super) fn outward(&self, owner: u16, vlan: u16) -> Option<u16> {
        self.switch.ports.get(owner)?.policy.vlan.outward(vlan)
    }
}
