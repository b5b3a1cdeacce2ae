//! Runs commands in the guest for the machine that runs it.
//!
//! In: the virtio-serial ports named [`frame::PORT`]. Out: what the commands write and how they
//! end, on the port that asked for them. Each port has a thread that reads, each command one that
//! writes; a command whose port is given up is killed.
//!
//! A command has ended when its shell has: a daemon that it leaves behind keeps running, and what
//! that writes to the command's output is for nobody.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use vrnic_guest_init::frame::{self, Frame};

/// The ports that are there, each served by a thread of its own from now on.
///
/// # Errors
/// A port cannot be opened.
pub(crate) fn serve_all() -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for path in ports()? {
        let port = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        threads.push(thread::spawn(move || {
            if let Err(error) = serve(&port) {
                println!("@vrnic {}: {error:#}", path.display());
            }
        }));
    }
    Ok(threads)
}

/// Nodes of the virtio-serial ports with our name.
fn ports() -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == frame::PORT || name.starts_with(&format!("{}.", frame::PORT)) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    Ok(found)
}

/// Serves one port, for one connection after the other.
fn serve(port: &File) -> Result<()> {
    let connections = Connections::new(port)?;
    loop {
        let session = Session::new(port)?;
        let ended = session.run();
        session.end();
        if let Err(error) = ended {
            println!("@vrnic control channel: {error:#}");
        }
        connections.wait()?;
    }
}

/// Tells when something about a port has changed. Without a connection reads return at once, so
/// a level says nothing: only the edge does.
struct Connections(OwnedFd);

impl Connections {
    fn new(port: &File) -> Result<Connections> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, port, epoll::EventData::new_u64(0), edges)?;
        Ok(Connections(epoll))
    }

    fn wait(&self) -> Result<()> {
        let mut events = Vec::with_capacity(1);
        match epoll::wait(&self.0, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// One connection to a port.
struct Session<'a> {
    incoming: &'a File,
    outgoing: Arc<Mutex<File>>,
    jobs: Arc<Mutex<HashMap<u32, Job>>>,
}

/// A command that runs.
struct Job {
    group: Pid,
    input: Sender<Vec<u8>>,
}

impl<'a> Session<'a> {
    fn new(port: &'a File) -> Result<Session<'a>> {
        Ok(Session {
            incoming: port,
            outgoing: Arc::new(Mutex::new(port.try_clone()?)),
            jobs: Arc::default(),
        })
    }

    /// Serves until the other end is gone.
    fn run(&self) -> Result<()> {
        let mut port = self.incoming;
        while let Some((number, frame)) = Frame::read(&mut port)? {
            match frame {
                Frame::Start(command) => {
                    if let Err(error) = self.start(number, &command) {
                        let why = Frame::Refused(format!("{error:#}"));
                        why.write(number, &mut *locked(&self.outgoing))?;
                    }
                }
                Frame::Input(bytes) => {
                    if let Some(job) = locked(&self.jobs).get(&number) {
                        // Without a receiver, the command has closed its input.
                        let _ = job.input.send(bytes);
                    }
                }
                Frame::EndOfInput => {
                    if let Some(job) = locked(&self.jobs).get_mut(&number) {
                        job.input = channel().0;
                    }
                }
                Frame::Signal(signal) => self.signal(number, signal),
                // Only the guest says these.
                Frame::Output(_) | Frame::Exit(_) | Frame::Refused(_) => {}
            }
        }
        Ok(())
    }

    /// Kills what the connection has started.
    fn end(&self) {
        for job in locked(&self.jobs).values() {
            let _ = kill_process_group(job.group, Signal::KILL);
        }
    }

    fn signal(&self, number: u32, signal: u32) {
        let jobs = locked(&self.jobs);
        let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
        if let (Some(job), Some(signal)) = (jobs.get(&number), signal) {
            // A group that is gone has no use for a signal.
            let _ = kill_process_group(job.group, signal);
        }
    }

    fn start(&self, number: u32, command: &str) -> Result<()> {
        let (output, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            .process_group(0)
            .spawn()
            .context("cannot start /bin/sh")?;
        let (input, bytes) = channel::<Vec<u8>>();
        if let Some(stdin) = child.stdin.take() {
            thread::spawn(move || feed(stdin, bytes));
        }
        let group = Pid::from_child(&child);
        locked(&self.jobs).insert(number, Job { group, input });
        let (outgoing, jobs) = (self.outgoing.clone(), self.jobs.clone());
        thread::spawn(move || {
            let ended = follow(number, &mut child, &output, &outgoing);
            // Out of the table while the process group cannot be another one yet.
            locked(&jobs).remove(&number);
            let code = child.wait().map_or(-1, code);
            // A port without a connection has nobody to tell.
            let _ = ended.and_then(|()| Frame::Exit(code).write(number, &mut *locked(&outgoing)));
        });
        Ok(())
    }
}

/// Writes to a command's standard input until there is no more, or nobody reads it.
fn feed(mut stdin: ChildStdin, bytes: std::sync::mpsc::Receiver<Vec<u8>>) {
    for bytes in bytes {
        if stdin.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Passes on what a command writes until it has ended, and leaves its status to be waited for.
fn follow(number: u32, child: &mut Child, output: &OwnedFd, to: &Mutex<File>) -> io::Result<()> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut buffer = vec![0; frame::MAX_PAYLOAD];
    let mut open = true;
    loop {
        let mut waits = vec![PollFd::new(&ended, PollFlags::IN)];
        if open {
            waits.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
        }
        poll(&mut waits, None)?;
        let ready = |index: usize| {
            waits
                .get(index)
                .is_some_and(|wait| !wait.revents().is_empty())
        };
        match (ready(1), ready(0)) {
            (true, _) => {
                let count = rustix::io::read(output, &mut buffer)?;
                open = count > 0;
                if let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) {
                    Frame::Output(bytes.to_vec()).write(number, &mut *locked(to))?;
                }
            }
            (false, true) => return Ok(()),
            (false, false) => {}
        }
    }
}

/// Exit code as a shell reports it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    let signal = || 128 + status.signal().unwrap_or_default();
    status.code().unwrap_or_else(signal)
}

/// What a thread that panicked leaves in a table is still a table.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
