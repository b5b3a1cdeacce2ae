//! How much functions may have, as an operator says it at the start and while they are used.

use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use vrnic_abi::admin::Status;
use vrnic_abi::pci;
use vrnic_driver::{CompletionQueue, CqConfig, Driver, Error, Platform, QpConfig, QueuePair};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::control::{Client, ctl, ctl_ok, serve};
use crate::endpoint::{Endpoint, Retries, configure, exchange, open, open_with, pair};
use crate::foreign::{BAR_MSIX, IRQ_MSIX, REGION_CONFIG};
use crate::process::{Nic, directory, until};
use crate::traffic::{End, Pump};

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(11)
}

#[track_caller]
fn set(client: &mut Client, function: u16, quota: Value) {
    let arguments = json!({"function": function, "quota": quota});
    assert_eq!(client.execute("set-quota", arguments), json!({}));
}

#[track_caller]
fn refused(client: &mut Client, arguments: Value, word: &str) {
    let request = json!({"execute": "set-quota", "arguments": arguments});
    let answer = client.ask(&request.to_string());
    let said = answer["error"]["desc"].as_str().unwrap_or_default();
    assert!(said.contains(word), "{request}: {answer}");
}

/// A queue pair more, beside those of an endpoint.
fn one_more<P: Platform>(
    end: &Endpoint<P>,
    cq: &CompletionQueue<P>,
) -> Result<QueuePair<P>, Error> {
    let pd = end.driver.create_pd()?;
    end.driver.create_qp(&pd, cq, cq, QpConfig::default())
}

fn status(error: &Error) -> Option<Status> {
    match error {
        Error::Command { status, .. } => Some(*status),
        _ => None,
    }
}

#[track_caller]
fn no_resources<T>(result: Result<T, Error>) {
    let error = result.err().expect("refused");
    assert_eq!(status(&error), Some(Status::NoResources), "{error}");
}

#[test]
fn quotas_change_under_traffic_and_take_nothing_away() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let mut client = Client::connect(&dir.path().join("c"));
    let (near, far) = pair(&a, &b, Retries::Long);
    let (spare, other) = (Endpoint::new(&a), Endpoint::new(&b));
    let cqs = [&a, &b].map(|driver| driver.create_cq(CqConfig::default()).unwrap());
    let pump = Pump::start(near);
    pump.flows();

    let before = client.execute("query-quota", json!({"function": 0}));
    assert_eq!(before["quota"]["queue_pairs"], 16384);
    assert_eq!(before["in_use"]["queue_pairs"], 2, "{before}");
    // Less than there is, of everything that the traffic uses.
    set(
        &mut client,
        0,
        json!({"queue_pairs": 1, "completion_queues": 1, "regions": 0, "protection_domains": 0,
            "event_queues": 2, "doorbell_pages": 1, "pages": 0}),
    );
    pump.flows();
    let after = client.execute("query-quota", json!({"function": 0}));
    assert_eq!(before["in_use"], after["in_use"], "nothing is gone");
    assert_eq!(after["quota"]["regions"], 0);
    let attributes = a.query_device().unwrap();
    assert_eq!((attributes.max_qp, attributes.max_mr), (1, 0));
    no_resources(a.create_cq(CqConfig::default()));
    no_resources(a.create_pd());
    // The other function has nothing to do with it.
    let more = one_more(&other, &cqs[1]).unwrap();
    drop((more, other));
    // More works at once.
    set(
        &mut client,
        0,
        json!({"protection_domains": 9, "pages": 1 << 22}),
    );
    no_resources(one_more(&spare, &cqs[0]));
    set(&mut client, 0, json!({"queue_pairs": 3}));
    let third = one_more(&spare, &cqs[0]).unwrap();
    no_resources(one_more(&spare, &cqs[0]));
    drop((third, spare));
    pump.flows();
    let (_near, end) = pump.stop();
    assert!(matches!(end, End::Stopped), "{end:?}");
    drop(far);
    nic.stop();
}

#[test]
fn a_quota_outlives_resets_and_clients() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    let mine = json!({"queue_pairs": 7, "vectors": 5});
    set(&mut client, 0, mine.clone());
    let limits = |client: &mut Client| {
        let answer = client.execute("query-quota", json!({"function": 0}));
        json!({"queue_pairs": answer["quota"]["queue_pairs"], "vectors": answer["quota"]["vectors"]})
    };
    for number in 1..3 {
        let a = open(nic.socket(0), number);
        let attributes = a.query_device().unwrap();
        assert_eq!((attributes.max_qp, attributes.vectors), (7, 5));
        client.execute("function-reset", json!({"function": 0}));
        assert_eq!(limits(&mut client), mine);
        drop(a);
    }
    nic.stop();
}

