//! `cargo xtask demo`: two virtual machines exchange RDMA through vrnic.
//!
//! In: the lines `RESULT {…}` of the guest program. Those with a `step` are bring-up
//! (`{"step": TEXT, "ms": NUMBER}`); those with an `op` are transfers
//! (`{"op", "size", "note", "bytes", "crc", "peer_crc", "mib_s", "us", "ok"}`, all but `op`, `size`
//! and `ok` optional). Out: both as tables, then where captures and logs are. A transfer whose
//! two checksums differ, or that is not `ok`, makes the demo fail.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::vm::Prepared;
use crate::vm::scenario::{Report, Scenario, Vm, name};
use crate::vm::scenarios::{links, rnic_ids};

/// Runs it.
///
/// # Errors
/// Something cannot be prepared, a guest fails, or data differs.
pub(crate) fn run() -> Result<ExitCode> {
    let prepared = Prepared::get(false)?;
    if !prepared.programs.complete() {
        bail!("this checkout has no guest program yet, so there is nothing to show");
    }
    let start = Instant::now();
    println!(
        "starting two vrnic and two virtual machines ({})",
        prepared.accel.name()
    );
    let report = scenario("demo").run_with(&prepared, |index, line| {
        let at = start.elapsed().as_secs_f64();
        println!("{at:6.1} s  {}  {}", name(index), line.text);
    })?;
    let transfers = show(&report)?;
    println!("\ncaptures and logs: {}", report.dir.display());
    println!(
        "{transfers} transfers verified in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// The demo's scenario, which a test also runs.
pub(crate) fn scenario(run: &'static str) -> Scenario {
    let vm = |index| {
        let role = name(index);
        let command = format!(
            "vrnic-guest demo --role {role} --peer-channel /dev/ttyS1 --device $VRNIC_DEVICE"
        );
        Vm {
            nic: Some(index),
            vfio: Some(rnic_ids()),
            peer: true,
            run: Some(command),
            ..Vm::default()
        }
    };
    let vms = (0..2).map(vm).collect();
    Scenario {
        name: run,
        file: "two-vms",
        bound: Duration::from_secs(170),
        nics: links(2),
        vms,
    }
}

/// Prints the tables; returns the number of transfers.
///
/// # Errors
/// There is none, or one is wrong.
pub(crate) fn show(report: &Report) -> Result<usize> {
    println!();
    let mut transfers = Vec::new();
    for (index, said) in report.guests.iter().enumerate() {
        for result in said.results() {
            match text(&result, "step").as_str() {
                "" => transfers.push(result),
                step => println!("{}  {step:40} {:>8} ms", name(index), text(&result, "ms")),
            }
        }
    }
    println!(
        "\n{:24} {:>9} {:16} {:>10} {:>10} {:>10}  checksums",
        "operation", "bytes", "", "moved", "MiB/s", "us"
    );
    let mut wrong = 0;
    for transfer in &transfers {
        wrong += usize::from(!row(transfer));
    }
    let first = transfers.first().context("the guests report no transfer")?;
    if wrong > 0 {
        bail!(
            "{wrong} of {} transfers are wrong, as marked above (first: {first})",
            transfers.len()
        );
    }
    Ok(transfers.len())
}

/// Prints one transfer; whether it is right.
fn row(transfer: &Value) -> bool {
    let field = |name| text(transfer, name);
    let same = field("crc") == field("peer_crc");
    let right = same && transfer["ok"] == true;
    println!(
        "{:24} {:>9} {:16} {:>10} {:>10} {:>10}  {} {} {}",
        field("op"),
        field("size"),
        field("note"),
        field("bytes"),
        field("mib_s"),
        field("us"),
        field("crc"),
        field("peer_crc"),
        if right { "" } else { "WRONG" },
    );
    right
}

/// A field as text; empty if it is not there.
fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.1}"),
            _ => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transfer_is_right_only_if_its_checksums_agree() {
        assert!(row(
            &json!({"op": "SEND", "size": 1, "crc": "0a", "peer_crc": "0a", "ok": true})
        ));
        assert!(!row(
            &json!({"op": "SEND", "size": 1, "crc": "0a", "peer_crc": "0b", "ok": true})
        ));
        assert!(!row(
            &json!({"op": "SEND", "size": 1, "crc": "0a", "ok": true})
        ));
        assert!(!row(
            &json!({"op": "SEND", "size": 1, "crc": "0a", "peer_crc": "0a"})
        ));
    }

    #[test]
    fn numbers_read_well() {
        let value = json!({"a": 3, "b": 1.25, "c": "x"});
        assert_eq!(
            [
                text(&value, "a"),
                text(&value, "b"),
                text(&value, "c"),
                text(&value, "d")
            ],
            ["3", "1.2", "x", ""]
        );
    }
}
