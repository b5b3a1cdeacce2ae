//! Answers as people read them.
//!
//! What is not in an answer is left out, so that a ctl understands vrnics that say more or less.

use serde_json::{Map, Value};

use super::table::Table;
use super::{Kind, name};

/// A value as it stands in a table.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Text without what would control a terminal.
fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(visible).collect()
}

/// A table of `rows`, one column for each `(heading, pointer into the row)`.
fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let mut table = Table::with(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        let cell = |(_, at): &(&str, &str)| row.pointer(at).map_or_else(String::new, plain);
        table.row(columns.iter().map(cell));
    }
    table.text()
}

/// What is in an object, a line each.
fn list(object: &Value) -> Table {
    let mut table = Table::with([""; 2]);
    for (name, value) in object.as_object().into_iter().flatten() {
        if !value.is_object() {
            table.row([clean(name), plain(value)]);
        }
    }
    table
}

/// The lines of a list, which has no heading.
fn lines(table: &Table) -> String {
    let text = table.text();
    text.split_once('\n')
        .map_or(String::new(), |(_, rest)| rest.to_owned())
}

/// Nothing is to be said: it is done.
pub(super) fn nothing(_: &Value) -> String {
    String::new()
}

pub(super) fn functions(answer: &Value) -> String {
    let mut rows = answer.as_array().cloned().unwrap_or_default();
    rows.iter_mut().for_each(add_kind);
    table(
        &rows,
        &[
            ("FUNCTION", "/function"),
            ("KIND", "/kind"),
            ("MAC", "/mac"),
            ("STATE", "/state"),
            ("FAULT", "/fault/health"),
            ("CLIENT", "/client"),
            ("SOCKET", "/socket"),
        ],
    )
}

/// Physical or virtual, as people say it.
fn add_kind(function: &mut Value) {
    let kind = match function.get("number").and_then(Value::as_u64) {
        None => return,
        Some(0) => "PF".to_owned(),
        Some(number) => format!("VF {number}"),
    };
    if let Value::Object(function) = function {
        function.insert("kind".to_owned(), kind.into());
    }
}

pub(super) fn function(answer: &Value) -> String {
    let mut answer = answer.clone();
    add_kind(&mut answer);
    let mut list = list(&answer);
    if let Some(fault) = answer.get("fault").and_then(Value::as_object) {
        for (name, value) in fault {
            list.row([format!("fault {name}"), plain(value)]);
        }
    }
    let objects = answer.get("objects").and_then(Value::as_object);
    for (kind, count) in objects.into_iter().flatten() {
        if count.as_u64() != Some(0) {
            list.row([format!("{kind}s"), plain(count)]);
        }
    }
    lines(&list)
}

/// Columns of the table of a kind.
fn columns(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Qp => &[
            ("QP", "/number"),
            ("TYPE", "/type"),
            ("STATE", "/state"),
            ("ERROR", "/error"),
            ("PEER", "/peer/gid"),
            ("PEER-QP", "/peer/qp"),
            ("PD", "/pd"),
            ("SEND-CQ", "/send_cq"),
            ("RECV-CQ", "/receive_cq"),
            ("SRQ", "/srq"),
            ("SENT", "/send/consumer"),
            ("POSTED", "/send/producer"),
        ],
        Kind::Cq | Kind::Eq => &[
            ("NUMBER", "/number"),
            ("ENTRIES", "/entries"),
            ("USED", "/outstanding"),
            ("ARMED", "/armed"),
            ("FAILED", "/failed"),
            ("HELD", "/held"),
            ("EQ", "/eq"),
            ("VECTOR", "/vector"),
        ],
        Kind::Srq => &[
            ("SRQ", "/number"),
            ("TYPE", "/type"),
            ("PD", "/pd"),
            ("ENTRIES", "/entries"),
            ("LIMIT", "/limit"),
            ("QPS", "/users"),
            ("FAILED", "/failed"),
        ],
        Kind::Mr => &[
            ("KEY", "/key"),
            ("TYPE", "/type"),
            ("PD", "/pd"),
            ("START", "/memory/start"),
            ("LENGTH", "/memory/length"),
            ("ACCESS", "/memory/access"),
        ],
        Kind::Mw => &[
            ("KEY", "/key"),
            ("TYPE", "/type"),
            ("PD", "/pd"),
            ("MR", "/bound/region"),
            ("QP", "/bound/qp"),
            ("START", "/bound/start"),
            ("LENGTH", "/bound/length"),
            ("ACCESS", "/bound/access"),
        ],
        Kind::Pd | Kind::Xrcd => &[("NUMBER", "/number"), ("USERS", "/users")],
        Kind::Ah => &[
            ("AH", "/number"),
            ("PD", "/pd"),
            ("GID", "/gid"),
            ("MAC", "/mac"),
        ],
        Kind::Gid => &[
            ("INDEX", "/index"),
            ("GID", "/gid"),
            ("MAC", "/mac"),
            ("VLAN", "/vlan"),
        ],
        Kind::Filter => &[
            ("FILTER", "/number"),
            ("WANTS", "/wants"),
            ("MAC", "/mac"),
            ("VLAN", "/vlan"),
            ("SPREAD", "/spread"),
            ("QP", "/qp"),
        ],
        Kind::Mcast => &[("GID", "/gid"), ("VLAN", "/vlan"), ("QP", "/qp")],
    }
}

