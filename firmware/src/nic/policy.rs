//! What the operator allows a function: the rules of its port of the embedded switch.
//!
//! A [`Policy`] is plain data that the operator sets ([`super::Nic::set_policy`]), and as far as he
//! lets it the driver of the physical function, and that the function itself never sees; it survives
//! resets of the function. Here is what each rule means for one address or one VLAN; `ports` keeps
//! the policies of all functions, `admission` and `route` apply them to frames and PDUs.
//!
//! VLANs have two names: that of the network, and that which a function sees. They are the same on
//! a trunk port; behind an access port (IEEE 802.1Q, 6.9 and 8.6.2) there is one VLAN, and the
//! function sees its frames without a tag. 0 stands for frames without a tag.
//!
//! The default allows everything, as if there were no rules.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::types::{Gid, Mac};

/// Largest VLAN identifier (IEEE 802.1Q, 9.6).
pub const LAST_VLAN: u16 = 4094;

/// The rules of a function's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// VLANs that the function is in.
    pub vlan: VlanMode,
    /// Which of what the function says of itself is checked.
    pub checks: SpoofChecks,
    /// Addresses that it may send from besides its own, with [`SpoofChecks::mac`]. No function that
    /// does not list one of them, too, has it.
    pub macs: Vec<Mac>,
    /// Addresses that RoCEv2 packets may come from, with [`SpoofChecks::gid`]; without a list, a GID
    /// belongs to the first function that sets it. As with addresses, a list keeps others off, and takes
    /// it from who has it.
    pub gids: Option<Vec<Gid>>,
    /// It may see what is not for it, and take further addresses, also for its GIDs. Without trust, a
    /// GID can have an address that the function has a filter for, and promiscuous and
    /// all-multicast filters are accepted but take only what the switch sends to the function
    /// anyway, as with mlx5 and ixgbe, so that they work as soon as trust comes, and there is room
    /// for [`UNTRUSTED_ADDRESSES`] further addresses; filters for more, set with trust, wait for it, too.
    pub trusted: bool,
    /// The function's address was chosen for it: without trust it takes no other.
    pub mac_assigned: bool,
    /// Whether the function sees a link.
    pub link: LinkMode,
    /// How fast the function may send, in Mbit/s: all that leaves its port, requests, responses and
    /// raw Ethernet frames, to the link and to neighbours, as Ethernet frames without their frame
    /// check sequences; on the direct path what these frames would have been. Not 0.
    pub max_rate: Option<u32>,
    /// The function's part, among those of all functions that have something to send, of the link
    /// and of the engine's time. Not 0.
    pub weight: u8,
    /// The driver of the physical function may change these rules, as far as it knows them
    /// ([`super::VfChange`]), and the function's address.
    pub pf_may_change: bool,
}

/// Further unicast addresses that a function without trust can have filters for.
pub const UNTRUSTED_ADDRESSES: usize = 16;

/// The weight of a function for which the operator has chosen none: others can have less or more.
pub const DEFAULT_WEIGHT: u8 = 10;

impl Default for Policy {
    fn default() -> Self {
        Self {
            vlan: VlanMode::Trunk(Vlans::All),
            checks: SpoofChecks::default(),
            macs: Vec::new(),
            gids: None,
            trusted: true,
            mac_assigned: false,
            link: LinkMode::Auto,
            max_rate: None,
            weight: DEFAULT_WEIGHT,
            pf_may_change: true,
        }
    }
}

impl Policy {
    /// Whether the function, whose own address is `own`, may use an address: send from it, receive
    /// at it, give it to a GID.
    #[must_use]
    pub fn allows_mac(&self, own: Mac, mac: Mac) -> bool {
        let free = !self.checks.mac && (self.trusted || !self.mac_assigned);
        mac == own || free || self.macs.contains(&mac)
    }

    /// Whether addresses behind the function may be learned by sight, not only those that are
    /// listed.
    #[must_use]
    pub fn allows_learning(&self, mac: Mac) -> bool {
        self.trusted && !self.checks.mac || self.macs.contains(&mac)
    }

    /// Whether the list of GIDs, if there is one, has a GID.
    #[must_use]
    pub fn allows_gid(&self, gid: Gid) -> bool {
        let list = self.gids.as_ref().filter(|_| self.checks.gid);
        list.is_none_or(|list| list.contains(&gid))
    }

    /// Whether there is a list of GIDs that has a GID: it is the function's, whatever is checked.
    #[must_use]
    pub fn lists_gid(&self, gid: Gid) -> bool {
        self.gids.as_ref().is_some_and(|list| list.contains(&gid))
    }

