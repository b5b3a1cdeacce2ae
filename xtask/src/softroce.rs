//! Linux Soft-RoCE as the peer of a vrnic, on the same wire.
//!
//! In: the lines `RESULT {…}` of the two programs, one that drives the vrnic from this machine and
//! one that drives `rdma_rxe` in a virtual machine. The former prints a line for each step that went
//! well, after both ends have compared every byte. Out: whether all happened that had to, by a table
//! of its own, and whether a dissector finds every packet of both well-formed.
//!
//! A part of what Soft-RoCE sends is kept as data for the tests of the firmware, made by
//! [`capture()`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::vm::scenario::{Report, Said, Scenario, Vm};
use crate::vm::scenarios::{SOFTROCE, wire};
use crate::vm::{Prepared, capture};

/// Operations of each transport service.
const OPERATIONS: [(&str, &[&str]); 3] = [
    (
        "RC",
        &[
            "SEND",
            "SEND_IMM",
            "SEND_INV",
            "WRITE",
            "WRITE_IMM",
            "READ",
            "CMP_SWAP",
            "FETCH_ADD",
            "ATOMIC_WRITE",
        ],
    ),
    ("UC", &["SEND", "SEND_IMM", "WRITE", "WRITE_IMM"]),
    ("UD", &["SEND", "SEND_IMM"]),
];

/// Operations on 8 bytes.
const ATOMIC: [&str; 3] = ["CMP_SWAP", "FETCH_ADD", "ATOMIC_WRITE"];

/// Path MTUs over which each operation is carried out in each direction.
const MTUS: [u64; 5] = [256, 512, 1024, 2048, 4096];

/// Sizes that each operation has in each direction, if it may have any size at all.
const SIZES: [u64; 8] = [0, 1, 3, 64, 4097, 65_539, 1 << 20, 8 << 20];

/// Queue pairs at once.
const QPS: u64 = 64;

/// What the lossy wire does, in each direction.
const LOSS: &str = "drop=1%,seed=1";

/// The frames that Soft-RoCE sends: its addresses are in the program's own setup.
const FROM_RXE: &str = "infiniband && (ip.src == 10.77.0.2 || ipv6.src == fd77::2)";

/// The scenario; `arguments` are further ones of the program that drives the vrnic, `nic` of the
/// RNIC itself.
fn scenario(name: &'static str, arguments: &str, nic: &[&str]) -> Scenario {
    let guest = Vm {
        softroce: true,
        run: Some("vrnic-softroce rxe".to_owned()),
        ..Vm::default()
    };
    let command = format!("$PEER vrnic --socket nic-a.sock --channel peer.sock {arguments}");
    let host = Vm {
        host: Some(command),
        ..Vm::default()
    };
    let mut nic_arguments = wire();
    nic_arguments.extend(nic.iter().map(|&word| word.to_owned()));
    Scenario {
        name,
        file: SOFTROCE,
        bound: Duration::from_secs(600),
        nics: vec![nic_arguments],
        vms: vec![guest, host],
    }
}

/// All operations, both ways, without loss.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let report = scenario("softroce-test", "", &[]).run(prepared)?;
    judge(&report, &needs())
}

/// All operations, both ways, while packets are lost in both directions.
pub(crate) fn lossy_test(prepared: &Prepared) -> Result<()> {
    let report = scenario("softroce-lossy", "--lossy", &["--impair", LOSS]).run(prepared)?;
    judge(&report, &lossy_needs())?;
    let log = fs::read_to_string(report.dir.join("nic-a.log"))?;
    let impaired: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" dropped,"))
        .collect();
    ensure!(!impaired.is_empty(), "nothing says that packets were lost");
    impaired.iter().for_each(|line| println!("  {line}"));
    Ok(())
}

