//! The commands: what each takes, and what it does.
//!
//! [`Command::of`] turns a request into a [`Command`], whose arguments have been checked as far as
//! they can be without knowing the NIC: an argument that is missing, misspelt or of the wrong type is
//! an error that names it. [`Command::run`] carries it out in the [`World`], and keeps its
//! [`Promise`].
//!
//! A new command is a variant, a line in [`TABLE`], an arm in `run`, and a section in
//! `docs/control.md`, whose example the tests read.

mod capture;
mod counters;
mod functions;
mod objects;
mod policy;
mod port;
mod quota;
mod stations;
mod virtual_functions;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use vrnic_firmware::nic::FunctionId;
use vrnic_vfio_user::Server;

use super::events::{self, Event};
use super::promise::Promise;
use super::protocol::{Class, Error, Outcome, Reply, Request, Version};
use super::{Recorder, Roster};
use crate::engine::{EngineHandle, Inside};
use crate::function::Function;
use crate::link::LinkSpec;
use crate::slots::Slots;

/// What commands act upon: everything on the control thread, and the engine by messages.
pub struct World<'a> {
    /// The engine.
    pub engine: &'a EngineHandle,
    /// All sockets of functions.
    pub server: &'a mut Server<Function>,
    /// The functions.
    pub roster: &'a mut Roster,
    /// The virtual functions that there can be, if there can be any.
    pub slots: Option<&'a Slots>,
    /// The capture.
    pub recorder: &'a mut Recorder,
    /// What the port is plugged into.
    pub link: &'a LinkSpec,
}

impl World<'_> {
    /// What the engine calls a function.
    fn function(&self, number: u16) -> Result<FunctionId, Error> {
        let station = self.roster.get(number);
        station
            .map(|station| station.id)
            .ok_or_else(|| Error::no_function(number))
    }

    /// A function as this thread has it.
    fn device(&self, number: u16) -> Result<&Function, Error> {
        let station = self.roster.get(number);
        station
            .and_then(|station| self.server.device(station.socket))
            .ok_or_else(|| Error::no_function(number))
    }

    /// Has the engine asked about a function, and answers with what `make` makes of what that says:
    /// `None` if there is no such function any more.
    fn ask_about<T: Send + 'static>(
        &self,
        number: u16,
        promise: Promise,
        question: impl FnOnce(&mut Inside<'_>, FunctionId) -> Option<T> + Send + 'static,
        make: impl FnOnce(T) -> Outcome + Send + 'static,
    ) {
        let id = match self.function(number) {
            Ok(id) => id,
            Err(error) => return promise.answer(Err(error)),
        };
        promise.ask(
            self.engine,
            move |inside| question(inside, id),
            move |found| make(found.ok_or_else(|| Error::no_function(number))?),
        );
    }
}

/// A command with its arguments.
#[derive(Debug)]
pub(crate) enum Command {
    QmpCapabilities(Capabilities),
    QueryCommands,
    QueryEvents,
    QueryVersion,
    QueryFunctions,
    QueryFunction(OneFunction),
    FunctionReset(OneFunction),
    SetFunction(functions::SetFunction),
    AddVf(virtual_functions::AddVf),
    RemoveVf(virtual_functions::RemoveVf),
    QueryObjects(objects::QueryObjects),
    QueryCounters(counters::QueryCounters),
    QueryPolicy(OneFunction),
    SetPolicy(policy::SetPolicy),
    QueryQuota(OneFunction),
    SetQuota(quota::SetQuota),
    QueryStations(stations::QueryStations),
    AddStation(stations::AddStation),
    RemoveStation(stations::Name),
    QueryLink,
    SetLink(port::SetLink),
    QueryImpair,
    ImpairSet(port::ImpairSet),
    ImpairClear,
    QueryCapture,
    CaptureStart(capture::CaptureStart),
    CaptureStop,
}

/// Arguments of commands about one function.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneFunction {
    /// Its number, as query-functions says it.
    pub(crate) function: u16,
}

/// Arguments of qmp_capabilities.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capabilities {
    #[serde(default)]
    enable: Vec<String>,
}

type Read = fn(Map<String, Value>) -> Result<Command, Error>;

