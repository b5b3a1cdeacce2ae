//! Where things lie: the checkout, Cargo's target folder, and everything prepared for VMs.

use std::env;
use std::path::{Path, PathBuf};

/// Top folder of the checkout.
pub(crate) fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => checkout().join(dir),
        None => checkout().join("target"),
    }
}

/// What [`crate::host`] and [`crate::guest`] prepare, and the logs of VM runs.
pub(crate) fn vm() -> PathBuf {
    match env::var_os("VRNIC_VM_DIR") {
        Some(dir) => checkout().join(dir),
        None => target().join("vm"),
    }
}

/// Programs that [`crate::host`] made startable by name: wrappers around private roots.
pub(crate) fn bin() -> PathBuf {
    vm().join("bin")
}

/// The scenarios.
pub(crate) fn scenarios() -> PathBuf {
    checkout().join("qemu-configs")
}
