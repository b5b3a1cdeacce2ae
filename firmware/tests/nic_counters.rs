//! Every counter: what makes it move, and that nothing else does.
//!
//! Each row provokes one thing between two functions and says by how much which counters of either
//! grow. All others stand still. A counter that no row moves fails the test, unless it is in the list
//! of those that are tested elsewhere. Rows that need no forged packet run on the direct path and on
//! the wire, where only the counters of the port differ.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod nic_bench;
mod nic_pair;

use std::collections::BTreeSet;

use nic_bench::*;
use nic_pair::*;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Buffer, CreateMr, QpType};
use vrnic_abi::counter::Counter;
use vrnic_abi::doorbell;
use vrnic_abi::object::{QpAttributes, QpState};
use vrnic_abi::wqe::{
    DatagramSegment, FlushPlacement, FlushSegment, RemoteSegment, WqeFlags, WqeOpcode,
};
use vrnic_firmware::pdu::{Acknowledge, Body, NakCode, Place, SendTail, Service, Syndrome};
use vrnic_firmware::types::Psn;

use Counter as C;

/// Counters of the port, which the direct path does not move.
const PORT: [Counter; 4] = [
    C::PortXmitData,
    C::PortRcvData,
    C::PortXmitPackets,
    C::PortRcvPackets,
];

/// Counters that other tests look at.
const ELSEWHERE: &[Counter] = &[
    // The test `strays`.
    C::RxNotForUs,
    C::RxNotRoce,
    // Congestion.
    C::NpCnpSent,
    C::RpCnpHandled,
    C::RpCnpIgnored,
    C::NpEcnMarkedRocePackets,
    // Multicast groups.
    C::RxNoMulticastMember,
    C::MulticastRcvPackets,
    C::MulticastXmitPackets,
    // Raw frames, and the link.
    C::RxFrames,
    C::RxFrameNoFilter,
    C::RxFrameNoReceive,
    C::RxFrameTooLong,
    C::TxFrames,
    C::PortXmitWait,
    C::PortXmitDiscards,
    // The operator's rules.
    C::TxSpoofedMac,
    C::TxSpoofedVlan,
    C::TxSpoofedGid,
    C::RxNotAllowed,
    C::RxSpoofedSource,
    C::PolicyRefusals,
];

/// Something that moves counters of `a` and of `b`.
struct Row {
    name: &'static str,
    service: QpType,
    /// Attributes of the queue pairs that are not the usual ones.
    change: fn(&mut QpAttributes),
    /// Also on the direct path, where nothing can be forged.
    direct: bool,
    provoke: fn(&mut Pair),
    a: &'static [(Counter, u64)],
    b: &'static [(Counter, u64)],
}

const ROW: Row = Row {
    name: "",
    service: QpType::Rc,
    change: |_| {},
    direct: true,
    provoke: |_| {},
    a: &[],
    b: &[],
};

const SEND: Body = Body::Send {
    place: Place::Only,
    tail: SendTail::None,
};

const fn acknowledge(syndrome: Syndrome) -> Acknowledge {
    Acknowledge {
        syndrome,
        msn: Psn::new(0),
    }
}

/// From now on `b` does not hear what `a` says.
fn deafen(pair: &mut Pair) {
    let qpn = pair.b.qp.number;
    pair.b
        .driver
        .set_state(&mut pair.bench, qpn, QpState::Reset);
}

/// `a` gets a response to sequence number `psn` that `b` did not send.
fn respond(pair: &mut Pair, psn: u32, body: Body, payload: &[u8]) {
    pair.bench.run();
    let frame = pair.forge(true, psn, body, payload);
    pair.inject(&frame);
}

/// `b` gets a frame that `a` did not send.
fn request(pair: &mut Pair, psn: u32, body: Body, payload: &[u8]) {
    let frame = pair.forge(false, psn, body, payload);
    pair.inject(&frame);
}

const ACK: Body = Body::Acknowledge(acknowledge(Syndrome::Ack(31)));

const READ_RESPONSE: Body = Body::ReadResponse {
    place: Place::Only,
    acknowledge: Some(acknowledge(Syndrome::Ack(31))),
};

const fn nak(code: NakCode) -> Body {
    Body::Acknowledge(acknowledge(Syndrome::Nak(code)))
}

