//! The control socket: whoever operates the NIC asks and changes things while guests use it.
//!
//! The protocol is `docs/control.md`: QMP's form over a UNIX socket that only its owner can connect
//! to. From a client's bytes to the NIC:
//!
//! * `lines`: bytes to messages; `protocol`: messages to requests, and back;
//! * `session`: one connection without its socket;
//! * `commands`: what can be asked for, one file a subject, and the [`World`] that it is done to;
//! * `promise`: answers that come from the engine's thread; `events`: what is told without a request;
//! * `rota`: whose turn it is;
//! * [`Roster`], [`Recorder`]: the functions that are served, the capture that is being made.
//!
//! [`Control`] has the sockets. It lives in the control thread's loop beside those of guests, so it
//! never waits, and a turn takes `TURN_TIME`. Clients are hostile: there are at most
//! [`MAX_CLIENTS`], each has a bounded message, a bounded output and one request under way.

mod commands;
mod events;
mod lines;
pub(crate) mod names;
mod promise;
mod protocol;
mod recorder;
mod roster;
mod rota;
mod session;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event as Readiness;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, Waker};
use vrnic_vfio_user::{ListenError, Listener};

use crate::engine::{Notices, Observer, notices};
use commands::Command;
pub use commands::World;
use events::Event;
use promise::{ClientId, Promises};
use protocol::Error;
pub use recorder::Recorder;
pub use roster::{Roster, Station};
use rota::Rota;
use session::{Next, Session};

/// Clients at a time.
pub const MAX_CLIENTS: usize = 16;

/// Tokens that [`Control`] needs: the listener's, and one a client.
pub const TOKENS: usize = 1 + MAX_CLIENTS;

/// New clients that are taken in one turn.
const TURN_ACCEPTS: usize = 8;

/// Notices of the engine that are passed on in one turn.
const TURN_NOTICES: usize = 64;

/// How long clients are served before guests on the same thread get their turn: this, and what one
/// message of a client takes.
const TURN_TIME: Duration = Duration::from_millis(1);

/// Bytes read at once.
const PORTION: usize = 16 << 10;

/// A client and its socket.
#[derive(Debug)]
struct Client {
    socket: UnixStream,
    generation: u64,
    session: Session,
    /// The socket may have input.
    readable: bool,
}

/// The control socket and its clients.
pub struct Control {
    listener: Listener,
    registry: Registry,
    first: usize,
    waker: Arc<Waker>,
    clients: [Option<Client>; MAX_CLIENTS],
    rota: Rota<MAX_CLIENTS>,
    generation: u64,
    promises: Promises,
    notices: Notices,
    /// Clients may wait to be accepted.
    knocking: bool,
    /// One could not be, for lack of descriptors or memory, which may have passed in the next turn. The
    /// log says it once.
    retry: bool,
}

impl Control {
    /// Makes the socket. Nobody but its owner can ever connect.
    ///
    /// # Errors
    /// If there cannot be a socket at `path`.
    pub fn bind(path: &Path) -> Result<Listener, ListenError> {
        Listener::bind_private(path)
    }

