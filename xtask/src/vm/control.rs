//! Running commands in a guest, several at a time, over its control channel.
//!
//! In: a UNIX socket that QEMU made for the guest's virtio-serial port. Out: what the commands
//! write and how they end. The guest's end is `vrnic-guest-init`, which starts to read when its
//! system is up: what is asked before is answered then, so that nobody has to know when that is.
//!
//! A thread reads frames and wakes whoever waits for one; every wait has a deadline, after which
//! it has failed, and ends at once when the guest is gone. All that commands write is also in a
//! log, with the number of the command before each line.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use vrnic_guest_init::frame::Frame;

/// Most bytes that a command may write.
const MAX_OUTPUT: usize = 64 << 20;

/// How a command came to its end.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its exit code, or 128 and the signal's number.
    pub status: i32,
    /// What it wrote to its standard output and error, in the order written.
    pub text: String,
}

/// The control channel of one guest.
#[derive(Clone)]
pub(crate) struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    guest: String,
    socket: Mutex<UnixStream>,
    jobs: Mutex<Jobs>,
    /// Told of every change of `jobs`.
    changed: Condvar,
    next: AtomicU32,
}

#[derive(Default)]
struct Jobs {
    /// Why there is nothing more to hear.
    gone: Option<String>,
    running: HashMap<u32, Job>,
}

#[derive(Default)]
struct Job {
    output: Vec<u8>,
    ended: Option<Result<i32, String>>,
}

/// A command that was started; dropping it kills it.
pub(crate) struct Running {
    control: Control,
    number: u32,
    command: String,
    deadline: Instant,
    /// Bytes of the output that were searched already.
    searched: usize,
}

impl Control {
    /// Connects to a socket that is there.
    ///
    /// # Errors
    /// It does not listen, or the log cannot be written.
    pub(crate) fn connect(guest: &str, socket: &Path, log: &Path) -> Result<Control> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        Self::over(guest, stream, log)
    }

    /// Uses a connection to the socket.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(crate) fn over(guest: &str, stream: UnixStream, log: &Path) -> Result<Control> {
        let shared = Arc::new(Shared {
            guest: guest.to_owned(),
            socket: Mutex::new(stream.try_clone()?),
            jobs: Mutex::default(),
            changed: Condvar::new(),
            next: AtomicU32::new(1),
        });
        let (reader, log) = (shared.clone(), File::create(log)?);
        thread::spawn(move || reader.listen(stream, log));
        Ok(Control { shared })
    }

    /// Runs a command to its end; it has to succeed.
    ///
    /// # Errors
    /// It fails or does not end before the deadline, or the guest is gone.
    pub(crate) fn run(&self, command: &str, deadline: Instant) -> Result<Output> {
        let output = self.start(command, deadline)?.finish()?;
        let Output { status, text } = &output;
        let guest = &self.shared.guest;
        ensure!(
            *status == 0,
            "guest {guest}: {command}: status {status}: {}",
            text.trim_end()
        );
        Ok(output)
    }

    /// Starts a command, all waits for which end at `deadline`.
    ///
    /// # Errors
    /// The guest is gone.
    pub(crate) fn start(&self, command: &str, deadline: Instant) -> Result<Running> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.jobs().running.insert(number, Job::default());
        let running = Running {
            control: self.clone(),
            number,
            command: command.to_owned(),
            deadline,
            searched: 0,
        };
        running.send(&Frame::Start(command.to_owned()))?;
        Ok(running)
    }
}

