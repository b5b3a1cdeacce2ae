//! `DMA_READ` and `DMA_WRITE` towards clients that answer rightly, wrongly,
//! late or never.

use std::sync::mpsc;
use std::thread;

use crate::common::command::*;
use crate::common::*;
use vrnic_vfio_user::limits::{DMA_WINDOW, MAX_DMA_ACCESS, MAX_DMA_ACCESSES};
use vrnic_vfio_user::{ClientHandle, DmaError, Errno};

const SMALL_CHUNKS: &str = r#"{"capabilities":{"max_data_xfer_size":1000}}"#;

fn attach(harness: &Harness, json: &str) -> (Client, ClientHandle) {
    let client = Client::with_capabilities(harness.path(), 1, json);
    (client, harness.socket().attached())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 253) as u8).collect()
}

/// Starts a read; its result arrives on the channel.
fn read(handle: &ClientHandle, iova: u64, length: usize) -> mpsc::Receiver<ReadResult> {
    let (sender, receiver) = mpsc::channel();
    handle.dma_read(iova, length, move |result| {
        let _ = sender.send(result);
    });
    receiver
}

type ReadResult = Result<Vec<u8>, DmaError>;

fn write(handle: &ClientHandle, iova: u64, data: Vec<u8>) -> mpsc::Receiver<Result<(), DmaError>> {
    let (sender, receiver) = mpsc::channel();
    handle.dma_write(iova, data, move |result| {
        let _ = sender.send(result);
    });
    receiver
}

#[track_caller]
fn result<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("no result")
}

/// Answers one request as the specification has it, from `memory`, whose first
/// byte is at `base`.
#[track_caller]
fn answer(client: &mut Client, base: u64, memory: &mut [u8]) -> Message {
    let request = client.receive();
    assert_eq!(request.flags, 0);
    let (iova, count) = (request.u64(0), request.u64(8) as usize);
    let at = (iova - base) as usize;
    let mut body = body!(iova, count as u64);
    match request.command {
        DMA_READ => body.extend_from_slice(&memory[at..at + count]),
        DMA_WRITE => {
            assert_eq!(request.body.len(), 16 + count);
            memory[at..at + count].copy_from_slice(&request.body[16..]);
            body.truncate(12);
        }
        other => panic!("command {other}"),
    }
    client.send(&message(request.id, request.command, REPLY, 0, &body));
    request
}

#[test]
fn a_read_is_cut_into_chunks() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let mut memory = pattern(10_500);
    let done = read(&handle, 0x1000, 10_500);
    for n in 0..11 {
        let request = answer(&mut client, 0x1000, &mut memory);
        assert_eq!(request.u64(0), 0x1000 + n * 1000);
        assert_eq!(request.u64(8), if n < 10 { 1000 } else { 500 });
    }
    assert_eq!(result(&done), Ok(memory));
}

#[test]
fn a_write_is_cut_into_chunks() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let mut memory = vec![0xee; 3000];
    let done = write(&handle, 0x1000 + 7, pattern(2500));
    for _ in 0..3 {
        answer(&mut client, 0x1000, &mut memory);
    }
    assert_eq!(result(&done), Ok(()));
    assert_eq!(memory[7..2507], pattern(2500));
    assert!(
        memory[..7]
            .iter()
            .chain(&memory[2507..])
            .all(|b| *b == 0xee)
    );
}

#[test]
fn a_client_that_answers_writes_with_the_header_alone() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, CAPABILITIES);
    let done = write(&handle, 0, vec![1, 2, 3]);
    let request = client.receive();
    client.send(&message(request.id, DMA_WRITE, REPLY, 0, &[]));
    assert_eq!(result(&done), Ok(()));
}

#[test]
fn the_largest_access_and_none() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, CAPABILITIES);
    assert_eq!(result(&read(&handle, u64::MAX, 0)), Ok(vec![]));
    assert_eq!(result(&write(&handle, 0, vec![])), Ok(()));
    let too_large = read(&handle, 0, MAX_DMA_ACCESS + 1);
    assert_eq!(result(&too_large), Err(DmaError::TooLarge));
    assert_eq!(result(&read(&handle, u64::MAX, 2)), Err(DmaError::TooLarge));
    let done = write(&handle, 0, pattern(MAX_DMA_ACCESS));
    let mut memory = vec![0; MAX_DMA_ACCESS];
    for _ in 0..8 {
        answer(&mut client, 0, &mut memory);
    }
    assert_eq!(result(&done), Ok(()));
    assert_eq!(memory, pattern(MAX_DMA_ACCESS));
}

