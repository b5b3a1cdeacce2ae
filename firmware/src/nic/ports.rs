//! The ports of the embedded switch: each function's address and policy.
//!
//! Asked for each frame or PDU, so every answer is a look into one entry. Whoever remembers an answer
//! compares [`Ports::generation`], which grows with every change of a rule or of an address.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::policy::{LinkMode, Policy, UplinkPolicy, VlanMode};
use crate::types::{Gid, Mac};
use crate::wire::frame::Tag;

/// A port of a function.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// The function's own address.
    pub(super) mac: Mac,
    /// That which it was made with.
    made_with: Mac,
    /// That which it was assigned: its own from its next reset on.
    assigned: Option<Mac>,
    /// Its rules.
    pub(super) policy: Policy,
    /// What passes is shown.
    pub(super) mirrored: bool,
    /// It was the driver of the physical function who has taken the function out of service.
    pub(super) shut_by_pf: bool,
}

impl Port {
    /// Whether the function may use an address.
    pub(super) fn allows_mac(&self, mac: Mac) -> bool {
        self.policy.allows_mac(self.mac, mac)
    }

    /// The address that the function has from its next reset on.
    pub(super) fn next_mac(&self) -> Mac {
        self.assigned.unwrap_or(self.made_with)
    }

    /// Whether an address is the function's whatever it does: listed, assigned, or made with.
    fn is_promised(&self, mac: Mac) -> bool {
        mac == self.made_with || self.assigned == Some(mac) || self.policy.macs.contains(&mac)
    }

    /// All these.
    fn promised(&self) -> impl Iterator<Item = Mac> + '_ {
        let own = [Some(self.made_with), self.assigned];
        own.into_iter()
            .flatten()
            .chain(self.policy.macs.iter().copied())
    }

    /// Whether the operator has shut it.
    pub(super) fn is_shut(&self) -> bool {
        self.policy.link == LinkMode::Disabled
    }

    /// The tag that the switch puts into what the function sends.
    pub(super) const fn tag(&self) -> Option<Tag> {
        match self.policy.vlan {
            VlanMode::Access { vlan, priority } => Some(Tag {
                id: vlan,
                priority,
                drop_eligible: false,
            }),
            VlanMode::Trunk(_) => None,
        }
    }
}

/// How a function sees what goes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// As it is.
    Whole,
    /// Without the tag of its VLAN.
    Untagged,
    /// Not at all.
    Nothing,
}

/// All ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    functions: Vec<Option<Port>>,
    /// The GIDs in the lists of all policies.
    listed: BTreeSet<Gid>,
    /// The Ethernet addresses that are promised to a function.
    promised: BTreeSet<Mac>,
    /// Rules of the link.
    pub(super) uplink: UplinkPolicy,
    generation: u64,
}

impl Ports {
    /// Adds the port of a function, without rules.
    pub(super) fn add(&mut self, function: u16, mac: Mac) {
        let index = usize::from(function);
        if index >= self.functions.len() {
            self.functions.resize(index + 1, None);
        }
        if let Some(place) = self.functions.get_mut(index) {
            *place = Some(Port {
                mac,
                made_with: mac,
                assigned: None,
                policy: Policy::default(),
                mirrored: false,
                shut_by_pf: false,
            });
        }
        self.index();
        self.change();
    }

    /// Removes the port of a function.
    pub(super) fn remove(&mut self, function: u16) {
        if let Some(place) = self.functions.get_mut(usize::from(function)) {
            *place = None;
        }
        self.index();
        self.change();
    }

    /// The port of a function.
    #[inline]
    pub(super) fn get(&self, function: u16) -> Option<&Port> {
        self.functions.get(usize::from(function))?.as_ref()
    }

    /// Whether an address is listed or reserved for another function, and not for `function`.
    pub(super) fn has_promised_mac(&self, function: u16, mac: Mac) -> bool {
        let own = self.get(function);
        self.promised.contains(&mac) && !own.is_some_and(|port| port.is_promised(mac))
    }

    /// Reserves an address for a function that has it from its next reset on; `None` for that which it
    /// was made with.
    pub(super) fn assign(&mut self, function: u16, mac: Option<Mac>) {
        let port = self.functions.get_mut(usize::from(function));
        if let Some(Some(port)) = port {
            port.assigned = mac;
        }
        self.index();
        self.change();
    }

    /// The address that was assigned to a function, if one was.
    pub(super) fn assigned(&self, function: u16) -> Option<Mac> {
        self.get(function)?.assigned
    }

