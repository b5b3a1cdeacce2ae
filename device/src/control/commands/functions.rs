//! Functions: query-functions, query-function, function-reset, set-function.

use serde::{Deserialize, Serialize};
use vrnic_firmware::frontend::{Fault, Function as State};
use vrnic_firmware::nic::FunctionId;
use vrnic_firmware::types::Mac;

use super::objects::{Counts, count};
use super::{OneFunction, World};
use crate::control::names::{self, Text};
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};

/// Arguments of set-function.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetFunction {
    function: u16,
    enabled: bool,
}

/// What the engine knows about a function.
#[derive(Clone, Copy, Debug, Serialize)]
struct Facts {
    function: u16,
    /// 0 is a physical function, n its nth virtual function.
    number: u16,
    mac: Text<Mac>,
    mtu: u32,
    state: &'static str,
    enabled: bool,
    resets: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<FaultFacts>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct FaultFacts {
    #[serde(serialize_with = "health")]
    health: u32,
    object: u32,
    address: u64,
}

fn health<S: serde::Serializer>(code: &u32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&names::health(*code))
}

impl Facts {
    fn of(id: FunctionId, state: &State) -> Self {
        let fault = |fault: Fault| FaultFacts {
            health: fault.code.raw().into(),
            object: fault.object,
            address: fault.address,
        };
        Self {
            function: id.index(),
            number: state.identity.number,
            mac: Text(state.identity.mac),
            mtu: state.mtu,
            state: names::device_state(state.registers.state()),
            enabled: state.registers.is_allowed(),
            resets: state.registers.resets(),
            fault: state.registers.fault().map(fault),
        }
    }
}

/// What the control thread knows about a function.
#[derive(Debug, Serialize)]
struct Served {
    socket: String,
    client: bool,
}

impl Served {
    fn of(world: &World<'_>, number: u16) -> Option<Self> {
        let station = world.roster.get(number)?;
        let device = world.server.device(station.socket);
        Some(Self {
            // JSON has text only; a path that is none is shown as well as possible.
            socket: station.path.to_string_lossy().into_owned(),
            client: device.is_some_and(|function| function.attachment().attached),
        })
    }
}

#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    facts: Facts,
    #[serde(flatten)]
    served: Served,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Counts>,
}

pub(super) fn list(world: &mut World<'_>, promise: Promise) {
    let numbers = world.roster.iter().map(|station| station.id);
    let known = numbers.filter_map(|id| Some((id, Served::of(world, id.index())?)));
    let known: Vec<_> = known.collect();
    let ids: Vec<_> = known.iter().map(|(id, _)| *id).collect();
    promise.ask(
        world.engine,
        move |inside| -> Vec<_> {
            let state = |id: FunctionId| Some(Facts::of(id, inside.nic.function(id)?));
            ids.into_iter().map(state).collect()
        },
        move |found| {
            let both = known.into_iter().zip(found);
            let described = both.filter_map(|((_, served), facts)| {
                Some(Described {
                    facts: facts?,
                    served,
                    objects: None,
                })
            });
            Reply::of(&described.collect::<Vec<_>>())
        },
    );
}

pub(super) fn show(world: &mut World<'_>, which: &OneFunction, promise: Promise) {
    let number = which.function;
    let Some(served) = Served::of(world, number) else {
        return promise.answer(Err(Error::no_function(number)));
    };
    world.ask_about(
        number,
        promise,
        |inside, id| {
            let state = inside.nic.function(id)?;
            Some((Facts::of(id, state), count(state)))
        },
        move |(facts, objects)| {
            Reply::of(&Described {
                facts,
                served,
                objects: Some(objects),
            })
        },
    );
}

pub(super) fn reset(world: &mut World<'_>, which: &OneFunction, promise: Promise) {
    let device = match world.device(which.function) {
        Ok(device) => device,
        Err(error) => return promise.answer(Err(error)),
    };
    if device.is_busy() {
        let desc = "too many requests of the function wait for the engine; try again";
        return promise.answer(Err(Error::generic(desc)));
    }
    device.reset_by_operator(move || promise.answer(Reply::done()));
}

pub(super) fn set(world: &mut World<'_>, change: &SetFunction, promise: Promise) {
    let (number, enabled) = (change.function, change.enabled);
    let device = match world.device(number) {
        Ok(device) => device,
        Err(error) => return promise.answer(Err(error)),
    };
    if enabled {
        device.prepare_enabling();
    }
    let id = device.id();
    let what = if enabled { "into" } else { "out of" };
    log::info!("function {number}: put {what} service by the operator");
    promise.ask(
        world.engine,
        move |inside| inside.nic.set_enabled(id, enabled),
        move |found| match found {
            true => Reply::done(),
            false => Err(Error::no_function(number)),
        },
    );
}
