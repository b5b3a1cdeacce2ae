//! One running `vrnic serve`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::Signal;

use super::machine::Event;
use crate::process::Background;

/// A running RNIC; dropping it kills it.
pub(crate) struct Nic {
    process: Background,
    log: PathBuf,
    socket: PathBuf,
}

impl Nic {
    /// Starts `vrnic serve` in `dir` with its socket `NAME.sock` there, its log `NAME.log` beside
    /// it, and returns when the socket is there.
    ///
    /// # Errors
    /// It ends, or has no socket at `deadline`.
    pub(crate) fn start(
        vrnic: &Path,
        name: &str,
        arguments: &[String],
        dir: &Path,
        deadline: Instant,
    ) -> Result<Nic> {
        // Short names: the path of a UNIX socket has little room.
        let socket = format!("{name}.sock");
        let mut command = Command::new(vrnic);
        command
            .args(["serve", "--socket", &socket])
            .args(arguments)
            .current_dir(dir);
        Nic::serve(command, name, &dir.join(&socket), deadline)
    }

    /// The same for a physical function with virtual ones, on `pf0.sock`, `vf0.sock` and so on.
    ///
    /// # Errors
    /// As [`Nic::start`].
    pub(crate) fn start_family(
        vrnic: &Path,
        (name, vfs): (&str, u16),
        arguments: &[String],
        dir: &Path,
        deadline: Instant,
    ) -> Result<Nic> {
        let mut command = Command::new(vrnic);
        command
            .args(["serve", "--dir", ".", "--vfs", &vfs.to_string()])
            .args(arguments)
            .current_dir(dir);
        // The one that is made last.
        let socket = dir.join(format!("vf{}.sock", vfs.saturating_sub(1)));
        Nic::serve(command, name, &socket, deadline)
    }

    /// Starts the command, its log `NAME.log` beside the socket, and waits for that.
    fn serve(mut command: Command, name: &str, socket: &Path, deadline: Instant) -> Result<Nic> {
        let log = socket.with_file_name(format!("{name}.log"));
        let file = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = Background::start(&mut command)?;
        let mut nic = Nic {
            process,
            log,
            socket: socket.to_owned(),
        };
        let there = nic.process.wait_for_file(&nic.socket, deadline);
        there.with_context(|| nic.last_words())?;
        Ok(nic)
    }

    /// Has its end reported as that of the RNIC `number`, until nobody receives events any more.
    pub(crate) fn watch(&self, number: usize, events: Sender<Event>) {
        self.process.at_end(move || {
            let _ = events.send(Event::NicEnd(number));
        });
    }

    /// Why nothing works without it, once it has ended too early.
    pub(crate) fn obituary(&mut self) -> Option<Error> {
        let status = self.process.ended()?;
        let (log, words) = (self.log.display(), self.last_words());
        Some(anyhow!("vrnic ended ({status}), its log is {log}: {words}"))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        let running = self.process.signal(signal);
        running.with_context(|| self.last_words())
    }

    /// Ends it as its user would.
    ///
    /// # Errors
    /// It ended before, or not well, or left its socket behind.
    pub(crate) fn stop(mut self) -> Result<()> {
        let ended_before = self.process.ended().is_some();
        let status = self.process.terminate()?;
        if ended_before || !status.success() {
            bail!("vrnic ended ({status}): {}", self.last_words());
        }
        if self.socket.exists() {
            bail!("vrnic left {} behind", self.socket.display());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
