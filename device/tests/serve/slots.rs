//! Virtual functions that come and go, and functions that are put out of service, while others are used.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::registers::HealthCode;
use vrnic_driver::{DmaBuffer, Driver, Error, Health, Platform};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::control::{Client, ctl, ctl_ok, serve};
use crate::endpoint::{Retries, configure, connect, exchange, open, pair};
use crate::lifecycle::drain;
use crate::process::{Nic, directory, until};
use crate::traffic::{End, Pump, Shuttle};

const NO_ANSWER: End = End::Failed(CompletionStatus::RetryExceeded);

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(11)
}

/// A physical function and `vfs` virtual ones of at most `most`, with control socket `c`.
#[track_caller]
fn family(dir: &Path, vfs: u16, most: u16) -> Nic {
    let most = most.to_string();
    Nic::start_family(dir, vfs, &["--max-vfs", &most, "--control", "c"])
}

/// A physical function and four virtual ones, of which the last two exchange data.
#[track_caller]
fn with_busy_neighbours(
    dir: &Path,
) -> (Nic, Vec<Arc<Driver<HostPlatform>>>, Shuttle<HostPlatform>) {
    let nic = family(dir, 4, 4);
    let all: Vec<_> = (0..5).map(|n| open(nic.socket(n), n as u8 + 1)).collect();
    let shuttle = Shuttle::start(pair(&all[3], &all[4], Retries::Long));
    (nic, all, shuttle)
}

fn vf_socket(dir: &Path, vf: u16) -> PathBuf {
    dir.join(format!("vf{vf}.sock"))
}

/// The error of a command.
#[track_caller]
fn refused(client: &mut Client, command: &str, arguments: Value, words: &[&str]) -> String {
    let request = json!({"execute": command, "arguments": arguments}).to_string();
    let answer = client.ask(&request);
    let desc = answer["error"]["desc"].as_str();
    let desc = desc.unwrap_or_else(|| panic!("{request}: {answer}"));
    for word in words {
        assert!(desc.contains(word), "{request}: no {word:?} in {desc}");
    }
    answer["error"]["class"].as_str().unwrap().to_owned()
}

/// Numbers of the functions that are served.
#[track_caller]
fn served(client: &mut Client) -> Vec<u64> {
    let functions = client.execute("query-functions", json!({}));
    let numbers = functions.as_array().unwrap().iter();
    numbers.map(|f| f["function"].as_u64().unwrap()).collect()
}

/// What would count if anything had been lost, late or refused.
#[track_caller]
fn has_lost_nothing(driver: &Driver<HostPlatform>) {
    let counters = driver.counters().unwrap();
    for counter in [
        Counter::TxRetransmits,
        Counter::LocalAckTimeoutErr,
        Counter::PacketSeqErr,
        Counter::OutOfSequence,
        Counter::ReqCqeError,
        Counter::RespCqeError,
        Counter::RxNoQp,
        Counter::PortXmitDiscards,
    ] {
        assert_eq!(counters.get(counter), 0, "{counter:?}");
    }
    assert!(matches!(driver.health(), Health::Good(_)));
}

// --- others are used meanwhile

