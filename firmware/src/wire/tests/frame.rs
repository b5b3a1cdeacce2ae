//! Frames of any kind: parts, flows, checksums, tags.

use proptest::collection::vec as bytes;
use proptest::prelude::*;

use super::super::frame::{
    Addresses, Flow, Frame, Ports, Tag, Verdict, fill_network_checksum, fill_transport_checksum,
    tag,
};
use super::checksum::reference_sum;
use super::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const V4: Addresses = Addresses::V4 {
    source: [192, 0, 2, 1],
    destination: [198, 51, 100, 2],
};
const V6: Addresses = Addresses::V6 {
    source: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    destination: [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1],
};
const PORTS: Ports = Ports {
    source: 0x1234,
    destination: 443,
};

/// An IP header in front of `payload`, with a wrong checksum.
fn packet(addresses: &Addresses, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    match addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            let [high, low] = (length + 20).to_be_bytes();
            let start = [0x45, 0, high, low, 1, 2, 0x40, 0, 64, protocol, 0xbe, 0xef];
            [&start[..], source, destination, payload].concat()
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            let [high, low] = length.to_be_bytes();
            let start = [0x60, 0, 0, 0, high, low, protocol, 64];
            [&start[..], source, destination, payload].concat()
        }
    }
}

/// A TCP segment or UDP datagram with a wrong checksum.
fn segment(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ports = [0x12, 0x34, 0x01, 0xbb];
    let mut segment = ports.to_vec();
    if protocol == TCP {
        segment.extend([
            1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 0xff, 0xff, 0xbe, 0xef, 0, 0,
        ]);
    } else {
        segment.extend((payload.len() as u16 + 8).to_be_bytes());
        segment.extend([0xbe, 0xef]);
    }
    segment.extend(payload);
    segment
}

/// A frame with some padding, tagged if `vlan` is one.
fn ethernet(vlan: Option<u16>, addresses: &Addresses, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend((0x7000 | vlan).to_be_bytes());
    }
    frame.extend(match addresses {
        Addresses::V4 { .. } => [0x08, 0x00],
        Addresses::V6 { .. } => [0x86, 0xdd],
    });
    frame.extend(packet);
    frame.extend([0xa5; 7]);
    frame
}

/// All kinds of frames with a checksum.
fn samples(payload: &[u8]) -> Vec<(Addresses, u8, Vec<u8>)> {
    let mut samples = vec![];
    for vlan in [None, Some(7)] {
        for addresses in [V4, V6] {
            for protocol in [TCP, UDP] {
                let packet = packet(&addresses, protocol, &segment(protocol, payload));
                samples.push((addresses, protocol, ethernet(vlan, &addresses, &packet)));
            }
        }
    }
    samples
}

/// The sum over pseudo header and segment, from the definition: all ones if the checksum is right.
fn reference(addresses: &Addresses, protocol: u8, segment: &[u8]) -> u16 {
    let (source, destination) = match addresses {
        Addresses::V4 {
            source,
            destination,
        } => (&source[..], &destination[..]),
        Addresses::V6 {
            source,
            destination,
        } => (&source[..], &destination[..]),
    };
    let length = (segment.len() as u16).to_be_bytes();
    let pseudo = [source, destination, &[0, protocol], &length].concat();
    reference_sum(&[&pseudo[..], segment].concat())
}

fn verdicts(frame: &[u8]) -> (Verdict, Verdict) {
    let frame = Frame::parse(frame).unwrap();
    (frame.network_checksum(), frame.transport_checksum())
}

#[test]
fn parts_are_found_behind_tags() {
    for (addresses, _, bytes) in samples(b"payload") {
        let frame = Frame::parse(&bytes).unwrap();
        let tagged = bytes[12..14] == [0x81, 0];
        let expected = Tag {
            id: 7,
            priority: 3,
            drop_eligible: true,
        };
        assert_eq!(frame.tag, tagged.then_some(expected));
        assert_eq!(frame.destination, Mac([2, 0, 0, 0, 0, 2]));
        assert_eq!(frame.source, Mac([2, 0, 0, 0, 0, 1]));
        let v4 = matches!(addresses, Addresses::V4 { .. });
        assert_eq!(frame.ethertype, if v4 { 0x0800 } else { 0x86dd });
        let flow = Flow {
            addresses,
            ports: Some(PORTS),
        };
        assert_eq!(frame.flow(), Some(flow));
    }
}

