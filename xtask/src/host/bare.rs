//! A compiler for the bare target, to prove that the `no_std` crates need no operating system.
//!
//! `core` and `alloc` for the bare target come, in this order: with the target, if the toolchain
//! in use has it; from the toolchain's own `rust-src`; with the compiler and `rust-src` of Debian,
//! in a private root, because the sources have to match the compiler exactly. In the last case
//! the build also proves that the crates compile with the oldest compiler that is promised.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::apt::Request;
use super::root::Roots;
use crate::{paths, process};

/// The target: no operating system, the instruction set of the kernel.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

const RUST: Request = Request {
    name: "rust",
    suite: "trixie",
    packages: &["rustc", "cargo", "rust-src"],
    // Linking (of procedural macros) is done by this machine's own C toolchain.
    provided: &["gcc", "binutils", "libc-dev", "perl", "debconf"],
};

/// A Cargo command that builds for [`TARGET`]; the subcommand and its arguments are to be added
/// by `arguments`, and follow here what the chosen toolchain needs.
///
/// # Errors
/// No toolchain here will do and Debian's cannot be fetched.
pub(crate) fn cargo(roots: &mut Roots, arguments: &[&str]) -> Result<Command> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = process::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
    if rustlib.join(TARGET).join("lib").is_dir() {
        return Ok(command(Command::new(crate::check::cargo_path()), arguments));
    }
    if rustlib.join("src/rust/library/core").is_dir() {
        return Ok(from_sources(command(
            Command::new(crate::check::cargo_path()),
            arguments,
        )));
    }
    let root = roots.get(&RUST)?;
    let mut cargo = command(Command::new(root.wrap("usr/bin/cargo", &[])?), arguments);
    cargo.env("RUSTC", root.wrap("usr/bin/rustc", &[])?);
    for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTDOC", "RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    Ok(from_sources(cargo))
}

fn command(mut cargo: Command, arguments: &[&str]) -> Command {
    cargo
        .args(arguments)
        .args(["--target", TARGET])
        .current_dir(paths::checkout());
    cargo.arg("--target-dir").arg(paths::target().join("bare"));
    cargo
}

fn from_sources(mut cargo: Command) -> Command {
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("-Zbuild-std=core,alloc");
    cargo
}
