//! What a guest boots: a stock Debian kernel, and an initramfs made here.
//!
//! The initramfs has two parts, which the kernel unpacks one over the other. The base is made
//! once per set of packages: kernel modules, busybox, `lspci`. The overlay is made for each run:
//! our `init`, the guest program, and what a test wants to put there.
//! - [`cpio`] writes the archives, [`modules`] picks kernel modules with what they need,
//! - [`programs`] builds our programs so that they run in a guest without libraries,
//! - [`softroce`] makes a third part, for the guests that have Linux Soft-RoCE,
//! - [`system`] makes the initramfs of the guests that boot from disk images instead.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::apt::Request;
use crate::host::root::{Root, Roots};
use crate::{paths, process};

pub(crate) mod cpio;
pub(crate) mod modules;
pub(crate) mod programs;
pub(crate) mod softroce;
pub(crate) mod system;

use cpio::Archive;

/// To be counted up when the base is made differently.
const FORMAT: u32 = 2;

const PACKAGES: Request = Request {
    name: "guest",
    suite: "trixie",
    packages: &[
        "linux-image-amd64",
        "pciutils",
        "busybox-static",
        "kmod",
        "xz-utils",
    ],
    // What would make an initramfs, were this an installation.
    provided: &["initramfs-tools", "linux-base", "debconf"],
};

/// Modules a guest can load, with all they depend on. `rdma_rxe` asks for `crc32_generic` by the
/// name of its algorithm when it runs, which no index says.
const MODULES: [&str; 9] = [
    "vfio-pci",
    "vfio_iommu_type1",
    "virtio_net",
    "rdma_rxe",
    "crc32_generic",
    "rdma_cm",
    "rdma_ucm",
    "ib_uverbs",
    "e1000e",
];

/// Kernel and base of the initramfs.
pub(crate) struct Guest {
    /// The kernel, as QEMU loads it.
    pub kernel: PathBuf,
    /// First part of the initramfs.
    pub base: PathBuf,
}

impl Guest {
    /// Gets packages and makes the base, if they are not there.
    ///
    /// # Errors
    /// Packages cannot be fetched, or lack what is expected of them.
    pub(crate) fn get(roots: &mut Roots) -> Result<Guest> {
        let root = roots.get(&PACKAGES)?;
        let release = kernel_release(&root)?;
        let guest = Guest {
            kernel: root.path(&format!("boot/vmlinuz-{release}")),
            base: paths::vm().join("guest-base.cpio"),
        };
        let stamp_file = guest.base.with_extension("stamp");
        let stamp = format!("{FORMAT} {MODULES:?}\n{}", root.stamp());
        if fs::read_to_string(&stamp_file).unwrap_or_default() != stamp || !guest.base.is_file() {
            println!("guest: making the initramfs for kernel {release}");
            // Without a stamp, what an interruption leaves is made again.
            fs::write(&stamp_file, "")?;
            fs::write(&guest.base, base(&root, &release)?)?;
            fs::write(&stamp_file, stamp)?;
        }
        Ok(guest)
    }
}

/// Version of the one kernel in the root.
fn kernel_release(root: &Root) -> Result<String> {
    let dir = root.path("usr/lib/modules");
    let entry = fs::read_dir(&dir)?
        .next()
        .context("the kernel package holds no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn base(root: &Root, release: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.device("dev/console", 5, 1);
    for dir in ["proc", "sys", "tmp", "run", "root", "etc"] {
        archive.directory(dir);
    }
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    add_busybox(&mut archive, root)?;
    add_program(&mut archive, root, "usr/bin/lspci")?;
    add_program(&mut archive, root, "usr/bin/setpci")?;
    archive.host_file(
        "usr/share/misc/pci.ids",
        0o644,
        &root.path("usr/share/misc/pci.ids"),
    )?;
    modules::add(&mut archive, root, release, &MODULES)?;
    Ok(archive.finish())
}

/// busybox and a link for each of its programs.
fn add_busybox(archive: &mut Archive, root: &Root) -> Result<()> {
    let busybox = root.path("usr/bin/busybox");
    archive.host_file("bin/busybox", 0o755, &busybox)?;
    let names = process::output(std::process::Command::new(&busybox).arg("--list"))?;
    let ours = |name: &&str| !["busybox", "lspci", "setpci", "init", "linuxrc"].contains(name);
    for name in names.lines().filter(ours) {
        archive.link(&format!("bin/{name}"), "/bin/busybox");
    }
    Ok(())
}

/// A program of the root with the libraries it loads, each in the place it is linked for.
fn add_program(archive: &mut Archive, root: &Root, program: &str) -> Result<()> {
    let name = Path::new(program)
        .file_name()
        .context("a program has a name")?;
    let inside = format!("bin/{}", name.to_string_lossy());
    archive.host_file(&inside, 0o755, &root.path(program))?;
    add_libraries(archive, root, program)
}

/// The libraries that a program or library loads, the loader included.
fn add_libraries(archive: &mut Archive, root: &Root, of: &str) -> Result<()> {
    for library in root.libraries_of(of)? {
        let name = library
            .file_name()
            .context("a library has a name")?
            .to_string_lossy();
        let dir = if name.starts_with("ld-linux") {
            "lib64"
        } else {
            "lib/x86_64-linux-gnu"
        };
        archive.host_file(&format!("{dir}/{name}"), 0o755, &library)?;
    }
    Ok(())
}
