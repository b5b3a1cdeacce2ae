//! The embedded switch: which functions and queue pairs an Ethernet frame is for.
//!
//! The functions of the NIC and its link are the ports of a switch. A unicast address belongs to one
//! function: its own Ethernet address always, others as soon as it has a filter for them, and as long as
//! rules allow that. Other addresses stand where the operator has put them or where they were seen
//! last (`stations`). A frame to a known address goes to its port and nowhere else; one to a group
//! goes to all other functions and the link; one to an unknown unicast address goes to the link, and
//! to functions that are promiscuous. A frame never goes back to the function that sent it. All of
//! that is so in each VLAN by itself: a function that is not in a frame's VLAN is not there.
//!
//! What arrives on the link is also shown to promiscuous functions if its station is known to be on
//! the link, as from any adapter: the switch in front has had its reason to send it here.
//!
//! What reaches a function is matched against its filters. Each filter takes a copy, those that are
//! alike and share take one together, whose queue the hash of the flow chooses, so that frames of a
//! flow stay in order. A queue pair gets one copy at most, whatever number of filters it has.
//!
//! Looking up costs a few searches by address and a look at each filter that may match.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::FunctionId;
use super::ports::Ports;
use super::stations::{PortName, Stations};
use crate::resource::{Filter, Wanted};
use crate::types::Mac;

/// What a frame is sorted and spread by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sorting {
    /// Destination address.
    pub destination: Mac,
    /// VLAN in the network, or 0.
    pub vlan: u16,
    /// VLAN of what is left of the frame when its tag is taken out, or 0.
    pub inner_vlan: u16,
    /// Hash of the flow, 0 for frames without.
    pub hash: u32,
}

/// A function and one of its queue pairs.
pub(super) type Receiver = (u16, u32);

/// Who gets a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receivers {
    /// Functions and queue pairs, sorted.
    pub(super) queues: Vec<Receiver>,
    /// Functions that would get it if their policies let them, sorted.
    pub(super) barred: Vec<u16>,
}

/// The switch.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    /// The functions' ports, and their rules.
    pub(super) ports: Ports,
    /// Where other stations are.
    pub(super) stations: Stations,
    /// Functions by their own addresses.
    own: BTreeMap<Mac, u16>,
    /// Filters by addresses and function.
    shares: BTreeMap<(Wanted, u16), Vec<Share>>,
    /// Unicast addresses, and functions that have filters for them without effect: rules do not allow
    /// it (`review`).
    idle: BTreeSet<(Mac, u16)>,
}

/// Filters that are alike and share, or one that does not.
#[derive(Clone, Debug)]
struct Share {
    /// The first of them.
    filter: Filter,
    /// Numbers and queue pairs of all of them, in the order in which they were set.
    members: Vec<(u32, u32)>,
}

impl Switch {
    /// Adds a function with its own address.
    pub fn add_station(&mut self, owner: u16, mac: Mac) {
        self.ports.add(owner, mac);
        self.own = self.ports.owners();
    }

    /// Removes a function.
    pub fn remove_station(&mut self, owner: u16) {
        self.ports.remove(owner);
        self.own = self.ports.owners();
        self.stations
            .remove_port(PortName::Function(FunctionId(owner)));
    }

    /// Whether an address is a function's own.
    pub(super) fn is_own(&self, mac: Mac) -> bool {
        self.own.contains_key(&mac)
    }

    /// Gives a function that has no filters the address that was assigned to it; returns it if it has
    /// another one by now.
    pub(super) fn adopt(&mut self, owner: u16) -> Option<Mac> {
        let mac = self.ports.adopt(owner)?;
        self.own = self.ports.owners();
        Some(mac)
    }

    /// Takes back addresses that were assigned to functions and belong to somebody else by now. Returns
    /// who has lost its present one, with the one that it has now.
    pub(super) fn withdraw(&mut self) -> Vec<(u16, Mac)> {
        let stations = &self.stations;
        let lost = self.ports.withdraw(|function, mac| {
            stations.is_fixed_elsewhere(mac, PortName::Function(FunctionId(function)))
        });
        if !lost.is_empty() {
            self.own = self.ports.owners();
        }
        lost
    }

