//! The table of errors in the datasheet (section 9), row by row.
//!
//! Each row is a test, named after it, that looks at all columns: what the responder says on the wire,
//! the completions of the requester `a` and of the responder `b`, the events and the states of both.
//! It runs where packets go directly and where they go as frames; the few causes that only a forged
//! packet can be run as frames. Rows of other services and objects are added as further modules.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod nic_bench;
mod nic_pair;

use nic_bench::*;
use nic_pair::*;
use vrnic_abi::admin::{AdminOpcode, CreateMr, QpType};
use vrnic_abi::cqe::CompletionStatus as Status;
use vrnic_abi::eqe::EventType as Event;
use vrnic_abi::object::{QpAttributes, QpState};
use vrnic_abi::wqe::WqeOpcode as Op;
use vrnic_firmware::pdu::{Acknowledge, Body, NakCode, Place, SendTail, Syndrome};
use vrnic_firmware::types::Psn;

/// What a row says; `..nothing()` stands for the columns with a dash.
#[derive(Clone, PartialEq, Debug)]
struct Columns {
    /// Negative acknowledgements of the responder.
    wire: Vec<Syndrome>,
    local: Vec<Status>,
    remote: Vec<Status>,
    /// Events at the requester and the responder.
    events: [Vec<Event>; 2],
    /// States of the requester and the responder.
    states: [QpState; 2],
}

/// Nothing is said and nothing fails.
fn nothing() -> Columns {
    Columns {
        wire: vec![],
        local: vec![],
        remote: vec![],
        events: [vec![], vec![]],
        states: [QpState::Rts, QpState::Rts],
    }
}

/// The requester fails alone, without a word to its peer.
fn alone(local: Status, state: QpState) -> Columns {
    Columns {
        local: vec![local],
        states: [state, QpState::Rts],
        ..nothing()
    }
}

/// The responder refuses: both fail.
fn refused(code: NakCode, local: Status) -> Columns {
    Columns {
        wire: vec![Syndrome::Nak(code)],
        local: vec![local],
        states: [QpState::Error, QpState::Error],
        ..nothing()
    }
}

fn found(pair: &mut Pair) -> Columns {
    let nak = |body: &Body| match body {
        Body::Acknowledge(ack) if !matches!(ack.syndrome, Syndrome::Ack(_)) => Some(ack.syndrome),
        _ => None,
    };
    let wire = pair.b.hw().sent.borrow_mut().take().unwrap();
    let [local, _] = completions(&mut pair.a);
    let [_, remote] = completions(&mut pair.b);
    let events = [events(&mut pair.a), events(&mut pair.b)];
    let states = [
        state(&mut pair.bench, &mut pair.a),
        state(&mut pair.bench, &mut pair.b),
    ];
    Columns {
        wire: wire.iter().filter_map(|pdu| nak(&pdu.body)).collect(),
        local,
        remote,
        events,
        states,
    }
}

#[track_caller]
fn row_with(
    service: QpType,
    ways: &[Way],
    change: fn(&mut QpAttributes),
    provoke: fn(&mut Pair),
    expected: &Columns,
) {
    for way in ways {
        let mut pair = Pair::with(service, *way, change);
        provoke(&mut pair);
        pair.run();
        assert_eq!(found(&mut pair), *expected, "{way:?}");
    }
}

#[track_caller]
fn row(service: QpType, provoke: fn(&mut Pair), expected: &Columns) {
    row_with(service, &WAYS, |_| {}, provoke, expected);
}

/// An opcode that does not exist.
fn malformed(pair: &mut Pair) {
    let mut head = control(Op::Send, 0, 0);
    head.opcode = 0xff;
    let hw = pair.a.driver.hw.clone();
    pair.a.qp.post(&hw, head, &[]);
}

fn wrong_local_key(pair: &mut Pair) {
    let list = [data(pair.a.memory, 64, 0x1234)];
    pair.send(&list);
}

fn beyond_the_local_region(pair: &mut Pair) {
    let list = [pair.a.segment(BUFFER - 10, 11)];
    pair.send(&list);
}

/// DMA does not reach the data of a SEND.
fn unreachable(pair: &mut Pair) {
    pair.receive(64);
    *pair.a.hw().ram.hole.borrow_mut() = Some(pair.a.memory..pair.a.memory + 64);
    let list = [pair.a.segment(0, 64)];
    pair.send(&list);
}

fn too_long(pair: &mut Pair) {
    let list = [pair.a.segment(0, 0x7fff_ffff); 2];
    pair.send(&list);
}

