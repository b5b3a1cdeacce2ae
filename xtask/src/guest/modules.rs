//! Kernel modules of a guest: the named ones and what they depend on, unpacked, with the indexes
//! that `modprobe` and `lspci` read, or in the order in which they can be loaded without any. The
//! indexes are `depmod`'s, made for just these modules in a folder of their own.

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
        fs::write(&to, unpacked(root, &root.path(&inside).join(packed))?)?;
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

/// The named modules and all that they need, as paths in the index `modules.dep`, each after what
/// it needs itself.
///
/// # Errors
/// A module is not there.
pub(crate) fn in_order(index: &str, names: &[&str]) -> Result<Vec<String>> {
    let index = parse(index);
    let mut ordered: Vec<String> = Vec::new();
    for name in names {
        let (path, needs) = index
            .get(&name_of(name))
            .with_context(|| format!("the kernel has no {name}"))?;
        // A line lists what a module needs, directly or not, each before what that needs.
        for path in needs.iter().rev().chain([path]) {
            if !ordered.contains(path) {
                ordered.push(path.clone());
            }
        }
    }
    Ok(ordered)
}

/// Contents of a module that may be compressed.
///
/// # Errors
/// It cannot be read or unpacked.
pub(crate) fn unpacked(root: &Root, from: &Path) -> Result<Vec<u8>> {
    if from.extension().is_none_or(|end| end != "xz") {
        return fs::read(from).with_context(|| format!("cannot read {}", from.display()));
    }
    let mut xz = root.command("usr/bin/xz");
    let output = xz.arg("-dc").stdin(fs::File::open(from)?).output()?;
    ensure!(output.status.success(), "cannot unpack {}", from.display());
    Ok(output.stdout)
}

fn depmod(root: &Root, base: &str, release: &str) -> Command {
    let mut depmod = root.command("usr/sbin/depmod");
    depmod.args(["-b", base, release]);
    depmod
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
pub(crate) fn name_of(path: &str) -> String {
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
    fn what_is_needed_comes_first() {
        let index = "k/a.ko.xz: k/b.ko.xz k/c.ko.xz\nk/b.ko.xz: k/c.ko.xz\nk/c.ko.xz:\nk/d-e.ko:\n";
        let ordered = in_order(index, &["d_e", "a", "b"]).unwrap();
        assert_eq!(ordered, ["k/d-e.ko", "k/c.ko.xz", "k/b.ko.xz", "k/a.ko.xz"]);
        assert!(in_order(index, &["f"]).is_err());
    }

    #[test]
    fn a_module_the_kernel_lacks_is_an_error() {
        assert!(closure(&parse(DEPMOD), &["five"]).is_err());
    }
}
