//! The channel between the two programs: a virtio-serial port in the guest, which ends in a UNIX
//! socket on the host. QEMU neither loses nor reorders what goes through it. A message is a line
//! of JSON.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Pause between two looks for an end that is not there yet, which no event announces.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an end may take to appear: a virtual machine boots meanwhile.
const APPEARANCE: Duration = Duration::from_secs(120);
/// Longest time between an order and its answer, or between two orders.
const ANSWER: Duration = Duration::from_secs(120);
/// Longest message.
const MAX_LINE: usize = 1 << 16;

/// One end of it.
pub(crate) struct Channel {
    reader: BufReader<File>,
    writer: File,
    line: Vec<u8>,
}

impl Channel {
    /// Connects to QEMU's socket.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + APPEARANCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("nobody is at {}", path.display()));
                }
                Err(_) => sleep(PAUSE),
            }
        };
        Self::new(File::from(std::os::fd::OwnedFd::from(stream)))
    }

    /// Opens the virtio-serial port of that name.
    pub(crate) fn open_port(name: &str) -> Result<Self> {
        let device = port_device(name)?;
        let file = OpenOptions::new().read(true).write(true).open(&device);
        Self::new(file.with_context(|| format!("cannot open {}", device.display()))?)
    }

    fn new(file: File) -> Result<Self> {
        Ok(Self {
            reader: BufReader::new(file.try_clone()?),
            writer: file,
            line: Vec::new(),
        })
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.writer.write_all(&line).context("the channel broke")
    }

    /// Waits for a message.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.line.clear();
        let deadline = Instant::now() + ANSWER;
        while self.line.last() != Some(&b'\n') {
            self.wait(deadline)?;
            let part = self.reader.fill_buf().context("the channel broke")?;
            if part.is_empty() {
                // A port that nobody has connected to at the other end, or not any more.
                ensure!(Instant::now() < deadline, "nobody is at the other end");
                sleep(PAUSE);
                continue;
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(part.len(), |end| end + 1);
            self.line
                .extend_from_slice(part.get(..length).unwrap_or_default());
            self.reader.consume(length);
            ensure!(self.line.len() <= MAX_LINE, "a message without end");
        }
        serde_json::from_slice(&self.line)
            .with_context(|| format!("not a message: {}", String::from_utf8_lossy(&self.line)))
    }

    fn wait(&self, deadline: Instant) -> Result<()> {
        if !self.reader.buffer().is_empty() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left)?;
        let mut files = [PollFd::new(self.reader.get_ref(), PollFlags::IN)];
        match poll(&mut files, Some(&left)) {
            Ok(0) => bail!("the other end says nothing"),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The device node of a virtio-serial port. There is no udev to give it its name.
fn port_device(name: &str) -> Result<std::path::PathBuf> {
    let class = Path::new("/sys/class/virtio-ports");
    for entry in std::fs::read_dir(class).context("there is no virtio-serial port")? {
        let entry = entry?;
        let its_name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if its_name.trim() == name {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("there is no virtio-serial port {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_however_they_are_cut() {
        let (near, far) = UnixStream::pair().expect("socket pair");
        let mut channel = Channel::new(File::from(std::os::fd::OwnedFd::from(near))).expect("ends");
        let writer = std::thread::spawn(move || {
            let mut far = far;
            for byte in b"[1,2]\n\"x\"\n" {
                far.write_all(&[*byte]).expect("written");
            }
            far
        });
        let first: Vec<u32> = channel.receive().expect("a message");
        let second: String = channel.receive().expect("a message");
        assert_eq!((first, second.as_str()), (vec![1, 2], "x"));
        let mut far = writer.join().expect("no panic");
        far.write_all(b"nonsense\n").expect("written");
        assert!(channel.receive::<u32>().is_err());
    }
}
