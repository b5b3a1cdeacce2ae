//! Which stations stand behind which port of the embedded switch: those that it has learned by sight
//! (IEEE 802.1Q, 8.7), and those that the operator has put there (8.8.1).
//!
//! A function has its own address and those of its filters without this table (`switch`); a bridge
//! behind it has others, and so has the link. The source of a frame is learned in its VLAN, moves
//! with the next frame that comes from another port, and is forgotten [`AGEING`] after the last one,
//! or with its port. A station of the operator's stays where it is.
//!
//! The table is bounded, for each function and in all, so that frames with random sources cost
//! nobody memory and push nobody out: what finds no room is not learned, and frames for it go
//! where those for unknown stations go.

use alloc::collections::BTreeMap;
use core::ops::RangeInclusive;

use super::FunctionId;
use crate::types::{Mac, Time};

/// How long a station is known after it was last seen, in nanoseconds.
pub const AGEING: u64 = 300_000_000_000;
/// Stations that are learned, in all.
pub const LEARNED: usize = 8192;
/// Stations that are learned behind one function.
pub const LEARNED_OF_FUNCTION: usize = 256;
/// Stations of the operator's.
pub const FIXED: usize = 4096;
/// Least time between two searches for aged stations, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;

/// A port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortName {
    /// That of a function.
    Function(FunctionId),
    /// The link.
    Link,
}

/// A station, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its VLAN, or 0.
    pub vlan: u16,
    /// Its address.
    pub mac: Mac,
    /// The port that it stands behind.
    pub port: PortName,
    /// When it was last seen, if it was learned; the operator put it there otherwise.
    pub seen: Option<Time>,
}

impl Station {
    /// Its place in the order of a walk.
    #[must_use]
    pub const fn key(&self) -> (Mac, u16) {
        (self.mac, self.vlan)
    }
}

/// Why the operator cannot put a station somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StationRefused {
    /// The address is that of a group.
    Group,
    /// It is a function's own address, which stays where it is.
    Own,
    /// There are [`FIXED`] of them.
    Full,
    /// There is no such port.
    Port,
}

impl core::fmt::Display for StationRefused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Group => f.write_str("the address is that of a group"),
            Self::Own => f.write_str("the address is a function's own"),
            Self::Full => write!(f, "there are {FIXED} static stations already"),
            Self::Port => f.write_str("there is no such function"),
        }
    }
}

impl core::error::Error for StationRefused {}

/// An address and its VLAN, in this order, so that an address is found in all of them.
type Key = (Mac, u16);

#[derive(Clone, Copy, Debug)]
struct Place {
    port: PortName,
    seen: Time,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub(super) struct Stations {
    learned: BTreeMap<Key, Place>,
    fixed: BTreeMap<Key, PortName>,
    /// Learned stations of each port.
    counts: BTreeMap<PortName, usize>,
    now: Time,
    /// When aged stations were last searched for.
    swept: Time,
}

impl Stations {
    /// It is later now.
    pub(super) fn set_time(&mut self, now: Time) {
        self.now = now;
    }

    /// The port that a station stands behind.
    pub(super) fn locate(&self, vlan: u16, mac: Mac) -> Option<PortName> {
        let at = (mac, vlan);
        if let Some(port) = self.fixed.get(&at) {
            return Some(*port);
        }
        let place = self.learned.get(&at)?;
        (!self.is_aged(place)).then_some(place.port)
    }

    /// Whether the operator has put an address behind another port.
    pub(super) fn is_fixed_elsewhere(&self, mac: Mac, port: PortName) -> bool {
        let mut fixed = self.fixed.range(everywhere(mac));
        fixed.any(|(_, place)| *place != port)
    }

    /// Whether an address stands behind another port in some VLAN.
    pub(super) fn is_seen_elsewhere(&self, mac: Mac, port: PortName) -> bool {
        let mut learned = self.learned.range(everywhere(mac));
        learned.any(|(_, place)| place.port != port && !self.is_aged(place))
    }

    /// A frame of a station came from `port`.
    pub(super) fn learn(&mut self, vlan: u16, mac: Mac, port: PortName) {
        let at = (mac, vlan);
        if mac.is_group() || self.fixed.contains_key(&at) {
            return;
        }
        let seen = self.now;
        match self.learned.get_mut(&at) {
            Some(place) if place.port == port => place.seen = seen,
            Some(_) => {
                // It has moved; if there is no room, it is nowhere.
                self.forget(at);
                self.insert(at, port);
            }
            None => self.insert(at, port),
        }
    }

