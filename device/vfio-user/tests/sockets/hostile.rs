//! Clients that break the rules, by table and at random, and what they leave.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::common::command::*;
use crate::common::*;

/// Sends bytes on a negotiated connection, which must end; then the next
/// client must find a server.
#[track_caller]
fn ends_the_connection(harness: &Harness, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut client = harness.client();
    client.send_with_fds(bytes, fds);
    client.is_closed();
    harness.client().is_served();
}

fn header(size: u32, flags: u32) -> Vec<u8> {
    body!(1_u16, RESET, size, flags, 0_u32)
}

// --- framing

#[test]
fn a_header_that_is_none_ends_the_connection() {
    let harness = Harness::start(1);
    for size in [0, 1, 15, (1 << 20) + 16 + 65, 1 << 31, u32::MAX] {
        ends_the_connection(&harness, &header(size, 0), &[]);
    }
    for flags in [
        2,
        3,
        0xf,
        0x20,
        0x30,
        0x11,
        0x31,
        0x40,
        0x8000_0000,
        u32::MAX,
    ] {
        ends_the_connection(&harness, &header(16, flags), &[]);
    }
}

#[test]
fn a_large_first_message_ends_the_connection() {
    let harness = Harness::start(1);
    let mut client = Client::connect(harness.path());
    client.send(&body!(1_u16, VERSION, 1_u32 << 20, 0_u32, 0_u32));
    client.is_closed();
}

#[test]
fn a_reply_to_nothing_ends_the_connection() {
    let harness = Harness::start(1);
    for command in [VERSION, RESET, DMA_READ, DMA_WRITE, 77] {
        for flags in [REPLY, REPLY | ERROR] {
            let reply = message(0, command, flags, 5, &[0; 32]);
            ends_the_connection(&harness, &reply, &[]);
        }
    }
}

#[test]
fn messages_arrive_a_byte_at_a_time() {
    let harness = Harness::start(1);
    let mut client = Client::connect(harness.path());
    let mut bytes = version(1, CAPABILITIES);
    bytes.extend(message(
        1,
        REGION_READ,
        0,
        0,
        &body!(0x10_u64, TRAPPED, 4_u32),
    ));
    bytes.extend(message(2, RESET, 0, 0, &[]));
    for byte in bytes {
        client.send(&[byte]);
    }
    assert_eq!(client.receive().command, VERSION);
    assert_eq!(client.receive().body[16..], [0x10, 0x11, 0x12, 0x13]);
    assert_eq!(client.receive().command, RESET);
}

#[test]
fn many_messages_arrive_in_one_write() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let count = 1000_u16;
    let mut bytes = Vec::new();
    for id in 0..count {
        let body = body!(u64::from(id), TRAPPED, 1_u32);
        bytes.extend(message(id, REGION_READ, 0, 0, &body));
    }
    client.send(&bytes);
    for id in 0..count {
        let reply = client.receive();
        assert_eq!((reply.id, reply.body[16]), (id, id as u8));
    }
}

// --- descriptors

#[test]
fn descriptors_where_none_can_be_end_the_connection() {
    let harness = Harness::start(1);
    let file = memfd(PAGE);
    let fds = [file.as_fd(); 3];
    let irqs = |flags: u32, count: u32| body!(20_u32, flags, MSIX, 0_u32, count);
    for (command, body, fds) in [
        (RESET, vec![], &fds[..1]),
        (GET_INFO, vec![0; 16], &fds[..1]),
        (REGION_READ, vec![0; 16], &fds[..2]),
        (DMA_UNMAP, vec![0; 24], &fds[..1]),
        (DMA_MAP, body!(32_u32, 3_u32, 0_u64, 0_u64, PAGE), &fds[..2]),
        (SET_IRQS, irqs(0x24, 2), &fds[..1]),
        (SET_IRQS, irqs(0x24, 2), &fds[..3]),
        (SET_IRQS, irqs(0x21, 1), &fds[..1]),
        (SET_IRQS, vec![0; 3], &fds[..1]),
        (99, vec![], &fds[..1]),
    ] {
        ends_the_connection(&harness, &message(1, command, 0, 0, &body), fds);
    }
    let mut client = Client::connect(harness.path());
    client.send_with_fds(&version(1, CAPABILITIES), &fds[..1]);
    client.is_closed();
}

