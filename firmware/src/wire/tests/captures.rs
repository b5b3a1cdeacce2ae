//! Frames that others sent, to the bit.

use super::*;

/// A congestion notification packet as a ConnectX-4 Lx sends it.
const CONGESTION: [u8; 74] = [
    0xe4, 0x1d, 0x2d, 0xab, 0x2b, 0xc2, 0x7c, 0xfe, 0x90, 0x64, 0x3b, 0x32, 0x08, 0x00, //
    0x45, 0xc2, 0x00, 0x3c, 0x71, 0x8c, 0x40, 0x00, 0x40, 0x11, 0x91, 0x61, //
    0x0a, 0x00, 0x11, 0x01, 0x0a, 0x00, 0x12, 0x01, //
    0x00, 0x00, 0x12, 0xb7, 0x00, 0x28, 0x00, 0x00, //
    0x81, 0x00, 0xff, 0xff, 0x40, 0x00, 0x01, 0x18, 0x00, 0x00, 0x00, 0x00, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    0x82, 0xfd, 0x00, 0x2a,
];

fn congestion_path() -> Path {
    Path {
        source: Gid::from_v4([10, 0, 17, 1]),
        source_mac: Mac([0x7c, 0xfe, 0x90, 0x64, 0x3b, 0x32]),
        destination: Gid::from_v4([10, 0, 18, 1]),
        destination_mac: Mac([0xe4, 0x1d, 0x2d, 0xab, 0x2b, 0xc2]),
        hop_limit: 64,
        traffic_class: 0xc2,
        pkey: 0xffff,
        ..Path::default()
    }
}

fn congestion_pdu() -> Pdu {
    Pdu {
        destination: Qpn::new(0x118),
        service: Service::Reliable,
        psn: Psn::new(0),
        packets: 1,
        length: 0,
        ack_request: false,
        solicited: false,
        body: Body::Congestion,
    }
}

#[test]
fn congestion_notification_is_read() {
    let received = parse(&CONGESTION).unwrap();
    assert_received(&received, &congestion_path(), &congestion_pdu());
    assert_eq!((received.ecn(), received.dscp()), (2, 48));
}

#[test]
fn congestion_notification_is_written_to_the_bit() {
    let mut frame = [0xa5; CONGESTION.len()];
    let (path, pdu) = (congestion_path(), congestion_pdu());
    emit(&path, &pdu, 0x718c, &[], &mut frame).unwrap();
    assert_eq!(frame, CONGESTION);
}

/// A published UC SEND only packet, with a UDP checksum.
pub(super) fn unreliable_send() -> Vec<u8> {
    let mut frame = vec![
        0x24, 0x8a, 0x07, 0xa8, 0xfa, 0x22, 0x24, 0x8a, 0x07, 0xa8, 0xfa, 0x22, 0x08, 0x00, //
        0x45, 0x01, 0x00, 0x40, 0x04, 0x78, 0x40, 0x00, 0x40, 0x11, 0xb4, 0xd5, //
        0xc0, 0xa8, 0x00, 0x07, 0xc0, 0xa8, 0x00, 0x07, //
        0xc0, 0x00, 0x12, 0xb7, 0x00, 0x2c, 0xac, 0xa2, //
        0x24, 0x60, 0xff, 0xff, 0x00, 0x00, 0x00, 0xd3, 0x00, 0xcf, 0x17, 0x10,
    ];
    frame.extend_from_slice(b"F0\x81\x8b\xe2\x895\xd9\x0e\x9a\x95PT\x01\xbe\x88^P\x00\x00");
    frame.extend_from_slice(&[0x78, 0xf3, 0x53, 0xf3]);
    frame
}

#[test]
fn unreliable_send_is_read() {
    let mut frame = unreliable_send();
    let received = parse(&frame).unwrap();
    let expected = Pdu {
        destination: Qpn::new(0xd3),
        service: Service::Unreliable,
        psn: Psn::new(0xcf_1710),
        packets: 1,
        length: 18,
        ack_request: false,
        solicited: false,
        body: Body::Send {
            place: Place::Only,
            tail: SendTail::None,
        },
    };
    assert_eq!(received.pdu, expected);
    assert_eq!(received.payload, &frame[54..72]);
    frame[60] ^= 1;
    assert_eq!(parse(&frame), Err(DropReason::Icrc));
}
