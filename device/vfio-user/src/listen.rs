//! Listening sockets and their files.
//!
//! A file that a dead server left behind is replaced. A socket on which
//! something accepts, and anything that is not a socket, is left alone. Two
//! servers that start at once never both have the path: a socket is taken out
//! of the way only by renaming it and looking at what was renamed, and each
//! looks again once it listens.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const BACKLOG: i32 = 16;
const ATTEMPTS: usize = 16;

/// Why a path cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something accepts connections there.
    #[error("{}: another server is listening there; stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The path exists and is not a socket. It is left as it is.
    #[error("{}: exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// A socket's path has at most 107 bytes.
    #[error("{}: the path is too long for a socket", .0.display())]
    TooLong(PathBuf),
    /// The system refused.
    #[error("{}: {action}: {}", .path.display(), std::io::Error::from(*.errno))]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        errno: Errno,
    },
}

/// A listening UNIX stream socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    // None if the socket was handed to us.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

type Identity = (u64, u64);

#[allow(clippy::unnecessary_cast, reason = "the types differ between targets")]
fn identity(stat: &Stat) -> Identity {
    (stat.st_dev as u64, stat.st_ino as u64)
}

impl Listener {
    /// Listens on `path`.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, ListenError> {
        let path = path.as_ref();
        let address =
            SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong(path.to_path_buf()))?;
        for _ in 0..ATTEMPTS {
            let socket = socket().map_err(system(path, "cannot make a socket"))?;
            match rustix::net::bind(&socket, &address) {
                Ok(()) => return Self::start(socket, path),
                Err(Errno::ADDRINUSE) => clear(path, &address)?,
                Err(errno) => return Err(system(path, "cannot create the socket")(errno)),
            }
        }
        Err(ListenError::InUse(path.to_path_buf()))
    }

    fn start(socket: OwnedFd, path: &Path) -> Result<Self, ListenError> {
        let stat = rustix::fs::lstat(path).map_err(system(path, "cannot look at the socket"))?;
        let listener = Self {
            socket,
            _file: Some(SocketFile {
                path: path.to_path_buf(),
                identity: identity(&stat),
            }),
        };
        rustix::net::listen(&listener.socket, BACKLOG).map_err(system(path, "cannot listen"))?;
        // Between bind and listen it looked like a dead server's.
        if current(path) != Some(identity(&stat)) {
            return Err(ListenError::InUse(path.to_path_buf()));
        }
        Ok(listener)
    }

    /// Takes over a socket that already listens, for example from a service
    /// manager. Its file is not removed.
    pub fn from_listening(socket: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            _file: None,
        })
    }

    /// Accepts a connection, or `Errno::AGAIN`.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if current(&self.path) == Some(self.identity) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn system(path: &Path, action: &'static str) -> impl FnOnce(Errno) -> ListenError {
    let path = path.to_path_buf();
    move |errno| ListenError::System {
        path,
        action,
        errno,
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

fn current(path: &Path) -> Option<Identity> {
    rustix::fs::lstat(path).ok().as_ref().map(identity)
}

/// Takes a dead server's socket out of the way; succeeds also if there is
/// none any more.
fn clear(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(system(path, "cannot look at the file there")(errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ListenError::NotASocket(path.to_path_buf()));
    }
    match probe(address) {
        Err(Errno::CONNREFUSED) => remove(path, identity(&stat)),
        Err(Errno::NOENT) => Ok(()),
        // Accepted, or the backlog is full.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => {
            Err(ListenError::InUse(path.to_path_buf()))
        }
        Err(errno) => Err(system(
            path,
            "cannot tell whether the socket there is in use",
        )(errno)),
    }
}

fn probe(address: &SocketAddrUnix) -> Result<(), Errno> {
    rustix::net::connect(socket()?, address)
}

/// Removes a socket that looked dead. It is renamed first, and put back if it
/// is another one by now or has come alive: once it is renamed, a server that
/// begins to listen on it will notice that it lost the path.
fn remove(path: &Path, dead: Identity) -> Result<(), ListenError> {
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let mut aside = OsString::from(path);
    aside.push(format!(".{process}.{thread:?}.stale"));
    let aside = PathBuf::from(aside);
    match rustix::fs::rename(path, &aside) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(system(path, "cannot replace the old socket")(errno)),
    }
    // If the longer name is too long to connect to, the identity has to do.
    let alive = SocketAddrUnix::new(&aside).is_ok_and(|a| probe(&a) != Err(Errno::CONNREFUSED));
    let put_back = alive || current(&aside) != Some(dead);
    let result = if put_back && rustix::fs::link(&aside, path).is_ok() {
        Err(ListenError::InUse(path.to_path_buf()))
    } else {
        Ok(())
    };
    let _ = rustix::fs::unlink(&aside);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn files(directory: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|e| e.unwrap().file_name()).collect()
    }

    #[test]
    fn the_file_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(files(dir.path()), ["s"]);
    }

    #[test]
    fn a_live_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Listener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        Listener::bind(&path).unwrap();
    }

    #[test]
    fn another_kind_of_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        let error = Listener::bind(dir.path()).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_file_that_replaced_ours_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let error = Listener::bind(dir.path().join("none/s")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        let error = Listener::bind(dir.path().join("x".repeat(200))).unwrap_err();
        assert!(matches!(error, ListenError::TooLong(_)), "{error}");
    }

    #[test]
    fn of_servers_that_start_at_once_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| Listener::bind(&path)))
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let won = bound.iter().filter(|b| b.is_ok()).count();
            assert!(won <= 1, "{won} servers have the path");
            drop(bound);
            let _ = std::fs::remove_file(&path);
        }
    }
}
