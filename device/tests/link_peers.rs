//! Peers come late, die, return, and misbehave; the link survives them all.
//!
//! The hostile peers speak to a link's sockets and shared memory with nothing but
//! system calls, so the offsets of the shared memory's layout are repeated here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod link_support;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use link_support::*;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use vrnic::link::{LinkError, MAX_FRAME};

/// The kinds that have a listening and a calling end.
const CONNECTED: [&str; 2] = ["shm", "stream"];

fn listen(place: &Place, kind: &str) -> BoxedLink {
    place.open(&format!("{kind}:listen=@/s"))
}

fn call(place: &Place, kind: &str) -> BoxedLink {
    place.open(&format!("{kind}:connect=@/s,wait=0"))
}

/// One frame each way arrives.
#[track_caller]
fn check_traffic(a: &mut BoxedLink, b: &mut BoxedLink) {
    assert!(try_send(a, 1, 100) && try_send(b, 2, 200));
    a.flush().unwrap();
    b.flush().unwrap();
    assert_eq!(take_all(b, 1), [(1, 100)]);
    assert_eq!(take_all(a, 1), [(2, 200)]);
}

// Coming and going

#[test]
fn either_end_may_start_first() {
    for kind in CONNECTED {
        for caller_first in [false, true] {
            let place = Place::new();
            let (mut a, mut b) = if caller_first {
                let caller = call(&place, kind);
                (listen(&place, kind), caller)
            } else {
                (listen(&place, kind), call(&place, kind))
            };
            bring_up(&mut a, &mut b);
            check_traffic(&mut a, &mut b);
        }
    }
}

#[test]
fn a_caller_that_waits_finds_a_listener_that_comes_later() {
    for kind in CONNECTED {
        let place = Place::new();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| place.open(&format!("{kind}:connect=@/s,wait=20")));
            let mut listener = listen(&place, kind);
            wait_until(&mut [&mut listener], "the caller comes", |_| {
                caller.is_finished()
            });
            assert!(caller.join().unwrap().is_up(), "{kind}");
        });
    }
}

#[test]
fn a_missing_listener_is_an_error_that_says_what_to_do() {
    for kind in CONNECTED {
        let place = Place::new();
        let start = Instant::now();
        let error = place
            .try_open(&format!("{kind}:connect=@/s,wait=1"))
            .err()
            .unwrap();
        assert!(start.elapsed() >= Duration::from_secs(1));
        let at = place.path("s").display().to_string();
        assert_eq!(
            error.to_string(),
            format!(
                "no link peer answered at {at} within 1 s (No such file or directory (os error 2)); \
                 start the listening side, or give it longer with wait=SECONDS"
            )
        );
    }
}

#[test]
fn a_peer_that_dies_takes_the_link_down_and_its_successor_up() {
    for kind in CONNECTED {
        let place = Place::new();
        let mut listener = listen(&place, kind);
        for round in 1..=3 {
            let mut caller = call(&place, kind);
            bring_up(&mut listener, &mut caller);
            check_traffic(&mut listener, &mut caller);
            drop(caller);
            wait_until(&mut [&mut listener], "the listener notices", |ends| {
                take(ends[0], 1);
                !ends[0].is_up()
            });
            let before = listener.counters().tx_no_peer;
            assert!(
                try_send(&mut listener, 7, 1000),
                "a link that is down has room"
            );
            listener.flush().unwrap();
            let counters = listener.counters();
            assert_eq!(counters.tx_no_peer, before + 1, "{kind}");
            assert_eq!((counters.ups, counters.downs), (round, round), "{kind}");
        }
    }
}

#[test]
fn a_caller_finds_the_listener_that_returns() {
    for kind in CONNECTED {
        let place = Place::new();
        let mut listener = listen(&place, kind);
        let mut caller = call(&place, kind);
        for _ in 0..2 {
            bring_up(&mut listener, &mut caller);
            check_traffic(&mut listener, &mut caller);
            drop(listener);
            wait_until(&mut [&mut caller], "the caller notices", |ends| {
                take(ends[0], 1);
                !ends[0].is_up()
            });
            listener = listen(&place, kind);
        }
        bring_up(&mut listener, &mut caller);
        check_traffic(&mut listener, &mut caller);
    }
}