    /// The function that a unicast address belongs to.
    #[must_use]
    pub fn owner(&self, mac: Mac) -> Option<u16> {
        if mac.is_group() {
            return None;
        }
        let station = self.own.get(&mac).copied();
        station.or_else(|| {
            let filters = self.shares.range(everywhere(Wanted::Address(mac)));
            let mut owners = filters.map(|((_, owner), _)| *owner);
            owners.find(|owner| !self.is_idle(*owner, mac))
        })
    }

    /// Whether the filters that a function has for a unicast address are without effect.
    pub(super) fn is_idle(&self, owner: u16, mac: Mac) -> bool {
        self.idle.contains(&(mac, owner))
    }

    /// Whether there are filters without effect.
    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Takes the effect from them, or gives it.
    pub(super) fn set_idle(&mut self, owner: u16, mac: Mac, idle: bool) {
        if idle {
            self.idle.insert((mac, owner));
        } else {
            self.idle.remove(&(mac, owner));
        }
    }

    /// The function that a unicast address belongs to in a VLAN.
    pub(super) fn owner_in(&self, vlan: u16, mac: Mac) -> Option<u16> {
        let owner = self.owner(mac)?;
        self.ports.inward(owner, vlan).map(|_| owner)
    }

    /// The function to which the operator, or nobody but the device, has given an address in a VLAN. What
    /// functions claim by filters is not enough to silence others.
    pub(super) fn assignee(&self, vlan: u16, mac: Mac) -> Option<u16> {
        let owner = self.owner_in(vlan, mac)?;
        let port = self.ports.get(owner)?;
        (port.mac == mac || port.policy.macs.contains(&mac)).then_some(owner)
    }

    /// The port that a unicast address stands behind, if that is known.
    fn place(&self, vlan: u16, mac: Mac) -> Option<PortName> {
        if mac.is_group() {
            return None;
        }
        let owner = self.owner_in(vlan, mac).map(FunctionId);
        let owner = owner.map(PortName::Function);
        owner.or_else(|| self.stations.locate(vlan, mac))
    }

    /// Learns where the source of a frame is.
    pub(super) fn learn(&mut self, vlan: u16, mac: Mac, port: PortName) {
        if let PortName::Function(FunctionId(function)) = port {
            let port = self.ports.get(function);
            // Most frames have their function's own address.
            if !port.is_some_and(|port| port.mac != mac && port.policy.allows_learning(mac)) {
                return;
            }
        }
        // What belongs to a function stays there.
        if self.owner(mac).is_none() {
            self.stations.learn(vlan, mac, port);
        }
    }

    /// Adds filter `number` of function `owner`, which may have its address.
    pub fn add_filter(&mut self, owner: u16, number: u32, filter: &Filter) {
        if let Wanted::Address(mac) = filter.wanted {
            self.set_idle(owner, mac, false);
        }
        let shares = self.shares.entry((filter.wanted, owner)).or_default();
        let member = (number, filter.qpn);
        self.ports.change();
        match shares.iter_mut().find(|s| s.filter.shares_with(filter)) {
            Some(share) => share.members.push(member),
            None => shares.push(Share {
                filter: *filter,
                members: alloc::vec![member],
            }),
        }
    }

    /// Removes filter `number` of function `owner`.
    pub fn remove_filter(&mut self, owner: u16, number: u32, filter: &Filter) {
        let at = (filter.wanted, owner);
        let Some(shares) = self.shares.get_mut(&at) else {
            return;
        };
        for share in shares.iter_mut() {
            share.members.retain(|(member, _)| *member != number);
        }
        shares.retain(|share| !share.members.is_empty());
        if shares.is_empty() {
            self.shares.remove(&at);
            if let Wanted::Address(mac) = filter.wanted {
                self.set_idle(owner, mac, false);
            }
        }
        self.ports.change();
    }