/// `b` gets a frame of `a` with a change, the ICRC made right afterwards.
fn damaged(pair: &mut Pair, body: Body, payload: &[u8], change: fn(&mut Vec<u8>)) {
    let mut frame = pair.forge(false, FIRST, body, payload);
    change(&mut frame);
    sign(&mut frame);
    pair.inject(&frame);
}

/// A flush of `b`'s memory through `rkey`.
fn flush(pair: &mut Pair, rkey: u32) {
    let remote = RemoteSegment {
        address: pair.b.memory,
        rkey,
        reserved: 0,
    };
    let flush = FlushSegment {
        length: 64,
        placement: FlushPlacement::GLOBAL.bits(),
        ..FlushSegment::default()
    };
    let mut segments = bytemuck::bytes_of(&remote).to_vec();
    segments.extend_from_slice(bytemuck::bytes_of(&flush));
    pair.post(WqeOpcode::Flush, &segments, &[]);
}

/// Writes the ICRC of an IPv4 packet without options (IBTA volume 1, A17.3.3), bit by bit.
fn sign(frame: &mut [u8]) {
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]])) + 14;
    let mut covered = vec![0xff; 8];
    covered.extend_from_slice(&frame[14..length - 4]);
    for at in [1, 8, 10, 11, 26, 27, 32] {
        covered[8 + at] = 0xff;
    }
    let mut crc = !0u32;
    for byte in covered {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    frame[length - 4..length].copy_from_slice(&(!crc).to_le_bytes());
}

fn check(row: &Row, way: Way, reached: &mut BTreeSet<u16>) {
    let mut pair = Pair::with(row.service, way, row.change);
    let before = pair.counters();
    (row.provoke)(&mut pair);
    pair.run();
    let after = pair.counters();
    for (n, expected) in [row.a, row.b].into_iter().enumerate() {
        let mut found = deltas(&before[n], &after[n]);
        reached.extend(found.iter().map(|(counter, _)| counter.raw()));
        // Packets of the port have a row of their own.
        found.retain(|(counter, _)| !PORT.contains(counter) && *counter != C::LocalBytes);
        let mut expected = expected.to_vec();
        expected.sort_by_key(|(counter, _)| counter.raw());
        let end = ["a", "b"][n];
        assert_eq!(found, expected, "{} of {end}, {way:?}", row.name);
    }
}

#[test]
fn every_counter_says_what_happened() {
    let mut reached = BTreeSet::new();
    for row in ROWS {
        check(row, Way::Wire, &mut reached);
        if row.direct {
            check(row, Way::Direct, &mut reached);
        }
    }
    for counter in Counter::ALL {
        let elsewhere = ELSEWHERE.contains(counter);
        let found = reached.contains(&counter.raw());
        assert!(found != elsewhere, "{counter:?} moved: {found}");
    }
}

/// Packets and octets, and bytes that take the direct path.
#[test]
fn the_port() {
    for way in WAYS {
        let mut pair = Pair::new(QpType::Rc, way);
        pair.receive(3000);
        let list = [pair.a.segment(0, 2500)];
        let before = pair.counters();
        pair.send(&list);
        pair.run();
        let after = pair.counters();
        let [a, b] = [0, 1].map(|n| {
            let mut found = deltas(&before[n], &after[n]);
            found.retain(|(counter, _)| PORT.contains(counter) || *counter == C::LocalBytes);
            found
        });
        // Ethernet, IPv4, UDP, base transport header, ICRC; acknowledgements have 4 bytes more.
        let headers = 14 + 20 + 8 + 12 + 4u64;
        let there = 2 * ((headers + 1024) / 4) + (headers + 452) / 4;
        let back = (headers + 4) / 4;
        match way {
            Way::Direct => assert_eq!((a, b), (vec![(C::LocalBytes, 2500)], vec![])),
            Way::Wire => {
                let expected = |sent, packets, received, answers| {
                    vec![
                        (C::PortXmitData, sent),
                        (C::PortRcvData, received),
                        (C::PortXmitPackets, packets),
                        (C::PortRcvPackets, answers),
                    ]
                };
                assert_eq!(a, expected(there, 3, back, 1));
                assert_eq!(b, expected(back, 1, there, 3));
            }
        }
    }
}

