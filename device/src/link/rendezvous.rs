//! How the two ends of a connection find each other, and find each other again.
//!
//! One end listens, the other one calls; which of them starts first does not
//! matter. In goes an [`Address`], out comes one connected, non-blocking socket
//! at a time. The caller of [`Rendezvous::next`] says whether it still has a
//! peer: the listening end then turns further callers away, and the calling end
//! rests. Without a peer the calling end calls every [`RETRY`].
//!
//! Owns the epoll instance that is the link's wake descriptor; the link adds its
//! peer's socket to it. Nothing here blocks.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::socket_path::{self, SocketPath, unix_socket};
use super::{Link, LinkError};

/// How often the calling end calls.
const RETRY: Duration = Duration::from_millis(50);

/// Callers that one look at the listening socket attends to, at most.
const CALLERS_AT_ONCE: usize = 8;

/// Where a connection is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A UNIX stream socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            Address::Tcp(at) => at.fmt(f),
        }
    }
}

/// One end of a connection that is made again whenever it is lost.
pub(super) struct Rendezvous {
    events: OwnedFd,
    side: Side,
}

enum Side {
    Listen {
        socket: OwnedFd,
        _file: Option<SocketPath>,
    },
    Call {
        to: Address,
        timer: OwnedFd,
        /// A TCP connection that is being made.
        pending: Option<OwnedFd>,
        failure: Option<io::Error>,
    },
}

impl Rendezvous {
    /// The listening end at `at`.
    pub(super) fn listen(at: &Address) -> Result<Self, LinkError> {
        let (socket, file) = match at {
            Address::Unix(path) => {
                let (socket, file) = socket_path::bind(path, SocketType::STREAM)?;
                (socket, Some(file))
            }
            Address::Tcp(addr) => {
                let socket = tcp_socket(addr).map_err(|e| LinkError::host("listen at", at, e))?;
                rustix::net::sockopt::set_socket_reuseaddr(&socket, true)
                    .and_then(|()| rustix::net::bind(&socket, addr))
                    .map_err(|e| LinkError::host("listen at", at, e))?;
                (socket, None)
            }
        };
        rustix::net::listen(&socket, 16).map_err(|e| LinkError::host("listen at", at, e))?;
        let events = new_epoll()?;
        watch(&events, &socket, EventFlags::IN)?;
        Ok(Rendezvous {
            events,
            side: Side::Listen {
                socket,
                _file: file,
            },
        })
    }

    /// The calling end; it calls `to` for the first time in the next `next`.
    pub(super) fn call(to: &Address) -> Result<Self, LinkError> {
        if let Address::Unix(path) = to {
            SocketAddrUnix::new(path).map_err(|e| LinkError::host("connect to", to, e))?;
        }
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(|e| LinkError::host("create a timer", "", e))?;
        let events = new_epoll()?;
        watch(&events, &timer, EventFlags::IN)?;
        set_timer(&timer, Duration::from_nanos(1));
        let to = to.clone();
        let side = Side::Call {
            to,
            timer,
            pending: None,
            failure: None,
        };
        Ok(Rendezvous { events, side })
    }

    /// A new connection, if there is one. `engaged` says that the caller has a
    /// peer and wants no other.
    pub(super) fn next(&mut self, engaged: bool) -> Option<OwnedFd> {
        let found = match &mut self.side {
            Side::Listen { socket, .. } => accept(socket, engaged),
            Side::Call {
                to,
                timer,
                pending,
                failure,
            } => {
                if engaged || !expired(timer) {
                    return None;
                }
                match call(to, pending) {
                    Ok(socket) => {
                        set_timer(
                            timer,
                            if socket.is_some() {
                                Duration::ZERO
                            } else {
                                RETRY
                            },
                        );
                        socket
                    }
                    Err(reason) => {
                        *failure = Some(reason.into());
                        None
                    }
                }
            }
        }?;
        let watched = watch(&self.events, &found, EventFlags::IN | EventFlags::RDHUP);
        if watched.is_err() {
            self.lost(None); // the host is short of memory: try again later
            return None;
        }
        Some(found)
    }

    /// The peer is gone, for `reason` if it turned us away: look for the next one.
    pub(super) fn lost(&mut self, reason: Option<io::Error>) {
        if let Side::Call { timer, failure, .. } = &mut self.side {
            set_timer(timer, RETRY);
            if reason.is_some() {
                *failure = reason;
            }
        }
    }

