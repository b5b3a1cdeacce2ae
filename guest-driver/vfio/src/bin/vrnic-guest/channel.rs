//! The side channel: short messages to the other side, over a serial line or a UNIX socket.
//!
//! A serial line may lose bytes, and may hold anything when a program opens it. So a message is a
//! line of its own with a mark, the sender's session, a number and a check; it is sent again until
//! the other side has acknowledged it; everything else on the line is ignored. Either side may
//! start first.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Time after which a message is sent again.
const RESEND: Duration = Duration::from_millis(300);
/// Longest line; longer ones are garbage.
const MAX_LINE: usize = 1024;

/// A message, or the acknowledgement of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    /// `D` for a message, `A` for an acknowledgement.
    kind: char,
    /// Of whoever sent the message.
    session: u32,
    number: u32,
    text: String,
}

/// FNV-1a, enough to tell a whole line from a damaged one.
fn check(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

impl Frame {
    fn line(&self) -> String {
        let Self {
            kind,
            session,
            number,
            text,
        } = self;
        let body = format!("{kind} {session:08x} {number} {text}");
        // The first line feed ends whatever garbage stands before.
        format!("\n@vrnic {:08x} {body}\n", check(body.as_bytes()))
    }

    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once("@vrnic ")?;
        let (sum, body) = rest.split_once(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != check(body.as_bytes()) {
            return None;
        }
        let mut parts = body.splitn(4, ' ');
        Some(Self {
            kind: parts.next()?.chars().next()?,
            session: u32::from_str_radix(parts.next()?, 16).ok()?,
            number: parts.next()?.parse().ok()?,
            text: parts.next()?.to_string(),
        })
    }
}

/// A channel to the other side.
pub(crate) struct Channel {
    file: OwnedFd,
    session: u32,
    next: u32,
    /// The other side's session and the number it sends next.
    peer: Option<(u32, u32)>,
    partial: Vec<u8>,
    received: VecDeque<String>,
    acknowledged: Option<u32>,
    closed: bool,
}

impl Channel {
    /// Opens `path`; on a socket `listens` tells whose it is to listen.
    pub(crate) fn open(path: &Path, listens: bool, timeout: Duration) -> anyhow::Result<Self> {
        let file = open(path, listens, timeout);
        let file = file.with_context(|| format!("cannot open the channel {}", path.display()))?;
        Self::new(file)
    }

    /// Two ends in this process.
    pub(crate) fn pair() -> anyhow::Result<(Self, Self)> {
        let (first, second) = UnixStream::pair()?;
        Ok((Self::new(first.into())?, Self::new(second.into())?))
    }

    fn new(file: OwnedFd) -> anyhow::Result<Self> {
        // A read after a wait that found nothing must not block.
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self {
            file,
            session: session(),
            next: 0,
            peer: None,
            partial: Vec::new(),
            received: VecDeque::new(),
            acknowledged: None,
            closed: false,
        })
    }

    /// Sends a message and waits until the other side has it.
    pub(crate) fn send(&mut self, text: &str, timeout: Duration) -> anyhow::Result<()> {
        let frame = Frame {
            kind: 'D',
            session: self.session,
            number: self.next,
            text: text.to_string(),
        };
        self.next += 1;
        let deadline = Instant::now() + timeout;
        while self.acknowledged != Some(frame.number) {
            ensure!(!self.closed, "the other side has closed the channel");
            ensure!(Instant::now() < deadline, "the other side does not answer");
            self.write(&frame)?;
            let resend = Instant::now() + RESEND;
            while self.acknowledged != Some(frame.number) && Instant::now() < resend {
                self.receive_until(resend)?;
                if self.closed {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for a message.
    pub(crate) fn receive(&mut self, timeout: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(text) = self.received.pop_front() {
                return Ok(text);
            }
            ensure!(!self.closed, "the other side has closed the channel");
            ensure!(Instant::now() < deadline, "the other side says nothing");
            self.receive_until(deadline)?;
        }
    }

    /// Waits for a message that starts with `word` and returns the rest of it.
    pub(crate) fn expect(&mut self, word: &str, timeout: Duration) -> anyhow::Result<String> {
        let text = self.receive(timeout);
        let text = text.with_context(|| format!("waiting for {word:?}"))?;
        match text.split_once(' ').unwrap_or((&text, "")) {
            (first, rest) if first == word => Ok(rest.to_string()),
            ("error", rest) => bail!("the other side: {rest}"),
            _ => bail!("the other side said {text:?} instead of {word:?}"),
        }
    }

    /// Acknowledges what the other side may send again, before this side goes away.
    pub(crate) fn linger(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + 3 * RESEND;
        while Instant::now() < until && !self.closed {
            self.receive_until(until)?;
        }
        Ok(())
    }

    fn write(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let line = frame.line();
        let mut left = line.as_bytes();
        while !left.is_empty() {
            match rustix::io::write(&self.file, left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, RESEND)?,
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.closed = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, timeout: Duration) -> anyhow::Result<()> {
        let mut files = [PollFd::from_borrowed_fd(self.file.as_fd(), what)];
        match poll(&mut files, Some(&timeout.try_into()?)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Handles what arrives, until something did or the time is over.
    fn receive_until(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.wait(PollFlags::IN, left)?;
        let mut bytes = [0; 512];
        match rustix::io::read(&self.file, &mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => self.accept(bytes.get(..count).unwrap_or_default())?,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::CONNRESET) => self.closed = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn accept(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        for byte in bytes {
            if *byte != b'\n' && *byte != b'\r' {
                if self.partial.len() < MAX_LINE {
                    self.partial.push(*byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.partial);
            if let Some(frame) = Frame::parse(&String::from_utf8_lossy(&line)) {
                self.handle(frame)?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, frame: Frame) -> anyhow::Result<()> {
        let ours = frame.session == self.session;
        match (frame.kind, ours) {
            ('A', true) => self.acknowledged = Some(frame.number),
            ('D', false) => self.handle_message(frame)?,
            // Acknowledgements of an earlier program, or an echo of our own lines.
            _ => {}
        }
        Ok(())
    }

    fn handle_message(&mut self, frame: Frame) -> anyhow::Result<()> {
        let expected = match self.peer {
            Some((session, expected)) if session == frame.session => expected,
            Some(_) if frame.number == 0 => bail!("the other side was started again"),
            // Left over on the line from an earlier program.
            Some(_) => return Ok(()),
            None if frame.number == 0 => 0,
            None => return Ok(()),
        };
        if frame.number > expected {
            return Ok(());
        }
        self.write(&Frame {
            kind: 'A',
            text: String::new(),
            ..frame.clone()
        })?;
        if frame.number == expected {
            self.peer = Some((frame.session, expected + 1));
            self.received.push_back(frame.text);
        }
        Ok(())
    }
}

/// A number that tells this program from an earlier one on the same line.
fn session() -> u32 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library's hasher is seeded by the system.
    let hasher = std::hash::RandomState::new().build_hasher();
    hasher.finish() as u32
}

fn open(path: &Path, listens: bool, timeout: Duration) -> anyhow::Result<OwnedFd> {
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    match kind {
        Ok(kind) if kind.is_char_device() => open_terminal(path),
        _ => open_socket(path, listens, timeout),
    }
}

fn open_terminal(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    let mut settings = tcgetattr(&file)?;
    settings.make_raw();
    tcsetattr(&file, OptionalActions::Flush, &settings)?;
    Ok(file.into())
}

fn open_socket(path: &Path, listens: bool, timeout: Duration) -> anyhow::Result<OwnedFd> {
    let deadline = Instant::now() + timeout;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream.into()),
            Err(_) if listens => return accept(path, deadline),
            Err(error) => ensure!(Instant::now() < deadline, "nobody listens: {error}"),
        }
        // There is no event for a socket that appears.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn accept(path: &Path, deadline: Instant) -> anyhow::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let mut files = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let ready = poll(&mut files, Some(&left.try_into()?));
    let _ = std::fs::remove_file(path);
    if ready? == 0 {
        return Err(io::Error::from(io::ErrorKind::TimedOut).into());
    }
    Ok(listener.accept()?.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn raw_pair() -> (Channel, UnixStream) {
        let (first, second) = UnixStream::pair().expect("socket pair");
        (Channel::new(first.into()).expect("channel"), second)
    }

    #[test]
    fn frames_survive_garbage_before_them_and_not_in_them() {
        let frame = Frame {
            kind: 'D',
            session: 0xabcd,
            number: 7,
            text: "step 1 2".into(),
        };
        let line = frame.line();
        let line = line.trim_matches('\n');
        assert_eq!(Frame::parse(line), Some(frame.clone()));
        assert_eq!(Frame::parse(&format!("@vrnic junk{line}")), Some(frame));
        assert_eq!(Frame::parse(&line.replace("step", "stop")), None);
        assert_eq!(Frame::parse(&line[..line.len() - 1]), None);
        assert_eq!(Frame::parse(""), None);
    }

    #[test]
    fn messages_are_delivered_once_and_in_order() {
        let (mut a, mut b) = Channel::pair().expect("socket pair");
        let other = std::thread::spawn(move || {
            let texts: Vec<_> = (0..3).map(|_| b.receive(SOON).expect("message")).collect();
            b.send("back", SOON).expect("acknowledged");
            texts
        });
        for text in ["one", "two 2", "three"] {
            a.send(text, SOON).expect("acknowledged");
        }
        assert_eq!(a.expect("back", SOON).expect("answer"), "");
        assert_eq!(other.join().expect("no panic"), ["one", "two 2", "three"]);
    }

    #[test]
    fn duplicates_are_acknowledged_and_dropped() {
        use std::io::Write as _;
        let (mut channel, mut raw) = raw_pair();
        let frame = Frame {
            kind: 'D',
            session: !channel.session,
            number: 0,
            text: "hello".into(),
        };
        let line = frame.line();
        raw.write_all(b"\xff\0login: @vrnic ").expect("written");
        raw.write_all(line.as_bytes()).expect("written");
        raw.write_all(line.as_bytes()).expect("written");
        assert_eq!(channel.receive(SOON).expect("message"), "hello");
        let error = channel
            .receive(Duration::from_millis(20))
            .expect_err("nothing");
        assert_eq!(error.to_string(), "the other side says nothing");
    }
}