// --- MSI-X

/// Waits until function 0 has no client.
#[track_caller]
fn wait_alone(client: &mut Client) {
    until("the client is gone", || {
        let functions = client.execute("query-functions", json!({}));
        (functions[0]["client"] == false).then_some(())
    });
}

/// What MSI-X looks like to a client that nobody here wrote: the capability's number, VFIO's, and
/// which of the table's first 64 entries are there.
fn shown(socket: &Path) -> (u16, u32, Vec<usize>) {
    let mut client = vfio_user::Client::new(socket).unwrap();
    let mut config = [0; 256];
    client.region_read(REGION_CONFIG, 0, &mut config).unwrap();
    let mut at = usize::from(config[0x34]);
    while config[at] != 0x11 {
        at = usize::from(config[at + 1]);
        assert_ne!(at, 0, "no MSI-X capability");
    }
    let control = u16::from_le_bytes([config[at + 2], config[at + 3]]);
    let count = client.get_irq_info(IRQ_MSIX).unwrap().count;
    let mut table = [0; 64 * 16];
    client.region_read(BAR_MSIX, 0, &mut table).unwrap();
    // After a reset an entry is masked, and what is no entry reads zero.
    let there = (0..64).filter(|n| table[16 * n + 12] == 1).collect();
    ((control & 0x7ff) + 1, count, there)
}

#[test]
fn vectors_change_while_no_client_has_seen_them() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    let b = open(nic.socket(1), 2);
    for vectors in [2u16, 1, 64] {
        set(&mut client, 0, json!({"vectors": vectors}));
        let there = (0..usize::from(vectors)).collect();
        assert_eq!(shown(nic.socket(0)), (vectors, vectors.into(), there));
        wait_alone(&mut client);

        // The driver wants four.
        let options = Options::default();
        let a = open_with(nic.socket(0), 1, options);
        let taken = a.platform().vectors();
        assert_eq!(taken, vectors.min(options.vectors));
        let (mut near, mut far) = pair(&a, &b, Retries::Long);
        exchange(&mut near, &mut far, &mut rng());
        let said = "while a client is attached";
        let other = if vectors == 3 { 4 } else { 3 };
        let change = json!({"function": 0, "quota": {"vectors": other, "queue_pairs": 5}});
        refused(&mut client, change, said);
        let quota = client.execute("query-quota", json!({"function": 0}))["quota"].take();
        assert_eq!(quota["vectors"], vectors);
        assert_eq!(quota["queue_pairs"], 16384, "nothing of it was done");
        // The number that it has is no change.
        set(&mut client, 0, json!({"vectors": vectors, "regions": 9}));
        set(&mut client, 0, json!({"regions": 65536}));
        drop((near, far, a));
        wait_alone(&mut client);
    }
    nic.stop();
}