    /// Chooses whether room to send on `peer`, too, makes the wake descriptor
    /// readable.
    pub(super) fn want_room(&self, peer: &OwnedFd, want: bool) {
        let mut flags = EventFlags::IN | EventFlags::RDHUP;
        flags.set(EventFlags::OUT, want);
        // Fails only for lack of memory; the next sleep asks again.
        let _ = epoll::modify(&self.events, peer, EventData::new_u64(0), flags);
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// How the last call failed.
    fn take_failure(&mut self) -> Option<io::Error> {
        match &mut self.side {
            Side::Call { failure, .. } => failure.take(),
            Side::Listen { .. } => None,
        }
    }
}

/// A link that is made over a [`Rendezvous`].
pub(super) trait Connected: Link {
    fn rendezvous(&mut self) -> &mut Rendezvous;
}

/// Blocks until `link` is up. After `wait` without a peer that is an error,
/// except if `wait` is zero, which means not to wait.
pub(super) fn await_peer<L: Connected>(
    mut link: L,
    at: &Address,
    wait: Duration,
) -> Result<L, LinkError> {
    let start = Instant::now();
    loop {
        link.wake();
        let left = wait.saturating_sub(start.elapsed());
        if link.is_up() || wait.is_zero() {
            return Ok(link);
        }
        if left.is_zero() {
            let reason = link.rendezvous().take_failure();
            return Err(LinkError::NoPeer {
                at: at.to_string(),
                waited: wait,
                reason,
            });
        }
        let timeout = Timespec::try_from(left).ok();
        let events = link.rendezvous().wake_fd();
        match rustix::event::poll(&mut [PollFd::new(&events, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(LinkError::host("wait for", at, e)),
        }
    }
}

fn new_epoll() -> Result<OwnedFd, LinkError> {
    epoll::create(epoll::CreateFlags::CLOEXEC)
        .map_err(|e| LinkError::host("create an epoll instance", "", e))
}

fn watch(events: &OwnedFd, fd: &OwnedFd, flags: EventFlags) -> Result<(), LinkError> {
    epoll::add(events, fd, EventData::new_u64(0), flags)
        .map_err(|e| LinkError::host("watch a socket", "", e))
}

/// Fires now and then every [`RETRY`]; never, if `first` is zero.
fn set_timer(timer: &OwnedFd, first: Duration) {
    let every = if first.is_zero() {
        Duration::ZERO
    } else {
        RETRY
    };
    let spec = |d: Duration| Timespec {
        tv_sec: 0,
        tv_nsec: d.subsec_nanos().into(),
    };
    let times = Itimerspec {
        it_interval: spec(every),
        it_value: spec(first),
    };
    // Fails only for times out of range.
    let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &times);
}

fn expired(timer: &OwnedFd) -> bool {
    rustix::io::read(timer, &mut [0u8; 8]).is_ok()
}

fn accept(listener: &OwnedFd, engaged: bool) -> Option<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..CALLERS_AT_ONCE {
        match rustix::net::accept_with(listener, flags) {
            Ok(_turned_away) if engaged => {}
            Ok(peer) => return Some(peer),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => return None,
        }
    }
    None
}

fn tcp_socket(addr: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// One attempt, or one look at the attempt that is under way.
fn call(to: &Address, pending: &mut Option<OwnedFd>) -> Result<Option<OwnedFd>, Errno> {
    if let Some(socket) = pending.take() {
        let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
        if rustix::event::poll(&mut polled, Some(&Timespec::default()))? == 0 {
            *pending = Some(socket);
            return Ok(None);
        }
        rustix::net::sockopt::socket_error(&socket)??;
        return not_ourselves(socket).map(Some);
    }
    match to {
        Address::Unix(path) => {
            let socket = unix_socket(SocketType::STREAM).map_err(|_| Errno::MFILE)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(Some(socket))
        }
        Address::Tcp(addr) => {
            let socket = tcp_socket(addr)?;
            match rustix::net::connect(&socket, addr) {
                Ok(()) => not_ourselves(socket).map(Some),
                Err(Errno::INPROGRESS) => {
                    *pending = Some(socket);
                    Ok(None)
                }
                Err(reason) => Err(reason),
            }
        }
    }
}

/// Refuses a TCP connection from a port to itself, which comes about when we
/// call a port of this host that nobody serves and are given just that one.
fn not_ourselves(socket: OwnedFd) -> Result<OwnedFd, Errno> {
    let near = rustix::net::getsockname(&socket)?;
    match rustix::net::getpeername(&socket)? {
        Some(far) if far == near => Err(Errno::CONNREFUSED),
        _ => Ok(socket),
    }
}
