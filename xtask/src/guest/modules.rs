//! Kernel modules of a guest: the named ones and what they depend on, unpacked, with the indexes
//! that `modprobe` and `lspci` read. The indexes are `depmod`'s, made for just these modules in a
//! folder of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use crate::host::root::{Root, remove};
use crate::{paths, process};

/// Path of a module and of those it needs, all relative to the folder of modules.
type Index = BTreeMap<String, (String, Vec<String>)>;

/// Puts modules into an archive.
///
/// # Errors
/// A module is not there, or a tool of the root fails.
pub(crate) fn add(archive: &mut Archive, root: &Root, release: &str, names: &[&str]) -> Result<()> {
    let of_root = path(&root.path(""));
    let index = parse(&process::output(depmod(root, &of_root, release).arg("-n"))?);
    let staging = paths::vm().join("guest-modules");
    remove(&staging)?;
    let inside = format!("lib/modules/{release}");
    for module in closure(&index, names)? {
        let (packed, _) = index.get(&module).context("the closure is of the index")?;
        let to = staging.join(&inside).join(plain(packed));
        fs::create_dir_all(to.parent().context("a module lies in a folder")?)?;
        unpack(root, &root.path(&inside).join(packed), &to)?;
        archive.host_file(&format!("{inside}/{}", plain(packed)), 0o644, &to)?;
    }
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        fs::copy(
            root.path(&inside).join(name),
            staging.join(&inside).join(name),
        )?;
    }
    process::output(&mut depmod(root, &path(&staging), release))?;
    for entry in fs::read_dir(staging.join(&inside))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("modules.") {
            archive.host_file(
                &format!("{inside}/{name}"),
                0o644,
                &staging.join(&inside).join(&name),
            )?;
        }
    }
    remove(&staging)
}

fn depmod(root: &Root, base: &str, release: &str) -> Command {
    let mut depmod = root.command("usr/sbin/depmod");
    depmod.args(["-b", base, release]);
    depmod
}

fn unpack(root: &Root, from: &Path, to: &Path) -> Result<()> {
    let mut xz = root.command("usr/bin/xz");
    xz.arg("-dc")
        .stdin(fs::File::open(from)?)
        .stdout(fs::File::create(to)?);
    let status = xz.status()?;
    ensure!(status.success(), "cannot unpack {}", from.display());
    Ok(())
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The lines `PATH: PATHS` of `depmod`, by module name.
fn parse(depmod: &str) -> Index {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        path.contains(".ko").then(|| {
            (
                name_of(path),
                (
                    path.to_owned(),
                    needs.split_whitespace().map(str::to_owned).collect(),
                ),
            )
        })
    };
    depmod.lines().map_while(line).collect()
}

/// The named modules and all that they need, by name.
fn closure(index: &Index, names: &[&str]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = names.iter().map(|name| name_of(name)).collect();
    while let Some(name) = open.pop() {
        let (_, needs) = index
            .get(&name)
            .with_context(|| format!("the kernel has no {name}"))?;
        if found.insert(name) {
            open.extend(needs.iter().map(|path| name_of(path)));
        }
    }
    Ok(found)
}

/// Name of the module in a file: dashes and underscores are the same.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Path of a module's file when it is not compressed.
fn plain(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPMOD: &str = "kernel/a/one.ko.xz: kernel/b/two-x.ko.xz\n\
        kernel/b/two-x.ko.xz: kernel/c/three.ko.xz\n\
        kernel/c/three.ko.xz:\nkernel/d/four.ko.xz:\n# Aliases\nalias x: y\n";

    #[test]
    fn closure_holds_what_is_needed_and_no_more() {
        let found = closure(&parse(DEPMOD), &["one"]).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["one", "three", "two_x"]
        );
    }

    #[test]
    fn a_module_the_kernel_lacks_is_an_error() {
        assert!(closure(&parse(DEPMOD), &["five"]).is_err());
    }
}