    /// Removes all filters of function `owner`, and what was learned behind it.
    pub fn remove_filters(&mut self, owner: u16) {
        self.shares.retain(|(_, function), _| *function != owner);
        self.idle.retain(|(_, function)| *function != owner);
        self.stations.flush(PortName::Function(FunctionId(owner)));
        self.ports.change();
    }

    /// Whether a frame that a function sends goes out on the link.
    pub(super) fn leaves(&self, vlan: u16, destination: Mac) -> bool {
        !matches!(self.place(vlan, destination), Some(PortName::Function(_)))
    }

    /// Whether another function than `from`, which sends it, may want a frame, or is to count that
    /// it must not have it.
    pub(super) fn is_wanted(&self, vlan: u16, destination: Mac, from: u16) -> bool {
        if let Some(owner) = self.owner(destination) {
            return owner != from;
        }
        match self.place(vlan, destination) {
            Some(PortName::Function(FunctionId(owner))) => return owner != from,
            Some(PortName::Link) => return false,
            None => {}
        }
        let mut kinds = kinds(destination);
        kinds.any(|wanted| {
            let mut filters = self.shares.range(everywhere(wanted));
            filters.any(|((_, owner), _)| *owner != from)
        })
    }

    /// Finds the queue pairs that get a frame; `from` is the function that sent it, if it is one of
    /// this NIC.
    pub(super) fn receivers(&self, frame: Sorting, from: Option<u16>, found: &mut Receivers) {
        found.queues.clear();
        found.barred.clear();
        let destination = frame.destination;
        let owner = self.owner(destination);
        found.barred.extend(owner.filter(|owner| {
            from != Some(*owner) && self.ports.inward(*owner, frame.vlan).is_none()
        }));
        match self.place(frame.vlan, destination) {
            Some(PortName::Function(FunctionId(owner))) => {
                if from != Some(owner) {
                    for wanted in kinds(destination) {
                        let shares = self.shares.get(&(wanted, owner));
                        self.take(frame, owner, shares.map_or(&[], Vec::as_slice), found);
                    }
                }
            }
            Some(PortName::Link) if from.is_some() => {}
            Some(PortName::Link) | None => self.flood(frame, from, found),
        }
        found.queues.sort_unstable();
        found.queues.dedup();
        found.barred.sort_unstable();
        found.barred.dedup();
    }

    /// Finds those who want a frame that is for no function in particular.
    fn flood(&self, frame: Sorting, from: Option<u16>, found: &mut Receivers) {
        for wanted in kinds(frame.destination) {
            for ((_, owner), shares) in self.shares.range(everywhere(wanted)) {
                if from != Some(*owner) && self.has_effect(wanted, *owner, frame.destination) {
                    self.take(frame, *owner, shares, found);
                }
            }
        }
    }

    /// Whether a function gets a frame to no address of its own by a filter, as far as it is trusted
    /// and has the filter's address.
    fn has_effect(&self, wanted: Wanted, owner: u16, destination: Mac) -> bool {
        match wanted {
            Wanted::Address(mac) => !self.is_idle(owner, mac),
            Wanted::Broadcast => true,
            Wanted::AllMulticast | Wanted::Promiscuous => {
                destination == Mac::BROADCAST || self.ports.is_trusted(owner)
            }
        }
    }

    /// Adds a receiver for each share of a function that takes a frame.
    fn take(&self, frame: Sorting, owner: u16, shares: &[Share], found: &mut Receivers) {
        let Some(vlan) = self.vlan_at(owner, frame) else {
            if !shares.is_empty() {
                found.barred.push(owner);
            }
            return;
        };
        for share in shares {
            if share.filter.vlan.is_some_and(|wanted| wanted != vlan) {
                continue;
            }
            let count = share.members.len();
            let chosen = (frame.hash as usize).checked_rem(count);
            if let Some((_, qpn)) = chosen.and_then(|chosen| share.members.get(chosen)) {
                found.queues.push((owner, *qpn));
            }
        }
    }

