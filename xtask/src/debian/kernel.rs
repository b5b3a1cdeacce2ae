//! Which kernel a guest has, and where that is: the root of the guest as folders, for what is made
//! of it on this machine, and as images that show the guest the same.
//!
//! The kernel of the release is in the base. Another one is what installing it changes in the base,
//! a folder and an image of its own ([`backports`]), so that both kernels share the rest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::backports;
use super::base::Base;

/// A kernel of Debian 13.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// That of the release
    #[default]
    Stable,
    /// The newer one of its backports
    Backports,
}

/// A root with one kernel.
pub(crate) struct Stack {
    /// Folders that lie over each other, the base first.
    pub folders: Vec<PathBuf>,
    /// Their images: that of the base, and that of another kernel.
    pub images: (PathBuf, Option<PathBuf>),
    /// Version of the kernel.
    pub release: String,
    /// What it is made of.
    pub stamp: String,
    /// Starts `mke2fs`, as words for a shell.
    pub mke2fs: String,
}

impl Kernel {
    /// Name of the folder with what is made for a guest of that kernel.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kernel::Stable => "stable",
            Kernel::Backports => "backports",
        }
    }

    /// The root that has it.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn over(self, base: &Base) -> Result<Stack> {
        match self {
            Kernel::Stable => Ok(Stack {
                folders: vec![base.root.clone()],
                images: (base.image.clone(), None),
                release: base.release.clone(),
                stamp: base.stamp.clone(),
                mke2fs: base.mke2fs.clone(),
            }),
            Kernel::Backports => backports::get(base),
        }
    }
}

impl Stack {
    /// The kernel, as QEMU loads it.
    ///
    /// # Errors
    /// The root has none.
    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        self.find(&format!("boot/vmlinuz-{}", self.release))
    }

    /// Where a file of the root is.
    ///
    /// # Errors
    /// The root has no such file.
    pub(crate) fn find(&self, inside: &str) -> Result<PathBuf> {
        let paths = self.folders.iter().rev().map(|folder| folder.join(inside));
        let mut there = paths.filter(|path| path.exists());
        there
            .next()
            .with_context(|| format!("the guest's root has no {inside}"))
    }
}

/// Version of the one kernel in a folder of modules.
///
/// # Errors
/// There is not one.
pub(crate) fn release(modules: &Path) -> Result<String> {
    let entries = fs::read_dir(modules)
        .with_context(|| format!("cannot read {}", modules.display()))?
        .flatten();
    // What is no folder stands for one that was removed from the folder below.
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names: Vec<_> = folders.map(|entry| entry.file_name()).collect();
    match names.as_slice() {
        [name] => Ok(name.to_string_lossy().into_owned()),
        _ => bail!("{} has {} kernels", modules.display(), names.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_folder_that_has_a_file_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["base", "kernel"].map(|name| dir.path().join(name));
        for folder in &folders {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("both"), "").unwrap();
        }
        let [base, kernel] = &folders;
        fs::write(base.join("one"), "").unwrap();
        let stack = Stack {
            folders: folders.to_vec(),
            images: (PathBuf::new(), None),
            release: String::new(),
            stamp: String::new(),
            mke2fs: String::new(),
        };
        assert_eq!(stack.find("both").unwrap(), kernel.join("both"));
        assert_eq!(stack.find("one").unwrap(), base.join("one"));
        assert!(stack.find("none").is_err());
    }

    #[test]
    fn a_root_has_one_kernel() {
        let dir = tempfile::tempdir().unwrap();
        assert!(release(dir.path()).is_err());
        fs::create_dir(dir.path().join("7.3")).unwrap();
        fs::write(dir.path().join("6.12"), "").unwrap();
        assert_eq!(release(dir.path()).unwrap(), "7.3");
        fs::create_dir(dir.path().join("7.4")).unwrap();
        assert!(release(dir.path()).is_err());
    }
}
