//! How much a function may have: query-quota, set-quota.
//!
//! What counts, and when a number may change, is said in [`vrnic_firmware::resource::Quota`] and
//! [`vrnic_firmware::nic::Nic::set_quota`]. A change names the resources that it is about; it is put
//! together with the others on the engine's thread, so that two clients that change different ones do
//! not undo each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use vrnic_firmware::resource::{Quota, Resource};

use super::{OneFunction, World};
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};

/// An amount of every resource, by name.
struct Amounts(Quota);

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let all = Resource::ALL.iter();
        to.collect_map(all.map(|resource| (resource.name(), self.0.get(*resource))))
    }
}

#[derive(Serialize)]
struct Account {
    function: u16,
    quota: Amounts,
    in_use: Amounts,
}

/// Arguments of set-quota: what is not there stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetQuota {
    function: u16,
    quota: BTreeMap<String, u32>,
}

impl SetQuota {
    /// The resources that are named.
    fn changes(&self) -> Result<Vec<(Resource, u32)>, Error> {
        let changes = self.quota.iter().map(|(name, amount)| {
            let mut all = Resource::ALL.iter();
            let resource = all.find(|resource| resource.name() == name);
            let resource = resource.ok_or_else(|| unknown(name))?;
            Ok((*resource, *amount))
        });
        changes.collect()
    }
}

fn unknown(name: &str) -> Error {
    let known: Vec<_> = Resource::ALL.iter().map(|r| r.name()).collect();
    let known = known.join(", ");
    Error::generic(format!(
        "arguments: there is no resource `{name}`, but {known}"
    ))
}

pub(super) fn show(world: &mut World<'_>, which: &OneFunction, promise: Promise) {
    let number = which.function;
    world.ask_about(
        number,
        promise,
        |inside, id| {
            let function = inside.nic.function(id)?;
            let mut in_use = Quota::default();
            for resource in Resource::ALL {
                in_use.set(*resource, function.in_use(*resource));
            }
            Some((*function.quota(), in_use))
        },
        move |(quota, in_use)| {
            Reply::of(&Account {
                function: number,
                quota: Amounts(quota),
                in_use: Amounts(in_use),
            })
        },
    );
}

pub(super) fn set(world: &mut World<'_>, change: &SetQuota, promise: Promise) {
    let changes = match change.changes() {
        Ok(changes) => changes,
        Err(error) => return promise.answer(Err(error)),
    };
    world.ask_about(
        change.function,
        promise,
        move |inside, id| {
            let mut quota = *inside.nic.quota(id)?;
            for (resource, amount) in changes {
                quota.set(resource, amount);
            }
            Some(inside.nic.set_quota(id, quota))
        },
        |done| {
            done.map_err(|error| Error::generic(error.to_string()))?;
            Reply::done()
        },
    );
}
