//! Packets of each transport service, byte by byte as the specification has them. Their ICRCs were
//! computed apart from this crate, by a CRC-32 over the masked packet, bit by bit.

use super::*;

/// Ethernet, IPv4 and UDP headers of a datagram of `length` bytes, with identification 0x4321.
fn headers(length: u8, checksum: [u8; 2]) -> Vec<u8> {
    let total = length + 20;
    [
        &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00][..],
        &[0x45, 0x6a, 0, total, 0x43, 0x21, 0x40, 0, 64, 17],
        &checksum,
        &[192, 0, 2, 1, 198, 51, 100, 2],
        &[0xc1, 0x23, 0x12, 0xb7, 0, length, 0, 0],
    ]
    .concat()
}

/// Asserts that the PDU and a frame of these parts are made from each other.
#[track_caller]
fn assert_frame(pdu: &Pdu, checksum: [u8; 2], transport: &[&[u8]], icrc: [u8; 4]) {
    let transport = [&transport.concat()[..], &icrc].concat();
    let known = [headers(8 + transport.len() as u8, checksum), transport].concat();
    assert_eq!(frame(&path_v4(), pdu), known);
    assert_received(&parse(&known).unwrap(), &path_v4(), pdu);
}

/// Base transport header behind opcode and flags.
const BASE: [u8; 10] = [0xff, 0xff, 0x00, 0x12, 0x34, 0x56, 0x80, 0xfe, 0xdc, 0xba];
const RETH: [u8; 16] = [
    0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, // virtual address
    0xfe, 0xdc, 0xba, 0x98, // remote key
    0x76, 0x54, 0x32, 0x10, // length
];

#[test]
fn datagram_with_immediate_data() {
    let body = Body::Send {
        place: Place::Only,
        tail: SendTail::Immediate(u32::from_ne_bytes([1, 2, 3, 4])),
    };
    let deth = [0x80, 0x01, 0x02, 0x03, 0x00, 0x65, 0x43, 0x21];
    assert_frame(
        &pdu_of(DATAGRAM, body, 5),
        [0x0a, 0xeb],
        &[
            &[0x65, 0x70],
            &BASE,
            &deth,
            &[1, 2, 3, 4],
            &[1, 8, 15, 22, 29, 0, 0, 0],
        ],
        [0xc0, 0x7a, 0x1f, 0xab],
    );
}

#[test]
fn unreliable_write() {
    let body = Body::Write {
        place: Place::Only,
        target: Some(RANGE),
        immediate: None,
    };
    assert_frame(
        &pdu_of(Service::Unreliable, body, 4),
        [0x0a, 0xeb],
        &[&[0x2a, 0x40], &BASE, &RETH, &[1, 8, 15, 22]],
        [0xf0, 0x4c, 0x27, 0x0b],
    );
}

#[test]
fn extended_write() {
    let body = Body::Write {
        place: Place::First,
        target: Some(RANGE),
        immediate: None,
    };
    let service = Service::Extended { srqn: 0xab_cdef };
    assert_frame(
        &pdu_of(service, body, 4),
        [0x0a, 0xe7],
        &[
            &[0xa6, 0x40],
            &BASE,
            &[0x00, 0xab, 0xcd, 0xef],
            &RETH,
            &[1, 8, 15, 22],
        ],
        [0x9e, 0x10, 0xdb, 0x74],
    );
}

#[test]
fn extended_acknowledgement() {
    assert_frame(
        &pdu_of(
            Service::Extended { srqn: 0 },
            Body::Acknowledge(acknowledge(Syndrome::Ack(31))),
            0,
        ),
        [0x0a, 0xfb],
        &[&[0xb1, 0x40], &BASE, &[0x1f, 0xab, 0xcd, 0xef]],
        [0xc3, 0xcd, 0xfa, 0x0b],
    );
}

#[test]
fn atomic_write() {
    let body = Body::AtomicWrite {
        address: RANGE.address,
        rkey: RANGE.rkey,
        value: *b"in order",
    };
    assert_frame(
        &pdu(body, 0),
        [0x0a, 0xe7],
        &[
            &[0x1d, 0x40],
            &BASE,
            &RETH[..12],
            &[0, 0, 0, 8],
            b"in order",
        ],
        [0xb0, 0xfc, 0xfc, 0x69],
    );
}

#[test]
fn flush_of_a_range_to_persistence() {
    let body = Body::Flush {
        target: RANGE,
        extent: FlushExtent::Range,
        placement: Placement {
            global: false,
            persistent: true,
        },
    };
    assert_frame(
        &pdu(body, 0),
        [0x0a, 0xeb],
        &[&[0x1c, 0x40], &BASE, &[0, 0, 0, 2], &RETH],
        [0xb3, 0x2a, 0xa2, 0xe7],
    );
}

#[test]
fn extended_flush_of_a_region_to_both() {
    let body = Body::Flush {
        target: RANGE,
        extent: FlushExtent::Region,
        placement: Placement {
            global: true,
            persistent: true,
        },
    };
    assert_frame(
        &pdu_of(Service::Extended { srqn: 0xab_cdef }, body, 0),
        [0x0a, 0xe7],
        &[
            &[0xbc, 0x40],
            &BASE,
            &[0x00, 0xab, 0xcd, 0xef],
            &[0, 0, 0, 0x13],
            &RETH,
        ],
        [0xfe, 0xfc, 0x7c, 0x06],
    );
}
