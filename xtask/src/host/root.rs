//! Private roots: Debian packages unpacked into a folder, whose programs run through the
//! folder's own dynamic loader.
//!
//! A root is identified by what was asked for: its stamp begins with the request, and a root with
//! another stamp is made anew. Maintainer scripts do not run, so a root holds what packages ship
//! and nothing more.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Apt, Request};
use crate::paths;

const STAMP: &str = "packages.txt";

/// The set of roots, with an apt that is only set up if something has to be fetched.
#[derive(Default)]
pub(crate) struct Roots {
    apt: Option<Apt>,
}

/// One private root.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    dir: PathBuf,
}

impl Roots {
    /// The root for a request, made if it is not there yet.
    ///
    /// # Errors
    /// Packages cannot be fetched or unpacked.
    pub(crate) fn get(&mut self, request: &Request) -> Result<Root> {
        let root = Root {
            dir: paths::vm().join("root").join(request.name),
        };
        let wanted = describe(request);
        if root.stamp().starts_with(&wanted) {
            return Ok(root);
        }
        let apt = self.apt()?;
        let downloaded = apt.download(request)?;
        println!("{}: unpacking", request.name);
        let unfinished = root.dir.with_extension("new");
        remove(&unfinished)?;
        lay_out(&unfinished)?;
        for file in &downloaded.files {
            apt::unpack(&downloaded.dir.join(file), &unfinished)?;
        }
        let stamp = format!("{wanted}{}\n", downloaded.files.join("\n"));
        fs::write(unfinished.join(STAMP), stamp)?;
        remove(&root.dir)?;
        fs::rename(&unfinished, &root.dir)?;
        remove(&downloaded.dir)?;
        Ok(root)
    }

    /// The private apt, its package lists up to date.
    ///
    /// # Errors
    /// As [`Apt::new`].
    pub(crate) fn apt(&mut self) -> Result<&Apt> {
        let apt = match self.apt.take() {
            Some(apt) => apt,
            None => Apt::new(&paths::vm().join("apt"))?,
        };
        Ok(self.apt.insert(apt))
    }
}

impl Root {
    /// A root that was made in another way.
    pub(crate) fn at(dir: PathBuf) -> Root {
        Root { dir }
    }

    /// A path inside the root.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.join(inside)
    }

    /// What was asked for and the package files that were unpacked; empty if there is no root.
    pub(crate) fn stamp(&self) -> String {
        fs::read_to_string(self.dir.join(STAMP)).unwrap_or_default()
    }

    /// The command that starts a program of the root.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.loader());
        command
            .arg("--library-path")
            .arg(self.libraries())
            .arg(self.path(program));
        command
    }

    /// Libraries that a program of the root loads, the loader included.
    ///
    /// # Errors
    /// The program cannot be loaded.
    pub(crate) fn libraries_of(&self, program: &str) -> Result<Vec<PathBuf>> {
        let mut list = Command::new(self.loader());
        list.arg("--library-path")
            .arg(self.libraries())
            .arg("--list")
            .arg(self.path(program));
        let list = crate::process::output(&mut list)?;
        let path = |line: &str| {
            line.split_once("=> ")?
                .1
                .split(' ')
                .next()
                .map(PathBuf::from)
        };
        Ok(list.lines().filter_map(path).collect())
    }

    /// Writes a script that starts a program of the root with the given first arguments, so that
    /// people and other programs can start it by one name.
    ///
    /// # Errors
    /// The script cannot be written.
    pub(crate) fn wrap(&self, program: &str, arguments: &[String]) -> Result<PathBuf> {
        let name = Path::new(program)
            .file_name()
            .context("a program has a name")?;
        let script = paths::bin().join(name);
        let command = self.command(program);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words = words.map(|word| word.to_string_lossy().into_owned());
        let words: Vec<_> = words
            .chain(arguments.iter().cloned())
            .map(|word| quote(&word))
            .collect();
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
        if fs::read_to_string(&script).unwrap_or_default() != text {
            write_script(&script, &text)?;
        }
        Ok(script)
    }

    fn loader(&self) -> PathBuf {
        self.path("lib64/ld-linux-x86-64.so.2")
    }

    fn libraries(&self) -> String {
        let dir = |inside| self.path(inside).to_string_lossy().into_owned();
        [dir("usr/lib/x86_64-linux-gnu"), dir("usr/lib")].join(":")
    }
}

/// The beginning of a stamp.
fn describe(request: &Request) -> String {
    let Request {
        name,
        suite,
        packages,
        provided,
    } = request;
    format!(
        "{name}: {} from {suite} without {}\n\n",
        packages.join(" "),
        provided.join(" ")
    )
}

/// The links of a merged `/usr`, which packages rely on and none ships as a file of its own.
fn lay_out(dir: &Path) -> Result<()> {
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(dir.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), dir.join(name))?;
    }
    Ok(())
}

/// Removes a folder that may not be there.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Writes an executable file in one step, so that nobody starts half of it.
fn write_script(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, text)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
    fs::rename(&unfinished, path)?;
    Ok(())
}

/// A word as a shell reads it back.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\"] {
            let mut shell = Command::new("sh");
            let said = shell
                .arg("-c")
                .arg(format!("printf %s {}", quote(word)))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), word);
        }
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("nothing")).unwrap();
    }
}
