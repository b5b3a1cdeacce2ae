//! Many sockets, one device each, in a `mio` loop of the embedder's.
//!
//! The embedder owns the `mio::Poll` and its `Waker` and gives the server a
//! range of tokens. It passes every event to [`Server::handle_event`], which
//! says whether it was the server's, and calls [`Server::turn`] after each
//! batch of events, the waker's included:
//!
//! ```no_run
//! # fn run(device: impl vrnic_vfio_user::Device) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use vrnic_vfio_user::{Listener, Server};
//!
//! let mut poll = mio::Poll::new()?;
//! let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0))?);
//! let mut server = Server::new(poll.registry(), waker, 1..1000)?;
//! server.add(Listener::bind("/run/device.sock")?, device)?;
//! let mut events = mio::Events::with_capacity(64);
//! loop {
//!     poll.poll(&mut events, None)?;
//!     for event in &events {
//!         server.handle_event(event);
//!     }
//!     server.turn();
//! }
//! # }
//! ```
//!
//! A socket has one connection at a time; a further client waits in the
//! backlog until it ends. Nothing here blocks, and a socket that is busy does
//! not keep the others from theirs.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

use crate::conn::{Connection, End, Progress};
use crate::device::Device;
use crate::handle::{ConnectionId, Note, NoteBox, Notes, notes};
use crate::limits::{TURN_ACCEPTS, TURN_NOTES};
use crate::listen::Listener;
use crate::session::Session;

/// One of a server's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(usize);

// Each socket has two tokens: the listener's, then the connection's.
const TOKENS: usize = 2;

#[derive(Debug)]
struct Slot<D> {
    listener: Listener,
    device: D,
    connection: Option<Connection>,
    // It is to be served in the next turn without an event.
    again: bool,
    // The next client could not be accepted; to be tried in whatever turn
    // comes next, when the lack of descriptors or memory may have passed.
    retry: bool,
    // The log says so, and need not say it in every turn.
    refused: bool,
}

/// See the module's documentation. Dropping it detaches the devices.
#[derive(Debug)]
pub struct Server<D: Device> {
    registry: Registry,
    tokens: Range<usize>,
    slots: Vec<Option<Slot<D>>>,
    notes: Notes,
    note_box: NoteBox,
    next_generation: u64,
}

impl<D: Device> Server<D> {
    /// A server without sockets. `tokens` is the server's part of the loop's
    /// tokens, two a socket; `waker` is the loop's waker.
    pub fn new(
        registry: &Registry,
        waker: Arc<mio::Waker>,
        tokens: Range<usize>,
    ) -> io::Result<Self> {
        let (notes, note_box) = notes(waker);
        Ok(Self {
            registry: registry.try_clone()?,
            tokens,
            slots: Vec::new(),
            notes,
            note_box,
            next_generation: 0,
        })
    }

    /// Serves `device` on a socket. Fails if there are no tokens left.
    pub fn add(&mut self, listener: Listener, device: D) -> io::Result<SocketId> {
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or(self.slots.len());
        if index >= self.tokens.len() / TOKENS {
            return Err(io::Error::other("no tokens left for another socket"));
        }
        self.registry.register(
            &mut SourceFd(&listener.as_fd().as_raw_fd()),
            self.token(index, 0),
            Interest::READABLE,
        )?;
        let slot = Slot {
            listener,
            device,
            connection: None,
            again: true,
            retry: false,
            refused: false,
        };
        match self.slots.get_mut(index) {
            Some(room) => *room = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        // Clients may have come before it was registered.
        self.notes.wake();
        Ok(SocketId(index))
    }

    /// Ends a socket and its connection, removes its file and returns the
    /// device, which was detached.
    pub fn remove(&mut self, socket: SocketId) -> Option<D> {
        self.end(socket.0, None);
        let slot = self.slots.get_mut(socket.0)?.take()?;
        let fd = slot.listener.as_fd().as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::warn!("cannot deregister a listening socket: {error}");
        }
        Some(slot.device)
    }

    /// Ends the connection of a socket, if it has one; the next client can
    /// attach.
    pub fn disconnect(&mut self, socket: SocketId) {
        self.end(socket.0, None);
        if let Some(slot) = self.slot(socket.0) {
            slot.again = true;
            self.notes.wake();
        }
    }

    /// A socket's device.
    pub fn device(&self, socket: SocketId) -> Option<&D> {
        let slot = self.slots.get(socket.0)?.as_ref()?;
        Some(&slot.device)
    }

    /// A socket's device.
    pub fn device_mut(&mut self, socket: SocketId) -> Option<&mut D> {
        self.slot(socket.0).map(|slot| &mut slot.device)
    }

    /// Whether a client is connected to a socket.
    pub fn is_connected(&self, socket: SocketId) -> bool {
        let slot = self.slots.get(socket.0).and_then(Option::as_ref);
        slot.is_some_and(|slot| slot.connection.is_some())
    }

