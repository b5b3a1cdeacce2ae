//! The root that guests start from: Debian 13 as `mmdebstrap` makes it, with the packages below
//! and nothing of ours, as a folder (packages are built and installed over it) and as an image
//! (guests boot from it).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::digest::Digest;
use super::kernel::release;
use super::{backports, chroot, locked_roots};
use crate::host::apt::Request;
use crate::host::root::{Roots, quote};
use crate::{paths, process};

/// To be counted up when the base is made differently.
const FORMAT: u32 = 2;

/// What a guest has.
const PACKAGES: [&str; 35] = [
    // A kernel, and what builds a module for it.
    "linux-image-amd64",
    "linux-headers-amd64",
    "dkms",
    "make",
    "gcc",
    "rustc",
    "cargo",
    "rust-src",
    "bindgen",
    "clang",
    "kmod",
    "xz-utils",
    // A system.
    "systemd-sysv",
    "udev",
    "iproute2",
    "iputils-ping",
    "ethtool",
    "pciutils",
    "procps",
    "less",
    "tcpdump",
    // RDMA and its users.
    "rdma-core",
    "ibverbs-providers",
    "ibverbs-utils",
    "libibverbs-dev",
    "librdmacm1t64",
    "librdmacm-dev",
    "rdmacm-utils",
    "infiniband-diags",
    "perftest",
    "python3-pyverbs",
    "nfs-common",
    "nfs-kernel-server",
    "nvme-cli",
    "iperf3",
];

const MMDEBSTRAP: Request = Request {
    name: "mmdebstrap",
    suite: "trixie",
    packages: &["mmdebstrap", "perl"],
    provided: &["apt", "dpkg", "python3", "debconf"],
};

const E2FSPROGS: Request = Request {
    name: "e2fsprogs",
    suite: "trixie",
    packages: &["e2fsprogs"],
    provided: &["debconf"],
};

/// A complete base.
pub(crate) struct Base {
    /// The root as a folder.
    pub root: PathBuf,
    /// The root as an ext4 image.
    pub image: PathBuf,
    /// Version of its kernel.
    pub release: String,
    /// What it is made of.
    pub stamp: String,
    /// Starts `mke2fs`, as words for a shell.
    pub mke2fs: String,
}

impl Base {
    /// Makes it, if it is not there.
    ///
    /// # Errors
    /// Packages cannot be fetched, or this user cannot make a root.
    pub(crate) fn get() -> Result<Base> {
        let (_lock, mut roots) = locked_roots()?;
        let dir = paths::vm().join("debian");
        let stamp_file = dir.join("stamp");
        let stamp = format!("{FORMAT} {}", PACKAGES.join(" "));
        let (root, image) = (dir.join("root"), dir.join("base.ext4"));
        let mke2fs = mke2fs(&mut roots)?;
        let known = fs::read_to_string(&stamp_file).unwrap_or_default();
        if !known.starts_with(&stamp) || !image.is_file() {
            fs::create_dir_all(&dir)?;
            // Without a stamp, what an interruption leaves is made again.
            fs::write(&stamp_file, "")?;
            bootstrap(&mut roots, &root, &dir.join("mmdebstrap.log"))?;
            make_image(&mke2fs, &quote(&root.to_string_lossy()), &image, "8192")?;
            let packages = fs::read_to_string(root.join("var/lib/dpkg/status"))?;
            let digest = Digest::default().text(&packages).finish();
            fs::write(&stamp_file, format!("{stamp}\n{digest}\n"))?;
        }
        Ok(Base {
            release: release(&root.join("usr/lib/modules"))?,
            stamp: fs::read_to_string(&stamp_file)?,
            root,
            image,
            mke2fs,
        })
    }
}

/// Throws the base away.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn forget() -> Result<()> {
    let dir = paths::vm().join("debian");
    backports::forget()?;
    chroot::remove(&dir.join("root"))?;
    crate::host::root::remove(&dir)
}

