//! The control socket: what it says is true, and what it does happens.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use vrnic_abi::object::PortState;
use vrnic_driver::{Driver, Health, Platform};
use vrnic_driver_vfio::HostPlatform;

use crate::endpoint::{Endpoint, ROOM, Retries, configure, connect, exchange, open, pair};
use crate::frames;
use crate::lifecycle::drain;
use crate::modes::link_is_up;
use crate::process::{Nic, PATIENCE, directory, run, until};
use crate::traffic::{End, Pump, Shuttle};

/// A client of a control socket.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        let greeting = client.line();
        assert!(greeting["QMP"]["version"].is_object(), "{greeting}");
        client
    }

    /// One that gets events.
    #[track_caller]
    pub(crate) fn listening(path: &Path) -> Self {
        let mut client = Self::connect(path);
        client.execute("qmp_capabilities", json!({}));
        client
    }

    #[track_caller]
    pub(crate) fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let json = line.strip_suffix("\r\n");
        serde_json::from_str(json.unwrap_or_else(|| panic!("{line:?}"))).unwrap()
    }

    /// The answer to a request, an error included.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &str) -> Value {
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        loop {
            let line = self.line();
            if line.get("event").is_none() {
                return line;
            }
        }
    }

    #[track_caller]
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        let mut answer = self.ask(&request.to_string());
        assert!(answer.get("return").is_some(), "{request}: {answer}");
        answer["return"].take()
    }

    /// Waits for an event, past others, and returns its data.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let mut line = self.line();
            if line["event"] == name {
                assert!(line["timestamp"]["seconds"].is_u64());
                return line["data"].take();
            }
        }
    }
}

/// A process with control socket `c`.
#[track_caller]
pub(crate) fn serve(dir: &Path, names: &[&str], arguments: &[&str]) -> Nic {
    Nic::start(dir, names, &[&["--control", "c"], arguments].concat())
}

// --- the socket

#[test]
fn the_socket_is_its_owners_and_goes_with_the_process() {
    let dir = directory();
    let path = dir.path().join("c");
    drop(UnixListener::bind(&path).unwrap());
    let nic = serve(dir.path(), &["a"], &[]);
    let mode = path.symlink_metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let _client = Client::connect(&path);
    // Another process leaves it alone.
    let again = ["serve", "--socket", "b", "--control", "c"];
    let (code, _, err) = run(dir.path(), &again);
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("--control c") && err.contains("listening"),
        "{err}"
    );
    Client::connect(&path);
    nic.stop();
    assert!(!path.exists());
}

// --- the description

/// Whether everything in `found` is of a kind that stands in `described`.
fn is_described(found: &Value, described: &Value) -> bool {
    match (found, described) {
        (Value::Object(found), Value::Object(described)) => found.iter().all(|(name, value)| {
            let known = described.get(name);
            known.is_some_and(|known| is_described(value, known))
        }),
        (Value::Array(found), Value::Array(described)) => {
            let first = described.first();
            found
                .iter()
                .all(|value| first.is_some_and(|first| is_described(value, first)))
        }
        (found, described) => std::mem::discriminant(found) == std::mem::discriminant(described),
    }
}

#[test]
fn every_example_of_the_description_is_true() {
    let dir = directory();
    let arguments = ["--max-vfs", "3", "--control", "c", "--link", "shm:listen=l"];
    let nic = Nic::start_family(dir.path(), 1, &arguments);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let _pair = pair(&a, &b, Retries::Long);
    let mut client = Client::connect(&dir.path().join("c"));
    let text = include_str!("../../../docs/control.md");
    let folder = format!("{}/", dir.path().display());
    let mut lines = text.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let Some(request) = line.strip_prefix("→ ") else {
            continue;
        };
        let answer = client.ask(&request.replace("/tmp/", &folder));
        assert!(answer.get("return").is_some(), "{request}: {answer}");
        if let Some(example) = lines.peek().and_then(|line| line.strip_prefix("← ")) {
            let example: Value = serde_json::from_str(example).unwrap();
            assert!(is_described(&answer, &example), "{request}: {answer}");
            count += 1;
        }
    }
    assert!(count >= 16, "{count} examples with an answer");
    nic.stop();
}

// --- looking

