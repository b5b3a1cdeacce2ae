//! What a guest with Linux Soft-RoCE has beyond the others: the distribution's verbs library with
//! the provider of `rdma_rxe`, iproute2, and the program that drives them.
//!
//! It is a third part of the initramfs, for the guests that want it; the kernel modules are in the
//! first one. Nothing of the distribution's is changed. Our program finds the guest's libraries
//! where they are linked for, so it has to be built against a C library that is not newer.

use std::path::Path;

use anyhow::Result;

use super::cpio::Archive;
use super::{add_libraries, add_program};
use crate::host::apt::Request;
use crate::host::root::{Root, Roots};

const PACKAGES: Request = Request {
    name: "softroce",
    suite: "trixie",
    packages: &["libibverbs1", "ibverbs-providers", "iproute2"],
    provided: &["adduser", "debconf", "perl"],
};

/// Where Debian keeps libraries, and the verbs library its providers.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The part, with the program `peer` in it.
///
/// # Errors
/// Packages cannot be fetched, or lack what is expected of them.
pub(crate) fn part(roots: &mut Roots, peer: &Path) -> Result<Vec<u8>> {
    let root = roots.get(&PACKAGES)?;
    let mut archive = Archive::new();
    add_program(&mut archive, &root, "usr/bin/ip")?;
    add_program(&mut archive, &root, "usr/bin/rdma")?;
    // Outside the root, and with the root's libraries.
    add_program(&mut archive, &root, &peer.to_string_lossy())?;
    add_verbs(&mut archive, &root)?;
    Ok(archive.finish())
}

/// The verbs library, which programs load by its name, and its provider.
fn add_verbs(archive: &mut Archive, root: &Root) -> Result<()> {
    let verbs = format!("{LIBRARIES}/libibverbs.so.1");
    archive.host_file(&verbs, 0o755, &root.path(&verbs))?;
    add_libraries(archive, root, &verbs)?;
    let provider = format!("{LIBRARIES}/libibverbs/librxe-rdmav34.so");
    archive.host_file(&provider, 0o755, &root.path(&provider))?;
    let entry = "etc/libibverbs.d/rxe.driver";
    archive.host_file(entry, 0o644, &root.path(entry))
}
