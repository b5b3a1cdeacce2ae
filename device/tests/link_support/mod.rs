//! What the link tests have in common: pairs of links, patterned frames, and an
//! engine's way to wait, with an alarm for waits that nothing ends.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use vrnic::link::{self, Link, LinkSpec};

/// When a wait counts as endless.
pub(crate) const ALARM: Duration = Duration::from_secs(20);

pub(crate) type BoxedLink = Box<dyn Link>;

/// A directory for the sockets of one test.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn entries(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }

    /// Opens a link; `@` in the specification stands for the directory.
    #[track_caller]
    pub(crate) fn open(&self, spec: &str) -> BoxedLink {
        self.try_open(spec)
            .unwrap_or_else(|e| panic!("{spec}: {e}"))
    }

    pub(crate) fn try_open(&self, spec: &str) -> Result<BoxedLink, link::LinkError> {
        let spec = spec.replace('@', self.0.path().to_str().unwrap());
        link::open(&spec.parse::<LinkSpec>().unwrap())
    }

    /// Both ends of a link of this kind, up.
    #[track_caller]
    pub(crate) fn pair(&self, kind: &str) -> (BoxedLink, BoxedLink) {
        let (a, b) = match kind {
            "shm" | "stream" => (
                self.open(&format!("{kind}:listen=@/s")),
                self.open(&format!("{kind}:connect=@/s,wait=0")),
            ),
            "dgram" => (
                self.open("dgram:local=@/a,remote=@/b"),
                self.open("dgram:local=@/b,remote=@/a"),
            ),
            "udp" => {
                let [a, b] = free_ports();
                (
                    self.open(&format!("udp:local={a},remote={b}")),
                    self.open(&format!("udp:local={b},remote={a}")),
                )
            }
            "tcp" => {
                let [at, _] = free_ports();
                (
                    self.open(&format!("tcp:listen={at}")),
                    self.open(&format!("tcp:connect={at},wait=0")),
                )
            }
            other => panic!("no pair of {other}"),
        };
        let mut pair = (a, b);
        bring_up(&mut pair.0, &mut pair.1);
        pair
    }
}

/// Every kind of link.
pub(crate) const KINDS: [&str; 5] = ["shm", "dgram", "udp", "stream", "tcp"];

/// Two addresses that were free a moment ago.
fn free_ports() -> [SocketAddr; 2] {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

#[track_caller]
pub(crate) fn bring_up(a: &mut BoxedLink, b: &mut BoxedLink) {
    wait_until(&mut [a, b], "both ends are up", |ends| {
        ends.iter().all(|end| end.is_up())
    });
}

/// Runs the idle steps of these links, sleeping in between, until `done`.
#[track_caller]
pub(crate) fn wait_until(
    links: &mut [&mut BoxedLink],
    what: &str,
    mut done: impl FnMut(&mut [&mut BoxedLink]) -> bool,
) {
    let start = Instant::now();
    while !done(links) {
        assert!(start.elapsed() < ALARM, "never: {what}");
        let asleep = links.iter_mut().all(|link| link.prepare_sleep());
        let mut fds: Vec<PollFd<'_>> = links
            .iter()
            .filter_map(|link| link.wake_fd())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        // A link that is served by nobody else may need a look without an event.
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: if asleep { 10_000_000 } else { 0 },
        };
        poll(&mut fds, Some(&tick)).unwrap();
        drop(fds);
        links.iter_mut().for_each(|link| link.wake());
    }
}

/// Sleeps as an engine does; a wake-up that never comes fails the test.
#[track_caller]
pub(crate) fn sleep(link: &mut BoxedLink) {
    link.flush().unwrap();
    if link.prepare_sleep() {
        let fd = link.wake_fd().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let alarm = Timespec {
            tv_sec: ALARM.as_secs().try_into().unwrap(),
            tv_nsec: 0,
        };
        assert_ne!(
            poll(&mut fds, Some(&alarm)).unwrap(),
            0,
            "a wake-up was lost"
        );
    }
    link.wake();
}

/// Byte `i` of frame `number`.
fn pattern(number: u64, i: usize) -> u8 {
    (number as usize)
        .wrapping_mul(31)
        .wrapping_add(i.wrapping_mul(7))
        .wrapping_add(i >> 8) as u8
}

/// Writes frame `number`: the number, then a pattern.
pub(crate) fn fill(frame: &mut [u8], number: u64) {
    let (head, body) = frame.split_at_mut(8);
    head.copy_from_slice(&number.to_le_bytes());
    body.iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = pattern(number, i));
}

/// The number of a frame, all of which is checked.
#[track_caller]
pub(crate) fn number_of(frame: &[u8]) -> u64 {
    let (head, body) = frame.split_at(8);
    let number = u64::from_le_bytes(head.try_into().unwrap());
    let wrong = body
        .iter()
        .enumerate()
        .position(|(i, byte)| *byte != pattern(number, i));
    assert_eq!(
        wrong,
        None,
        "frame {number} of {} bytes is garbled",
        frame.len()
    );
    number
}

/// Sends frame `number` if there is room.
pub(crate) fn try_send(link: &mut BoxedLink, number: u64, len: usize) -> bool {
    let Some(room) = link.reserve(len) else {
        return false;
    };
    assert_eq!(room.len(), len);
    room.fill(0xA5);
    fill(room, number);
    link.commit(len);
    true
}

/// Receives up to `budget` frames: number and length of each.
#[track_caller]
pub(crate) fn take(link: &mut BoxedLink, budget: usize) -> Vec<(u64, usize)> {
    let mut frames = Vec::new();
    let count = link
        .receive(budget, &mut |frame| {
            frames.push((number_of(frame), frame.len()))
        })
        .unwrap();
    assert_eq!(count, frames.len());
    assert!(count <= budget);
    frames
}

/// Receives exactly `count` frames, sleeping in between.
#[track_caller]
pub(crate) fn take_all(link: &mut BoxedLink, count: usize) -> Vec<(u64, usize)> {
    let mut frames = take(link, count);
    while frames.len() < count {
        sleep(link);
        frames.extend(take(link, count - frames.len()));
    }
    frames
}
