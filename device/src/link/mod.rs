//! Links: what the RNIC's Ethernet port is plugged into.
//!
//! A [`Link`] carries Ethernet frames without FCS, whole and in order, both
//! ways; it knows nothing of what they hold. One engine thread owns a link
//! and polls it; nothing here blocks, after [`open`] has returned.
//!
//! A link heals itself: a peer that dies takes the link down, a peer that
//! comes (back) takes it up, and frames sent meanwhile are dropped and counted,
//! as on a wire. What a peer sends is checked before it is believed; a peer
//! that breaks the framing loses its connection, and no more.
//!
//! - [`spec`]: the `--link` argument.
//! - [`none`]: no peer.
//! - [`shm`]: another `vrnic` on this host, over shared memory.
//! - [`dgram`]: UNIX and UDP datagrams, one frame each.
//! - [`stream`]: UNIX and TCP streams, each frame behind its length.
//!
//! Not here: addresses, switching, capture ([`crate::capture`]).

pub mod dgram;
pub mod none;
pub mod shm;
pub mod spec;
pub mod stream;

mod rendezvous;
mod socket_path;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

pub use spec::{LinkSpec, SpecError};

/// The longest frame any link carries, in bytes, without FCS.
///
/// The bound of everything a peer can make a link store. RoCEv2 at path MTU
/// 4096 needs about 4200.
pub const MAX_FRAME: usize = 65_536;

/// The shortest frame that has a whole Ethernet header, in bytes.
pub const MIN_FRAME: usize = 14;

/// A full-duplex carrier of Ethernet frames, owned by one engine thread.
///
/// The engine's step is: [`receive`](Self::receive); any number of
/// [`reserve`](Self::reserve) and [`commit`](Self::commit) pairs;
/// [`flush`](Self::flush). It keeps calling `receive` and `flush` while the
/// link is down, because they also bring it up again.
///
/// To sleep, after a `flush`: call [`prepare_sleep`](Self::prepare_sleep) and,
/// if that says `true`, wait until [`wake_fd`](Self::wake_fd) is readable (or
/// for whatever else the engine waits); then call [`wake`](Self::wake) in any
/// case. No frame that arrives after `prepare_sleep` began is slept through.
pub trait Link: Send {
    /// Room to build one frame of up to `len` bytes in; the content is
    /// unspecified.
    ///
    /// `None` is back-pressure: try again in a later step, or after the wake-up
    /// that follows `prepare_sleep`. A `len` above [`max_frame`](Self::max_frame)
    /// never succeeds. A new reservation replaces one that was not committed.
    /// While the link is down there is always room, and frames are dropped.
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Sends the first `len` bytes of the last reservation, at the latest with
    /// the next `flush`. More than was reserved is cut to the reservation.
    fn commit(&mut self, len: usize);

    /// Hands what was committed to the peer, and wakes a peer that sleeps.
    ///
    /// # Errors
    /// Trouble of this host that is not the peer's doing; the frames concerned
    /// are lost, the link remains usable.
    fn flush(&mut self) -> io::Result<()>;

    /// Hands at most `budget` received frames to `deliver`, in order, and
    /// returns how many. Every frame is a private copy: the peer cannot change
    /// it any more.
    ///
    /// # Errors
    /// As `flush`.
    fn receive(&mut self, budget: usize, deliver: &mut dyn FnMut(&[u8])) -> io::Result<usize>;

    /// What to wait for while asleep: readable when there is something to do.
    /// The same descriptor for the life of the link (it may be an epoll
    /// instance), so it is registered once. `None` if nothing ever arrives.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Makes the peer, or the kernel, signal `wake_fd` from now on. Returns
    /// `false`, and takes that back, if there is something to do already: frames
    /// that came, or room for a reservation that was refused, whatever made it (the
    /// caller's own `flush` may have). Room is told of once.
    fn prepare_sleep(&mut self) -> bool;

    /// Ends the sleep, and attends to whatever made `wake_fd` readable. Harmless
    /// when the link was not asleep.
    fn wake(&mut self);

    /// Whether a peer is there (always, where the link cannot know).
    fn is_up(&self) -> bool;

    /// The longest frame that this link can send, in bytes.
    fn max_frame(&self) -> usize {
        MAX_FRAME
    }

    /// What went over this link so far.
    fn counters(&self) -> LinkCounters;
}

