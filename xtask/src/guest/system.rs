//! The initramfs of a guest that boots from disk images: our `init`, and the modules it needs to
//! mount them, in the order it loads them.
//!
//! The modules are unpacked, and `init` loads them itself, so that there is nothing else in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::modules;
use super::programs::Programs;
use crate::debian::kernel::Stack;
use crate::host::root::Root;

/// Modules between the kernel and its root.
const MODULES: [&str; 3] = ["virtio_blk", "ext4", "overlay"];
/// What `ext4` asks for its checksum, by the name of the algorithm, which no index says; in later
/// kernels the checksum is a function of the kernel's, and there is no such module.
const CHECKSUM: &str = "crc32c_generic";

/// Makes it in a folder, for the kernel of a root; the answer is the file.
///
/// # Errors
/// The kernel lacks a module, or there is no room.
pub(crate) fn initramfs(stack: &Stack, programs: &Programs, dir: &Path) -> Result<PathBuf> {
    let file = dir.join("initramfs.cpio");
    let mut archive = Archive::new();
    archive.device("dev/console", 5, 1);
    for dir in ["proc", "sys", "tmp"] {
        archive.directory(dir);
    }
    programs.add_init(&mut archive)?;
    let folder = format!("usr/lib/modules/{}", stack.release);
    let index = fs::read_to_string(stack.find(&format!("{folder}/modules.dep"))?)?;
    let checksum = index.contains(&format!("/{CHECKSUM}.ko"));
    let mut names = vec![CHECKSUM; usize::from(checksum)];
    names.extend(MODULES);
    let root = stack.folders.first().context("a root has a folder")?;
    let root = Root::at(root.clone());
    for (number, module) in modules::in_order(&index, &names)?.iter().enumerate() {
        let data = modules::unpacked(&root, &stack.find(&format!("{folder}/{module}"))?)?;
        let name = modules::name_of(module);
        archive.file(&format!("modules/{number:02}-{name}.ko"), 0o644, &data);
    }
    let bytes = archive.finish();
    if fs::read(&file).unwrap_or_default() != bytes {
        let unfinished = file.with_extension("new");
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, &file)?;
    }
    Ok(file)
}
