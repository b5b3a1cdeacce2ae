//! Hostile clients of the control socket: each gets an error or loses its connection, others are
//! answered meanwhile, and guests' data keeps moving.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use vrnic_driver_vfio::HostPlatform;

use crate::control::Client;
use crate::endpoint::{Retries, exchange, open, pair};
use crate::process::{Nic, PATIENCE, directory, until};
use crate::traffic::Shuttle;

/// A process whose two functions exchange data.
struct World {
    dir: TempDir,
    nic: Nic,
    shuttle: Shuttle<HostPlatform>,
}

impl World {
    #[track_caller]
    fn new() -> Self {
        let dir = directory();
        let nic = Nic::start(dir.path(), &["a", "b"], &["--control", "c"]);
        let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
        let shuttle = Shuttle::start(pair(&a, &b, Retries::Long));
        Self { dir, nic, shuttle }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    fn connect(&self) -> UnixStream {
        connect(&self.path())
    }

    /// Data moves, and a client with manners is answered.
    #[track_caller]
    fn is_well(&self) {
        self.shuttle.moves();
        let mut client = Client::connect(&self.path());
        let functions = client.execute("query-functions", json!({}));
        assert_eq!(functions.as_array().unwrap().len(), 2);
    }

    /// Everything still works, and the process ends as it should.
    #[track_caller]
    fn stop(self) {
        self.is_well();
        let (mut a, mut b) = self.shuttle.stop();
        exchange(&mut a, &mut b, &mut SmallRng::seed_from_u64(1));
        drop((a, b));
        self.nic.stop();
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that comes until the connection ends, line by line, without the greeting.
#[track_caller]
fn rest(stream: &mut UnixStream) -> Vec<Value> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // It was closed while there was something that it had not read.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection does not end: {error}"),
    }
    let text = String::from_utf8(bytes).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.skip(1).collect()
}

fn error(answer: &Value) -> &str {
    answer["error"]["desc"].as_str().unwrap_or_default()
}

#[test]
fn mistakes_are_answered_and_the_connection_goes_on() {
    let world = World::new();
    let deep = |bracket: &str| {
        let (open, close) = bracket.split_at(1);
        format!(
            "{{\"execute\":\"query-link\",\"id\":{}1{}}}",
            open.repeat(30_000),
            close.repeat(30_000)
        )
    };
    let mut client = Client::connect(&world.path());
    let table: &[(&str, &str)] = &[
        ("nonsense\n", "bad JSON"),
        ("{\"execute\": \n", "bad JSON"),
        ("}]\n", "bad JSON"),
        ("[1,2]", "bad JSON"),
        ("{\"execute\": \"a\u{0}b\"}", "bad JSON"),
        ("{\"execute\": \"launch-missiles\"}", "there is no command"),
        (
            "{\"execute\": \"query-link\", \"arguments\": {\"x\": 1}}",
            "`x`",
        ),
        (
            "{\"execute\": \"query-link\", \"arguments\": null}",
            "bad JSON",
        ),
        (
            "{\"execute\": \"query-link\", \"control\": {}}",
            "`control`",
        ),
        ("{\"execute\": 5}", "bad JSON"),
        (
            "{\"execute\": \"function-reset\", \"arguments\": {\"function\": 1e99}}",
            "arguments",
        ),
        (
            "{\"execute\": \"query-function\", \"arguments\": {\"function\": 65535}}",
            "no function",
        ),
        (
            "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
            "oob",
        ),
        (&deep("[]"), "recursion limit"),
    ];
    for (request, word) in table {
        let answer = client.ask(request);
        assert!(error(&answer).contains(word), "{request:.80}: {answer}");
        world.is_well();
    }
    let far = json!({"function": 0, "kind": "mr", "from": u32::MAX});
    let page = client.execute("query-objects", far);
    assert_eq!(page, json!({"objects": []}));
    world.stop();
}

#[test]
fn bytes_that_are_no_text_are_answered() {
    let world = World::new();
    let mut stream = world.connect();
    stream
        .write_all(b"\xff\xfe\x00\n{\"execute\":\"\xc3\x28\"}\n{\"execute\":\"query-link\"}")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answers = rest(&mut stream);
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert!(error(&answers[0]).contains("bad JSON") && error(&answers[1]).contains("bad JSON"));
    assert!(answers[2]["return"].is_object());
    world.stop();
}

#[test]
fn a_line_without_end_costs_nothing() {
    let world = World::new();
    for byte in [b'x', b'{', b' ', b'"'] {
        let mut stream = world.connect();
        let portion = vec![byte; 1 << 20];
        let mut sent = 0;
        // 100 MiB, if anybody took it.
        while sent < 100 {
            match stream.write_all(&portion) {
                Ok(()) => sent += 1,
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&kind),
                        "{error}"
                    );
                    break;
                }
            }
        }
        assert!(sent < 2, "{sent} MiB were taken");
        let answers = rest(&mut stream);
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(
            error(&answers[0]).contains("at most 65536 bytes"),
            "{answers:?}"
        );
        world.is_well();
    }
    world.stop();
}

