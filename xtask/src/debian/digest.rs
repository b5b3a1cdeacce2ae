//! A short name for contents, to tell whether something was made of what is there now.
//!
//! It guards against forgetting, not against an enemy: 64 bits of SipHash.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A digest being made.
#[derive(Default)]
pub(crate) struct Digest(DefaultHasher);

impl Digest {
    /// Adds a text.
    pub(crate) fn text(mut self, text: &str) -> Digest {
        text.hash(&mut self.0);
        self
    }

    /// Adds all files of a folder: their paths in it, modes and contents.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn folder(mut self, folder: &Path) -> Result<Digest> {
        for file in files(folder)? {
            let path = folder.join(&file);
            let mode = fs::symlink_metadata(&path)?.permissions().mode();
            let data = match path.is_symlink() {
                true => fs::read_link(&path)?.into_os_string().into_encoded_bytes(),
                false => fs::read(&path)?,
            };
            (file, mode, data).hash(&mut self.0);
        }
        Ok(self)
    }

    /// The digest, in hexadecimal digits.
    pub(crate) fn finish(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// Everything in a folder and its folders that is no folder, by path inside it, in order.
///
/// # Errors
/// A folder cannot be read.
pub(crate) fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inside) = open.pop() {
        let dir = folder.join(&inside);
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_changes_shows() {
        let dir = tempfile::tempdir().unwrap();
        let now = || {
            let digest = Digest::default().folder(dir.path()).unwrap();
            digest.finish()
        };
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), "one").unwrap();
        let first = now();
        assert_eq!(first, now());
        fs::write(dir.path().join("a/b"), "two").unwrap();
        let second = now();
        fs::rename(dir.path().join("a/b"), dir.path().join("b")).unwrap();
        let third = now();
        assert!(first != second && second != third && first != third);
    }
}
