//! Cuts a connection's byte stream into messages.
//!
//! Descriptors travel beside the bytes and arrive with the first byte they
//! were sent with. [`Framer`] therefore asks for exactly the bytes that the
//! current message lacks, so that a descriptor that arrives belongs to the
//! current message and never to a later one.
//!
//! In: [`Framer::space`] to fill, then [`Framer::advance`]. Out: one [`Frame`]
//! whenever a message is complete. It holds at most one message: the body is
//! bounded by [`Framer::set_max_body`], the descriptors by [`MAX_MSG_FDS`].

use std::os::fd::OwnedFd;

use crate::limits::{MAX_MSG_FDS, MAX_VERSION_BODY};
use crate::wire::Header;
use crate::wire::header::HeaderError;

// A larger buffer is given back after the message that needed it.
const KEEP_BODY: usize = 64 << 10;

/// What ends a connection in the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is not one.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The message is larger than any legal one.
    #[error("a message of {0} bytes after its header is too large")]
    TooLarge(u32),
    /// More descriptors than we announced.
    #[error("a message brought more than {MAX_MSG_FDS} descriptors")]
    TooManyFds,
}

/// A complete message.
#[derive(Debug)]
pub struct Frame {
    /// The header; its `body` is the length of the body.
    pub header: Header,
    /// What follows the header.
    pub body: Vec<u8>,
    /// The descriptors that arrived with any byte of the message.
    pub fds: Vec<OwnedFd>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Framer {
    raw: [u8; Header::SIZE],
    header: Option<Header>,
    // Bytes present of what `header` says we are at: the header or the body.
    have: usize,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
    max_body: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self {
            raw: [0; Header::SIZE],
            header: None,
            have: 0,
            body: Vec::new(),
            fds: Vec::new(),
            max_body: MAX_VERSION_BODY,
        }
    }
}

impl Framer {
    /// Sets the largest body of the messages to come. Initially it is
    /// [`MAX_VERSION_BODY`].
    pub fn set_max_body(&mut self, bytes: usize) {
        self.max_body = bytes;
    }

    /// Where the next bytes of the stream go; not empty, and no longer than
    /// the current message.
    pub fn space(&mut self) -> &mut [u8] {
        let part = match self.header {
            None => &mut self.raw[..],
            Some(_) => &mut self.body[..],
        };
        part.get_mut(self.have..).unwrap_or_default()
    }

    /// Takes note of `bytes` that were put into [`Framer::space`] and of the
    /// descriptors that came with them. Returns the message they complete.
    ///
    /// After an error the framer is of no further use.
    pub fn advance(
        &mut self,
        bytes: usize,
        fds: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<Option<Frame>, FrameError> {
        for fd in fds {
            if self.fds.len() == MAX_MSG_FDS {
                return Err(FrameError::TooManyFds);
            }
            self.fds.push(fd);
        }
        self.have = self.have.saturating_add(bytes);
        let header = match self.header {
            Some(header) => header,
            None if self.have < Header::SIZE => return Ok(None),
            None => self.begin_body()?,
        };
        if self.have < self.body.len() {
            return Ok(None);
        }
        self.header = None;
        self.have = 0;
        Ok(Some(Frame {
            header,
            body: std::mem::take(&mut self.body),
            fds: std::mem::take(&mut self.fds),
        }))
    }

    fn begin_body(&mut self) -> Result<Header, FrameError> {
        let header = Header::parse(&self.raw)?;
        let length = usize::try_from(header.body).unwrap_or(usize::MAX);
        if length > self.max_body {
            return Err(FrameError::TooLarge(header.body));
        }
        self.body.clear();
        self.body.resize(length, 0);
        self.header = Some(header);
        self.have = 0;
        Ok(header)
    }

    /// Gives a message's body back, to be used for the next one.
    pub fn recycle(&mut self, body: Vec<u8>) {
        if body.capacity() <= KEEP_BODY && self.header.is_none() {
            self.body = body;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Command, Kind};

    fn message(command: Command, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Header {
            id: 1,
            command,
            body: body.len() as u32,
            kind: Kind::Command { no_reply: false },
        }
        .emit(&mut bytes);
        bytes.extend_from_slice(body);
        bytes
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    /// Feeds at most `step` bytes at a time.
    fn feed(framer: &mut Framer, mut bytes: &[u8], step: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let space = framer.space();
            assert!(!space.is_empty());
            let n = step.min(space.len()).min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            frames.extend(framer.advance(n, []).unwrap());
        }
        frames
    }

    #[test]
    fn the_cut_does_not_depend_on_how_bytes_arrive() {
        let mut stream = message(Command::DeviceReset, &[]);
        stream.extend(message(Command::RegionWrite, &[7; 33]));
        stream.extend(message(Command::DeviceReset, &[]));
        for step in [1, 2, 15, 16, 17, 1000] {
            let frames = feed(&mut Framer::default(), &stream, step);
            let bodies: Vec<_> = frames.iter().map(|f| f.body.as_slice()).collect();
            assert_eq!(bodies, [&[][..], &[7; 33], &[]], "step {step}");
        }
    }

    #[test]
    fn descriptors_of_all_parts_belong_to_the_message() {
        let mut framer = Framer::default();
        let bytes = message(Command::DmaMap, &[1; 4]);
        framer.space().copy_from_slice(&bytes[..16]);
        assert!(framer.advance(16, [null()]).unwrap().is_none());
        framer.space().copy_from_slice(&bytes[16..]);
        let frame = framer.advance(4, [null(), null()]).unwrap().unwrap();
        assert_eq!(frame.fds.len(), 3);
        let next = feed(&mut framer, &bytes, 100);
        assert_eq!(next[0].fds.len(), 0);
    }

    #[test]
    fn descriptors_are_bounded_over_all_parts() {
        let mut framer = Framer::default();
        for _ in 0..MAX_MSG_FDS {
            assert!(framer.advance(0, [null()]).unwrap().is_none());
        }
        assert_eq!(
            framer.advance(0, [null()]).unwrap_err(),
            FrameError::TooManyFds
        );
    }

    #[test]
    fn an_oversized_body_is_refused_before_it_arrives() {
        let bytes = message(Command::Version, &[0; MAX_VERSION_BODY + 1]);
        let mut framer = Framer::default();
        framer.space().copy_from_slice(&bytes[..16]);
        assert!(matches!(
            framer.advance(16, []),
            Err(FrameError::TooLarge(_))
        ));
    }
}
