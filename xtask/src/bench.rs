//! `cargo xtask bench`: builds and runs the benchmark program of `vrnic-tests`, which measures,
//! prints the table, writes the JSON and decides the exit code.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{check, paths};

/// Runs it.
///
/// # Errors
/// Cargo cannot be started.
pub(crate) fn run(json: Option<&Path>) -> Result<ExitCode> {
    let mut cargo = Command::new(check::cargo_path());
    cargo.args([
        "run",
        "--release",
        "--quiet",
        "-p",
        "vrnic-tests",
        "--bin",
        "vrnic-bench",
        "--",
    ]);
    cargo.current_dir(paths::checkout());
    if let Some(file) = json {
        // Relative to where the caller is, not to the checkout.
        cargo.arg("--json").arg(std::path::absolute(file)?);
    }
    let holds = cargo.status()?.success();
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