    /// Takes back what was assigned and belongs to somebody else by now: an address that another
    /// function was made with, that the operator has listed for others, or that stands behind another
    /// port as `is_fixed_elsewhere` says; and what a function whose rules the operator keeps was to get
    /// at its next reset. Returns who has lost its present address, with the one that it has now.
    pub(super) fn withdraw(
        &mut self,
        is_fixed_elsewhere: impl Fn(u16, Mac) -> bool,
    ) -> Vec<(u16, Mac)> {
        let mut lost = Vec::new();
        let mut any = false;
        for index in 0..self.functions.len() {
            let function = u16::try_from(index).unwrap_or(u16::MAX);
            let Some(mac) = self.assigned(function) else {
                continue;
            };
            let taken = self.is_taken(function, mac) || is_fixed_elsewhere(function, mac);
            let Some(Some(port)) = self.functions.get_mut(index) else {
                continue;
            };
            if taken && port.mac == mac && port.made_with != mac {
                port.mac = port.made_with;
                lost.push((function, port.mac));
            }
            let kept_back = port.mac != mac && !port.policy.pf_may_change;
            if taken || kept_back {
                // What it has, it keeps.
                port.assigned = Some(port.mac).filter(|mac| *mac != port.made_with);
                any = true;
            }
        }
        if any {
            self.index();
            self.change();
        }
        lost
    }

    /// Whether an address that was assigned to a function belongs to another one, which was made with
    /// it or for which the operator has listed it.
    fn is_taken(&self, function: u16, mac: Mac) -> bool {
        let listed = self
            .get(function)
            .is_some_and(|port| port.policy.macs.contains(&mac));
        let mut others = (0u16..).zip(&self.functions);
        others.any(|(other, port)| {
            port.as_ref().is_some_and(|port| {
                other != function
                    && (port.made_with == mac || !listed && port.policy.macs.contains(&mac))
            })
        })
    }

    /// The functions by their own addresses. Of two that have the same one, it is that of the one that
    /// was made with it.
    pub(super) fn owners(&self) -> BTreeMap<Mac, u16> {
        let ports = || (0u16..).zip(&self.functions);
        let ports = || ports().filter_map(|(function, port)| Some((function, port.as_ref()?)));
        let mut owners = BTreeMap::new();
        for (function, port) in ports().filter(|(_, port)| port.mac == port.made_with) {
            owners.entry(port.mac).or_insert(function);
        }
        for (function, port) in ports() {
            owners.entry(port.mac).or_insert(function);
        }
        owners
    }

    /// Gives a function the address that was assigned to it; returns it if it has another one by now.
    pub(super) fn adopt(&mut self, function: u16) -> Option<Mac> {
        let port = self.functions.get_mut(usize::from(function))?.as_mut()?;
        let mac = port.next_mac();
        if core::mem::replace(&mut port.mac, mac) == mac {
            return None;
        }
        self.change();
        Some(mac)
    }

    /// Whether the operator has listed a GID for another function, and not for `function`.
    pub(super) fn has_listed_gid(&self, function: u16, gid: Gid) -> bool {
        let own = self.get(function);
        self.listed.contains(&gid) && !own.is_some_and(|port| port.policy.lists_gid(gid))
    }

    fn index(&mut self) {
        let policies = || self.functions.iter().flatten().map(|port| &port.policy);
        let gids = policies().filter_map(|policy| policy.gids.as_ref());
        self.listed = gids.flatten().copied().collect();
        let promised = self.functions.iter().flatten().flat_map(Port::promised);
        self.promised = promised.collect();
    }

    /// Changes the rules of a port, if there is one.
    pub(super) fn set_policy(&mut self, function: u16, policy: Policy) {
        self.change();
        let port = self.functions.get_mut(usize::from(function));
        if let Some(port) = port.and_then(Option::as_mut) {
            port.policy = policy;
            self.index();
        }
    }

    /// Shows what passes a port from now on, or no longer; whether there is that port.
    pub(super) fn set_mirror(&mut self, function: u16, on: bool) -> bool {
        self.change();
        let port = self.functions.get_mut(usize::from(function));
        let port = port.and_then(Option::as_mut);
        port.map(|port| port.mirrored = on).is_some()
    }

    /// Notes who has taken a function out of service.
    pub(super) fn set_shut_by_pf(&mut self, function: u16, by_pf: bool) {
        let port = self.functions.get_mut(usize::from(function));
        if let Some(Some(port)) = port {
            port.shut_by_pf = by_pf;
        }
    }

    /// Whether what passes a port is shown.
    pub(super) fn is_mirrored(&self, function: u16) -> bool {
        self.get(function).is_some_and(|port| port.mirrored)
    }

    /// Notes that an answer may be another one from now on.
    pub(super) fn change(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Grows with every change.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// What a function calls a VLAN of the network, if it is in it.
    pub(super) fn inward(&self, function: u16, vlan: u16) -> Option<u16> {
        self.get(function)?.policy.vlan.inward(vlan)
    }

    /// Whether a function may see what is not for it.
    pub(super) fn is_trusted(&self, function: u16) -> bool {
        self.get(function).is_some_and(|port| port.policy.trusted)
    }

    /// How a function sees packets to addresses that are registered for it.
    #[inline]
    pub(super) fn sight(&self, function: u16) -> Sight {
        match self.get(function) {
            Some(port) if port.is_shut() => Sight::Nothing,
            Some(port) if port.policy.vlan.is_access() => Sight::Untagged,
            Some(_) => Sight::Whole,
            None => Sight::Nothing,
        }
    }
}
