//! Links of datagrams: one frame each, no header, over a UNIX or UDP socket.
//!
//! This is the framing of QEMU's `-netdev dgram`. There is no connection, so the
//! link is always up; frames for a peer that is not there are dropped and counted.
//! A UNIX peer is named by its path at every send, because a connection would
//! stay with a peer that died and keep its successor out. Who may send to our
//! path is for its directory's permissions to say. A UDP socket is connected: the
//! kernel then drops what others send.
//!
//! A UDP link loses frames when the receiver is slow, as Ethernet does. A UNIX
//! link pushes back instead; but the kernel tells nobody when an unconnected UNIX
//! peer has room again, so a sleeping engine is woken after `ROOM_DELAY` to try.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{
    AddressFamily, MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrAny,
    SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::socket_path::{self, SocketPath};
use super::{Link, LinkCounters, LinkError, MAX_FRAME, MIN_FRAME};

/// When a sleeping engine tries again to send to a UNIX peer that was full.
const ROOM_DELAY: Duration = Duration::from_micros(200);

/// Frames, and bytes, that wait for one system call.
const BATCH: usize = 32;
const BATCH_BYTES: usize = 2 * MAX_FRAME;

/// What we ask the kernel to queue in a socket, in bytes; it may allow less.
const SOCKET_BUFFER: usize = 4 << 20;

/// The longest UDP payload over IPv4, in bytes.
const MAX_UDP: usize = 65_507;

/// A link of datagrams.
pub struct DgramLink {
    socket: OwnedFd,
    /// Where each datagram goes; `None` for a connected socket.
    remote: Option<SocketAddrAny>,
    max_frame: usize,
    events: OwnedFd,
    timer: OwnedFd,
    batch: Batch,
    received: Box<[u8]>,
    /// The kernel had no room, or the batch had none.
    blocked: bool,
    /// The length of a frame for which there was no room, until there is or its sender
    /// is told.
    refused: Option<usize>,
    counters: LinkCounters,
    _file: Option<SocketPath>,
}

impl DgramLink {
    /// A UNIX datagram link between two paths; the peer need not be there yet.
    ///
    /// # Errors
    /// [`LinkError`], as when a live socket is at `local` already.
    pub fn unix(local: &Path, remote: &Path) -> Result<Self, LinkError> {
        let to = SocketAddrUnix::new(remote)
            .map_err(|e| LinkError::host("send to", remote.display(), e))?;
        let (socket, file) = socket_path::bind(local, SocketType::DGRAM)?;
        Self::new(socket, Some(to.as_any()), Some(file), MAX_FRAME)
    }

    /// A UDP link between two addresses; the peer need not be there yet.
    ///
    /// # Errors
    /// [`LinkError`], as when `local` is taken or not ours.
    pub fn udp(local: SocketAddr, remote: SocketAddr) -> Result<Self, LinkError> {
        let family = if local.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)
            .map_err(|e| LinkError::host("create a UDP socket", "", e))?;
        rustix::net::bind(&socket, &local)
            .map_err(|e| LinkError::host("bind a UDP socket to", local, e))?;
        rustix::net::connect(&socket, &remote)
            .map_err(|e| LinkError::host("send to", remote, e))?;
        Self::new(socket, None, None, MAX_UDP)
    }

    fn new(
        socket: OwnedFd,
        remote: Option<SocketAddrAny>,
        file: Option<SocketPath>,
        max_frame: usize,
    ) -> Result<Self, LinkError> {
        // As much as the host allows; less only means earlier back-pressure or loss.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
        let (events, timer) =
            wake_sources(&socket).map_err(|e| LinkError::host("watch a socket", "", e))?;
        Ok(DgramLink {
            socket,
            remote,
            max_frame,
            events,
            timer,
            batch: Batch::new(),
            received: vec![0; MAX_FRAME].into(),
            blocked: false,
            refused: None,
            counters: LinkCounters::default(),
            _file: file,
        })
    }

    /// Sends the batch as far as the kernel takes it.
    fn send_batch(&mut self) -> io::Result<()> {
        self.blocked = false;
        let mut reported = false;
        while !self.batch.is_empty() {
            match self.batch.send(&self.socket, self.remote.as_ref()) {
                Ok(sent) => {
                    reported = false;
                    for _ in 0..sent {
                        let len = self.batch.pop();
                        self.counters.sent(len);
                    }
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.blocked = true;
                    break;
                }
                Err(Errno::INTR) => {}
                // A connected socket reports what an earlier datagram met.
                Err(e) if no_peer(e) && self.remote.is_none() && !reported => {
                    reported = true;
                    self.counters.tx_no_peer += 1;
                }
                Err(e) if no_peer(e) => {
                    self.batch.pop();
                    self.counters.tx_no_peer += 1;
                }
                Err(e) => {
                    self.batch.pop();
                    self.counters.tx_failed += 1;
                    return Err(e.into());
                }
            }
        }
        Ok(())
    }
}

