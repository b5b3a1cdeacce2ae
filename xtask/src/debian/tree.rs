//! A part of our sources as a package ships them: the crates it needs of this workspace, with the
//! crates they need of others beside them, so that they build without a network.
//!
//! A tree is kept and brought up to date: a file that has not changed is not written again, so
//! that Cargo, which goes by times, builds again only what has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::digest::{Digest, files};
use crate::host::root;
use crate::{check, paths, process};

/// Where a tree keeps other people's crates.
const VENDOR: &str = "vendor";
const CONFIG: &str = ".cargo/config.toml";

/// What a tree holds.
pub(crate) struct Tree<'a> {
    /// Where it is.
    pub dir: PathBuf,
    /// Crates that are members of the workspace there too.
    pub members: &'a [&'a str],
    /// Crates that are not, nor are they here.
    pub outside: &'a [&'a str],
    /// Further files of ours.
    pub files: &'a [&'a str],
    /// The manifest whose dependencies it brings along.
    pub manifest: &'a str,
    /// Manifest of a standard library that is built with it.
    pub library: Option<&'a Path>,
}

impl Tree<'_> {
    /// Makes it, or brings it up to date.
    ///
    /// # Errors
    /// A file cannot be copied, or a crate cannot be fetched.
    pub(crate) fn update(&self) -> Result<()> {
        let mut there = self.copy_ours()?;
        let manifest = fs::read_to_string(paths::checkout().join("Cargo.toml"))?;
        let manifest = reduced(&manifest, self.members, self.outside)?;
        write_if_new(&self.dir.join("Cargo.toml"), manifest.as_bytes())?;
        there.extend(["Cargo.toml", CONFIG].map(PathBuf::from));
        for file in files(&self.dir)? {
            if !file.starts_with(VENDOR) && !there.contains(&file) {
                fs::remove_file(self.dir.join(&file))?;
            }
        }
        self.vendor()?;
        // Cargo has shortened the lock file to what is left of the workspace, which is right and
        // would look like a change.
        self.copy_ours().map(drop)
    }

    /// Copies our files; the answer is their names.
    fn copy_ours(&self) -> Result<BTreeSet<PathBuf>> {
        let mut there = BTreeSet::new();
        for file in self.ours()? {
            let mut data = fs::read(paths::checkout().join(&file))?;
            if file.ends_with("Cargo.toml") {
                data = without_tests(&String::from_utf8(data)?).into_bytes();
            }
            write_if_new(&self.dir.join(&file), &data)?;
            there.insert(file);
        }
        Ok(there)
    }

    /// Files of ours that Git knows or would add.
    fn ours(&self) -> Result<Vec<PathBuf>> {
        let mut git = Command::new("git");
        git.args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
        ]);
        git.args(self.members).args(self.outside).args(self.files);
        let list = process::output(git.current_dir(paths::checkout()))?;
        let list = list
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from);
        // One that was removed and not yet committed is still listed.
        let list: Vec<_> = list
            .filter(|file| paths::checkout().join(file).is_file())
            .collect();
        for folder in self.members.iter().chain(self.outside) {
            let found = list.iter().any(|file| file.starts_with(folder));
            ensure!(found, "there is no {folder} in this checkout");
        }
        Ok(list)
    }

    /// Brings the crates of others along, if the manifests and the lock file ask for others than
    /// are there.
    fn vendor(&self) -> Result<()> {
        let mut asked = Digest::default();
        let manifest = |name: &str| name == "Cargo.toml" || name == "Cargo.lock";
        for file in files(&self.dir)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if manifest(&name) && !file.starts_with(VENDOR) {
                asked = asked.text(&fs::read_to_string(self.dir.join(&file))?);
            }
        }
        if let Some(library) = self.library {
            asked = asked.text(&fs::read_to_string(library.with_extension("lock"))?);
        }
        let stamp = self.dir.with_extension("vendored");
        let known = fs::read_to_string(&stamp).unwrap_or_default();
        if known == asked.finish() && self.dir.join(CONFIG).is_file() {
            return Ok(());
        }
        fs::write(&stamp, "")?;
        let mut cargo = Command::new(check::cargo_path());
        cargo.args(["vendor", "--quiet", "--versioned-dirs", "--manifest-path"]);
        cargo.arg(self.dir.join(self.manifest));
        if let Some(library) = self.library {
            // The library's manifest uses what stable Cargo refuses to others.
            cargo.arg("--sync").arg(library).env("RUSTC_BOOTSTRAP", "1");
        }
        // Its own sources of crates must not be those that an earlier call has left.
        let _ = fs::remove_file(self.dir.join(CONFIG));
        process::output(cargo.arg(VENDOR).current_dir(&self.dir))?;
        hollow(&self.dir.join(VENDOR))?;
        let config = format!(
            "[source.crates-io]\nreplace-with = \"{VENDOR}\"\n\n\
             [source.{VENDOR}]\ndirectory = \"{VENDOR}\"\n\n[net]\noffline = true\n"
        );
        write_if_new(&self.dir.join(CONFIG), config.as_bytes())?;
        fs::write(&stamp, asked.finish())?;
        Ok(())
    }
}

