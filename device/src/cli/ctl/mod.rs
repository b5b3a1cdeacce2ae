//! `vrnic ctl`: the control socket of a running `vrnic serve`, for people and for scripts.
//!
//! Each subcommand is one or a few commands of the protocol (`docs/control.md`). People get tables
//! ([`show`]), programs the answers as they came with `--json`, one a line. Exit status: 0 if it was
//! done, 1 if vrnic refused it or went away, 2 for a mistake that the user can mend, a socket that is
//! not there included.

mod client;
mod policy;
mod quota;
mod show;
mod stations;
mod table;

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use client::Client;
pub(super) use client::Failure;
use policy::PolicyArguments;
use quota::QuotaArguments;
use stations::StationCommand;

/// Arguments of `vrnic ctl`.
#[derive(Args, Debug)]
pub struct CtlArguments {
    /// The socket that was given to `vrnic serve --control`.
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// Print answers as JSON, one a line.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List functions.
    Functions,
    /// Show a function, or put it into service or take it out.
    Function {
        /// Its number.
        function: u16,
        /// What is to become of it.
        service: Option<Service>,
    },
    /// Serve a further virtual function, of those that `vrnic serve --max-vfs` lets be.
    AddVf {
        /// Which, as in its socket's name; the first that is not served if none is given.
        vf: Option<u16>,
        /// Ethernet address; by default the one that it has when it is served from the start.
        #[arg(long)]
        mac: Option<String>,
    },
    /// Serve a virtual function no longer: its client is disconnected, its socket is removed.
    RemoveVf {
        /// Which, as in its socket's name.
        vf: u16,
    },
    /// List the objects of a function: queue pairs, completion queues, memory regions, …
    Objects {
        /// The function's number.
        function: u16,
        /// Objects of one kind only.
        #[arg(long, value_enum)]
        kind: Option<Kind>,
    },
    /// Show the counters of the port and of functions that are not zero.
    Counters {
        /// Of one function only.
        function: Option<u16>,
        /// Those that are zero, too.
        #[arg(long)]
        all: bool,
    },
    /// Show the rules of a function's port of the switch, or change those that are given.
    Policy(PolicyArguments),
    /// Show what functions have of what they may have, or change what a function may have.
    Quota(QuotaArguments),
    /// List the stations that the switch knows behind its ports, besides the functions themselves.
    Stations,
    /// Put a station behind a port for good, or end that.
    Station {
        #[command(subcommand)]
        command: StationCommand,
    },
    /// Show the link, or switch the port on or off.
    Link {
        /// What the port is to be.
        state: Option<UpDown>,
    },
    /// Show, start or stop a capture.
    Capture {
        #[command(subcommand)]
        command: Option<CaptureCommand>,
    },
    /// Show, replace or end what goes wrong on the link.
    Impair {
        /// As for `vrnic serve --impair`, for example drop=1%,delay=10us.
        #[arg(value_name = "IMPAIRMENT")]
        impair: Vec<String>,
        /// As for `vrnic serve --impair-event`, for example "tx:drop psn=5 of qp 17 once".
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<String>,
        /// Nothing goes wrong any more.
        #[arg(long, conflicts_with_all = ["impair", "events"])]
        clear: bool,
    },
    /// Reset a function; its driver finds it in state RESET.
    Reset {
        /// Its number.
        function: u16,
    },
    /// Print what happens, until vrnic ends or you do.
    Events,
    /// Send a request as it is, and print the answer as it is.
    Raw {
        /// The request, for example '{"execute": "query-link"}'.
        request: String,
    },
}