/// All commands, by name.
const TABLE: &[(&str, Read)] = &[
    ("qmp_capabilities", |a| {
        arguments(a).map(Command::QmpCapabilities)
    }),
    ("query-commands", |a| none(a, Command::QueryCommands)),
    ("query-events", |a| none(a, Command::QueryEvents)),
    ("query-version", |a| none(a, Command::QueryVersion)),
    ("query-functions", |a| none(a, Command::QueryFunctions)),
    ("query-function", |a| {
        arguments(a).map(Command::QueryFunction)
    }),
    ("function-reset", |a| {
        arguments(a).map(Command::FunctionReset)
    }),
    ("set-function", |a| arguments(a).map(Command::SetFunction)),
    ("add-vf", |a| arguments(a).map(Command::AddVf)),
    ("remove-vf", |a| arguments(a).map(Command::RemoveVf)),
    ("query-objects", |a| arguments(a).map(Command::QueryObjects)),
    ("query-counters", |a| {
        arguments(a).map(Command::QueryCounters)
    }),
    ("query-policy", |a| arguments(a).map(Command::QueryPolicy)),
    ("set-policy", |a| arguments(a).map(Command::SetPolicy)),
    ("query-quota", |a| arguments(a).map(Command::QueryQuota)),
    ("set-quota", |a| arguments(a).map(Command::SetQuota)),
    ("query-stations", |a| {
        arguments(a).map(Command::QueryStations)
    }),
    ("add-station", |a| arguments(a).map(Command::AddStation)),
    ("remove-station", |a| {
        arguments(a).map(Command::RemoveStation)
    }),
    ("query-link", |a| none(a, Command::QueryLink)),
    ("set-link", |a| arguments(a).map(Command::SetLink)),
    ("query-impair", |a| none(a, Command::QueryImpair)),
    ("impair-set", |a| arguments(a).map(Command::ImpairSet)),
    ("impair-clear", |a| none(a, Command::ImpairClear)),
    ("query-capture", |a| none(a, Command::QueryCapture)),
    ("capture-start", |a| arguments(a).map(Command::CaptureStart)),
    ("capture-stop", |a| none(a, Command::CaptureStop)),
];

fn arguments<T: DeserializeOwned>(given: Map<String, Value>) -> Result<T, Error> {
    serde_json::from_value(Value::Object(given))
        .map_err(|error| Error::generic(format!("arguments: {error}")))
}

fn none(given: Map<String, Value>, command: Command) -> Result<Command, Error> {
    match given.keys().next() {
        None => Ok(command),
        Some(name) => Err(Error::generic(format!(
            "arguments: unknown field `{name}`, there are none"
        ))),
    }
}

impl Command {
    /// The command that a request is for.
    pub(crate) fn of(request: Request) -> Result<Self, Error> {
        let name = request.execute.as_str();
        let entry = TABLE.iter().find(|(known, _)| *known == name);
        let not_found = || {
            let desc = format!("there is no command {name:?}; query-commands lists all");
            Error::new(Class::CommandNotFound, desc)
        };
        let (_, read) = entry.ok_or_else(not_found)?;
        read(request.arguments)
    }

    /// Whether it asks for events, too.
    pub(crate) fn subscribes(&self) -> bool {
        matches!(self, Self::QmpCapabilities(Capabilities { enable }) if enable.is_empty())
    }