/// The receive request names `length` bytes with `key`.
fn receive_with(pair: &mut Pair, length: u32, key: u32) {
    let list = [data(pair.b.memory, length, key)];
    pair.b.qp.receive(&pair.b.driver.hw, &list);
}

/// DMA does not reach `b`'s buffers.
fn cut_off(pair: &Pair) {
    *pair.b.hw().ram.hole.borrow_mut() = Some(pair.b.memory..pair.b.memory + 4096);
}

/// DMA does not reach `b`'s receive queue.
fn cut_off_receives(pair: &Pair) {
    let page = pair.b.qp.receive_page;
    *pair.b.hw().ram.hole.borrow_mut() = Some(page..page + 4096);
}

fn send_bytes(pair: &mut Pair, length: u32) {
    let list = [pair.a.segment(0, length)];
    pair.send(&list);
}

fn write_bytes(pair: &mut Pair, opcode: Op, offset: u64, rkey: u32) {
    let list = [pair.a.segment(0, 64)];
    pair.remote(opcode, offset, rkey, &list);
}

/// A key of `b`'s that allows nothing to the peer.
fn local_key(pair: &mut Pair) -> u32 {
    let node = &mut pair.b;
    let body = CreateMr {
        pd: node.pd,
        start: node.memory,
        length: BUFFER,
        buffer: vrnic_abi::admin::Buffer {
            address: node.memory,
            pages: (BUFFER / 4096) as u32,
            page_shift: 12,
            ..Default::default()
        },
        ..CreateMr::default()
    };
    node.driver
        .ok(&mut pair.bench, AdminOpcode::CreateMr, &body) as u32
}

fn deafen(pair: &mut Pair) {
    let qpn = pair.b.qp.number;
    pair.b
        .driver
        .set_state(&mut pair.bench, qpn, QpState::Reset);
}

const fn acknowledge(syndrome: Syndrome) -> Acknowledge {
    Acknowledge {
        syndrome,
        msn: Psn::new(0),
    }
}

mod reliable_connections {
    use super::*;
    const RC: QpType = QpType::Rc;

    #[test]
    fn malformed_work_request() {
        let expected = alone(Status::LocalQpOperation, QpState::Error);
        row(RC, malformed, &expected);
    }

    #[test]
    fn local_key_bounds_or_permission_of_a_send_request() {
        let expected = alone(Status::LocalProtection, QpState::Error);
        row(RC, wrong_local_key, &expected);
        row(RC, beyond_the_local_region, &expected);
        let read_into_memory_that_is_not_writable = |pair: &mut Pair| {
            std::mem::swap(&mut pair.a, &mut pair.b);
            let key = local_key(pair);
            std::mem::swap(&mut pair.a, &mut pair.b);
            let (rkey, list) = (pair.b.key, [data(pair.a.memory, 64, key)]);
            pair.remote(Op::Read, 0, rkey, &list);
        };
        row(RC, read_into_memory_that_is_not_writable, &expected);
    }

    #[test]
    fn dma_of_a_send_request_fails() {
        let expected = alone(Status::LocalProtection, QpState::Error);
        row(RC, unreachable, &expected);
        let result_of_a_read = |pair: &mut Pair| {
            *pair.a.hw().ram.hole.borrow_mut() = Some(pair.a.memory..pair.a.memory + 64);
            let key = pair.b.key;
            write_bytes(pair, Op::Read, 0, key);
        };
        row(RC, result_of_a_read, &expected);
    }

    #[test]
    fn message_longer_than_a_message_may_be() {
        row(RC, too_long, &alone(Status::LocalLength, QpState::Error));
    }

    #[test]
    fn atomic_result_of_less_than_8_bytes() {
        let short = |pair: &mut Pair| {
            let (key, list) = (pair.b.key, [pair.a.segment(0, 7)]);
            pair.remote(Op::FetchAdd, 0, key, &list);
        };
        row(RC, short, &alone(Status::LocalLength, QpState::Error));
    }

    #[test]
    fn read_or_atomic_without_initiator_depth() {
        row_with(
            RC,
            &WAYS,
            |given| given.initiator_depth = 0,
            |pair| write_bytes(pair, Op::Read, 0, pair.b.key),
            &alone(Status::LocalQpOperation, QpState::Error),
        );
    }

    #[test]
    fn no_answer() {
        let expected = Columns {
            states: [QpState::Error, QpState::Reset],
            ..alone(Status::RetryExceeded, QpState::Error)
        };
        let silence = |pair: &mut Pair| {
            deafen(pair);
            pair.send(&[]);
        };
        row(RC, silence, &expected);
    }

