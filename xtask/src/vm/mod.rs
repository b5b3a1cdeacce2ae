//! Virtual machines: what they need, starting them, and waiting for what their guests say.
//!
//! - [`Prepared`] is everything that exists before the first one starts.
//! - [`machine`] is one running QEMU with its guest's console.
//! - [`nic`] is one running `vrnic serve`.
//! - [`capture`] has tshark judge the packets of a run.
//! - [`cluster`] is several machines with a whole Debian, in which [`control`] runs commands, while
//!   [`qmp`] asks their QEMU for something.
//! - [`scenario`] says what to run and what came of it, [`session`] runs it; [`scenarios`] has
//!   them by name, and [`tests`] what is tested on them.
//!
//! Whatever is started here ends when its value is dropped. Logs stay in `target/vm/run/NAME/`.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::guest::programs::Programs;
use crate::guest::{Guest, softroce};
use crate::host::accel::{self, Accel};
use crate::host::lock::Lock;
use crate::host::root::{self, Roots, quote};
use crate::host::tools;
use crate::{debian, paths, process};

pub(crate) mod administration;
pub(crate) mod backports;
pub(crate) mod capture;
pub(crate) mod cluster;
pub(crate) mod consumers;
pub(crate) mod control;
pub(crate) mod host_client;
pub(crate) mod interop;
pub(crate) mod life;
pub(crate) mod machine;
pub(crate) mod mesh;
pub(crate) mod nic;
pub(crate) mod own_tests;
pub(crate) mod plug;
pub(crate) mod qmp;
pub(crate) mod scenario;
pub(crate) mod scenarios;
pub(crate) mod session;
pub(crate) mod side_by_side;
pub(crate) mod sriov;
pub(crate) mod stock;
pub(crate) mod stock_tools;
pub(crate) mod tests;

use scenario::{Scenario, Vm};

/// Everything that a scenario needs.
pub(crate) struct Prepared {
    /// QEMU that has `vfio-user-pci`.
    pub qemu: PathBuf,
    /// A guest's kernel and the base of its initramfs.
    pub guest: Guest,
    /// What a guest's initramfs has beyond that if it is to have Soft-RoCE's user space.
    softroce: PathBuf,
    /// Our programs.
    pub programs: Programs,
    /// How guests run.
    pub accel: Accel,
}

impl Prepared {
    /// Gets and makes what is not there yet; `refresh` throws everything away first.
    ///
    /// # Errors
    /// Something can neither be found nor made; the error says what to do.
    pub(crate) fn get(refresh: bool) -> Result<Prepared> {
        let programs = Programs::build()?;
        let _lock = Lock::take(&paths::vm().join("lock"))?;
        if refresh {
            root::remove(&paths::vm().join("root"))?;
            debian::base::forget()?;
        }
        let mut roots = Roots::default();
        let qemu = tools::qemu(&mut roots)?;
        let guest = Guest::get(&mut roots)?;
        let softroce = paths::vm().join("softroce.cpio");
        fs::write(&softroce, softroce::part(&mut roots, &programs.peer)?)?;
        let mut prepared = Prepared {
            qemu,
            guest,
            softroce,
            programs,
            accel: Accel::Kvm,
        };
        prepared.accel = accel::choose(|| prepared.boots())?;
        prepared.write_environment()?;
        Ok(prepared)
    }

    /// Whether a guest comes up with the accelerator that is set.
    fn boots(&self) -> bool {
        let vm = Vm {
            run: Some("true".to_owned()),
            ..Vm::default()
        };
        let bound = Duration::from_secs(15);
        let scenario = Scenario {
            name: "probe-kvm",
            file: "one-vm",
            bound,
            nics: vec![],
            vms: vec![vm],
        };
        scenario.run(self).is_ok()
    }

    /// The values that the scenario files take from the environment, with a line for each.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        vec![
            ("QEMU", path(&self.qemu)),
            ("KERNEL", path(&self.guest.kernel)),
            ("INITRD", path(&paths::vm().join("initramfs.cpio"))),
            ("ACCEL", self.accel.name().to_owned()),
        ]
    }

    /// What a person who runs a scenario by hand needs: the initramfs of each kind, and defaults
    /// for the environment.
    fn write_environment(&self) -> Result<()> {
        for (name, softroce) in [("initramfs", false), ("softroce-initramfs", true)] {
            let vm = Vm {
                softroce,
                ..Vm::default()
            };
            let initramfs = paths::vm().join(name).with_extension("cpio");
            fs::write(&initramfs, self.initramfs(&vm)?)?;
        }
        let line = |(name, value): &(&str, String)| {
            format!(": \"${{{name}:=$(printf %s {})}}\"\n", quote(value))
        };
        let text: String = self.environment().iter().map(line).collect();
        fs::write(paths::vm().join("env"), text)?;
        Ok(())
    }

    /// The initramfs of a virtual machine.
    ///
    /// # Errors
    /// A part of it cannot be read.
    pub(crate) fn initramfs(&self, vm: &Vm) -> Result<Vec<u8>> {
        let mut bytes = fs::read(&self.guest.base)?;
        if vm.softroce {
            bytes.extend(fs::read(&self.softroce)?);
        }
        bytes.extend(self.programs.overlay(&vm.files)?);
        Ok(bytes)
    }
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut qemu = std::process::Command::new(&self.qemu);
        let version = process::output(qemu.arg("--version")).unwrap_or_default();
        writeln!(
            f,
            "QEMU         {} ({})",
            self.qemu.display(),
            version.lines().next().unwrap_or("?")
        )?;
        writeln!(f, "kernel       {}", self.guest.kernel.display())?;
        writeln!(
            f,
            "initramfs    {}",
            paths::vm().join("initramfs.cpio").display()
        )?;
        write!(f, "accelerator  {}", self.accel.name())
    }
}
