//! A link to another `vrnic` on the same host, over shared memory.
//!
//! One end listens on a UNIX socket, the other calls. The listener makes the
//! memory (`memory`) and sends it with its greeting; the caller checks it and
//! answers with one byte; then both are up. Frames go through two rings
//! (`ring`) without a system call. The socket then serves for two things: a
//! byte on it wakes an end that sleeps, and its end is the peer's end. (An eventfd
//! would be a little faster to signal, but whoever shares it can make a write to
//! it block; a socket of our own cannot be made to.)
//!
//! # Sleeping
//! An end that goes to sleep stores `ASLEEP` (and `WANTS_ROOM`, if its ring was
//! full) in its sleep word, then a full fence, then looks at the rings again, and
//! sleeps only if there is still nothing to do. The other end stores its ring
//! position, then a full fence, then looks at the sleep word. Of two threads that
//! both write first and then, after a full fence, read what the other writes, at
//! least one sees the other's write. So either the sleeper sees the new position
//! and stays awake, or the other end sees the sleep word and sends a byte, which
//! the sleeper's epoll instance finds whenever it comes to wait.
//! The sender of a byte clears the sleep word in the same exchange in which it
//! reads it, so one sleep costs one byte.
//!
//! # Trust
//! None. The peer can write the memory at any time, and can feed the socket. It can
//! lose frames, garble them and keep us awake; it gets nothing else by it.

mod memory;
mod ring;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::rendezvous::{Address, Connected, Rendezvous, await_peer};
use super::{Link, LinkCounters, LinkError, MAX_FRAME, MIN_FRAME, Pacer};
use memory::{End, Memory};
use ring::{Consumer, Producer, Violation};

/// Sleep word: wake me when frames arrive.
const ASLEEP: u64 = 1;
/// Sleep word: wake me when my ring is half free, too.
const WANTS_ROOM: u64 = 2;

/// The listener's greeting: this, then the ring size, both little-endian.
const MAGIC: [u8; 8] = *b"vrnic-s1";
const GREETING: usize = 16;

/// Reads of the socket that one look at it makes, at most.
const READS_AT_ONCE: usize = 4;

/// One end of a shared-memory link.
pub struct ShmLink {
    rendezvous: Rendezvous,
    end: End,
    state: State,
    /// Where the engine builds a frame. Building it in the ring would save a copy
    /// from the first-level cache, at the price of `&mut` to shared memory.
    staging: Box<[u8; MAX_FRAME]>,
    reserved: usize,
    received: Box<[u8; MAX_FRAME]>,
    pacer: Pacer,
    counters: LinkCounters,
}

enum State {
    Down,
    /// The caller waits for the listener's greeting.
    Greeting(OwnedFd),
    Linked(Peer),
}

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The listener waits for the caller's answer.
    Offered,
    Up,
    /// The peer is gone; what it had sent is still delivered.
    Closing,
}

struct Peer {
    socket: OwnedFd,
    memory: Memory,
    end: End,
    phase: Phase,
    tx: Producer,
    rx: Consumer,
    /// The last reservation found no room, and its sender has not been told of any since.
    blocked: bool,
    /// Something was pushed since we last looked whether the peer sleeps.
    pushed: bool,
}

impl ShmLink {
    /// The listening end at `path`; comes up when a caller comes.
    ///
    /// # Errors
    /// [`LinkError`], as when a live socket is there already.
    pub fn listen(path: &Path) -> Result<Self, LinkError> {
        let rendezvous = Rendezvous::listen(&Address::Unix(path.to_owned()))?;
        Ok(Self::new(rendezvous, End::Listener))
    }

    /// The calling end. Blocks until the listener at `path` has answered, at most
    /// `wait`; zero does not wait and goes on calling in the background.
    ///
    /// # Errors
    /// [`LinkError`], as when nobody answers.
    pub fn connect(path: &Path, wait: Duration) -> Result<Self, LinkError> {
        let to = Address::Unix(path.to_owned());
        await_peer(Self::new(Rendezvous::call(&to)?, End::Caller), &to, wait)
    }

    fn new(rendezvous: Rendezvous, end: End) -> Self {
        ShmLink {
            rendezvous,
            end,
            state: State::Down,
            staging: Box::new([0; MAX_FRAME]),
            reserved: 0,
            received: Box::new([0; MAX_FRAME]),
            pacer: Pacer::default(),
            counters: LinkCounters::default(),
        }
    }

