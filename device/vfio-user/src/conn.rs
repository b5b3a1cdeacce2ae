//! One connection: its socket, its framing and its session.
//!
//! Reads and writes until the kernel would block, so that edge-triggered
//! readiness is enough, but handles a bounded number of messages at a time.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::device::Device;
use crate::frame::{Frame, Framer};
use crate::limits::{MAX_BODY, MAX_MSG_FDS, TURN_MESSAGES};
use crate::session::{Session, Violation};

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The client closed it, or died.
    #[error("the client closed the connection")]
    Closed,
    #[error("{}", std::io::Error::from(*.0))]
    Socket(Errno),
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// What a connection waits for after it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Its socket.
    Blocked,
    /// Its next turn: there may be more to read.
    More,
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    framer: Framer,
    pub(crate) session: Session,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, session: Session) -> Self {
        Self {
            socket,
            framer: Framer::default(),
            session,
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Closes the socket, and the descriptors of a message that never ended.
    pub(crate) fn close(self) -> Session {
        self.session
    }

    /// Sends and receives what it can.
    pub(crate) fn serve<D: Device>(&mut self, device: &mut D) -> Result<Progress, End> {
        self.send()?;
        for _ in 0..TURN_MESSAGES {
            let Some(mut frame) = self.receive()? else {
                return Ok(Progress::Blocked);
            };
            let handled = self.session.handle(&mut frame, device);
            // Also what explains the violation.
            self.send()?;
            handled?;
            if self.session.is_negotiated() {
                self.framer.set_max_body(MAX_BODY);
            }
            self.framer.recycle(frame.body);
        }
        Ok(Progress::More)
    }

    /// The next message, or `None` if the rest of it is not there yet.
    fn receive(&mut self) -> Result<Option<Frame>, End> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MSG_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                self.socket.as_fd(),
                &mut [IoSliceMut::new(self.framer.space())],
                &mut control,
                RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
            );
            let received = match received {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Err(End::Closed),
                Err(errno) => return Err(End::Socket(errno)),
            };
            let fds = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let frame = self
                .framer
                .advance(received.bytes, fds.flatten())
                .map_err(Violation::from)?;
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(Violation::LostFds.into());
            }
            if received.bytes == 0 {
                return Err(End::Closed);
            }
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    /// Sends until nothing is left or the socket is full.
    pub(crate) fn send(&mut self) -> Result<(), End> {
        while let Some((bytes, fds)) = self.session.out.front() {
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MSG_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(End::Socket(Errno::TOOMANYREFS));
            }
            let sent = rustix::net::sendmsg(
                self.socket.as_fd(),
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            );
            match sent {
                Ok(sent) => self.session.out.advance(sent),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(End::Closed),
                Err(errno) => return Err(End::Socket(errno)),
            }
        }
        Ok(())
    }
}