#[test]
fn functions_come_and_go_while_others_exchange_data() {
    let dir = directory();
    let nic = family(dir.path(), 2, 5);
    let all: Vec<_> = (0..3).map(|n| open(nic.socket(n), n as u8 + 1)).collect();
    let shuttle = Shuttle::start(pair(&all[1], &all[2], Retries::Long));
    let mut client = Client::connect(&dir.path().join("c"));
    for round in 0..4 {
        let mut added = Vec::new();
        for vf in 2..5 {
            let answer = client.execute("add-vf", json!({}));
            assert_eq!(answer["function"], json!(vf + 1), "round {round}");
            let socket = vf_socket(dir.path(), vf);
            assert_eq!(answer["socket"], json!(socket));
            let driver = open(&socket, vf as u8 + 2);
            let mac = driver.query_port().unwrap().mac;
            let text: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(answer["mac"], json!(text.join(":")));
            shuttle.moves();
            // With the physical function, with one that is busy, and with its neighbour.
            for peer in [&all[0], &all[1]].into_iter().chain(added.last()) {
                let (mut a, mut b) = pair(&driver, peer, Retries::Long);
                exchange(&mut a, &mut b, &mut rng());
            }
            added.push(driver);
        }
        // In another order each time, with and without a client.
        let mut order = [2, 3, 4];
        order.rotate_left(round);
        added.truncate(2);
        for vf in order {
            client.execute("remove-vf", json!({"vf": vf}));
            assert!(!vf_socket(dir.path(), vf).exists());
            shuttle.moves();
        }
        assert_eq!(served(&mut client), [0, 1, 2]);
    }
    shuttle.stop();
    has_lost_nothing(&all[1]);
    has_lost_nothing(&all[2]);
    nic.stop();
}

#[test]
fn a_function_is_removed_with_its_client_under_traffic() {
    let dir = directory();
    let (nic, all, shuttle) = with_busy_neighbours(dir.path());
    let (near, far) = pair(&all[1], &all[2], Retries::Short);
    let memory = Arc::clone(&far.memory);
    let (to, from) = (Pump::start(near), Pump::start(far));
    to.flows();
    from.flows();
    let path = dir.path().join("c");
    let (mut events, mut client) = (Client::listening(&path), Client::connect(&path));
    client.execute("remove-vf", json!({"vf": 1}));
    // Nothing of it is in flight, although the peer goes on.
    let quiet = vec![0x3c; memory.len()];
    memory.write(0, &quiet);
    let (near, end) = to.ends();
    assert_eq!(end, NO_ANSWER);
    near.assert_good();
    let mut now = vec![0; memory.len()];
    memory.read(0, &mut now);
    assert!(now == quiet, "written to after it was removed");
    assert!(!matches!(from.stop().1, End::Failed(_)));
    assert!(!matches!(all[2].health(), Health::Good(_)));
    for event in ["CLIENT_GONE", "FUNCTION_RESET", "FUNCTION_REMOVED"] {
        assert_eq!(events.event(event), json!({"function": 2}));
    }
    assert_eq!(served(&mut client), [0, 1, 3, 4]);
    assert!(UnixStream::connect(nic.socket(2)).is_err());
    shuttle.stop();
    for driver in [&all[3], &all[4]] {
        has_lost_nothing(driver);
    }
    nic.stop();
}

#[test]
fn a_function_of_the_same_number_has_nothing_of_the_old() {
    let dir = directory();
    let nic = family(dir.path(), 2, 2);
    let path = dir.path().join("c");
    let (mut events, mut client) = (Client::listening(&path), Client::connect(&path));
    let peer = open(nic.socket(1), 2);
    let fresh = client.execute("query-function", json!({"function": 2}));
    let rules = client.execute("query-policy", json!({"function": 2}));
    for round in 0..3 {
        let driver = open(nic.socket(2), 3);
        let (mut a, mut b) = pair(&driver, &peer, Retries::Long);
        exchange(&mut a, &mut b, &mut rng());
        client.execute(
            "set-policy",
            json!({"function": 2, "vlan": {"mode": "access", "vlan": 7}, "trusted": false, "link": "disabled"}),
        );
        client.execute("set-function", json!({"function": 2, "enabled": false}));
        client.execute("remove-vf", json!({"vf": 1}));
        for command in [
            "query-function",
            "query-policy",
            "query-counters",
            "function-reset",
        ] {
            let which = json!({"function": 2});
            let class = refused(&mut client, command, which, &["no function 2"]);
            assert_eq!(class, "DeviceNotFound");
        }
        client.execute("add-vf", json!({}));
        assert_eq!(events.event("FUNCTION_REMOVED"), json!({"function": 2}));
        let added = json!({"function": 2, "number": 2});
        assert_eq!(events.event("FUNCTION_ADDED"), added);
        let now = client.execute("query-function", json!({"function": 2}));
        assert_eq!(now, fresh, "round {round}");
        let now = client.execute("query-policy", json!({"function": 2}));
        assert_eq!(now, rules, "round {round}");
        let counters = client.execute("query-counters", json!({"function": 2}));
        let counters = counters.as_object().unwrap();
        assert!(counters.values().all(|count| *count == 0), "{counters:?}");
        // The client of before reaches nothing of the new one.
        assert!(!matches!(driver.health(), Health::Good(_)));
        assert!(driver.query_port().is_err());
    }
    has_lost_nothing(&peer);
    nic.stop();
}

