//! `cargo xtask demo`: two virtual machines exchange RDMA through vrnic.
//!
//! In: the lines `RESULT {…}` of the guest program, of which each has a `step`: `bringup` with how
//! long it took, `transfer` with what was moved and both sides' checksums, `done` at the end. Out:
//! the bring-up and the transfers as tables, then where captures and logs are. A transfer whose
//! checksums differ, anything that is not `ok`, or a missing end makes the demo fail.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::vm::Prepared;
use crate::vm::scenario::{Report, Said, Scenario, Vm, name};
use crate::vm::scenarios::{links, rnic_ids};

/// Runs it.
///
/// # Errors
/// Something cannot be prepared, a guest fails, or data differs.
pub(crate) fn run() -> Result<ExitCode> {
    let prepared = Prepared::get(false)?;
    let start = Instant::now();
    println!(
        "starting two vrnic and two virtual machines ({})",
        prepared.accel.name()
    );
    let report = scenario("demo").run_with(&prepared, |index, line| {
        let at = start.elapsed().as_secs_f64();
        if !line.text.starts_with("RESULT ") {
            println!("{at:6.1} s  {}  {}", name(index), line.text);
        }
        ControlFlow::Continue(())
    })?;
    show(&report);
    let transfers = check(&report)?;
    println!("\ncaptures (*.pcapng) and logs: {}", report.dir.display());
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

/// Prints the tables of what the guests report.
fn show(report: &Report) {
    let results = results(report);
    println!("\n     {:36} {:>10}", "bring-up", "ms");
    for step in of(&results, "bringup") {
        let field = |name| text(step, name);
        println!(
            "  {}  {:36} {:>10}",
            field("side"),
            field("name"),
            field("ms")
        );
    }
    println!(
        "\n     {:20} {:>8} {:>7} {:>10} {:>9} {:>10}  checksum here and there",
        "operation", "size", "pieces", "bytes", "MiB/s", "us",
    );
    of(&results, "transfer").for_each(row);
}

/// Judges what the guests report; returns the number of transfers.
///
/// # Errors
/// There is none, one is wrong, or a guest did not come to its end.
pub(crate) fn check(report: &Report) -> Result<usize> {
    let results = results(report);
    let transfers = of(&results, "transfer").count();
    ensure!(transfers > 0, "the guests report no transfer");
    if let Some(bad) = of(&results, "transfer").find(|transfer| !right(transfer)) {
        bail!("data differs: {bad}");
    }
    if let Some(bad) = results.iter().find(|result| result["ok"] == false) {
        bail!("a guest reports {bad}");
    }
    ensure!(
        of(&results, "done").count() == report.guests.len(),
        "a guest did not come to its end"
    );
    Ok(transfers)
}

fn results(report: &Report) -> Vec<Value> {
    report.guests.iter().flat_map(Said::results).collect()
}

fn of<'a>(results: &'a [Value], step: &'static str) -> impl Iterator<Item = &'a Value> {
    results.iter().filter(move |result| result["step"] == step)
}

/// Whether both sides have the same data, as they and we see it.
fn right(transfer: &Value) -> bool {
    let (here, there) = (
        text(transfer, "checksum_local"),
        text(transfer, "checksum_remote"),
    );
    transfer["ok"] == true && !here.is_empty() && here == there
}

/// Prints one transfer.
fn row(transfer: &Value) {
    let field = |name| text(transfer, name);
    println!(
        "  {}  {:20} {:>8} {:>7} {:>10} {:>9} {:>10}  {} {}{}",
        field("side"),
        field("op"),
        field("size"),
        format!("{}/{}", field("sges"), field("remote_sges")),
        field("bytes"),
        field("mib_s"),
        field("latency_us"),
        field("checksum_local"),
        field("checksum_remote"),
        if right(transfer) { "" } else { "  WRONG" },
    );
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

    use crate::vm::machine::Line;

    use super::*;

    #[test]
    fn a_transfer_is_right_only_if_its_checksums_agree() {
        assert!(right(
            &json!({"checksum_local": "0a", "checksum_remote": "0a", "ok": true})
        ));
        assert!(!right(
            &json!({"checksum_local": "0a", "checksum_remote": "0b", "ok": true})
        ));
        assert!(!right(&json!({"checksum_local": "0a", "ok": true})));
        assert!(!right(&json!({"ok": true})));
        assert!(!right(
            &json!({"checksum_local": "0a", "checksum_remote": "0a", "ok": false})
        ));
    }

    fn report(results: &[Value]) -> Report {
        let line = |result| Line {
            at: Duration::ZERO,
            text: format!("RESULT {result}"),
        };
        let said = Said {
            lines: results.iter().map(line).collect(),
            ..Said::default()
        };
        Report {
            guests: vec![said],
            dir: "nowhere".into(),
        }
    }

    #[test]
    fn a_demo_without_transfers_or_end_has_failed() {
        let transfer = json!({
            "step": "transfer", "checksum_local": "0a", "checksum_remote": "0a", "ok": true,
        });
        let done = json!({"step": "done", "ok": true});
        assert_eq!(
            check(&report(&[transfer.clone(), done.clone()])).unwrap(),
            1
        );
        assert!(check(&report(std::slice::from_ref(&done))).is_err());
        assert!(check(&report(std::slice::from_ref(&transfer))).is_err());
        let failed = json!({"step": "bringup", "ok": false});
        assert!(check(&report(&[failed, transfer, done])).is_err());
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
