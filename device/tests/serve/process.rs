//! A `vrnic` process, from its start to its end.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process, pidfd_open, prlimit,
};
use tempfile::TempDir;

/// Nothing in these tests takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for sockets and files, with a path short enough for sockets.
#[track_caller]
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("vs").tempdir().unwrap()
}

/// Repeats `look` until it finds something: for what announces itself by no event.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The command, without arguments; says only what a user must know.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrnic"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// Waits until `child` ends.
#[track_caller]
pub(crate) fn wait_end(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_child(child);
    let end: OwnedFd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&end, PollFlags::IN)];
        match poll(&mut fds, Some(&left.try_into().unwrap())) {
            Ok(0) => panic!("the process does not end"),
            Ok(_) => return child.wait().unwrap(),
            Err(_) => {}
        }
    }
}

/// A serving process.
pub(crate) struct Nic {
    child: Child,
    sockets: Vec<PathBuf>,
    log: PathBuf,
}

impl Nic {
    /// Serves the sockets called `names` in `dir`; returns when all are served.
    #[track_caller]
    pub(crate) fn start(dir: &Path, names: &[&str], arguments: &[&str]) -> Self {
        let mut nic = Self::spawn(dir, names, arguments);
        nic.wait_ready();
        nic
    }

    /// The same without waiting.
    #[track_caller]
    pub(crate) fn spawn(dir: &Path, names: &[&str], arguments: &[&str]) -> Self {
        let sockets: Vec<_> = names.iter().map(|name| dir.join(name)).collect();
        let log = format!("{}.log", names.join("-"));
        let mut command = command();
        command.arg("serve").args(arguments);
        for socket in &sockets {
            command.arg("--socket").arg(socket);
        }
        Self::run(dir, command, sockets, &log)
    }

    /// Serves a physical function with `vfs` virtual ones: socket 0, and 1 and further on.
    #[track_caller]
    pub(crate) fn start_family(dir: &Path, vfs: u16, arguments: &[&str]) -> Self {
        let names = std::iter::once("pf0.sock".into());
        let names = names.chain((0..vfs).map(|n| format!("vf{n}.sock")));
        let sockets = names.map(|name: String| dir.join(name)).collect();
        let mut command = command();
        let vfs = vfs.to_string();
        command.args(["serve", "--vfs", &vfs, "--dir"]).arg(dir);
        command.args(arguments);
        let mut nic = Self::run(dir, command, sockets, "family.log");
        nic.wait_ready();
        nic
    }

    #[track_caller]
    fn run(dir: &Path, mut command: Command, sockets: Vec<PathBuf>, log: &str) -> Self {
        let log = dir.join(log);
        let child = command
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(&log)
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        Self {
            child,
            sockets,
            log,
        }
    }

    /// Waits until clients are served.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        self.wait_accepts();
        // Clients can come before the link is open.
        until("the process serves", || {
            self.assert_alive();
            self.log().contains("serving").then_some(())
        });
    }

    /// Waits until clients can connect.
    #[track_caller]
    pub(crate) fn wait_accepts(&mut self) {
        for index in 0..self.sockets.len() {
            until("a socket accepts", || {
                self.assert_alive();
                UnixStream::connect(&self.sockets[index]).ok()
            });
        }
    }

    /// The socket of function `index`.
    pub(crate) fn socket(&self, index: usize) -> &Path {
        &self.sockets[index]
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub(crate) fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("vrnic ended: {status}");
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Leaves the process no further descriptor, or as many as it could have before.
    #[track_caller]
    pub(crate) fn starve(&self, starve: bool) {
        let pid = Some(Pid::from_child(&self.child));
        let own = getrlimit(Resource::Nofile);
        let current = if starve { Some(3) } else { own.maximum };
        let limit = Rlimit { current, ..own };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }

    /// Kills the process as nothing can refuse.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        wait_end(&mut self.child)
    }

    /// Ends it the way a user does, and checks that it ends well.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.wait_end().success(), "{}", self.log());
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}---", self.log.display(), self.log());
        }
    }
}

/// Runs `vrnic` with `arguments` in `dir` until it ends by itself: exit code, standard output and
/// standard error.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(dir: &Path, arguments: &[S]) -> (Option<i32>, String, String) {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut child = command()
        .current_dir(dir)
        .args(arguments)
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap();
    let guard = KillOnDrop(&mut child);
    let status = wait_end(guard.0);
    (status.code(), contents(out), contents(err))
}

struct KillOnDrop<'a>(&'a mut Child);

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn contents(mut file: File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}