#[derive(Debug, Subcommand)]
enum CaptureCommand {
    /// Write every frame that crosses the port to a pcapng file, which is replaced.
    Start {
        /// The file.
        file: PathBuf,
        /// Instead, every frame that this function sends or gets, as it is in the network, also what
        /// moves directly between functions. Can be given more than once: the file has an interface
        /// for each.
        #[arg(long = "function", value_name = "N")]
        functions: Vec<u16>,
    },
    /// Complete the file.
    Stop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Service {
    /// Drivers can use it, by a reset.
    Enable,
    /// It fails, and no reset changes that.
    Disable,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UpDown {
    /// Switched on.
    Up,
    /// Switched off: no link, and frames are lost.
    Down,
}

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Queue pairs.
    Qp,
    /// Completion queues.
    Cq,
    /// Shared receive queues.
    Srq,
    /// Event queues.
    Eq,
    /// Memory regions.
    Mr,
    /// Memory windows.
    Mw,
    /// Protection domains.
    Pd,
    /// XRC domains.
    Xrcd,
    /// Address handles.
    Ah,
    /// Entries of the GID table.
    Gid,
    /// Filters of Ethernet frames.
    Filter,
    /// Memberships in multicast groups.
    Mcast,
}

/// Does what was asked for.
pub(super) fn run(arguments: &CtlArguments) -> Result<(), Failure> {
    let out = io::stdout().lock();
    let client = Client::connect(&arguments.control)?;
    let json = arguments.json;
    let mut session = Session { client, out, json };
    match session.run(&arguments.command) {
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A connection and where answers are printed.
struct Session<W: Write> {
    client: Client,
    out: W,
    json: bool,
}

impl<W: Write> Session<W> {
    fn run(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::Functions => self.print("query-functions", json!({}), show::functions),
            Command::Function { function, service } => match service {
                None => {
                    let which = json!({"function": function});
                    self.print("query-function", which, show::function)
                }
                Some(service) => {
                    let enabled = matches!(service, Service::Enable);
                    let change = json!({"function": function, "enabled": enabled});
                    self.print("set-function", change, show::nothing)
                }
            },
            Command::AddVf { vf, mac } => {
                let given = [("vf", json!(vf)), ("mac", json!(mac))];
                let given = given.into_iter().filter(|(_, value)| !value.is_null());
                let which = given
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                self.print("add-vf", Value::Object(which), show::function)
            }
            Command::RemoveVf { vf } => self.print("remove-vf", json!({"vf": vf}), show::nothing),
            Command::Objects { function, kind } => self.objects(*function, *kind),
            Command::Counters { function, all } => self.counters(*function, *all),
            Command::Policy(policy) => match policy.change() {
                None => self.print("query-policy", policy.which(), show::policy),
                Some(change) => self.print("set-policy", change, show::nothing),
            },
            Command::Quota(quota) => self.quota(quota),
            Command::Stations => self.stations(),
            Command::Station { command } => {
                let (name, arguments) = command.request();
                self.print(name, arguments, show::nothing)
            }
            Command::Link { state: None } => self.print("query-link", json!({}), show::link),
            Command::Link { state: Some(state) } => {
                let up = matches!(state, UpDown::Up);
                self.print("set-link", json!({"up": up}), show::nothing)
            }
            Command::Capture { command } => self.capture(command.as_ref()),
            Command::Impair {
                impair,
                events,
                clear,
            } => self.impair(impair, events, *clear),
            Command::Reset { function } => {
                let which = json!({"function": function});
                self.print("function-reset", which, show::nothing)
            }
            Command::Events => self.events(),
            Command::Raw { request } => {
                let (answer, refused) = self.client.raw(request)?;
                writeln!(self.out, "{answer}")?;
                refused.map_or(Ok(()), |desc| Err(Failure::Refused(desc)))
            }
        }
    }

    /// Executes a command and prints the answer.
    fn print(
        &mut self,
        command: &str,
        arguments: Value,
        show: fn(&Value) -> String,
    ) -> Result<(), Failure> {
        let answer = self.client.execute(command, &arguments)?;
        if self.json {
            writeln!(self.out, "{}", answer.text)?;
        } else {
            self.out.write_all(show(&answer.value).as_bytes())?;
        }
        Ok(())
    }

    fn objects(&mut self, function: u16, kind: Option<Kind>) -> Result<(), Failure> {
        let kinds = kind
            .as_ref()
            .map_or(Kind::value_variants(), std::slice::from_ref);
        for kind in kinds {
            let mut all = Vec::new();
            let mut from = Some(0);
            while let Some(first) = from {
                let query = json!({"function": function, "kind": name(*kind), "from": first});
                let answer = self.client.execute("query-objects", &query)?;
                from = answer.value.get("next").and_then(Value::as_u64);
                if self.json {
                    writeln!(self.out, "{}", answer.text)?;
                } else if let Some(Value::Array(objects)) = answer.value.get("objects") {
                    all.extend_from_slice(objects);
                }
            }
            if !self.json {
                self.out.write_all(show::objects(*kind, &all).as_bytes())?;
            }
        }
        Ok(())
    }

    fn stations(&mut self) -> Result<(), Failure> {
        let mut all = Vec::new();
        let mut query = json!({});
        loop {
            let answer = self.client.execute("query-stations", &query)?;
            if self.json {
                writeln!(self.out, "{}", answer.text)?;
            } else if let Some(Value::Array(stations)) = answer.value.get("stations") {
                all.extend_from_slice(stations);
            }
            match answer.value.get("next") {
                Some(next) => query = json!({"from": next}),
                None => break,
            }
        }
        if !self.json {
            self.out.write_all(show::stations(&all).as_bytes())?;
        }
        Ok(())
    }

    fn counters(&mut self, function: Option<u16>, all: bool) -> Result<(), Failure> {
        let show = if all {
            show::all_counters
        } else {
            show::counters
        };
        if let Some(function) = function {
            return self.print("query-counters", json!({"function": function}), show);
        }
        self.title("port")?;
        self.print("query-counters", json!({}), show)?;
        let functions = self.client.execute("query-functions", &json!({}))?.value;
        let numbers = functions.as_array().into_iter().flatten();
        for number in numbers.filter_map(|one| one.get("function")) {
            self.title(&format!("function {number}"))?;
            self.print("query-counters", json!({"function": number}), show)?;
        }
        Ok(())
    }

    fn quota(&mut self, quota: &QuotaArguments) -> Result<(), Failure> {
        if let Some(function) = quota.function {
            return match quota.change(function) {
                None => self.print("query-quota", json!({"function": function}), quota::one),
                Some(change) => self.print("set-quota", change, show::nothing),
            };
        }
        let functions = self.client.execute("query-functions", &json!({}))?.value;
        let numbers = functions.as_array().into_iter().flatten();
        let mut all = Vec::new();
        for number in numbers.filter_map(|one| one.get("function")) {
            let which = json!({"function": number});
            let answer = self.client.execute("query-quota", &which)?;
            if self.json {
                writeln!(self.out, "{}", answer.text)?;
            } else {
                all.push(answer.value);
            }
        }
        if !self.json {
            self.out.write_all(quota::all(&all).as_bytes())?;
        }
        Ok(())
    }

    /// A line above a table.
    fn title(&mut self, title: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.out, "{title}:")
    }

    fn capture(&mut self, command: Option<&CaptureCommand>) -> Result<(), Failure> {
        match command {
            None => self.print("query-capture", json!({}), show::capture),
            Some(CaptureCommand::Start { file, functions }) => {
                let mut start = json!({"file": absolute(file)?});
                if let (Value::Object(start), false) = (&mut start, functions.is_empty()) {
                    start.insert("functions".to_owned(), json!(functions));
                }
                self.print("capture-start", start, show::nothing)
            }
            Some(CaptureCommand::Stop) => {
                self.print("capture-stop", json!({}), show::ended_capture)
            }
        }
    }

    fn impair(&mut self, impair: &[String], events: &[String], clear: bool) -> Result<(), Failure> {
        if clear {
            self.print("impair-clear", json!({}), show::nothing)
        } else if impair.is_empty() && events.is_empty() {
            self.print("query-impair", json!({}), show::impair)
        } else {
            let both = json!({"impair": impair, "events": events});
            self.print("impair-set", both, show::nothing)
        }
    }

    fn events(&mut self) -> Result<(), Failure> {
        self.client.execute("qmp_capabilities", &json!({}))?;
        while let Some(event) = self.client.next_event()? {
            if self.json {
                writeln!(self.out, "{}", event.text)?;
            } else {
                self.out.write_all(show::event(&event.value).as_bytes())?;
            }
            self.out.flush()?;
        }
        Ok(())
    }
}

/// How the protocol calls a kind.
fn name(kind: Kind) -> String {
    let value = kind.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The file as the other process finds it, whose working directory is another one.
fn absolute(file: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(file)
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let text = path.into_os_string().into_string();
    text.map_err(|path| Failure::Usage(format!("{path:?} cannot be written as JSON")))
}