/// An engine that is never idle long enough to sleep notices, too.
#[test]
fn a_busy_engine_notices_that_peers_go_and_come() {
    for kind in CONNECTED {
        let place = Place::new();
        let mut listener = listen(&place, kind);
        let poll_until = |link: &mut BoxedLink, up: bool| {
            let start = Instant::now();
            while link.is_up() != up {
                assert!(start.elapsed() < ALARM, "{kind}: never up={up}");
                take(link, 16);
            }
        };
        let caller = UnixStream::connect(place.path("s")).unwrap();
        (&caller).write_all(&[0]).unwrap(); // of a frame's length, or the answer
        poll_until(&mut listener, true);
        drop(caller);
        poll_until(&mut listener, false);
    }
}

#[test]
fn what_a_peer_sent_before_it_died_is_delivered() {
    for kind in CONNECTED {
        let place = Place::new();
        let (mut a, mut b) = place.pair(kind);
        (0..20).for_each(|n| assert!(try_send(&mut b, n, 1514)));
        b.flush().unwrap();
        drop(b);
        let expected: Vec<_> = (0..20).map(|n| (n, 1514)).collect();
        assert_eq!(take_all(&mut a, 20), expected, "{kind}");
        wait_until(&mut [&mut a], "the link goes down", |ends| {
            take(ends[0], 1);
            !ends[0].is_up()
        });
    }
}

#[test]
fn a_second_caller_is_turned_away_until_the_first_leaves() {
    for kind in CONNECTED {
        let place = Place::new();
        let (mut listener, mut first) = place.pair(kind);
        let mut second = call(&place, kind);
        for _ in 0..20 {
            check_traffic(&mut listener, &mut first);
            second.wake();
            take(&mut second, 1);
        }
        assert_eq!(listener.counters().ups, 1, "{kind}");
        drop(first);
        wait_until(
            &mut [&mut listener, &mut second],
            "the second one is taken",
            |ends| {
                ends.iter_mut().for_each(|end| drop(take(end, 1)));
                ends.iter().all(|end| end.is_up()) && ends[0].counters().ups == 2
            },
        );
        check_traffic(&mut listener, &mut second);
    }
}

#[test]
fn a_datagram_link_outlives_its_peers() {
    let place = Place::new();
    let mut a = place.open("dgram:local=@/a,remote=@/b");
    for round in 1..=3 {
        assert!(try_send(&mut a, 9, 100));
        a.flush().unwrap();
        assert_eq!(a.counters().tx_no_peer, round);
        let mut b = place.open("dgram:local=@/b,remote=@/a");
        check_traffic(&mut a, &mut b);
    }
}

#[test]
fn a_udp_link_outlives_a_peer_that_is_not_there() {
    let place = Place::new();
    let ports = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let [a, b] = ports.map(|socket| socket.local_addr().unwrap());
    let mut first = place.open(&format!("udp:local={a},remote={b}"));
    for number in 0..10 {
        assert!(try_send(&mut first, number, 100));
        first.flush().unwrap();
        assert!(take(&mut first, 4).is_empty());
    }
    let counters = first.counters();
    assert_eq!(counters.tx_frames, 10);
    assert!((1..=10).contains(&counters.tx_no_peer), "{counters:?}");
    let mut second = place.open(&format!("udp:local={b},remote={a}"));
    check_traffic(&mut first, &mut second);
}

// Socket files

#[test]
fn socket_files_are_replaced_when_stale_and_removed_in_the_end() {
    for spec in [
        "shm:listen=@/s",
        "stream:listen=@/s",
        "dgram:local=@/s,remote=@/r",
    ] {
        let place = Place::new();
        drop(UnixListener::bind(place.path("s")).unwrap());
        assert_eq!(place.entries(), 1, "a stale file");
        drop(place.open(spec));
        assert_eq!(place.entries(), 0, "{spec}");
        drop(UnixDatagram::bind(place.path("s")).unwrap());
        drop(place.open(spec));
        assert_eq!(place.entries(), 0, "{spec}");
    }
}

