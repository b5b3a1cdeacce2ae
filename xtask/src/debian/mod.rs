//! A stock Debian 13 guest: its root, our packages for it, and the disk images it boots from.
//!
//! - [`base`]: the root with everything that a user of RDMA would install from Debian, and with
//!   what builds a kernel module; made once.
//! - [`kernel`]: the root with the kernel that is asked for, that of the base or that of the
//!   [`backports`].
//! - [`tree`]: our sources as a package ships them, which build without a network;
//!   [`packages`] makes `vrnic-dkms` and `vrnic-provider` of them, with [`deb`] for the format.
//! - [`layer`]: what installing these packages changes in the root, as an image of its own.
//! - [`chroot`]: runs programs in a root without changing it, or anything of this machine.
//!
//! A guest lays the layers over the base ([`vrnic-guest-init`](../../guest-init)), so that a
//! changed driver costs its own build and a small image, not another copy of the root. Each step
//! is known by a [`digest`] of all that went into it, and is done again when that has changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::guest::programs::Programs;
use crate::guest::system;
use crate::host::lock::Lock;
use crate::host::root::{Roots, quote};
use crate::paths;

pub(crate) mod backports;
pub(crate) mod base;
pub(crate) mod chroot;
pub(crate) mod deb;
pub(crate) mod digest;
pub(crate) mod kernel;
pub(crate) mod layer;
pub(crate) mod packages;
pub(crate) mod tree;

use base::Base;
use kernel::{Kernel, Stack};
use packages::Packages;

/// Everything a guest boots from.
pub(crate) struct Debian {
    /// The root without our packages.
    stack: Stack,
    /// Its kernel.
    kernel: PathBuf,
    /// Image of what our packages add.
    layer: PathBuf,
    /// Its initramfs.
    initramfs: PathBuf,
}

impl Debian {
    /// Makes what is not there yet, or was made of something else than is there now.
    ///
    /// # Errors
    /// Something can neither be found nor made; the error says what to do.
    pub(crate) fn get(programs: &Programs, kernel: Kernel) -> Result<Debian> {
        let base = Base::get()?;
        let stack = kernel.over(&base)?;
        let _lock = Lock::take(&paths::target().join("packages.lock"))?;
        let packages = Packages::build(&base)?;
        let dir = paths::target().join("debian").join(kernel.name());
        fs::create_dir_all(&dir)?;
        let layer = layer::get(&stack, &packages, &dir)?;
        let initramfs = system::initramfs(&stack, programs, &dir)?;
        let debian = Debian {
            kernel: stack.kernel()?,
            stack,
            layer,
            initramfs,
        };
        let line = |(name, value)| format!(": \"${{{name}:=$(printf %s {})}}\"\n", quote(value));
        let text: String = debian
            .environment()
            .iter()
            .map(|(n, v)| line((n, v)))
            .collect();
        fs::write(dir.join("env"), text)?;
        Ok(debian)
    }

    /// The values that `qemu-configs/debian.sh` takes from the environment.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let (image, kernel_layer) = &self.stack.images;
        [
            ("KERNEL", path(&self.kernel)),
            ("INITRD", path(&self.initramfs)),
            ("IMAGE", path(image)),
            (
                "KERNEL_LAYER",
                kernel_layer.as_deref().map(path).unwrap_or_default(),
            ),
            ("LAYER", path(&self.layer)),
        ]
    }

    /// Only the packages, for another machine.
    ///
    /// # Errors
    /// As [`Debian::get`].
    pub(crate) fn packages() -> Result<Packages> {
        let base = Base::get()?;
        let _lock = Lock::take(&paths::target().join("packages.lock"))?;
        Packages::build(&base)
    }
}

/// The base is shared by all checkouts that share `target/vm`, and made by one at a time.
fn locked_roots() -> Result<(Lock, Roots)> {
    Ok((Lock::take(&paths::vm().join("lock"))?, Roots::default()))
}