#[test]
fn half_closed_connections_are_answered_and_ended() {
    let world = World::new();
    let mut stream = world.connect();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), Vec::<Value>::new());

    let mut stream = world.connect();
    let requests: Vec<_> = (0..100)
        .map(|id| json!({"execute": "query-function", "arguments": {"function": id % 3}, "id": id}))
        .collect();
    let text: String = requests.iter().map(Value::to_string).collect();
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answers = rest(&mut stream);
    let ids: Vec<_> = answers
        .iter()
        .map(|answer| answer["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (0..100).collect::<Vec<_>>(), "all, in order");
    for (id, answer) in answers.iter().enumerate() {
        assert_eq!(answer.get("return").is_some(), id % 3 != 2, "{answer}");
    }

    // Those that go without reading, or in the middle of a message.
    for part in ["", "{\"execute\":", "{\"execute\":\"query-functions\"}"] {
        for _ in 0..20 {
            let mut stream = world.connect();
            stream.write_all(part.as_bytes()).unwrap();
        }
    }
    let mut reading = world.connect();
    reading.shutdown(Shutdown::Read).unwrap();
    let _ = reading.write_all("{\"execute\":\"query-functions\"}".repeat(100).as_bytes());
    world.stop();
}

#[test]
fn a_client_that_never_reads_is_not_served_for_long() {
    let world = World::new();
    let mut deaf = world.connect();
    deaf.set_nonblocking(true).unwrap();
    let long = "x".repeat(32_000);
    let request = json!({"execute": "query-events", "id": long}).to_string();
    let mut taken = 0;
    let full = until("nobody takes more", || {
        loop {
            match deaf.write(request.as_bytes()) {
                Ok(length) => taken += length,
                Err(error) => break (error.kind() == ErrorKind::WouldBlock).then_some(taken),
            }
        }
    });
    for _ in 0..10 {
        world.is_well();
    }
    assert!(full < 8 << 20, "{full} bytes were taken");
    // It reads at last, and gets what it asked for; the last request may not be whole.
    deaf.set_nonblocking(false).unwrap();
    deaf.shutdown(Shutdown::Write).unwrap();
    let answers = rest(&mut deaf);
    let done = answers
        .iter()
        .filter(|answer| answer["id"] == long.as_str())
        .count();
    assert!(done >= full / request.len(), "{done} of {full} bytes");
    world.stop();
}

#[test]
fn events_that_nobody_reads_end_a_client() {
    let world = World::new();
    let mut deaf = world.connect();
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}")
        .unwrap();
    let mut noisy = Client::connect(&world.path());
    let mut folder = world.dir.path().to_path_buf();
    folder.extend(["x".repeat(240), "y".repeat(240), "z".repeat(240)]);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("f");
    // More than the socket and vrnic keep: each is the text of an event of 800 bytes.
    for _ in 0..1000 {
        noisy.execute("capture-start", json!({"file": file}));
        noisy.execute("capture-stop", json!({}));
    }
    let answers = rest(&mut deaf);
    assert!(answers.len() > 50, "{} events", answers.len());
    assert!(answers.len() < 2000, "it was cut off");
    world.stop();
}

