//! The table of the embedded switch: query-stations, add-station, remove-station.
//!
//! A station is an address in a VLAN of the network, 0 for frames without a tag. Those that were seen
//! are asked for in pages of [`PAGE`], so that the engine is never held up for longer than a page takes;
//! functions' own addresses are not in the table, as query-functions says them.

use serde::{Deserialize, Serialize};
use vrnic_firmware::nic::{LAST_VLAN, PortName, Station};
use vrnic_firmware::types::{Mac, Time};

use super::World;
use crate::control::names::Text;
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};

/// Stations that one answer has.
const PAGE: usize = 256;

/// A port of the switch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Port {
    /// That of the function with this number.
    Function(u16),
    /// The link.
    Link,
}

/// What names a station.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Name {
    mac: Text<Mac>,
    #[serde(default)]
    vlan: u16,
}

/// Arguments of query-stations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryStations {
    /// `next` of the page before.
    from: Option<Name>,
}

/// Arguments of add-station.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddStation {
    mac: Text<Mac>,
    #[serde(default)]
    vlan: u16,
    port: Port,
}

#[derive(Debug, Serialize)]
struct Shown {
    mac: Text<Mac>,
    vlan: u16,
    port: Port,
    #[serde(rename = "static")]
    fixed: bool,
    /// Seconds since it was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
}

/// A page of stations.
#[derive(Debug, Serialize)]
struct Page {
    stations: Vec<Shown>,
    /// Where the next page begins, if this is not the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Name>,
}

impl Shown {
    fn of(station: &Station, now: Time) -> Self {
        let age = |seen: Time| now.0.saturating_sub(seen.0) / 1_000_000_000;
        Self {
            mac: Text(station.mac),
            vlan: station.vlan,
            port: match station.port {
                PortName::Function(id) => Port::Function(id.index()),
                PortName::Link => Port::Link,
            },
            fixed: station.seen.is_none(),
            age: station.seen.map(age),
        }
    }
}

/// That a VLAN can exist.
fn check(vlan: u16) -> Result<(), Error> {
    if vlan > LAST_VLAN {
        return Err(Error::generic(format!(
            "there is no VLAN {vlan}; identifiers are 1 to {LAST_VLAN}, and 0 is untagged"
        )));
    }
    Ok(())
}

/// What the switch calls a port.
fn named(world: &World<'_>, port: Port) -> Result<PortName, Error> {
    match port {
        Port::Link => Ok(PortName::Link),
        Port::Function(number) => world.function(number).map(PortName::Function),
    }
}

pub(super) fn list(world: &mut World<'_>, query: &QueryStations, promise: Promise) {
    let from = query
        .from
        .map_or((Mac::default(), 0), |from| (from.mac.0, from.vlan));
    promise.ask(
        world.engine,
        move |inside| {
            let now = inside.now();
            let mut stations = inside.nic.stations(now, from);
            let page: Vec<_> = stations.by_ref().take(PAGE).collect();
            (now, page, stations.next())
        },
        |(now, page, next)| {
            Reply::of(&Page {
                stations: page.iter().map(|station| Shown::of(station, now)).collect(),
                next: next.map(|station| Name {
                    mac: Text(station.mac),
                    vlan: station.vlan,
                }),
            })
        },
    );
}

pub(super) fn add(world: &mut World<'_>, station: &AddStation, promise: Promise) {
    let port = check(station.vlan).and_then(|()| named(world, station.port));
    let port = match port {
        Ok(port) => port,
        Err(error) => return promise.answer(Err(error)),
    };
    let (vlan, Text(mac)) = (station.vlan, station.mac);
    promise.ask(
        world.engine,
        move |inside| inside.nic.add_station(vlan, mac, port),
        |done| {
            done.map_err(|refused| Error::generic(refused.to_string()))?;
            Reply::done()
        },
    );
}

pub(super) fn remove(world: &mut World<'_>, station: Name, promise: Promise) {
    let Name { vlan, mac } = station;
    promise.ask(
        world.engine,
        move |inside| inside.nic.remove_station(vlan, mac.0),
        |done| match done {
            true => Reply::done(),
            false => Err(Error::generic("there is no such static station")),
        },
    );
}