impl Link for DgramLink {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > self.max_frame {
            return None;
        }
        if !self.batch.has_room(len) {
            // An error has been counted, and its frame is out of the way.
            let _ = self.send_batch();
            self.batch.compact();
        }
        if !self.batch.has_room(len) {
            self.blocked = true;
            self.refused = Some(len);
            self.counters.tx_blocked += 1;
            return None;
        }
        self.refused = None;
        self.batch.reserve(len)
    }

    fn commit(&mut self, len: usize) {
        self.batch.commit(len);
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.send_batch();
        self.batch.compact();
        result
    }

    fn receive(&mut self, budget: usize, deliver: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut delivered = 0;
        // A frame that is dropped uses up budget, too.
        for _ in 0..budget {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&self.socket, &mut self.received[..], flags) {
                Ok((kept, sent)) if sent > kept => self.counters.rx_oversize += 1,
                Ok((len, _)) if len < MIN_FRAME => self.counters.rx_runt += 1,
                Ok((len, _)) => {
                    let Some(frame) = self.received.get(..len) else {
                        continue;
                    };
                    self.counters.received(len);
                    delivered += 1;
                    deliver(frame);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) if no_peer(e) => self.counters.tx_no_peer += 1,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(delivered)
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        // A flush since the refusal may have made the room that the sender waits for; then
        // nothing is left whose leaving would wake it.
        if self.refused.is_some_and(|len| self.batch.has_room(len)) {
            self.refused = None;
            return false;
        }
        if self.blocked && self.remote.is_some() {
            set_timer(&self.timer, ROOM_DELAY);
        } else if self.blocked {
            set_interest(&self.events, &self.socket, EventFlags::IN | EventFlags::OUT);
        }
        true // the kernel wakes whoever waits, whenever a datagram came
    }

    fn wake(&mut self) {
        if self.blocked && self.remote.is_some() {
            set_timer(&self.timer, Duration::ZERO);
        } else if self.blocked {
            set_interest(&self.events, &self.socket, EventFlags::IN);
        }
    }

    fn is_up(&self) -> bool {
        true
    }

    fn max_frame(&self) -> usize {
        self.max_frame
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

/// Whether a send failed because the peer is not there, or not any more.
fn no_peer(e: Errno) -> bool {
    matches!(
        e,
        Errno::NOENT
            | Errno::CONNREFUSED
            | Errno::CONNRESET
            | Errno::NETUNREACH
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
    )
}

fn wake_sources(socket: &OwnedFd) -> Result<(OwnedFd, OwnedFd), Errno> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    epoll::add(&events, socket, EventData::new_u64(0), EventFlags::IN)?;
    epoll::add(&events, &timer, EventData::new_u64(0), EventFlags::IN)?;
    Ok((events, timer))
}

fn set_interest(events: &OwnedFd, socket: &OwnedFd, flags: EventFlags) {
    // Fails only for lack of memory; the next sleep asks again.
    let _ = epoll::modify(events, socket, EventData::new_u64(0), flags);
}

/// Fires once after `delay`; zero stops it and takes back a shot that was fired.
fn set_timer(timer: &OwnedFd, delay: Duration) {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let once = Timespec {
        tv_sec: 0,
        tv_nsec: delay.subsec_nanos().into(),
    };
    // Fails only for times out of range.
    let times = Itimerspec {
        it_interval: zero,
        it_value: once,
    };
    let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &times);
}

