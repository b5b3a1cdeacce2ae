//! Listening sockets and their files.
//!
//! Who may connect is what the file's mode says. With [`Listener::bind`] the
//! process's umask decides; [`Listener::bind_private`] makes a file for its owner
//! alone. The kernel takes the mode from the unbound socket, so there is no
//! moment at which the file is open to others.
//!
//! A file that a dead server left behind is replaced. A socket on which
//! something accepts, and anything that is not a socket, is left alone.
//!
//! Of servers that start at once on one path, exactly one gets it: each listens
//! on a file of its own first, so that a socket at the path that refuses a
//! connection is dead for good, and then *exchanges* the two files. Who finds a
//! dead socket in its hands has the path; who finds a live one exchanges again
//! until it holds its own. There are as many hands as servers, and one dead
//! socket.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const BACKLOG: i32 = 16;
const ATTEMPTS: usize = 1000;

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
        Self::bind_with(path.as_ref(), None)
    }

    /// Listens on `path`, for clients of the same user only (mode 0600).
    pub fn bind_private(path: impl AsRef<Path>) -> Result<Self, ListenError> {
        Self::bind_with(path.as_ref(), Some(Mode::RUSR | Mode::WUSR))
    }

    fn bind_with(path: &Path, mode: Option<Mode>) -> Result<Self, ListenError> {
        let address =
            SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong(path.to_path_buf()))?;
        let aside = Aside::new(path, mode)?;
        for _ in 0..ATTEMPTS {
            match rustix::fs::linkat(CWD, &aside.file.0, CWD, path, AtFlags::empty()) {
                Ok(()) => return Ok(aside.into_listener(path)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(system(path, "cannot create the socket")(errno)),
            }
            match state(path, &address) {
                Ok(State::Gone) => {}
                Ok(State::Dead) if aside.exchange(path)? => return Ok(aside.into_listener(path)),
                Ok(State::Dead | State::Alive) => break,
                Ok(State::NotASocket) => return Err(ListenError::NotASocket(path.to_path_buf())),
                Err(errno) => return Err(system(path, "cannot look at the file there")(errno)),
            }
        }
        Err(ListenError::InUse(path.to_path_buf()))
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

    /// Accepts a connection, which does not block either, or `Errno::AGAIN`.
    pub fn accept(&self) -> Result<OwnedFd, Errno> {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gone,
    Dead,
    Alive,
    NotASocket,
}

/// What is at `path`, which `address` connects to.
fn state(path: &Path, address: &SocketAddrUnix) -> Result<State, Errno> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(State::Gone),
        Err(errno) => return Err(errno),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Ok(State::NotASocket);
    }
    match rustix::net::connect(socket()?, address) {
        Err(Errno::CONNREFUSED) => Ok(State::Dead),
        Err(Errno::NOENT) => Ok(State::Gone),
        // Accepted, or the backlog is full.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(State::Alive),
        Err(errno) => Err(errno),
    }
}

/// A file that is removed in the end, whatever it is then.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(&self.0);
    }
}

/// A socket that listens on a file next to the one it is for.
#[derive(Debug)]
struct Aside {
    file: Temporary,
    address: SocketAddrUnix,
    socket: OwnedFd,
    identity: Identity,
    // What `address` goes through, if it has to.
    _directory: Option<OwnedFd>,
}

impl Aside {
    fn new(target: &Path, mode: Option<Mode>) -> Result<Self, ListenError> {
        let (file, address, directory) =
            Self::name(target).map_err(system(target, "cannot open the directory"))?;
        // Only a dead process of our number can have left it.
        let _ = rustix::fs::unlink(&file.0);
        let socket = socket().map_err(system(target, "cannot make a socket"))?;
        if let Some(mode) = mode {
            rustix::fs::fchmod(&socket, mode)
                .map_err(system(target, "cannot set the socket's mode"))?;
        }
        rustix::net::bind(&socket, &address).map_err(system(target, "cannot create the socket"))?;
        let stat = rustix::fs::lstat(&file.0).map_err(system(target, "cannot find the socket"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(system(target, "cannot listen"))?;
        Ok(Self {
            file,
            address,
            socket,
            identity: identity(&stat),
            _directory: directory,
        })
    }

    /// A name in the directory of `target`, which tools that list sockets will
    /// show; only if it were too long for a socket, a short one, reached
    /// through the directory's descriptor.
    fn name(target: &Path) -> Result<(Temporary, SocketAddrUnix, Option<OwnedFd>), Errno> {
        let suffix = format!(".{}.{:?}", std::process::id(), std::thread::current().id());
        let mut path = OsString::from(target);
        path.push(&suffix);
        if let Ok(address) = SocketAddrUnix::new(&path) {
            return Ok((Temporary(path.into()), address, None));
        }
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}/{suffix}", directory.as_raw_fd());
        let address = SocketAddrUnix::new(short)?;
        Ok((Temporary(parent.join(suffix)), address, Some(directory)))
    }

    /// Puts this socket in the place of a dead one. False if it turns out to
    /// be alive.
    fn exchange(&self, target: &Path) -> Result<bool, ListenError> {
        for _ in 0..ATTEMPTS {
            let flags = RenameFlags::EXCHANGE;
            match rustix::fs::renameat_with(CWD, &self.file.0, CWD, target, flags) {
                Ok(()) => {}
                // A file system that cannot exchange: as good as it gets.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    return rustix::fs::rename(&self.file.0, target)
                        .map(|()| true)
                        .map_err(system(target, "cannot replace the old socket"));
                }
                // The owner of what was there has just removed it.
                Err(Errno::NOENT) => {
                    let ours = current(&self.file.0) == Some(self.identity);
                    let put = rustix::fs::linkat(CWD, &self.file.0, CWD, target, AtFlags::empty());
                    return Ok(ours && put.is_ok());
                }
                Err(errno) => return Err(system(target, "cannot replace the old socket")(errno)),
            }
            if current(&self.file.0) == Some(self.identity) {
                return Ok(false);
            }
            if let Ok(State::Dead | State::Gone) = state(&self.file.0, &self.address) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn into_listener(self, target: &Path) -> Listener {
        Listener {
            socket: self.socket,
            _file: Some(SocketFile {
                path: target.to_path_buf(),
                identity: self.identity,
            }),
        }
    }
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
    fn a_private_socket_is_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mode = || {
            std::fs::symlink_metadata(&path)
                .unwrap()
                .permissions()
                .mode()
        };
        // It takes the place of one that was open to all.
        drop(UnixListener::bind(&path).unwrap());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let _listener = Listener::bind_private(&path).unwrap();
        assert_eq!(mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
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
    fn a_path_as_long_as_a_socket_can_have() {
        let dir = tempfile::tempdir().unwrap();
        let room = 107 - dir.path().as_os_str().len() - 1;
        let path = dir.path().join("x".repeat(room));
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(files(dir.path()).is_empty());
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
            assert_eq!(won, 1, "{won} servers have the path");
            assert!(UnixStream::connect(&path).is_ok());
            drop(bound);
            assert!(files(dir.path()).is_empty());
        }
    }
}