    /// Serves the socket that an event is for. Returns false if the event is
    /// not the server's.
    pub fn handle_event(&mut self, event: &Event) -> bool {
        let Token(token) = event.token();
        if !self.tokens.contains(&token) {
            return false;
        }
        self.note_box.expect();
        self.serve((token - self.tokens.start) / TOKENS);
        true
    }

    /// Does what other threads asked for and what was left over, and lets the
    /// loop sleep again. To be called after each batch of events.
    pub fn turn(&mut self) {
        self.note_box.expect();
        for index in 0..self.slots.len() {
            let again = self.slot(index).is_some_and(|s| s.again || s.retry);
            if again {
                self.serve(index);
            }
        }
        let drained = self.take_notes();
        self.note_box.rest();
        // Those that came before the loop was said to rest woke nobody.
        let drained = drained && self.take_notes();
        if !drained || self.slots.iter().flatten().any(|slot| slot.again) {
            self.notes.wake();
        }
    }

    fn token(&self, index: usize, which: usize) -> Token {
        Token(self.tokens.start + index * TOKENS + which)
    }

    fn slot(&mut self, index: usize) -> Option<&mut Slot<D>> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// Serves a socket: its connection, and the next client when it ends.
    fn serve(&mut self, index: usize) {
        for _ in 0..TURN_ACCEPTS {
            let Some(slot) = self.slot(index) else {
                return;
            };
            slot.again = false;
            slot.retry = false;
            if slot.connection.is_none() && !self.accept(index) {
                return;
            }
            let Some(slot) = self.slot(index) else {
                return;
            };
            let Some(connection) = &mut slot.connection else {
                return;
            };
            match connection.serve(&mut slot.device) {
                Ok(progress) => {
                    slot.again = progress == Progress::More;
                    return;
                }
                Err(end) => self.end(index, Some(&end)),
            }
        }
        if let Some(slot) = self.slot(index) {
            slot.again = true;
        }
    }

    /// Takes the next client of a socket, if one waits.
    fn accept(&mut self, index: usize) -> bool {
        let id = ConnectionId {
            slot: index,
            generation: self.next_generation,
        };
        let token = self.token(index, 1);
        let session = Session::new(id, self.notes.clone());
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
            return false;
        };
        let socket = match slot.listener.accept() {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => {
                slot.refused = false;
                return false;
            }
            Err(errno) => {
                slot.again = matches!(errno, Errno::CONNABORTED | Errno::INTR);
                slot.retry = !slot.again;
                if slot.retry && !std::mem::replace(&mut slot.refused, true) {
                    log::warn!("cannot accept a client: {}", io::Error::from(errno));
                }
                return false;
            }
        };
        let connection = Connection::new(socket, session);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered =
            self.registry
                .register(&mut SourceFd(&connection.raw_fd()), token, interest);
        if let Err(error) = registered {
            log::warn!("cannot watch a client: {error}");
            slot.retry = true;
            return false;
        }
        slot.refused = false;
        self.next_generation += 1;
        slot.device.connected(connection.as_fd());
        slot.connection = Some(connection);
        true
    }

    /// Ends the connection of a socket.
    fn end(&mut self, index: usize, why: Option<&End>) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let Some(connection) = slot.connection.take() else {
            return;
        };
        match why {
            Some(end @ (End::Violation(_) | End::Socket(_))) => {
                log::warn!("client disconnected: {end}");
            }
            Some(End::Closed) | None => log::debug!("client disconnected"),
        }
        if let Err(error) = self
            .registry
            .deregister(&mut SourceFd(&connection.raw_fd()))
        {
            log::warn!("cannot deregister a client: {error}");
        }
        connection.close().end(&mut slot.device);
    }

    /// Does what other threads asked for. Returns false if there may be more.
    fn take_notes(&mut self) -> bool {
        for _ in 0..TURN_NOTES {
            let Some(note) = self.note_box.next() else {
                return true;
            };
            self.take_note(note);
        }
        false
    }

    fn take_note(&mut self, note: Note) {
        let id = match &note {
            Note::Reply(id, ..) | Note::Dma(id, _) => *id,
        };
        let connection = self.slot(id.slot).and_then(|s| s.connection.as_mut());
        let Some(connection) = connection.filter(|c| c.session.id() == id) else {
            return;
        };
        let result = match note {
            Note::Reply(_, to, result) => connection.session.deferred_reply(&to, result),
            Note::Dma(_, access) => connection.session.dma(access),
        };
        if let Err(end) = result.map_err(End::from).and_then(|()| connection.send()) {
            self.end(id.slot, Some(&end));
            if let Some(slot) = self.slot(id.slot) {
                slot.again = true;
            }
        }
    }
}

impl<D: Device> Drop for Server<D> {
    fn drop(&mut self) {
        for index in 0..self.slots.len() {
            self.end(index, None);
        }
    }
}
