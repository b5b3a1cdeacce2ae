//! One connection's state, without I/O.
//!
//! In: complete messages ([`Session::handle`]), and what other threads did for
//! the connection. Out: calls of the [`Device`], and messages in the outbox.
//! The first message must be `VERSION`; requests are handled in the order they
//! come, and replies go out in the order they are given, so that a deferred
//! one is overtaken (clients match replies by message ID).
//!
//! Invariant: the device is between `attached` and `detached` exactly while
//! the session is negotiated and not ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::device::Device;
use crate::dispatch::{Answer, Dispatch};
use crate::dma::{DmaQueue, ReplyError};
use crate::frame::{Frame, FrameError};
use crate::handle::{ClientHandle, ConnectionId, Deferred, DmaAccess, Notes, ReplyTo};
use crate::limits::MAX_DEFERRED;
use crate::mappings::Mappings;
use crate::outbox::Outbox;
use crate::request::{FdError, Refusal, Request};
use crate::wire::Fixed;
use crate::wire::dma::UnmapRequest;
use crate::wire::version::{self, NegotiatedCaps, VersionError};
use crate::wire::{Command, Header, Kind};

/// Why the server ends a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    /// The byte stream is not one of messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors came with a message that takes none, or not as many.
    #[error(transparent)]
    Fds(#[from] FdError),
    /// The kernel had to drop descriptors: there were too many of them.
    #[error("descriptors were lost on the way")]
    LostFds,
    /// Negotiation failed.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The first message is not `VERSION` with a wish for a reply.
    #[error("the first message is {0:?}, not a version to negotiate")]
    NotNegotiated(Command),
    /// A reply answers nothing.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// The client does not read what we send.
    #[error("the client does not read its messages")]
    NotReading,
}

/// A negotiated session.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) caps: NegotiatedCaps,
    pub(crate) mappings: Mappings,
    dma: DmaQueue,
    attached: Arc<AtomicBool>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    id: ConnectionId,
    notes: Notes,
    active: Option<Active>,
    // Replies that the device has not given yet.
    deferred: usize,
    pub(crate) out: Outbox,
}