    /// Checks what no function can have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if let VlanMode::Access { vlan, priority } = self.vlan {
            if !(1..=LAST_VLAN).contains(&vlan) {
                return Err(PolicyError::Vlan);
            }
            if priority > 7 {
                return Err(PolicyError::Priority);
            }
        }
        if self.macs.iter().any(|mac| mac.is_group()) {
            return Err(PolicyError::Mac);
        }
        if self.max_rate == Some(0) {
            return Err(PolicyError::MaxRate);
        }
        if self.weight == 0 {
            return Err(PolicyError::Weight);
        }
        Ok(())
    }
}

/// What is wrong with a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// There is no such function.
    Function,
    /// The VLAN of an access port is none of 1 to 4094.
    Vlan,
    /// The priority of an access port is none of 0 to 7.
    Priority,
    /// An allowed address is that of a group.
    Mac,
    /// The maximal rate is 0.
    MaxRate,
    /// The weight is 0.
    Weight,
}

impl core::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Function => "there is no such function",
            Self::Vlan => "a VLAN identifier is 1 to 4094",
            Self::Priority => "a priority is 0 to 7",
            Self::Mac => "an allowed address is that of a group",
            Self::MaxRate => "a maximal rate is at least 1 Mbit/s; without one there is no limit",
            Self::Weight => "a weight is 1 to 255",
        })
    }
}

impl core::error::Error for PolicyError {}

/// VLANs that a port is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// These; the function sees and makes the tags.
    Trunk(Vlans),
    /// One, whose tag the switch puts into what the function sends, RoCEv2 packets included, and
    /// takes out of what goes to it.
    Access {
        /// VLAN identifier, 1 to 4094.
        vlan: u16,
        /// Priority of its frames, 0 to 7.
        priority: u8,
    },
}

impl VlanMode {
    /// The VLAN of the network into which the function sends from `vlan`, if it is in it.
    #[must_use]
    pub fn outward(&self, vlan: u16) -> Option<u16> {
        match self {
            Self::Trunk(vlans) => vlans.contains(vlan).then_some(vlan),
            Self::Access { vlan: network, .. } => (vlan == 0).then_some(*network),
        }
    }

    /// What the function calls a VLAN of the network, if it is in it.
    #[must_use]
    pub fn inward(&self, vlan: u16) -> Option<u16> {
        match self {
            Self::Trunk(vlans) => vlans.contains(vlan).then_some(vlan),
            Self::Access { vlan: network, .. } => (vlan == *network).then_some(0),
        }
    }

    /// Whether there is a VLAN that the port is not in.
    #[must_use]
    pub const fn is_restricted(&self) -> bool {
        !matches!(self, Self::Trunk(Vlans::All))
    }

    /// Whether the switch makes the tags.
    #[must_use]
    pub const fn is_access(&self) -> bool {
        matches!(self, Self::Access { .. })
    }
}

/// VLANs of a trunk port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// All, and frames without a tag.
    All,
    /// These.
    Only(VlanSet),
}

impl Vlans {
    /// Whether frames of a VLAN are among them.
    #[must_use]
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(set) => set.contains(vlan),
        }
    }
}

/// A set of VLAN identifiers, 0 for frames without a tag. Others than 0 to 4094 are never in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// Whether a VLAN is in the set.
    #[must_use]
    pub fn contains(&self, vlan: u16) -> bool {
        let word = self.0.get(usize::from(vlan / 64));
        word.is_some_and(|word| word >> (vlan % 64) & 1 == 1)
    }

    /// The VLANs in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=LAST_VLAN).filter(|vlan| self.contains(*vlan))
    }
}

impl FromIterator<u16> for VlanSet {
    fn from_iter<I: IntoIterator<Item = u16>>(vlans: I) -> Self {
        let mut words = Box::new([0; 64]);
        for vlan in vlans.into_iter().filter(|vlan| *vlan <= LAST_VLAN) {
            if let Some(word) = words.get_mut(usize::from(vlan / 64)) {
                *word |= 1 << (vlan % 64);
            }
        }
        Self(words)
    }
}

/// What is checked of what a function sends and asks for; what fails is dropped and counted, or
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoofChecks {
    /// Ethernet addresses: its own and those of [`Policy::macs`].
    pub mac: bool,
    /// VLANs of frames: those of the port. Where these are not all, a second tag is dropped too, and
    /// on an access port any, as the next switch may look at it.
    pub vlan: bool,
    /// Sources of RoCEv2 packets in frames of raw packet queues: GIDs of the function, or those of
    /// [`Policy::gids`], which bind its GID table too. No other IP packet may come from a GID that is
    /// in the list of another function and not in its own; that one has set it is not enough.
    pub gid: bool,
}