    #[test]
    fn sequence_error_nak_more_often_than_the_retry_count() {
        let nak = Body::Acknowledge(acknowledge(Syndrome::Nak(NakCode::PsnSequence)));
        let expected = Columns {
            states: [QpState::Error, QpState::Reset],
            ..alone(Status::RetryExceeded, QpState::Error)
        };
        let mut pair = Pair::new(RC, Way::Wire);
        deafen(&mut pair);
        pair.send(&[]);
        for _ in 0..2 {
            pair.bench.run();
            let frame = pair.forge(true, FIRST, nak, &[]);
            pair.inject(&frame);
        }
        assert_eq!(found(&mut pair), expected);
    }

    #[test]
    fn rnr_nak_more_often_than_the_rnr_retry_count() {
        let expected = Columns {
            wire: vec![Syndrome::RnrNak(1); 2],
            ..alone(Status::RnrRetryExceeded, QpState::Error)
        };
        row(RC, |pair| pair.send(&[]), &expected);
    }

    /// What the peer must reject if no receive was taken.
    fn invalid() -> Columns {
        Columns {
            events: [vec![], vec![Event::QpRequestError]],
            ..refused(NakCode::InvalidRequest, Status::RemoteInvalidRequest)
        }
    }

    #[test]
    fn operation_that_the_queue_pair_does_not_allow() {
        for opcode in [Op::Write, Op::Read, Op::FetchAdd] {
            for way in WAYS {
                let mut pair = Pair::with(RC, way, |given| given.access = 0);
                let key = pair.b.key;
                write_bytes(&mut pair, opcode, 0, key);
                pair.run();
                assert_eq!(found(&mut pair), invalid(), "{opcode:?} {way:?}");
            }
        }
    }

    #[test]
    fn more_reads_and_atomics_than_responder_resources() {
        let none = |given: &mut QpAttributes| given.responder_resources = 0;
        let read = |pair: &mut Pair| write_bytes(pair, Op::Read, 0, pair.b.key);
        row_with(RC, &WAYS, none, read, &invalid());
    }

    #[test]
    fn misaligned_atomic() {
        let misaligned = |pair: &mut Pair| write_bytes(pair, Op::FetchAdd, 4, pair.b.key);
        row(RC, misaligned, &invalid());
    }

    #[test]
    fn request_out_of_turn_or_of_a_wrong_length() {
        let middle = Body::Send {
            place: Place::Middle,
            tail: SendTail::None,
        };
        let first = Body::Send {
            place: Place::First,
            tail: SendTail::None,
        };
        for (body, length) in [(middle, 1024), (first, 1023)] {
            let mut pair = Pair::new(RC, Way::Wire);
            let frame = pair.forge(false, FIRST, body, &vec![1; length]);
            pair.inject(&frame);
            let expected = Columns {
                local: vec![],
                states: [QpState::Rts, QpState::Error],
                ..invalid()
            };
            assert_eq!(found(&mut pair), expected, "{body:?}");
        }
        // The receive that the message has taken tells its owner.
        let mut pair = Pair::new(RC, Way::Wire);
        pair.receive(4096);
        for psn in [FIRST, FIRST + 1] {
            let frame = pair.forge(false, psn, first, &[1; 1024]);
            pair.inject(&frame);
        }
        let expected = Columns {
            wire: vec![Syndrome::Nak(NakCode::InvalidRequest)],
            remote: vec![Status::RemoteInvalidRequest],
            states: [QpState::Rts, QpState::Error],
            ..nothing()
        };
        assert_eq!(found(&mut pair), expected);
    }

    /// A remote access error if no receive was taken.
    fn no_access() -> Columns {
        Columns {
            events: [vec![], vec![Event::QpAccessError]],
            ..refused(NakCode::RemoteAccess, Status::RemoteAccess)
        }
    }

    #[test]
    fn remote_key_bounds_or_permission() {
        for opcode in [Op::Write, Op::Read, Op::FetchAdd] {
            for way in WAYS {
                for (offset, key) in [(0, Some(0x1234)), (0, None), (BUFFER, Some(0))] {
                    let mut pair = Pair::new(RC, way);
                    let key = match key {
                        Some(0) => pair.b.key,
                        Some(key) => key,
                        None => local_key(&mut pair),
                    };
                    write_bytes(&mut pair, opcode, offset, key);
                    pair.run();
                    assert_eq!(found(&mut pair), no_access(), "{opcode:?} {way:?}");
                }
            }
        }
        let with_a_receive = |pair: &mut Pair| {
            pair.receive(0);
            write_bytes(pair, Op::WriteImmediate, 0, 0x1234);
        };
        let expected = Columns {
            remote: vec![Status::LocalAccess],
            ..refused(NakCode::RemoteAccess, Status::RemoteAccess)
        };
        row(RC, with_a_receive, &expected);
    }

