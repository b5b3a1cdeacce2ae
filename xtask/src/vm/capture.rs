//! Captures, judged by a dissector that nobody here wrote.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Prepared;
use crate::guest::programs::Programs;
use crate::host::lock::Lock;
use crate::host::root::Roots;
use crate::host::tools;
use crate::process::Background;
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

/// How long a vrnic takes to make its sockets at most.
const READY: Duration = Duration::from_secs(30);

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

/// Two virtual functions of one process exchange data directly while what passes their ports is
/// captured; looks whether tshark finds what each sent at the other one, and nothing malformed.
pub(crate) fn functions(prepared: &Prepared) -> Result<()> {
    let dir = paths::vm().join("run").join("capture-functions");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let Programs { vrnic, guest, .. } = &prepared.programs;
    let command = |program: &Path, arguments: &str| {
        let mut command = Command::new(program);
        command.args(arguments.split(' ')).current_dir(&dir);
        command
    };
    let ctl = |what: &str| process::output(&mut command(vrnic, &format!("ctl --control c {what}")));
    let log = File::create(dir.join("vrnic.log"))?;
    let mut serve = command(vrnic, "serve --vfs 2 --control c");
    let mut serve = Background::start(serve.stderr(log))?;
    serve.wait_for_file(&dir.join("c"), Instant::now() + READY)?;
    ctl("capture start vfs.pcapng --function 1 --function 2")?;
    let end = |role, number| {
        let arguments = "--peer-channel peer --max-size 70000";
        let arguments = format!("demo --socket vf{number}.sock --role {role} {arguments}");
        command(guest, &arguments)
    };
    let mut other = Background::start(end("b", 1).stdout(Stdio::null()))?;
    process::output(&mut end("a", 0))?;
    let status = other.child().wait()?;
    ensure!(status.success(), "vrnic-guest ended: {status}");
    ctl("capture stop")?;
    serve.terminate()?;
    let file = dir.join("vfs.pcapng");
    check(&file)?;
    let tshark = tshark()?;
    // In 1, out 2, as `epb_flags` say it.
    let packets = |interface: &str, direction: u8| {
        let filter = format!(
            "infiniband && frame.interface_name == \"{interface}\" \
             && frame.packet_flags_direction == {direction}"
        );
        list(
            &tshark,
            &file,
            &filter,
            &["-T", "fields", "-e", "infiniband.bth.psn"],
        )
    };
    for (from, to) in [("vf0", "vf1"), ("vf1", "vf0")] {
        let (sent, received) = (packets(from, 2)?, packets(to, 1)?);
        ensure!(
            !sent.is_empty() && sent == received,
            "{from} sent {} packets, {to} got {}",
            sent.lines().count(),
            received.lines().count()
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
