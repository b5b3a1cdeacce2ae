//! QEMU's machine protocol (QMP): asking a running QEMU for something, and hearing what happens.
//!
//! In: a socket of QEMU's, as `qemu-configs/debian.sh` makes one. One line is one JSON value. QEMU
//! greets, and talks after `qmp_capabilities` only. Answers come in the order of the commands, of
//! which there is one at a time; events come at any time, and are kept until somebody waits for
//! them. Events from before the connection are lost: connect before you cause one.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A connection to one QEMU.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    events: VecDeque<Value>,
    deadline: Instant,
}

impl Qmp {
    /// Connects to a socket that is there; all waits end at `deadline`.
    ///
    /// # Errors
    /// Nobody listens, or it is not QEMU that answers.
    pub(crate) fn connect(socket: &Path, deadline: Instant) -> Result<Qmp> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let mut qmp = Qmp {
            reader: BufReader::new(stream),
            events: VecDeque::new(),
            deadline,
        };
        let greeting = qmp.read()?;
        ensure!(greeting.get("QMP").is_some(), "not QMP: {greeting}");
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Has QEMU carry out a command, and returns its answer.
    ///
    /// # Errors
    /// It does not, or ends, or time is up.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.reader
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("{command}: QEMU is gone"))?;
        loop {
            let mut value = self.read().with_context(|| command.to_owned())?;
            if let Some(answer) = value.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = value.get("error") {
                bail!("{command} {arguments}: {error}");
            }
            self.events.push_back(value);
        }
    }

    /// Waits for an event of a name about a device.
    ///
    /// # Errors
    /// QEMU ends before, or time is up.
    pub(crate) fn wait_for(&mut self, event: &str, device: &str) -> Result<()> {
        loop {
            while let Some(value) = self.events.pop_front() {
                if value["event"] == event && value["data"]["device"] == device {
                    return Ok(());
                }
            }
            let value = self.read().with_context(|| event.to_owned())?;
            self.events.push_back(value);
        }
    }

    fn read(&mut self) -> Result<Value> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "out of time");
        self.reader.get_mut().set_read_timeout(Some(left))?;
        let mut line = String::new();
        let length = self.reader.read_line(&mut line);
        let length = length.context("QEMU says nothing")?;
        ensure!(length > 0, "QEMU is gone");
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A connection to a QEMU that says this after its greeting, and is gone when it has read as
    /// many commands.
    fn qemu(says: &'static [&'static str]) -> (tempfile::TempDir, Result<Qmp>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut commands = BufReader::new(stream.try_clone().unwrap());
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for text in says {
                commands.read_line(&mut String::new()).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
            }
        });
        let qmp = Qmp::connect(&socket, Instant::now() + Duration::from_secs(10));
        (dir, qmp)
    }

    #[test]
    fn events_before_an_answer_are_kept() {
        let (_dir, qmp) = qemu(&[
            "{\"return\": {}}\r\n",
            "{\"event\": \"GONE\", \"data\": {\"device\": \"x\"}}\r\n{\"return\": 7}\r\n\
             {\"event\": \"GONE\", \"data\": {\"device\": \"y\"}}\r\n",
        ]);
        let mut qmp = qmp.unwrap();
        assert_eq!(qmp.execute("device_del", &json!({"id": "y"})).unwrap(), 7);
        qmp.wait_for("GONE", "y").unwrap();
        let error = qmp.wait_for("GONE", "x").unwrap_err();
        assert!(format!("{error:#}").contains("QEMU is gone"), "{error:#}");
    }

    #[test]
    fn what_qemu_refuses_is_an_error() {
        let (_dir, qmp) = qemu(&[
            "{\"return\": {}}\r\n",
            "{\"error\": {\"desc\": \"no such device\"}}\r\n",
        ]);
        let error = qmp.unwrap().execute("device_del", &json!({})).unwrap_err();
        assert!(error.to_string().contains("no such device"), "{error:#}");
    }

    #[test]
    fn another_protocol_is_noticed() {
        let (_dir, qmp) = qemu(&["{\"error\": {}}\r\n"]);
        assert!(qmp.is_err());
    }
}
