//! Building our programs: those of the guest without libraries, those of this machine as usual,
//! of which a guest that has libraries can run one, too.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::{check, paths};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const INIT: &str = "vrnic-guest-init";
/// Drives a vrnic inside a guest.
const GUEST: &str = "vrnic-guest";
/// Bad user space for a guest.
const TORMENT: &str = "vrnic-torment";
const VRNIC: &str = "vrnic";
/// Drives a vrnic on this machine, and Soft-RoCE inside a guest.
const PEER: &str = "vrnic-softroce";
const HOST_PROCESS: &str = "host_process";

/// Our programs, built.
pub(crate) struct Programs {
    init: PathBuf,
    /// Drives a vrnic: in a guest, or on this machine at a socket.
    pub guest: PathBuf,
    /// Does to a guest's RDMA device whatever a process may.
    pub torment: PathBuf,
    /// The RNIC itself.
    pub vrnic: PathBuf,
    /// Drives a vrnic on this machine, and Soft-RoCE inside a guest that has the libraries.
    pub peer: PathBuf,
    /// The how-to's example of a process that uses a function without a virtual machine.
    pub host_process: PathBuf,
}

impl Programs {
    /// Builds them, with Cargo's own words on the terminal.
    ///
    /// # Errors
    /// They do not compile.
    pub(crate) fn build() -> Result<Programs> {
        let guest_dir = paths::target().join("guest");
        run(for_guest(&mut cargo_build(
            &[INIT, GUEST, TORMENT],
            &guest_dir,
        )))?;
        let mut here = cargo_build(&[VRNIC, PEER], &paths::target());
        run(here.args(["--example", HOST_PROCESS]))?;
        let in_guest = guest_dir.join(TARGET).join("release");
        let here = paths::target().join("release");
        Ok(Programs {
            init: in_guest.join(INIT),
            guest: in_guest.join(GUEST),
            torment: in_guest.join(TORMENT),
            vrnic: here.join(VRNIC),
            peer: here.join(PEER),
            host_process: here.join("examples").join(HOST_PROCESS),
        })
    }

    /// Puts the guest's first process into an archive.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn add_init(&self, archive: &mut Archive) -> Result<()> {
        archive.host_file("init", 0o755, &self.init)
    }

    /// Second part of a guest's initramfs.
    ///
    /// # Errors
    /// A program cannot be read.
    pub(crate) fn overlay(&self, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        self.add_init(&mut archive)?;
        archive.host_file(&format!("bin/{GUEST}"), 0o755, &self.guest)?;
        for (path, data) in files {
            archive.file(path, 0o755, data);
        }
        Ok(archive.finish())
    }
}

fn cargo_build(names: &[&str], target_dir: &Path) -> Command {
    let mut cargo = Command::new(check::cargo_path());
    cargo
        .args(["build", "--release"])
        .current_dir(paths::checkout());
    cargo.args(names.iter().flat_map(|name| ["--bin", name]));
    cargo.arg("--target-dir").arg(target_dir);
    cargo
}

/// Makes it a build without libraries. With a target given, the flags are not applied to what runs
/// while building.
fn for_guest(cargo: &mut Command) -> &mut Command {
    cargo.args(["--target", TARGET]);
    cargo.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C strip=debuginfo",
    );
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS")
}

fn run(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the programs for the virtual machines do not compile");
    }
    Ok(())
}
