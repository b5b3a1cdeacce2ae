//! The kernel of Debian 13's backports in the place of the release's: what installing it changes
//! in the base, as a folder and as an image.
//!
//! In: packages that are fetched for what the base already has. Out: a root with one kernel, so
//! that DKMS builds for just that one, whatever kernel this machine runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::base::{Base, image_script};
use super::chroot::{self, Overlay};
use super::digest::Digest;
use super::kernel::{Stack, release};
use super::locked_roots;
use crate::host::apt::Request;
use crate::host::root::{self, quote};
use crate::paths;

/// To be counted up when it is made differently.
const FORMAT: u32 = 1;

const REQUEST: Request = Request {
    name: "backports",
    suite: "trixie-backports",
    packages: &["linux-image-amd64", "linux-headers-amd64"],
    provided: &[],
};

/// As a user would who keeps no other kernel. An initramfs is made for the guests by ourselves.
const INSTALL: &str = "\
    export INITRD=No\n\
    old=$(ls /lib/modules)\n\
    apt-get install -y --no-install-recommends -o APT::Sandbox::User=root \
    /backports/*.deb linux-image-$old- linux-headers-$old-\n\
    rm -rf /lib/modules/$old /var/cache/apt/* /var/log/apt /var/log/dpkg.log\n";

/// The root with that kernel, made if it is not there or the base is another one.
///
/// # Errors
/// The packages cannot be fetched or installed.
pub(super) fn get(base: &Base) -> Result<Stack> {
    let (_lock, mut roots) = locked_roots()?;
    let dir = folder();
    let (changes, image) = (dir.join("root"), dir.join("kernel.ext4"));
    let stamp_file = dir.join("stamp");
    let stamp = format!("{FORMAT} {}\n{}", REQUEST.packages.join(" "), base.stamp);
    let known = fs::read_to_string(&stamp_file).unwrap_or_default();
    if !known.starts_with(&stamp) || !image.is_file() {
        fs::create_dir_all(&dir)?;
        fs::write(&stamp_file, "")?;
        let database = fs::read_to_string(base.root.join("var/lib/dpkg/status"))?;
        let downloaded = roots.apt()?.download_over(&database, &REQUEST)?;
        install(base, &downloaded.dir, &changes, &image)?;
        root::remove(&downloaded.dir)?;
        let digest = Digest::default().text(&downloaded.files.join(" ")).finish();
        fs::write(&stamp_file, format!("{stamp}{digest}\n"))?;
    }
    Ok(Stack {
        release: release(&changes.join("usr/lib/modules"))?,
        folders: vec![base.root.clone(), changes],
        images: (base.image.clone(), Some(image)),
        stamp: fs::read_to_string(&stamp_file)?,
        mke2fs: base.mke2fs.clone(),
    })
}

/// Throws it away.
///
/// # Errors
/// It cannot be removed.
pub(super) fn forget() -> Result<()> {
    chroot::remove(&folder().join("root"))
}

fn folder() -> PathBuf {
    paths::vm().join("debian/backports")
}

fn install(base: &Base, packages: &Path, changes: &Path, image: &Path) -> Result<()> {
    println!("Debian guest: installing the kernel of the backports");
    chroot::remove(changes)?;
    let to = quote(&changes.to_string_lossy());
    let image_script = image_script(&base.mke2fs, &to, image, "${mib}");
    let overlay = Overlay {
        lower: std::slice::from_ref(&base.root),
        binds: &[(packages, "/backports")],
        inside: INSTALL,
        after: &format!(
            "rmdir $UPPER/backports\n\
             cp -a $UPPER {to}\n\
             mib=$(($(du -sm $UPPER | cut -f1) * 5 / 4 + 16))\n{image_script}"
        ),
    };
    let log = folder().join("install.log");
    let installed = chroot::in_overlay(&overlay, &log);
    installed.context("the kernel of the backports cannot be installed")
}