#[test]
fn what_a_driver_made_is_seen() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let path = dir.path().join("c");
    let mut events = Client::listening(&path);
    let mut client = Client::connect(&path);
    let before = client.execute("query-functions", json!({}));
    assert_eq!(before[1]["state"], "RESET");
    assert_eq!(
        (&before[1]["client"], &before[1]["socket"]),
        (&json!(false), &json!(nic.socket(1)))
    );

    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    assert_eq!(events.event("CLIENT_ATTACHED"), json!({"function": 0}));
    assert_eq!(events.event("FUNCTION_READY"), json!({"function": 0}));
    assert_eq!(events.event("CLIENT_ATTACHED"), json!({"function": 1}));
    let (mut near, mut far) = pair(&a, &b, Retries::Long);
    exchange(&mut near, &mut far, &mut SmallRng::seed_from_u64(1));

    let function = client.execute("query-function", json!({"function": 1}));
    assert_eq!(
        (&function["state"], &function["client"]),
        (&json!("READY"), &json!(true))
    );
    assert_eq!(function["objects"]["qp"], 1);
    let objects = |client: &mut Client, kind| {
        let page = client.execute("query-objects", json!({"function": 0, "kind": kind}));
        page["objects"].as_array().unwrap().clone()
    };
    let qps = objects(&mut client, "qp");
    let [qp] = &qps[..] else { panic!("{qps:?}") };
    assert_eq!(qp["number"], near.qp.number());
    assert_eq!(qp["peer"]["qp"], far.qp.number());
    assert_eq!((&qp["type"], &qp["state"]), (&json!("RC"), &json!("RTS")));
    assert_eq!(qp.get("error"), None);
    let mrs = objects(&mut client, "mr");
    assert_eq!(mrs[0]["key"], near.identity().rkey);
    assert_eq!(mrs[0]["memory"]["length"], json!(ROOM));
    let counters = client.execute("query-counters", json!({"function": 0}));
    let moved = counters["local_bytes"].as_u64().unwrap();
    let theirs = a.counters().unwrap();
    assert_eq!(moved, theirs.get(vrnic_abi::counter::Counter::LocalBytes));
    assert!(moved > 0);

    drop((near, far, a, b));
    assert_eq!(
        events.event("CLIENT_GONE")["function"]
            .as_u64()
            .map(|n| n < 2),
        Some(true)
    );
    events.event("FUNCTION_RESET");
    nic.stop();
}

#[test]
fn a_broken_queue_pair_says_why() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (near, _far) = pair(&a, &b, Retries::Short);
    let pump = Pump::start(near);
    pump.flows();
    let mut client = Client::connect(&dir.path().join("c"));
    client.execute("function-reset", json!({"function": 1}));
    let (_near, end) = pump.ends();
    assert!(matches!(end, End::Failed(_)), "{end:?}");
    let page = client.execute("query-objects", json!({"function": 0, "kind": "qp"}));
    let qp = &page["objects"][0];
    assert_eq!(qp["state"], "ERR", "{qp}");
    assert_eq!(qp["error"], "retry_exceeded", "{qp}");
    nic.stop();
}

#[test]
fn a_failed_function_says_why() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let a = open(nic.socket(0), 1);
    let path = dir.path().join("c");
    let (mut events, mut client) = (Client::listening(&path), Client::connect(&path));
    // More commands than the ring holds.
    let doorbell = vrnic_abi::registers::ADMIN_DOORBELL.offset;
    a.platform().write_register(doorbell, 0x7fff);
    let fatal = events.event("FUNCTION_FATAL");
    assert_eq!(
        (&fatal["function"], &fatal["health"]),
        (&json!(0), &json!("admin_ring_overrun"))
    );
    let function = client.execute("query-function", json!({"function": 0}));
    assert_eq!(function["state"], "ERROR", "{function}");
    assert_eq!(
        function["fault"]["health"], "admin_ring_overrun",
        "{function}"
    );
    client.execute("function-reset", json!({"function": 0}));
    assert_eq!(events.event("FUNCTION_RESET"), json!({"function": 0}));
    let function = client.execute("query-function", json!({"function": 0}));
    assert_eq!(
        (&function["state"], function.get("fault")),
        (&json!("RESET"), None)
    );
    nic.stop();
}

// --- changing

/// Two processes on a link, the first with a control socket.
fn two(dir: &Path) -> ([Nic; 2], [Arc<Driver<HostPlatform>>; 2]) {
    let nics = [
        serve(dir, &["a"], &["--link", "shm:listen=l"]),
        Nic::start(dir, &["b"], &["--link", "shm:connect=l"]),
    ];
    let drivers = [open(nics[0].socket(0), 1), open(nics[1].socket(0), 2)];
    drivers.iter().for_each(link_is_up);
    (nics, drivers)
}

