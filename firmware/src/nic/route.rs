//! Where a PDU of a queue pair goes, and whether its sender's policy lets it.
//!
//! That is looked up in several tables, and asked for each PDU. So answers are remembered, for each
//! path, until the generation of the port's rules and addresses is another one: while nothing
//! changes, a PDU costs one comparison of its path, whatever rules there are. What has changed holds
//! from the next PDU on, and a path that is still allowed loses nothing, as no state but this memory
//! depends on rules.
//!
//! The same memory tells whether a packet from the link has a source that is one of ours.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use super::address::{Addresses, Breach, Unusable};
use crate::resource::GidEntry;
use crate::transport::Path;
use crate::types::{Gid, Mac};

/// Paths, and sources, that are remembered. Those that fall into one slot push each other out.
const SLOTS: usize = 256;

/// What of a path decides where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathKey {
    function: u16,
    vlan: u16,
    source: Gid,
    source_mac: Mac,
    destination: Gid,
    destination_mac: Mac,
}

impl PathKey {
    #[inline]
    pub(super) const fn new(function: u16, path: &Path) -> Self {
        Self {
            function,
            vlan: path.vlan,
            source: path.source,
            source_mac: path.source_mac,
            destination: path.destination,
            destination_mac: path.destination_mac,
        }
    }
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To a function of this NIC.
    Function(u16),
    /// To a multicast group.
    Group,
    /// Out on the link.
    Link,
    /// Nowhere, as a rule forbids it or the port is shut: what is sent is dropped and counted.
    Nowhere(Option<Breach>),
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) way: Way,
    /// VLAN and priority of the tag that the switch puts into packets.
    pub(super) tag: Option<(u16, u8)>,
    /// The VLAN as the function at the end of the path calls it.
    pub(super) vlan_there: u16,
    /// What the sender sends is shown.
    pub(super) mirrored_here: bool,
    /// What the function at the end of the path gets is shown.
    pub(super) mirrored_there: bool,
}

impl Route {
    const fn nowhere(breach: Option<Breach>) -> Self {
        Self {
            way: Way::Nowhere(breach),
            tag: None,
            vlan_there: 0,
            mirrored_here: false,
            mirrored_there: false,
        }
    }

    /// Whether packets on the path are shown.
    pub(super) const fn is_mirrored(&self) -> bool {
        self.mirrored_here || self.mirrored_there
    }

    /// The path as packets have it in the network.
    pub(super) fn outward(&self, path: &Path) -> Path {
        let (vlan, service_level) = self.tag.unwrap_or((path.vlan, path.service_level));
        Path {
            vlan,
            service_level,
            ..*path
        }
    }
}

impl Addresses {
    /// Looks a path of a function up.
    fn route(&self, function: u16, path: &Path) -> Route {
        let ports = &self.switch.ports;
        let port = ports.get(function).filter(|port| !port.is_shut());
        let Some(port) = port else {
            return Route::nowhere(None);
        };
        let source = GidEntry {
            gid: path.source,
            mac: path.source_mac,
            vlan: path.vlan,
        };
        let vlan = match self.check(function, &source) {
            Ok(vlan) => vlan,
            Err(Unusable::Forbidden(breach)) => return Route::nowhere(Some(breach)),
            Err(Unusable::TakenMac) => return Route::nowhere(Some(Breach::Mac)),
            Err(Unusable::TakenGid) => return Route::nowhere(Some(Breach::Gid)),
        };
        // Its policy may allow it again when another function has taken the GID.
        if self.owner(vlan, path.source, path.source_mac) != Some(function) {
            return Route::nowhere(Some(Breach::Gid));
        }
        let to = self.owner(vlan, path.destination, path.destination_mac);
        Route {
            way: match to {
                Some(to) => Way::Function(to),
                None if path.destination_mac.is_group() => Way::Group,
                None => Way::Link,
            },
            tag: port.tag().map(|tag| (tag.id, tag.priority)),
            vlan_there: to.and_then(|to| ports.inward(to, vlan)).unwrap_or(vlan),
            mirrored_here: port.mirrored,
            mirrored_there: to.is_some_and(|to| ports.is_mirrored(to)),
        }
    }

    /// The function to which one of these addresses is assigned in a VLAN. A GID that a function has
    /// just set may be that of a peer on the link, whom it must not silence; one in its list is its own.
    fn namesake(&self, vlan: u16, mac: Mac, gid: Gid) -> Option<u16> {
        let assignee = self.switch.assignee(vlan, mac);
        assignee.or_else(|| {
            let owner = self.owner_of_gid(vlan, gid)?;
            let policy = &self.switch.ports.get(owner)?.policy;
            (policy.checks.gid && policy.lists_gid(gid)).then_some(owner)
        })
    }
}

type Slot<K, V> = Cell<Option<(u64, K, V)>>;

/// What is remembered.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    paths: Vec<Slot<PathKey, Route>>,
    sources: Vec<Slot<(u16, Mac, Gid), Option<u16>>>,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            paths: vec![Cell::new(None); SLOTS],
            sources: vec![Cell::new(None); SLOTS],
        }
    }
}

impl Routes {
    /// Where a path leads; `key` is its key.
    pub(super) fn find(&self, addresses: &Addresses, key: PathKey, path: &Path) -> Route {
        // Source ports differ between queue pairs (IBTA volume 1, annex A17.9.2).
        let hint = path.udp_source ^ key.function.rotate_left(5);
        let generation = addresses.switch.ports.generation();
        remember(&self.paths, hint, generation, key, || {
            addresses.route(key.function, path)
        })
    }

    /// The function whose assigned Ethernet address or GID the source of a packet from the link bears.
    pub(super) fn namesake(
        &self,
        addresses: &Addresses,
        vlan: u16,
        mac: Mac,
        gid: Gid,
    ) -> Option<u16> {
        let [.., a] = mac.0;
        let [.., b] = gid.0;
        let generation = addresses.switch.ports.generation();
        let hint = u16::from(a.rotate_left(4) ^ b);
        remember(&self.sources, hint, generation, (vlan, mac, gid), || {
            addresses.namesake(vlan, mac, gid)
        })
    }
}

/// The value for a key from its slot, or the right one, which is there then.
#[inline]
fn remember<K: Copy + PartialEq, V: Copy>(
    slots: &[Slot<K, V>],
    hint: u16,
    generation: u64,
    key: K,
    find: impl FnOnce() -> V,
) -> V {
    let slot = slots.get(usize::from(hint) % SLOTS);
    match slot.and_then(Cell::get) {
        Some((when, of, value)) if when == generation && of == key => value,
        _ => {
            let value = find();
            if let Some(slot) = slot {
                slot.set(Some((generation, key, value)));
            }
            value
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_until_rules_change() {
        let slots = vec![Cell::new(None); SLOTS];
        let asked = Cell::new(0);
        let ask = |hint: u16, generation: u64, key: u32| {
            remember(&slots, hint, generation, key, || {
                asked.set(asked.get() + 1);
                key * 10 + generation as u32
            })
        };
        assert_eq!([ask(3, 1, 7), ask(3, 1, 7)], [71, 71]);
        assert_eq!(asked.get(), 1);
        assert_eq!(ask(3, 2, 7), 72, "another generation");
        assert_eq!(ask(3, 2, 8), 82, "another key in the same slot");
        assert_eq!(ask(3, 2, 7), 72);
        assert_eq!(ask(3 + SLOTS as u16, 2, 7), 72, "the same slot");
        assert_eq!(asked.get(), 4);
        assert_eq!(ask(u16::MAX, 2, 9), 92);
    }
}
