//! Captures, judged by a dissector that nobody here wrote.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::host::lock::Lock;
use crate::host::root::Roots;
use crate::host::tools;
use crate::{paths, process};

/// Dissectors that guess, from a few bytes, that a payload is theirs. Ours is random data: what they
/// make of it says nothing about our packets.
const GUESSES: [&str; 8] = [
    "eth_over_ib",
    "fc_infiniband",
    "iser_infiniband",
    "lnet_ib",
    "rpcrdma_infiniband",
    "sdp_infiniband",
    "smb_direct_infiniband",
    "smcr_infiniband",
];

/// RoCEv2 with anything in it that tshark calls malformed, or an error of its own.
const BAD: &str = "_ws.malformed || _ws.expert.severity == error";

/// Looks at every packet of a capture.
///
/// # Errors
/// There is no tshark, no RoCEv2 packet, or a malformed one.
pub(crate) fn check(file: &Path) -> Result<()> {
    let tshark = {
        let _lock = Lock::take(&paths::vm().join("lock"))?;
        tools::tshark(&mut Roots::default())?
    };
    let list = |filter: &str| {
        let mut command = Command::new(&tshark);
        command.args(
            GUESSES
                .iter()
                .flat_map(|name| ["--disable-heuristic", name]),
        );
        process::output(command.arg("-r").arg(file).args(["-Y", filter]))
    };
    let good = list("infiniband")?.lines().count();
    ensure!(good > 0, "{}: not one RoCEv2 packet", file.display());
    let bad = list(BAD)?;
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
