//! The initramfs of a guest that boots from disk images: our `init`, and the modules it needs to
//! mount them, in the order it loads them.
//!
//! The modules are unpacked, and `init` loads them itself, so that there is nothing else in it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::modules;
use super::programs::Programs;
use crate::debian::base::Base;
use crate::host::root::Root;
use crate::paths;

/// Modules between the kernel and its root. `ext4` asks for its checksum by the name of the
/// algorithm, which no index says.
const MODULES: [&str; 4] = ["virtio_blk", "crc32c_generic", "ext4", "overlay"];

/// Makes it for a kernel; the answer is the file.
///
/// # Errors
/// The kernel lacks a module, or there is no room.
pub(crate) fn initramfs(base: &Base, programs: &Programs) -> Result<PathBuf> {
    let file = paths::target().join("debian").join("initramfs.cpio");
    let root = Root::at(base.root.clone());
    let mut archive = Archive::new();
    archive.device("dev/console", 5, 1);
    for dir in ["proc", "sys", "tmp"] {
        archive.directory(dir);
    }
    programs.add_init(&mut archive)?;
    let index = root.path(&format!("usr/lib/modules/{}/modules.dep", base.release));
    let index = fs::read_to_string(&index).with_context(|| format!("no {}", index.display()))?;
    let folder = format!("usr/lib/modules/{}", base.release);
    for (number, module) in modules::in_order(&index, &MODULES)?.iter().enumerate() {
        let data = modules::unpacked(&root, &root.path(&folder).join(module))?;
        let name = modules::name_of(module);
        archive.file(&format!("modules/{number:02}-{name}.ko"), 0o644, &data);
    }
    let bytes = archive.finish();
    fs::create_dir_all(paths::target().join("debian"))?;
    if fs::read(&file).unwrap_or_default() != bytes {
        let unfinished = file.with_extension("new");
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, &file)?;
    }
    Ok(file)
}
