//! Multicast groups as an operating system knows them: by address alone (InfiniBand Architecture
//! volume 1, 10.5).
//!
//! To the device a group is an address in one VLAN ([`QpControl::attach_multicast`]). A system that
//! says nothing about VLANs means those that the function has addresses in: a program whose source
//! GID belongs to a VLAN sends its packets there, and joins to hear the answers. So who joins is
//! attached in every VLAN that an entry of the GID table has at that time, and among untagged packets;
//! joining once more adds what has come since. Who left a VLAN meanwhile stays attached there until it
//! leaves the group. Each VLAN counts as a group of its own towards the device's limits.

use alloc::vec::Vec;

use crate::error::Error;
use crate::platform::{Lock, Platform};
use crate::qp::QpControl;

/// VLAN identifiers, 0 for none.
const VLANS: usize = 4096;
/// Entries of a GID table that a path can name.
const MOST_ENTRIES: u32 = 1 << 16;

/// A set of VLANs.
struct VlanSet([u64; VLANS / 64]);

impl VlanSet {
    fn insert(&mut self, vlan: u16) {
        if let Some(word) = self.0.get_mut(usize::from(vlan / 64)) {
            *word |= 1 << (vlan % 64);
        }
    }

    fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let has = |vlan: &u16| {
            let word = self.0.get(usize::from(vlan / 64));
            word.is_some_and(|word| word >> (vlan % 64) & 1 == 1)
        };
        (0..VLANS as u16).filter(has)
    }
}

/// In which VLAN each entry of the GID table is. Only [`Self::new`] allocates.
#[derive(Default)]
pub(crate) struct GidVlans(Vec<Option<u16>>);

impl GidVlans {
    /// An empty table of `entries`.
    pub(crate) fn new(entries: u32) -> Self {
        Self(alloc::vec![None; entries.min(MOST_ENTRIES) as usize])
    }

    /// Notes that an entry has an address in `vlan`, or none.
    pub(crate) fn set(&mut self, index: u32, vlan: Option<u16>) {
        if let Some(entry) = self.0.get_mut(index as usize) {
            *entry = vlan;
        }
    }

    /// Forgets all entries.
    pub(crate) fn clear(&mut self) {
        self.0.fill(None);
    }

    /// The VLANs of all entries, and untagged packets.
    fn vlans(&self) -> VlanSet {
        let mut vlans = VlanSet([0; VLANS / 64]);
        vlans.insert(0);
        self.0.iter().flatten().for_each(|vlan| vlans.insert(*vlan));
        vlans
    }
}

/// Groups by address. Sleepable context.
impl<P: Platform> QpControl<P> {
    /// Receives what is sent to the multicast GID `gid`, in network byte order, in all VLANs that the
    /// function has addresses in. It joins all of them or, if something fails, none.
    pub fn join_group(&mut self, gid: [u8; 16]) -> Result<(), Error> {
        let shared = &self.object.handle.shared;
        let vlans = shared.gid_vlans.with(|table| table.vlans());
        let before = self.groups.len();
        for vlan in vlans.iter() {
            if self.groups.contains(&(gid, vlan)) {
                continue;
            }
            if let Err(error) = self.attach_multicast(gid, vlan) {
                for (gid, vlan) in self.groups.split_off(before) {
                    // What fails here is in the device until the queue pair ends.
                    let _ = self.detach_multicast(gid, vlan);
                }
                return Err(error);
            }
            self.groups.push((gid, vlan));
        }
        Ok(())
    }

    /// No longer receives what is sent to a group that it joined, in any VLAN. It stays in those that
    /// it could not leave.
    pub fn leave_group(&mut self, gid: [u8; 16]) -> Result<(), Error> {
        let place = |groups: &[([u8; 16], u16)]| groups.iter().rposition(|group| group.0 == gid);
        if place(&self.groups).is_none() {
            // The device says what that means.
            return self.detach_multicast(gid, 0);
        }
        while let Some(place) = place(&self.groups) {
            let (_, vlan) = self.groups.swap_remove(place);
            if let Err(error) = self.detach_multicast(gid, vlan) {
                self.groups.push((gid, vlan));
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vlans_are_those_of_the_entries_and_none() {
        let vlans = |table: &GidVlans| table.vlans().iter().collect::<Vec<_>>();
        let mut table = GidVlans::new(4);
        assert_eq!(vlans(&table), [0]);
        table.set(0, Some(0));
        table.set(1, Some(4094));
        table.set(2, Some(5));
        table.set(3, Some(5));
        table.set(4, Some(6));
        assert_eq!(vlans(&table), [0, 5, 4094], "there is no entry 4");
        table.set(2, None);
        assert_eq!(vlans(&table), [0, 5, 4094]);
        table.set(3, Some(64));
        assert_eq!(vlans(&table), [0, 64, 4094]);
        table.clear();
        assert_eq!(vlans(&table), [0]);
    }
}
