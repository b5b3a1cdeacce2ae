//! The 40 bytes in front of a received datagram.

use super::super::route_header;
use super::*;

const SEND: Body = Body::Send {
    place: Place::Only,
    tail: SendTail::Immediate(7),
};

/// Sum of the 16-bit words with end-around carry: all ones for a header with a right checksum.
fn ones_complement_sum(header: &[u8]) -> u32 {
    let words = header.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    (sum >> 16) + (sum & 0xffff)
}

#[test]
fn it_is_the_ip_header_as_received() {
    for path in paths() {
        for length in 0..=9 {
            let frame = frame(&path, &pdu_of(DATAGRAM, SEND, length));
            let header = parse(&frame).unwrap().route_header();
            if is_v4(&path) {
                assert_eq!(header[..20], [0; 20]);
                assert_eq!(header[20..], frame[network(&path)..][..20]);
            } else {
                assert_eq!(header, frame[network(&path)..][..40]);
            }
        }
    }
}

#[test]
fn options_are_left_out() {
    let mut frame = frame(&path_v4(), &pdu_of(DATAGRAM, SEND, 20));
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[14 + 3] += 4;
    sign(&path_v4(), &mut frame);
    let header = parse(&frame).unwrap().route_header();
    assert_eq!(header[..20], [0; 20]);
    assert_eq!(header[20..], frame[14..34]);
}

#[test]
fn without_a_frame_it_is_that_of_the_frame_there_would_have_been() {
    for path in paths() {
        for length in (0..=9).chain([4096]) {
            let pdu = pdu_of(DATAGRAM, SEND, length);
            let mut frame = vec![0xa5; frame_length(&path, &pdu)];
            emit(&path, &pdu, 0, &pattern(length), &mut frame).unwrap();
            assert_eq!(
                route_header(&path, &pdu),
                parse(&frame).unwrap().route_header()
            );
        }
    }
}

#[test]
fn of_a_datagram_without_immediate_data_it_stands_as_specified() {
    let body = Body::Send {
        place: Place::Only,
        tail: SendTail::None,
    };
    let pdu = pdu_of(DATAGRAM, body, 6);
    let header = route_header(&path_v4(), &pdu);
    // IP, UDP, base and datagram header, payload, padding, ICRC.
    let total = 20 + 8 + 12 + 8 + 6 + 2 + 4;
    let start = [0x45, 0x6a, 0, total, 0, 0, 0x40, 0, 64, 17];
    assert_eq!(header[..20], [0; 20]);
    assert_eq!(header[20..30], start);
    assert_eq!(header[32..], [192, 0, 2, 1, 198, 51, 100, 2]);
    assert_eq!(ones_complement_sum(&header), 0xffff);

    let header = route_header(&path_v6(), &pdu);
    let start = [0x66, 0xa5, 0xa5, 0xa5, 0, total - 20, 17, 64];
    assert_eq!(header[..8], start);
    assert_eq!(header[8..24], path_v6().source.0);
    assert_eq!(header[24..], path_v6().destination.0);
}

#[test]
fn what_no_frame_carries_has_one_too() {
    let mut path = path_v4();
    let header = route_header(&path, &pdu_of(DATAGRAM, SEND, 1 << 20));
    assert_eq!(header[22..24], [0xff, 0xff]);
    assert_eq!(ones_complement_sum(&header), 0xffff);
    path.destination = path_v6().destination;
    let header = route_header(&path, &pdu_of(DATAGRAM, SEND, 0));
    assert_eq!((header[0] >> 4, header[6]), (6, 17));
    assert_eq!(header[8..24], path_v4().source.0);
}
