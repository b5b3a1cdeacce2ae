//! Checks that need no guest: formatting, lints, documentation, the build for a bare target.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::host::bare;
use crate::host::lock::Lock;
use crate::host::root::Roots;
use crate::paths;
use crate::test::Tally;

/// Crates that need no operating system.
const BARE: [&str; 3] = ["vrnic-abi", "vrnic-firmware", "vrnic-driver"];

/// The kernel module, which is no member of the workspace: it is built for the headers of a kernel.
const KERNEL_MODULE: &str = "guest-driver/linux/Cargo.toml";

/// The Cargo that runs us, or the one in `PATH`.
pub(crate) fn cargo_path() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// `cargo xtask check`.
pub(crate) fn run() -> Result<ExitCode> {
    let mut tally = Tally::new(None);
    all(&mut tally);
    Ok(tally.finish())
}

/// Runs every check, each counted as one.
pub(crate) fn all(tally: &mut Tally) {
    tally.step("check: formatting", || {
        cargo(&["fmt", "--all", "--check"], &[])?;
        cargo(&["fmt", "--check", "--manifest-path", KERNEL_MODULE], &[])
    });
    tally.step("check: clippy", || {
        cargo(
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
            &[],
        )
    });
    tally.step("check: documentation", || {
        let arguments = [
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--quiet",
        ];
        cargo(&arguments, &[("RUSTDOCFLAGS", "-D warnings")])
    });
    tally.step("check: bare target", bare_target);
}

fn bare_target() -> Result<()> {
    let mut arguments = vec!["build", "--lib"];
    arguments.extend(BARE.iter().flat_map(|name| ["-p", *name]));
    let mut cargo = {
        let _lock = Lock::take(&paths::vm().join("lock"))?;
        bare::cargo(&mut Roots::default(), &arguments)?
    };
    succeed(&mut cargo)
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut cargo = Command::new(cargo_path());
    cargo
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(paths::checkout());
    succeed(&mut cargo)
}

/// Runs a program on this terminal.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("see above");
    }
    Ok(())
}
