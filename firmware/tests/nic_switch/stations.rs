//! Where stations are: learned by sight, put there by the operator, moved, forgotten.

use vrnic_abi::admin::FilterType;
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::nic::{
    AGEING, LEARNED_OF_FUNCTION, Policy, PortName, SpoofChecks, Station as KnownStation,
    StationRefused,
};
use vrnic_firmware::types::{Mac, Time};

use super::nic_bench::{Bench, Random, mac};
use super::rules::*;
use super::support::*;

const NONE: WqeFlags = WqeFlags::empty();
/// A station behind a bridge.
const GUEST: Mac = Mac([2, 0, 0, 3, 3, 3]);

/// The stations that the switch knows.
fn known(bench: &Bench) -> impl Iterator<Item = KnownStation> + '_ {
    bench.nic.stations(bench.now, (Mac::default(), 0))
}

/// Three functions, each promiscuous as with a bridge behind it.
fn bridges(bench: &mut Bench) -> [Station; 3] {
    [1, 2, 3].map(|n| {
        let mut station = Station::new(bench, n);
        station.listen(bench, FilterType::Promiscuous, mac(0));
        station
    })
}

/// Function `from` (0 for the link) sends a frame; returns which functions get it, and whether it
/// goes out.
#[track_caller]
fn send(
    bench: &mut Bench,
    stations: &mut [Station; 3],
    from: usize,
    (source, to): (Mac, Mac),
) -> (Vec<usize>, bool) {
    let frame = ethernet(to, source, 0x88b5, &[0x42; 80]);
    match from.checked_sub(1) {
        Some(index) => stations[index].transmit(bench, &frame, NONE, 0),
        None => arrive(bench, &frame),
    }
    let mut heard = Vec::new();
    for (index, station) in stations.iter_mut().enumerate() {
        if let Some((_, bytes, _)) = station.received() {
            assert_eq!(bytes, frame);
            heard.push(index + 1);
        }
        assert!(station.received().is_none());
    }
    let out: Vec<_> = bench.wire.sent.drain(..).collect();
    assert!(out.is_empty() || out == [frame]);
    (heard, !out.is_empty())
}

#[test]
fn a_station_behind_a_function_is_learned() {
    let mut bench = Bench::default();
    let mut stations = bridges(&mut bench);
    let unknown = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
    assert_eq!(unknown, (vec![1, 3], true));
    send(&mut bench, &mut stations, 1, (GUEST, STRANGER));
    for (from, to) in [
        (2, (vec![1], false)),
        (0, (vec![1], false)),
        (1, (vec![], false)),
    ] {
        let source = if from == 0 { STRANGER } else { mac(from as u8) };
        let got = send(&mut bench, &mut stations, from, (source, GUEST));
        assert_eq!(got, to, "from {from}");
    }
    let seen: Vec<_> = known(&bench).map(|s| (s.mac, s.port)).collect();
    let behind = PortName::Function(stations[0].driver.id);
    assert_eq!(seen, [(STRANGER, PortName::Link), (GUEST, behind)]);
    // In another VLAN it is not known.
    let frame = tagged(&ethernet(GUEST, mac(2), 0x88b5, &[1; 80]), 5);
    stations[1].transmit(&mut bench, &frame, NONE, 0);
    assert!(stations[2].received().is_some());
    assert_eq!(bench.wire.sent.pop_front(), Some(frame));
}

#[test]
fn frames_to_a_station_on_the_link_are_for_nobody_else() {
    let mut bench = Bench::default();
    let mut stations = bridges(&mut bench);
    let before = send(&mut bench, &mut stations, 1, (mac(1), STRANGER));
    assert_eq!(before, (vec![2, 3], true));
    send(&mut bench, &mut stations, 0, (STRANGER, mac(3)));
    let after = send(&mut bench, &mut stations, 1, (mac(1), STRANGER));
    assert_eq!(after, (vec![], true));
    // What the link brings is shown to those who want to see it.
    let other = Mac([2, 0, 0, 0, 8, 8]);
    let brought = send(&mut bench, &mut stations, 0, (other, STRANGER));
    assert_eq!(brought, (vec![1, 2, 3], false));
    // A link that was down may lead elsewhere.
    bench.nic.set_link(false);
    bench.nic.set_link(true);
    assert_eq!(known(&bench).count(), 0);
}