#[test]
fn what_is_not_ip_has_no_flow() {
    let mut frame = ethernet(None, &V4, &packet(&V4, UDP, &segment(UDP, &[])));
    for ethertype in [0x0806_u16, 0x88cc, 0x8100, 0x88a8, 46] {
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        let before = frame.clone();
        assert_eq!(Frame::parse(&frame).unwrap().flow(), None);
        assert_eq!(verdicts(&frame), (Verdict::Unknown, Verdict::Unknown));
        assert!(!fill_network_checksum(&mut frame));
        assert!(!fill_transport_checksum(&mut frame));
        assert_eq!(frame, before);
    }
    for length in 0..14 {
        assert!(Frame::parse(&frame[..length]).is_none());
    }
}

/// Asserts that there is a flow without ports, and that nothing is said or written about the
/// segment.
#[track_caller]
fn assert_hidden(frame: &mut [u8], addresses: Addresses) {
    let flow = Frame::parse(frame).unwrap().flow();
    let ports = None;
    assert_eq!(flow, Some(Flow { addresses, ports }));
    assert_eq!(verdicts(frame).1, Verdict::Unknown);
    let before = frame.to_vec();
    assert!(!fill_transport_checksum(frame));
    assert_eq!(frame, before);
}

#[test]
fn fragments_hide_their_segment() {
    for fragment in [0x2000_u16, 0x0001, 0x1fff, 0x3fff] {
        let mut frame = ethernet(None, &V4, &packet(&V4, TCP, &segment(TCP, b"abc")));
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        assert_hidden(&mut frame, V4);
        assert!(fill_network_checksum(&mut frame));
        assert_eq!(verdicts(&frame), (Verdict::Good, Verdict::Unknown));
    }
}

#[test]
fn extension_headers_hide_their_segment() {
    for next_header in [0, 43, 44, 60, 51, 135] {
        let mut frame = ethernet(None, &V6, &packet(&V6, next_header, &segment(TCP, &[])));
        assert_hidden(&mut frame, V6);
        assert!(!fill_network_checksum(&mut frame));
    }
}

#[test]
fn segments_that_are_not_whole_are_left_alone() {
    for (protocol, length) in [(TCP, 19), (UDP, 7), (TCP, 0), (UDP, 0), (1, 40), (132, 40)] {
        let mut frame = ethernet(None, &V4, &packet(&V4, protocol, &vec![9; length]));
        assert_hidden(&mut frame, V4);
    }
    for length in [0, 7, 12] {
        let mut datagram = segment(UDP, b"abc");
        datagram[4..6].copy_from_slice(&[0, length]);
        let mut frame = ethernet(None, &V6, &packet(&V6, UDP, &datagram));
        assert_hidden(&mut frame, V6);
    }
}

#[test]
fn unsound_ip_headers_make_no_flow() {
    let frame = ethernet(None, &V4, &packet(&V4, UDP, &segment(UDP, b"abc")));
    // Version, header length, total length below the header's and beyond the frame.
    for (at, value) in [(14, 0x65), (14, 0x44), (17, 19), (17, 0xff), (14, 0x4f)] {
        let mut frame = frame.clone();
        frame[at] = value;
        assert_eq!(Frame::parse(&frame).unwrap().flow(), None, "{at}");
        assert!(!fill_network_checksum(&mut frame));
        assert!(!fill_transport_checksum(&mut frame));
    }
}

#[test]
fn options_are_part_of_the_header() {
    let mut bytes = packet(&V4, TCP, &segment(TCP, b"abc"));
    bytes.splice(20..20, [7, 7, 4, 10, 0, 1, 2, 0]);
    bytes[0] = 0x47;
    bytes[3] += 8;
    let mut frame = ethernet(Some(1), &V4, &bytes);
    assert!(fill_network_checksum(&mut frame));
    assert!(fill_transport_checksum(&mut frame));
    assert_eq!(verdicts(&frame), (Verdict::Good, Verdict::Good));
    assert_eq!(reference_sum(&frame[18..46]), 0xffff);
    assert_eq!(reference(&V4, TCP, &frame[46..69]), 0xffff);
    frame[40] ^= 1;
    assert_eq!(verdicts(&frame), (Verdict::Bad, Verdict::Good));
}

