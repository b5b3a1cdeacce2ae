//! A connection to a control socket, as a program that waits for its answers.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// How long a vrnic takes to greet. Other servers may wait for their client to begin.
const GREETING: Duration = Duration::from_secs(5);
/// How long a vrnic takes to answer: completing a capture waits for the disk.
const ANSWER: Duration = Duration::from_secs(120);
/// Bytes of a line. No answer is longer.
const MAX_LINE: u64 = 4 << 20;

/// Why a command was not done.
#[derive(Debug)]
pub(in crate::cli) enum Failure {
    /// The user can mend it.
    Usage(String),
    /// The vrnic refused it, or went away.
    Refused(String),
    /// The answer cannot be printed.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A message, as it came and as it is read.
#[derive(Debug)]
pub(super) struct Message {
    /// What is returned, or all of an event.
    pub(super) text: String,
    /// The same.
    pub(super) value: Value,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects, and makes sure that a vrnic is there.
    pub(super) fn connect(path: &Path) -> Result<Self, Failure> {
        let usage = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
        let kind = std::fs::metadata(path).map(|data| data.file_type());
        if kind.is_ok_and(|kind| !kind.is_socket()) {
            return Err(usage("is not a socket"));
        }
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => usage("there is no such socket; see `vrnic serve --control`"),
            ErrorKind::PermissionDenied => {
                usage("permission denied; only the user who started vrnic can connect")
            }
            ErrorKind::ConnectionRefused => usage("nobody listens there; has vrnic ended?"),
            _ => usage(&error.to_string()),
        })?;
        let stream = BufReader::new(stream);
        let mut client = Self {
            path: path.to_owned(),
            stream,
        };
        client.greet(usage)?;
        Ok(client)
    }

    fn greet(&mut self, usage: impl Fn(&str) -> Failure) -> Result<(), Failure> {
        let stranger = || usage("this is not the control socket of a vrnic");
        self.patience(Some(GREETING))?;
        let line = self.line().ok().flatten().ok_or_else(stranger)?;
        let greeting: Value = serde_json::from_str(&line).map_err(|_| stranger())?;
        if let Some(error) = greeting.pointer("/error/desc").and_then(Value::as_str) {
            return Err(Failure::Refused(error.to_owned()));
        }
        let package = greeting.pointer("/QMP/version/package");
        let package = package.and_then(Value::as_str).unwrap_or_default();
        if !package.starts_with("vrnic-") {
            return Err(stranger());
        }
        self.patience(Some(ANSWER))
    }

    /// Executes a command, and returns what it returned.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Message, Failure> {
        let request = json!({"execute": command, "arguments": arguments});
        self.send(&request.to_string())?;
        let line = self.answer()?;
        let value: Answer = serde_json::from_str(&line).map_err(|error| self.nonsense(&error))?;
        match value {
            Answer {
                value: Some(raw), ..
            } => {
                let text = raw.get().to_owned();
                let value = serde_json::from_str(&text).map_err(|error| self.nonsense(&error))?;
                Ok(Message { text, value })
            }
            Answer { error, .. } => {
                let desc = error.map_or_else(String::new, |error| error.desc);
                Err(Failure::Refused(desc))
            }
        }
    }

    /// Sends a request as it is, and returns the line that answers it, and what that complains about
    /// if it is an error.
    pub(super) fn raw(&mut self, request: &str) -> Result<(String, Option<String>), Failure> {
        if request.contains('\n') || request.trim().is_empty() {
            return Err(Failure::Usage("a request is one line".to_owned()));
        }
        self.send(request)?;
        let line = self.answer()?;
        let answer: Answer = serde_json::from_str(&line).map_err(|error| self.nonsense(&error))?;
        Ok((line, answer.error.map(|error| error.desc)))
    }

    /// The next event, however long it takes; `None` when the vrnic has ended.
    pub(super) fn next_event(&mut self) -> Result<Option<Message>, Failure> {
        self.patience(None)?;
        let Some(text) = self.line().map_err(|error| self.lost(&error))? else {
            return Ok(None);
        };
        let value = serde_json::from_str(&text).map_err(|error| self.nonsense(&error))?;
        Ok(Some(Message { text, value }))
    }

    fn send(&mut self, request: &str) -> Result<(), Failure> {
        let stream = self.stream.get_mut();
        let sent = stream.write_all(format!("{request}\n").as_bytes());
        sent.map_err(|error| self.lost(&error))
    }

    /// The next line that is no event.
    fn answer(&mut self) -> Result<String, Failure> {
        loop {
            let line = self.line().map_err(|error| self.lost(&error))?;
            let gone = || self.lost(&ErrorKind::UnexpectedEof.into());
            let line = line.ok_or_else(gone)?;
            if !line.starts_with("{\"event\":") {
                return Ok(line);
            }
        }
    }

    /// A line without its end; `None` if the connection has ended.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let mut bounded = (&mut self.stream).take(MAX_LINE);
        if bounded.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if !line.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(line.trim_end().to_owned()))
    }

    fn patience(&self, time: Option<Duration>) -> Result<(), Failure> {
        let set = self.stream.get_ref().set_read_timeout(time);
        set.map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let why = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "vrnic does not answer".to_owned(),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                "vrnic has closed the connection".to_owned()
            }
            _ => error.to_string(),
        };
        Failure::Refused(format!("{}: {why}", self.path.display()))
    }

    fn nonsense(&self, error: &serde_json::Error) -> Failure {
        let path = self.path.display();
        Failure::Refused(format!("{path}: the answer is not understood: {error}"))
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    value: Option<Box<serde_json::value::RawValue>>,
    error: Option<Refusal>,
}

#[derive(serde::Deserialize)]
struct Refusal {
    desc: String,
}
