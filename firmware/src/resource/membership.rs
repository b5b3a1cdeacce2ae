//! Multicast groups that a function's queue pairs are attached to (IBTA volume 1, 10.5.2).
//!
//! A group is named by its GID and the VLAN of its packets. Which queue pairs a packet goes to is
//! looked up in [`crate::nic::Groups`], for all functions together; this is what one function has
//! asked for, and its bounds.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::limits;
use crate::types::Gid;

/// A multicast group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// VLAN of its packets, or 0.
    pub vlan: u16,
    /// Its address.
    pub gid: Gid,
}

/// What queue pairs of a function are attached to.
#[derive(Clone, Debug, Default)]
pub struct Memberships(BTreeSet<(Group, u32)>);

impl Memberships {
    /// Attaches a queue pair, once; `false` if there are too many attachments, or groups, or members
    /// of the group.
    #[must_use]
    pub fn attach(&mut self, group: Group, qpn: u32) -> bool {
        if self.0.contains(&(group, qpn)) {
            return true;
        }
        let members = self.0.range((group, 0)..=(group, u32::MAX)).count();
        let room = self.0.len() < limits::MULTICAST_ATTACHMENTS
            && members < limits::GROUP_MEMBERS
            && (members > 0 || self.groups() < limits::MULTICAST_GROUPS);
        room && self.0.insert((group, qpn))
    }

    /// Number of attachments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All attachments, in the order of the groups.
    pub fn iter(&self) -> impl Iterator<Item = (Group, u32)> {
        self.0.iter().copied()
    }

    fn groups(&self) -> usize {
        let mut last = None;
        let first_ones = self.0.iter().filter(|(group, _)| {
            let first = last != Some(*group);
            last = Some(*group);
            first
        });
        first_ones.count()
    }

    /// Detaches a queue pair; `false` if it is not attached.
    #[must_use]
    pub fn detach(&mut self, group: Group, qpn: u32) -> bool {
        self.0.remove(&(group, qpn))
    }

    /// Detaches a queue pair from everything, and returns what that was.
    pub fn remove_of(&mut self, qpn: u32) -> Vec<Group> {
        let of_it = self.0.iter().filter(|(_, member)| *member == qpn);
        let removed: Vec<Group> = of_it.map(|(group, _)| *group).collect();
        for group in &removed {
            self.0.remove(&(*group, qpn));
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u16) -> Group {
        let [high, low] = n.to_be_bytes();
        Group {
            vlan: 0,
            gid: Gid::from_v4([224, 0, high, low]),
        }
    }

    #[test]
    fn groups_members_and_attachments_are_bounded() {
        let mut memberships = Memberships::default();
        for qpn in 0..limits::GROUP_MEMBERS as u32 {
            assert!(memberships.attach(group(0), qpn));
        }
        assert!(!memberships.attach(group(0), 1000));
        assert!(memberships.attach(group(0), 1), "once is enough");
        for n in 1..limits::MULTICAST_GROUPS as u16 {
            assert!(memberships.attach(group(n), 1));
        }
        assert!(!memberships.attach(group(9999), 1));
        let mut attached = limits::GROUP_MEMBERS + limits::MULTICAST_GROUPS - 1;
        'fill: for n in 1..limits::MULTICAST_GROUPS as u16 {
            for qpn in 2..limits::GROUP_MEMBERS as u32 {
                if !memberships.attach(group(n), qpn) {
                    break 'fill;
                }
                attached += 1;
            }
        }
        assert_eq!(attached, limits::MULTICAST_ATTACHMENTS);
        assert_eq!(memberships.remove_of(1).len(), limits::MULTICAST_GROUPS);
        assert!(!memberships.detach(group(3), 1));
        assert!(memberships.attach(group(9999), 1));
    }
}
