//! Arguments of `vrnic ctl policy`: rules as people write them, and as the protocol does.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vrnic_firmware::nic::LAST_VLAN;

/// A function, and what changes.
#[derive(Args, Debug)]
pub(super) struct PolicyArguments {
    /// The function's number.
    function: u16,
    /// VLANs it is in: all; a list such as 0,5,7-9, whose tags it sees and makes, 0 for frames
    /// without; or access:VLAN or access:VLAN:PRIORITY, whose tag the switch makes and takes out.
    #[arg(long, value_parser = vlan)]
    vlan: Option<Value>,
    /// What is checked of what it sends: none, or of mac, vlan, gid.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CHECK,…")]
    check: Option<Vec<Check>>,
    /// Ethernet addresses besides its own that it may use: none, or a list.
    #[arg(long, value_parser = list, value_name = "MAC,…")]
    macs: Option<Value>,
    /// IP addresses that RoCEv2 packets may come from, with --check gid: any, none, or a list.
    #[arg(long, value_parser = any_or_list, value_name = "IP,…")]
    gids: Option<Value>,
    /// Whether it may see what is not for it, and take further addresses.
    #[arg(long, value_enum)]
    trust: Option<OnOff>,
    /// Whether its address is the operator's choice: without trust it takes no other.
    #[arg(long, value_enum)]
    mac_assigned: Option<OnOff>,
    /// Whether it sees a link: as the port does, always, or never.
    #[arg(long, value_enum)]
    link: Option<Link>,
    /// How fast it may send, Ethernet and RDMA, requests and responses together: none, or Mbit/s.
    #[arg(long, value_parser = rate, value_name = "MBIT/S")]
    max_rate: Option<Value>,
    /// Its part of the link and of the engine's time while others want them too: 1 to 255, 10
    /// unless something else was set.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    weight: Option<u8>,
    /// Whether the driver of the physical function may change these rules: not, unless this says so,
    /// once any of them was set here.
    #[arg(long, value_enum)]
    pf_may_change: Option<OnOff>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Nothing.
    None,
    /// Ethernet addresses.
    Mac,
    /// VLANs.
    Vlan,
    /// Sources of RoCEv2 packets.
    Gid,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Link {
    Auto,
    Enabled,
    Disabled,
}

impl PolicyArguments {
    /// Arguments of query-policy.
    pub(super) fn which(&self) -> Value {
        json!({"function": self.function})
    }

    /// Arguments of set-policy, if anything changes.
    pub(super) fn change(&self) -> Option<Value> {
        let on = |given: Option<OnOff>| given.map(|given| Value::from(matches!(given, OnOff::On)));
        let check = self.check.as_ref().map(|checks| {
            let has = |check| checks.contains(&check);
            json!({"mac": has(Check::Mac), "vlan": has(Check::Vlan), "gid": has(Check::Gid)})
        });
        let link = self.link.map(|link| match link {
            Link::Auto => Value::from("auto"),
            Link::Enabled => Value::from("enabled"),
            Link::Disabled => Value::from("disabled"),
        });
        let rules = [
            ("vlan", self.vlan.clone()),
            ("check", check),
            ("macs", self.macs.clone()),
            ("gids", self.gids.clone()),
            ("trusted", on(self.trust)),
            ("mac_assigned", on(self.mac_assigned)),
            ("link", link),
            ("max_rate", self.max_rate.clone()),
            ("weight", self.weight.map(Value::from)),
            ("pf_may_change", on(self.pf_may_change)),
        ];
        let mut change = self.which();
        let object = change.as_object_mut()?;
        for (name, value) in rules {
            object.extend(value.map(|value| (name.to_owned(), value)));
        }
        (object.len() > 1).then_some(change)
    }
}

/// A list that may be empty.
fn list(text: &str) -> Result<Value, String> {
    Ok(match text {
        "none" => json!([]),
        list => list.split(',').collect(),
    })
}

fn any_or_list(text: &str) -> Result<Value, String> {
    match text {
        "any" => Ok(Value::Null),
        other => list(other),
    }
}

fn rate(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let rate = text.parse::<u32>().ok().filter(|rate| *rate > 0);
    let wrong = || format!("'{text}' is neither none nor a number of Mbit/s");
    rate.map(Value::from).ok_or_else(wrong)
}

fn vlan(text: &str) -> Result<Value, String> {
    let identifier = |text: &str| {
        let number = text.parse::<u16>().ok();
        let number = number.filter(|number| *number <= LAST_VLAN);
        number.ok_or_else(|| format!("'{text}' is none of 0 to {LAST_VLAN}"))
    };
    if text == "all" {
        return Ok(json!({"mode": "trunk"}));
    }
    if let Some(access) = text.strip_prefix("access:") {
        let (vlan, priority) = access.split_once(':').unwrap_or((access, "0"));
        let priority = priority.parse::<u8>();
        let priority = priority.map_err(|_| "a priority is 0 to 7".to_owned())?;
        return Ok(json!({"mode": "access", "vlan": identifier(vlan)?, "priority": priority}));
    }
    let mut vlans = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        vlans.extend(identifier(first)?..=identifier(last)?);
    }
    Ok(json!({"mode": "trunk", "vlans": vlans}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_read_as_people_write_them() {
        assert_eq!(vlan("all"), Ok(json!({"mode": "trunk"})));
        let some = json!({"mode": "trunk", "vlans": [0, 5, 7, 8, 9]});
        assert_eq!(vlan("0,5,7-9"), Ok(some));
        let access = json!({"mode": "access", "vlan": 5, "priority": 3});
        assert_eq!(vlan("access:5:3"), Ok(access));
        for wrong in [
            "",
            "x",
            "4095",
            "1,",
            "1-x",
            "access",
            "access:",
            "access:1:x",
        ] {
            assert!(vlan(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_a_number_or_none() {
        assert_eq!(rate("none"), Ok(Value::Null));
        assert_eq!(rate("25000"), Ok(json!(25_000)));
        for wrong in ["", "0", "-1", "1.5", "4294967296", "1g"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_can_be_empty_or_absent() {
        assert_eq!(list("none"), Ok(json!([])));
        assert_eq!(list("a,b"), Ok(json!(["a", "b"])));
        assert_eq!(any_or_list("any"), Ok(Value::Null));
        assert_eq!(any_or_list("none"), Ok(json!([])));
    }
}