#[test]
fn a_port_that_is_switched_off_has_no_link_and_passes_nothing() {
    let dir = directory();
    let (nics, drivers) = two(dir.path());
    let path = dir.path().join("c");
    let (mut events, mut client) = (Client::listening(&path), Client::connect(&path));
    // From inside and from outside.
    for sender in [0, 1] {
        let (near, far) = pair(&drivers[sender], &drivers[1 - sender], Retries::Short);
        let pump = Pump::start(near);
        pump.flows();
        client.execute("set-link", json!({"up": false}));
        let (_near, end) = pump.ends();
        assert!(matches!(end, End::Failed(_)), "{end:?}");
        events.event("LINK_DOWN");
        let link = client.execute("query-link", json!({}));
        let said = ["up", "carrier", "enabled"].map(|name| link[name].as_bool().unwrap());
        assert_eq!(said, [false, true, false]);
        assert_eq!(
            drivers[0].query_port().unwrap().state,
            PortState::Down.raw()
        );
        client.execute("set-link", json!({"up": true}));
        events.event("LINK_UP");
        link_is_up(&drivers[0]);
        drop(far);
    }
    let counters = client.execute("query-counters", json!({}));
    assert!(
        counters["drops"]["switched_off"].as_u64().unwrap() > 0,
        "{counters}"
    );
    let (mut near, mut far) = pair(&drivers[0], &drivers[1], Retries::Long);
    exchange(&mut near, &mut far, &mut SmallRng::seed_from_u64(2));
    drop((near, far, drivers));
    nics.into_iter().for_each(Nic::stop);
}

#[test]
fn impairments_come_and_go_under_traffic() {
    let dir = directory();
    let (nics, drivers) = two(dir.path());
    let mut client = Client::connect(&dir.path().join("c"));
    let shuttle = Shuttle::start(pair(&drivers[0], &drivers[1], Retries::Long));
    shuttle.moves();
    let bad = json!({"impair": ["dup=10%,delay=10us,seed=5"], "events": ["tx:dup nth=3"]});
    client.execute("impair-set", bad);
    shuttle.moves();
    let wires = client.execute("query-impair", json!({}));
    assert_eq!(wires[0]["direction"], "tx");
    assert_eq!(
        (&wires[0]["dup"], &wires[0]["delay_ns"]),
        (&json!(0.1), &json!(10_000))
    );
    assert_eq!(
        wires[0]["events"],
        json!([{"event": "dup nth=3 once", "acted": true}])
    );
    assert!(
        wires[1]["counters"]["delayed"].as_u64().unwrap() > 0,
        "{wires}"
    );
    let wrong = client.ask(r#"{"execute":"impair-set","arguments":{"impair":["loss=1%"]}}"#);
    assert!(
        wrong["error"]["desc"].as_str().unwrap().contains("'loss'"),
        "{wrong}"
    );
    client.execute("impair-clear", json!({}));
    shuttle.moves();
    until("nothing is impaired", || {
        let wires = client.execute("query-impair", json!({}));
        (wires == json!([])).then_some(())
    });
    let (mut near, mut far) = shuttle.stop();
    exchange(&mut near, &mut far, &mut SmallRng::seed_from_u64(3));
    drop((near, far, drivers));
    nics.into_iter().for_each(Nic::stop);
}

#[test]
fn a_capture_under_traffic_is_whole() {
    let dir = directory();
    let (nics, drivers) = two(dir.path());
    let mut client = Client::connect(&dir.path().join("c"));
    let shuttle = Shuttle::start(pair(&drivers[0], &drivers[1], Retries::Long));
    for name in ["x.pcapng", "y.pcapng"] {
        let file = dir.path().join(name);
        client.execute("capture-start", json!({"file": file}));
        let again = json!({"execute": "capture-start", "arguments": {"file": file}});
        let again = client.ask(&again.to_string());
        assert!(
            again["error"]["desc"].as_str().unwrap().contains(name),
            "{again}"
        );
        shuttle.moves();
        let ended = client.execute("capture-stop", json!({}));
        assert_eq!(ended["file"], json!(file));
        let capture = frames::read(&file);
        let packets = capture.frames.iter().filter(|frame| frames::is_roce(frame));
        assert!(packets.count() > 0);
    }
    // No other kind of file is opened: a FIFO would hold everybody up.
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for wrong in [fifo.as_path(), dir.path(), Path::new("/dev/null")] {
        let request = json!({"execute": "capture-start", "arguments": {"file": wrong}});
        let answer = client.ask(&request.to_string());
        assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
    }
    shuttle.stop();
    drop(drivers);
    nics.into_iter().for_each(Nic::stop);
}

#[test]
fn a_reset_by_the_operator_is_found_by_the_driver() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let path = dir.path().join("c");
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (near, mut far) = pair(&a, &b, Retries::Short);
    let pump = Pump::start(near);
    pump.flows();
    let (mut events, mut client) = (Client::listening(&path), Client::connect(&path));
    let resets = |client: &mut Client| {
        let function = client.execute("query-function", json!({"function": 0}));
        assert_eq!(function["state"], "RESET", "{function}");
        function["resets"].as_u64().unwrap()
    };
    client.execute("function-reset", json!({"function": 0}));
    let first = resets(&mut client);
    assert_eq!(events.event("FUNCTION_RESET"), json!({"function": 0}));
    pump.stop();
    assert!(matches!(a.health(), Health::Failed(_)));
    client.execute("function-reset", json!({"function": 0}));
    assert_eq!(resets(&mut client), first + 1);
    a.recover().unwrap();
    configure(&a, 1);
    assert_eq!(events.event("FUNCTION_READY"), json!({"function": 0}));
    let mut near = Endpoint::new(&a);
    connect(&mut near, &mut far, Retries::Long);
    drain(&mut far);
    exchange(&mut near, &mut far, &mut SmallRng::seed_from_u64(4));
    nic.stop();
}

