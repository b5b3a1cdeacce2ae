//! The capture: query-capture, capture-start, capture-stop.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use serde::{Deserialize, Serialize};

use vrnic_firmware::nic::FunctionId;

use super::World;
use crate::control::events::Event;
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};
use crate::engine::Recording;
use crate::function::Function;

/// Arguments of capture-start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureStart {
    file: PathBuf,
    /// What passes the ports of these; without them, what crosses that of the NIC.
    functions: Option<Vec<u16>>,
}

#[derive(Debug, Serialize)]
struct Shown {
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<u16>,
}

/// How a capture ended.
#[derive(Debug, Serialize)]
struct Ended {
    file: String,
    /// Frames that are missing in the file, because the disk was too slow.
    lost: u64,
}

pub(super) fn show(world: &mut World<'_>, promise: Promise) {
    let file = world.recorder.file().map(|file| file.display().to_string());
    promise.answer(Reply::of(&Shown {
        running: file.is_some(),
        file,
        functions: world.recorder.functions().to_vec(),
    }));
}

pub(super) fn start(
    world: &mut World<'_>,
    start: &CaptureStart,
    promise: Promise,
    tell: &mut dyn FnMut(&Event<'_>),
) {
    let file = start.file.display().to_string();
    let subjects = match subjects(world, start.functions.as_deref()) {
        Ok(subjects) => subjects,
        Err(error) => return promise.answer(Err(error)),
    };
    let names: Vec<_> = subjects
        .iter()
        .map(|one| (one.number, &*one.name))
        .collect();
    let tap = match world.recorder.start(&start.file, &names) {
        Ok(tap) => tap,
        Err(error) => return promise.answer(Err(Error::generic(format!("{file}: {error}")))),
    };
    let recording = if subjects.is_empty() {
        Recording::of_port(tap)
    } else {
        Recording::of_functions(tap, subjects.iter().map(|one| one.id))
    };
    tell(&Event::CaptureStarted { file: &file });
    promise.ask(
        world.engine,
        // There was none before.
        move |inside| drop(inside.record(Some(recording))),
        |()| Reply::done(),
    );
}

/// A function that is to be recorded.
struct Subject {
    number: u16,
    id: FunctionId,
    /// What the file calls its interface.
    name: String,
}

/// The functions with these numbers, each once; none stand for the port.
fn subjects(world: &World<'_>, numbers: Option<&[u16]>) -> Result<Vec<Subject>, Error> {
    let mut subjects: Vec<Subject> = Vec::new();
    for &number in numbers.unwrap_or_default() {
        let station = world.roster.get(number);
        let station = station.ok_or_else(|| Error::no_function(number))?;
        if subjects.iter().any(|one| one.number == number) {
            return Err(Error::generic(format!("function {number} is given twice")));
        }
        let function = world.server.device(station.socket);
        subjects.push(Subject {
            number,
            id: station.id,
            name: function.map_or("", Function::name).to_owned(),
        });
    }
    if numbers.is_some() && subjects.is_empty() {
        let desc = "`functions` is empty; leave it out to capture at the port";
        return Err(Error::generic(desc));
    }
    Ok(subjects)
}

pub(super) fn stop(world: &mut World<'_>, promise: Promise, tell: &mut dyn FnMut(&Event<'_>)) {
    let Some(file) = world.recorder.file().map(|file| file.display().to_string()) else {
        return promise.answer(Err(Error::generic("no capture is being made")));
    };
    let (sender, recording) = channel();
    let name = file.clone();
    let stopped = world.recorder.stop(recording, move |result| {
        promise.answer(match result {
            Ok(lost) => Reply::of(&Ended { file: name, lost }),
            Err(error) => Err(Error::generic(format!("{name}: {error}"))),
        });
    });
    // If the host refused the thread, the promise was dropped, and the capture is complete.
    if let Err(error) = stopped {
        log::error!("cannot complete the capture in the background: {error}");
    }
    tell(&Event::CaptureStopped { file: &file });
    world.engine.ask(move |inside| {
        let _ = sender.send(inside.record(None));
    });
}
