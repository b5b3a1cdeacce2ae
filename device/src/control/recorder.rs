//! The capture of a process: at most one at a time, started and ended while traffic runs.
//!
//! The engine's tap travels in messages. A capture ends on a thread of its own, because completing
//! the file waits for the disk, and the control thread serves guests.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use crate::capture::{Capture, MODE, Tap};
use crate::engine::Recording;

/// Name of the port in a capture file.
const INTERFACE: &str = "port";

/// The capture, if there is one.
#[derive(Default)]
pub struct Recorder {
    running: Option<Running>,
    /// The one before is being completed.
    ending: Option<Ending>,
}

/// A capture that is being made.
struct Running {
    capture: Capture,
    file: PathBuf,
    /// Numbers of the functions that are recorded, if it is not the port.
    functions: Vec<u16>,
}

/// A capture that is being completed.
struct Ending {
    thread: JoinHandle<()>,
    /// Whoever asked for it was, or is about to be, told how it ended.
    done: Arc<AtomicBool>,
}

impl Recorder {
    /// Begins with what the command line asked for: any kind of file.
    ///
    /// # Errors
    /// What the file system or the start of a thread says.
    pub fn create(path: &Path) -> io::Result<(Self, Tap)> {
        let mut capture = Capture::create(path)?;
        let tap = capture.tap(&[INTERFACE]);
        let running = Some(Running {
            capture,
            file: path.to_owned(),
            functions: Vec::new(),
        });
        let ending = None;
        Ok((Self { running, ending }, tap))
    }

    /// Begins a capture of functions, given as numbers and names, or without any of the port, in an
    /// ordinary file. To open another kind of file can take forever.
    ///
    /// # Errors
    /// What the file system or the start of a thread says, or if a capture is being made.
    pub fn start(&mut self, path: &Path, functions: &[(u16, &str)]) -> io::Result<Tap> {
        if let Some(file) = self.file() {
            let busy = format!("a capture is being written to {}", file.display());
            return Err(io::Error::other(busy));
        }
        let is_ending = |ending: &Ending| !ending.done.load(Ordering::Acquire);
        if self.ending.as_ref().is_some_and(is_ending) {
            return Err(io::Error::other(
                "the capture before is still being written",
            ));
        }
        let mut file = File::options();
        file.write(true).create(true).truncate(false).mode(MODE);
        let file = file.custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("this is not an ordinary file"));
        }
        file.set_len(0)?;
        let mut capture = Capture::begin(file)?;
        let tap = match functions {
            [] => capture.tap(&[INTERFACE]),
            _ => capture.tap(&functions.iter().map(|(_, name)| *name).collect::<Vec<_>>()),
        };
        self.running = Some(Running {
            capture,
            file: path.to_owned(),
            functions: functions.iter().map(|(number, _)| *number).collect(),
        });
        Ok(tap)
    }

    /// Ends the capture. On a thread of its own, the file is completed when `recording` brings the
    /// tap, and then `tell` is called with the number of frames that are missing in it.
    ///
    /// # Errors
    /// If the host refuses a thread.
    pub fn stop(
        &mut self,
        recording: Receiver<Option<Recording>>,
        tell: impl FnOnce(io::Result<u64>) + Send + 'static,
    ) -> io::Result<()> {
        let Some(Running { capture, .. }) = self.running.take() else {
            return Ok(());
        };
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let complete = move || {
            // Without an engine there is no tap either.
            let recording = recording.recv().ok().flatten();
            let lost = recording.as_ref().map_or(0, Recording::lost);
            drop(recording);
            let result = capture.finish();
            is_done.store(true, Ordering::Release);
            tell(result.map(|()| lost));
        };
        let thread = thread::Builder::new().name("vrnic-capture-end".into());
        let thread = thread.spawn(complete)?;
        self.ending = Some(Ending { thread, done });
        Ok(())
    }

    /// Where the capture goes.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.running.as_ref().map(|running| running.file.as_path())
    }

    /// Numbers of the functions that it is of; none if it is of the port.
    #[must_use]
    pub fn functions(&self) -> &[u16] {
        self.running
            .as_ref()
            .map_or(&[], |running| &running.functions)
    }

    /// Completes what is not complete yet, once the engine and its tap are gone.
    ///
    /// # Errors
    /// What the writer met first.
    pub fn finish(self) -> io::Result<()> {
        if let Some(ending) = self.ending {
            // Whoever asked was told how it ended.
            let _ = ending.thread.join();
        }
        let finished = self.running.map(|running| running.capture.finish());
        finished.unwrap_or(Ok(()))
    }
}