#[test]
fn datagrams_may_do_without_a_checksum() {
    for addresses in [V4, V6] {
        let mut datagram = segment(UDP, b"abc");
        datagram[6..8].fill(0);
        let mut frame = ethernet(None, &addresses, &packet(&addresses, UDP, &datagram));
        assert_eq!(verdicts(&frame).1, Verdict::Unknown);
        assert!(fill_transport_checksum(&mut frame));
        assert_eq!(verdicts(&frame).1, Verdict::Good);
    }
}

/// The two zeros of ones' complement: a checksum that comes out as 0 is sent as ones by UDP, which
/// means 0 by "none", and as 0 by TCP.
#[test]
fn checksums_that_come_out_as_zero() {
    for (protocol, at, expected) in [(UDP, 6, 0xffff), (TCP, 16, 0)] {
        let mut bytes = segment(protocol, &[0, 0]);
        bytes[at..at + 2].fill(0);
        let complement = !reference(&V4, protocol, &bytes);
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&complement.to_be_bytes());
        for wrong in [0, 1, 0xffff_u16] {
            bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            let mut frame = ethernet(None, &V4, &packet(&V4, protocol, &bytes));
            assert!(fill_transport_checksum(&mut frame));
            let filled = [frame[34 + at], frame[34 + at + 1]];
            assert_eq!(u16::from_be_bytes(filled), expected);
            assert_eq!(verdicts(&frame).1, Verdict::Good);
        }
    }
}

#[test]
fn a_published_checksum_is_right() {
    let mut frame = captures::unreliable_send();
    assert_eq!(verdicts(&frame), (Verdict::Good, Verdict::Good));
    let before = frame.clone();
    frame[40..42].fill(7);
    frame[24..26].fill(7);
    assert_eq!(verdicts(&frame), (Verdict::Bad, Verdict::Bad));
    assert!(fill_network_checksum(&mut frame));
    assert!(fill_transport_checksum(&mut frame));
    assert_eq!(frame, before);
}

/// The verification suite that Microsoft publishes for its key.
#[test]
fn hashes_are_those_of_receive_side_scaling() {
    let v4 = |source, source_port, destination, destination_port, addresses_only, all| {
        let addresses = Addresses::V4 {
            source,
            destination,
        };
        assert_hashes(
            addresses,
            source_port,
            destination_port,
            addresses_only,
            all,
        );
    };
    let v6 = |source: [u16; 8], source_port, destination: [u16; 8], destination_port, only, all| {
        let address = |words: [u16; 8]| {
            let bytes = words.map(u16::to_be_bytes).concat();
            <[u8; 16]>::try_from(bytes).unwrap()
        };
        let addresses = Addresses::V6 {
            source: address(source),
            destination: address(destination),
        };
        assert_hashes(addresses, source_port, destination_port, only, all);
    };
    v4(
        [66, 9, 149, 187],
        2794,
        [161, 142, 100, 80],
        1766,
        0x323e_8fc2,
        0x51cc_c178,
    );
    v4(
        [199, 92, 111, 2],
        14230,
        [65, 69, 140, 83],
        4739,
        0xd718_262a,
        0xc626_b0ea,
    );
    v4(
        [24, 19, 198, 95],
        12898,
        [12, 22, 207, 184],
        38024,
        0xd2d0_a5de,
        0x5c2b_394a,
    );
    v4(
        [38, 27, 205, 30],
        48228,
        [209, 142, 163, 6],
        2217,
        0x8298_9176,
        0xafc7_327f,
    );
    v4(
        [153, 39, 163, 191],
        44251,
        [202, 188, 127, 2],
        1303,
        0x5d18_09c5,
        0x10e8_28a2,
    );
    v6(
        [0x3ffe, 0x2501, 0x200, 0x1fff, 0, 0, 0, 7],
        2794,
        [0x3ffe, 0x2501, 0x200, 3, 0, 0, 0, 1],
        1766,
        0x2cc1_8cd5,
        0x4020_7d3d,
    );
}

#[track_caller]
fn assert_hashes(
    addresses: Addresses,
    source: u16,
    destination: u16,
    addresses_only: u32,
    all: u32,
) {
    let ports = Some(Ports {
        source,
        destination,
    });
    let without = Flow {
        addresses,
        ports: None,
    };
    assert_eq!(without.hash(), addresses_only);
    assert_eq!(Flow { addresses, ports }.hash(), all);
}