    #[test]
    fn receive_buffer_too_short() {
        let expected = Columns {
            remote: vec![Status::LocalLength],
            ..refused(NakCode::InvalidRequest, Status::RemoteInvalidRequest)
        };
        let short = |pair: &mut Pair| {
            pair.receive(64);
            send_bytes(pair, 65);
        };
        row(RC, short, &expected);
    }

    /// The responder's own fault, told by its receive.
    fn operational(remote: Status) -> Columns {
        Columns {
            remote: vec![remote],
            ..refused(NakCode::RemoteOperational, Status::RemoteOperation)
        }
    }

    #[test]
    fn receive_buffer_not_accessible() {
        let wrong_key = |pair: &mut Pair| {
            receive_with(pair, 64, 0x1234);
            send_bytes(pair, 1);
        };
        row(RC, wrong_key, &operational(Status::LocalProtection));
        let unreachable = |pair: &mut Pair| {
            pair.receive(64);
            cut_off(pair);
            send_bytes(pair, 1);
        };
        row(RC, unreachable, &operational(Status::LocalProtection));
    }

    #[test]
    fn receive_request_that_cannot_be_read() {
        let unreadable = |pair: &mut Pair| {
            pair.receive(64);
            cut_off_receives(pair);
            send_bytes(pair, 1);
        };
        row(RC, unreadable, &operational(Status::LocalQpOperation));
    }

    #[test]
    fn dma_to_or_from_memory_of_the_remote_key_fails() {
        let expected = Columns {
            events: [vec![], vec![Event::QpFatal]],
            ..refused(NakCode::RemoteOperational, Status::RemoteOperation)
        };
        for opcode in [Op::Write, Op::Read, Op::FetchAdd] {
            for way in WAYS {
                let mut pair = Pair::new(RC, way);
                cut_off(&pair);
                let key = pair.b.key;
                write_bytes(&mut pair, opcode, 0, key);
                pair.run();
                assert_eq!(found(&mut pair), expected, "{opcode:?} {way:?}");
            }
        }
        let with_a_receive = |pair: &mut Pair| {
            pair.receive(0);
            cut_off(pair);
            write_bytes(pair, Op::WriteImmediate, 0, pair.b.key);
        };
        row(RC, with_a_receive, &operational(Status::LocalProtection));
    }

    #[test]
    fn response_that_the_protocol_does_not_allow() {
        let response = Body::ReadResponse {
            place: Place::Only,
            acknowledge: Some(acknowledge(Syndrome::Ack(31))),
        };
        let reserved = Body::Acknowledge(acknowledge(Syndrome::Nak(NakCode::InvalidRdRequest)));
        for (body, length) in [(response, 63), (response, 65), (reserved, 0)] {
            let mut pair = Pair::new(RC, Way::Wire);
            deafen(&mut pair);
            let key = pair.b.key;
            write_bytes(&mut pair, Op::Read, 0, key);
            pair.bench.run();
            let frame = pair.forge(true, FIRST, body, &vec![1; length]);
            pair.inject(&frame);
            let expected = Columns {
                states: [QpState::Error, QpState::Reset],
                ..alone(Status::BadResponse, QpState::Error)
            };
            assert_eq!(found(&mut pair), expected, "{body:?}");
        }
    }
}

mod unreliable_connections {
    use super::*;
    const UC: QpType = QpType::Uc;

    #[test]
    fn malformed_work_request() {
        row(
            UC,
            malformed,
            &alone(Status::LocalQpOperation, QpState::Sqe),
        );
    }

    #[test]
    fn operation_that_the_service_does_not_have() {
        let expected = alone(Status::LocalQpOperation, QpState::Sqe);
        row(
            UC,
            |pair| write_bytes(pair, Op::Read, 0, pair.b.key),
            &expected,
        );
        row(
            UC,
            |pair| write_bytes(pair, Op::FetchAdd, 0, pair.b.key),
            &expected,
        );
    }

