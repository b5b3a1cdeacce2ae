//! Filters of received Ethernet frames, as the function that set them keeps them.
//!
//! A filter sends frames to one raw packet queue pair. Which frames a filter takes is decided where
//! frames arrive, by [`crate::nic::Switch`], which knows the filters of all functions; this table
//! gives them their numbers and bounds them.
//!
//! Two bounds: how many filters there are, and how many copies one frame can make
//! ([`limits::FILTER_COPIES`]), so that no function makes its neighbours wait by having every frame
//! copied to hundreds of queues.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{Numbering, Table, limits};
use crate::types::Mac;

/// The destination addresses that a filter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// This one, unicast or multicast.
    Address(Mac),
    /// The broadcast address.
    Broadcast,
    /// All multicast addresses, the broadcast address included.
    AllMulticast,
    /// All.
    Promiscuous,
}

/// A filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Destination addresses.
    pub wanted: Wanted,
    /// VLAN of the frames, 0 for those without; `None` for all.
    pub vlan: Option<u16>,
    /// Shares the frames with filters that are alike.
    pub spread: bool,
    /// The queue pair that they go to.
    pub qpn: u32,
}

impl Filter {
    /// Whether they take the same frames, and share them.
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> bool {
        self.spread && other.spread && (self.wanted, self.vlan) == (other.wanted, other.vlan)
    }
}

/// The filters of a function.
#[derive(Clone, Debug)]
pub struct Filters(Table<Filter>);

impl Default for Filters {
    fn default() -> Self {
        Self(Table::new(Numbering::PLAIN, limits::FILTERS))
    }
}

impl Filters {
    /// Adds a filter and returns its number; `None` if there are too many, or frames would be copied
    /// too often.
    pub fn add(&mut self, filter: Filter) -> Option<u32> {
        if self.copies_with(&filter) > limits::FILTER_COPIES {
            return None;
        }
        self.0.insert_with(|_| filter)
    }

    /// The copies that a frame can make because of filters with the addresses of `new`, if that
    /// were one of them.
    fn copies_with(&self, new: &Filter) -> usize {
        let mut shared = Vec::new();
        let mut alone = 0;
        let same = self.0.iter().filter(|(_, f)| f.wanted == new.wanted);
        for filter in same.map(|(_, filter)| filter).chain([new]) {
            if !filter.spread {
                alone += 1;
            } else if !shared.contains(&filter.vlan) {
                shared.push(filter.vlan);
            }
        }
        alone + shared.len()
    }

    /// The unicast addresses that filters take, each once.
    #[must_use]
    pub fn addresses(&self) -> Vec<Mac> {
        let mut addresses: Vec<Mac> = self
            .0
            .iter()
            .filter_map(|(_, filter)| match filter.wanted {
                Wanted::Address(mac) if !mac.is_group() => Some(mac),
                _ => None,
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The same in the order of the filters' numbers.
    #[must_use]
    pub fn claims(&self) -> Vec<Mac> {
        let mut seen = BTreeSet::new();
        let claims = self.0.iter().filter_map(|(_, filter)| match filter.wanted {
            Wanted::Address(mac) if !mac.is_group() && seen.insert(mac) => Some(mac),
            _ => None,
        });
        claims.collect()
    }

    /// The filters by their numbers.
    #[must_use]
    pub const fn table(&self) -> &Table<Filter> {
        &self.0
    }

    /// Removes the filter with `number`.
    pub fn remove(&mut self, number: u32) -> Option<Filter> {
        self.0.remove(number)
    }

    /// Removes the filters of a queue pair.
    pub fn remove_of(&mut self, qpn: u32) -> Vec<(u32, Filter)> {
        let of_it = self.0.iter().filter(|(_, filter)| filter.qpn == qpn);
        let removed: Vec<_> = of_it.map(|(number, filter)| (number, *filter)).collect();
        for (number, _) in &removed {
            self.0.remove(*number);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(wanted: Wanted, vlan: Option<u16>, spread: bool) -> Filter {
        Filter {
            wanted,
            vlan,
            spread,
            qpn: 7,
        }
    }

    #[test]
    fn copies_are_bounded_and_shares_count_once() {
        let mut filters = Filters::default();
        for _ in 0..40 {
            let added = filters.add(filter(Wanted::Broadcast, None, true));
            assert!(added.is_some());
        }
        for _ in 1..limits::FILTER_COPIES {
            let added = filters.add(filter(Wanted::Broadcast, None, false));
            assert!(added.is_some());
        }
        assert_eq!(filters.add(filter(Wanted::Broadcast, Some(5), true)), None);
        assert_eq!(filters.add(filter(Wanted::Broadcast, None, false)), None);
        assert!(filters.add(filter(Wanted::Broadcast, None, true)).is_some());
        assert!(
            filters
                .add(filter(Wanted::Promiscuous, None, false))
                .is_some()
        );
    }

    #[test]
    fn a_queue_pair_takes_its_filters_along() {
        let mut filters = Filters::default();
        let one = filters.add(filter(Wanted::Promiscuous, None, false));
        let other = Filter {
            qpn: 8,
            ..filter(Wanted::Promiscuous, None, false)
        };
        let two = filters.add(other);
        assert_eq!(filters.remove_of(8), [(two.unwrap(), other)]);
        assert_eq!(filters.remove(two.unwrap()), None);
        assert!(filters.remove(one.unwrap()).is_some());
    }
}
