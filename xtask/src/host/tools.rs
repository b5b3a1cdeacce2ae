//! QEMU and tshark: this machine's own where they will do, else from a private root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::apt::Request;
use super::root::Roots;
use crate::process;

const QEMU: Request = Request {
    name: "qemu",
    // The whole root from one suite: firmware and QEMU have to fit.
    suite: "trixie-backports",
    packages: &["qemu-system-x86", "seabios"],
    provided: &["adduser", "passwd", "debconf", "perl", "python3"],
};

const TSHARK: Request = Request {
    name: "tshark",
    suite: "trixie",
    packages: &["tshark"],
    provided: &["adduser", "passwd", "debconf", "perl"],
};

/// A `qemu-system-x86_64` that has `vfio-user-pci`.
///
/// # Errors
/// This machine has none and a private one cannot be made.
pub(crate) fn qemu(roots: &mut Roots) -> Result<PathBuf> {
    let name = "qemu-system-x86_64";
    if process::exists(name) && has_vfio_user(&mut Command::new(name)) {
        return Ok(PathBuf::from(name));
    }
    let root = roots.get(&QEMU)?;
    let data = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];
    let data = data.map(|dir| root.path(dir).to_string_lossy().into_owned());
    let arguments: Vec<_> = data
        .into_iter()
        .flat_map(|dir| ["-L".to_owned(), dir])
        .collect();
    let script = root.wrap("usr/bin/qemu-system-x86_64", &arguments)?;
    if !has_vfio_user(&mut Command::new(&script)) {
        bail!("{} does not run or lacks vfio-user-pci", script.display());
    }
    Ok(script)
}

/// A `tshark`.
///
/// # Errors
/// This machine has none and a private one cannot be made.
pub(crate) fn tshark(roots: &mut Roots) -> Result<PathBuf> {
    if process::exists("tshark") {
        return Ok(PathBuf::from("tshark"));
    }
    roots.get(&TSHARK)?.wrap("usr/bin/tshark", &[])
}

fn has_vfio_user(qemu: &mut Command) -> bool {
    let list = process::output(qemu.args(["-device", "help"]));
    list.is_ok_and(|list| list.contains("\"vfio-user-pci\""))
}