impl Session {
    pub(crate) fn new(id: ConnectionId, notes: Notes) -> Self {
        Self {
            id,
            notes,
            active: None,
            deferred: 0,
            out: Outbox::default(),
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn is_negotiated(&self) -> bool {
        self.active.is_some()
    }

    /// Handles one message. After an error the connection is to be ended, once
    /// what is in the outbox was offered to the client.
    pub(crate) fn handle<D: Device>(
        &mut self,
        frame: &mut Frame,
        device: &mut D,
    ) -> Result<(), Violation> {
        let header = frame.header;
        match (&mut self.active, header.kind) {
            (Some(active), Kind::Reply | Kind::Error(_)) => {
                no_fds(frame)?;
                active.dma.reply(&header, &frame.body, &mut self.out)?;
            }
            (Some(_), Kind::Command { no_reply }) => {
                self.command(header, no_reply, frame, device)?;
            }
            (None, _) => self.negotiate(frame, device)?,
        }
        self.check_outbox()
    }

    fn negotiate<D: Device>(&mut self, frame: &Frame, device: &mut D) -> Result<(), Violation> {
        let header = frame.header;
        let wanted = header.kind == Kind::Command { no_reply: false };
        if header.command != Command::Version || !wanted {
            return Err(Violation::NotNegotiated(header.command));
        }
        no_fds(frame)?;
        let (caps, reply) = match version::negotiate(&frame.body) {
            Ok(agreed) => agreed,
            Err(error) => {
                self.reply(&header, Err(Errno::INVAL));
                return Err(error.into());
            }
        };
        self.reply(&header, Ok(Answer::bytes(reply)));
        let attached = Arc::new(AtomicBool::new(true));
        let handle = ClientHandle::new(self.notes.clone(), self.id, Arc::clone(&attached));
        self.active = Some(Active {
            caps,
            mappings: Mappings::default(),
            dma: DmaQueue::new(caps.minor, caps.max_data_xfer_size),
            attached,
        });
        device.attached(handle, &caps);
        Ok(())
    }

    fn command<D: Device>(
        &mut self,
        header: Header,
        no_reply: bool,
        frame: &mut Frame,
        device: &mut D,
    ) -> Result<(), Violation> {
        let request = match Request::parse(header.command, &frame.body, &mut frame.fds) {
            Ok(request) => request,
            Err(Refusal::Fds(error)) => return Err(error.into()),
            Err(Refusal::Errno(errno)) => {
                self.answer(&header, no_reply, Err(errno));
                return Ok(());
            }
        };
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let mut dispatch = Dispatch { active, device };
        match request {
            Request::DmaUnmap(unmap, request) => {
                if let Err(errno) = dispatch.unmap(unmap, self.deferred < MAX_DEFERRED) {
                    self.answer(&header, no_reply, Err(errno));
                } else {
                    let reply = self.defer(&header, no_reply, Some(request));
                    device.dma_unmap(unmap, reply);
                }
            }
            Request::Reset => {
                if let Err(errno) = dispatch.reset(self.deferred < MAX_DEFERRED) {
                    self.answer(&header, no_reply, Err(errno));
                } else {
                    let reply = self.defer(&header, no_reply, None);
                    device.reset(reply);
                }
            }
            request => {
                let result = dispatch.immediate(request);
                self.answer(&header, no_reply, result);
            }
        }
        Ok(())
    }

    fn defer(&mut self, header: &Header, no_reply: bool, echo: Option<UnmapRequest>) -> Deferred {
        self.deferred = self.deferred.saturating_add(1);
        let to = ReplyTo {
            id: header.id,
            command: header.command,
            no_reply,
            echo,
        };
        Deferred::new(self.notes.clone(), self.id, to)
    }

    /// A deferred reply was given.
    pub(crate) fn deferred_reply(
        &mut self,
        to: &ReplyTo,
        result: Result<(), Errno>,
    ) -> Result<(), Violation> {
        self.deferred = self.deferred.saturating_sub(1);
        let header = Header {
            id: to.id,
            command: to.command,
            body: 0,
            kind: Kind::Reply,
        };
        let mut body = Vec::new();
        if let Some(echo) = &to.echo {
            echo.emit(&mut body);
        }
        self.answer(&header, to.no_reply, result.map(|()| Answer::bytes(body)));
        self.check_outbox()
    }

    /// Another thread wants to reach the client's memory.
    pub(crate) fn dma(&mut self, access: DmaAccess) -> Result<(), Violation> {
        if let Some(active) = &mut self.active {
            active.dma.submit(access, &mut self.out);
        }
        self.check_outbox()
    }

    /// Ends the session: the device is detached, DMA accesses fail.
    pub(crate) fn end<D: Device>(&mut self, device: &mut D) {
        if let Some(active) = self.active.take() {
            active.attached.store(false, Ordering::Release);
            drop(active);
            device.detached();
        }
    }

    fn answer(&mut self, header: &Header, no_reply: bool, result: Result<Answer, Errno>) {
        if !no_reply {
            self.reply(header, result);
        } else if let Err(errno) = result {
            log::debug!("{:?} without reply failed: {errno}", header.command);
        }
    }

    fn reply(&mut self, to: &Header, result: Result<Answer, Errno>) {
        let kind = match &result {
            Ok(_) => Kind::Reply,
            Err(errno) => Kind::Error(u32::try_from(errno.raw_os_error()).unwrap_or(0)),
        };
        let header = Header {
            id: to.id,
            command: to.command,
            body: 0,
            kind,
        };
        let Answer { bytes, fds } = result.unwrap_or_default();
        self.out
            .push(header, fds, |body| body.extend_from_slice(&bytes));
    }

    fn check_outbox(&self) -> Result<(), Violation> {
        if self.out.overflown() {
            return Err(Violation::NotReading);
        }
        Ok(())
    }
}

fn no_fds(frame: &Frame) -> Result<(), FdError> {
    if frame.fds.is_empty() {
        return Ok(());
    }
    Err(FdError {
        command: frame.header.command,
        got: frame.fds.len(),
        expected: 0,
    })
}