/// What went over a link since it was opened. All counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames handed to the peer or to the kernel.
    pub tx_frames: u64,
    /// Bytes of these frames.
    pub tx_bytes: u64,
    /// Frames delivered to the engine.
    pub rx_frames: u64,
    /// Bytes of these frames.
    pub rx_bytes: u64,
    /// Frames dropped because there was no peer. UDP learns that late: there they
    /// count as sent, too.
    pub tx_no_peer: u64,
    /// Frames that the kernel refused for another reason.
    pub tx_failed: u64,
    /// Reservations that found no room.
    pub tx_blocked: u64,
    /// Frames dropped because they had no whole Ethernet header.
    pub rx_runt: u64,
    /// Frames dropped because they were longer than [`MAX_FRAME`].
    pub rx_oversize: u64,
    /// Peers cut off because they broke the framing.
    pub violations: u64,
    /// Times the link came up.
    pub ups: u64,
    /// Times the link went down.
    pub downs: u64,
}

impl LinkCounters {
    fn sent(&mut self, len: usize) {
        self.tx_frames += 1;
        self.tx_bytes += len as u64;
    }

    fn received(&mut self, len: usize) {
        self.rx_frames += 1;
        self.rx_bytes += len as u64;
    }
}

/// Why a link could not be opened. Every text says what to do about it.
#[derive(Debug)]
pub enum LinkError {
    /// No peer answered while we were told to wait for one.
    NoPeer {
        /// Where we called, as the user wrote it.
        at: String,
        /// How long we tried.
        waited: Duration,
        /// How the last attempt ended.
        reason: Option<io::Error>,
    },
    /// Another process serves this socket path.
    InUse(PathBuf),
    /// The path exists and is no socket, so we do not replace it.
    NotASocket(PathBuf),
    /// The host refused something.
    Host {
        /// What we were doing, as in "cannot …".
        doing: &'static str,
        /// With which address; may be empty.
        at: String,
        /// What it said.
        source: io::Error,
    },
}

impl LinkError {
    fn host(doing: &'static str, at: impl ToString, source: impl Into<io::Error>) -> Self {
        let (at, source) = (at.to_string(), source.into());
        LinkError::Host { doing, at, source }
    }
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LinkError::NoPeer { at, waited, reason } => {
                write!(
                    f,
                    "no link peer answered at {at} within {} s",
                    waited.as_secs()
                )?;
                if let Some(reason) = reason {
                    write!(f, " ({reason})")?;
                }
                write!(
                    f,
                    "; start the listening side, or give it longer with wait=SECONDS"
                )
            }
            LinkError::InUse(path) => write!(
                f,
                "another process already serves {}; stop it or choose another path",
                path.display()
            ),
            LinkError::NotASocket(path) => write!(
                f,
                "{} exists and is not a socket; remove it or choose another path",
                path.display()
            ),
            LinkError::Host { doing, at, source } if at.is_empty() => {
                write!(f, "cannot {doing}: {source}")
            }
            LinkError::Host { doing, at, source } => write!(f, "cannot {doing} {at}: {source}"),
        }
    }
}

impl std::error::Error for LinkError {}

/// Opens the link that `spec` describes.
///
/// Blocks only for a connecting link, at most as long as its `wait` says, until
/// the listening side answers.
///
/// # Errors
/// [`LinkError`]; nothing stays behind.
pub fn open(spec: &LinkSpec) -> Result<Box<dyn Link>, LinkError> {
    Ok(match spec {
        LinkSpec::None => Box::new(none::NoLink::default()),
        LinkSpec::ShmListen { path } => Box::new(shm::ShmLink::listen(path)?),
        LinkSpec::ShmConnect { path, wait } => Box::new(shm::ShmLink::connect(path, *wait)?),
        LinkSpec::Dgram { local, remote } => Box::new(dgram::DgramLink::unix(local, remote)?),
        LinkSpec::Udp { local, remote } => Box::new(dgram::DgramLink::udp(*local, *remote)?),
        LinkSpec::StreamListen { at } => Box::new(stream::StreamLink::listen(at)?),
        LinkSpec::StreamConnect { at, wait } => Box::new(stream::StreamLink::connect(at, *wait)?),
    })
}

/// Says when to look after the connection: every 256th poll of a busy engine,
/// so that a system call per poll is not the price of noticing a dead peer.
#[derive(Default)]
struct Pacer(u8);

impl Pacer {
    fn due(&mut self) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0 == 0
    }
}