/// A step that has to be taken: one whose result has all these fields.
type Need = Vec<(&'static str, Value)>;

/// Each operation in each direction.
fn each() -> impl Iterator<Item = Need> {
    let all = OPERATIONS.into_iter().flat_map(|(service, operations)| {
        let directions = operations
            .iter()
            .flat_map(|operation| ["vrnic", "rxe"].map(|from| (*operation, from)));
        directions.map(move |(operation, from)| (service, operation, from))
    });
    all.map(|(service, operation, from)| {
        vec![
            ("service", json!(service)),
            ("op", json!(operation)),
            ("from", json!(from)),
        ]
    })
}

fn with(need: &Need, field: &'static str, value: Value) -> Need {
    let mut need = need.clone();
    need.push((field, value));
    need
}

fn needs() -> Vec<Need> {
    let mut needs = Vec::new();
    for need in each() {
        let is = |field: &str, values: &[&str]| {
            let fields = need.iter();
            let found = fields.filter(|(name, _)| *name == field);
            found
                .into_iter()
                .any(|(_, value)| values.iter().any(|v| value == v))
        };
        let largest = match () {
            () if is("op", &ATOMIC) => 0,
            () if is("service", &["UD"]) => 4096,
            () => u64::MAX,
        };
        needs.extend(["IPv4", "IPv6"].map(|family| with(&need, "family", json!(family))));
        needs.extend(MTUS.map(|mtu| with(&need, "mtu", json!(mtu))));
        needs.push(with(&need, "qps", json!(QPS)));
        if largest > 0 {
            let sizes = SIZES.into_iter().filter(|size| *size <= largest);
            needs.extend(sizes.map(|size| with(&need, "size", json!(size))));
        }
    }
    needs
}

fn lossy_needs() -> Vec<Need> {
    // Soft-RoCE cannot send an atomic write again.
    let impossible = [("op", json!("ATOMIC_WRITE")), ("from", json!("rxe"))];
    let possible = each().filter(|need| !impossible.iter().all(|field| need.contains(field)));
    let lossy = possible.map(|need| with(&need, "lossy", json!(true)));
    lossy
        .flat_map(|need| [1, QPS].map(|qps| with(&need, "qps", json!(qps))))
        .collect()
}

/// Both programs came to their end, all that had to happen did, and all packets are well-formed.
fn judge(report: &Report, needs: &[Need]) -> Result<()> {
    let results: Vec<_> = report.guests.iter().flat_map(Said::results).collect();
    let done = results.iter().filter(|result| result["step"] == "done");
    ensure!(
        done.filter(|result| result["ok"] == true).count() == report.guests.len(),
        "a program did not come to its end"
    );
    let steps = verified(&results)?;
    let taken = |need: &Need| {
        let fits = |step: &&Value| need.iter().all(|(name, value)| step[*name] == *value);
        steps.iter().any(fits)
    };
    if let Some(missing) = needs.iter().find(|need| !taken(need)) {
        bail!("no step with {missing:?}");
    }
    println!("  {} steps verified on both ends", steps.len());
    capture::check(&report.dir.join("a.pcapng"))
}

/// The steps that were taken, of which all have to be right.
fn verified(results: &[Value]) -> Result<Vec<&Value>> {
    let steps = results.iter().filter(|result| result["step"] == "transfer");
    let right = |step: &Value| {
        // Unreliable messages may all have been lost, if packets were.
        let either = ["verified_vrnic", "verified_rxe"].map(|name| step[name].as_u64() > Some(0));
        step["ok"] == true && (either == [true; 2] || step["lossy"] == true)
    };
    let steps: Vec<_> = steps.collect();
    match steps.iter().find(|step| !right(step)) {
        Some(wrong) => bail!("{wrong}"),
        None => Ok(steps),
    }
}

/// `cargo xtask capture-softroce`: writes a frame of every opcode that Soft-RoCE sends, over either
/// version of IP, to a file.
///
/// # Errors
/// Something cannot be prepared, the run fails, or the file cannot be written.
pub(crate) fn capture(file: &Path) -> Result<ExitCode> {
    let prepared = Prepared::get(false)?;
    // An address that does not depend on where the run takes place.
    let nic = ["--mac", "02:00:00:00:00:01"];
    let report = scenario("softroce-sample", "--sample", &nic).run(&prepared)?;
    let frames = capture::frames(&report.dir.join("a.pcapng"), FROM_RXE)?;
    let mut chosen = BTreeMap::new();
    for frame in &frames {
        let key = kind(frame).with_context(|| format!("not RoCEv2: {frame}"))?;
        chosen.entry(key).or_insert(frame);
    }
    let kernel = prepared.guest.kernel.file_name().unwrap_or_default();
    let kernel = kernel.to_string_lossy();
    let mut text = format!(
        "# Ethernet frames as Linux Soft-RoCE sends them, one of every opcode over either version of\n\
         # IP, without frame check sequence. Made by `cargo xtask capture-softroce`, from the packets\n\
         # of rdma_rxe in {kernel} to a vrnic.\n"
    );
    for ((opcode, ip), frame) in &chosen {
        writeln!(text, "# opcode {opcode}, {ip}\n{frame}")?;
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{} frames in {}", chosen.len(), file.display());
    Ok(ExitCode::SUCCESS)
}

/// Opcode in hexadecimal digits, and version of IP.
fn kind(frame: &str) -> Option<(&str, &str)> {
    // Digits up to the base transport header: Ethernet, IP and UDP.
    let (ip, header) = match frame.get(24..28)? {
        "0800" => ("IPv4", 2 * (14 + 20 + 8)),
        "86dd" => ("IPv6", 2 * (14 + 40 + 8)),
        _ => return None,
    };
    Some((frame.get(header..header + 2)?, ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::machine::Line;

    fn report(steps: &[Value]) -> Report {
        let done = json!({"step": "done", "ok": true});
        let said = |results: &[Value]| Said {
            lines: results
                .iter()
                .map(|result| Line {
                    at: Duration::ZERO,
                    text: format!("RESULT {result}"),
                })
                .collect(),
            ..Said::default()
        };
        let host = [steps, std::slice::from_ref(&done)].concat();
        Report {
            guests: vec![said(&[done]), said(&host)],
            dir: "nowhere".into(),
        }
    }

    fn step() -> Value {
        json!({"step": "transfer", "ok": true, "op": "SEND", "lossy": false,
               "verified_vrnic": 5, "verified_rxe": 5})
    }

    #[test]
    fn what_had_to_happen_and_did_not_is_named() {
        let need = vec![("op", json!("READ"))];
        let error = judge(&report(&[step()]), &[need]).unwrap_err();
        assert!(error.to_string().contains("READ"));
    }

    #[test]
    fn a_step_that_one_end_did_not_look_at_is_wrong() {
        let mut blind = step();
        blind["verified_rxe"] = json!(0);
        assert!(verified(&[step(), blind.clone()]).is_err());
        blind["lossy"] = json!(true);
        assert_eq!(verified(&[step(), blind]).unwrap().len(), 2);
    }

    #[test]
    fn frames_are_told_apart_by_opcode_and_version_of_ip() {
        let frame = |ethertype: &str, gap: usize| {
            format!("{}{ethertype}{}0a00", "0".repeat(24), "0".repeat(2 * gap))
        };
        assert_eq!(kind(&frame("0800", 28)), Some(("0a", "IPv4")));
        assert_eq!(kind(&frame("86dd", 48)), Some(("0a", "IPv6")));
        assert_eq!(kind(&frame("0806", 28)), None);
    }
}