    #[test]
    fn local_key_bounds_or_permission_of_a_send_request() {
        let expected = alone(Status::LocalProtection, QpState::Sqe);
        row(UC, wrong_local_key, &expected);
        row(UC, beyond_the_local_region, &expected);
    }

    #[test]
    fn dma_of_a_send_request_fails() {
        let expected = alone(Status::LocalProtection, QpState::Sqe);
        row(UC, unreachable, &expected);
        // Of several: those before it are carried out, those behind it flushed.
        let expected = Columns {
            local: vec![Status::Success, Status::LocalProtection, Status::Flushed],
            remote: vec![Status::Success],
            ..expected
        };
        let the_second = |pair: &mut Pair| {
            pair.receive(64);
            send_bytes(pair, 0);
            unreachable(pair);
            let list = [pair.a.segment(0, 64)];
            pair.send(&list);
        };
        row(UC, the_second, &expected);
    }

    #[test]
    fn message_longer_than_a_message_may_be() {
        row(UC, too_long, &alone(Status::LocalLength, QpState::Sqe));
    }

    /// The requester does not learn of what becomes of its message.
    fn dropped() -> Columns {
        Columns {
            local: vec![Status::Success],
            ..nothing()
        }
    }

    #[test]
    fn no_receive_request() {
        row(UC, |pair| pair.send(&[]), &dropped());
    }

    #[test]
    fn receive_buffer_too_short() {
        let short = |pair: &mut Pair| {
            pair.receive(64);
            send_bytes(pair, 65);
        };
        row(UC, short, &dropped());
    }

    #[test]
    fn remote_key_bounds_or_permission() {
        let wrong_key = |pair: &mut Pair| write_bytes(pair, Op::Write, 0, 0x1234);
        row(UC, wrong_key, &dropped());
        let none = |given: &mut QpAttributes| given.access = 0;
        let write = |pair: &mut Pair| write_bytes(pair, Op::Write, 0, pair.b.key);
        row_with(UC, &WAYS, none, write, &dropped());
    }

    /// The responder's own fault, which its peer does not learn of.
    fn operational(remote: Vec<Status>, events: Vec<Event>) -> Columns {
        Columns {
            remote,
            events: [vec![], events],
            states: [QpState::Rts, QpState::Error],
            ..dropped()
        }
    }

    #[test]
    fn receive_buffer_not_accessible() {
        let wrong_key = |pair: &mut Pair| {
            receive_with(pair, 64, 0x1234);
            send_bytes(pair, 1);
        };
        let expected = operational(vec![Status::LocalProtection], vec![]);
        row(UC, wrong_key, &expected);
    }

    #[test]
    fn receive_request_that_cannot_be_read() {
        let unreadable = |pair: &mut Pair| {
            pair.receive(64);
            cut_off_receives(pair);
            send_bytes(pair, 1);
        };
        let expected = operational(vec![Status::LocalQpOperation], vec![]);
        row(UC, unreadable, &expected);
    }

    #[test]
    fn dma_to_memory_of_the_remote_key_fails() {
        let write = |pair: &mut Pair| {
            cut_off(pair);
            write_bytes(pair, Op::Write, 0, pair.b.key);
        };
        row(UC, write, &operational(vec![], vec![Event::QpFatal]));
    }
}

mod datagrams {
    use super::*;
    const UD: QpType = QpType::Ud;

    #[test]
    fn malformed_work_request() {
        row(
            UD,
            malformed,
            &alone(Status::LocalQpOperation, QpState::Sqe),
        );
    }

    #[test]
    fn operation_that_the_service_does_not_have() {
        row(
            UD,
            |pair| write_bytes(pair, Op::Write, 0, pair.b.key),
            &alone(Status::LocalQpOperation, QpState::Sqe),
        );
    }

    #[test]
    fn way_that_leads_nowhere() {
        let no_such_source = |pair: &mut Pair| {
            let mut destination = pair.destination();
            destination.vector.sgid_index = 9;
            let head = control(Op::Send, 0, 0);
            let hw = pair.a.driver.hw.clone();
            let segments = bytemuck::bytes_of(&destination);
            pair.a.qp.post(&hw, head, &[segments]);
        };
        let expected = alone(Status::LocalQpOperation, QpState::Sqe);
        row(UD, no_such_source, &expected);
    }

    #[test]
    fn local_key_bounds_or_permission_of_a_send_request() {
        let expected = alone(Status::LocalProtection, QpState::Sqe);
        row(UD, wrong_local_key, &expected);
        row(UD, beyond_the_local_region, &expected);
    }

