//! One running QEMU and the console of its guest.
//!
//! The console is QEMU's standard output. A thread takes it line by line, with the time each line
//! arrived, into the log and to whoever waits. The channel's end is QEMU's end.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::process::Background;

/// A line on a console.
pub(crate) struct Line {
    /// When it arrived, since the start of QEMU.
    pub at: Duration,
    /// The line without its end.
    pub text: String,
}

/// What happens while virtual machines run, each with the number of the machine or RNIC.
pub(crate) enum Event {
    /// A line on a machine's console.
    Line(usize, Line),
    /// A machine's QEMU has ended, or has closed the console.
    End(usize),
    /// An RNIC has ended, under the machine that uses it.
    NicEnd(usize),
}

/// A running virtual machine; dropping it ends it.
pub(crate) struct Machine {
    name: String,
    qemu: Background,
    errors: PathBuf,
}

impl Machine {
    /// Starts QEMU by a command whose standard output is the guest's console. Logs go to
    /// `NAME.console` and `NAME.stderr` in `dir`; events carry `number`.
    ///
    /// # Errors
    /// QEMU or a log cannot be started.
    pub(crate) fn start(
        (number, name): (usize, &str),
        command: &mut Command,
        dir: &Path,
        events: Sender<Event>,
    ) -> Result<Machine> {
        let errors = dir.join(format!("{name}.stderr"));
        let log = File::create(dir.join(format!("{name}.console")))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?);
        let mut qemu = Background::start(command)?;
        let stdout = qemu
            .child()
            .stdout
            .take()
            .context("the console is a pipe")?;
        thread::spawn(move || read_console(number, stdout, log, &events));
        Ok(Machine {
            name: name.to_owned(),
            qemu,
            errors,
        })
    }

    /// Waits until QEMU has made a socket.
    ///
    /// # Errors
    /// It ends before, or has not made it at `deadline`.
    pub(crate) fn wait_for_socket(&mut self, socket: &Path, deadline: Instant) -> Result<()> {
        let there = self.qemu.wait_for_file(socket, deadline);
        there.with_context(|| self.words())
    }

    /// Connects to a socket of QEMU's as soon as it listens there, which is a moment after the file
    /// has appeared.
    ///
    /// # Errors
    /// It ends before, or does not listen at `deadline`.
    pub(crate) fn connect(&mut self, socket: &Path, deadline: Instant) -> Result<UnixStream> {
        self.wait_for_socket(socket, deadline)?;
        let connect = || match UnixStream::connect(socket) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
            other => Some(other),
        };
        let what = format!("connection to {}", socket.display());
        let stream = self.qemu.wait_until(&what, deadline, connect);
        let stream = stream.with_context(|| self.words())?;
        stream.with_context(|| format!("cannot connect to {}", socket.display()))
    }

    /// Kills QEMU as nothing can refuse.
    ///
    /// # Errors
    /// It has ended before.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.qemu.signal(Signal::KILL)
    }

    /// Waits for QEMU's end and looks at its own words.
    ///
    /// # Errors
    /// It failed, or complained.
    pub(crate) fn check_end(mut self) -> Result<()> {
        self.wait()?;
        match complaint(&self.words()) {
            Some(line) => bail!("guest {}: QEMU complains: {line}", self.name),
            None => Ok(()),
        }
    }

    /// Waits for QEMU's end, whatever it says.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn check_status(mut self) -> Result<()> {
        self.wait()
    }

    /// QEMU's own words until now.
    pub(crate) fn words(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    fn wait(&mut self) -> Result<()> {
        let status = self.qemu.child().wait()?;
        if !status.success() {
            let (name, words) = (&self.name, self.words());
            bail!("guest {name}: QEMU failed ({status}): {}", words.trim());
        }
        Ok(())
    }
}

/// The first line of QEMU's that is about its vfio-user client, or an error of any kind.
fn complaint(words: &str) -> Option<&str> {
    let bad = |line: &&str| {
        let line = line.to_lowercase();
        ["vfio", "error", "failed"]
            .iter()
            .any(|word| line.contains(word))
    };
    words.lines().find(bad)
}

fn read_console(number: usize, stdout: ChildStdout, mut log: File, events: &Sender<Event>) {
    let start = Instant::now();
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    while reader
        .read_until(b'\n', &mut bytes)
        .is_ok_and(|count| count > 0)
    {
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        let at = start.elapsed();
        // A log that cannot be written must not stop the run it is about, and a run that is over
        // listens to nobody.
        let _ = writeln!(log, "{:9.3} {text}", at.as_secs_f64());
        let _ = events.send(Event::Line(number, Line { at, text }));
        bytes.clear();
    }
    let _ = events.send(Event::End(number));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Machine, Receiver<Event>) {
        let dir = tempfile::tempdir().unwrap();
        let (sender, events) = channel();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let machine = Machine::start((7, "a"), &mut command, dir.path(), sender).unwrap();
        (dir, machine, events)
    }

    #[test]
    fn lines_then_the_end() {
        let (_dir, machine, events) = shell("printf 'one\\r\\ntwo'");
        for expected in ["one", "two"] {
            match events.recv().unwrap() {
                Event::Line(7, line) => assert_eq!(line.text, expected),
                _ => panic!("not {expected}"),
            }
        }
        assert!(matches!(events.recv().unwrap(), Event::End(_)));
        machine.check_end().unwrap();
    }

    #[test]
    fn complaints_and_failures_are_errors() {
        let (_dir, machine, _events) = shell("echo 'vfio_user_recv: bad header' >&2");
        assert!(
            machine
                .check_end()
                .unwrap_err()
                .to_string()
                .contains("bad header")
        );
        let (_dir, machine, _events) = shell("exit 3");
        assert!(machine.check_end().is_err());
    }

    #[test]
    fn a_dropped_machine_ends() {
        let (_dir, machine, events) = shell("echo up; exec sleep 1000");
        assert!(matches!(events.recv().unwrap(), Event::Line(7, _)));
        drop(machine);
        assert!(matches!(events.recv().unwrap(), Event::End(_)));
    }
}
