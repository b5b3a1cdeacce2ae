//! How fast a shared-memory link is: one thread sends, one receives, frames of
//! RoCEv2 at path MTU 4096, of 1024 and of 64 bytes; against `memcpy` of the same
//! bytes on one core. Both ends poll for a while and then sleep, as engines do, so a
//! machine that has other work to do slows them down but does not make them starve
//! each other.
//!
//! `cargo run --release -p vrnic --example link_speed [SECONDS]`
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vrnic::link::{self, Link, LinkSpec};

/// Polls in vain before an end sleeps.
const SPIN: u32 = 500;

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(1.0);
    let time = Duration::from_secs_f64(seconds);
    println!(
        "{:>6} {:>12} {:>8} {:>8} {:>6}",
        "bytes", "frames/s", "GB/s", "memcpy", "ratio"
    );
    for len in [4166, 1094, 130] {
        let copy = memcpy(len, time / 4);
        let frames = shm(len, time);
        let rate = frames * len as f64 / 1e9;
        println!(
            "{len:>6} {frames:>12.0} {rate:>8.2} {copy:>8.2} {:>6.2}",
            rate / copy
        );
    }
}

/// GB/s of copies of `len` bytes through 8 MiB each way.
fn memcpy(len: usize, time: Duration) -> f64 {
    let from = vec![1u8; 8 << 20];
    let mut to = vec![2u8; 8 << 20];
    let (start, mut bytes) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        for (to, from) in to.chunks_exact_mut(len).zip(from.chunks_exact(len)) {
            to.copy_from_slice(black_box(from));
            bytes += len as u64;
        }
        black_box(&mut to);
    }
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn pair() -> (Box<dyn Link>, Box<dyn Link>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let open = |side: &str| {
        let spec: LinkSpec = format!("shm:{side}={}", path.display()).parse().unwrap();
        link::open(&spec).unwrap()
    };
    let mut listener = open("listen");
    thread::scope(|scope| {
        let caller = scope.spawn(|| open("connect"));
        while !listener.is_up() {
            listener.wake();
        }
        (listener, caller.join().unwrap())
    })
}

/// Counts vain polls, and sleeps when there were many.
struct Rest(u32);

impl Rest {
    fn after(&mut self, did_something: bool, link: &mut Box<dyn Link>) {
        self.0 = if did_something { 0 } else { self.0 + 1 };
        if self.0 > SPIN && link.prepare_sleep() {
            let fd = link.wake_fd().unwrap();
            let limit = Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            poll(
                &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
                Some(&limit),
            )
            .unwrap();
        }
        if self.0 > SPIN {
            self.0 = 0;
            link.wake();
        }
        std::hint::spin_loop();
    }
}

/// Frames per second from one thread to another. Each builds or reads the whole
/// frame, as an engine does.
fn shm(len: usize, time: Duration) -> f64 {
    let (mut tx, mut rx) = pair();
    let stop = AtomicBool::new(false);
    let payload = vec![3u8; 1 << 20];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sources = payload.chunks_exact(len).cycle();
            let mut rest = Rest(0);
            while !stop.load(Ordering::Relaxed) {
                let before = tx.counters().tx_frames;
                for source in sources.by_ref().take(16) {
                    let Some(room) = tx.reserve(len) else { break };
                    room.copy_from_slice(source);
                    tx.commit(len);
                }
                tx.flush().unwrap();
                rest.after(tx.counters().tx_frames != before, &mut tx);
            }
        });
        let mut sink = vec![0u8; 1 << 20];
        let (start, mut at) = (Instant::now(), 0);
        let (mut count, mut rest) = (0, Rest(0));
        while start.elapsed() < time {
            let got = rx
                .receive(16, &mut |frame| {
                    sink[at..at + frame.len()].copy_from_slice(frame);
                    at = (at + len) % (sink.len() - len);
                })
                .unwrap();
            count += got;
            rest.after(got > 0, &mut rx);
        }
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        black_box(&sink);
        count as f64 / seconds
    })
}
