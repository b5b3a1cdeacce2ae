//! Limits and weights of functions, in the real process and in real time: what functions get is
//! compared with what others get in the same time, so that it does not matter how busy the machine is.

use std::time::Instant;

use serde_json::{Value, json};
use vrnic_driver::{DmaBuffer, Operation};
use vrnic_driver_vfio::HostPlatform;

use crate::control::Client;
use crate::endpoint::{Endpoint, ROOM, Retries, connect, open};
use crate::process::{Nic, PATIENCE, directory};

/// Requests of a function, all posted at once: it never waits for its client.
const REQUESTS: u64 = 4_096;
const BYTES: u64 = REQUESTS * ROOM as u64;
/// The virtual functions that send, and their weights.
const SENDERS: [(u16, u8); 2] = [(1, 10), (2, 30)];

type Ends = (Endpoint<HostPlatform>, Endpoint<HostPlatform>);

/// Connects two functions with each other; the first can have all requests in flight.
#[track_caller]
fn ends(nic: &Nic, from: u8, to: u8) -> Ends {
    let [near, far] = [from, to].map(|n| open(nic.socket(n.into()), n));
    let (mut near, mut far) = (Endpoint::deep(&near, REQUESTS as u32), Endpoint::new(&far));
    connect(&mut near, &mut far, Retries::Long);
    let data: Vec<u8> = (0..ROOM)
        .map(|at| (at * 13 + at / 250) as u8 ^ from)
        .collect();
    near.memory.write(0, &data);
    (near, far)
}

fn set(client: &mut Client, function: u16, name: &str, value: impl Into<Value>) {
    client.execute(
        "set-policy",
        json!({"function": function, name: value.into()}),
    );
}

fn sent_by(client: &mut Client, function: u16) -> u64 {
    let counters = client.execute("query-counters", json!({"function": function}));
    counters["local_bytes"].as_u64().unwrap()
}

/// What both functions have sent at one moment: the first is asked before and after the second.
fn sent(client: &mut Client) -> [f64; 2] {
    let [one, other, again] = [1, 2, 1].map(|function| sent_by(client, function) as f64);
    [f64::midpoint(one, again), other]
}

/// What both functions have sent when the second has sent `goal`.
#[track_caller]
fn when_sent(client: &mut Client, goal: u64) -> [f64; 2] {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sent = sent(client);
        if sent[1] >= goal as f64 {
            return sent;
        }
        assert!(Instant::now() < deadline, "{sent:?} of {goal}");
    }
}

#[track_caller]
fn assert_one_to_three(before: [f64; 2], after: [f64; 2]) {
    let ratio = (after[1] - before[1]) / (after[0] - before[0]);
    assert!(
        (2.7..3.3).contains(&ratio),
        "1 to {ratio}, {before:?} {after:?}"
    );
}

#[test]
fn virtual_functions_share_by_weight_and_keep_to_their_limits() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 4, &["--control", "c"]);
    let mut client = Client::connect(&dir.path().join("c"));
    let mut streams = [ends(&nic, 1, 3), ends(&nic, 2, 4)];
    for ((function, weight), (near, _)) in SENDERS.iter().zip(&mut streams) {
        set(&mut client, *function, "weight", *weight);
        // Until both have all their requests.
        set(&mut client, *function, "max_rate", 1);
        let operation = Operation::Write(near.peer().remote(0));
        for number in 0..REQUESTS {
            near.post(number, operation, (0, ROOM)).unwrap();
        }
    }
    for (function, _) in SENDERS {
        set(&mut client, function, "max_rate", Value::Null);
    }
    let before = when_sent(&mut client, BYTES / 8);
    let after = when_sent(&mut client, BYTES * 5 / 8);
    assert!(
        after[1] < BYTES as f64,
        "the test asked too late: {after:?}"
    );
    assert_one_to_three(before, after);

    // The same parts, by limits.
    for (function, rate) in [(1, 400), (2, 1_200)] {
        set(&mut client, function, "max_rate", rate);
    }
    let begin = Instant::now();
    let before = sent(&mut client);
    let after = when_sent(&mut client, before[1] as u64 + (96 << 20));
    let elapsed = begin.elapsed().as_secs_f64();
    assert!(
        after[1] < BYTES as f64,
        "the test asked too late: {after:?}"
    );
    assert_one_to_three(before, after);
    // With what a bucket holds, and a PDU.
    let most = 1_200e6 / 8. * (elapsed * 1.02 + 0.002) + 65_536.;
    let found = after[1] - before[1];
    assert!(found <= most, "{found} bytes in {elapsed} s, not {most}");

    for (function, _) in SENDERS {
        set(&mut client, function, "max_rate", Value::Null);
    }
    for (mut near, far) in streams {
        for number in 0..REQUESTS {
            assert_eq!(near.wait_success().wr_id, number);
        }
        let [sent, got] = [&near, &far].map(|end| {
            let mut bytes = vec![0; ROOM];
            end.memory.read(0, &mut bytes);
            bytes
        });
        assert!(sent == got, "the data is another");
    }
    nic.stop();
}