/// Objects of a kind, if there are any.
pub(super) fn objects(kind: Kind, objects: &[Value]) -> String {
    if objects.is_empty() {
        return String::new();
    }
    format!(
        "{}: {}\n{}",
        name(kind),
        objects.len(),
        table(objects, columns(kind))
    )
}

/// Counters that are not zero.
pub(super) fn counters(answer: &Value) -> String {
    counters_where(answer, |value| value != 0)
}

pub(super) fn all_counters(answer: &Value) -> String {
    counters_where(answer, |_| true)
}

fn counters_where(answer: &Value, wanted: fn(u64) -> bool) -> String {
    let mut table = Table::with([""; 2]);
    add_counters(
        &mut table,
        answer.as_object().unwrap_or(&Map::new()),
        wanted,
    );
    lines(&table)
}

fn add_counters(table: &mut Table, counters: &Map<String, Value>, wanted: fn(u64) -> bool) {
    for (name, value) in counters {
        if let Value::Object(group) = value {
            add_counters(table, group, wanted);
        } else if value.as_u64().is_some_and(wanted) {
            table.row([clean(name), plain(value)]);
        }
    }
}

/// The rules of a port, a line each.
pub(super) fn policy(answer: &Value) -> String {
    let mut list = list(answer);
    let vlan = answer.get("vlan").and_then(Value::as_object);
    for (name, value) in vlan.into_iter().flatten() {
        list.row([format!("vlan {}", clean(name)), plain(value)]);
    }
    let checks = answer.get("check").and_then(Value::as_object);
    for (name, value) in checks.into_iter().flatten() {
        list.row([format!("check {}", clean(name)), plain(value)]);
    }
    lines(&list)
}

/// The table of the switch.
pub(super) fn stations(stations: &[Value]) -> String {
    let mut table = Table::with(["MAC", "VLAN", "PORT", "KIND", "AGE"]);
    for station in stations {
        let cell = |at: &str| station.pointer(at).map_or_else(String::new, plain);
        let port = match station.pointer("/port/function") {
            Some(number) => format!("function {}", plain(number)),
            None => cell("/port"),
        };
        let fixed = station.get("static").and_then(Value::as_bool) == Some(true);
        let kind = if fixed { "static" } else { "learned" };
        let age = station.get("age").map(|age| format!("{} s", plain(age)));
        let row = [cell("/mac"), cell("/vlan"), port, kind.to_owned()];
        table.row(row.into_iter().chain([age.unwrap_or_default()]));
    }
    table.text()
}

pub(super) fn link(answer: &Value) -> String {
    lines(&list(answer))
}

pub(super) fn capture(answer: &Value) -> String {
    match (answer.get("file"), answer.get("functions")) {
        (Some(file), None) => format!("{}\n", plain(file)),
        (Some(file), Some(functions)) => {
            format!("{} of functions {}\n", plain(file), plain(functions))
        }
        (None, _) => "no capture is being made\n".to_owned(),
    }
}

/// How a capture ended.
pub(super) fn ended_capture(answer: &Value) -> String {
    let file = answer.get("file").map_or_else(String::new, plain);
    match answer.get("lost").and_then(Value::as_u64) {
        None | Some(0) => format!("{file}\n"),
        Some(lost) => format!("{file}: lacks {lost} frames, as the disk was too slow\n"),
    }
}