impl Running {
    /// Waits until the command has written a line that contains `text`, behind the one that was
    /// last waited for, and returns the line.
    ///
    /// # Errors
    /// The command ends without it, the guest is gone, or time is up.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<String> {
        let mut from = self.searched;
        let what = format!("to say {text:?}");
        let line = self.wait(&what, |job| {
            let (end, line) = find_line(&job.output, &mut from, text)?;
            Some((end, line))
        })?;
        let (end, line) = line;
        self.searched = end;
        Ok(line)
    }

    /// Waits for the command's end.
    ///
    /// # Errors
    /// It could not be started, the guest is gone, or time is up.
    pub(crate) fn finish(self) -> Result<Output> {
        let status = self.wait("to end", |job| job.ended.clone())?;
        let status = match status {
            Ok(status) => status,
            Err(why) => bail!("{}: {why}", self.name()),
        };
        Ok(Output {
            status,
            text: self.text(),
        })
    }

    /// Waits for the command's end and shows meanwhile what it writes; returns its exit code.
    ///
    /// # Errors
    /// As [`Running::finish`].
    pub(crate) fn show(self, to: &mut impl Write) -> Result<i32> {
        let mut shown = 0;
        loop {
            let (bytes, ended) = self.wait("to end", |job| {
                let more = job.output.get(shown..).unwrap_or_default();
                let news = !more.is_empty() || job.ended.is_some();
                news.then(|| (more.to_vec(), job.ended.clone()))
            })?;
            to.write_all(&bytes)?;
            to.flush()?;
            shown += bytes.len();
            match ended {
                Some(Ok(status)) => return Ok(status),
                Some(Err(why)) => bail!("{}: {why}", self.name()),
                None => {}
            }
        }
    }

    /// What it has written until now.
    pub(crate) fn text(&self) -> String {
        let jobs = self.control.shared.jobs();
        let output = jobs
            .running
            .get(&self.number)
            .map(|job| job.output.as_slice());
        String::from_utf8_lossy(output.unwrap_or_default()).into_owned()
    }

    /// Sends a signal to the command and what it has started.
    ///
    /// # Errors
    /// The guest is gone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let signal = u32::try_from(signal.as_raw())?;
        self.send(&Frame::Signal(signal))
    }

    fn send(&self, frame: &Frame) -> Result<()> {
        let mut socket = locked(&self.control.shared.socket);
        let sent = frame.write(self.number, &mut *socket);
        sent.with_context(|| format!("guest {} is gone", self.control.shared.guest))
    }

    /// Waits until `look` finds something about the job.
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&Job) -> Option<T>) -> Result<T> {
        let shared = &self.control.shared;
        let mut jobs = shared.jobs();
        loop {
            let job = jobs
                .running
                .get(&self.number)
                .context("the command was started")?;
            if let Some(found) = look(job) {
                return Ok(found);
            }
            let last = || String::from_utf8_lossy(tail(&job.output)).into_owned();
            if let Some(ended) = &job.ended {
                bail!(
                    "{}: ended ({ended:?}) before it came {what}: {}",
                    self.name(),
                    last()
                );
            }
            if let Some(why) = &jobs.gone {
                bail!("{}: {why}, before it came {what}: {}", self.name(), last());
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{}: out of time, waiting for it {what}: {}",
                    self.name(),
                    last()
                );
            }
            let woken = shared.changed.wait_timeout(jobs, left);
            jobs = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn name(&self) -> String {
        format!("guest {}: {}", self.control.shared.guest, self.command)
    }
}

/// Ends programs that have lost what they used, or are told to.
///
/// # Errors
/// The guest is gone, or time is up.
pub(crate) fn end(programs: impl IntoIterator<Item = Running>) -> Result<()> {
    for program in programs {
        program.signal(rustix::process::Signal::TERM)?;
        program.finish()?;
    }
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        let job = self.control.shared.jobs().running.remove(&self.number);
        if job.is_some_and(|job| job.ended.is_none()) {
            // A guest that is gone has nothing left to kill.
            let _ = self.signal(rustix::process::Signal::KILL);
        }
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        locked(&self.jobs)
    }

    /// Takes frames until there are no more.
    fn listen(&self, mut stream: UnixStream, mut log: File) {
        let why = loop {
            match Frame::read(&mut stream) {
                Ok(Some((number, frame))) => self.take(number, frame, &mut log),
                Ok(None) => break "the guest is gone".to_owned(),
                Err(error) => break format!("the control channel failed ({error})"),
            }
        };
        self.jobs().gone = Some(why);
        self.changed.notify_all();
    }

    fn take(&self, number: u32, frame: Frame, log: &mut File) {
        let mut jobs = self.jobs();
        // Without an entry, it is the end of a command that nobody waited for.
        let Some(job) = jobs.running.get_mut(&number) else {
            return;
        };
        match frame {
            Frame::Output(bytes) => {
                let text = String::from_utf8_lossy(&bytes).replace('\n', &format!("\n{number:3} "));
                // A log that cannot be written must not stop the run it is about.
                let _ = write!(log, "{text}");
                let room = MAX_OUTPUT.saturating_sub(job.output.len());
                job.output.extend(bytes.iter().take(room));
            }
            Frame::Exit(code) => job.ended = Some(Ok(code)),
            Frame::Refused(why) => job.ended = Some(Err(why)),
            // Only this end says these.
            Frame::Start(_) | Frame::Input(_) | Frame::EndOfInput | Frame::Signal(_) => {}
        }
        self.changed.notify_all();
    }
}