// --- vrnic ctl

/// What `vrnic ctl` prints.
#[track_caller]
pub(crate) fn ctl(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    run(dir, &[&["ctl", "--control", "c"], arguments].concat())
}

/// The same, which has to succeed: what it prints on standard output.
#[track_caller]
pub(crate) fn ctl_ok(dir: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = ctl(dir, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}: {out}");
    out
}

#[test]
fn ctl_prints_tables_for_people_and_json_for_programs() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &["--mac", "02:00:00:00:00:01"]);
    let ok = |arguments: &[&str]| ctl_ok(dir.path(), arguments);
    let functions = ok(&["functions"]);
    let rows: Vec<Vec<_>> = functions
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["FUNCTION", "KIND", "MAC", "STATE", "CLIENT", "SOCKET"]
    );
    assert_eq!(
        rows[2][..5],
        ["1", "PF", "02:00:00:00:00:02", "RESET", "no"]
    );
    let json: Value = serde_json::from_str(&ok(&["--json", "functions"])).unwrap();
    assert_eq!(json[1]["mac"], "02:00:00:00:00:02");
    let pages = ok(&["objects", "0", "--json", "--kind", "qp"]);
    assert_eq!(pages, "{\"objects\":[]}\n");
    assert!(ok(&["function", "1"]).contains("state     RESET\n"));
    assert!(ok(&["counters", "--all", "0"]).contains("rx_no_qp "));
    assert_eq!(ok(&["counters", "0"]), "");
    assert_eq!(ok(&["link", "down"]), "");
    assert!(ok(&["link"]).contains("enabled  no\n"));
    assert_eq!(ok(&["reset", "1"]), "");
    assert_eq!(
        ok(&[
            "raw",
            r#"{"execute":"function-reset","arguments":{"function":1},"id":7}"#
        ]),
        "{\"return\":{},\"id\":7}\n"
    );
    assert_eq!(ok(&["capture", "start", "x.pcapng"]), "");
    let file = dir.path().join("x.pcapng");
    assert_eq!(ok(&["capture"]), format!("{}\n", file.display()));
    assert_eq!(ok(&["capture", "stop"]), format!("{}\n", file.display()));
    frames::read(&file);
    nic.stop();
}

#[test]
fn ctl_says_what_is_wrong() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let wrong = |arguments: &[&str], expected: i32, words: &[&str]| {
        let (code, _, err) = run(dir.path(), arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
        for word in words {
            assert!(err.contains(word), "{arguments:?}: no {word:?} in {err}");
        }
    };
    wrong(&["ctl"], 2, &["no command", "vrnic ctl --help"]);
    wrong(
        &["ctl", "--control", "c"],
        2,
        &["no command", "vrnic ctl --help"],
    );
    wrong(
        &["ctl", "--control", "none", "link"],
        2,
        &["none", "no such socket"],
    );
    wrong(
        &["ctl", "--control", "a.log", "link"],
        2,
        &["a.log", "not a socket"],
    );
    wrong(
        &["ctl", "--control", "a", "link"],
        2,
        &["not the control socket"],
    );
    wrong(
        &["ctl", "--control", "c", "reset", "9"],
        1,
        &["no function 9"],
    );
    wrong(&["ctl", "--control", "c", "reset", "x"], 2, &["'x'"]);
    wrong(
        &["ctl", "--control", "c", "impair", "drop=1%"],
        1,
        &["no link", "--link"],
    );
    wrong(
        &["ctl", "--control", "c", "capture", "stop"],
        1,
        &["no capture"],
    );
    wrong(
        &["ctl", "--control", "c", "raw", "nonsense"],
        1,
        &["bad JSON"],
    );
    drop(UnixListener::bind(dir.path().join("dead")).unwrap());
    wrong(
        &["ctl", "--control", "dead", "link"],
        2,
        &["dead", "nobody listens"],
    );
    nic.stop();
    wrong(&["ctl", "--control", "c", "link"], 2, &["no such socket"]);
}