    /// Carries it out, and keeps the promise of an answer; `tell` reports events that it causes.
    pub(crate) fn run(
        self,
        world: &mut World<'_>,
        promise: Promise,
        tell: &mut dyn FnMut(&Event<'_>),
    ) {
        match self {
            Self::QmpCapabilities(Capabilities { enable }) => {
                promise.answer(match enable.first() {
                    None => Reply::done(),
                    Some(name) => Err(Error::generic(format!("there is no capability {name:?}"))),
                })
            }
            Self::QueryCommands => promise.answer(Reply::of(&named(TABLE.iter().map(|(n, _)| *n)))),
            Self::QueryEvents => promise.answer(Reply::of(&named(events::NAMES))),
            Self::QueryVersion => promise.answer(Reply::of(&Version::ours())),
            Self::QueryFunctions => functions::list(world, promise),
            Self::QueryFunction(which) => functions::show(world, &which, promise),
            Self::FunctionReset(which) => functions::reset(world, &which, promise),
            Self::SetFunction(change) => functions::set(world, &change, promise),
            Self::AddVf(which) => virtual_functions::add(world, &which, promise),
            Self::RemoveVf(which) => virtual_functions::remove(world, &which, promise, tell),
            Self::QueryObjects(query) => objects::list(world, query, promise),
            Self::QueryCounters(query) => counters::show(world, &query, promise),
            Self::QueryPolicy(which) => policy::show(world, &which, promise),
            Self::SetPolicy(change) => policy::set(world, change, promise),
            Self::QueryQuota(which) => quota::show(world, &which, promise),
            Self::SetQuota(change) => quota::set(world, &change, promise),
            Self::QueryStations(query) => stations::list(world, &query, promise),
            Self::AddStation(station) => stations::add(world, &station, promise),
            Self::RemoveStation(station) => stations::remove(world, station, promise),
            Self::QueryLink => port::show(world, promise),
            Self::SetLink(change) => port::set(world, &change, promise),
            Self::QueryImpair => port::show_impairment(world, promise),
            Self::ImpairSet(change) => port::impair(world, &change, promise, tell),
            Self::ImpairClear => port::impair(world, &port::ImpairSet::nothing(), promise, tell),
            Self::QueryCapture => capture::show(world, promise),
            Self::CaptureStart(start) => capture::start(world, &start, promise, tell),
            Self::CaptureStop => capture::stop(world, promise, tell),
        }
    }
}

/// The form in which QMP lists names.
fn named(names: impl IntoIterator<Item = &'static str>) -> Vec<Name> {
    names.into_iter().map(|name| Name { name }).collect()
}

#[derive(serde::Serialize)]
struct Name {
    name: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Command, String> {
        let command = Request::parse(json.as_bytes()).and_then(Command::of);
        command.map_err(|error| serde_json::to_string(&error).unwrap())
    }

    #[track_caller]
    fn refused(json: &str, words: &[&str]) {
        let error = read(json).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{json}: no {word:?} in {error}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        refused(
            r#"{"execute":"foo"}"#,
            &["CommandNotFound", "foo", "query-commands"],
        );
        refused(
            r#"{"execute":"query-link","arguments":{"up":1}}"#,
            &["`up`"],
        );
        let misspelt = r#"{"execute":"query-function","arguments":{"functoin":1}}"#;
        refused(misspelt, &["GenericError", "`functoin`", "`function`"]);
        refused(
            r#"{"execute":"query-function"}"#,
            &["missing field `function`"],
        );
        for number in ["65536", "-1", "1.5", "\"1\"", "null"] {
            let json = format!(
                "{{\"execute\":\"query-function\",\"arguments\":{{\"function\":{number}}}}}"
            );
            refused(&json, &["arguments:", "u16"]);
        }
        let kind = r#"{"execute":"query-objects","arguments":{"function":0,"kind":"foo"}}"#;
        refused(kind, &["`foo`", "`qp`", "`mcast`"]);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|(name, _)| *name).collect();
        assert!(names.iter().all(|name| name.len() > 4));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn only_an_agreement_without_capabilities_subscribes() {
        let subscribes = |json| read(json).unwrap().subscribes();
        assert!(subscribes(r#"{"execute":"qmp_capabilities"}"#));
        assert!(subscribes(
            r#"{"execute":"qmp_capabilities","arguments":{"enable":[]}}"#
        ));
        assert!(!subscribes(
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#
        ));
        assert!(!subscribes(r#"{"execute":"query-link"}"#));
    }

    /// Requests in the examples of the protocol's description.
    fn examples() -> Vec<&'static str> {
        let text = include_str!("../../../../docs/control.md");
        text.lines()
            .filter_map(|line| line.strip_prefix("→ "))
            .collect()
    }

    #[test]
    fn every_command_is_described_with_an_example_that_is_right() {
        let mut left: Vec<_> = TABLE.iter().map(|(name, _)| *name).collect();
        for example in examples() {
            let request = Request::parse(example.as_bytes());
            let name = request
                .unwrap_or_else(|e| panic!("{example}: {e:?}"))
                .execute;
            read(example).unwrap_or_else(|error| panic!("{example}: {error}"));
            left.retain(|known| *known != name);
        }
        assert_eq!(left, Vec::<&str>::new(), "without an example");
    }

    #[test]
    fn every_event_is_described_with_an_example() {
        let text = include_str!("../../../../docs/control.md");
        for name in events::NAMES {
            let example = format!("← {{\"event\": \"{name}\", ");
            assert!(text.contains(&example), "{name}");
        }
    }
}