#[test]
fn live_sockets_and_other_files_are_refused() {
    for spec in [
        "shm:listen=@/s",
        "stream:listen=@/s",
        "dgram:local=@/s,remote=@/r",
    ] {
        let place = Place::new();
        let stream = UnixListener::bind(place.path("s")).unwrap();
        assert!(
            matches!(place.try_open(spec), Err(LinkError::InUse(_))),
            "{spec}"
        );
        drop(stream);
        std::fs::remove_file(place.path("s")).unwrap();
        let dgram = UnixDatagram::bind(place.path("s")).unwrap();
        assert!(
            matches!(place.try_open(spec), Err(LinkError::InUse(_))),
            "{spec}"
        );
        drop(dgram);
        std::fs::remove_file(place.path("s")).unwrap();
        std::fs::write(place.path("s"), "precious").unwrap();
        assert!(
            matches!(place.try_open(spec), Err(LinkError::NotASocket(_))),
            "{spec}"
        );
        assert_eq!(std::fs::read(place.path("s")).unwrap(), b"precious");
    }
}

#[test]
fn a_socket_file_that_somebody_else_put_there_is_left_alone() {
    let place = Place::new();
    let link = listen(&place, "shm");
    std::fs::remove_file(place.path("s")).unwrap();
    let _other = UnixListener::bind(place.path("s")).unwrap();
    drop(link);
    assert_eq!(place.entries(), 1);
}

// Hostile stream

/// Runs a listening stream link against these bytes, then against a good peer.
#[track_caller]
fn feed_stream(bytes: &[u8], frames: u64, violations: u64) {
    let place = Place::new();
    let mut link = listen(&place, "stream");
    let mut peer = UnixStream::connect(place.path("s")).unwrap();
    peer.write_all(bytes).unwrap();
    drop(peer);
    wait_until(&mut [&mut link], "the peer was heard and left", |ends| {
        ends[0]
            .receive(64, &mut |frame| assert!(frame.len() <= MAX_FRAME))
            .unwrap();
        ends[0].counters().downs == 1
    });
    let counters = link.counters();
    assert_eq!(
        (counters.rx_frames, counters.violations),
        (frames, violations)
    );
    let mut good = call(&place, "stream");
    bring_up(&mut link, &mut good);
    check_traffic(&mut link, &mut good);
}

#[test]
fn malformed_streams_cost_the_peer_its_connection() {
    let frame = |len: u32| [&len.to_be_bytes()[..], &vec![0xA5; len as usize]].concat();
    feed_stream(&[], 0, 0);
    feed_stream(&[0, 0], 0, 0); // truncated length
    feed_stream(&frame(60)[..40], 0, 0); // truncated frame
    feed_stream(&frame(0), 0, 0); // runts
    feed_stream(&[frame(13), frame(14), frame(0), frame(60)].concat(), 2, 0);
    feed_stream(&frame(MAX_FRAME as u32), 1, 0);
    feed_stream(&(MAX_FRAME as u32 + 1).to_be_bytes(), 0, 1);
    feed_stream(
        &[frame(60), u32::MAX.to_be_bytes().to_vec(), frame(60)].concat(),
        1,
        1,
    );
}

#[test]
fn a_stream_in_single_bytes_is_put_together() {
    let place = Place::new();
    let mut link = listen(&place, "stream");
    let mut peer = UnixStream::connect(place.path("s")).unwrap();
    wait_until(&mut [&mut link], "up", |ends| ends[0].is_up());
    let mut expected = Vec::new();
    for number in 0..5 {
        let mut frame = vec![0; 60 + number as usize];
        fill(&mut frame, number);
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend(&frame);
        for byte in bytes {
            assert!(take(&mut link, 1).is_empty());
            peer.write_all(&[byte]).unwrap();
        }
        expected.push((number, frame.len()));
        assert_eq!(take(&mut link, 9), expected[expected.len() - 1..]);
    }
}

#[test]
fn what_a_stream_link_sends_is_length_and_frame() {
    let place = Place::new();
    let mut link = listen(&place, "stream");
    let mut peer = UnixStream::connect(place.path("s")).unwrap();
    wait_until(&mut [&mut link], "up", |ends| ends[0].is_up());
    link.reserve(60).unwrap().fill(0x5A);
    link.commit(60);
    link.flush().unwrap();
    let mut bytes = [0xA5; 64];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..4], [0, 0, 0, 60]);
    assert_eq!(bytes[4..], [0x5A; 60]);
}

