//! Clients that come, leave and die; deferred replies; several sockets.

use std::os::fd::AsFd;

use crate::common::command::*;
use crate::common::*;
use vrnic_vfio_user::{DmaError, Errno};

#[test]
fn a_client_that_dies_in_a_message_makes_room_for_the_next() {
    let harness = Harness::start(1);
    let file = memfd(PAGE);
    let map = message(1, DMA_MAP, 0, 0, &body!(32_u32, 3_u32, 0_u64, 0_u64, PAGE));
    for sent in 0..map.len() {
        let mut client = harness.client();
        harness.socket().attached();
        client.map(0x10000, PAGE);
        if sent > 0 {
            client.send_with_fds(&map[..sent], &[file.as_fd()]);
        }
        drop(client);
        harness.socket().detached();
        assert!(harness.socket().state().maps.is_empty());
    }
    // What the others mapped is forgotten.
    harness.client().map(0x10000, PAGE);
}

#[test]
fn a_client_that_never_negotiates_attaches_nothing() {
    let harness = Harness::start(1);
    drop(Client::connect(harness.path()));
    let _client = harness.client();
    harness.socket().attached();
}

#[test]
fn a_device_can_ask_who_connected_before_it_is_attached() {
    let harness = Harness::start(2);
    drop(Client::connect(harness.path()));
    let _client = harness.client();
    harness.socket().attached();
    let own = std::process::id() as i32;
    assert_eq!(harness.socket().state().peers, [own, own]);
    assert!(harness.sockets[1].state().peers.is_empty());
}

#[test]
fn a_second_client_waits_for_the_first_to_leave() {
    let harness = Harness::start(1);
    let mut first = harness.client();
    let handle = harness.socket().attached();
    let mut second = Client::connect(harness.path());
    second.send(&version(1, CAPABILITIES));
    first.is_served();
    assert!(handle.is_attached());
    drop(first);
    assert_eq!(second.receive().command, VERSION);
    second.is_served();
    harness.socket().detached();
    assert!(!handle.is_attached());
    assert!(harness.socket().attached().is_attached());
}

#[test]
fn two_sockets_in_one_loop_do_not_mix() {
    let harness = Harness::start(2);
    let mut clients: Vec<_> = harness
        .sockets
        .iter()
        .map(|socket| Client::negotiated(&socket.path))
        .collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let mut body = body!(0x20_u64, TRAPPED, 1_u32);
        body.push(0xd0 + n as u8);
        client.ok(REGION_WRITE, &body);
        client.map(n as u64 * PAGE, PAGE);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(TRAPPED, 0x20, 1), [0xd0 + n as u8]);
        let state = harness.sockets[n].state();
        assert_eq!(state.maps.keys().collect::<Vec<_>>(), [&(n as u64 * PAGE)]);
    }
    drop(clients.remove(0));
    harness.sockets[0].attached();
    harness.sockets[0].detached();
    clients[0].is_served();
}

#[test]
fn a_deferred_reply_does_not_hold_up_the_others() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    harness.socket().state().defer = true;
    let unmap = body!(24_u32, 0_u32, 0_u64, PAGE);
    client.send(&message(100, DMA_UNMAP, 0, 0, &unmap));
    client.send(&message(101, RESET, 0, 0, &[]));
    let (Event::Unmap(_, Some(first)), Event::Reset(Some(second))) =
        (harness.socket().event(), harness.socket().event())
    else {
        panic!("not deferred");
    };
    client.is_served();
    // Answered from another thread, in the other order.
    second.complete(Err(Errno::BUSY));
    let reply = client.receive();
    assert_eq!(
        (reply.id, reply.flags, reply.errno),
        (101, REPLY | ERROR, 16)
    );
    first.complete(Ok(()));
    let reply = client.receive();
    assert_eq!((reply.id, reply.flags), (100, REPLY));
    assert_eq!(reply.body, unmap);
}

#[test]
fn a_deferred_reply_that_is_dropped_is_an_error() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    harness.socket().state().defer = true;
    client.send(&message(7, RESET, 0, 0, &[]));
    drop(harness.socket().event());
    let reply = client.receive();
    assert_eq!(
        (reply.id, reply.errno),
        (7, Errno::IO.raw_os_error() as u32)
    );
}

#[test]
fn a_deferred_reply_to_a_client_that_left_reaches_nobody() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    harness.socket().state().defer = true;
    client.send(&message(0, RESET, 0, 0, &[]));
    let Event::Reset(Some(reply)) = harness.socket().event() else {
        panic!("not deferred");
    };
    drop(client);
    harness.socket().detached();
    let mut next = harness.client();
    reply.complete(Ok(()));
    next.is_served();
}

#[test]
fn what_outlives_the_server_is_harmless() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let handle = harness.socket().attached();
    harness.socket().state().defer = true;
    client.send(&message(0, RESET, 0, 0, &[]));
    let Event::Reset(Some(reply)) = harness.socket().event() else {
        panic!("not deferred");
    };
    drop(harness);
    reply.complete(Ok(()));
    let result = handle.dma_read_wait(0, &mut [0; 4], PATIENCE);
    assert_eq!(result, Err(DmaError::Disconnected));
    client.is_closed();
}