// --- nothing is left behind

/// Descriptors of a process, and its mappings of memory that it shares with clients.
fn holdings(nic: &Nic) -> (usize, usize) {
    let proc = PathBuf::from(format!("/proc/{}", nic.id()));
    let descriptors = std::fs::read_dir(proc.join("fd")).unwrap().count();
    let maps = std::fs::read_to_string(proc.join("maps")).unwrap();
    let shared = maps.lines().filter(|line| line.contains("memfd"));
    (descriptors, shared.count())
}

/// KiB of memory that a process has for itself.
fn own_memory(nic: &Nic) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", nic.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let size = line.unwrap().trim().strip_suffix(" kB").unwrap();
    size.parse().unwrap()
}

#[test]
fn a_hundred_rounds_leave_nothing_behind() {
    let dir = directory();
    let nic = family(dir.path(), 1, 3);
    let mut client = Client::connect(&dir.path().join("c"));
    let functions = client.execute("query-functions", json!({}));
    let before = holdings(&nic);
    let peer = open(nic.socket(1), 2);
    let mut warm = 0;
    for round in 0..100 {
        for vf in [1, 2] {
            client.execute("add-vf", json!({"vf": vf}));
        }
        let driver = open(&vf_socket(dir.path(), 1), 3);
        if round % 10 == 0 {
            let (mut a, mut b) = pair(&driver, &peer, Retries::Long);
            exchange(&mut a, &mut b, &mut rng());
        }
        for vf in [2, 1] {
            client.execute("remove-vf", json!({"vf": vf}));
        }
        if round == 10 {
            warm = own_memory(&nic);
        }
    }
    let grown = own_memory(&nic).saturating_sub(warm);
    assert!(grown < 1024, "{grown} KiB more than after ten rounds");
    drop(peer);
    // The last of it goes when the engine has seen to it. Two descriptors are opened when they are
    // first needed, and kept: the host's load, and the interrupts of the function that stays.
    let what = format!("{before:?} again, not {:?}", holdings(&nic));
    until(&what, || {
        let (descriptors, shared) = holdings(&nic);
        (descriptors <= before.0 + 2 && shared == before.1).then_some(())
    });
    let mut left = client.execute("query-functions", json!({}));
    left[1]["resets"] = functions[1]["resets"].clone();
    assert_eq!(left, functions);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 4, "two sockets, the control socket, the log");
    nic.stop();
}

