//! Our packages for a Debian 13 guest, in `target/packages`.
//!
//! - `vrnic-dkms` ships the sources of the kernel module with all that they need, and has DKMS
//!   build it for each kernel of the machine it is installed on.
//! - `vrnic-provider` ships the provider for `libibverbs`, built here, in the base, for the C
//!   library and the verbs library that Debian 13 has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::base::Base;
use super::chroot::{self, Overlay};
use super::deb::{Deb, version};
use super::digest::{Digest, files};
use super::tree::Tree;
use crate::host::root;
use crate::paths;

/// To be counted up when packages are made differently.
const FORMAT: u32 = 1;
/// Where the provider goes, and its entry.
const PROVIDER: &str = "usr/lib/x86_64-linux-gnu/libibverbs/libvrnic-rdmav34.so";
const ENTRY: &str = "etc/libibverbs.d/vrnic.driver";
const DKMS_CONF: &str = "guest-driver/linux/dkms.conf";

/// The packages.
pub(crate) struct Packages {
    /// The kernel module's sources.
    pub dkms: PathBuf,
    /// The provider.
    pub provider: PathBuf,
    /// Digest of all that went into them.
    pub digest: String,
}

impl Packages {
    /// Builds them, if what they are made of has changed.
    ///
    /// # Errors
    /// Something does not build; the error ends with the last words of the compiler.
    pub(crate) fn build(base: &Base) -> Result<Packages> {
        let dir = paths::target().join("packages");
        fs::create_dir_all(&dir)?;
        let library = library(&base.root)?;
        let module = module_tree(&dir, &library);
        module.update()?;
        let provider = provider_tree(&dir);
        provider.update()?;
        let digest = Digest::default()
            .text(&base.stamp)
            .text(&format!("{FORMAT}"));
        let digest = digest.folder(&module.dir)?.folder(&provider.dir)?.finish();
        let file =
            |name, architecture| dir.join(format!("{name}_{}_{architecture}.deb", version()));
        let packages = Packages {
            dkms: file("vrnic-dkms", "all"),
            provider: file("vrnic-provider", "amd64"),
            digest,
        };
        let stamp = dir.join("stamp");
        let known = fs::read_to_string(&stamp).unwrap_or_default();
        if known != packages.digest || !packages.dkms.is_file() || !packages.provider.is_file() {
            println!("Debian packages: building vrnic-provider and vrnic-dkms");
            fs::write(&stamp, "")?;
            write_provider(base, &dir, &provider.dir)?;
            write_module(&dir, &module.dir)?;
            fs::write(&stamp, &packages.digest)?;
        }
        Ok(packages)
    }
}

/// Manifest of the standard library that comes with the base's compiler.
fn library(root: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(root.join("usr/src"))?.flatten();
    let libraries = entries.map(|entry| entry.path().join("library/Cargo.toml"));
    let mut found = libraries.filter(|manifest| manifest.is_file());
    found
        .next()
        .context("the base has no sources of Rust's library")
}

fn module_tree<'a>(dir: &Path, library: &'a Path) -> Tree<'a> {
    Tree {
        dir: dir.join("module"),
        members: &["abi", "guest-driver/core"],
        outside: &["guest-driver/linux"],
        files: &["LICENSE-MIT", "LICENSE-APACHE"],
        manifest: "guest-driver/linux/Cargo.toml",
        library: Some(library),
    }
}

fn provider_tree(dir: &Path) -> Tree<'static> {
    Tree {
        dir: dir.join("provider"),
        members: &[
            "abi",
            "guest-driver/core",
            "guest-driver/ibverbs",
            "guest-driver/verbs",
        ],
        outside: &[],
        files: &["Cargo.lock"],
        manifest: "Cargo.toml",
        library: None,
    }
}