#[test]
fn more_descriptors_than_announced_end_the_connection() {
    let harness = Harness::start(1);
    let file = memfd(PAGE);
    for count in [17_u32, 18, 19, 20, 64] {
        let body = body!(20_u32, 0x24_u32, MSIX, 0_u32, count);
        let fds = vec![file.as_fd(); count as usize];
        ends_the_connection(&harness, &message(1, SET_IRQS, 0, 0, &body), &fds);
    }
}

#[test]
fn more_descriptors_in_parts_end_the_connection() {
    let harness = Harness::start(1);
    let file = memfd(PAGE);
    let mut client = harness.client();
    let bytes = message(
        1,
        SET_IRQS,
        0,
        0,
        &body!(20_u32, 0x24_u32, MSIX, 0_u32, 18_u32),
    );
    for byte in &bytes[..17] {
        client.send_with_fds(&[*byte], &[file.as_fd()]);
    }
    client.is_closed();
    harness.client().is_served();
}

#[test]
fn descriptors_in_parts_belong_to_one_message() {
    let harness = Harness::start(1);
    let files = [eventfd(), eventfd(), eventfd()];
    let mut client = harness.client();
    let bytes = message(
        9,
        SET_IRQS,
        0,
        0,
        &body!(20_u32, 0x24_u32, MSIX, 4_u32, 3_u32),
    );
    client.send_with_fds(&bytes[..1], &[files[0].as_fd()]);
    client.send_with_fds(&bytes[1..20], &[files[1].as_fd()]);
    client.send_with_fds(&bytes[20..], &[files[2].as_fd()]);
    assert_eq!(client.receive().flags, REPLY);
    assert_eq!(harness.socket().state().vectors.len(), 3);
}

#[test]
fn descriptors_belong_to_their_message_among_many_in_the_stream() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let reset = message(1, RESET, 0, 0, &[]);
    for page in 0..20_u64 {
        let file = memfd(PAGE);
        client.send(&reset);
        let map = body!(32_u32, 3_u32, 0_u64, page * PAGE, PAGE);
        client.send_with_fds(&message(2, DMA_MAP, 0, 0, &map), &[file.as_fd()]);
        client.send(&reset);
    }
    for _ in 0..60 {
        assert_eq!(client.receive().flags, REPLY);
    }
    let state = harness.socket().state();
    assert!(state.maps.values().all(|(_, fd)| fd.is_some()));
}

// --- bounds

#[test]
fn a_client_that_never_reads_is_disconnected() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    let read = message(1, REGION_READ, 0, 0, &body!(0_u64, TRAPPED, 1_u32 << 20));
    // More than the bound and what the socket holds.
    for _ in 0..64 {
        if std::io::Write::write_all(&mut client.stream, &read).is_err() {
            break;
        }
    }
    harness.socket().detached();
    harness.client().is_served();
}

#[test]
fn a_client_that_floods_does_not_starve_another_socket() {
    let harness = Harness::start(2);
    let mut flood = Client::negotiated(&harness.sockets[0].path);
    let mut other = Client::negotiated(&harness.sockets[1].path);
    let mut body = body!(0_u64, TRAPPED, 1_u32);
    body.push(1);
    let batch = message(1, REGION_WRITE, NO_REPLY, 0, &body).repeat(1000);
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) && started.elapsed() < PATIENCE {
                flood.send(&batch);
            }
        });
        for _ in 0..100 {
            other.is_served();
        }
        stop.store(true, Ordering::Release);
    });
}

