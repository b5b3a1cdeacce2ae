//! Members of multicast groups, of all functions (IBTA volume 1, 10.5.2).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::resource::Group;

/// Who is attached to which group.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Functions and queue pairs, sorted.
    members: BTreeMap<Group, Vec<(u16, u32)>>,
}

impl Groups {
    /// Attaches queue pair `qpn` of function `owner`, once.
    pub fn attach(&mut self, group: Group, owner: u16, qpn: u32) {
        let members = self.members.entry(group).or_default();
        if let Err(place) = members.binary_search(&(owner, qpn)) {
            members.insert(place, (owner, qpn));
        }
    }

    /// Detaches queue pair `qpn` of function `owner`.
    pub fn detach(&mut self, group: Group, owner: u16, qpn: u32) {
        self.keep(group, |member| member != (owner, qpn));
    }

    /// Detaches all queue pairs of function `owner`.
    pub fn remove_all(&mut self, owner: u16) {
        self.members.retain(|_, members| {
            members.retain(|(function, _)| *function != owner);
            !members.is_empty()
        });
    }

    /// The members of a group.
    #[must_use]
    pub fn members(&self, group: Group) -> &[(u16, u32)] {
        self.members.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Whether a queue pair of function `owner` is a member of a group.
    #[must_use]
    pub fn has_member_of(&self, group: Group, owner: u16) -> bool {
        let members = self.members(group).iter();
        members.copied().any(|(function, _)| function == owner)
    }

    /// Whether there is no member of any group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn keep(&mut self, group: Group, wanted: impl Fn((u16, u32)) -> bool) {
        if let Some(members) = self.members.get_mut(&group) {
            members.retain(|member| wanted(*member));
            if members.is_empty() {
                self.members.remove(&group);
            }
        }
    }
}
