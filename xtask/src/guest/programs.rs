//! Building our programs: those of the guest without libraries, those of this machine as usual.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::{check, paths, process};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const INIT: &str = "vrnic-guest-init";
/// The program that drives a vrnic inside a guest.
pub(crate) const GUEST: &str = "vrnic-guest";
/// The RNIC itself.
pub(crate) const VRNIC: &str = "vrnic";

/// Our programs, built.
pub(crate) struct Programs {
    init: PathBuf,
    guest: Option<PathBuf>,
    vrnic: Option<PathBuf>,
}

impl Programs {
    /// Builds them, with Cargo's own words on the terminal.
    ///
    /// # Errors
    /// They do not compile.
    pub(crate) fn build() -> Result<Programs> {
        let there = binaries()?;
        let has = |name: &str| there.iter().any(|binary| binary == name);
        let guest_dir = paths::target().join("guest");
        let in_guest = guest_dir.join(TARGET).join("release");
        run(&mut for_guest(INIT, &guest_dir))?;
        let guest = has(GUEST) && run(&mut for_guest(GUEST, &guest_dir)).is_ok();
        let vrnic = has(VRNIC) && run(&mut cargo_build(VRNIC, &paths::target())).is_ok();
        Ok(Programs {
            init: in_guest.join(INIT),
            guest: guest.then(|| in_guest.join(GUEST)),
            vrnic: vrnic.then(|| paths::target().join("release").join(VRNIC)),
        })
    }

    /// Second part of a guest's initramfs.
    ///
    /// # Errors
    /// A program cannot be read.
    pub(crate) fn overlay(&self, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        archive.host_file("init", 0o755, &self.init)?;
        if let Some(guest) = &self.guest {
            archive.host_file(&format!("bin/{GUEST}"), 0o755, guest)?;
        }
        for (path, data) in files {
            archive.file(path, 0o755, data);
        }
        Ok(archive.finish())
    }

    /// The RNIC.
    ///
    /// # Errors
    /// This checkout has no such program.
    pub(crate) fn vrnic(&self) -> Result<&Path> {
        self.vrnic
            .as_deref()
            .context("the package vrnic has no program yet")
    }

    /// Whether both the RNIC and the guest program are there.
    pub(crate) fn complete(&self) -> bool {
        self.vrnic.is_some() && self.guest.is_some()
    }
}

/// Names of all programs of the workspace.
fn binaries() -> Result<Vec<String>> {
    let mut cargo = Command::new(check::cargo_path());
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(paths::checkout());
    let metadata: serde_json::Value = serde_json::from_str(&process::output(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let programs = targets.filter(|target| target["kind"][0] == "bin");
    Ok(programs
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
}

fn cargo_build(name: &str, target_dir: &Path) -> Command {
    let mut cargo = Command::new(check::cargo_path());
    cargo
        .args(["build", "--release", "--bin", name])
        .current_dir(paths::checkout());
    cargo.arg("--target-dir").arg(target_dir);
    cargo
}

/// A build without libraries. With a target given, the flags are not applied to what runs while
/// building.
fn for_guest(name: &str, target_dir: &Path) -> Command {
    let mut cargo = cargo_build(name, target_dir);
    cargo.args(["--target", TARGET]).env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C strip=debuginfo",
    );
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

fn run(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the programs for the virtual machines do not compile");
    }
    Ok(())
}
