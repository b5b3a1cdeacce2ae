//! What installing our packages changes in a root, as an ext4 image: DKMS builds the module for
//! the kernel of the root, on this machine's processor and not on the guest's.
//!
//! The compiler's intermediate files are kept from one time to the next, outside the image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::base::image_script;
use super::chroot::{self, Overlay};
use super::kernel::Stack;
use super::packages::Packages;
use crate::paths;

/// To be counted up when the layer is made differently.
const FORMAT: u32 = 1;

/// As a user would, and then what shows that it worked. Without the lists of the archive, apt takes
/// the packages that are there.
const INSTALL: &str = "\
    export RUST_TARGET_DIR=/var/cache/vrnic-cargo\n\
    apt-get install -y --no-install-recommends -o APT::Sandbox::User=root /packages/*.deb ||\n\
    { cat /var/lib/dkms/vrnic/*/build/make.log; exit 1; }\n\
    modinfo -k $(ls /lib/modules) vrnic\n\
    rm -rf /var/cache/apt/* /var/log/apt /var/log/dpkg.log\n";

/// The image in a folder, made if it is not there or the packages or the root have changed.
///
/// # Errors
/// The packages cannot be installed; the module does not build.
pub(crate) fn get(stack: &Stack, packages: &Packages, dir: &Path) -> Result<PathBuf> {
    let (image, stamp) = (dir.join("layer.ext4"), dir.join("layer.stamp"));
    let wanted = format!("{FORMAT} {}\n{}", packages.digest, stack.stamp);
    if fs::read_to_string(&stamp).unwrap_or_default() == wanted && image.is_file() {
        return Ok(image);
    }
    println!(
        "Debian guest: installing vrnic-dkms and vrnic-provider for Linux {}",
        stack.release
    );
    // The compiler's files are for each kernel the same, but for the last crates.
    let cache = paths::target().join("debian/cargo");
    let debs = dir.join("packages");
    for folder in [&cache, &debs] {
        fs::create_dir_all(folder)?;
    }
    for entry in fs::read_dir(&debs)? {
        fs::remove_file(entry?.path())?;
    }
    for deb in [&packages.dkms, &packages.provider] {
        fs::copy(
            deb,
            debs.join(deb.file_name().context("a package has a name")?),
        )?;
    }
    fs::write(&stamp, "")?;
    let image_script = image_script(&stack.mke2fs, "\"$UPPER\"", &image, "${mib}");
    let overlay = Overlay {
        lower: &stack.folders,
        binds: &[(&debs, "/packages"), (&cache, "/var/cache/vrnic-cargo")],
        inside: INSTALL,
        after: &format!(
            "rmdir $UPPER/packages $UPPER/var/cache/vrnic-cargo\n\
             mib=$(($(du -sm $UPPER | cut -f1) * 5 / 4 + 16))\n{image_script}"
        ),
    };
    let installed = chroot::in_overlay(&overlay, &dir.join("install.log"));
    installed.context("the packages cannot be installed")?;
    fs::write(&stamp, wanted)?;
    Ok(image)
}