fn bootstrap(roots: &mut Roots, root: &Path, log: &Path) -> Result<()> {
    let apt = roots.apt()?;
    println!(
        "Debian guest: making the root; {} packages and what they need, some 500 MB, a few minutes",
        PACKAGES.len()
    );
    let source = apt.source("trixie")?;
    let options = apt.network_options()?;
    let mut words = mmdebstrap(roots)?;
    words.extend(["--mode=root", "--variant=apt", "--architectures=amd64"].map(str::to_owned));
    words.push(format!("--include={}", PACKAGES.join(",")));
    words.extend(
        options
            .into_iter()
            .map(|option| format!("--aptopt={option}")),
    );
    words.push(format!("--setup-hook={}", without_documentation()));
    words.extend([
        "trixie".to_owned(),
        root.to_string_lossy().into_owned(),
        source,
    ]);
    let words: Vec<_> = words.iter().map(|word| quote(word)).collect();
    let mut command = chroot::script(&words.join(" "))?;
    chroot::remove(root)?;
    let file = fs::File::create(log)?;
    let status = command.stdout(file.try_clone()?).stderr(file).status()?;
    if !status.success() {
        let words = fs::read_to_string(log).unwrap_or_default();
        let errors: Vec<_> = words
            .lines()
            .filter(|line| line.starts_with("E:"))
            .collect();
        bail!(
            "mmdebstrap failed: {} (all of it: {})",
            errors.join(" "),
            log.display()
        );
    }
    Ok(())
}

/// Where the distribution has rdma-core's own tests: its package calls them documentation.
pub(crate) const RDMA_TESTS: &str = "/usr/share/doc/rdma-core/tests";

/// The script that keeps documentation out of a root, which is for people who have the machine to
/// themselves. An option of mmdebstrap's would do that, but with a program that needs Python. What is
/// kept needs its folder: dpkg does not make one that is in an excluded one.
fn without_documentation() -> String {
    let excluded =
        ["doc", "man", "locale"].map(|part| format!("path-exclude=/usr/share/{part}/*\\n"));
    format!(
        "mkdir -p \"$1/etc/dpkg/dpkg.cfg.d\" \"$1{RDMA_TESTS}\" && \
         printf '{}path-include={RDMA_TESTS}/*\\n' > \"$1/etc/dpkg/dpkg.cfg.d/documentation\"",
        excluded.join("")
    )
}

/// The words that start `mmdebstrap`: this machine's own, or a private one with its own perl.
fn mmdebstrap(roots: &mut Roots) -> Result<Vec<String>> {
    if process::exists("mmdebstrap") {
        return Ok(vec!["mmdebstrap".to_owned()]);
    }
    let root = roots.get(&MMDEBSTRAP)?;
    let modules = ["usr/lib/x86_64-linux-gnu", "usr/share"].map(|dir| root.path(dir).join("perl"));
    let mut folders = vec![
        root.path("usr/share/perl5"),
        root.path("usr/lib/x86_64-linux-gnu/perl-base"),
    ];
    for dir in modules {
        let entries =
            fs::read_dir(&dir).with_context(|| format!("no perl in {}", dir.display()))?;
        folders.extend(entries.flatten().map(|entry| entry.path()));
    }
    let folders: Vec<_> = folders.iter().map(|dir| dir.to_string_lossy()).collect();
    let perl = root.command("usr/bin/perl");
    let words = std::iter::once(perl.get_program()).chain(perl.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let mut all = vec!["env".to_owned(), format!("PERL5LIB={}", folders.join(":"))];
    all.extend(words);
    all.push(
        root.path("usr/bin/mmdebstrap")
            .to_string_lossy()
            .into_owned(),
    );
    Ok(all)
}

fn mke2fs(roots: &mut Roots) -> Result<String> {
    let here = ["/usr/sbin/mke2fs", "/sbin/mke2fs"];
    if let Some(program) = here.into_iter().find(|path| Path::new(path).is_file()) {
        return Ok(program.to_owned());
    }
    let command = roots.get(&E2FSPROGS)?.command("usr/sbin/mke2fs");
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| quote(&word.to_string_lossy())).collect();
    Ok(words.join(" "))
}

/// The script that makes an image of a folder (a word of the shell's), of so many MiB at most.
pub(crate) fn image_script(mke2fs: &str, folder: &str, image: &Path, mib: &str) -> String {
    let unfinished = quote(&image.with_extension("new").to_string_lossy());
    format!(
        "rm -f {unfinished}\n\
         {mke2fs} -q -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1 -d {folder} {unfinished} {mib}M\n\
         mv {unfinished} {}",
        quote(&image.to_string_lossy())
    )
}

fn make_image(mke2fs: &str, folder: &str, image: &Path, mib: &str) -> Result<()> {
    println!("Debian guest: making the image of the root");
    let mut command = chroot::script(&image_script(mke2fs, folder, image, mib))?;
    process::output(&mut command).map(drop)
}