#[test]
fn answers_come_in_any_order() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let data = pattern(DMA_WINDOW * 1000);
    let done = read(&handle, 0, data.len());
    let mut requests: Vec<_> = (0..DMA_WINDOW).map(|_| client.receive()).collect();
    requests.reverse();
    for request in requests {
        let at = request.u64(0) as usize;
        let mut body = request.body.clone();
        body.extend_from_slice(&data[at..at + 1000]);
        client.send(&message(request.id, DMA_READ, REPLY, 0, &body));
    }
    assert_eq!(result(&done), Ok(data));
}

#[test]
fn region_accesses_are_served_while_dma_is_outstanding() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let done = read(&handle, 0, 4);
    let request = client.receive();
    assert_eq!(request.command, DMA_READ);
    for _ in 0..10 {
        client.is_served();
    }
    let mut body = request.body.clone();
    body.extend_from_slice(&[1, 2, 3, 4]);
    client.send(&message(request.id, DMA_READ, REPLY, 0, &body));
    assert_eq!(result(&done), Ok(vec![1, 2, 3, 4]));
}

#[test]
fn no_more_than_the_window_is_outstanding() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let _done = read(&handle, 0, 100 * 1000);
    for _ in 0..DMA_WINDOW {
        assert_eq!(client.receive().command, DMA_READ);
    }
    // The next message is not another one.
    client.is_served();
}

#[test]
fn an_error_fails_the_access_and_no_other() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    for (errno, seen) in [
        (14, Errno::FAULT),
        (0, Errno::IO),
        (u32::MAX, Errno::IO),
        (5000, Errno::IO),
    ] {
        let bad = read(&handle, 0, 20 * 1000);
        let good = write(&handle, 0x100, vec![5; 10]);
        for _ in 0..DMA_WINDOW {
            let request = client.receive();
            client.send(&message(request.id, DMA_READ, REPLY | ERROR, errno, &[]));
        }
        assert_eq!(result(&bad), Err(DmaError::Refused(seen)));
        // What was sent of it before the first error was known.
        let mut request = client.receive();
        while request.command == DMA_READ {
            client.send(&message(request.id, DMA_READ, REPLY | ERROR, errno, &[]));
            request = client.receive();
        }
        client.send(&message(request.id, DMA_WRITE, REPLY, 0, &[]));
        assert_eq!(result(&good), Ok(()));
    }
}

#[test]
fn an_answer_that_does_not_fit_ends_the_connection() {
    let harness = Harness::start(1);
    let right = |request: &Message| {
        let mut body = request.body.clone();
        body.extend_from_slice(&[0; 8]);
        body
    };
    type Wrong = fn(&Message, Vec<u8>) -> Vec<u8>;
    let wrong: [Wrong; 8] = [
        |r, body| message(r.id.wrapping_add(1), DMA_READ, REPLY, 0, &body),
        |r, body| message(r.id, DMA_WRITE, REPLY, 0, &body),
        |r, body| message(r.id, DMA_READ, REPLY, 0, &body[..23]),
        |r, _| message(r.id, DMA_READ, REPLY, 0, &[]),
        |r, mut body| {
            body.push(0);
            message(r.id, DMA_READ, REPLY, 0, &body)
        },
        |r, mut body| {
            body[0] ^= 1;
            message(r.id, DMA_READ, REPLY, 0, &body)
        },
        |r, mut body| {
            body[8] ^= 1;
            message(r.id, DMA_READ, REPLY, 0, &body)
        },
        |r, mut body| {
            body.resize(1 << 20, 0);
            message(r.id, DMA_READ, REPLY, 0, &body)
        },
    ];
    for (n, wrong) in wrong.iter().enumerate() {
        let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
        let done = read(&handle, 0x1000, 8);
        let request = client.receive();
        client.send(&wrong(&request, right(&request)));
        assert_eq!(result(&done), Err(DmaError::Disconnected), "case {n}");
        client.is_closed();
        harness.socket().detached();
    }
}

#[test]
fn a_second_answer_ends_the_connection() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let done = read(&handle, 0, 4);
    let request = client.receive();
    let mut body = request.body.clone();
    body.extend_from_slice(&[1, 2, 3, 4]);
    let reply = message(request.id, DMA_READ, REPLY, 0, &body);
    client.send(&reply);
    assert_eq!(result(&done), Ok(vec![1, 2, 3, 4]));
    client.send(&reply);
    client.is_closed();
}

#[test]
fn a_client_that_leaves_fails_what_waits() {
    let harness = Harness::start(1);
    let (client, handle) = attach(&harness, SMALL_CHUNKS);
    let waiting: Vec<_> = (0..50).map(|_| read(&handle, 0, 5000)).collect();
    drop(client);
    for done in &waiting {
        assert_eq!(result(done), Err(DmaError::Disconnected));
    }
    harness.socket().detached();
    // The handle does not reach the next client.
    let mut next = harness.client();
    assert_eq!(result(&read(&handle, 0, 4)), Err(DmaError::Disconnected));
    next.is_served();
}

