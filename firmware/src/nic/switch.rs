//! The embedded switch: which functions and queue pairs an Ethernet frame is for.
//!
//! The functions of the NIC and its link are the ports of a switch. A unicast address belongs to one
//! function: its own Ethernet address always, others as soon as it has a filter for them. A frame to
//! such an address goes to that function and nowhere else; one to a group goes to all other
//! functions and the link; one to an unknown unicast address goes to the link, and to functions that
//! are promiscuous. A frame never goes back to the function that sent it.
//!
//! What reaches a function is matched against its filters. Each filter takes a copy, those that are
//! alike and share take one together, whose queue the hash of the flow chooses, so that frames of a
//! flow stay in order. A queue pair gets one copy at most, whatever number of filters it has.
//!
//! Looking up costs a few searches by address and a look at each filter that may match.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::resource::{Filter, Wanted};
use crate::types::Mac;

/// What a frame is sorted and spread by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sorting {
    /// Destination address.
    pub destination: Mac,
    /// VLAN, or 0.
    pub vlan: u16,
    /// Hash of the flow, 0 for frames without.
    pub hash: u32,
}

/// A function and one of its queue pairs.
pub(super) type Receiver = (u16, u32);

/// The switch.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    /// Functions by their own addresses.
    stations: BTreeMap<Mac, u16>,
    /// Filters by addresses and function.
    shares: BTreeMap<(Wanted, u16), Vec<Share>>,
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
        self.stations.entry(mac).or_insert(owner);
    }

    /// Removes a function.
    pub fn remove_station(&mut self, owner: u16) {
        self.stations.retain(|_, station| *station != owner);
    }

    /// The function that a unicast address belongs to.
    #[must_use]
    pub fn owner(&self, mac: Mac) -> Option<u16> {
        if mac.is_group() {
            return None;
        }
        let station = self.stations.get(&mac).copied();
        station.or_else(|| {
            let mut filters = self.shares.range(everywhere(Wanted::Address(mac)));
            filters.next().map(|((_, owner), _)| *owner)
        })
    }

    /// Adds filter `number` of function `owner`.
    pub fn add_filter(&mut self, owner: u16, number: u32, filter: &Filter) {
        let shares = self.shares.entry((filter.wanted, owner)).or_default();
        let member = (number, filter.qpn);
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
        }
    }

    /// Removes all filters of function `owner`.
    pub fn remove_filters(&mut self, owner: u16) {
        self.shares.retain(|(_, function), _| *function != owner);
    }

    /// Whether a frame that a function sends goes out on the link.
    pub(super) fn leaves(&self, destination: Mac) -> bool {
        self.owner(destination).is_none()
    }

    /// Whether another function than `from`, which sends it, may want a frame.
    pub(super) fn is_wanted(&self, destination: Mac, from: u16) -> bool {
        if let Some(owner) = self.owner(destination) {
            return owner != from;
        }
        let mut kinds = kinds(destination);
        kinds.any(|wanted| {
            let mut filters = self.shares.range(everywhere(wanted));
            filters.any(|((_, owner), _)| *owner != from)
        })
    }

    /// Finds the queue pairs that get a frame, sorted; `from` is the function that sent it, if it is
    /// one of this NIC.
    pub(super) fn receivers(&self, frame: Sorting, from: Option<u16>, found: &mut Vec<Receiver>) {
        found.clear();
        let destination = frame.destination;
        if let Some(owner) = self.owner(destination) {
            if from != Some(owner) {
                for wanted in kinds(destination) {
                    let shares = self.shares.get(&(wanted, owner));
                    take(frame, owner, shares.map_or(&[], Vec::as_slice), found);
                }
            }
        } else {
            for wanted in kinds(destination) {
                for ((_, owner), shares) in self.shares.range(everywhere(wanted)) {
                    if from != Some(*owner) {
                        take(frame, *owner, shares, found);
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
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

/// Adds a receiver for each share that takes a frame.
fn take(frame: Sorting, owner: u16, shares: &[Share], found: &mut Vec<Receiver>) {
    for share in shares {
        if share.filter.vlan.is_some_and(|vlan| vlan != frame.vlan) {
            continue;
        }
        let count = share.members.len();
        let chosen = (frame.hash as usize).checked_rem(count);
        if let Some((_, qpn)) = chosen.and_then(|chosen| share.members.get(chosen)) {
            found.push((owner, *qpn));
        }
    }
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
        let mut found = alloc::vec![(9, 9)];
        let frame = Sorting {
            destination,
            vlan: 0,
            hash: 0,
        };
        switch.receivers(frame, from, &mut found);
        found
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
        let leaves = [ONE, TWO, STRANGER, GROUP].map(|mac| switch.leaves(mac));
        assert_eq!(leaves, [false, false, true, true]);
    }

    #[test]
    fn a_filter_makes_an_address_ones_own_while_it_is_there() {
        let mut switch = switch(&[(2, Wanted::Address(STRANGER), 21)]);
        assert_eq!(switch.owner(STRANGER), Some(2));
        assert!(switch.is_wanted(STRANGER, 1) && !switch.is_wanted(STRANGER, 2));
        switch.remove_filters(2);
        assert_eq!(switch.owner(STRANGER), None);
        assert!(!switch.is_wanted(STRANGER, 1) && switch.is_wanted(TWO, 1));
    }
}