/// Frames on their way to the kernel, in order.
struct Batch {
    bytes: Box<[u8]>,
    /// Where each frame lies: start and end.
    frames: [(usize, usize); BATCH],
    /// Frames `first..last` wait.
    first: usize,
    last: usize,
    /// Where the next frame starts, and how much of that is reserved.
    free: usize,
    reserved: usize,
}

impl Batch {
    fn new() -> Self {
        let bytes = vec![0; BATCH_BYTES].into();
        Batch {
            bytes,
            frames: [(0, 0); BATCH],
            first: 0,
            last: 0,
            free: 0,
            reserved: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.first == self.last
    }

    fn has_room(&self, len: usize) -> bool {
        self.last < BATCH && len <= BATCH_BYTES - self.free
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.reserved = len;
        self.bytes.get_mut(self.free..self.free + len)
    }

    fn commit(&mut self, len: usize) {
        let end = self.free + len.min(self.reserved);
        self.reserved = 0;
        if let Some(slot) = self.frames.get_mut(self.last) {
            *slot = (self.free, end);
            self.last += 1;
            self.free = end.next_multiple_of(64).min(BATCH_BYTES);
        }
    }

    /// Takes the first frame off and returns its length.
    fn pop(&mut self) -> usize {
        let frame = self
            .frames
            .get(self.first)
            .filter(|_| self.first < self.last);
        let len = frame.map_or(0, |(start, end)| end - start);
        self.first = (self.first + 1).min(self.last);
        len
    }

    /// Moves what waits to the front. Costs nothing when nothing waits.
    fn compact(&mut self) {
        let Some(waiting) = self.frames.get(self.first..self.last) else {
            return;
        };
        let start = waiting.first().map_or(self.free, |frame| frame.0);
        self.bytes.copy_within(start..self.free, 0);
        self.frames.copy_within(self.first..self.last, 0);
        self.last -= self.first;
        self.first = 0;
        self.free -= start;
        for frame in self.frames.iter_mut().take(self.last) {
            *frame = (frame.0 - start, frame.1 - start);
        }
    }

    /// One system call: how many frames the kernel took.
    fn send(&self, socket: &OwnedFd, to: Option<&SocketAddrAny>) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let waiting = self.frames.get(self.first..self.last).unwrap_or_default();
        let frame = |f: &(usize, usize)| self.bytes.get(f.0..f.1).unwrap_or_default();
        if let ([only], Some(to)) = (waiting, to) {
            return rustix::net::sendto(socket, frame(only), flags, to).map(|_| 1);
        }
        let mut frames = waiting.iter();
        let pieces = [(); BATCH].map(|()| [IoSlice::new(frames.next().map_or(&[], frame))]);
        let mut pieces = pieces.iter();
        let mut controls = [(); BATCH].map(|()| SendAncillaryBuffer::default());
        let mut messages = controls.each_mut().map(|control| {
            let piece = pieces.next().map_or(&[][..], |piece| &piece[..]);
            match to {
                Some(to) => MMsgHdr::new_with_addr(to, piece, control),
                None => MMsgHdr::new(piece, control),
            }
        });
        let messages = messages.get_mut(..waiting.len()).unwrap_or_default();
        rustix::net::sendmmsg(socket, messages, flags)
    }
}
