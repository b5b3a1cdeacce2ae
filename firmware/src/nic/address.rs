//! Which function of the port has which address.

use alloc::collections::BTreeMap;

use super::group::Groups;
use super::switch::Switch;
use crate::resource::GidEntry;
use crate::types::{Gid, Mac};

/// Addresses of all functions of the port. A GID belongs to one function in each VLAN.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Ethernet addresses.
    pub switch: Switch,
    /// Multicast groups.
    pub groups: Groups,
    owners: BTreeMap<(u16, Gid), (u16, Mac)>,
}

impl Addresses {
    /// Exchanges an address of function `owner` for another one; `false` if that is taken, and
    /// nothing changes then.
    #[must_use]
    pub fn replace(&mut self, owner: u16, old: Option<GidEntry>, new: Option<GidEntry>) -> bool {
        let key = |entry: GidEntry| (entry.vlan, entry.gid);
        if let Some(new) = new {
            let same = old.is_some_and(|old| key(old) == key(new));
            if !same && self.owners.contains_key(&key(new)) {
                return false;
            }
        }
        if let Some(old) = old {
            self.owners.remove(&key(old));
        }
        if let Some(new) = new {
            self.owners.insert(key(new), (owner, new.mac));
        }
        true
    }

    /// Takes all addresses away from function `owner`, but the one that it has from the start.
    pub fn remove_all(&mut self, owner: u16) {
        self.switch.remove_filters(owner);
        self.groups.remove_all(owner);
        self.owners.retain(|_, (o, _)| *o != owner);
    }

    /// The function that receives what is sent to these addresses.
    #[must_use]
    pub fn owner(&self, vlan: u16, gid: Gid, mac: Mac) -> Option<u16> {
        let (owner, own_mac) = self.owners.get(&(vlan, gid))?;
        (*own_mac == mac).then_some(*owner)
    }
}