    /// Serves a socket with [`TOKENS`] tokens from `first` on, in the loop that `waker` wakes. Returns
    /// who is to observe the engine.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(
        listener: Listener,
        registry: &Registry,
        waker: Arc<Waker>,
        first: usize,
    ) -> std::io::Result<(Self, Observer)> {
        let registry = registry.try_clone()?;
        let fd = listener.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), Token(first), Interest::READABLE)?;
        let to_wake = Arc::clone(&waker);
        let wake = Arc::new(move || {
            let _ = to_wake.wake();
        });
        let for_notices = Arc::clone(&wake);
        let (observer, notices) = notices(move || for_notices());
        let control = Self {
            listener,
            registry,
            first,
            waker,
            clients: Default::default(),
            rota: Rota::default(),
            generation: 0,
            promises: Promises::new(wake),
            notices,
            knocking: true,
            retry: false,
        };
        Ok((control, observer))
    }

    /// Notes what an event is for. Returns false if it is not the control socket's.
    pub fn handle_event(&mut self, event: &Readiness) -> bool {
        let Token(token) = event.token();
        let Some(index) = token
            .checked_sub(self.first)
            .filter(|index| *index < TOKENS)
        else {
            return false;
        };
        match index.checked_sub(1) {
            None => self.knocking = true,
            Some(index) => {
                if let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) {
                    client.readable = true;
                }
            }
        }
        true
    }

    /// Does what there is to do, a portion of it. To be called after each batch of events.
    pub fn turn(&mut self, world: &mut World<'_>) {
        self.accept();
        let told_all = self.report(world);
        let start = Instant::now();
        let mut rota = std::mem::take(&mut self.rota);
        let is_over = || start.elapsed() >= TURN_TIME;
        let more = rota.turn(is_over, |slot| self.step(slot, world));
        self.rota = rota;
        if more || self.knocking || !told_all {
            let _ = self.waker.wake();
        }
    }

    /// Passes one answer on, to whomever, and does one thing for a client; returns whether there may be
    /// more to do at once.
    fn step(&mut self, slot: usize, world: &mut World<'_>) -> bool {
        let answered = self.take_answer();
        let served = self.serve(slot, world);
        let goes_on = self.flush(slot);
        answered || served || goes_on
    }

    /// Takes new clients; those for whom there is no room are told so.
    fn accept(&mut self) {
        self.knocking |= self.retry;
        for _ in 0..TURN_ACCEPTS {
            if !self.knocking {
                return;
            }
            let socket = match self.listener.accept() {
                Ok(socket) => UnixStream::from(socket),
                Err(errno) => {
                    self.knocking = false;
                    let refused = errno != rustix::io::Errno::AGAIN;
                    if refused && !self.retry {
                        log::warn!("cannot accept a control client: {errno}");
                    }
                    self.retry = refused;
                    return;
                }
            };
            self.retry = false;
            if let Err(error) = self.admit(socket) {
                log::warn!("cannot watch a control client: {error}");
            }
        }
    }

    fn admit(&mut self, mut socket: UnixStream) -> std::io::Result<()> {
        let Some(index) = self.clients.iter().position(Option::is_none) else {
            let desc = format!("there are {MAX_CLIENTS} control clients already");
            // It takes what fits, which is all of it.
            let _ = socket.write(&protocol::answer(&Err(Error::generic(desc)), None));
            return Ok(());
        };
        let token = Token(self.first + 1 + index);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let fd = socket.as_raw_fd();
        self.registry
            .register(&mut SourceFd(&fd), token, interest)?;
        self.generation += 1;
        if let Some(room) = self.clients.get_mut(index) {
            *room = Some(Client {
                socket,
                generation: self.generation,
                session: Session::new(),
                readable: true,
            });
        }
        Ok(())
    }

    /// Tells clients what has happened; returns whether that was all.
    fn report(&mut self, world: &mut World<'_>) -> bool {
        let (clients, notices) = (&mut self.clients, &self.notices);
        let mut tell = |event: &Event<'_>| tell(clients, event);
        world.roster.watch(world.server, &mut tell);
        let taken = (0..TURN_NOTICES).map_while(|_| notices.take());
        let told = taken.map(|notice| tell(&notice.into())).count();
        let count = notices.take_lost();
        if count > 0 {
            tell(&Event::EventsLost { count });
        }
        told < TURN_NOTICES
    }

    /// Passes an answer on; returns whether there was one.
    fn take_answer(&mut self) -> bool {
        let Some((id, outcome)) = self.promises.take() else {
            return false;
        };
        let client = self.clients.get_mut(id.slot).and_then(Option::as_mut);
        if let Some(client) = client.filter(|client| client.generation == id.generation) {
            client.session.reply(&outcome);
        }
        true
    }

    /// Handles one message of a client, or reads a portion of its input; returns whether there may be
    /// more to do at once.
    fn serve(&mut self, slot: usize, world: &mut World<'_>) -> bool {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        let id = ClientId {
            slot,
            generation: client.generation,
        };
        let request = match client.session.next() {
            Next::Request(request) => request,
            Next::Refused => return true,
            Next::Nothing => return client.read(),
        };
        let promise = self.promises.promise(id);
        match Command::of(request) {
            Err(error) => promise.answer(Err(error)),
            Ok(command) => {
                if command.subscribes() {
                    client.session.subscribe();
                }
                let clients = &mut self.clients;
                command.run(world, promise, &mut |event| tell(clients, event));
            }
        }
        true
    }

    /// Sends a client what it takes, and ends a connection that is over. Returns whether one that did
    /// not read goes on now.
    fn flush(&mut self, slot: usize) -> bool {
        let Some(room) = self.clients.get_mut(slot) else {
            return false;
        };
        let Some(client) = room else {
            return false;
        };
        let paused = client.session.is_paused();
        let sent = client.write();
        if sent.is_ok() && !client.session.is_over() {
            return paused && !client.session.is_paused();
        }
        let fd = client.socket.as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::warn!("cannot deregister a control client: {error}");
        }
        *room = None;
        false
    }
}

/// Tells an event to all clients that want events.
fn tell(clients: &mut [Option<Client>], event: &Event<'_>) {
    let line = event.line();
    for client in clients.iter_mut().flatten() {
        client.session.tell(&line);
    }
}

impl Client {
    /// Reads a portion of input, if the session has use for it; returns whether it did.
    fn read(&mut self) -> bool {
        if !self.readable || !self.session.wants_input() {
            return false;
        }
        let mut portion = [0; PORTION];
        match self.socket.read(&mut portion) {
            Ok(0) => self.session.end_input(),
            Ok(length) => self
                .session
                .receive(portion.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return false;
            }
            // What it was to be sent is lost with it.
            Err(_) => self.session.end_input(),
        }
        true
    }

    /// Sends what the socket takes.
    fn write(&mut self) -> std::io::Result<()> {
        loop {
            let output = self.session.output();
            if output.is_empty() {
                return Ok(());
            }
            match self.socket.write(output) {
                Ok(length) => self.session.sent(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
