//! Whether KVM runs a guest here.
//!
//! `/dev/kvm` can be there and open, and still no guest boots on it (a virtual machine whose host
//! half-offers nested virtualization). So a guest is booted once, and the answer is kept until
//! the machine restarts.

use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::{Result, bail};

use crate::paths;

/// How QEMU runs a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// On the processor, by the kernel's hypervisor.
    Kvm,
    /// By QEMU's translation to host code.
    Tcg,
}

impl Accel {
    /// Name as QEMU has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    fn from_name(name: &str) -> Option<Accel> {
        [Accel::Kvm, Accel::Tcg]
            .into_iter()
            .find(|accel| accel.name() == name)
    }
}

/// The accelerator to use; `boots` is asked, at most once per start of this machine, whether a
/// guest comes up on KVM.
///
/// # Errors
/// `VRNIC_ACCEL` names none, or the answer cannot be kept.
pub(crate) fn choose(boots: impl FnOnce() -> bool) -> Result<Accel> {
    if let Ok(name) = std::env::var("VRNIC_ACCEL") {
        return match Accel::from_name(&name) {
            Some(accel) => Ok(accel),
            None => bail!("VRNIC_ACCEL={name}: must be kvm or tcg"),
        };
    }
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    remembered(&paths::vm().join("accel"), boot.trim(), boots)
}

fn remembered(file: &Path, boot: &str, boots: impl FnOnce() -> bool) -> Result<Accel> {
    let known = fs::read_to_string(file).unwrap_or_default();
    if let Some(accel) = known
        .trim()
        .strip_prefix(boot)
        .and_then(|n| Accel::from_name(n.trim()))
    {
        return Ok(accel);
    }
    println!("trying whether KVM runs a guest");
    let accel = if boots() { Accel::Kvm } else { Accel::Tcg };
    println!("  accelerator: {}", accel.name());
    fs::write(file, format!("{boot} {}\n", accel.name()))?;
    Ok(accel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_booted_once_per_start_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("accel");
        assert_eq!(remembered(&file, "one", || true).unwrap(), Accel::Kvm);
        assert_eq!(
            remembered(&file, "one", || unreachable!()).unwrap(),
            Accel::Kvm
        );
        assert_eq!(remembered(&file, "two", || false).unwrap(), Accel::Tcg);
        assert_eq!(
            remembered(&file, "two", || unreachable!()).unwrap(),
            Accel::Tcg
        );
    }
}