#[test]
fn a_hundred_clients_are_as_many_as_there_may_be() {
    let world = World::new();
    let mut streams: Vec<_> = (0..100).map(|_| world.connect()).collect();
    let (mut served, mut refused) = (Vec::new(), 0);
    for mut stream in streams.drain(..) {
        let mut first = vec![0; 512];
        let length = stream.read(&mut first).unwrap();
        let line: Value = serde_json::from_slice(&first[..length]).unwrap();
        if line.get("QMP").is_some() {
            served.push(stream);
        } else {
            assert!(error(&line).contains("16 control clients"), "{line}");
            assert_eq!(stream.read(&mut first).unwrap(), 0);
            refused += 1;
        }
    }
    assert_eq!((served.len(), refused), (16, 84));
    world.shuttle.moves();
    for stream in &mut served {
        stream
            .write_all(b"{\"execute\":\"query-link\",\"id\":1}")
            .unwrap();
    }
    for stream in &mut served {
        let mut answer = vec![0; 512];
        let length = stream.read(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer[..length]).unwrap();
        assert_eq!(answer["id"], 1);
    }
    drop(served);
    // Their places are free again when vrnic has noticed.
    until("there is room", || {
        let mut stream = world.connect();
        let mut first = vec![0; 512];
        let length = stream.read(&mut first).unwrap();
        first[..length].starts_with(b"{\"QMP\"").then_some(())
    });
    world.stop();
}

/// A piece of a message, or of nonsense.
fn piece(rng: &mut SmallRng) -> Vec<u8> {
    const PIECES: [&str; 14] = [
        "{\"execute\":\"query-objects\",\"arguments\":{\"function\":0,\"kind\":\"qp\"}}",
        "{\"execute\":\"query-counters\"}",
        "{\"execute\":\"set-link\",\"arguments\":{\"up\":true}}",
        "{\"execute\":\"qmp_capabilities\"}",
        "{\"execute\":\"",
        "\"arguments\":{",
        "}",
        "{",
        "\n",
        "\\\"",
        "\"id\":",
        "[[[[",
        "null",
        "18446744073709551616",
    ];
    match rng.random_range(0..3) {
        0 => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
        1 => vec![b'x'; rng.random_range(0..3000)],
        _ => PIECES[rng.random_range(0..PIECES.len())]
            .as_bytes()
            .to_vec(),
    }
}

#[test]
fn random_bytes_are_answered_with_json_or_the_end() {
    let world = World::new();
    for seed in 0..150 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut stream = world.connect();
        for _ in 0..rng.random_range(1..60) {
            // It may have been closed.
            if stream.write_all(&piece(&mut rng)).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
        for line in rest(&mut stream) {
            let known = ["return", "error", "event"]
                .iter()
                .any(|name| line.get(name).is_some());
            assert!(known, "seed {seed}: {line}");
        }
        if seed % 25 == 0 {
            world.is_well();
        }
    }
    world.stop();
}

#[test]
fn without_descriptors_clients_wait_and_the_log_says_so_once() {
    let world = World::new();
    let mut first = Client::connect(&world.path());
    for times in 1..3 {
        world.nic.starve(true);
        let waiting = connect(&world.path());
        // Each is a turn in which it could be accepted.
        for _ in 0..100 {
            first.execute("query-link", json!({}));
        }
        let log = world.nic.log();
        let said = log.matches("cannot accept a control client").count();
        assert_eq!(said, times, "{log}");
        world.nic.starve(false);
        first.execute("query-link", json!({}));
        let mut greeting = [0; 6];
        (&waiting).read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"{\"QMP\"");
    }
    drop(first);
    world.stop();
}
