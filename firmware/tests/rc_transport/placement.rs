//! Atomic writes and flushes (IBTA volume 1, annex A19).

use crate::bench::*;
use crate::rules::*;

const GLOBAL: Placement = Placement {
    global: true,
    persistent: false,
};

fn atomic_write(offset: u64, value: [u8; 8]) -> Body {
    Body::AtomicWrite {
        address: BASE + offset,
        rkey: KEY,
        value,
    }
}

fn flush(target: RemoteRange, extent: FlushExtent, placement: Placement) -> Body {
    Body::Flush {
        target,
        extent,
        placement,
    }
}

#[test]
fn both_are_complete_with_an_empty_read_response() {
    let mut solo = Solo::new();
    let write = SendOperation::AtomicWrite {
        address: BASE + 16,
        rkey: KEY,
        value: *b"01234567",
    };
    let flushed = SendOperation::Flush {
        target: range(0, 100),
        extent: FlushExtent::Range,
        placement: GLOBAL,
    };
    for (cookie, operation) in [(1, write), (2, flushed)] {
        let mut work = work(cookie, operation, 0, 0);
        work.sges.clear();
        solo.node.sends.push_back(work);
    }
    solo.qp.post_notify();
    let pdus = solo.pdus();
    assert_eq!(pdus[0].body, atomic_write(16, *b"01234567"));
    assert_eq!(
        pdus[1].body,
        flush(range(0, 100), FlushExtent::Range, GLOBAL)
    );
    // An acknowledgement of the second says that the response to the first is lost.
    solo.ack(1);
    assert_eq!(solo.node.counter(Counter::ImpliedNakSeqErr), 1);
    assert_eq!(solo.sent_psns(), [0, 1]);
    solo.response(0, read_response(Place::Only), &[]);
    solo.response(1, read_response(Place::Only), &[]);
    assert_sends(&solo, &[Outcome::Success; 2]);
}

#[test]
fn a_response_with_data_is_a_bad_one() {
    let mut solo = Solo::new();
    let mut work = work(
        1,
        SendOperation::AtomicWrite {
            address: BASE,
            rkey: KEY,
            value: [1; 8],
        },
        0,
        0,
    );
    work.sges.clear();
    solo.node.sends.push_back(work);
    solo.qp.post_notify();
    solo.run();
    solo.response(0, read_response(Place::Only), b"abcd");
    assert_sends(&solo, &[Outcome::BadResponse]);
    assert_eq!(solo.node.bytes(0, 8), [PATTERN; 8]);
}

#[test]
fn an_atomic_write_is_carried_out_once() {
    let mut solo = Solo::new();
    solo.request(0, atomic_write(8, *b"01234567"), &[]);
    assert_eq!(solo.node.bytes(7, 10), b"\xee01234567\xee");
    let answer = solo.pdus();
    assert_eq!((answer.len(), answer[0].length), (1, 0));
    // The guest has written something else; the duplicate leaves that alone.
    solo.node.memory[8..16].copy_from_slice(b"newvalue");
    solo.request(0, atomic_write(8, *b"01234567"), &[]);
    assert_eq!(solo.node.bytes(8, 8), b"newvalue");
    assert_eq!(solo.pdus(), answer);
    assert_eq!(solo.node.counter(Counter::RxAtomicWriteRequests), 1);
    assert_eq!(solo.node.counter(Counter::DuplicateRequest), 1);
}

#[test]
fn a_flush_waits_for_what_was_placed() {
    let mut solo = Solo::new();
    let bodies = [
        flush(range(0, 64 << 10), FlushExtent::Range, GLOBAL),
        flush(range(0, 0), FlushExtent::Region, GLOBAL),
    ];
    for (n, body) in bodies.into_iter().enumerate() {
        solo.request(n as i32, body, &[]);
        assert_eq!(solo.node.fences, n as u32 + 1);
        assert_eq!(solo.pdus().len(), 1);
    }
    assert_eq!(solo.node.counter(Counter::RxFlushRequests), 2);
}

#[test]
fn what_is_not_allowed_is_refused() {
    let wrong = RemoteRange {
        rkey: 0x999,
        ..range(0, 1)
    };
    let access = NakCode::RemoteAccess;
    let cases = [
        (atomic_write(4, [1; 8]), NakCode::InvalidRequest),
        (atomic_write(64 << 10, [1; 8]), access),
        (flush(wrong, FlushExtent::Range, GLOBAL), access),
        (flush(wrong, FlushExtent::Region, GLOBAL), access),
        (
            flush(range(1, 64 << 10), FlushExtent::Range, GLOBAL),
            access,
        ),
    ];
    for (body, code) in cases {
        let mut solo = Solo::new();
        solo.request(0, body, &[]);
        assert_eq!(solo.answers(), [(0, nak(code))], "{body:?}");
        assert!(solo.node.memory.iter().all(|byte| *byte == PATTERN));
        assert_eq!(solo.node.fences, 0);
        assert_broken(&mut solo);
    }
    for body in [
        atomic_write(0, [1; 8]),
        flush(range(0, 1), FlushExtent::Range, GLOBAL),
    ] {
        let mut solo = Solo::rts(Setup {
            access: Access::REMOTE_READ | Access::FLUSH_PERSISTENT,
            ..Setup::default()
        });
        solo.request(0, body, &[]);
        assert_eq!(solo.answers(), [(0, nak(NakCode::InvalidRequest))]);
    }
}

/// They are bounded by what the queue pair has agreed to answer at a time.
#[test]
fn they_take_responder_resources() {
    let mut solo = Solo::new();
    for n in 0..5 {
        solo.request(n, atomic_write(0, [n as u8; 8]), &[]);
    }
    assert_eq!(solo.node.bytes(0, 8), [3; 8]);
    assert_eq!(solo.qp.state(), State::Error);
}
