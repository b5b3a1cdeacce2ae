//! Virtual functions that come and go: add-vf, remove-vf.
//!
//! Only this thread acts, and sends the engine what follows, so a command never waits for the engine,
//! which may be waiting for a client that this thread serves. The answer comes when the engine has come
//! so far.

use serde::{Deserialize, Serialize};
use vrnic_firmware::types::Mac;
use vrnic_vfio_user::Listener;

use super::World;
use crate::control::events::Event;
use crate::control::names::Text;
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};
use crate::slots::{Planned, Slots};

/// Arguments of add-vf.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddVf {
    /// Which, counted from 0; the first that is not served if none is given.
    vf: Option<u16>,
    mac: Option<Text<Mac>>,
}

/// Arguments of remove-vf.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveVf {
    vf: u16,
}

/// A function that was added.
#[derive(Debug, Serialize)]
struct Added {
    function: u16,
    number: u16,
    mac: Text<Mac>,
    socket: String,
}

pub(super) fn add(world: &mut World<'_>, which: &AddVf, promise: Promise) {
    let planned = match plan(world, which) {
        Ok(planned) => planned,
        Err(error) => return promise.answer(Err(error)),
    };
    let added = Added {
        function: planned.id.index(),
        number: planned.number,
        mac: Text(planned.mac),
        socket: planned.socket.to_string_lossy().into_owned(),
    };
    match serve(world, planned) {
        Err(error) => promise.answer(Err(error)),
        Ok(()) => promise.ask(world.engine, |_| (), move |()| Reply::of(&added)),
    }
}

/// The slots, or why there are none.
fn slots<'a>(world: &World<'a>) -> Result<&'a Slots, Error> {
    world.slots.ok_or_else(|| {
        let desc = "this vrnic serves single functions (--socket); start it with --vfs instead, \
                    0 is enough, and --max-vfs";
        Error::generic(desc)
    })
}

/// What is to be served.
fn plan(world: &World<'_>, which: &AddVf) -> Result<Planned, Error> {
    let slots = slots(world)?;
    let is_served = |planned: &Planned| world.roster.get(planned.id.index()).is_some();
    let mut planned = if let Some(vf) = which.vf {
        let planned = slots.virtual_function(vf);
        planned.ok_or_else(|| too_many(slots.count()))?
    } else {
        let mut all = (0..slots.count()).filter_map(|vf| slots.virtual_function(vf));
        let free = all.find(|planned| !is_served(planned));
        free.ok_or_else(|| too_many(slots.count()))?
    };
    if is_served(&planned) {
        let desc = format!("{} is served already", planned.name);
        return Err(Error::generic(desc));
    }
    if let Some(Text(mac)) = which.mac {
        planned.mac = mac;
    }
    check_mac(world, planned.mac)?;
    Ok(planned)
}

fn too_many(count: u16) -> Error {
    Error::generic(format!(
        "there can be {count} virtual functions here, and no more; --max-vfs says how many"
    ))
}

/// An address that a function can have, and none has been given.
fn check_mac(world: &World<'_>, mac: Mac) -> Result<(), Error> {
    let text = Text(mac);
    if mac.is_group() || mac == Mac([0; 6]) {
        return Err(Error::generic(format!(
            "mac: {text} is a group or zero address; a function needs its own"
        )));
    }
    let mut stations = world.roster.iter();
    match stations.find(|station| station.mac == mac) {
        None => Ok(()),
        Some(station) => Err(Error::generic(format!(
            "mac: {text} is the address of function {}; give another one",
            station.id.index()
        ))),
    }
}

fn serve(world: &mut World<'_>, planned: Planned) -> Result<(), Error> {
    let listener = Listener::bind(&planned.socket);
    let listener = listener.map_err(|error| Error::generic(error.to_string()))?;
    let failed = |error: std::io::Error| Error::generic(format!("{}: {error}", planned.name));
    let function = slots(world)?.make(world.engine, &planned).map_err(failed)?;
    let socket = world.server.add(listener, function).map_err(failed)?;
    log::info!("{}: served from now on", planned.name);
    world.roster.add(planned, socket);
    Ok(())
}

pub(super) fn remove(
    world: &mut World<'_>,
    which: &RemoveVf,
    promise: Promise,
    tell: &mut dyn FnMut(&Event<'_>),
) {
    let planned = match slots(world) {
        Ok(slots) => slots.virtual_function(which.vf),
        Err(error) => return promise.answer(Err(error)),
    };
    let removed = planned.filter(|planned| world.roster.remove(planned.id, world.server, tell));
    let Some(planned) = removed else {
        return promise.answer(Err(Error::no_vf(which.vf)));
    };
    log::info!("{}: not served any more", planned.name);
    // Behind the removal.
    promise.ask(world.engine, |_| (), |()| Reply::done());
}