#[test]
fn a_client_that_never_answers_holds_up_only_so_much() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let waiting: Vec<_> = (0..MAX_DMA_ACCESSES).map(|_| read(&handle, 0, 1)).collect();
    assert_eq!(result(&read(&handle, 0, 1)), Err(DmaError::Busy));
    let timeout = std::time::Duration::from_millis(1);
    let timed_out = handle.dma_read_wait(0, &mut [0], timeout);
    assert_eq!(timed_out, Err(DmaError::Busy));
    // One completes: there is room for another.
    let mut memory = [9];
    answer(&mut client, 0, &mut memory);
    assert_eq!(result(&waiting[0]), Ok(vec![9]));
    let timed_out = handle.dma_read_wait(0, &mut [0], timeout);
    assert_eq!(timed_out, Err(DmaError::TimedOut));
    drop(client);
    assert_eq!(result(&waiting[1]), Err(DmaError::Disconnected));
}

#[test]
fn bytes_that_wait_are_bounded() {
    let harness = Harness::start(1);
    let (_client, handle) = attach(&harness, SMALL_CHUNKS);
    let waiting: Vec<_> = (0..4).map(|_| read(&handle, 0, MAX_DMA_ACCESS)).collect();
    assert_eq!(result(&read(&handle, 0, 1)), Err(DmaError::Busy));
    drop(waiting);
}

#[test]
fn threads_can_wait_for_the_memory() {
    let harness = Harness::start(1);
    let (mut client, handle) = attach(&harness, SMALL_CHUNKS);
    let threads: Vec<_> = (0..4_u64)
        .map(|n| {
            let handle = handle.clone();
            thread::spawn(move || {
                let at = n * 2000;
                let mut data = vec![0; 1500];
                handle
                    .dma_write_wait(at, vec![n as u8 + 1; 1500], PATIENCE)
                    .unwrap();
                handle.dma_read_wait(at, &mut data, PATIENCE).unwrap();
                assert_eq!(data, vec![n as u8 + 1; 1500]);
            })
        })
        .collect();
    let mut memory = vec![0; 8000];
    for _ in 0..4 * 2 * 2 {
        answer(&mut client, 0, &mut memory);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

// --- the layouts of QEMU's client

/// A client of minor version 0 is first asked for 2^32 bytes.
#[track_caller]
fn probed(harness: &Harness, handle: &ClientHandle, client: &mut Client) -> Message {
    let _ = harness;
    assert!(handle.is_attached());
    let probe = client.receive();
    assert_eq!((probe.command, probe.flags), (DMA_READ, 0));
    assert_eq!(probe.u64(8), 1 << 32);
    probe
}

#[test]
fn a_client_of_minor_0_with_the_layout_as_specified() {
    let harness = Harness::start(1);
    let mut client = Client::with_capabilities(harness.path(), 0, CAPABILITIES);
    let handle = harness.socket().attached();
    let first = write(&handle, 0x1000, vec![1, 2, 3]);
    let second = read(&handle, 0x1000, 3);
    let probe = probed(&harness, &handle, &mut client);
    client.is_served();
    client.send(&message(probe.id, DMA_READ, REPLY | ERROR, 7, &[]));
    let mut memory = vec![0; 3];
    answer(&mut client, 0x1000, &mut memory);
    answer(&mut client, 0x1000, &mut memory);
    assert_eq!(result(&first), Ok(()));
    assert_eq!(result(&second), Ok(vec![1, 2, 3]));
}

#[test]
fn a_client_of_minor_0_with_a_32_bit_count() {
    let harness = Harness::start(1);
    let mut client = Client::with_capabilities(harness.path(), 0, CAPABILITIES);
    let handle = harness.socket().attached();
    let first = write(&handle, 0x1000, vec![1, 2, 3]);
    let second = read(&handle, 0x1000, 3);
    let probe = probed(&harness, &handle, &mut client);
    let empty = body!(0x1000_u64, 0_u32, 0_u32);
    client.send(&message(probe.id, DMA_READ, REPLY, 0, &empty));

    let request = client.receive();
    assert_eq!(request.command, DMA_WRITE);
    assert_eq!(request.body.len(), 16 + 3);
    assert_eq!(request.body[..12], body!(0x1000_u64, 3_u32));
    assert_eq!(request.body[12..15], [1, 2, 3]);
    client.send(&message(request.id, DMA_WRITE, REPLY, 0, &[]));

    let request = client.receive();
    assert_eq!(request.body, body!(0x1000_u64, 3_u32, 0_u32));
    let mut body = body!(0x1000_u64, 3_u32);
    body.extend_from_slice(&[0, 0, 9, 0, 0, 0, 0]);
    client.send(&message(request.id, DMA_READ, REPLY, 0, &body));
    assert_eq!(result(&first), Ok(()));
    assert_eq!(result(&second), Ok(vec![0, 0, 9]));
}
