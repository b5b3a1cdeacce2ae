//! The capture: query-capture, capture-start, capture-stop.

use std::path::PathBuf;
use std::sync::mpsc::channel;

use serde::{Deserialize, Serialize};

use super::World;
use crate::control::events::Event;
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};

/// Arguments of capture-start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureStart {
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Shown {
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
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
    let running = file.is_some();
    promise.answer(Reply::of(&Shown { running, file }));
}

pub(super) fn start(
    world: &mut World<'_>,
    start: &CaptureStart,
    promise: Promise,
    tell: &mut dyn FnMut(&Event<'_>),
) {
    let file = start.file.display().to_string();
    let tap = match world.recorder.start(&start.file) {
        Ok(tap) => tap,
        Err(error) => return promise.answer(Err(Error::generic(format!("{file}: {error}")))),
    };
    tell(&Event::CaptureStarted { file: &file });
    promise.ask(
        world.engine,
        // There was none before.
        move |inside| drop(inside.set_tap(Some(tap))),
        |()| Reply::done(),
    );
}

pub(super) fn stop(world: &mut World<'_>, promise: Promise, tell: &mut dyn FnMut(&Event<'_>)) {
    let Some(file) = world.recorder.file().map(|file| file.display().to_string()) else {
        return promise.answer(Err(Error::generic("no capture is being made")));
    };
    let (sender, tap) = channel();
    let name = file.clone();
    let stopped = world.recorder.stop(tap, move |result| {
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
        let _ = sender.send(inside.set_tap(None));
    });
}
