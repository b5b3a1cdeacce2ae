//! Links over a byte stream, UNIX or TCP: each frame behind its length, 32 bits
//! big-endian.
//!
//! This is the framing of QEMU's `-netdev stream`. A length above [`MAX_FRAME`]
//! cannot be skipped with certainty, so it ends the connection; the other end may
//! come again. Frames that wait to be sent when a peer is lost are lost with it;
//! what the peer had sent before is still delivered.

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

pub use super::rendezvous::Address;
use super::rendezvous::{Connected, Rendezvous, await_peer};
use super::{Link, LinkCounters, LinkError, MAX_FRAME, MIN_FRAME, Pacer};

/// Bytes of the length in front of a frame.
const PREFIX: usize = 4;

/// Bytes on their way to the kernel, and from it.
const BUFFER: usize = 4 * (MAX_FRAME + PREFIX);

/// What we ask the kernel to queue in a socket, in bytes; it may allow less.
const SOCKET_BUFFER: usize = 1 << 20;

/// A link over a stream socket.
pub struct StreamLink {
    rendezvous: Rendezvous,
    peer: Option<OwnedFd>,
    tx: Outgoing,
    rx: Incoming,
    /// The kernel takes no more for now.
    full: bool,
    waits_for_room: bool,
    /// The length of a frame for which there was no room, until there is or its sender
    /// is told.
    refused: Option<usize>,
    /// The peer takes no more frames; what it sent may still be coming.
    mute: bool,
    pacer: Pacer,
    counters: LinkCounters,
}

impl StreamLink {
    /// The listening end; comes up when a caller comes.
    ///
    /// # Errors
    /// [`LinkError`], as when the address is in use.
    pub fn listen(at: &Address) -> Result<Self, LinkError> {
        Ok(Self::new(Rendezvous::listen(at)?))
    }

    /// The calling end. Blocks until the listener has answered, at most `wait`;
    /// zero does not wait and goes on calling in the background.
    ///
    /// # Errors
    /// [`LinkError`], as when nobody answers.
    pub fn connect(to: &Address, wait: Duration) -> Result<Self, LinkError> {
        await_peer(Self::new(Rendezvous::call(to)?), to, wait)
    }

    fn new(rendezvous: Rendezvous) -> Self {
        StreamLink {
            rendezvous,
            peer: None,
            tx: Outgoing::new(),
            rx: Incoming::new(),
            full: false,
            waits_for_room: false,
            refused: None,
            mute: false,
            pacer: Pacer::default(),
            counters: LinkCounters::default(),
        }
    }

    /// Looks for a new peer, or turns further callers away.
    fn service(&mut self) {
        let Some(socket) = self.rendezvous.next(self.peer.is_some()) else {
            return;
        };
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
        self.tx.clear();
        self.rx.clear();
        self.full = false;
        self.waits_for_room = false;
        self.mute = false;
        self.peer = Some(socket);
        self.counters.ups += 1;
    }

    fn lose_peer(&mut self) {
        if self.peer.take().is_some() {
            self.counters.downs += 1;
            self.tx.clear();
            self.rx.clear();
            self.rendezvous.lost(None);
        }
    }

    /// Sends what waits, as far as the kernel takes it.
    fn send_waiting(&mut self) {
        self.full = false;
        while let (Some(peer), false) = (&self.peer, self.tx.is_empty()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(peer, self.tx.waiting(), flags) {
                Ok(sent) => self.tx.sent(sent),
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.full = true;
                    return;
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.mute = true;
                    self.tx.clear();
                }
            }
        }
    }

    /// Reads once; `false` when there is nothing more for now.
    fn read(&mut self) -> bool {
        let Some(peer) = &self.peer else {
            return false;
        };
        let room = self.rx.room();
        let wanted = room.len();
        match rustix::net::recv(peer, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) if wanted > 0 => self.lose_peer(),
            Ok((len, _)) => {
                self.rx.filled(len);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.lose_peer(),
        }
        false
    }
}