impl Default for SpoofChecks {
    /// VLANs are checked where a port is not in all of them, addresses are not.
    fn default() -> Self {
        Self {
            mac: false,
            vlan: true,
            gid: false,
        }
    }
}

/// Whether a function sees a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkMode {
    /// As the port does.
    #[default]
    Auto,
    /// Always: it can talk to the other functions even if the port's link is down.
    Enabled,
    /// Never: what it sends is lost, and nothing reaches it.
    Disabled,
}

impl LinkMode {
    /// Whether the function sees a link if the port's is `up`.
    #[must_use]
    pub const fn is_up(self, up: bool) -> bool {
        match self {
            Self::Auto => up,
            Self::Enabled => true,
            Self::Disabled => false,
        }
    }
}

/// The rules of the link's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkPolicy {
    /// What comes from the link and has the source of a function is dropped, as it is forged or has
    /// been sent back: a function's own Ethernet address, or one of [`Policy::macs`] or
    /// [`Policy::gids`] that it uses; of packets for a connection, the source of any peer on this NIC.
    pub check_sources: bool,
}

impl Default for UplinkPolicy {
    fn default() -> Self {
        Self {
            check_sources: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const LISTED: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 3]);

    #[test]
    fn vlans_are_called_what_each_side_calls_them() {
        let all = VlanMode::Trunk(Vlans::All);
        let some = VlanMode::Trunk(Vlans::Only([0, 63, 64, 4094, 4095].into_iter().collect()));
        let access = VlanMode::Access {
            vlan: 64,
            priority: 3,
        };
        let outward = |mode: &VlanMode| [0, 63, 64, 65, 4094, 4095].map(|vlan| mode.outward(vlan));
        let inward = |mode: &VlanMode| [0, 63, 64, 65, 4094, 4095].map(|vlan| mode.inward(vlan));
        let same = [0, 63, 64, 65, 4094, 4095].map(Some);
        assert_eq!((outward(&all), inward(&all)), (same, same));
        let four = [Some(0), Some(63), Some(64), None, Some(4094), None];
        assert_eq!((outward(&some), inward(&some)), (four, four));
        assert_eq!(outward(&access), [Some(64), None, None, None, None, None]);
        assert_eq!(inward(&access), [None, None, Some(0), None, None, None]);
    }

    #[test]
    fn addresses_are_allowed_by_list_trust_and_checks() {
        let allowed = |policy: &Policy| [OWN, LISTED, OTHER].map(|mac| policy.allows_mac(OWN, mac));
        let mut policy = Policy {
            macs: alloc::vec![LISTED],
            ..Policy::default()
        };
        assert_eq!(allowed(&policy), [true; 3]);
        policy.trusted = false;
        assert_eq!(allowed(&policy), [true; 3]);
        policy.mac_assigned = true;
        assert_eq!(allowed(&policy), [true, true, false]);
        policy.trusted = true;
        assert_eq!(allowed(&policy), [true; 3]);
        policy.checks.mac = true;
        assert_eq!(allowed(&policy), [true, true, false]);
        assert!(policy.allows_learning(LISTED) && !policy.allows_learning(OTHER));
    }

    #[test]
    fn what_no_function_can_have_is_refused() {
        let with = |vlan, priority| Policy {
            vlan: VlanMode::Access { vlan, priority },
            ..Policy::default()
        };
        assert_eq!(with(1, 7).validate(), Ok(()));
        assert_eq!(with(4094, 0).validate(), Ok(()));
        assert_eq!(with(0, 0).validate(), Err(PolicyError::Vlan));
        assert_eq!(with(4095, 0).validate(), Err(PolicyError::Vlan));
        assert_eq!(with(1, 8).validate(), Err(PolicyError::Priority));
        let group = Policy {
            macs: alloc::vec![Mac::BROADCAST],
            ..Policy::default()
        };
        assert_eq!(group.validate(), Err(PolicyError::Mac));
        let sends = |max_rate, weight| Policy {
            max_rate,
            weight,
            ..Policy::default()
        };
        assert_eq!(sends(Some(1), 1).validate(), Ok(()));
        assert_eq!(sends(Some(u32::MAX), 255).validate(), Ok(()));
        assert_eq!(sends(Some(0), 1).validate(), Err(PolicyError::MaxRate));
        assert_eq!(sends(None, 0).validate(), Err(PolicyError::Weight));
    }
}