    fn insert(&mut self, at: Key, port: PortName) {
        if !self.has_room(port) {
            self.sweep();
            if !self.has_room(port) {
                return;
            }
        }
        let seen = self.now;
        self.learned.insert(at, Place { port, seen });
        *self.counts.entry(port).or_default() += 1;
    }

    fn has_room(&self, port: PortName) -> bool {
        let count = self.counts.get(&port).copied().unwrap_or(0);
        self.learned.len() < LEARNED && (port == PortName::Link || count < LEARNED_OF_FUNCTION)
    }

    fn forget(&mut self, at: Key) {
        let Some(place) = self.learned.remove(&at) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&place.port) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&place.port);
            }
        }
    }

    /// Forgets aged stations, unless that was done a moment ago: a flood of new ones does not make
    /// each frame cost a search.
    fn sweep(&mut self) {
        if self.now.0.saturating_sub(self.swept.0) < SWEEP {
            return;
        }
        self.swept = self.now;
        self.retain(|stations, place| !stations.is_aged(place));
    }

    fn retain(&mut self, keep: impl Fn(&Self, &Place) -> bool) {
        let mut learned = core::mem::take(&mut self.learned);
        learned.retain(|_, place| keep(self, place));
        self.counts.clear();
        for place in learned.values() {
            *self.counts.entry(place.port).or_default() += 1;
        }
        self.learned = learned;
    }

    fn is_aged(&self, place: &Place) -> bool {
        is_aged(place, self.now)
    }

    /// Forgets what was learned from a port.
    pub(super) fn flush(&mut self, port: PortName) {
        if self.counts.contains_key(&port) {
            self.retain(|_, place| place.port != port);
        }
    }

    /// Forgets a port.
    pub(super) fn remove_port(&mut self, port: PortName) {
        self.flush(port);
        self.fixed.retain(|_, place| *place != port);
    }

    /// Puts a station behind a port, for good.
    pub(super) fn fix(
        &mut self,
        vlan: u16,
        mac: Mac,
        port: PortName,
    ) -> Result<(), StationRefused> {
        let at = (mac, vlan);
        if mac.is_group() {
            return Err(StationRefused::Group);
        }
        if self.fixed.len() >= FIXED && !self.fixed.contains_key(&at) {
            return Err(StationRefused::Full);
        }
        self.forget(at);
        self.fixed.insert(at, port);
        Ok(())
    }

    /// Ends that; whether there was such a station.
    pub(super) fn unfix(&mut self, vlan: u16, mac: Mac) -> bool {
        self.fixed.remove(&(mac, vlan)).is_some()
    }

    /// All stations at a time, by address and VLAN, from the first at or after `from` on. A walk over
    /// the table can end anywhere and go on later: what stays in it is met once.
    pub(super) fn walk(&self, now: Time, from: Key) -> impl Iterator<Item = Station> + '_ {
        let fixed = self.fixed.range(from..);
        let mut fixed = fixed.map(|(at, port)| station(*at, *port, None)).peekable();
        let learned = self.learned.range(from..);
        let learned = learned.filter(move |(_, place)| !is_aged(place, now));
        let learned = learned.map(|(at, place)| station(*at, place.port, Some(place.seen)));
        let mut learned = learned.peekable();
        core::iter::from_fn(move || match (fixed.peek(), learned.peek()) {
            (Some(one), Some(other)) if one.key() < other.key() => fixed.next(),
            (_, Some(_)) => learned.next(),
            (_, None) => fixed.next(),
        })
    }
}

/// An address in all VLANs.
const fn everywhere(mac: Mac) -> RangeInclusive<Key> {
    (mac, 0)..=(mac, u16::MAX)
}

fn is_aged(place: &Place, now: Time) -> bool {
    now.0.saturating_sub(place.seen.0) >= AGEING
}

