//! No descriptor is left behind by any client. In a process of its own, which
//! counts them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "sockets/common.rs"]
mod common;

use std::os::fd::AsFd;

use common::command::*;
use common::*;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Gives the server descriptors in every way there is.
fn visit(harness: &Harness) {
    let file = memfd(PAGE);
    let socket = harness.socket();
    let map = |iova: u64| body!(32_u32, 3_u32, 0_u64, iova, PAGE);
    let irqs = |count: u32| body!(20_u32, 0x24_u32, MSIX, 0_u32, count);

    // Kept until the client leaves, replaced, refused.
    let mut client = harness.client();
    client.ok_with(DMA_MAP, &map(0), &[file.as_fd()]);
    client.call(DMA_MAP, &map(0), &[file.as_fd()]);
    client.call(DMA_MAP, &map(1), &[file.as_fd()]);
    client.ok_with(SET_IRQS, &irqs(16), &[file.as_fd(); 16]);
    client.ok_with(SET_IRQS, &irqs(16), &[file.as_fd(); 16]);
    for _ in 0..2 {
        let body = body!(80_u32, 0_u32, SPARSE, 0_u32, 0_u64, 0_u64);
        assert_eq!(client.ok(GET_REGION_INFO, &body).fds.len(), 1);
    }
    drop(client);
    socket.attached();
    socket.irqs();
    socket.irqs();
    socket.detached();

    // Descriptors that end the connection, or a message that never ends.
    let complete = message(1, SET_IRQS, 0, 0, &irqs(3));
    for (bytes, count) in [
        (&complete[..], 2),
        (&complete[..], 17),
        (&complete[..], 40),
        (&complete[..1], 16),
        (&complete[..20], 3),
        (&message(1, RESET, 0, 0, &[])[..], 1),
        (&message(1, RESET, 0, 0, &[])[..15], 1),
    ] {
        let mut client = harness.client();
        client.send_with_fds(bytes, &vec![file.as_fd(); count]);
        drop(client);
        socket.attached();
        socket.detached();
    }

    // Replies with descriptors that the client never takes.
    let mut client = harness.client();
    let body = body!(80_u32, 0_u32, SPARSE, 0_u32, 0_u64, 0_u64);
    client.send(&message(1, GET_REGION_INFO, 0, 0, &body).repeat(500));
    drop(client);
    socket.attached();
    socket.detached();
}

#[test]
fn no_client_leaves_a_descriptor_behind() {
    let harness = Harness::start(2);
    visit(&harness);
    let before = descriptors();
    for _ in 0..5 {
        visit(&harness);
    }
    assert_eq!(descriptors(), before);
    drop(harness);
}
