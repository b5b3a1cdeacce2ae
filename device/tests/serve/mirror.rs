//! Captures of functions: what each of them sends and gets, as frames, whatever way it really took.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;
use vrnic_driver::Platform;
use vrnic_firmware::wire::parse;

use crate::control::{Client, ctl, serve};
use crate::endpoint::{Endpoint, KINDS, Retries, open, pair, transfer};
use crate::frames::{Interface, read_interfaces};
use crate::modes::link_is_up;
use crate::process::{Nic, directory};

/// Around a path MTU of 4096 and its multiples.
const SIZES: [usize; 5] = [0, 1, 4096, 4097, 33_333];

/// Bytes that the payloads of one direction have at least after [`both_ways`].
const MOVED: usize = 5 * (1 + 4096 + 4097 + 33_333);

/// All operations with all sizes, in both directions.
#[track_caller]
fn both_ways<A: Platform, B: Platform>(a: &mut Endpoint<A>, b: &mut Endpoint<B>) {
    let mut rng = SmallRng::seed_from_u64(11);
    for kind in KINDS {
        for size in SIZES {
            transfer(a, b, kind, size, &mut rng);
            transfer(b, a, kind, size, &mut rng);
        }
    }
}

/// Bytes of payload in frames, all of which are sound RoCEv2 packets, their ICRC included, from
/// 10.9.0.`from`.
#[track_caller]
fn payload(frames: &[Vec<u8>], from: u8) -> usize {
    let payload = |frame: &Vec<u8>| {
        let packet = parse(frame).unwrap_or_else(|reason| panic!("{reason:?}: {frame:02x?}"));
        assert_eq!(packet.source.0[12..], [10, 9, 0, from]);
        packet.payload.len()
    };
    frames.iter().map(payload).sum()
}

/// Captures functions while `traffic` lasts, and returns the interfaces of the file. A busy machine can
/// be too slow for all frames, which the capture says: it is made again then.
#[track_caller]
fn capture(
    client: &mut Client,
    file: &Path,
    functions: &[u16],
    mut traffic: impl FnMut(),
) -> Vec<Interface> {
    for _ in 0..50 {
        client.execute(
            "capture-start",
            json!({"file": file, "functions": functions}),
        );
        let running = client.execute("query-capture", json!({}));
        let expected = json!({"running": true, "file": file, "functions": functions});
        assert_eq!(running, expected);
        traffic();
        let ended = client.execute("capture-stop", json!({}));
        let interfaces = read_interfaces(file);
        let lost: u64 = interfaces.iter().map(|one| one.lost).sum();
        assert_eq!(ended, json!({"file": file, "lost": lost}));
        if lost == 0 {
            return interfaces;
        }
    }
    panic!("each capture lacks frames");
}

#[test]
fn functions_that_exchange_data_directly_are_captured_as_frames() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 2, &["--control", "c"]);
    let [pf, one, two] = [0, 1, 2].map(|index| open(nic.socket(index), index as u8 + 1));
    let mut client = Client::connect(&dir.path().join("c"));
    let file = dir.path().join("vfs.pcapng");
    // The order of interfaces is that of the request.
    let (mut near, mut far) = pair(&one, &two, Retries::Long);
    let interfaces = capture(&mut client, &file, &[2, 1], || {
        both_ways(&mut near, &mut far);
    });
    let [vf1, vf0] = interfaces.try_into().unwrap();
    assert_eq!((&*vf1.name, &*vf0.name), ("vf1", "vf0"));
    for (sent, received, from) in [
        (vf0.sent, vf1.received, 2_u8),
        (vf1.sent, vf0.received, 3_u8),
    ] {
        assert!(payload(&sent, from) >= MOVED);
        assert!(sent == received, "what one sent is what the other got");
    }
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The data took the direct path all the same.
    let counters = client.execute("query-counters", json!({"function": 1}));
    assert!(counters["local_bytes"].as_u64().unwrap() >= MOVED as u64);

    // One is captured, with the other of whose frames only those to it are seen; and nothing after it.
    let (mut third, mut fourth) = pair(&pf, &two, Retries::Long);
    let (mut near, mut far) = pair(&pf, &one, Retries::Long);
    let interfaces = capture(&mut client, &file, &[1], || {
        both_ways(&mut third, &mut fourth);
        both_ways(&mut near, &mut far);
    });
    let [vf0] = interfaces.try_into().unwrap();
    assert!(payload(&vf0.sent, 2) >= MOVED && payload(&vf0.received, 1) >= MOVED);
    let length = file.metadata().unwrap().len();
    both_ways(&mut near, &mut far);
    assert_eq!(file.metadata().unwrap().len(), length);
    nic.stop();
}

#[test]
fn what_comes_from_the_link_is_captured_where_it_arrives() {
    let dir = directory();
    let link = |role: &str| format!("shm:{role}={}", dir.path().join("link").display());
    let one = serve(dir.path(), &["a"], &["--link", &link("listen")]);
    let two = Nic::start(dir.path(), &["b"], &["--link", &link("connect")]);
    let (a, b) = (open(one.socket(0), 1), open(two.socket(0), 2));
    link_is_up(&a);
    link_is_up(&b);
    let (mut near, mut far) = pair(&a, &b, Retries::Long);
    let mut client = Client::connect(&dir.path().join("c"));
    // On a bad wire, frames reach the NIC by another way.
    for impair in [&[][..], &["rx:delay=10us"]] {
        client.execute("impair-set", json!({"impair": impair}));
        let file = dir.path().join("a.pcapng");
        let interfaces = capture(&mut client, &file, &[0], || {
            both_ways(&mut near, &mut far);
        });
        let [interface] = interfaces.try_into().unwrap();
        assert_eq!(interface.name, "function 0");
        assert!(payload(&interface.sent, 1) >= MOVED, "{impair:?}");
        assert!(payload(&interface.received, 2) >= MOVED, "{impair:?}");
    }
    drop((near, far, a, b));
    one.stop();
    two.stop();
}

#[test]
fn a_capture_of_no_function_is_refused_and_starts_none() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    let file = dir.path().join("x.pcapng");
    for (functions, word) in [
        (json!([]), "empty"),
        (json!([0, 0]), "twice"),
        (json!([0, 1]), "DeviceNotFound"),
    ] {
        let arguments = json!({"file": file, "functions": functions});
        let request = json!({"execute": "capture-start", "arguments": arguments});
        let answer = client.ask(&request.to_string());
        assert!(answer["error"].to_string().contains(word), "{answer}");
        let state = client.execute("query-capture", json!({}));
        assert_eq!(state, json!({"running": false}));
    }
    assert!(!file.exists());
    let (code, _, err) = ctl(
        dir.path(),
        &["capture", "start", "x.pcapng", "--function", "0"],
    );
    assert_eq!((code, &*err), (Some(0), ""));
    let (_, said, _) = ctl(dir.path(), &["capture"]);
    assert!(said.ends_with("x.pcapng of functions 0\n"), "{said}");
    let (code, _, _) = ctl(dir.path(), &["capture", "stop"]);
    assert_eq!(code, Some(0));
    assert_eq!(read_interfaces(&file).len(), 1);
    nic.stop();
}