fn write_module(dir: &Path, tree: &Path) -> Result<()> {
    let upstream = env!("CARGO_PKG_VERSION");
    let contents = dir.join("vrnic-dkms");
    root::remove(&contents)?;
    let sources = contents.join(format!("usr/src/vrnic-{upstream}"));
    for file in files(tree)? {
        copy(&tree.join(&file), &sources.join(&file))?;
    }
    let conf = fs::read_to_string(tree.join(DKMS_CONF))?;
    let conf = conf.replace("#MODULE_VERSION#", upstream);
    if !conf.contains(&format!("PACKAGE_VERSION=\"{upstream}\"")) {
        bail!("{DKMS_CONF} is for another version than {upstream}");
    }
    fs::write(sources.join("dkms.conf"), conf)?;
    let deb = Deb {
        name: "vrnic-dkms",
        architecture: "all",
        section: "kernel",
        relations: &[
            "Depends: dkms (>= 3.0), rustc (>= 1.85), cargo (>= 1.85), rust-src, bindgen, libclang-dev, \
             gcc, make, libc6-dev"
                .to_owned(),
            "Recommends: linux-headers-amd64, vrnic-provider".to_owned(),
        ],
        description: (
            "vrnic RDMA NIC - kernel module sources for DKMS",
            &["vrnic is a PCI Express RDMA NIC in software that QEMU attaches to a virtual machine.",
              "This package has the sources of the module that drives it in the guest, for RDMA and\n \
               Ethernet, and has DKMS build it for each kernel that is installed with its headers."],
        ),
        scripts: &[("postinst", postinst(upstream)), ("prerm", prerm(upstream))],
    };
    deb.write(&contents, dir).map(drop)
}

/// Has DKMS build and install the module, by the script that its package has for that.
fn postinst(version: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\n\nif [ \"$1\" = configure ]; then\n    \
         /usr/lib/dkms/common.postinst vrnic {version} /usr/share/vrnic-dkms \"\" \"$2\"\nfi\n"
    )
}

fn prerm(version: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\n\ncase \"$1\" in\nremove|upgrade|deconfigure)\n    \
         if [ -n \"$(dkms status -m vrnic -v {version})\" ]; then\n        \
         dkms remove -m vrnic -v {version} --all\n    fi\n    ;;\nesac\n"
    )
}

fn write_provider(base: &Base, dir: &Path, tree: &Path) -> Result<()> {
    let build = dir.join("provider-build");
    fs::create_dir_all(&build)?;
    let overlay = Overlay {
        lower: std::slice::from_ref(&base.root),
        binds: &[(tree, "/source"), (&build, "/build")],
        inside: "cd /source\nexport CARGO_HOME=/build/home RUSTFLAGS='-C strip=symbols'\n\
                 cargo build --release --offline --package vrnic-verbs --target-dir /build",
        after: "",
    };
    let built = chroot::in_overlay(&overlay, &dir.join("provider.log"));
    built.context("the provider does not build")?;
    let contents = dir.join("vrnic-provider");
    root::remove(&contents)?;
    copy(
        &build.join("release/libvrnic_verbs.so"),
        &contents.join(PROVIDER),
    )?;
    fs::set_permissions(contents.join(PROVIDER), fs::Permissions::from_mode(0o644))?;
    let entry = contents.join(ENTRY);
    fs::create_dir_all(entry.parent().context("a file lies in a folder")?)?;
    fs::write(entry, "driver vrnic\n")?;
    let deb = Deb {
        name: "vrnic-provider",
        architecture: "amd64",
        section: "net",
        relations: &[
            // What a provider and the library know of each other is private to one version of it.
            "Depends: libibverbs1 (>= 56), libibverbs1 (<< 57), libc6 (>= 2.41), libgcc-s1"
                .to_owned(),
            "Recommends: vrnic-dkms".to_owned(),
            "Suggests: ibverbs-utils, rdmacm-utils, perftest".to_owned(),
        ],
        description: (
            "vrnic RDMA NIC - user space provider for libibverbs",
            &[
                "vrnic is a PCI Express RDMA NIC in software that QEMU attaches to a virtual machine.",
                "This package has what libibverbs loads to post work requests and poll completions\n \
               without the kernel.",
            ],
        ),
        scripts: &[],
    };
    deb.write(&contents, dir).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a file lies in a folder")?;
    fs::create_dir_all(dir)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    // Who builds of it goes by times.
    let time = fs::metadata(from)?.modified()?;
    fs::File::options()
        .write(true)
        .open(to)?
        .set_modified(time)?;
    Ok(())
}