/// With one vector, commands, events and completions share it, and waiting for each works.
#[test]
fn one_vector_is_enough() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    for function in 0..2 {
        set(&mut client, function, json!({"vectors": 1}));
    }
    let (a, b) = (open(nic.socket(0), 1), open(nic.socket(1), 2));
    let (mut near, mut far) = pair(&a, &b, Retries::Long);
    for _ in 0..20 {
        exchange(&mut near, &mut far, &mut rng());
    }
    let used = client.execute("query-quota", json!({"function": 0}))["in_use"].take();
    assert_eq!(
        (&used["vectors"], &used["event_queues"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(u32::from(pci::MSIX_VECTORS), 64);
    nic.stop();
}

// --- virtual functions from the start

#[test]
fn virtual_functions_start_with_the_quota_of_the_command_line() {
    let dir = directory();
    let limits = "qps=1,mrs=3,vectors=2";
    let arguments = ["--control", "c", "--vf-quota", limits];
    let nic = Nic::start_family(dir.path(), 2, &arguments);
    let functions: Vec<Arc<Driver<HostPlatform>>> = (0..3u8)
        .map(|n| open(nic.socket(n.into()), n + 1))
        .collect();
    let limit = |n: usize| {
        let attributes = functions[n].query_device().unwrap();
        (attributes.max_qp, attributes.max_mr, attributes.vectors)
    };
    assert_eq!(limit(0), (16384, 65536, 64), "the physical function");
    assert_eq!((limit(1), limit(2)), ((1, 3, 2), (1, 3, 2)));
    assert_eq!(functions[1].platform().vectors(), 2);

    let (mut near, mut far) = pair(&functions[1], &functions[2], Retries::Long);
    exchange(&mut near, &mut far, &mut rng());
    let cq = functions[1].create_cq(CqConfig::default()).unwrap();
    no_resources(one_more(&near, &cq));
    // One of them gets more, while both work.
    let mut client = Client::connect(&dir.path().join("c"));
    set(&mut client, 1, json!({"queue_pairs": 2}));
    let more = one_more(&near, &cq).unwrap();
    assert_eq!((limit(1).0, limit(2).0), (2, 1));
    exchange(&mut near, &mut far, &mut rng());
    drop((more, near, far, cq));

    // A reset by the operator takes all objects, and not the quota.
    client.execute("function-reset", json!({"function": 1}));
    functions[1].recover().unwrap();
    configure(&functions[1], 2);
    assert_eq!(limit(1), (2, 3, 2));
    nic.stop();
}

// --- mistakes, and people

#[test]
fn what_no_function_can_have_is_refused_and_changes_nothing() {
    let dir = directory();
    let nic = serve(dir.path(), &["a"], &[]);
    let mut client = Client::connect(&dir.path().join("c"));
    let before = client.execute("query-quota", json!({"function": 0}));
    for (quota, word) in [
        (json!({"queue_pairs": 16385}), "queue_pairs is 0 to 16384"),
        (json!({"vectors": 0}), "vectors is 1 to 64"),
        (json!({"event_queues": 1}), "event_queues is 2 to 64"),
        (json!({"doorbell_pages": 257}), "doorbell_pages is 1 to 256"),
        (json!({"regions": -1}), "u32"),
        (json!({"regions": 1.5}), "u32"),
        (json!({"qps": 1}), "`qps`, but queue_pairs"),
        (json!(null), "null"),
    ] {
        let mut quota = quota;
        if let Value::Object(quota) = &mut quota {
            quota.insert("windows".into(), 4.into());
        }
        let arguments = json!({"function": 0, "quota": quota});
        refused(&mut client, arguments, word);
    }
    let nobody = json!({"function": 9, "quota": {}});
    refused(&mut client, nobody, "no function 9");
    let misspelt = json!({"function": 0, "quotas": {}});
    refused(&mut client, misspelt, "`quotas`");
    let after = client.execute("query-quota", json!({"function": 0}));
    assert_eq!(before, after);
    nic.stop();
}

#[test]
fn ctl_shows_and_changes_quotas() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &[]);
    let ok = |arguments: &[&str]| ctl_ok(dir.path(), arguments);
    let wrong = |arguments: &[&str], expected, word| {
        let (code, _, err) = ctl(dir.path(), arguments);
        assert_eq!(code, Some(expected), "{err}");
        assert!(err.contains(word), "{err}");
    };
    assert_eq!(ok(&["quota", "1", "qps=64,mrs=1024", "vectors=4"]), "");
    let json: Value = serde_json::from_str(&ok(&["quota", "1", "--json"])).unwrap();
    let quota = &json["quota"];
    assert_eq!(
        (&quota["queue_pairs"], &quota["regions"], &quota["vectors"]),
        (&json!(64), &json!(1024), &json!(4))
    );
    let table = ok(&["quota", "1"]);
    assert!(table.contains("\nmrs            0     1024\n"), "{table}");
    let table = ok(&["quota"]);
    let rows: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0][..3], ["FUNCTION", "QPS", "CQS"]);
    assert_eq!((rows[1][1], rows[2][1]), ("0/16384", "0/64"));
    assert_eq!(ok(&["quota", "--json"]).lines().count(), 2);
    ok(&["quota", "1", "qps=max"]);
    assert!(ok(&["quota"]).contains("0/1024"));
    wrong(&["quota", "1", "qp=64"], 2, "'qp'");
    wrong(&["quota", "1", "qps=16385"], 2, "0 to 16384");
    wrong(&["quota", "7", "qps=5"], 1, "no function 7");
    let _driver = open(nic.socket(0), 1);
    wrong(
        &["quota", "0", "vectors=5"],
        1,
        "while a client is attached",
    );
    nic.stop();
}