    /// Attends to the socket and to who calls.
    fn service(&mut self) {
        match &mut self.state {
            State::Down => {}
            State::Greeting(_) => self.hear_greeting(),
            State::Linked(peer) => match peer.read_socket() {
                Ok(true) if peer.phase == Phase::Offered => {
                    peer.phase = Phase::Up;
                    self.counters.ups += 1;
                }
                Ok(_) => {}
                Err(Gone) => self.peer_gone(),
            },
        }
        let engaged = !matches!(self.state, State::Down);
        match self.rendezvous.next(engaged) {
            Some(socket) if self.end == End::Caller => {
                self.state = State::Greeting(socket);
                self.hear_greeting();
            }
            Some(socket) => self.offer(socket),
            None => {}
        }
    }

    /// The listener greets a caller.
    fn offer(&mut self, socket: OwnedFd) {
        // Without memory or descriptors the caller is turned away and calls again.
        let Ok((memory, fd)) = Memory::create() else {
            return;
        };
        if send_greeting(&socket, &memory, &fd).is_ok() {
            self.state = State::Linked(Peer::new(socket, memory, End::Listener, Phase::Offered));
        }
    }

    /// The caller takes the listener's greeting, if it is there, and answers.
    fn hear_greeting(&mut self) {
        let State::Greeting(socket) = std::mem::replace(&mut self.state, State::Down) else {
            return;
        };
        match receive_greeting(&socket) {
            Ok(Some(memory)) => {
                // A peer that is gone by now shows at the next look at the socket.
                let _ = rustix::net::send(&socket, &[1], SendFlags::NOSIGNAL);
                self.state = State::Linked(Peer::new(socket, memory, End::Caller, Phase::Up));
                self.counters.ups += 1;
            }
            Ok(None) => self.state = State::Greeting(socket),
            Err(reason) => self.rendezvous.lost(Some(reason)),
        }
    }

    /// The peer closed the socket: deliver what it had sent, then forget it.
    fn peer_gone(&mut self) {
        let State::Linked(peer) = &mut self.state else {
            return;
        };
        if peer.phase == Phase::Closing {
            return;
        }
        self.counters.downs += u64::from(peer.phase == Phase::Up);
        peer.phase = Phase::Closing;
        match peer
            .rx
            .close(&peer.memory)
            .and_then(|()| peer.rx.is_empty(&peer.memory))
        {
            Ok(false) => {}
            Ok(true) => self.forget_peer(),
            Err(Violation) => self.cut_off(),
        }
    }

    fn forget_peer(&mut self) {
        self.state = State::Down;
        self.rendezvous.lost(None);
    }

    /// The peer broke the rules of the ring.
    fn cut_off(&mut self) {
        if self.is_up() {
            self.counters.downs += 1;
        }
        self.counters.violations += 1;
        self.forget_peer();
    }
}