#[test]
fn bad_datagrams_are_dropped_and_counted() {
    let place = Place::new();
    let mut link = place.open("dgram:local=@/a,remote=@/b");
    let peer = UnixDatagram::unbound().unwrap();
    for len in [0, 13, 14, MAX_FRAME, MAX_FRAME + 1] {
        peer.send_to(&vec![0xA5; len], place.path("a")).unwrap();
    }
    let mut lens = Vec::new();
    link.receive(64, &mut |frame| lens.push(frame.len()))
        .unwrap();
    assert_eq!(lens, [14, MAX_FRAME]);
    let counters = link.counters();
    assert_eq!((counters.rx_runt, counters.rx_oversize), (2, 1));
}

// Hostile shared memory

/// Offsets in the shared memory; see `link/shm/memory.rs`.
const LISTENER_TAIL: u64 = 128;
const CALLER_HEAD: u64 = 256;
const LISTENER_SLEEPS: u64 = 512;
const CALLER_SLEEPS: u64 = 640;
const CONTROL: u64 = 4096;

/// A caller made of system calls.
struct HostileCaller {
    socket: UnixStream,
    memory: File,
    ring: u64,
}

impl HostileCaller {
    fn connect(place: &Place, listener: &mut BoxedLink) -> Self {
        let socket = UnixStream::connect(place.path("s")).unwrap();
        listener.wake();
        let mut greeting = [0xA5; 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [IoSliceMut::new(&mut greeting)];
        recvmsg(&socket, iov, &mut control, RecvFlags::empty()).unwrap();
        let memory = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        assert_eq!(&greeting[..8], b"vrnic-s1");
        let ring = u64::from_le_bytes(greeting[8..].try_into().unwrap());
        (&socket).write_all(&[1]).unwrap();
        listener.wake();
        assert!(listener.is_up());
        HostileCaller {
            socket,
            memory: memory.unwrap().into(),
            ring,
        }
    }

    fn put(&self, at: u64, value: u64) {
        self.memory.write_all_at(&value.to_ne_bytes(), at).unwrap();
    }

    /// Where the caller's own ring starts.
    fn ring_start(&self) -> u64 {
        CONTROL + self.ring
    }
}

/// One step of an engine over `link`; the peer's frames only have to be bounded.
fn step(link: &mut BoxedLink) {
    link.receive(64, &mut |frame| {
        assert!((14..=MAX_FRAME).contains(&frame.len()))
    })
    .unwrap();
    for number in 0..4 {
        let _ = try_send(link, number, 9000);
    }
    link.flush().unwrap();
    let _ = link.prepare_sleep();
    link.wake();
}

#[test]
fn a_peer_that_breaks_the_ring_is_cut_off() {
    type Attack = fn(&HostileCaller);
    let attacks: [(&str, Attack); 8] = [
        ("head beyond the ring", |p| p.put(CALLER_HEAD, p.ring + 64)),
        ("head not on a line", |p| p.put(CALLER_HEAD, 8)),
        ("head at the end of time", |p| p.put(CALLER_HEAD, u64::MAX)),
        ("frame too long", |p| {
            p.put(p.ring_start(), MAX_FRAME as u64 + 1);
            p.put(CALLER_HEAD, p.ring);
        }),
        ("frame length huge", |p| {
            p.put(p.ring_start(), u64::MAX);
            p.put(CALLER_HEAD, 64);
        }),
        ("frame beyond what is published", |p| {
            p.put(p.ring_start(), 57);
            p.put(CALLER_HEAD, 64);
        }),
        ("head goes back", |p| {
            p.put(p.ring_start(), 20);
            p.put(p.ring_start() + 64, 20);
            p.put(CALLER_HEAD, 128);
            p.put(CALLER_HEAD, u64::MAX - 63);
        }),
        ("tail beyond the head", |p| p.put(LISTENER_TAIL, 1 << 40)),
    ];
    for (name, attack) in attacks {
        let place = Place::new();
        let mut link = listen(&place, "shm");
        let mut hostile = HostileCaller::connect(&place, &mut link);
        attack(&hostile);
        for _ in 0..100 {
            step(&mut link);
        }
        let counters = link.counters();
        assert_eq!((counters.violations, counters.downs), (1, 1), "{name}");
        assert_eq!(hostile.socket.read(&mut [0; 64]).unwrap_or(0), 0, "{name}");
        let mut good = call(&place, "shm");
        bring_up(&mut link, &mut good);
        check_traffic(&mut link, &mut good);
    }
}

#[test]
fn random_garbage_in_the_shared_memory_does_no_harm() {
    let place = Place::new();
    let mut link = listen(&place, "shm");
    for seed in 1..=300 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let hostile = HostileCaller::connect(&place, &mut link);
        for _ in 0..20 {
            garble(&hostile, &mut rng);
            step(&mut link);
        }
        drop(hostile);
        while link.is_up() {
            step(&mut link);
        }
        step(&mut link);
        let counters = link.counters();
        assert_eq!((counters.ups, counters.downs), (seed, seed), "seed {seed}");
    }
    let counters = link.counters();
    assert!(
        counters.violations > 0 && counters.rx_frames > 0,
        "{counters:?}"
    );
    let mut good = call(&place, "shm");
    bring_up(&mut link, &mut good);
    check_traffic(&mut link, &mut good);
}

