//! The table of the embedded switch, as an operator sees and changes it.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::{Value, json};

use crate::control::{Client, ctl, serve};
use crate::process::{directory, until};

/// All stations, page by page.
#[track_caller]
fn stations(client: &mut Client) -> Vec<Value> {
    let (mut all, mut query) = (Vec::new(), json!({}));
    loop {
        let mut answer = client.execute("query-stations", query);
        let page = answer["stations"].as_array().unwrap();
        assert!(page.len() <= 256);
        all.extend_from_slice(page);
        match answer.get_mut("next") {
            Some(next) => query = json!({"from": next.take()}),
            None => return all,
        }
    }
}

#[test]
fn what_the_operator_puts_somewhere_is_listed_until_he_removes_it() {
    let dir = directory();
    let nic = serve(dir.path(), &["a", "b"], &["--mac", "02:00:00:00:00:01"]);
    let mut client = Client::connect(&dir.path().join("c"));
    assert_eq!(stations(&mut client), [] as [Value; 0]);
    let behind = json!({"mac": "02:00:00:00:00:77", "vlan": 5, "port": {"function": 1}});
    client.execute("add-station", behind);
    client.execute(
        "add-station",
        json!({"mac": "02:00:00:00:00:66", "port": "link"}),
    );
    let one = json!({"mac": "02:00:00:00:00:66", "vlan": 0, "port": "link", "static": true});
    let mut two = json!({"mac": "02:00:00:00:00:77", "vlan": 5, "port": {"function": 1},
        "static": true});
    assert_eq!(stations(&mut client), [one.clone(), two.clone()]);
    // It moves.
    let args = "station add 02:00:00:00:00:77 --vlan 5 --function 0";
    let args: Vec<_> = args.split(' ').collect();
    assert_eq!(
        ctl(dir.path(), &args),
        (Some(0), String::new(), String::new())
    );
    two["port"] = json!({"function": 0});
    assert_eq!(stations(&mut client), [one, two.clone()]);
    let (code, ..) = ctl(dir.path(), &["station", "remove", "02:00:00:00:00:66"]);
    assert_eq!(code, Some(0));
    assert_eq!(stations(&mut client), [two]);

    let known = json!({"mac": "02:00:00:00:00:77"});
    for (command, station, word) in [
        ("remove-station", known, "no such static station"),
        (
            "add-station",
            json!({"mac": "01:00:5e:00:00:01", "port": "link"}),
            "group",
        ),
        (
            "add-station",
            json!({"mac": "02:00:00:00:00:02", "port": "link"}),
            "own",
        ),
        (
            "add-station",
            json!({"mac": "02:00:00:00:00:08", "port": {"function": 2}}),
            "function 2",
        ),
        (
            "add-station",
            json!({"mac": "02:00:00:00:00:08", "vlan": 4095, "port": "link"}),
            "VLAN",
        ),
        ("add-station", json!({"mac": "02:00:00:00:00:08"}), "`port`"),
        (
            "add-station",
            json!({"mac": "02", "port": "link"}),
            "Ethernet address",
        ),
    ] {
        let request = json!({"execute": command, "arguments": station});
        let answer = client.ask(&request.to_string());
        let desc = answer["error"]["desc"].as_str().unwrap_or_default();
        assert!(desc.contains(word), "{request}: {answer}");
        assert_eq!(stations(&mut client).len(), 1);
    }
    // It takes one port to put it behind.
    let (code, ..) = ctl(dir.path(), &["station", "add", "02:00:00:00:00:08"]);
    assert_eq!(code, Some(2));
    nic.stop();
}

/// A frame to all from the station with this number.
fn broadcast(number: u16) -> Vec<u8> {
    let [a, b] = number.to_be_bytes();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 9, a, b, 0x88, 0xb5]);
    frame.resize(60, 0x5a);
    frame
}

#[test]
fn stations_beyond_the_link_are_learned_and_listed_in_pages() {
    const COUNT: u16 = 600;
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    let link = |path: &Path| path.display().to_string();
    let peer = UnixDatagram::bind(at("peer")).unwrap();
    let spec = format!(
        "dgram:local={},remote={}",
        link(&at("local")),
        link(&at("peer"))
    );
    let nic = serve(dir.path(), &["a"], &["--link", &spec]);
    let mut client = Client::connect(&at("c"));
    // Frames that come before the port is up are not received.
    until("the link is up", || {
        let link = client.execute("query-link", json!({}));
        (link["up"] == true).then_some(())
    });
    for number in 0..COUNT {
        peer.send_to(&broadcast(number), at("local")).unwrap();
    }
    let learned = until("all are learned", || {
        let found = stations(&mut client);
        (found.len() == usize::from(COUNT)).then_some(found)
    });
    let mut macs = BTreeSet::new();
    for station in &learned {
        assert_eq!(
            (&station["port"], &station["static"]),
            (&json!("link"), &json!(false))
        );
        assert_eq!(station["vlan"], 0);
        assert!(station["age"].as_u64().unwrap() < 300, "{station}");
        macs.insert(station["mac"].as_str().unwrap());
    }
    assert_eq!(macs.len(), usize::from(COUNT), "each once");
    let (code, table, _) = ctl(dir.path(), &["stations"]);
    assert_eq!(
        (code, table.lines().count()),
        (Some(0), 1 + usize::from(COUNT))
    );
    assert!(table.contains("02:00:00:09:02:57"), "{table}");
    let (_, json, _) = ctl(dir.path(), &["--json", "stations"]);
    assert_eq!(json.lines().count(), 3, "a line for each page");
    nic.stop();
}
