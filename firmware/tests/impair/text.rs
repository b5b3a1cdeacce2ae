//! What users write, and what they are told about mistakes.

use std::time::Duration;

use vrnic_firmware::impair::{
    Action, Chance, Directed, Direction, Event, Impairment, Profile, Settings, Spec,
};
use vrnic_firmware::types::{Psn, Qpn};

use crate::seeded::Random;
use crate::support::*;

#[test]
fn an_event_reads_back_as_it_is_written() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut some = |limit: u64| random.percent(50).then(|| random.below(limit));
        let psn = some(1 << 24).map(|n| Psn::new(n as u32));
        let action = match some(5) {
            None => Action::Delay(Duration::from_nanos(seed * 499_000)),
            Some(0) => Action::Drop,
            Some(1) => Action::Duplicate,
            Some(2) => Action::Reorder,
            Some(3) => Action::Mark,
            Some(_) => Action::Corrupt,
        };
        let event = Event {
            psn: psn.map(|psn| (psn, psn.plus(some(3).unwrap_or(0) as u32))),
            qp: some(1 << 24).map(|n| Qpn::new(n as u32)),
            opcode: some(256).map(|n| n as u8),
            nth: 1 + some(u64::MAX).unwrap_or(0),
            times: some(u64::MAX).map(|n| 1 + n),
            ..Event::new(action)
        };
        assert_eq!(event.to_string().parse(), Ok(event), "seed {seed}: {event}");
    }
}

#[test]
fn settings_are_read_and_go_where_they_should() {
    let profile = Profile {
        drop: Chance::percent(1),
        duplicate: Chance::parts_per_billion(5_000_000),
        delay: Duration::from_micros(10),
        rate: Some(10_000_000_000),
        seed: 7,
        ..Profile::default()
    };
    let text = ["drop=1%,dup=0.5%,delay=10us", "tx:rate=10G", " seed=7"];
    let both = spec(&text, &["rx:drop psn=1"]);
    let shown = format!("{:?}", both.build(Direction::Transmit).unwrap());
    let expected = Impairment::new(Direction::Transmit, profile, &[]);
    assert_eq!(shown, format!("{expected:?}"));
    let profile = Profile {
        rate: None,
        ..profile
    };
    let event = Event {
        psn: Some((Psn::new(1), Psn::new(1))),
        ..Event::new(Action::Drop)
    };
    let shown = format!("{:?}", both.build(Direction::Receive).unwrap());
    let expected = Impairment::new(Direction::Receive, profile, &[event]);
    assert_eq!(shown, format!("{expected:?}"));
}

#[test]
fn every_mistake_in_settings_is_named() {
    let table = [
        ("", "'' asks for nothing"),
        ("tx:", "'tx:' asks for nothing"),
        ("drop", "'drop' is not KEY=VALUE, such as drop=1%"),
        ("drop=1%,,dup=1%", "'' is not KEY=VALUE, such as drop=1%"),
        ("loss=1%", "'loss' is no impairment; use drop, dup, "),
        ("ttx:drop=1%", "'ttx:drop' is no impairment; "),
        (
            "drop=1",
            "'drop=1' is neither a percentage such as 1% nor a fraction such as 0.01",
        ),
        ("dup=1%,drop=101%", "'drop=101%' is neither a percentage"),
        (
            "delay=1",
            "'delay=1' is not a duration such as 10us, 0.5ms or 2s",
        ),
        (
            "jitter=11s",
            "'jitter=11s' is too long; frames are delayed by at most 10s",
        ),
        (
            "rate=1",
            "'rate=1' is not a rate from 64K to 1T bits per second",
        ),
        (
            "seed=x",
            "'seed=x' is not a whole number from 0 to 18446744073709551615",
        ),
    ];
    for (text, message) in table {
        let error = text.parse::<Directed<Settings>>().unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
    let twice = |texts: [&str; 2]| {
        let mut spec = Spec::default();
        spec.set(&texts[0].parse().unwrap()).unwrap();
        spec.set(&texts[1].parse().unwrap())
            .map_err(|error| error.to_string())
    };
    let message = "'drop' is given twice for one direction".to_owned();
    assert_eq!(twice(["drop=1%", "tx:drop=2%"]), Err(message));
    assert_eq!(twice(["rx:drop=1%", "tx:drop=2%"]), Ok(()));
}

#[test]
fn every_mistake_in_events_is_named() {
    let table = [
        ("", "'' asks for nothing"),
        ("rx: ", "'rx: ' asks for nothing"),
        (
            "lose psn=5",
            "'lose' is no action; use drop, dup, reorder, mark, corrupt or delay=TIME",
        ),
        ("drop=5", "'drop=5' is no action; "),
        ("delay psn=5", "'delay' needs a value"),
        ("delay=5 psn=5", "'5' is not a duration such as "),
        ("delay=11s", "'11s' is too long"),
        (
            "drop pns=5",
            "'pns=5' says nothing about an event; use psn=N or psn=A..B, ",
        ),
        ("drop twice", "'twice' says nothing about an event; "),
        ("drop psn=", "'psn=' needs a value"),
        ("drop psn", "'psn' needs a value"),
        (
            "drop psn=16777216",
            "'16777216' is not a whole number from 0 to 16777215",
        ),
        (
            "drop psn=1..",
            "'' is not a whole number from 0 to 16777215",
        ),
        ("drop qp=x", "'x' is not a whole number from 0 to 16777215"),
        (
            "drop opcode=sned",
            "'sned' is no opcode; use a name such as rc_send_only or ack",
        ),
        ("drop opcode=256", "'256' is no opcode; "),
        ("drop nth=0", "'0' would never act; count from 1"),
        ("drop 0 times", "'0' would never act; count from 1"),
        ("drop 3", "'3' is a number that says nothing; use N times"),
        ("drop once always", "'always' is given twice"),
        ("drop psn=1 psn=2", "'psn' is given twice"),
    ];
    for (text, message) in table {
        let error = text.parse::<Directed<Event>>().unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
}
