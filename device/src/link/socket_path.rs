//! A UNIX socket bound to a path, and the file it leaves in the file system.
//!
//! A file whose socket no process holds any more is replaced; a live socket and
//! a file of another type are refused. Dropping [`SocketPath`] removes the file,
//! unless somebody else's has taken its place.
//!
//! Two processes that find the same stale file in the same instant can both
//! replace it; the earlier one is then unreachable. The window is a few system
//! calls, and closing it would take a lock file that outlives us.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::LinkError;

/// The file of a socket that we bound; removed on drop.
pub(super) struct SocketPath {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A new non-blocking UNIX socket.
pub(super) fn unix_socket(kind: SocketType) -> Result<OwnedFd, LinkError> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
        .map_err(|e| LinkError::host("create a UNIX socket", "", e))
}

/// A socket of type `kind`, bound to `path`.
pub(super) fn bind(path: &Path, kind: SocketType) -> Result<(OwnedFd, SocketPath), LinkError> {
    let fail = |e: Errno| LinkError::host("bind a socket to", path.display(), e);
    let address = SocketAddrUnix::new(path).map_err(fail)?;
    let socket = unix_socket(kind)?;
    let mut result = rustix::net::bind(&socket, &address);
    if result == Err(Errno::ADDRINUSE) {
        remove_stale(path, &address, kind)?;
        result = rustix::net::bind(&socket, &address);
    }
    result.map_err(fail)?;
    let path = path.to_owned();
    let identity = identity(&path);
    Ok((socket, SocketPath { path, identity }))
}

/// Removes the socket file at `path` if nobody answers behind it.
fn remove_stale(path: &Path, address: &SocketAddrUnix, kind: SocketType) -> Result<(), LinkError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(()); // gone in the meantime
    };
    if !found.file_type().is_socket() {
        return Err(LinkError::NotASocket(path.to_owned()));
    }
    // A socket that nobody holds refuses; a live one accepts, is busy, or says
    // that it is of another type.
    let probe = unix_socket(kind)?;
    if rustix::net::connect(&probe, address) != Err(Errno::CONNREFUSED) {
        return Err(LinkError::InUse(path.to_owned()));
    }
    if identity(path) == Some((found.dev(), found.ino())) {
        fs::remove_file(path)
            .map_err(|e| LinkError::host("remove the stale socket", path.display(), e))?;
    }
    Ok(())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