/// Takes the contents from the crates for Windows, which are most of the bytes. Cargo looks at the
/// manifest of every crate that the lock file of the standard library names, and builds none of
/// these.
fn hollow(vendor: &Path) -> Result<()> {
    for entry in fs::read_dir(vendor)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("windows") {
            continue;
        }
        let dir = entry.path();
        let sums = fs::read_to_string(dir.join(".cargo-checksum.json"))?;
        let mut sums: serde_json::Value = serde_json::from_str(&sums)?;
        let manifest = fs::read(dir.join("Cargo.toml"))?;
        root::remove(&dir)?;
        write_if_new(&dir.join("Cargo.toml"), &manifest)?;
        write_if_new(&dir.join("src/lib.rs"), b"")?;
        sums["files"] = serde_json::json!({});
        write_if_new(
            &dir.join(".cargo-checksum.json"),
            sums.to_string().as_bytes(),
        )?;
    }
    Ok(())
}

/// A manifest without what only tests need, which may be crates that a tree lacks.
fn without_tests(manifest: &str) -> String {
    let mut kept = true;
    let lines = manifest.lines().filter(|line| {
        if line.starts_with('[') {
            kept = !line.starts_with("[dev-dependencies");
        }
        kept
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The workspace's manifest with other members.
fn reduced(manifest: &str, members: &[&str], outside: &[&str]) -> Result<String> {
    let section = |manifest: &str, name: &str| {
        let start = manifest.find(&format!("\n{name} = ["))? + 1;
        let end = start + manifest.get(start..)?.find(']')? + 1;
        Some((start, end))
    };
    let mut manifest = manifest.to_owned();
    if let Some((start, end)) = section(&manifest, "exclude") {
        manifest.replace_range(start..end, "");
    }
    let (start, end) = section(&manifest, "members").context("the workspace has no members")?;
    let lists = format!("members = {members:?}\nexclude = {outside:?}");
    manifest.replace_range(start..end, &lists);
    Ok(manifest)
}

/// Writes a file, if it is not there with just these contents.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_if_new(path: &Path, data: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == data) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, data).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_with_other_members_keeps_the_rest() {
        let all = "[workspace]\nmembers = [\n    \"a\",\n    \"b\",\n]\nexclude = [\"c\"]\n\n[x]\ny = [1]\n";
        assert_eq!(
            reduced(all, &["b"], &["d"]).unwrap(),
            "[workspace]\nmembers = [\"b\"]\nexclude = [\"d\"]\n\n\n[x]\ny = [1]\n"
        );
        assert!(reduced("[workspace]\n", &[], &[]).is_err());
    }

    #[test]
    fn a_manifest_without_tests_has_no_crates_for_them() {
        let all =
            "[package]\nname = \"a\"\n[dev-dependencies]\nb = \"1\"\n\n[lints]\nworkspace = true\n";
        assert_eq!(
            without_tests(all),
            "[package]\nname = \"a\"\n[lints]\nworkspace = true\n"
        );
    }

    #[test]
    fn what_has_not_changed_keeps_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/file");
        write_if_new(&file, b"one").unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        let time = || fs::metadata(&file).unwrap().modified().unwrap();
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        write_if_new(&file, b"one").unwrap();
        assert_eq!(time(), long_ago);
        write_if_new(&file, b"two").unwrap();
        assert_ne!(time(), long_ago);
    }
}