/// The first whole line from `from` on that contains the text, and where it ends; `from` then is
/// behind the lines that do not.
fn find_line(output: &[u8], from: &mut usize, text: &str) -> Option<(usize, String)> {
    loop {
        let rest = output.get(*from..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(rest.get(..end)?)
            .trim_end()
            .to_owned();
        *from += end + 1;
        if line.contains(text) {
            return Some((*from, line));
        }
    }
}

/// The last bytes, for a message.
fn tail(output: &[u8]) -> &[u8] {
    output
        .get(output.len().saturating_sub(2000)..)
        .unwrap_or_default()
}

/// What a thread that panicked leaves is still what the guest said.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    /// A control channel whose other end is played by `guest`.
    fn channel(guest: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, Control) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || guest(listener.accept().unwrap().0));
        let control = Control::connect("a", &socket, &dir.path().join("log")).unwrap();
        (dir, control)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn read(stream: &mut UnixStream) -> (u32, Frame) {
        Frame::read(stream).unwrap().unwrap()
    }

    fn say(stream: &mut UnixStream, job: u32, text: &str) {
        Frame::Output(text.as_bytes().to_vec())
            .write(job, stream)
            .unwrap();
    }

    #[test]
    fn two_commands_at_once_are_kept_apart() {
        let (_dir, control) = channel(|mut stream| {
            let (one, first) = read(&mut stream);
            let (two, second) = read(&mut stream);
            assert_eq!(first, Frame::Start("one".to_owned()));
            assert_eq!(second, Frame::Start("two".to_owned()));
            say(&mut stream, one, "lis");
            say(&mut stream, two, "2\n");
            say(&mut stream, one, "tening\nmore\n");
            Frame::Exit(3).write(two, &mut stream).unwrap();
            Frame::Exit(0).write(one, &mut stream).unwrap();
            let _ = read(&mut stream);
        });
        let mut one = control.start("one", soon()).unwrap();
        let two = control.start("two", soon()).unwrap();
        assert_eq!(one.wait_for("listen").unwrap(), "listening");
        let two = two.finish().unwrap();
        assert_eq!((two.status, two.text.as_str()), (3, "2\n"));
        assert!(
            one.wait_for("listen").is_err(),
            "that line was found already"
        );
        assert_eq!(one.finish().unwrap().text, "listening\nmore\n");
    }

    #[test]
    fn failures_say_what_failed() {
        let (_dir, control) = channel(|mut stream| {
            let (job, _) = read(&mut stream);
            say(&mut stream, job, "no such thing\n");
            Frame::Exit(1).write(job, &mut stream).unwrap();
            let (job, _) = read(&mut stream);
            Frame::Refused("no memory".to_owned())
                .write(job, &mut stream)
                .unwrap();
            let (job, _) = read(&mut stream);
            say(&mut stream, job, "so far\n");
        });
        let error = |command: &str| format!("{:#}", control.run(command, soon()).unwrap_err());
        assert!(error("first").contains("guest a: first: status 1: no such thing"));
        assert!(error("second").contains("no memory"));
        assert!(
            error("third").contains("the guest is gone"),
            "it ends while the command runs"
        );
    }

    #[test]
    fn what_is_dropped_is_killed_and_what_takes_too_long_has_failed() {
        let (sender, killed) = std::sync::mpsc::channel();
        let (_dir, control) = channel(move |mut stream| {
            let (job, _) = read(&mut stream);
            assert_eq!(read(&mut stream), (job, Frame::Signal(9)));
            sender.send(()).unwrap();
        });
        let deadline = Instant::now() + Duration::from_millis(1);
        let error = control.run("sleep", deadline).unwrap_err();
        assert!(error.to_string().contains("out of time"));
        killed.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