fn station((mac, vlan): Key, port: PortName, seen: Option<Time>) -> Station {
    Station {
        vlan,
        mac,
        port,
        seen,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const ONE: PortName = PortName::Function(FunctionId(1));
    const TWO: PortName = PortName::Function(FunctionId(2));

    impl Stations {
        fn count(&self) -> usize {
            self.walk(self.now, (Mac([0; 6]), 0)).count()
        }
    }

    fn mac(n: usize) -> Mac {
        let [.., a, b] = (n as u32).to_be_bytes();
        Mac([2, 0, 0, 9, a, b])
    }

    #[test]
    fn stations_move_and_age() {
        let mut stations = Stations::default();
        stations.learn(5, mac(1), ONE);
        assert_eq!(stations.locate(5, mac(1)), Some(ONE));
        assert_eq!(stations.locate(0, mac(1)), None, "another VLAN");
        stations.learn(5, mac(1), PortName::Link);
        assert_eq!(stations.locate(5, mac(1)), Some(PortName::Link));
        stations.set_time(Time(AGEING - 1));
        stations.learn(5, mac(2), ONE);
        assert_eq!(stations.locate(5, mac(1)), Some(PortName::Link));
        stations.set_time(Time(AGEING));
        assert_eq!(stations.locate(5, mac(1)), None);
        assert_eq!(stations.count(), 1);
        stations.flush(ONE);
        assert_eq!(stations.count(), 0);
    }

    #[test]
    fn the_operators_stations_stay_where_they_are() {
        let mut stations = Stations::default();
        stations.learn(0, mac(1), TWO);
        stations.fix(0, mac(1), ONE).unwrap();
        stations.learn(0, mac(1), TWO);
        stations.set_time(Time(2 * AGEING));
        stations.flush(ONE);
        assert_eq!(stations.locate(0, mac(1)), Some(ONE));
        assert!(stations.is_fixed_elsewhere(mac(1), TWO));
        assert!(!stations.is_fixed_elsewhere(mac(1), ONE));
        assert_eq!(
            stations.fix(0, Mac::BROADCAST, ONE),
            Err(StationRefused::Group)
        );
        assert!(stations.unfix(0, mac(1)) && !stations.unfix(0, mac(1)));
        stations.fix(0, mac(1), ONE).unwrap();
        stations.remove_port(ONE);
        assert_eq!(stations.locate(0, mac(1)), None);
    }

    #[test]
    fn a_flood_of_sources_is_bounded_and_passes() {
        let mut stations = Stations::default();
        stations.learn(0, mac(60_000), TWO);
        for n in 0..2 * LEARNED_OF_FUNCTION {
            stations.learn(0, mac(n), ONE);
        }
        assert_eq!(stations.count(), LEARNED_OF_FUNCTION + 1);
        for n in 10_000..10_000 + 2 * LEARNED {
            stations.learn(0, mac(n), PortName::Link);
        }
        assert_eq!(stations.count(), LEARNED);
        assert_eq!(stations.locate(0, mac(60_000)), Some(TWO));
        // A station that moves to a port without room is nowhere.
        stations.learn(0, mac(60_000), ONE);
        assert_eq!(stations.locate(0, mac(60_000)), None);
        // There is room again when they have aged.
        stations.set_time(Time(AGEING));
        stations.learn(0, mac(3), ONE);
        assert_eq!(stations.count(), 1);
        assert_eq!(stations.locate(0, mac(3)), Some(ONE));
    }

    #[test]
    fn a_walk_in_portions_meets_every_station_once() {
        let mut stations = Stations::default();
        for n in 0..40 {
            // VLANs and addresses in another order than that of the table.
            let (vlan, mac) = ((n % 3) as u16, mac(977 * (40 - n) % 1000));
            if n % 4 == 0 {
                stations.fix(vlan, mac, TWO).unwrap();
            } else {
                stations.learn(vlan, mac, ONE);
            }
        }
        let all: Vec<_> = stations.walk(Time(0), (Mac([0; 6]), 0)).collect();
        assert_eq!(all.len(), 40);
        assert!(all.is_sorted_by_key(Station::key));
        let fixed = all.iter().filter(|station| station.seen.is_none());
        assert_eq!(fixed.clone().count(), 10);
        assert!(fixed.clone().all(|station| station.port == TWO));
        let (mut from, mut found) = ((Mac([0; 6]), 0), Vec::new());
        loop {
            let mut walk = stations.walk(Time(0), from);
            found.extend(walk.by_ref().take(7));
            let Some(next) = walk.next() else { break };
            from = next.key();
        }
        assert_eq!(found, all);
        // Time has passed without a frame.
        let later = stations.walk(Time(AGEING), (Mac([0; 6]), 0));
        assert_eq!(later.count(), 10);
    }
}