/// One random act: plausible often enough that some of it gets through.
fn garble(peer: &HostileCaller, rng: &mut SmallRng) {
    match rng.random_range(0..8) {
        0 => peer.put(rng.random_range(0..CONTROL / 8) * 8, rng.next_u64()),
        1 => {
            let mut bytes = vec![0; rng.random_range(1..5000)];
            rng.fill_bytes(&mut bytes);
            let at = rng.random_range(0..CONTROL + 2 * peer.ring - 5000);
            peer.memory.write_all_at(&bytes, at).unwrap();
        }
        2 => peer.put(LISTENER_TAIL, rng.random_range(0..64) * 64),
        3 => peer.put(CALLER_SLEEPS, rng.random_range(0..4)),
        4 => peer.put(LISTENER_SLEEPS, rng.random_range(0..4)),
        5 => drop((&peer.socket).write(&[1; 100])),
        _ => {
            let len = rng.random_range(0..200u64);
            for line in 0..64 {
                peer.put(peer.ring_start() + line * 64, len);
            }
            peer.put(CALLER_HEAD, rng.random_range(0..64) * 64);
        }
    }
}

/// Answers a caller with this greeting and descriptor, and closes.
fn greet_badly(listener: &UnixListener, greeting: &[u8], fd: Option<BorrowedFd<'_>>) {
    let (socket, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    sendmsg(
        &socket,
        &[IoSlice::new(greeting)],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
}

fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("hostile", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, bytes).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn a_listener_that_greets_badly_is_not_believed() {
    let ring: u64 = 512 << 10;
    let greeting = |ring: u64| [&b"vrnic-s1"[..], &ring.to_le_bytes()].concat();
    let good = memfd(CONTROL + 2 * ring, SealFlags::SHRINK);
    let small = memfd(CONTROL + 2 * ring - 1, SealFlags::SHRINK);
    let unsealed = memfd(CONTROL + 2 * ring, SealFlags::GROW);
    let file = tempfile::tempfile().unwrap();
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let attacks = [
        (greeting(ring), None),
        (greeting(ring)[..15].to_vec(), Some(good.as_fd())),
        (
            [&b"vrnic-s0"[..], &ring.to_le_bytes()].concat(),
            Some(good.as_fd()),
        ),
        (greeting(0), Some(good.as_fd())),
        (greeting(ring - 1), Some(good.as_fd())),
        (greeting(1 << 63), Some(good.as_fd())),
        (greeting(4096), Some(good.as_fd())),
        (greeting(ring), Some(small.as_fd())),
        (greeting(ring), Some(unsealed.as_fd())),
        (greeting(ring), Some(file.as_fd())),
        (greeting(ring), Some(pipe.as_fd())),
    ];
    let place = Place::new();
    let listener = UnixListener::bind(place.path("s")).unwrap();
    let mut caller = call(&place, "shm");
    for (number, (greeting, fd)) in attacks.iter().enumerate() {
        std::thread::scope(|scope| {
            let attack = scope.spawn(|| greet_badly(&listener, greeting, *fd));
            wait_until(&mut [&mut caller], "the attack", |_| attack.is_finished());
        });
        caller.wake();
        assert!(!caller.is_up(), "attack {number}");
    }
    drop(listener);
    let mut honest = listen(&place, "shm");
    bring_up(&mut caller, &mut honest);
    check_traffic(&mut caller, &mut honest);
    assert_eq!(caller.counters().ups, 1);
}
