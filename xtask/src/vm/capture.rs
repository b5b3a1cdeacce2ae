//! Captures, judged by a dissector that nobody here wrote.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::lock::Lock;
use crate::host::root::Roots;
use crate::host::tools;
use crate::{paths, process};

/// Dissectors that guess, from a few bytes, that a payload is theirs. Ours is random data: what they
/// make of it says nothing about our packets.
const GUESSES: [&str; 10] = [
    "eth_over_ib",
    "fc_infiniband",
    "iser_infiniband",
    "lnet_ib",
    "mellanox_eoib",
    "nvme_rdma",
    "rpcrdma_infiniband",
    "sdp_infiniband",
    "smb_direct_infiniband",
    "smcr_infiniband",
];

/// RoCEv2 leaves the UDP checksum out over IPv6, too, as tunnels may (RFC 6935): the ICRC covers more.
const NO_CHECKSUM: &str = "udp.ignore_ipv6_zero_checksum:TRUE";

/// RoCEv2 with anything in it that tshark calls malformed, or an error of its own.
const BAD: &str = "_ws.malformed || _ws.expert.severity == error";

/// Opcodes of the reliable services: all but those that are reserved.
const RELIABLE: [RangeInclusive<u8>; 3] = [0x00..=0x14, 0x16..=0x17, 0x1c..=0x1d];

/// Looks at every packet of a capture.
///
/// # Errors
/// There is no tshark, no RoCEv2 packet, or a malformed one.
pub(crate) fn check(file: &Path) -> Result<()> {
    let tshark = tshark()?;
    let good = list(&tshark, file, "infiniband", &[])?.lines().count();
    ensure!(good > 0, "{}: not one RoCEv2 packet", file.display());
    let bad = list(&tshark, file, BAD, &[])?;
    if let Some(first) = bad.lines().next() {
        bail!(
            "{}: {} malformed of {good}, first: {first}",
            file.display(),
            bad.lines().count()
        );
    }
    println!("  {good} RoCEv2 packets, none malformed");
    Ok(())
}

/// Has one packet of every opcode written, over IPv4, over IPv6 and in a VLAN, and looks whether
/// tshark finds them all, and in order.
pub(crate) fn every_opcode() -> Result<()> {
    let dir = paths::vm().join("run").join("every-opcode");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("every-opcode.pcapng");
    let mut cargo = Command::new(crate::check::cargo_path());
    cargo
        .args(["run", "--quiet", "-p", "vrnic", "--example", "every_opcode"])
        .arg("--")
        .arg(&file)
        .current_dir(paths::checkout());
    process::output(&mut cargo)?;
    check(&file)?;
    let fields = ["-T", "fields", "-e", "infiniband.bth.opcode"];
    for layer in ["ip && !vlan", "ipv6", "vlan"] {
        let filter = format!("infiniband && {layer}");
        let found = list(&tshark()?, &file, &filter, &fields)?;
        let found: BTreeSet<u8> = found
            .lines()
            .map(|line| {
                line.trim()
                    .parse()
                    .with_context(|| format!("opcode {line:?}"))
            })
            .collect::<Result<_>>()?;
        ensure!(
            found == all_opcodes(),
            "{layer}: the dissector found {found:02x?}"
        );
    }
    Ok(())
}

/// All opcodes of RC, UC, UD, CNP and XRC.
fn all_opcodes() -> BTreeSet<u8> {
    let of = |service: u8| {
        RELIABLE
            .into_iter()
            .flatten()
            .map(move |code| service | code)
    };
    let mut all: BTreeSet<u8> = of(0x00).chain(of(0xa0)).collect();
    all.extend(0x20..=0x2b);
    all.extend([0x64, 0x65, 0x81]);
    all
}

fn tshark() -> Result<PathBuf> {
    let _lock = Lock::take(&paths::vm().join("lock"))?;
    tools::tshark(&mut Roots::default())
}

/// The frames of a capture that pass a filter, each as hexadecimal digits.
///
/// # Errors
/// There is no tshark, or it cannot read the capture.
pub(crate) fn frames(file: &Path, filter: &str) -> Result<Vec<String>> {
    let packets = list(&tshark()?, file, filter, &["-T", "jsonraw"])?;
    let packets: Vec<Value> = serde_json::from_str(&packets)?;
    let frame = |packet: &Value| {
        let digits = packet["_source"]["layers"]["frame_raw"][0].as_str();
        digits.map(str::to_owned)
    };
    let frames: Option<_> = packets.iter().map(frame).collect();
    frames.context("tshark shows a packet without its bytes")
}

/// What tshark prints of the packets that a filter selects.
fn list(tshark: &Path, file: &Path, filter: &str, more: &[&str]) -> Result<String> {
    let mut command = Command::new(tshark);
    command.args(["-o", NO_CHECKSUM]);
    command.args(
        GUESSES
            .iter()
            .flat_map(|name| ["--disable-heuristic", name]),
    );
    process::output(command.arg("-r").arg(file).args(["-Y", filter]).args(more))
}
