//! The socket: sending, receiving, and answering what the server asks.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytemuck::{bytes_of, pod_read_unaligned};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::invalid;
use super::memory::Memory;
use super::message::{
    Command, DmaAccess, FLAG_ERROR, FLAG_NO_REPLY, FLAG_TYPE, Header, TYPE_COMMAND, TYPE_REPLY,
    Version,
};

/// Largest message accepted from the server: a megabyte of data and its headers.
const MAX_MESSAGE: usize = (1 << 20) + 4096;
/// Most file descriptors in one message that is received.
const MAX_FILES: usize = 16;
/// What this client can do.
const CAPABILITIES: &[u8] =
    b"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}\0";

/// The reply to a request.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
}

struct Message {
    header: Header,
    body: Vec<u8>,
    files: Vec<OwnedFd>,
}

/// A connected socket.
pub(super) struct Connection {
    stream: UnixStream,
    /// Held while a message is written.
    writing: Mutex<()>,
    next_id: AtomicU16,
}

impl Connection {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(path)?,
            writing: Mutex::new(()),
            next_id: AtomicU16::new(0),
        })
    }

    pub(super) fn shutdown(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Agrees on a version; returns how many files the server takes in one message.
    pub(super) fn negotiate(&self, receiver: &mut Receiver) -> io::Result<usize> {
        let version = Version { major: 0, minor: 1 };
        let body = [bytes_of(&version), CAPABILITIES];
        let id = self.send_request(Command::Version, &body, &[])?;
        let answer = receiver.receive(self, &Memory::default(), id)?;
        let (version, text) = answer
            .body
            .split_first_chunk::<4>()
            .ok_or_else(|| invalid("short answer to VERSION"))?;
        let version: Version = pod_read_unaligned(version);
        if version.major != 0 {
            return Err(invalid("the server speaks another major version"));
        }
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
        let max_fds = json.pointer("/capabilities/max_msg_fds");
        let max_fds = max_fds.and_then(serde_json::Value::as_u64).unwrap_or(1);
        Ok(max_fds.clamp(1, 64) as usize)
    }

    /// Sends a command; returns its identifier.
    pub(super) fn send_request(
        &self,
        command: Command,
        body: &[&[u8]],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<u16> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.send(id, command as u16, (TYPE_COMMAND, 0), body, files)?;
        Ok(id)
    }

    fn send(
        &self,
        id: u16,
        command: u16,
        (flags, error): (u32, u32),
        body: &[&[u8]],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let length: usize = body.iter().map(|part| part.len()).sum();
        let header = Header {
            id,
            command,
            size: (size_of::<Header>() + length) as u32,
            flags,
            error,
        };
        let mut bytes = Vec::with_capacity(size_of::<Header>() + length);
        bytes.extend_from_slice(bytes_of(&header));
        for part in body {
            bytes.extend_from_slice(part);
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_all(&bytes, files)
    }

    fn write_all(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut left = bytes;
        let mut files = files;
        while !left.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let parts = [IoSlice::new(left)];
            match sendmsg(&self.stream, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    left = left.get(sent..).unwrap_or_default();
                    files = &[];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive_message(&self) -> io::Result<Message> {
        let mut start = [0; size_of::<Header>()];
        let files = self.receive_start(&mut start)?;
        let header: Header = pod_read_unaligned(&start);
        let length = (header.size as usize).checked_sub(start.len());
        let length = length.filter(|length| *length <= MAX_MESSAGE);
        let mut body = vec![0; length.ok_or_else(|| invalid("bad message size"))?];
        (&self.stream).read_exact(&mut body)?;
        Ok(Message {
            header,
            body,
            files,
        })
    }

    /// Receives the header, with which files arrive.
    fn receive_start(&self, start: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
        let mut files = Vec::new();
        let mut filled = 0;
        while let Some(room) = start.get_mut(filled..).filter(|room| !room.is_empty()) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(room)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.stream, &mut parts, &mut ancillary, flags) {
                Ok(message) if message.bytes == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(message) => filled += message.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    files.extend(received);
                }
            }
        }
        Ok(files)
    }

    /// Receives until a reply comes; commands of the server are answered on the way.
    fn receive_reply(&self, memory: &Memory) -> io::Result<Message> {
        loop {
            let message = self.receive_message()?;
            match message.header.flags & FLAG_TYPE {
                TYPE_REPLY => return Ok(message),
                TYPE_COMMAND => self.serve(memory, &message)?,
                _ => return Err(invalid("message of unknown type")),
            }
        }
    }

    /// Answers a command of the server.
    fn serve(&self, memory: &Memory, message: &Message) -> io::Result<()> {
        let answer = access(memory, message);
        let Header {
            id, command, flags, ..
        } = message.header;
        if flags & FLAG_NO_REPLY != 0 {
            return Ok(());
        }
        match answer {
            Some(body) => self.send(id, command, (TYPE_REPLY, 0), &[&body], &[]),
            None => {
                let flags = TYPE_REPLY | FLAG_ERROR;
                self.send(id, command, (flags, libc::EFAULT as u32), &[], &[])
            }
        }
    }
}

/// Carries out a DMA_READ or DMA_WRITE; the body of the reply, or `None` if that is not possible.
fn access(memory: &Memory, message: &Message) -> Option<Vec<u8>> {
    let (start, data) = message.body.split_first_chunk::<16>()?;
    let access: DmaAccess = pod_read_unaligned(start);
    let count = usize::try_from(access.count).ok()?;
    let mut answer = start.to_vec();
    if message.header.command == Command::DmaRead as u16 {
        if count > MAX_MESSAGE - 4096 {
            return None;
        }
        answer.resize(start.len() + count, 0);
        memory.read(access.address, answer.get_mut(start.len()..)?)?;
    } else if message.header.command == Command::DmaWrite as u16 {
        memory.write(access.address, data.get(..count)?)?;
    } else {
        return None;
    }
    Some(answer)
}

/// Who receives messages.
pub(super) enum Receiver {
    /// Whoever waits for a reply.
    Direct,
    /// A thread, which passes replies on.
    Threaded(mpsc::Receiver<io::Result<Reply>>),
}

/// A reply on its way to whoever waits for it.
pub(super) struct Reply(Message);

impl Receiver {
    pub(super) fn direct() -> Self {
        Self::Direct
    }

    /// Starts a thread that receives until the connection ends.
    pub(super) fn threaded(connection: &Arc<Connection>, memory: &Arc<Memory>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let (connection, memory) = (Arc::clone(connection), Arc::clone(memory));
        let run = move || {
            loop {
                let reply = connection.receive_reply(&memory).map(Reply);
                let end = reply.is_err();
                if sender.send(reply).is_err() || end {
                    break;
                }
            }
        };
        std::thread::Builder::new()
            .name("vfio-user".into())
            .spawn(run)?;
        Ok(Self::Threaded(receiver))
    }

    /// Waits for the reply to request `id`.
    pub(super) fn receive(
        &mut self,
        connection: &Connection,
        memory: &Memory,
        id: u16,
    ) -> io::Result<Answer> {
        let message = match self {
            Self::Direct => connection.receive_reply(memory)?,
            Self::Threaded(replies) => {
                let closed = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
                replies.recv().map_err(closed)??.0
            }
        };
        if message.header.id != id {
            return Err(invalid("reply to another request"));
        }
        if message.header.flags & FLAG_ERROR != 0 {
            return Err(io::Error::from_raw_os_error(message.header.error as i32));
        }
        Ok(Answer {
            body: message.body,
            files: message.files,
        })
    }
}
