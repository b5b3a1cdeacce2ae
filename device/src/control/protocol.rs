//! The messages: greeting, requests, answers, events. Their form is that of QEMU's machine protocol
//! (QMP), so that its clients connect.
//!
//! ```text
//! ← {"QMP": {"version": …, "capabilities": []}}
//! → {"execute": "query-link", "arguments": {…}, "id": …}
//! ← {"return": …, "id": …}   or   {"error": {"class": …, "desc": …}, "id": …}
//! ← {"event": "LINK_UP", "data": …, "timestamp": {"seconds": …, "microseconds": …}}
//! ```
//!
//! Every message that is sent is one line. `id` is anything, and comes back as it was.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What a client sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The command.
    pub(crate) execute: String,
    /// Its arguments.
    #[serde(default)]
    pub(crate) arguments: Map<String, Value>,
    /// Comes back with the answer.
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Value>,
}

/// An `id` of null was given, too.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl Request {
    /// Reads a message.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(message)
            .map_err(|error| Error::generic(format!("bad JSON: {error}")))
    }
}

/// Classes of errors. All but the first are for programs that act upon them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Class {
    /// Anything else.
    GenericError,
    /// There is no such command.
    CommandNotFound,
    /// There is no such function.
    DeviceNotFound,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Error {
    class: Class,
    desc: String,
}

impl Error {
    /// An error of no special class.
    pub(crate) fn generic(desc: impl Into<String>) -> Self {
        Self::new(Class::GenericError, desc)
    }

    /// An error.
    pub(crate) fn new(class: Class, desc: impl Into<String>) -> Self {
        let desc = desc.into();
        Self { class, desc }
    }

    /// No function has this number.
    pub(crate) fn no_function(number: u16) -> Self {
        Self::new(
            Class::DeviceNotFound,
            format!("there is no function {number}"),
        )
    }

    /// No virtual function of this number, counted from 0, is served.
    pub(crate) fn no_vf(vf: u16) -> Self {
        Self::new(
            Class::DeviceNotFound,
            format!("there is no virtual function {vf}"),
        )
    }
}

/// What a command returns, as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Reply(Box<RawValue>);

/// What becomes of a command.
pub(crate) type Outcome = Result<Reply, Error>;

impl Reply {
    /// The JSON of `value`.
    pub(crate) fn of(value: &impl Serialize) -> Outcome {
        let json = serde_json::value::to_raw_value(value);
        json.map(Self)
            .map_err(|error| Error::generic(format!("the answer cannot be written: {error}")))
    }

    /// `{}`: it is done.
    pub(crate) fn done() -> Outcome {
        Self::of(&Map::new())
    }

    /// The JSON.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        self.0.get()
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Error>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
}

/// The line that answers a request with `id`.
pub(crate) fn answer(outcome: &Outcome, id: Option<&Value>) -> Vec<u8> {
    let value = outcome.as_ref().ok().map(|reply| &*reply.0);
    let error = outcome.as_ref().err();
    line(&Answer { value, error, id })
}

/// The line that begins a connection.
pub(crate) fn greeting() -> Vec<u8> {
    #[derive(Serialize)]
    struct Hello {
        version: Version,
        capabilities: [(); 0],
    }
    #[derive(Serialize)]
    struct Greeting {
        #[serde(rename = "QMP")]
        hello: Hello,
    }
    let hello = Hello {
        version: Version::ours(),
        capabilities: [],
    };
    line(&Greeting { hello })
}

/// Who answers. QMP's clients look for the numbers in a member of this name.
#[derive(Serialize)]
pub(crate) struct Version {
    qemu: Numbers,
    package: &'static str,
}

#[derive(Serialize)]
struct Numbers {
    major: u32,
    minor: u32,
    micro: u32,
}

impl Version {
    /// The version of this program.
    pub(crate) fn ours() -> Self {
        let number = |text: &str| text.parse().unwrap_or(0);
        Self {
            qemu: Numbers {
                major: number(env!("CARGO_PKG_VERSION_MAJOR")),
                minor: number(env!("CARGO_PKG_VERSION_MINOR")),
                micro: number(env!("CARGO_PKG_VERSION_PATCH")),
            },
            package: concat!("vrnic-", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// The line that reports an event with `data` at `time`.
pub(crate) fn event(name: &str, data: &impl Serialize, time: SystemTime) -> Vec<u8> {
    #[derive(Serialize)]
    struct Timestamp {
        seconds: u64,
        microseconds: u32,
    }
    #[derive(Serialize)]
    struct Message<'a, T> {
        event: &'a str,
        data: &'a T,
        timestamp: Timestamp,
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    line(&Message {
        event: name,
        data,
        timestamp: Timestamp {
            seconds: since.as_secs(),
            microseconds: since.subsec_micros(),
        },
    })
}

/// A message with its line break, which is QMP's.
fn line(message: &impl Serialize) -> Vec<u8> {
    // Nothing that is sent can fail to become JSON: no maps with other keys than text.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.extend_from_slice(b"\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn error(message: &[u8]) -> String {
        Request::parse(message).unwrap_err().desc
    }

    #[test]
    fn requests_are_read_and_mistakes_named() {
        let request =
            Request::parse(br#"{"execute":"x","arguments":{"a":1},"id":[null]}"#).unwrap();
        assert_eq!(request.execute, "x");
        assert_eq!(Value::Object(request.arguments), json!({"a": 1}));
        assert_eq!(request.id, Some(json!([null])));
        let request = Request::parse(br#"{"execute":"x","id":null}"#).unwrap();
        assert_eq!(request.id, Some(Value::Null));
        assert_eq!(Request::parse(br#"{"execute":"x"}"#).unwrap().id, None);
        assert!(error(b"{}").contains("missing field `execute`"));
        assert!(error(br#"{"exec":"x"}"#).contains("unknown field `exec`"));
        assert!(error(br#"{"execute":"x","exec-oob":"x"}"#).contains("`exec-oob`"));
        assert!(error(br#"{"execute":"x","execute":"y"}"#).contains("duplicate field"));
        assert!(error(br#"{"execute":"x","arguments":[]}"#).contains("expected a map"));
        for wrong in [
            &b"foo"[..],
            b"[]",
            b"1",
            b"\"\xff\"",
            b"{\"execute\":\"\xff\"}",
            b"{}{",
        ] {
            assert!(error(wrong).starts_with("bad JSON: "), "{wrong:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n: usize| {
            format!(
                r#"{{"execute":"x","id":{}{}}}"#,
                "[".repeat(n),
                "]".repeat(n)
            )
        };
        assert!(Request::parse(deep(100).as_bytes()).is_ok());
        assert!(error(deep(30_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn messages_are_lines_of_qmp() {
        let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
        let id = json!({"n": 7});
        assert_eq!(
            text(answer(&Reply::done(), Some(&id))),
            "{\"return\":{},\"id\":{\"n\":7}}\r\n"
        );
        let error = Err(Error::no_function(9));
        assert_eq!(
            text(answer(&error, None)),
            "{\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"there is no function 9\"}}\r\n"
        );
        let time = UNIX_EPOCH + Duration::from_micros(5_000_007);
        assert_eq!(
            text(event("A", &json!({}), time)),
            "{\"event\":\"A\",\"data\":{},\"timestamp\":{\"seconds\":5,\"microseconds\":7}}\r\n"
        );
        let hello: Value = serde_json::from_slice(&greeting()).unwrap();
        assert_eq!(hello["QMP"]["capabilities"], json!([]));
        assert!(hello["QMP"]["version"]["qemu"]["major"].is_u64());
    }
}