// --- whatever the operator asks for

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let dir = directory();
    let arguments = [
        "--max-vfs",
        "4",
        "--control",
        "c",
        "--mac",
        "02:00:00:00:00:10",
    ];
    let nic = Nic::start_family(dir.path(), 2, &arguments);
    let all: Vec<_> = (1..3).map(|n| open(nic.socket(n), n as u8 + 1)).collect();
    let shuttle = Shuttle::start(pair(&all[0], &all[1], Retries::Long));
    let mut client = Client::connect(&dir.path().join("c"));
    let client = &mut client;
    refused(client, "add-vf", json!({"vf": 4}), &["4", "--max-vfs"]);
    refused(client, "add-vf", json!({"vf": 65535}), &["--max-vfs"]);
    refused(client, "add-vf", json!({"vf": 65536}), &["u16"]);
    refused(client, "add-vf", json!({"vf": 1}), &["vf1", "already"]);
    refused(client, "add-vf", json!({"function": 1}), &["`function`"]);
    for vf in [2, 3, 4, 65535] {
        let class = refused(client, "remove-vf", json!({"vf": vf}), &[&vf.to_string()]);
        assert_eq!(class, "DeviceNotFound");
    }
    refused(client, "remove-vf", json!({}), &["`vf`"]);
    for (mac, word) in [
        ("02:00:00:00:00:12", "function 2"),
        ("02:00:00:00:00:10", "function 0"),
        ("ff:ff:ff:ff:ff:ff", "group"),
        ("00:00:00:00:00:00", "zero"),
        ("nothing", "nothing"),
    ] {
        refused(client, "add-vf", json!({"mac": mac}), &[mac, word]);
    }
    // Somebody has its default address.
    client.execute("add-vf", json!({"vf": 3, "mac": "02:00:00:00:00:13"}));
    refused(
        client,
        "add-vf",
        json!({"vf": 2}),
        &["02:00:00:00:00:13", "function 4"],
    );
    client.execute("remove-vf", json!({"vf": 3}));
    refused(client, "remove-vf", json!({"vf": 3}), &["3"]);

    // Something is where the socket is to be.
    let socket = vf_socket(dir.path(), 2);
    std::fs::write(&socket, "precious").unwrap();
    refused(client, "add-vf", json!({}), &["vf2.sock", "not a socket"]);
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
    std::fs::remove_file(&socket).unwrap();
    let foreign = UnixListener::bind(&socket).unwrap();
    refused(client, "add-vf", json!({}), &["vf2.sock", "listening"]);
    drop(foreign);
    // It is dead, and replaced.
    client.execute("add-vf", json!({}));
    client.execute("add-vf", json!({}));
    refused(client, "add-vf", json!({}), &["4", "--max-vfs"]);
    assert_eq!(served(client), [0, 1, 2, 3, 4]);
    // Somebody else's is not removed with it.
    std::fs::remove_file(&socket).unwrap();
    let foreign = UnixListener::bind(&socket).unwrap();
    client.execute("remove-vf", json!({"vf": 2}));
    UnixStream::connect(&socket).unwrap();
    drop(foreign);
    shuttle.stop();
    nic.stop();
}

#[test]
fn single_functions_have_no_virtual_ones() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    let words = ["--socket", "--vfs"];
    refused(&mut client, "add-vf", json!({}), &words);
    refused(&mut client, "remove-vf", json!({"vf": 0}), &words);
    nic.stop();
}

/// Many requests at once, from several clients, in any order.
#[test]
fn a_storm_of_requests_leaves_what_was_asked_for_last() {
    const MOST: u16 = 6;
    let seed = 23;
    let dir = directory();
    let nic = family(dir.path(), 0, MOST);
    let path = dir.path().join("c");
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed + n);
                let mut client = Client::connect(&path);
                for _ in 0..200 {
                    let command = ["add-vf", "remove-vf"][rng.random_range(0..2)];
                    let arguments = json!({"vf": rng.random_range(0..MOST + 1)});
                    let request = json!({"execute": command, "arguments": arguments});
                    client.ask(&request.to_string());
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap_or_else(|_| panic!("seed {seed}"));
    }
    let mut client = Client::connect(&path);
    let there = served(&mut client);
    for vf in 0..MOST {
        let (number, socket) = (u64::from(vf) + 1, vf_socket(dir.path(), vf));
        assert_eq!(
            there.contains(&number),
            socket.exists(),
            "seed {seed}: {vf}"
        );
        let command = ["add-vf", "remove-vf"][usize::from(there.contains(&number))];
        client.execute(command, json!({"vf": vf}));
        if command == "add-vf" {
            open(&socket, 9);
        }
    }
    nic.stop();
}

