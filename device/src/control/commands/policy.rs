//! The rules of a function's port of the embedded switch: query-policy, set-policy.
//!
//! What a rule means is said in [`vrnic_firmware::nic::Policy`]. A change names the rules that it is
//! about; it is put together with the others on the engine's thread, so that two clients that change
//! different rules do not undo each other.

use serde::{Deserialize, Deserializer, Serialize};
use vrnic_firmware::nic::{LAST_VLAN, LinkMode, Policy, SpoofChecks, VlanMode, Vlans};
use vrnic_firmware::types::{Gid, Mac};

use super::{OneFunction, World};
use crate::control::names::Text;
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};

/// Addresses of a list: each frame may be compared with all of them.
const MAX_ADDRESSES: usize = 256;

/// VLANs of a port. 0 stands for frames without a tag.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
enum Vlan {
    /// The function sees and makes the tags.
    Trunk {
        /// Of these only; of all without a list.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlans: Option<Vec<u16>>,
    },
    /// The switch makes the tags of this one, and takes them out.
    Access {
        vlan: u16,
        #[serde(default)]
        priority: u8,
    },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Link {
    Auto,
    Enabled,
    Disabled,
}

#[derive(Debug, Serialize)]
struct Checks {
    mac: bool,
    vlan: bool,
    gid: bool,
}

/// All rules of a port.
#[derive(Debug, Serialize)]
struct Rules {
    function: u16,
    vlan: Vlan,
    check: Checks,
    macs: Vec<Text<Mac>>,
    gids: Option<Vec<Text<Gid>>>,
    trusted: bool,
    mac_assigned: bool,
    link: Link,
    max_rate: Option<u32>,
    weight: u8,
    pf_may_change: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ChecksChange {
    mac: Option<bool>,
    vlan: Option<bool>,
    gid: Option<bool>,
}

/// Arguments of set-policy: what is not there stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPolicy {
    function: u16,
    vlan: Option<Vlan>,
    #[serde(default)]
    check: ChecksChange,
    macs: Option<Vec<Text<Mac>>>,
    /// `null` is no list.
    #[serde(default, deserialize_with = "given")]
    gids: Option<Option<Vec<Text<Gid>>>>,
    trusted: Option<bool>,
    mac_assigned: Option<bool>,
    link: Option<Link>,
    /// `null` is no limit.
    #[serde(default, deserialize_with = "given")]
    max_rate: Option<Option<u32>>,
    weight: Option<u8>,
    /// The driver of the physical function may change them: not without a word, once they were set.
    #[serde(default)]
    pf_may_change: bool,
}

/// A value that is there, `null` included.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Vlan {
    fn of(mode: &VlanMode) -> Self {
        match mode {
            VlanMode::Trunk(Vlans::All) => Self::Trunk { vlans: None },
            VlanMode::Trunk(Vlans::Only(set)) => Self::Trunk {
                vlans: Some(set.iter().collect()),
            },
            VlanMode::Access { vlan, priority } => Self::Access {
                vlan: *vlan,
                priority: *priority,
            },
        }
    }

    fn mode(&self) -> VlanMode {
        match self {
            Self::Trunk { vlans: None } => VlanMode::Trunk(Vlans::All),
            Self::Trunk { vlans: Some(list) } => {
                VlanMode::Trunk(Vlans::Only(list.iter().copied().collect()))
            }
            Self::Access { vlan, priority } => VlanMode::Access {
                vlan: *vlan,
                priority: *priority,
            },
        }
    }
}

impl From<LinkMode> for Link {
    fn from(mode: LinkMode) -> Self {
        match mode {
            LinkMode::Auto => Self::Auto,
            LinkMode::Enabled => Self::Enabled,
            LinkMode::Disabled => Self::Disabled,
        }
    }
}

impl From<Link> for LinkMode {
    fn from(link: Link) -> Self {
        match link {
            Link::Auto => Self::Auto,
            Link::Enabled => Self::Enabled,
            Link::Disabled => Self::Disabled,
        }
    }
}

impl Rules {
    fn of(function: u16, policy: &Policy) -> Self {
        let gids = policy.gids.as_ref();
        Self {
            function,
            vlan: Vlan::of(&policy.vlan),
            check: Checks {
                mac: policy.checks.mac,
                vlan: policy.checks.vlan,
                gid: policy.checks.gid,
            },
            macs: policy.macs.iter().copied().map(Text).collect(),
            gids: gids.map(|list| list.iter().copied().map(Text).collect()),
            trusted: policy.trusted,
            mac_assigned: policy.mac_assigned,
            link: policy.link.into(),
            max_rate: policy.max_rate,
            weight: policy.weight,
            pf_may_change: policy.pf_may_change,
        }
    }
}

impl SetPolicy {
    /// What no policy can have, as far as the switch does not say it.
    fn check(&self) -> Result<(), Error> {
        if let Some(Vlan::Trunk { vlans: Some(list) }) = &self.vlan {
            if let Some(wrong) = list.iter().find(|vlan| **vlan > LAST_VLAN) {
                return Err(Error::generic(format!(
                    "there is no VLAN {wrong}; identifiers are 1 to {LAST_VLAN}, and 0 is untagged"
                )));
            }
        }
        let macs = self.macs.as_ref().map_or(0, Vec::len);
        let gids = self.gids.iter().flatten().map(Vec::len).sum();
        if macs.max(gids) > MAX_ADDRESSES {
            return Err(Error::generic(format!(
                "a list has at most {MAX_ADDRESSES} addresses"
            )));
        }
        Ok(())
    }

    fn apply(self, policy: &mut Policy) {
        if let Some(vlan) = self.vlan {
            policy.vlan = vlan.mode();
        }
        let SpoofChecks { mac, vlan, gid } = policy.checks;
        policy.checks = SpoofChecks {
            mac: self.check.mac.unwrap_or(mac),
            vlan: self.check.vlan.unwrap_or(vlan),
            gid: self.check.gid.unwrap_or(gid),
        };
        if let Some(list) = self.macs {
            policy.macs = list.into_iter().map(|Text(mac)| mac).collect();
        }
        if let Some(list) = self.gids {
            policy.gids = list.map(|list| list.into_iter().map(|Text(gid)| gid).collect());
        }
        policy.trusted = self.trusted.unwrap_or(policy.trusted);
        policy.mac_assigned = self.mac_assigned.unwrap_or(policy.mac_assigned);
        policy.link = self.link.map_or(policy.link, LinkMode::from);
        policy.max_rate = self.max_rate.unwrap_or(policy.max_rate);
        policy.weight = self.weight.unwrap_or(policy.weight);
        policy.pf_may_change = self.pf_may_change;
    }
}

pub(super) fn show(world: &mut World<'_>, which: &OneFunction, promise: Promise) {
    let number = which.function;
    world.ask_about(
        number,
        promise,
        |inside, id| inside.nic.policy(id).cloned(),
        move |policy| Reply::of(&Rules::of(number, &policy)),
    );
}

pub(super) fn set(world: &mut World<'_>, change: SetPolicy, promise: Promise) {
    if let Err(error) = change.check() {
        return promise.answer(Err(error));
    }
    world.ask_about(
        change.function,
        promise,
        move |inside, id| {
            let mut policy = inside.nic.policy(id)?.clone();
            change.apply(&mut policy);
            Some(inside.nic.set_policy(id, policy))
        },
        |done| {
            done.map_err(|error| Error::generic(error.to_string()))?;
            Reply::done()
        },
    );
}