impl Link for ShmLink {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > MAX_FRAME {
            return None;
        }
        if let State::Linked(peer) = &mut self.state {
            match peer.has_room(len) {
                Ok(true) => {}
                Ok(false) => {
                    self.counters.tx_blocked += 1;
                    return None;
                }
                Err(Violation) => self.cut_off(),
            }
        }
        self.reserved = len;
        self.staging.get_mut(..len)
    }

    fn commit(&mut self, len: usize) {
        let len = len.min(self.reserved);
        self.reserved = 0;
        match (&mut self.state, self.staging.get(..len)) {
            (State::Linked(peer), Some(frame)) if peer.phase == Phase::Up => {
                peer.tx.push(&peer.memory, frame);
                peer.pushed = true;
                self.counters.sent(len);
            }
            _ => self.counters.tx_no_peer += 1,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let State::Linked(peer) = &mut self.state {
            peer.hand_over();
        }
        Ok(())
    }

    fn receive(&mut self, budget: usize, deliver: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if self.pacer.due() {
            self.service();
        }
        let State::Linked(peer) = &mut self.state else {
            return Ok(0);
        };
        let (mut taken, mut delivered) = (0, 0);
        let end = loop {
            if taken == budget || peer.phase == Phase::Offered {
                break Ok(false);
            }
            let len = match peer.rx.pop(&peer.memory, &mut self.received) {
                Ok(Some(len)) => len,
                Ok(None) => break Ok(peer.phase == Phase::Closing),
                Err(Violation) => break Err(Violation),
            };
            taken += 1;
            match self.received.get(..len) {
                Some(frame) if len >= MIN_FRAME => {
                    self.counters.received(len);
                    delivered += 1;
                    deliver(frame);
                }
                _ => self.counters.rx_runt += 1,
            }
        };
        if taken > 0 {
            peer.give_back();
        }
        match end {
            Ok(false) => {}
            Ok(true) => self.forget_peer(),
            Err(Violation) => self.cut_off(),
        }
        Ok(delivered)
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rendezvous.wake_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        let State::Linked(peer) = &mut self.state else {
            return true;
        };
        peer.hand_over();
        if peer.phase == Phase::Offered {
            return true; // the answer on the socket wakes us
        }
        peer.fall_asleep().unwrap_or_else(|Violation| {
            self.cut_off();
            false
        })
    }

    fn wake(&mut self) {
        if let State::Linked(peer) = &self.state {
            peer.memory.word(peer.end.sleep_word()).store(0, Relaxed);
        }
        self.service();
    }

    fn is_up(&self) -> bool {
        matches!(&self.state, State::Linked(peer) if peer.phase == Phase::Up)
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

impl Connected for ShmLink {
    fn rendezvous(&mut self) -> &mut Rendezvous {
        &mut self.rendezvous
    }
}

/// The peer closed the connection.
struct Gone;

impl Peer {
    fn new(socket: OwnedFd, memory: Memory, end: End, phase: Phase) -> Self {
        let tx = Producer::new(memory.lane(end));
        let rx = Consumer::new(memory.lane(end.other()));
        Peer {
            socket,
            memory,
            end,
            phase,
            tx,
            rx,
            blocked: false,
            pushed: false,
        }
    }

    fn has_room(&mut self, len: usize) -> Result<bool, Violation> {
        // Frames to a peer that is not up are dropped: for them there is room.
        let room = self.phase != Phase::Up || self.tx.has_room(&self.memory, len)?;
        self.blocked = !room;
        Ok(room)
    }

    /// Publishes what was pushed, and wakes the peer if it sleeps.
    fn hand_over(&mut self) {
        if self.pushed {
            self.pushed = false;
            self.tx.publish(&self.memory);
            self.wake_peer(ASLEEP);
        }
    }

    /// Gives room back, and wakes the peer if it waits for that.
    fn give_back(&mut self) {
        self.rx.publish(&self.memory);
        if self.rx.half_free(&self.memory) {
            self.wake_peer(WANTS_ROOM);
        }
    }

    /// Wakes the peer if it sleeps and waits for `reason`.
    fn wake_peer(&self, reason: u64) {
        // The position was stored, the sleep word is loaded: see the module's text.
        fence(SeqCst);
        let word = self.memory.word(self.end.other().sleep_word());
        if word.load(Relaxed) & reason != 0 && word.swap(0, SeqCst) != 0 {
            // A socket too full to take the byte holds others that wake the peer.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = rustix::net::send(&self.socket, &[1], flags);
        }
    }

    /// Publishes that we sleep; `false`, and awake again, if there is work.
    fn fall_asleep(&mut self) -> Result<bool, Violation> {
        let word = self.memory.word(self.end.sleep_word());
        word.store(
            if self.blocked {
                ASLEEP | WANTS_ROOM
            } else {
                ASLEEP
            },
            Relaxed,
        );
        fence(SeqCst);
        let room = self.blocked && self.tx.half_free(&self.memory)?;
        // Told once: who was refused may have given up, and must be able to sleep.
        self.blocked &= !room;
        let idle = self.rx.is_empty(&self.memory)? && !room;
        if !idle {
            word.store(0, Relaxed);
        }
        Ok(idle)
    }

    /// Takes what the peer wrote to the socket: whether there was anything.
    fn read_socket(&self) -> Result<bool, Gone> {
        let mut bytes = [0u8; 64];
        let mut any = false;
        for _ in 0..READS_AT_ONCE {
            match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Gone),
                Ok((len, _)) => {
                    any = true;
                    if len < bytes.len() {
                        break;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return Err(Gone),
            }
        }
        Ok(any)
    }
}

fn send_greeting(socket: &OwnedFd, memory: &Memory, fd: &OwnedFd) -> io::Result<()> {
    let mut greeting = [0; GREETING];
    let (magic, ring) = greeting.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    ring.copy_from_slice(&memory.ring().to_le_bytes());

    let fds = [std::os::fd::AsFd::as_fd(fd)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&greeting)], &mut control, flags)?;
    if sent == GREETING {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The memory that the listener offers; `None` while it has not spoken.
fn receive_greeting(socket: &OwnedFd) -> io::Result<Option<Memory>> {
    let other = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut greeting = [0; GREETING];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let iov = &mut [IoSliceMut::new(&mut greeting)];
    let len = match rustix::net::recvmsg(socket, iov, &mut control, flags) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if len == 0 {
        return Err(other("the listener already has a peer"));
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let (magic, ring) = greeting.split_at(MAGIC.len());
    let (Ok(ring), Some(fd)) = (ring.try_into(), fd) else {
        return Err(other("the listener is no vrnic"));
    };
    if len != GREETING || magic != MAGIC {
        return Err(other("the listener is no vrnic of this version"));
    }
    Memory::accept(&fd, u64::from_le_bytes(ring)).map(Some)
}
