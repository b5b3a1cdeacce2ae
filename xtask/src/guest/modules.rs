//! Kernel modules of a guest: the named ones and what they depend on, unpacked, with the index
//! that `modprobe` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::host::root::Root;
use crate::process;

/// Path of a module and of those it needs, all relative to the folder of modules.
type Index = BTreeMap<String, (String, Vec<String>)>;

/// Puts modules into an archive.
///
/// # Errors
/// A module is not there, or a tool of the root fails.
pub(crate) fn add(archive: &mut Archive, root: &Root, release: &str, names: &[&str]) -> Result<()> {
    let inside = format!("lib/modules/{release}");
    let depmod = process::output(
        root.command("usr/sbin/depmod")
            .args(["-b", &path(root, "")])
            .arg("-n")
            .arg(release),
    )?;
    let index = parse(&depmod);
    let mut text = String::new();
    for module in closure(&index, names)? {
        let (packed, needs) = index.get(&module).context("the closure is of the index")?;
        let mut xz = root.command("usr/bin/xz");
        let file = fs::File::open(path(root, &format!("{inside}/{packed}")))?;
        let unpacked = xz.arg("-dc").stdin(Stdio::from(file)).output()?;
        archive.file(
            &format!("{inside}/{}", plain(packed)),
            0o644,
            &unpacked.stdout,
        );
        let needs: Vec<_> = needs.iter().map(|path| plain(path)).collect();
        let _ = writeln!(text, "{}: {}", plain(packed), needs.join(" "));
    }
    archive.file(&format!("{inside}/modules.dep"), 0o644, text.as_bytes());
    for name in ["modules.builtin", "modules.order"] {
        archive.host_file(
            &format!("{inside}/{name}"),
            0o644,
            &root.path(&format!("{inside}/{name}")),
        )?;
    }
    Ok(())
}

fn path(root: &Root, inside: &str) -> String {
    root.path(inside).to_string_lossy().into_owned()
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
