//! A NIC: a process that serves functions on sockets, until it is dropped.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::TempDir;
use vrnic_driver_vfio::{HostPlatform, Options};

/// Time that a process may take until its sockets accept clients.
const START: Duration = Duration::from_secs(10);

/// A process with its sockets.
pub(crate) struct Nic {
    child: Child,
    directory: TempDir,
    /// Of its functions, in order.
    sockets: Vec<PathBuf>,
}

impl Nic {
    /// Starts a process that serves `functions` functions on a port plugged into `link`.
    pub(crate) fn start(functions: usize, link: &str) -> Result<Self> {
        let directory = scratch()?;
        let socket = |number| directory.path().join(format!("function-{number}"));
        let sockets: Vec<_> = (0..functions).map(socket).collect();
        let mut arguments = vec![OsString::from("--link"), OsString::from(link)];
        for socket in &sockets {
            arguments.extend(["--socket".into(), socket.into()]);
        }
        Self::serve(directory, sockets, &arguments)
    }

    /// The same for a physical function with `vfs` virtual ones, and no link.
    pub(crate) fn start_family(vfs: usize) -> Result<Self> {
        let directory = scratch()?;
        let names = (0..vfs).map(|number| format!("vf{number}.sock"));
        let names = std::iter::once("pf0.sock".to_owned()).chain(names);
        let sockets = names.map(|name| directory.path().join(name)).collect();
        let vfs = vfs.to_string();
        let arguments = [
            "--vfs".into(),
            vfs.into(),
            "--dir".into(),
            directory.path().into(),
        ];
        Self::serve(directory, sockets, &arguments)
    }

    fn serve(directory: TempDir, sockets: Vec<PathBuf>, arguments: &[OsString]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let words = File::create(words(directory.path()))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words);
        let child = command.spawn().context("cannot start a NIC")?;
        Ok(Self {
            child,
            directory,
            sockets,
        })
    }

    /// Process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens all functions, as soon as they can be.
    pub(crate) fn open(&mut self, options: Options) -> Result<Vec<HostPlatform>> {
        let deadline = Instant::now() + START;
        let sockets = self.sockets.clone();
        let platforms = sockets
            .iter()
            .map(|socket| self.open_one(socket, options, deadline));
        let platforms: Result<Vec<_>> = platforms.collect();
        explain(std::slice::from_ref(self), platforms)
    }

    fn open_one(
        &mut self,
        socket: &Path,
        options: Options,
        deadline: Instant,
    ) -> Result<HostPlatform> {
        loop {
            match HostPlatform::open_socket(socket, options) {
                Ok(platform) => return Ok(platform),
                Err(error) if is_early(&error) && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the NIC ended with {status}");
            }
            // There is no event for a socket that appears.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end of what the process wrote to standard error, which is warnings and worse.
    fn last_words(&self) -> Option<String> {
        let text = std::fs::read_to_string(words(self.directory.path())).ok()?;
        let lines: Vec<_> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(5)..)?.join(" | ");
        (!last.is_empty()).then_some(last)
    }
}

/// Adds to an error what the processes that may have caused it said.
pub(crate) fn explain<T>(nics: &[Nic], result: Result<T>) -> Result<T> {
    result.map_err(|error| {
        let words: Vec<_> = nics.iter().filter_map(Nic::last_words).collect();
        match words.is_empty() {
            true => error,
            false => anyhow!("{error:#} (the NIC's last words: {})", words.join(" | ")),
        }
    })
}

impl Drop for Nic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether nobody listens yet.
fn is_early(error: &anyhow::Error) -> bool {
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>());
    let kind = kind.map(io::Error::kind);
    matches!(
        kind,
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    )
}

fn scratch() -> Result<TempDir> {
    tempfile::tempdir().context("cannot create a directory for sockets")
}

fn words(directory: &Path) -> PathBuf {
    directory.join("standard-error")
}