#[test]
fn stations_move_and_are_forgotten() {
    let mut bench = Bench::default();
    let mut stations = bridges(&mut bench);
    for from in [1, 0, 3, 1] {
        send(&mut bench, &mut stations, from, (GUEST, Mac::BROADCAST));
        let got = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
        let expected = match from {
            0 => (vec![], true),
            from => (vec![from], false),
        };
        assert_eq!(got, expected);
    }
    // With a reset of its port: function 1 has no filters any more either.
    let id = stations[0].driver.id;
    bench.nic.reset(id);
    assert_eq!(known(&bench).count(), 0);
    let got = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
    assert_eq!(got, (vec![3], true));
    // With its port.
    send(&mut bench, &mut stations, 3, (GUEST, Mac::BROADCAST));
    let id = stations[2].driver.id;
    let port = PortName::Function(id);
    bench.nic.add_station(7, STRANGER, port).unwrap();
    assert_eq!(known(&bench).count(), 2);
    bench.nic.remove_function(id);
    assert_eq!(known(&bench).count(), 0);
    assert_eq!(
        bench.nic.add_station(7, STRANGER, port),
        Err(StationRefused::Port)
    );
    // With time.
    send(&mut bench, &mut stations, 0, (GUEST, Mac::BROADCAST));
    bench.now = Time(bench.now.0 + AGEING - 10_000_000);
    bench.step();
    assert_eq!(known(&bench).count(), 1);
    bench.now = Time(bench.now.0 + 10_000_000);
    bench.step();
    assert_eq!(known(&bench).count(), 0);
}

#[test]
fn the_operators_stations_are_where_he_says() {
    let mut bench = Bench::default();
    let mut stations = bridges(&mut bench);
    let port = PortName::Function(stations[2].driver.id);
    bench.nic.add_station(0, GUEST, port).unwrap();
    send(&mut bench, &mut stations, 1, (GUEST, Mac::BROADCAST));
    let got = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
    assert_eq!(got, (vec![3], false));
    bench.now = Time(bench.now.0 + 2 * AGEING);
    let got = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
    assert_eq!(got, (vec![3], false));
    bench.nic.add_station(0, GUEST, PortName::Link).unwrap();
    let got = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
    assert_eq!(got, (vec![], true));
    assert!(bench.nic.remove_station(0, GUEST));
    let got = send(&mut bench, &mut stations, 2, (mac(2), GUEST));
    assert_eq!(got, (vec![1, 3], true));
}

/// A function without trust, or whose addresses are checked, adds nothing that is not listed; no
/// function takes a neighbour's address by sending from it.
#[test]
fn only_what_is_allowed_is_learned() {
    let mut bench = Bench::default();
    let mut stations = bridges(&mut bench);
    let id = stations[0].driver.id;
    let listed = Mac([2, 0, 0, 3, 3, 4]);
    let untrusted = Policy {
        trusted: false,
        macs: vec![listed],
        ..Policy::default()
    };
    let checks = SpoofChecks {
        mac: true,
        ..SpoofChecks::default()
    };
    let checked = Policy {
        checks,
        macs: vec![listed],
        ..Policy::default()
    };
    for policy in [untrusted, checked] {
        set(&mut bench, id, policy);
        for source in [GUEST, mac(2), mac(1)] {
            send(&mut bench, &mut stations, 1, (source, STRANGER));
            assert_eq!(known(&bench).count(), 0, "{source:?}");
        }
        send(&mut bench, &mut stations, 1, (listed, STRANGER));
        assert_eq!(known(&bench).next().unwrap().mac, listed);
    }
    set(&mut bench, id, Policy::default());
    assert_eq!(known(&bench).count(), 0, "new rules, new stations");
    send(&mut bench, &mut stations, 1, (mac(2), STRANGER));
    let got = send(&mut bench, &mut stations, 3, (mac(3), mac(2)));
    assert_eq!(got, (vec![2], false));
}

/// Frames with random sources from one function: bounded, and the others' stations stay.
#[test]
fn a_flood_of_sources_harms_nobody() {
    let mut bench = Bench::default();
    let mut stations = bridges(&mut bench);
    send(&mut bench, &mut stations, 2, (GUEST, STRANGER));
    let mut random = Random(11);
    for _ in 0..2 * LEARNED_OF_FUNCTION {
        let [a, b, c, ..] = random.next().to_le_bytes();
        let source = Mac([2, 5, 5, a, b, c]);
        let frame = ethernet(mac(1), source, 0x88b5, &[1; 60]);
        stations[0].transmit(&mut bench, &frame, NONE, 0);
    }
    assert_eq!(known(&bench).count(), LEARNED_OF_FUNCTION + 1);
    let got = send(&mut bench, &mut stations, 3, (mac(3), GUEST));
    assert_eq!(got, (vec![2], false));
}