/// Before any engine could have answered, its registers are there.
#[test]
fn a_client_that_comes_at_once_finds_a_function() {
    let dir = directory();
    let nic = family(dir.path(), 0, 1);
    let socket = vf_socket(dir.path(), 0);
    let early = std::thread::spawn(move || {
        let platform = until("the socket is there", || {
            HostPlatform::open_socket(&socket, Options::default()).ok()
        });
        let driver = crate::endpoint::probe(platform, 2);
        driver.query_port().unwrap();
    });
    let mut client = Client::connect(&dir.path().join("c"));
    client.execute("add-vf", json!({}));
    early.join().unwrap();
    nic.stop();
}

// --- out of service

#[test]
fn a_function_out_of_service_stays_out_until_it_is_put_back() {
    let dir = directory();
    let (nic, all, shuttle) = with_busy_neighbours(dir.path());
    let (near, far) = pair(&all[1], &all[2], Retries::Short);
    let memory = Arc::clone(&far.memory);
    let pump = Pump::start(near);
    pump.flows();
    let path = dir.path().join("c");
    let (mut events, mut client) = (Client::listening(&path), Client::connect(&path));
    let ok = |arguments: &[&str]| ctl_ok(dir.path(), arguments);
    ok(&["function", "2", "disable"]);
    let quiet = vec![0x3c; memory.len()];
    memory.write(0, &quiet);
    let fatal = events.event("FUNCTION_FATAL");
    assert_eq!(
        fatal,
        json!({"function": 2, "health": "disabled", "object": 0})
    );
    let (mut near, end) = pump.ends();
    assert_eq!(end, NO_ANSWER);
    let mut now = vec![0; memory.len()];
    memory.read(0, &mut now);
    assert!(now == quiet, "written to out of service");
    drop(far);
    let disabled = |error: &Error| {
        let code = u32::from(HealthCode::Disabled.raw());
        matches!(error, Error::DeviceFailed { code: c, .. } if *c == code)
    };
    for how in 0..3 {
        match how {
            0 => {}
            1 => drop(client.execute("function-reset", json!({"function": 2}))),
            _ => assert!(all[2].platform().reset_function()),
        }
        let error = all[2].recover().unwrap_err();
        assert!(disabled(&error), "{error}");
    }
    let shown = ok(&["function", "2"]);
    let mut lines = shown.lines().map(|line| line.split_whitespace());
    assert!(lines.any(|line| line.eq(["enabled", "no"])), "{shown}");
    ok(&["function", "2", "enable"]);
    let function = client.execute("query-function", json!({"function": 2}));
    assert_eq!(function["state"], "RESET", "{function}");
    assert_eq!(function["enabled"], true, "{function}");
    all[2].recover().unwrap();
    configure(&all[2], 3);
    let mut far = crate::endpoint::Endpoint::new(&all[2]);
    connect(&mut near, &mut far, Retries::Long);
    drain(&mut near);
    exchange(&mut near, &mut far, &mut rng());
    shuttle.stop();
    has_lost_nothing(&all[3]);
    nic.stop();
}

#[test]
fn ctl_adds_and_removes() {
    let dir = directory();
    let nic = family(dir.path(), 1, 3);
    let ok = |arguments: &[&str]| ctl_ok(dir.path(), arguments);
    let out = ok(&["add-vf"]);
    assert!(
        out.contains("function  2\n") && out.contains("vf1.sock\n"),
        "{out}"
    );
    let json = ok(&["--json", "add-vf", "2", "--mac", "02:00:00:00:00:77"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["function"], &json["mac"]),
        (&json!(3), &json!("02:00:00:00:00:77"))
    );
    assert_eq!(ok(&["remove-vf", "1"]), "");
    let (code, _, err) = ctl(dir.path(), &["remove-vf", "1"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("no virtual function 1"), "{err}");
    let functions = ok(&["functions"]);
    let lines: Vec<_> = functions.lines().skip(1).collect();
    assert_eq!(lines.len(), 3, "{functions}");
    let last: Vec<_> = lines[2].split_whitespace().collect();
    assert_eq!(last[..4], ["3", "VF", "3", "02:00:00:00:00:77"]);
    nic.stop();
}