    #[test]
    fn dma_of_a_send_request_fails() {
        let reachable_receive = |pair: &mut Pair| {
            pair.receive(200);
            unreachable(pair);
        };
        let expected = alone(Status::LocalProtection, QpState::Sqe);
        row(UD, reachable_receive, &expected);
    }

    #[test]
    fn datagram_longer_than_the_mtu() {
        let long = |pair: &mut Pair| send_bytes(pair, 4097);
        row(UD, long, &alone(Status::LocalLength, QpState::Sqe));
    }

    fn dropped() -> Columns {
        Columns {
            local: vec![Status::Success],
            ..nothing()
        }
    }

    #[test]
    fn no_receive_request() {
        row(UD, |pair| pair.send(&[]), &dropped());
    }

    #[test]
    fn receive_buffer_too_short() {
        let short = |pair: &mut Pair| {
            pair.receive(64);
            send_bytes(pair, 65);
        };
        row(UD, short, &dropped());
    }

    #[test]
    fn another_queue_key() {
        let wrong_key = |pair: &mut Pair| {
            pair.receive(64);
            let mut destination = pair.destination();
            destination.qkey += 1;
            let head = control(Op::Send, 0, 0);
            let hw = pair.a.driver.hw.clone();
            let segments = bytemuck::bytes_of(&destination);
            pair.a.qp.post(&hw, head, &[segments]);
        };
        row(UD, wrong_key, &dropped());
    }

    #[test]
    fn receive_buffer_not_accessible() {
        let expected = |remote| Columns {
            remote: vec![remote],
            states: [QpState::Rts, QpState::Error],
            ..dropped()
        };
        let wrong_key = |pair: &mut Pair| {
            receive_with(pair, 200, 0x1234);
            send_bytes(pair, 1);
        };
        row(UD, wrong_key, &expected(Status::LocalProtection));
        let unreadable = |pair: &mut Pair| {
            pair.receive(200);
            cut_off_receives(pair);
            send_bytes(pair, 1);
        };
        row(UD, unreadable, &expected(Status::LocalQpOperation));
    }
}

mod all_services {
    use super::*;

    #[test]
    fn send_doorbell_beyond_the_rings_size() {
        for service in [QpType::Rc, QpType::Uc, QpType::Ud] {
            let overrun = |pair: &mut Pair| {
                pair.a.qp.posted = 65;
                pair.a.qp.ring(&pair.a.driver.hw);
            };
            let expected = Columns {
                events: [vec![Event::QpFatal], vec![]],
                states: [QpState::Error, QpState::Rts],
                ..nothing()
            };
            for way in WAYS {
                let mut pair = Pair::new(service, way);
                overrun(&mut pair);
                pair.run();
                let mut columns = found(&mut pair);
                // What the ring holds cannot be told.
                columns.local.clear();
                assert_eq!(columns, expected, "{service:?}");
            }
        }
    }

    #[test]
    fn completion_queue_overflow_or_not_writable() {
        for service in [QpType::Rc, QpType::Uc, QpType::Ud] {
            for way in WAYS {
                let mut pair = Pair::new(service, way);
                let cq = pair.a.cq.base;
                *pair.a.hw().ram.hole.borrow_mut() = Some(cq..cq + 64);
                let head = control(Op::Nop, 0, 0);
                let hw = pair.a.driver.hw.clone();
                pair.a.qp.post(&hw, head, &[]);
                pair.run();
                *hw.ram.hole.borrow_mut() = None;
                let expected = Columns {
                    events: [vec![Event::CqError], vec![]],
                    states: [QpState::Error, QpState::Rts],
                    ..nothing()
                };
                assert_eq!(found(&mut pair), expected, "{service:?}");
            }
        }
    }

    #[test]
    fn packets_that_are_dropped() {
        let body = Body::Send {
            place: Place::Only,
            tail: SendTail::None,
        };
        for service in [QpType::Rc, QpType::Uc, QpType::Ud] {
            let changes: [fn(&mut Vec<u8>); 3] = [
                |frame| frame.truncate(50),
                |frame| frame[60] ^= 1,
                |frame| frame.swap(26, 28),
            ];
            for change in changes {
                let mut pair = Pair::new(service, Way::Wire);
                pair.receive(200);
                let mut frame = pair.forge(false, FIRST, body, &[1; 16]);
                change(&mut frame);
                pair.inject(&frame);
                assert_eq!(found(&mut pair), nothing(), "{service:?}");
            }
        }
    }
}
