//! Quotas as people write them: `qps=64,mrs=1024,vectors=max`.
//!
//! Names are short; those of the protocol and the firmware ([`Resource::name`]) are understood, too.

use std::str::FromStr;

use vrnic_firmware::resource::{Quota, Resource};

/// Some resources, and how much of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits(Vec<(Resource, u32)>);

impl Limits {
    /// What is said about each resource.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Resource, u32)> + '_ {
        self.0.iter().copied()
    }

    /// The most of everything that is not said.
    pub(super) fn quota(&self) -> Quota {
        let mut quota = Quota::default();
        for (resource, amount) in self.iter() {
            quota.set(resource, amount);
        }
        quota
    }
}

/// What people call a resource.
pub(super) const fn short(resource: Resource) -> &'static str {
    match resource {
        Resource::QueuePairs => "qps",
        Resource::CompletionQueues => "cqs",
        Resource::SharedReceiveQueues => "srqs",
        Resource::EventQueues => "eqs",
        Resource::ProtectionDomains => "pds",
        Resource::XrcDomains => "xrcds",
        Resource::Regions => "mrs",
        Resource::Windows => "mws",
        Resource::AddressHandles => "ahs",
        Resource::Pages => "pages",
        Resource::DoorbellPages => "uars",
        Resource::Vectors => "vectors",
    }
}

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits: Vec<(Resource, u32)> = Vec::new();
        for limit in text.split(',') {
            let (name, amount) = limit
                .split_once('=')
                .ok_or_else(|| format!("'{limit}' is not a limit such as qps=64"))?;
            let resource = named(name)?;
            if limits.iter().any(|(known, _)| *known == resource) {
                return Err(format!("{name} is given twice"));
            }
            limits.push((resource, amount_of(resource, amount)?));
        }
        Ok(Self(limits))
    }
}

fn named(name: &str) -> Result<Resource, String> {
    let mut all = Resource::ALL.iter();
    let found = all.find(|resource| [short(**resource), resource.name()].contains(&name));
    found.copied().ok_or_else(|| {
        let known: Vec<_> = Resource::ALL.iter().map(|r| short(*r)).collect();
        format!("there is no resource '{name}', but {}", known.join(", "))
    })
}

fn amount_of(resource: Resource, text: &str) -> Result<u32, String> {
    let range = resource.range();
    let (least, most) = (*range.start(), *range.end());
    if text == "max" {
        return Ok(most);
    }
    let amount = text.parse().ok().filter(|amount| range.contains(amount));
    let name = short(resource);
    amount.ok_or_else(|| format!("{name} is {least} to {most}, or max, and not '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        let limits: Limits = "qps=64,regions=1024,vectors=1,uars=max".parse().unwrap();
        let expected = Quota {
            queue_pairs: 64,
            regions: 1024,
            vectors: 1,
            ..Quota::default()
        };
        assert_eq!(limits.quota(), expected);
        assert_eq!(limits.iter().count(), 4);
        assert_eq!(Limits::default().quota(), Quota::MOST);
    }

    #[test]
    fn mistakes_are_named() {
        for (wrong, words) in [
            ("", "not a limit"),
            ("qps", "'qps'"),
            ("qps=64,", "not a limit"),
            ("qp=1", "'qp', but qps, cqs"),
            ("qps=16385", "qps is 0 to 16384"),
            ("vectors=0", "vectors is 1 to 64"),
            ("mrs=-1", "mrs is 0 to"),
            ("mrs=1,regions=2", "twice"),
        ] {
            let error = wrong.parse::<Limits>().unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn short_names_are_unique() {
        for (n, resource) in Resource::ALL.iter().enumerate() {
            let others = &Resource::ALL[n + 1..];
            let twice = others.iter().any(|other| short(*other) == short(*resource));
            assert!(!twice, "{}", short(*resource));
            assert_eq!(named(short(*resource)), Ok(*resource));
            assert_eq!(named(resource.name()), Ok(*resource));
        }
    }
}
