//! The command line: mistakes, signals, and what is left behind.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::process::Signal;

use crate::endpoint::{Retries, exchange, open, pair};
use crate::frames;
use crate::process::{Nic, PATIENCE, directory, run, until};

/// Runs `arguments`, which must be refused with one line that contains all of `words`.
#[track_caller]
fn refused(dir: &Path, arguments: &[&str], words: &[&str]) {
    let before = listing(dir);
    let (code, out, err) = run(dir, arguments);
    assert_eq!(code, Some(2), "{arguments:?}: {err}");
    assert_eq!(out, "", "{arguments:?}");
    let lines: Vec<_> = err.lines().collect();
    let [line] = lines[..] else {
        panic!("{arguments:?}: not one line: {err:?}");
    };
    for word in words {
        assert!(
            line.contains(word),
            "{arguments:?}: no {word:?} in {line:?}"
        );
    }
    assert_eq!(listing(dir), before, "{arguments:?} left something");
}

/// Names in a directory, sorted.
fn listing(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

// --- mistakes

#[test]
fn every_mistake_is_answered_in_one_line() {
    let dir = directory();
    let long = "x".repeat(200);
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["no command", "serve --socket"]),
        (&["serv"], &["'serv'"]),
        (&["serve"], &["--socket"]),
        (&["serve", "--socket"], &["--socket"]),
        (&["serve", "--socket", ""], &["--socket"]),
        (&["serve", "--socket", "s", "extra"], &["'extra'"]),
        (&["serve", "--socket", "s", "--fast"], &["'--fast'"]),
        (&["serve", "--socket", &long], &[&long, "too long"]),
        (&["serve", "--socket", "no/s"], &["no/s", "No such file"]),
        (&["serve", "--socket", "."], &[".", "not a socket"]),
        (
            &["serve", "--socket", "s", "--socket", "s"],
            &["--socket s", "twice"],
        ),
        (
            &["serve", "--socket", "s", "--control", "s"],
            &["--control s", "listening"],
        ),
        (
            &["serve", "--socket", "s", "--control", "no/c"],
            &["--control no/c", "No such file"],
        ),
        (
            &["serve", "--socket", "s", "--link", "tap"],
            &["'tap'", "stream"],
        ),
        (
            &["serve", "--socket", "s", "--link", "shm"],
            &["shm:listen=PATH"],
        ),
        (&["serve", "--socket", "s", "--link", "shm:x=1"], &["'x'"]),
        (
            &["serve", "--socket", "s", "--link", "udp:local=1,remote=2"],
            &["'1'", "127.0.0.1:7000"],
        ),
        (
            &["serve", "--socket", "s", "--link", "stream:listen=no/l"],
            &["no/l", "No such file"],
        ),
        (
            &["serve", "--socket", "s", "--link", "stream:listen=s"],
            &["s"],
        ),
        (
            &["serve", "--socket", "s", "--link", "none", "--link", "none"],
            &["--link"],
        ),
        (&["serve", "--socket", "s", "--mac", "1"], &["'1'", "02:00"]),
        (&["serve", "--vfs", "257"], &["257", "0..=256"]),
        (&["serve", "--vfs", "-1"], &["-1"]),
        (&["serve", "--vfs", "many"], &["'many'", "--vfs"]),
        (
            &["serve", "--vfs", "2", "--socket", "s"],
            &["--vfs", "--socket", "cannot be used with"],
        ),
        (&["serve", "--socket", "s", "--dir", "."], &["--vfs"]),
        (&["serve", "--max-vfs", "2"], &["--socket"]),
        (
            &["serve", "--socket", "s", "--max-vfs", "2"],
            &["--max-vfs", "--socket", "cannot be used with"],
        ),
        (
            &["serve", "--vfs", "3", "--max-vfs", "2"],
            &["--vfs 3", "--max-vfs 2"],
        ),
        (
            &["serve", "--vfs", "3", "--max-vfs", "257"],
            &["257", "0..=256"],
        ),
        (
            &["serve", "--vfs", "2", "--dir", "no"],
            &["no/pf0.sock", "No such file"],
        ),
        (
            &["serve", "--socket", "s", "--mac", "01:00:00:00:00:01"],
            &["group"],
        ),
        (
            &["serve", "--socket", "s", "--mac", "00:00:00:00:00:00"],
            &["zero"],
        ),
        (
            &["serve", "--socket", "s", "--capture", "no/c"],
            &["no/c", "No such file"],
        ),
        (&["serve", "--socket", "s", "--capture", "."], &["capture"]),
        (
            &["serve", "--socket", "s", "--no-direct=maybe"],
            &["--no-direct"],
        ),
        (
            &["serve", "--socket", "s", "--impair", "drop=1%,loss=1%"],
            &["--impair", "'loss' is no impairment", "use drop"],
        ),
        (
            &["serve", "--socket", "s", "--impair", "tx:drop=1"],
            &["'drop=1' is neither a percentage such as 1%"],
        ),
        (
            &["serve", "--socket", "s", "--impair", "delay=1m"],
            &["'delay=1m' is not a duration such as 10us"],
        ),
        (
            &["serve", "--socket", "s", "--impair-event", "drop psn=x"],
            &["--impair-event", "'x' is not a whole number"],
        ),
        (
            &["serve", "--socket", "s", "--impair-event", "rx:lose"],
            &["'lose' is no action", "use drop"],
        ),
        (
            &["serve", "--socket", "s", "--impair", "drop=1%"],
            &["--impair", "--link"],
        ),
        (
            &[
                "serve",
                "--socket",
                "s",
                "--link",
                "shm:listen=l",
                "--impair",
                "drop=1%",
                "--impair",
                "rx:drop=2%",
            ],
            &["--impair: 'drop' is given twice"],
        ),
    ];
    for (arguments, words) in table {
        refused(dir.path(), arguments, words);
    }
}

