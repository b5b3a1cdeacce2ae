//! Archives in the format an initramfs has: cpio "newc", as `buffer-format.rst` of the Linux
//! documentation of early userspace describes it.
//!
//! Folders on the way to an entry are made as they are first needed. Entries belong to root and
//! carry no times, so that equal contents are equal bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<String>,
}

impl Archive {
    /// An archive with nothing in it.
    pub(crate) fn new() -> Archive {
        Archive::default()
    }

    /// A folder, and those it lies in. One that is there already stays.
    pub(crate) fn directory(&mut self, path: &str) {
        if path.is_empty() || !self.paths.insert(path.to_owned()) {
            return;
        }
        self.parents(path);
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// A file. One that is there already stays.
    pub(crate) fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        if self.paths.insert(path.to_owned()) {
            self.parents(path);
            self.entry(path, REGULAR | mode, (0, 0), data);
        }
    }

    /// A file with the contents of one on this machine.
    ///
    /// # Errors
    /// That cannot be read.
    pub(crate) fn host_file(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, mode, &data);
        Ok(())
    }

    /// A symbolic link. What is there already stays.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        if self.paths.insert(path.to_owned()) {
            self.parents(path);
            self.entry(path, LINK | 0o777, (0, 0), to.as_bytes());
        }
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        if self.paths.insert(path.to_owned()) {
            self.parents(path);
            self.entry(path, CHARACTER | 0o600, (major, minor), &[]);
        }
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    /// Header of 13 fields in hexadecimal, name, data; the last two padded to four bytes.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        let inode = self.paths.len();
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (major, minor) = device;
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{:08x}{:08x}{:08x}\
             {major:08x}{minor:08x}{:08x}{:08x}",
            0,
            0,
            0,
            data.len(),
            0,
            0,
            path.len() + 1,
            0,
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_small_archive() {
        let mut archive = Archive::new();
        archive.file("a/b", 0o644, b"data!");
        let text = String::from_utf8(archive.finish()).unwrap();
        // A header is 110 bytes; with name and padding 112 for `a`, 116 for `a/b` and 124 for
        // the trailer; the data takes 8.
        assert_eq!(text.len(), 112 + 116 + 8 + 124);
        assert!(text.starts_with("07070100000002000041ed"));
        assert_eq!(&text[110..112], "a\0");
        assert_eq!(&text[112 + 110..112 + 116], "a/b\0\0\0");
        assert_eq!(&text[228..236], "data!\0\0\0");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn what_is_there_stays() {
        let mut archive = Archive::new();
        archive.file("bin/lspci", 0o755, b"first");
        archive.link("bin/lspci", "/bin/busybox");
        let text = String::from_utf8(archive.finish()).unwrap();
        assert!(text.contains("first") && !text.contains("busybox"));
    }
}