impl Link for StreamLink {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > MAX_FRAME {
            return None;
        }
        if !self.tx.has_room(len) {
            self.send_waiting();
            self.tx.compact();
        }
        if !self.tx.has_room(len) {
            self.full = true;
            self.refused = Some(len);
            self.counters.tx_blocked += 1;
            return None;
        }
        self.refused = None;
        self.tx.reserve(len)
    }

    fn commit(&mut self, len: usize) {
        if !self.is_up() {
            self.counters.tx_no_peer += 1;
            return;
        }
        let len = self.tx.commit(len);
        self.counters.sent(len);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_waiting();
        self.tx.compact();
        Ok(())
    }

    fn receive(&mut self, budget: usize, deliver: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if self.pacer.due() {
            self.service();
        }
        let (mut taken, mut delivered) = (0, 0);
        while taken < budget {
            let frame = match self.rx.next() {
                Ok(Some(place)) => self.rx.bytes.get(place).unwrap_or_default(),
                Ok(None) if self.read() => continue,
                Ok(None) => break,
                Err(Oversize) => {
                    self.counters.violations += 1;
                    self.lose_peer();
                    break;
                }
            };
            taken += 1;
            if frame.len() < MIN_FRAME {
                self.counters.rx_runt += 1;
                continue;
            }
            self.counters.received(frame.len());
            delivered += 1;
            deliver(frame);
        }
        Ok(delivered)
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rendezvous.wake_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        if self.rx.has_frame() {
            return false;
        }
        // A flush since the refusal may have made the room that the sender waits for; then
        // there is nothing left that the kernel would tell of.
        if self.refused.is_some_and(|len| self.tx.has_room(len)) {
            self.refused = None;
            return false;
        }
        if let (Some(peer), true) = (&self.peer, self.full != self.waits_for_room) {
            self.rendezvous.want_room(peer, self.full);
            self.waits_for_room = self.full;
        }
        true // the kernel wakes whoever waits, whenever bytes or room came
    }

    fn wake(&mut self) {
        self.service();
    }

    fn is_up(&self) -> bool {
        self.peer.is_some() && !self.mute
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

impl Connected for StreamLink {
    fn rendezvous(&mut self) -> &mut Rendezvous {
        &mut self.rendezvous
    }
}

/// Frames on their way to the kernel, each behind its length.
struct Outgoing {
    bytes: Box<[u8]>,
    /// Bytes `start..end` wait.
    start: usize,
    end: usize,
    reserved: usize,
}

impl Outgoing {
    fn new() -> Self {
        let bytes = vec![0; BUFFER].into();
        Outgoing {
            bytes,
            start: 0,
            end: 0,
            reserved: 0,
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn has_room(&self, len: usize) -> bool {
        PREFIX + len <= BUFFER - self.end
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.reserved = len;
        let start = self.end + PREFIX;
        self.bytes.get_mut(start..start + len)
    }

    /// Adds the reserved frame and returns its length.
    fn commit(&mut self, len: usize) -> usize {
        let len = len.min(self.reserved);
        self.reserved = 0;
        if let Some(prefix) = self.bytes.get_mut(self.end..self.end + PREFIX) {
            // CAST: at most MAX_FRAME.
            prefix.copy_from_slice(&(len as u32).to_be_bytes());
            self.end += PREFIX + len;
        }
        len
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn sent(&mut self, len: usize) {
        self.start = self.end.min(self.start + len);
        if self.is_empty() {
            self.clear();
        }
    }

    /// Moves what waits to the front, if that gains much for what it costs.
    fn compact(&mut self) {
        if self.start > BUFFER / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

/// A length that no frame has.
struct Oversize;

/// Bytes from the kernel that are not delivered yet.
struct Incoming {
    bytes: Box<[u8]>,
    /// Bytes `start..end` are here.
    start: usize,
    end: usize,
}

impl Incoming {
    fn new() -> Self {
        Incoming {
            bytes: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// The length of the frame in front, once its prefix is here.
    fn length(&self) -> Option<usize> {
        let here = self.bytes.get(self.start..self.end)?;
        let prefix = here.first_chunk::<PREFIX>()?;
        Some(u32::from_be_bytes(*prefix) as usize)
    }

    fn has_frame(&self) -> bool {
        let here = self.end - self.start;
        // A length that is too long counts: `next` has to see it.
        self.length()
            .is_some_and(|len| len > MAX_FRAME || PREFIX + len <= here)
    }

    /// Where in `bytes` the next whole frame is. It stays there until `room`.
    fn next(&mut self) -> Result<Option<Range<usize>>, Oversize> {
        let Some(len) = self.length() else {
            return Ok(None);
        };
        if len > MAX_FRAME {
            return Err(Oversize);
        }
        let start = self.start + PREFIX;
        let end = start + len;
        if end > self.end {
            return Ok(None);
        }
        self.start = end;
        Ok(Some(start..end))
    }

    /// Where to read to. Not empty while no whole frame is here.
    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.clear();
        } else if BUFFER - self.start < MAX_FRAME + PREFIX {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    fn filled(&mut self, len: usize) {
        self.end = BUFFER.min(self.end + len);
    }
}