// --- random

/// A message that is nearly right: a command's own body, with some bytes
/// replaced and some cut off or added.
fn nearly_right(rng: &mut SmallRng) -> Vec<u8> {
    let command = rng.random_range(0..20_u16);
    let mut body = match command {
        DMA_MAP => body!(32_u32, 3_u32, 0_u64, rng.random_range(0..64) * PAGE, PAGE),
        DMA_UNMAP => body!(24_u32, 0_u32, rng.random_range(0..64) * PAGE, 4 * PAGE),
        GET_INFO | GET_IRQ_INFO => body!(16_u32, 0_u32, 2_u32, 0_u32),
        GET_REGION_INFO => body!(80_u32, 0_u32, 2_u32, 0_u32, 0_u64, 0_u64),
        SET_IRQS => body!(20_u32, 0x21_u32, MSIX, 0_u32, 1_u32),
        REGION_READ => body!(0_u64, 0_u32, 8_u32),
        REGION_WRITE => body!(0_u64, 0_u32, 8_u32, 0_u64),
        WRITE_MULTI => body!(1_u64, 0_u64, 0_u32, 8_u32, 0_u64),
        _ => vec![0; rng.random_range(0..40)],
    };
    for _ in 0..rng.random_range(0..3) {
        if let Some(byte) = body.last().map(|_| rng.random_range(0..body.len())) {
            body[byte] = *[0, 1, 0x7f, 0x80, 0xff, rng.random()]
                .get(rng.random_range(0..6))
                .unwrap();
        }
    }
    if rng.random_ratio(1, 8) {
        body.resize(rng.random_range(0..64), 0xaa);
    }
    let flags = if rng.random_ratio(1, 4) { NO_REPLY } else { 0 };
    let mut bytes = message(rng.random(), command, flags, 0, &body);
    if rng.random_ratio(1, 50) {
        let byte = rng.random_range(0..16);
        bytes[byte] = rng.random();
    }
    bytes
}

fn random_client(harness: &Harness, rng: &mut SmallRng) {
    let file = memfd(PAGE);
    let mut client = harness.client();
    client.stream.set_nonblocking(true).unwrap();
    for _ in 0..rng.random_range(1..100) {
        let bytes = nearly_right(rng);
        let fds = vec![file.as_fd(); if rng.random_ratio(1, 30) { 1 } else { 0 }];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        }
        let iov = [std::io::IoSlice::new(&bytes)];
        let flags = rustix::net::SendFlags::NOSIGNAL;
        if rustix::net::sendmsg(&client.stream, &iov, &mut control, flags).is_err() {
            break;
        }
        let mut sink = [0; 4096];
        while std::io::Read::read(&mut client.stream, &mut sink).is_ok_and(|n| n > 0) {}
    }
}

#[test]
fn random_messages_leave_a_server_that_serves() {
    let seed = std::env::var("VRNIC_SEED").map_or_else(|_| rand_seed(), |s| s.parse().unwrap());
    println!("VRNIC_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let harness = Harness::start(1);
    for _ in 0..100 {
        random_client(&harness, &mut rng);
    }
    let mut client = harness.client();
    // The writes went somewhere in the region.
    assert_eq!(client.read(TRAPPED, 0x100, 4).len(), 4);
}

#[test]
fn random_bytes_leave_a_server_that_serves() {
    let seed = std::env::var("VRNIC_SEED").map_or_else(|_| rand_seed(), |s| s.parse().unwrap());
    println!("VRNIC_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let harness = Harness::start(1);
    for _ in 0..200 {
        let mut client = Client::connect(harness.path());
        let mut bytes = vec![0; rng.random_range(0..200)];
        rng.fill(&mut bytes[..]);
        let _ = std::io::Write::write_all(&mut client.stream, &bytes);
    }
    harness.client().is_served();
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_nanos() as u64
}
