//! vfio-user messages by hand, right and wrong ones.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::process::PATIENCE;

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const GET_INFO: u16 = 4;
pub(crate) const GET_REGION_INFO: u16 = 5;
pub(crate) const GET_IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const DMA_READ: u16 = 11;
pub(crate) const RESET: u16 = 13;
pub(crate) const WRITE_MULTI: u16 = 15;

pub(crate) const REPLY: u32 = 1;
pub(crate) const NO_REPLY: u32 = 0x10;
const ERROR: u32 = 0x20;

/// Bytes of the given integers.
macro_rules! bytes {
    ($($value:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $(bytes.extend($value.to_le_bytes());)*
        bytes
    }};
}
pub(crate) use bytes;

/// A message with a right header.
pub(crate) fn message(command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = 16 + body.len() as u32;
    let mut message = bytes!(0x1234_u16, command, size, flags, 0_u32);
    message.extend(body);
    message
}

/// A connection without any manners.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
}

impl Raw {
    #[track_caller]
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// Connected and negotiated.
    #[track_caller]
    pub(crate) fn negotiated(path: &Path) -> Self {
        let mut raw = Self::connect(path);
        let text = r#"{"capabilities":{"max_msg_fds":16,"write_multiple":true}}"#;
        let mut body = bytes!(0_u16, 1_u16);
        body.extend(text.bytes());
        body.push(0);
        raw.stream.write_all(&message(VERSION, 0, &body)).unwrap();
        let (errno, _) = raw.reply().expect("an answer to VERSION");
        assert_eq!(errno, 0);
        raw
    }

    /// Sends, and does not care whether the other end has gone.
    pub(crate) fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL);
        let sent = sent.unwrap_or(bytes.len());
        let _ = self.stream.write_all(&bytes[sent..]);
    }

    /// The next reply's errno (0 for none) and body; `None` if the connection has ended.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 16];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("neither an answer nor an end")
            }
            Err(_) => return None,
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; word(4) as usize - 16];
        self.stream.read_exact(&mut body).ok()?;
        assert_eq!(word(8) & 0xf, REPLY);
        let errno = if word(8) & ERROR == 0 { 0 } else { word(12) };
        Some((errno, body))
    }

    /// Sends a command and returns what [`Self::reply`] does.
    #[track_caller]
    pub(crate) fn ask(
        &mut self,
        command: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Option<(u32, Vec<u8>)> {
        self.send(&message(command, 0, body), fds);
        self.reply()
    }
}