    /// The VLAN of a frame as a function sees it, if it may.
    fn vlan_at(&self, owner: u16, frame: Sorting) -> Option<u16> {
        let port = self.ports.get(owner).filter(|port| !port.is_shut())?;
        let vlan = port.policy.vlan.inward(frame.vlan)?;
        let access = port.policy.vlan.is_access();
        Some(if access { frame.inner_vlan } else { vlan })
    }
}

/// Filters of all functions.
const fn everywhere(wanted: Wanted) -> RangeInclusive<(Wanted, u16)> {
    (wanted, 0)..=(wanted, u16::MAX)
}

/// The kinds of filters that take a destination address.
fn kinds(destination: Mac) -> impl Iterator<Item = Wanted> {
    let group = destination.is_group().then_some(Wanted::AllMulticast);
    let broadcast = (destination == Mac::BROADCAST).then_some(Wanted::Broadcast);
    [Wanted::Address(destination), Wanted::Promiscuous]
        .into_iter()
        .chain(group)
        .chain(broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const TWO: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);

    fn switch(filters: &[(u16, Wanted, u32)]) -> Switch {
        let mut switch = Switch::default();
        switch.add_station(1, ONE);
        switch.add_station(2, TWO);
        for (number, (owner, wanted, qpn)) in filters.iter().enumerate() {
            let filter = Filter {
                wanted: *wanted,
                vlan: None,
                spread: false,
                qpn: *qpn,
            };
            switch.add_filter(*owner, number as u32, &filter);
        }
        switch
    }

    fn receivers(switch: &Switch, destination: Mac, from: Option<u16>) -> Vec<Receiver> {
        let mut found = Receivers {
            queues: alloc::vec![(9, 9)],
            barred: alloc::vec![9],
        };
        let frame = Sorting {
            destination,
            vlan: 0,
            inner_vlan: 0,
            hash: 0,
        };
        switch.receivers(frame, from, &mut found);
        assert_eq!(found.barred, []);
        found.queues
    }

    #[test]
    fn frames_go_where_a_switch_sends_them() {
        let filters = [
            (1, Wanted::Promiscuous, 11),
            (2, Wanted::Promiscuous, 21),
            (2, Wanted::Address(TWO), 22),
            (2, Wanted::Broadcast, 23),
            (2, Wanted::AllMulticast, 24),
            (2, Wanted::Address(GROUP), 21),
        ];
        let switch = switch(&filters);
        let to = |destination, from| receivers(&switch, destination, from);
        assert_eq!(to(TWO, None), [(2, 21), (2, 22)]);
        assert_eq!(to(TWO, Some(1)), [(2, 21), (2, 22)]);
        assert_eq!(to(TWO, Some(2)), []);
        assert_eq!(to(ONE, None), [(1, 11)]);
        assert_eq!(to(STRANGER, Some(1)), [(2, 21)]);
        assert_eq!(to(STRANGER, None), [(1, 11), (2, 21)]);
        assert_eq!(to(GROUP, None), [(1, 11), (2, 21), (2, 24)]);
        assert_eq!(to(GROUP, Some(2)), [(1, 11)]);
        let all = [(1, 11), (2, 21), (2, 23), (2, 24)];
        assert_eq!(to(Mac::BROADCAST, None), all);
        let leaves = [ONE, TWO, STRANGER, GROUP].map(|mac| switch.leaves(0, mac));
        assert_eq!(leaves, [false, false, true, true]);
    }

    #[test]
    fn a_filter_makes_an_address_ones_own_while_it_is_there() {
        let mut switch = switch(&[(2, Wanted::Address(STRANGER), 21)]);
        assert_eq!(switch.owner(STRANGER), Some(2));
        assert!(switch.is_wanted(0, STRANGER, 1) && !switch.is_wanted(0, STRANGER, 2));
        switch.remove_filters(2);
        assert_eq!(switch.owner(STRANGER), None);
        assert!(!switch.is_wanted(0, STRANGER, 1) && switch.is_wanted(0, TWO, 1));
    }
}