pub(super) fn impair(answer: &Value) -> String {
    let directions = answer.as_array().cloned().unwrap_or_default();
    if directions.is_empty() {
        return "nothing goes wrong\n".to_owned();
    }
    let mut text = String::new();
    for direction in directions {
        let mut table = Table::with([""; 2]);
        for (name, value) in direction.as_object().into_iter().flatten() {
            if !value.is_object() && !value.is_array() {
                table.row([clean(name), plain(value)]);
            }
        }
        for event in direction
            .get("events")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let acted = event.get("acted").and_then(Value::as_bool) == Some(true);
            let said = event.get("event").map_or_else(String::new, plain);
            let state = if acted { "event" } else { "event, not yet" };
            table.row([state.to_owned(), said]);
        }
        let counters = direction.get("counters").and_then(Value::as_object);
        for (name, value) in counters.into_iter().flatten() {
            if value.as_u64() != Some(0) {
                table.row([
                    format!("frames {}", clean(name)).replace("frames frames", "frames"),
                    plain(value),
                ]);
            }
        }
        text.push_str(&lines(&table));
    }
    text
}

/// An event: when, what, and about what.
pub(super) fn event(event: &Value) -> String {
    let number = |at: &str| event.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let (seconds, micros) = (
        number("/timestamp/seconds"),
        number("/timestamp/microseconds"),
    );
    let name = event.get("event").map_or_else(String::new, plain);
    let mut text = format!("{seconds}.{micros:06} {name}");
    for (name, value) in event
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        text.push_str(&format!(" {}={}", clean(name), plain(value)));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn functions_are_a_table() {
        let answer = json!([
            {"function": 0, "number": 0, "mac": "02:00:00:00:00:01", "state": "READY",
             "client": true, "socket": "/tmp/a"},
            {"function": 10, "number": 3, "mac": "02:00:00:00:00:02", "state": "ERROR",
             "fault": {"health": "events_lost"}, "client": false, "socket": "/tmp/\u{1b}[b"},
        ]);
        let text = "\
FUNCTION  KIND  MAC                STATE  FAULT        CLIENT  SOCKET
       0  PF    02:00:00:00:00:01  READY               yes     /tmp/a
      10  VF 3  02:00:00:00:00:02  ERROR  events_lost  no      /tmp/\u{fffd}[b
";
        assert_eq!(functions(&answer), text);
    }

    #[test]
    fn a_function_is_a_list() {
        let answer = json!({"function": 1, "state": "ERROR", "objects": {"qp": 2, "cq": 0},
            "fault": {"health": "internal"}});
        let text = "\
function      1
state         ERROR
fault health  internal
qps           2
";
        assert_eq!(function(&answer), text);
    }

    #[test]
    fn objects_show_what_their_kind_has() {
        let qp = json!({"number": 16, "type": "RC", "state": "ERR", "error": "retry_exceeded",
            "peer": {"qp": 17, "gid": "::ffff:10.0.0.2"}, "pd": 1, "send_cq": 1, "receive_cq": 2});
        let text = "\
qp: 1
QP  TYPE  STATE  ERROR           PEER             PEER-QP  PD  SEND-CQ  RECV-CQ
16  RC    ERR    retry_exceeded  ::ffff:10.0.0.2       17   1        1        2
";
        assert_eq!(objects(Kind::Qp, &[qp]), text);
        assert_eq!(objects(Kind::Pd, &[]), "");
    }

    #[test]
    fn counters_that_are_zero_are_shown_on_demand() {
        let answer = json!({"link": {"rx_frames": 3, "tx_frames": 0}, "drops": {"not_roce": 1}});
        assert_eq!(counters(&answer), "not_roce   1\nrx_frames  3\n");
        assert_eq!(
            all_counters(&answer),
            "not_roce   1\nrx_frames  3\ntx_frames  0\n"
        );
        assert_eq!(counters(&json!({})), "");
    }

    #[test]
    fn stations_are_a_table() {
        let answer = [
            json!({"mac": "02:00:00:00:00:01", "vlan": 0, "port": "link", "static": false,
                "age": 7}),
            json!({"mac": "02:00:00:00:00:02", "vlan": 12, "port": {"function": 3},
                "static": true}),
        ];
        let text = "\
MAC                VLAN  PORT        KIND     AGE
02:00:00:00:00:01     0  link        learned  7 s
02:00:00:00:00:02    12  function 3  static
";
        assert_eq!(stations(&answer), text);
    }

    #[test]
    fn impairments_and_events_are_said() {
        let answer = json!([{"direction": "tx", "drop": 0.01, "seed": 7,
            "events": [{"event": "drop psn=5", "acted": false}],
            "counters": {"frames": 9, "dropped": 1, "marked": 0}}]);
        let text = "\
direction       tx
drop            0.01
seed            7
event, not yet  drop psn=5
frames dropped  1
frames          9
";
        assert_eq!(impair(&answer), text);
        let said = json!({"event": "CLIENT_GONE", "data": {"function": 1},
            "timestamp": {"seconds": 5, "microseconds": 42}});
        assert_eq!(event(&said), "5.000042 CLIENT_GONE function=1\n");
    }
}