#[test]
fn tags_go_in_and_come_out() {
    let frame = ethernet(None, &V4, b"payload");
    let given = Tag {
        id: 0xabc,
        priority: 5,
        drop_eligible: true,
    };
    let mut buffer = [vec![0x5a; tag::LENGTH], frame.clone()].concat();
    assert!(tag::insert(&mut buffer, given));
    let (addresses, rest) = frame.split_at(12);
    let tagged = [addresses, &[0x81, 0x00, 0xba, 0xbc], rest].concat();
    assert_eq!(buffer, tagged);
    assert_eq!(Frame::parse(&buffer).unwrap().tag, Some(given));
    let (found, pieces) = tag::split(&buffer).unwrap();
    assert_eq!((found, pieces.concat()), (given, frame.clone()));
    assert_eq!(tag::remove(&mut buffer), Some(given));
    assert_eq!(buffer[tag::LENGTH..], frame);
}

#[test]
fn what_has_no_tag_is_left_alone() {
    let mut frame = ethernet(None, &V6, b"payload");
    assert_eq!(tag::split(&frame), None);
    assert_eq!(tag::remove(&mut frame), None);
    assert_eq!(frame, ethernet(None, &V6, b"payload"));
    let tagged = ethernet(Some(3), &V6, b"payload");
    for length in 0..16 {
        assert_eq!(tag::split(&tagged[..length]), None);
        let mut short = tagged[..length].to_vec();
        assert!(!tag::insert(&mut short, Tag::default()));
        assert_eq!(short, tagged[..length]);
    }
}

proptest! {
    #[test]
    fn filled_checksums_are_good_by_definition(
        payload in bytes(any::<u8>(), 0..300),
        flip in any::<proptest::sample::Index>(),
    ) {
        for (addresses, protocol, mut frame) in samples(&payload) {
            let v4 = matches!(addresses, Addresses::V4 { .. });
            let network = if frame[12] == 0x81 { 18 } else { 14 };
            let transport = network + if v4 { 20 } else { 40 };
            let end = frame.len() - 7;
            prop_assert_eq!(fill_network_checksum(&mut frame), v4);
            prop_assert!(fill_transport_checksum(&mut frame));
            let expected = if v4 { Verdict::Good } else { Verdict::Unknown };
            prop_assert_eq!(verdicts(&frame), (expected, Verdict::Good));
            let segment = &frame[transport..end];
            prop_assert_eq!(reference(&addresses, protocol, segment), 0xffff);
            if v4 {
                prop_assert_eq!(reference_sum(&frame[network..transport]), 0xffff);
            }
            prop_assert_eq!(&frame[end..], &[0xa5; 7]);
            if let Some(count) = payload.len().checked_sub(1) {
                let at = end - 1 - flip.index(count + 1);
                frame[at] ^= 0x10;
                prop_assert_eq!(verdicts(&frame).1, Verdict::Bad);
            }
        }
    }

    #[test]
    fn anything_is_taken(
        start in proptest::sample::select(samples(b"payload")),
        noise in bytes((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
        length in any::<proptest::sample::Index>(),
    ) {
        let mut frame = start.2;
        for (at, value) in noise {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        frame.truncate(length.index(frame.len()) + 1);
        check(frame)?;
    }

    #[test]
    fn noise_is_taken(frame in bytes(any::<u8>(), 0..120)) {
        check(frame)?;
    }
}

/// Asserts what holds of any bytes: what was filled is good, what was not is as it was.
fn check(mut frame: Vec<u8>) -> Result<(), TestCaseError> {
    let flow = Frame::parse(&frame).and_then(|parts| parts.flow());
    let _hash = flow.map(|flow| flow.hash());
    for fill in [fill_network_checksum, fill_transport_checksum] {
        let before = frame.clone();
        let filled = fill(&mut frame);
        let changes = frame.iter().zip(&before).filter(|(a, b)| a != b).count();
        let most = if filled { 2 } else { 0 };
        prop_assert!(changes <= most);
    }
    if let Some(parts) = Frame::parse(&frame) {
        prop_assert_eq!(parts.flow(), flow);
        prop_assert_ne!(parts.network_checksum(), Verdict::Bad);
        prop_assert_ne!(parts.transport_checksum(), Verdict::Bad);
        let ported = flow.is_some_and(|flow| flow.ports.is_some());
        let good = parts.transport_checksum() == Verdict::Good;
        prop_assert_eq!(ported, good);
    }
    Ok(())
}
