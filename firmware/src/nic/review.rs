//! What functions are called, looked through again when the operator's rules have changed.
//!
//! A function has an address by a filter or a GID, as far as rules allow when it is set. When rules
//! change, what they forbid from now on loses its effect, whosever rules they are: a list keeps others
//! off, and so does a station that the operator has put somewhere. What was without effect gets it
//! (back) if it may, and if nobody else has the address meanwhile. The function's own tables keep
//! everything; it is told of nothing, as a switch on the way would not tell it.
//!
//! First everybody loses, addresses that were assigned (`administration`) before all others, then
//! everybody gains, so that nobody's loss is too late for another one. It is work for all entries of
//! all functions, which only the operator can ask for, and the driver of the physical function, once in
//! a step.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::address::{Addresses, Claim};
use super::policy::UNTRUSTED_ADDRESSES;
use super::stations::PortName;
use super::{FunctionId, Nic};
use crate::frontend::Function;
use crate::resource::GidEntry;
use crate::types::Mac;

impl<H> Nic<H> {
    /// Looks everything through again. If the rules of function `changed` have changed, its VLANs may
    /// be called something else.
    pub(super) fn review(&mut self, changed: Option<FunctionId>) {
        self.withdraw_assignments();
        let addresses = &mut self.shared.addresses;
        let all = || {
            let functions = (0..).map(FunctionId).zip(&self.functions);
            functions.filter_map(|(id, function)| Some((id, function.as_ref()?)))
        };
        for (FunctionId(owner), function) in all() {
            addresses.drop_claims(owner, &claims(function));
        }
        for (id, Function { objects, .. }) in all() {
            if changed == Some(id) {
                addresses.register_again(id.0, objects.gids.iter(), objects.memberships.iter());
            }
        }
        addresses.drop_gids();
        let bound = addresses.bound();
        for (FunctionId(owner), function) in all() {
            addresses.renew_claims(owner, &claims(function), &bound);
        }
        for (FunctionId(owner), function) in all() {
            addresses.renew_gids(owner, function.objects.gids.iter());
        }
        addresses.switch.ports.change();
    }

    /// Takes back addresses that were assigned to functions and belong to somebody else by now, as the
    /// operator says or as another function was made with them. A function that has lost the address
    /// that it uses learns that when its driver enables it anew.
    fn withdraw_assignments(&mut self) {
        for (function, mac) in self.shared.addresses.switch.withdraw() {
            let function = self.functions.get_mut(usize::from(function));
            if let Some(function) = function.and_then(Option::as_mut) {
                function.identity.mac = mac;
            }
        }
    }
}

fn claims(function: &Function) -> Vec<Mac> {
    function.objects.filters.claims()
}

impl Addresses {
    /// Takes the effect from filters of function `owner` for those of its unicast addresses that it may
    /// not have any more. Of too many, the first are kept.
    fn drop_claims(&mut self, owner: u16, claims: &[Mac]) {
        let mut further = 0;
        for mac in claims {
            let keeps = !self.switch.is_idle(owner, *mac) && self.keeps(owner, *mac, &mut further);
            self.switch.set_idle(owner, *mac, !keeps);
        }
    }

    /// Whether function `owner` may go on to have an address, after as many `further` ones for which it
    /// takes that it has few.
    fn keeps(&self, owner: u16, mac: Mac, further: &mut usize) -> bool {
        let Some(port) = self.switch.ports.get(owner) else {
            return false;
        };
        if mac == port.mac {
            return true;
        }
        if !port.allows_mac(mac) || self.is_reserved(owner, mac) {
            return false;
        }
        if port.policy.trusted || self.is_listed(owner, mac) {
            return true;
        }
        *further += 1;
        let here = PortName::Function(FunctionId(owner));
        // It has taken it from there while it was trusted.
        !self.switch.stations.is_seen_elsewhere(mac, here) && *further <= UNTRUSTED_ADDRESSES
    }

    /// The Ethernet addresses of GIDs, and whose they are, if there is anybody to whom it matters.
    fn bound(&self) -> BTreeSet<(Mac, u16)> {
        let gids = self.owners.values().filter(|_| self.switch.has_idle());
        gids.map(|(owner, mac)| (*mac, *owner)).collect()
    }

    /// Gives effect to filters of function `owner` for those of its unicast addresses that it can have,
    /// as far as they are not `bound` to GIDs of others.
    fn renew_claims(&mut self, owner: u16, claims: &[Mac], bound: &BTreeSet<(Mac, u16)>) {
        let own = self.switch.ports.get(owner).map(|port| port.mac);
        let is_further = |mac: &Mac| Some(*mac) != own && !self.is_listed(owner, *mac);
        let active = claims
            .iter()
            .filter(|mac| !self.switch.is_idle(owner, **mac));
        let mut further = active.filter(|mac| is_further(mac)).count();
        for mac in claims {
            if !self.switch.is_idle(owner, *mac) {
                continue;
            }
            let mut of_gids = bound.range((*mac, 0)..=(*mac, u16::MAX));
            let is_bound = || of_gids.any(|(_, other)| *other != owner);
            let can_have = match self.claim_unless(owner, *mac, is_bound) {
                Claim::Own => true,
                Claim::Further { most } => further < most,
                Claim::Taken | Claim::Forbidden => false,
            };
            if can_have {
                further += usize::from(!self.is_listed(owner, *mac));
                self.switch.set_idle(owner, *mac, false);
            }
        }
    }

    /// Takes GIDs from functions that may not have them any more.
    fn drop_gids(&mut self) {
        let mut owners = core::mem::take(&mut self.owners);
        owners.retain(|(vlan, gid), (owner, mac)| {
            let inward = self.switch.ports.inward(*owner, *vlan);
            let entry = inward.map(|vlan| GidEntry {
                gid: *gid,
                mac: *mac,
                vlan,
            });
            entry.is_some_and(|entry| self.check(*owner, &entry) == Ok(*vlan))
        });
        self.owners = owners;
    }

    /// Registers those GIDs of function `owner` that are not, if it can have them.
    fn renew_gids<'a>(&mut self, owner: u16, gids: impl Iterator<Item = &'a GidEntry>) {
        for entry in gids {
            let vlan = self.outward(owner, entry.vlan);
            let there = vlan.is_some_and(|vlan| self.owners.contains_key(&(vlan, entry.gid)));
            if !there {
                let _left_out = self.replace(owner, None, Some(*entry)).is_err();
            }
        }
    }
}
