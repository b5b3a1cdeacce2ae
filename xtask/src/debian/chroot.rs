//! Runs programs in a root, in namespaces of their own: what they mount is gone when they end,
//! and so are processes that they leave behind.
//!
//! As root, that takes the right to mount. Anybody else becomes root of a user namespace, with
//! a range of subordinate ids (`/etc/subuid`) for the other users of a Debian system; roots and
//! images made that way belong to these ids.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

use crate::host::root::quote;
use crate::process;

const HELP: &str = "making a Debian guest takes root, or, as an ordinary user, the program \
    newuidmap (package uidmap), ranges for this user in /etc/subuid and /etc/subgid, and a kernel \
    (6.6 or later) that lets users make namespaces";

/// What the overlay of [`in_overlay`] is about.
pub(crate) struct Overlay<'a> {
    /// The folders of the root below, the lowest first; nothing in them changes.
    pub lower: &'a [PathBuf],
    /// Folders of this machine, and where they are seen in the root.
    pub binds: &'a [(&'a Path, &'a str)],
    /// What root runs in it, by `sh`.
    pub inside: &'a str,
    /// What is run afterwards, outside, by `sh`; the changes lie in the folder `$UPPER`.
    pub after: &'a str,
}

/// A command that runs a shell script as root in namespaces of its own. Its name for programs of
/// this machine includes those of `sbin`.
///
/// # Errors
/// This user cannot have such a command.
pub(crate) fn script(text: &str) -> Result<Command> {
    let mut command = unshare();
    let works = process::output(unshare().arg("true"));
    works.context(HELP)?;
    command.args(["sh", "-euc", text]).stdin(Stdio::null());
    Ok(command)
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child"]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Runs a script in an overlay of a root that has no network, with what it writes in memory.
///
/// # Errors
/// The overlay cannot be mounted, or the script fails; `log` then holds its words.
pub(crate) fn in_overlay(overlay: &Overlay, log: &Path) -> Result<()> {
    let mut command = script(&overlay_script(overlay))?;
    let file = std::fs::File::create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let status = command.status().context("cannot start unshare")?;
    if !status.success() {
        let words = std::fs::read_to_string(log).unwrap_or_default();
        let last: Vec<_> = words.lines().rev().take(15).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        bail!("{} (all of it: {})", last.join("\n"), log.display());
    }
    Ok(())
}

/// `/mnt` is a place that every machine has; in this mount namespace it is ours.
fn overlay_script(overlay: &Overlay) -> String {
    let mut text = "mount -t tmpfs tmpfs /mnt\nmkdir /mnt/upper /mnt/work /mnt/root\n".to_owned();
    let mut lower = Vec::new();
    for (number, folder) in overlay.lower.iter().enumerate() {
        // A name that the options of a mount can have.
        let name = format!("/mnt/lower{number}");
        let folder = quote(&folder.to_string_lossy());
        text += &format!("mkdir {name}; mount --bind {folder} {name}\n");
        // The first one named is the topmost.
        lower.insert(0, name);
    }
    text += &format!(
        "mount -t overlay -o lowerdir={},upperdir=/mnt/upper,workdir=/mnt/work{} overlay /mnt/root\n\
         mount --rbind /dev /mnt/root/dev\n\
         mount -t proc proc /mnt/root/proc\n\
         mount -t tmpfs tmpfs /mnt/root/tmp\n\
         mount -t tmpfs tmpfs /mnt/root/run\n\
         cd /mnt/root\n",
        lower.join(":"),
        attributes()
    );
    for (from, to) in overlay.binds {
        let from = quote(&from.to_string_lossy());
        text += &format!("mkdir -p .{to}; mount --bind {from} .{to}\n");
    }
    text += &format!(
        "unshare --net chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
         HOME=/root DEBIAN_FRONTEND=noninteractive sh -euc {}\n",
        quote(overlay.inside)
    );
    // All at once: an ordinary user may not take mounts of this machine apart.
    text += "cd /\numount -l /mnt/root\n";
    text += &format!("UPPER=/mnt/upper\n{}\n", overlay.after);
    text
}

/// What says where an overlay keeps what it has to note of a folder, without which dpkg cannot rename
/// one that it has made. The usual place is for root alone; a guest, which looks there, does without
/// such notes, as no folder takes the place of another one.
fn attributes() -> &'static str {
    match geteuid().is_root() {
        true => "",
        false => ",userxattr",
    }
}

/// Removes a root, whose files may belong to subordinate ids.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let text = format!(
        "rm -rf --one-file-system {}",
        quote(&root.to_string_lossy())
    );
    let status = script(&text)?.status()?;
    ensure!(status.success(), "cannot remove {}", root.display());
    Ok(())
}