/// Frames that reach no function are counted by the physical one, and by the NIC; those that name
/// a function's Ethernet address by that function too.
#[test]
fn strays() {
    let mut pair = Pair::new(QpType::Rc, Way::Wire);
    let frame = pair.forge(false, FIRST, SEND, &[]);
    let mut elsewhere = frame.clone();
    elsewhere[5] = 9;
    let mut malformed = elsewhere.clone();
    malformed.truncate(50);
    let mut arp = frame;
    (arp[12], arp[13]) = (8, 6);
    let before = pair.counters();
    for frame in [elsewhere, malformed, arp] {
        pair.inject(&frame);
    }
    let after = pair.counters();
    let expected = [(C::RxNotForUs, 2), (C::RxNotRoce, 1)];
    assert_eq!(deltas(&before[0], &after[0]), expected);
    assert_eq!(deltas(&before[1], &after[1]), [(C::RxFrameNoFilter, 1)]);
    let drops = pair.bench.nic.drops();
    assert_eq!((drops.not_ours, drops.malformed, drops.not_roce), (1, 1, 1));
}

const ROWS: &[Row] = &[
    Row {
        name: "a SEND",
        provoke: |pair| {
            pair.receive(5000);
            let list = [pair.a.segment(0, 5000)];
            pair.send(&list);
        },
        b: &[(C::RxSendRequests, 1)],
        ..ROW
    },
    Row {
        name: "a WRITE",
        provoke: |pair| {
            let (key, list) = (pair.b.key, [pair.a.segment(0, 5000)]);
            pair.remote(WqeOpcode::Write, 0, key, &list);
        },
        b: &[(C::RxWriteRequests, 1)],
        ..ROW
    },
    Row {
        name: "a READ",
        provoke: |pair| {
            let (key, list) = (pair.b.key, [pair.a.segment(0, 5000)]);
            pair.remote(WqeOpcode::Read, 0, key, &list);
        },
        b: &[(C::RxReadRequests, 1)],
        ..ROW
    },
    Row {
        name: "an atomic operation",
        provoke: |pair| {
            let (key, list) = (pair.b.key, [pair.a.segment(0, 8)]);
            pair.remote(WqeOpcode::FetchAdd, 0, key, &list);
        },
        b: &[(C::RxAtomicRequests, 1)],
        ..ROW
    },
    Row {
        name: "an atomic write",
        provoke: |pair| {
            let remote = RemoteSegment {
                address: pair.b.memory,
                rkey: pair.b.key,
                reserved: 0,
            };
            let mut head = control(WqeOpcode::AtomicWrite, 0, 0);
            head.flags |= WqeFlags::INLINE.bits();
            head.inline_length = 8;
            let mut segments = bytemuck::bytes_of(&remote).to_vec();
            segments.extend_from_slice(&[7; 16]);
            pair.post_raw(head, &segments, &[]);
        },
        b: &[(C::RxAtomicWriteRequests, 1)],
        ..ROW
    },
    Row {
        name: "a flush that is not allowed",
        provoke: |pair| flush(pair, pair.b.key),
        a: &[(C::ReqRemoteInvalidRequest, 1), (C::ReqCqeError, 1)],
        b: &[(C::RespInvalidRequest, 1)],
        ..ROW
    },
    Row {
        name: "a flush",
        change: |given| given.access |= AccessFlags::FLUSH_GLOBAL.bits(),
        provoke: |pair| {
            let node = &mut pair.b;
            let body = CreateMr {
                pd: node.pd,
                access: AccessFlags::FLUSH_GLOBAL.bits(),
                start: node.memory,
                length: BUFFER,
                buffer: Buffer {
                    address: node.memory,
                    pages: (BUFFER / 4096) as u32,
                    page_shift: 12,
                    ..Buffer::default()
                },
                ..CreateMr::default()
            };
            let key = node
                .driver
                .ok(&mut pair.bench, AdminOpcode::CreateMr, &body);
            flush(pair, key as u32);
        },
        b: &[(C::RxFlushRequests, 1)],
        ..ROW
    },
    Row {
        name: "a datagram",
        service: QpType::Ud,
        provoke: |pair| {
            pair.receive(1000);
            let list = [pair.a.segment(0, 500)];
            pair.send(&list);
        },
        b: &[(C::RxDatagrams, 1)],
        ..ROW
    },
    Row {
        name: "an unreliable SEND and WRITE",
        service: QpType::Uc,
        provoke: |pair| {
            pair.receive(5000);
            let (key, list) = (pair.b.key, [pair.a.segment(0, 5000)]);
            pair.send(&list);
            pair.remote(WqeOpcode::Write, 0, key, &list);
        },
        b: &[(C::RxSendRequests, 1), (C::RxWriteRequests, 1)],
        ..ROW
    },
    Row {
        name: "a sequence error NAK",
        direct: false,
        provoke: |pair| {
            deafen(pair);
            pair.send(&[]);
            respond(pair, FIRST, nak(NakCode::PsnSequence), &[]);
            respond(pair, FIRST, ACK, &[]);
        },
        a: &[(C::PacketSeqErr, 1), (C::TxRetransmits, 1)],
        b: &[(C::RxBadState, 2)],
        ..ROW
    },
    Row {
        name: "a request that is missing",
        direct: false,
        provoke: |pair| {
            request(pair, FIRST + 1, SEND, &[]);
            request(pair, FIRST + 2, SEND, &[]);
        },
        a: &[(C::RxUnexpectedResponse, 1)],
        b: &[(C::OutOfSequence, 2), (C::TxSeqNak, 1)],
        ..ROW
    },
    Row {
        name: "a duplicate",
        direct: false,
        provoke: |pair| request(pair, FIRST - 1, SEND, &[]),
        a: &[(C::RxUnexpectedResponse, 1)],
        b: &[(C::DuplicateRequest, 1)],
        ..ROW
    },
    Row {
        name: "no receive request",
        provoke: |pair| pair.send(&[]),
        a: &[
            (C::RnrNakReceived, 2),
            (C::TxRetransmits, 1),
            (C::RnrNakRetryErr, 1),
            (C::ReqCqeError, 1),
        ],
        b: &[(C::OutOfBuffer, 2), (C::TxRnrNak, 2)],
        ..ROW
    },
    Row {
        name: "no answer",
        provoke: |pair| {
            deafen(pair);
            pair.send(&[]);
        },
        a: &[
            (C::LocalAckTimeoutErr, 2),
            (C::TxRetransmits, 1),
            (C::ReqTransportRetriesExceeded, 1),
            (C::ReqCqeError, 1),
        ],
        b: &[(C::RxBadState, 2)],
        ..ROW
    },
    Row {
        name: "a READ response that is missing",
        direct: false,
        provoke: |pair| {
            deafen(pair);
            let (key, list) = (pair.b.key, [pair.a.segment(0, 10)]);
            pair.remote(WqeOpcode::Read, 0, key, &list);
            pair.send(&[]);
            respond(pair, FIRST + 1, ACK, &[]);
            respond(pair, FIRST, READ_RESPONSE, &[1; 10]);
            respond(pair, FIRST + 1, ACK, &[]);
        },
        a: &[(C::ImpliedNakSeqErr, 1), (C::TxRetransmits, 2)],
        b: &[(C::RxBadState, 4)],
        ..ROW
    },
    Row {
        name: "a receive request that is too short",
        provoke: |pair| {
            pair.receive(50);
            let list = [pair.a.segment(0, 51)];
            pair.send(&list);
        },
        a: &[(C::ReqRemoteInvalidRequest, 1), (C::ReqCqeError, 1)],
        b: &[(C::RespLocalLengthError, 1), (C::RespCqeError, 1)],
        ..ROW
    },
    Row {
        name: "a remote key that is wrong",
        provoke: |pair| {
            let list = [pair.a.segment(0, 1)];
            pair.remote(WqeOpcode::Write, 0, 0x1234, &list);
        },
        a: &[(C::ReqRemoteAccessErrors, 1), (C::ReqCqeError, 1)],
        b: &[(C::RespRemoteAccessErrors, 1)],
        ..ROW
    },
    Row {
        name: "a receive request with a wrong key",
        provoke: |pair| {
            let list = [data(pair.b.memory, 64, 0x1234)];
            pair.b.qp.receive(&pair.b.driver.hw, &list);
            let list = [pair.a.segment(0, 1)];
            pair.send(&list);
        },
        a: &[(C::ReqRemoteOperationErrors, 1), (C::ReqCqeError, 1)],
        b: &[(C::RespLocalOperationErrors, 1), (C::RespCqeError, 1)],
        ..ROW
    },
    Row {
        name: "a response that is too short",
        direct: false,
        provoke: |pair| {
            deafen(pair);
            let (key, list) = (pair.b.key, [pair.a.segment(0, 10)]);
            pair.remote(WqeOpcode::Read, 0, key, &list);
            respond(pair, FIRST, READ_RESPONSE, &[1; 9]);
        },
        a: &[(C::ReqBadResponse, 1), (C::ReqCqeError, 1)],
        b: &[(C::RxBadState, 1)],
        ..ROW
    },
    Row {
        name: "a response to another kind of request",
        direct: false,
        provoke: |pair| {
            deafen(pair);
            pair.send(&[]);
            respond(pair, FIRST, READ_RESPONSE, &[1; 9]);
            respond(pair, FIRST, ACK, &[]);
        },
        a: &[(C::RxUnexpectedResponse, 1)],
        b: &[(C::RxBadState, 1)],
        ..ROW
    },
    Row {
        name: "a message that is too long",
        provoke: |pair| {
            let list = [pair.a.segment(0, 0x7fff_ffff); 2];
            pair.send(&list);
        },
        a: &[(C::ReqLocalLengthError, 1), (C::ReqCqeError, 1)],
        ..ROW
    },
    Row {
        name: "a local key that is wrong",
        provoke: |pair| {
            let list = [data(pair.a.memory, 64, 0x1234)];
            pair.send(&list);
        },
        a: &[(C::ReqLocalProtectionError, 1), (C::ReqCqeError, 1)],
        ..ROW
    },
    Row {
        name: "requests that are flushed",
        provoke: |pair| {
            let (hw, qp) = (pair.a.driver.hw.clone(), &mut pair.a.qp);
            let number = qp.number;
            for _ in 0..3 {
                qp.receive(&hw, &[]);
            }
            pair.a
                .driver
                .set_state(&mut pair.bench, number, QpState::Error);
            pair.send(&[]);
            pair.send(&[]);
        },
        a: &[(C::ReqCqeFlushError, 2), (C::RespCqeFlushError, 3)],
        ..ROW
    },
    Row {
        name: "a doorbell that names another queue pair",
        provoke: |pair| {
            let (hw, qp) = (&pair.a.driver.hw, &pair.a.qp);
            let value = doorbell::send_queue(1, qp.number + 1);
            hw.store_slot(0, qp.send_slot, value);
            hw.mark(0, qp.send_slot);
        },
        a: &[(C::BadDoorbell, 1)],
        ..ROW
    },
    Row {
        name: "an ICRC that is wrong",
        direct: false,
        provoke: |pair| {
            let mut frame = pair.forge(false, FIRST, SEND, &[1; 8]);
            frame[60] ^= 1;
            pair.inject(&frame);
        },
        b: &[(C::RxIcrcEncapsulated, 1)],
        ..ROW
    },
    Row {
        name: "a frame that is too short",
        direct: false,
        provoke: |pair| {
            let mut frame = pair.forge(false, FIRST, SEND, &[1; 8]);
            frame.pop();
            pair.inject(&frame);
        },
        b: &[(C::RxTruncated, 1), (C::RxMalformed, 1)],
        ..ROW
    },
    Row {
        name: "a checksum that is wrong",
        direct: false,
        provoke: |pair| damaged(pair, SEND, &[1; 8], |frame| frame[24] ^= 1),
        b: &[(C::RxIpHeader, 1), (C::RxMalformed, 1)],
        ..ROW
    },
    Row {
        name: "a UDP length that is wrong",
        direct: false,
        provoke: |pair| damaged(pair, SEND, &[1; 8], |frame| frame[39] -= 4),
        b: &[(C::RxLength, 1), (C::RxMalformed, 1)],
        ..ROW
    },
    Row {
        name: "a transport version that is unknown",
        direct: false,
        provoke: |pair| damaged(pair, SEND, &[1; 8], |frame| frame[43] |= 1),
        b: &[(C::RxTransportVersion, 1), (C::RxMalformed, 1)],
        ..ROW
    },
    Row {
        name: "an opcode that is reserved, one of reliable datagrams, a datagram that is no SEND",
        direct: false,
        provoke: |pair| {
            damaged(pair, SEND, &[1; 8], |frame| frame[42] = 0x1f);
            damaged(pair, SEND, &[1; 8], |frame| frame[42] = 0x44);
            damaged(pair, SEND, &[1; 8], |frame| frame[42] = 0x6a);
        },
        b: &[(C::RxUnknownOpcode, 3), (C::RxMalformed, 3)],
        ..ROW
    },
    Row {
        name: "an acknowledgement with payload",
        direct: false,
        provoke: |pair| damaged(pair, SEND, &[0; 8], |frame| frame[42] = 0x11),
        b: &[(C::RxUnexpectedPayload, 1), (C::RxMalformed, 1)],
        ..ROW
    },
    Row {
        name: "an acknowledgement with a reserved syndrome",
        direct: false,
        provoke: |pair| damaged(pair, ACK, &[], |frame| frame[54] = 0x40),
        b: &[(C::RxReservedField, 1), (C::RxMalformed, 1)],
        ..ROW
    },
    Row {
        name: "a queue pair that does not exist",
        direct: false,
        provoke: |pair| {
            let to = (Service::Reliable, 0x777, 0xffff);
            let frame = pair.forge_as(false, to, FIRST, SEND, &[]);
            pair.inject(&frame);
        },
        b: &[(C::RxNoQp, 1)],
        ..ROW
    },
    Row {
        name: "an address that is not the peer's",
        direct: false,
        provoke: |pair| {
            // 10.0.0.0 becomes 0.0.10.0, which has the same checksum.
            damaged(pair, SEND, &[1; 8], |frame| frame.swap(26, 28));
        },
        b: &[(C::RxWrongSource, 1)],
        ..ROW
    },
    Row {
        name: "another partition",
        direct: false,
        provoke: |pair| {
            let to = (Service::Reliable, pair.b.qp.number, 0x8001);
            let frame = pair.forge_as(false, to, FIRST, SEND, &[]);
            pair.inject(&frame);
        },
        b: &[(C::RxBadPkey, 1)],
        ..ROW
    },
    Row {
        name: "another service",
        direct: false,
        provoke: |pair| {
            let to = (Service::Unreliable, pair.b.qp.number, 0xffff);
            let frame = pair.forge_as(false, to, FIRST, SEND, &[]);
            pair.inject(&frame);
        },
        b: &[(C::RxWrongService, 1)],
        ..ROW
    },
    Row {
        name: "another queue key",
        service: QpType::Ud,
        provoke: |pair| {
            let destination = DatagramSegment {
                qkey: QKEY + 1,
                ..pair.destination()
            };
            let head = control(WqeOpcode::Send, 0, 0);
            let hw = pair.a.driver.hw.clone();
            let segments = bytemuck::bytes_of(&destination);
            pair.a.qp.post(&hw, head, &[segments]);
        },
        b: &[(C::QkeyViolations, 1)],
        ..ROW
    },
    Row {
        name: "a message without its start",
        service: QpType::Uc,
        direct: false,
        provoke: |pair| {
            let rest = Body::Send {
                place: Place::Last,
                tail: SendTail::None,
            };
            request(pair, FIRST + 1, rest, &[1]);
        },
        b: &[(C::OutOfSequence, 1), (C::RxUnreliableLost, 1)],
        ..ROW
    },
    Row {
        name: "an unreliable SEND without a receive request",
        service: QpType::Uc,
        provoke: |pair| pair.send(&[]),
        b: &[(C::RxUnreliableNoReceive, 1)],
        ..ROW
    },
    Row {
        name: "an unreliable SEND that is too long",
        service: QpType::Uc,
        provoke: |pair| {
            pair.receive(4);
            let list = [pair.a.segment(0, 5)];
            pair.send(&list);
        },
        b: &[(C::RxUnreliableTooLong, 1)],
        ..ROW
    },
    Row {
        name: "an unreliable WRITE with a wrong key",
        service: QpType::Uc,
        provoke: |pair| {
            let list = [pair.a.segment(0, 1)];
            pair.remote(WqeOpcode::Write, 0, 0x1234, &list);
        },
        b: &[(C::RxUnreliableInvalid, 1)],
        ..ROW
    },
];