#[test]
fn a_missing_link_peer_is_waited_for_and_named() {
    let dir = directory();
    let start = Instant::now();
    for kind in ["shm", "stream"] {
        let link = format!("{kind}:connect=nobody,wait=1");
        let arguments = ["serve", "--socket", "s", "--link", &link];
        refused(dir.path(), &arguments, &["nobody"]);
    }
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_peer_that_comes_while_it_is_waited_for_is_found() {
    let dir = directory();
    let link = ["--link", "shm:connect=l,wait=60"];
    let mut second = Nic::spawn(dir.path(), &["b"], &link);
    let first = Nic::start(dir.path(), &["a"], &["--link", "shm:listen=l"]);
    second.wait_ready();
    let (a, b) = (open(first.socket(0), 1), open(second.socket(0), 2));
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    exchange(&mut a, &mut b, &mut SmallRng::seed_from_u64(7));
}

#[test]
fn a_signal_ends_the_wait_for_a_peer() {
    let dir = directory();
    for signal in [Signal::INT, Signal::TERM] {
        let link = ["--link", "stream:connect=nobody,wait=3600"];
        let mut nic = Nic::spawn(dir.path(), &["a"], &link);
        nic.wait_accepts();
        let start = Instant::now();
        nic.signal(signal);
        nic.wait_end();
        assert!(start.elapsed() < PATIENCE / 2);
        assert_eq!(listing(dir.path()), ["a.log"]);
    }
}

// --- help

#[test]
fn help_names_every_option_and_version_is_the_packages() {
    let dir = directory();
    let version = format!("vrnic {}\n", env!("CARGO_PKG_VERSION"));
    let result = run(dir.path(), &["--version"]);
    assert_eq!(result, (Some(0), version, String::new()));
    let (code, out, err) = run(dir.path(), &["--help"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("serve") && out.contains("--version"), "{out}");
    let (code, out, err) = run(dir.path(), &["serve", "--help"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for word in [
        "--socket",
        "--vfs",
        "--vf-quota",
        "--max-vfs",
        "--dir",
        "--link",
        "--capture",
        "--control",
        "--mac",
        "--impair",
        "--impair-event",
        "--no-direct",
        "--trap-doorbells",
        "none",
        "shm:listen=",
        "shm:connect=",
        "stream:listen=",
        "stream:connect=",
        "dgram:local=",
        "udp:local=",
    ] {
        assert!(out.contains(word), "no {word} in {out}");
    }
    // Every option that takes effect is documented: what help lists is all there is.
    let listed: Vec<_> = out
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .collect();
    assert_eq!(listed.len(), 13, "{listed:?}");
}

// --- socket files

#[test]
fn a_stale_socket_file_is_replaced() {
    let dir = directory();
    for name in ["a", "l"] {
        drop(UnixListener::bind(dir.path().join(name)).unwrap());
        assert!(UnixStream::connect(dir.path().join(name)).is_err());
    }
    let nic = Nic::start(dir.path(), &["a"], &["--link", "stream:listen=l"]);
    assert!(UnixStream::connect(dir.path().join("l")).is_ok());
    nic.stop();
    assert_eq!(listing(dir.path()), ["a.log"]);
}

#[test]
fn a_live_socket_is_refused_and_left_alone() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &["--link", "shm:listen=l"]);
    refused(
        dir.path(),
        &["serve", "--socket", "a"],
        &["a:", "listening"],
    );
    let occupied = ["serve", "--socket", "b", "--socket", "a"];
    refused(dir.path(), &occupied, &["a:", "listening"]);
    let link = ["serve", "--socket", "b", "--link", "shm:listen=l"];
    refused(dir.path(), &link, &["l"]);
    open(nic.socket(0), 1);
    nic.stop();
}

#[test]
fn another_kind_of_file_is_refused_and_left_alone() {
    let dir = directory();
    std::fs::write(dir.path().join("precious"), "data").unwrap();
    let arguments = ["serve", "--socket", "precious"];
    refused(dir.path(), &arguments, &["precious", "not a socket"]);
    let link = ["serve", "--socket", "s", "--link", "stream:listen=precious"];
    refused(dir.path(), &link, &["precious"]);
    let kept = std::fs::read_to_string(dir.path().join("precious")).unwrap();
    assert_eq!(kept, "data");
}

// --- signals

#[test]
fn signals_leave_no_file_and_a_whole_capture() {
    for signal in [Signal::INT, Signal::TERM] {
        for link in ["shm:listen=l", "stream:listen=l", "dgram:local=l,remote=r"] {
            ended_by(signal, link);
        }
    }
}

#[track_caller]
fn ended_by(signal: Signal, link: &str) {
    let dir = directory();
    let arguments = ["--link", link, "--capture", "c.pcapng", "--no-direct"];
    let mut nic = Nic::start(dir.path(), &["a", "b"], &arguments);
    let kind = std::fs::symlink_metadata(dir.path().join("l")).unwrap();
    assert!(kind.file_type().is_socket());
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    exchange(&mut a, &mut b, &mut SmallRng::seed_from_u64(8));
    // Clients are attached when it ends.
    nic.signal(signal);
    assert_eq!(nic.wait_end().code(), Some(0), "{}", nic.log());
    assert_eq!(listing(dir.path()), ["a-b.log", "c.pcapng"], "{link}");
    let capture = frames::read(&dir.path().join("c.pcapng"));
    let count = capture.frames.len() as u64 + capture.lost;
    assert!(count > 20, "{count} frames");
}

#[test]
fn a_process_that_never_had_a_client_ends_at_once() {
    let dir = directory();
    let mut nic = Nic::spawn(dir.path(), &["a"], &[]);
    until("the socket is there", || {
        dir.path().join("a").exists().then_some(())
    });
    nic.signal(Signal::INT);
    nic.wait_end();
    assert_eq!(listing(dir.path()), ["a.log"]);
}
