//! Known frames, round trips, damage, hostile frames.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::{DropReason, EmitError, Received, emit, emit_headers, frame_length, parse};
use crate::pdu::{
    Acknowledge, AtomicOperation, Body, NakCode, Pdu, Place, RemoteRange, SendTail, Syndrome,
};
use crate::transport::Path;
use crate::types::{Gid, Mac, Msn, Psn, Qpn};

const PLACES: [Place; 4] = [Place::First, Place::Middle, Place::Last, Place::Only];

const RANGE: RemoteRange = RemoteRange {
    address: 0x0123_4567_89ab_cdef,
    rkey: 0xfedc_ba98,
    length: 0x7654_3210,
};

fn acknowledge(syndrome: Syndrome) -> Acknowledge {
    Acknowledge {
        syndrome,
        msn: Msn::new(0xab_cdef),
    }
}

/// Every opcode of a reliable connection, every syndrome, and congestion notification.
fn bodies() -> Vec<Body> {
    let mut bodies = vec![Body::Read { source: RANGE }, Body::Congestion];
    for place in PLACES {
        for tail in [
            SendTail::None,
            SendTail::Immediate(0x0102_0304),
            SendTail::Invalidate(0x0a0b_0c0d),
        ] {
            if tail == SendTail::None || place.ends() {
                bodies.push(Body::Send { place, tail });
            }
        }
        for immediate in [None, Some(0x5566_7788)] {
            if immediate.is_none() || place.ends() {
                bodies.push(Body::Write {
                    place,
                    target: place.starts().then_some(RANGE),
                    immediate,
                });
            }
        }
        bodies.push(Body::ReadResponse {
            place,
            acknowledge: (place != Place::Middle).then(|| acknowledge(Syndrome::Ack(3))),
        });
    }
    for operation in [
        AtomicOperation::FetchAdd(u64::MAX),
        AtomicOperation::CompareSwap {
            compare: 0x1111_2222_3333_4444,
            swap: 0x5555_6666_7777_8888,
        },
    ] {
        bodies.push(Body::Atomic {
            address: RANGE.address,
            rkey: RANGE.rkey,
            operation,
        });
    }
    bodies.push(Body::AtomicResponse {
        acknowledge: acknowledge(Syndrome::Ack(31)),
        original: 0x8877_6655_4433_2211,
    });
    bodies.extend(syndromes().map(|syndrome| Body::Acknowledge(acknowledge(syndrome))));
    bodies
}

fn syndromes() -> impl Iterator<Item = Syndrome> {
    let codes = [
        NakCode::PsnSequence,
        NakCode::InvalidRequest,
        NakCode::RemoteAccess,
        NakCode::RemoteOperational,
        NakCode::InvalidRdRequest,
    ];
    (0..32)
        .map(Syndrome::Ack)
        .chain((0..32).map(Syndrome::RnrNak))
        .chain(codes.map(Syndrome::Nak))
}

fn has_payload(body: &Body) -> bool {
    matches!(
        body,
        Body::Send { .. } | Body::Write { .. } | Body::ReadResponse { .. }
    )
}

fn pdu(body: Body, length: usize) -> Pdu {
    Pdu {
        destination: Qpn::new(0x12_3456),
        service: crate::pdu::Service::Reliable,
        psn: Psn::new(0xfe_dcba),
        packets: 1,
        length: length as u32,
        ack_request: true,
        solicited: false,
        body,
    }
}

fn path_v4() -> Path {
    Path {
        source: Gid::from_v4([192, 0, 2, 1]),
        source_mac: Mac([2, 0, 0, 0, 0, 1]),
        destination: Gid::from_v4([198, 51, 100, 2]),
        destination_mac: Mac([2, 0, 0, 0, 0, 2]),
        udp_source: 0xc123,
        hop_limit: 64,
        traffic_class: 0x6a,
        service_level: 3,
        pkey: 0xffff,
        ..Path::default()
    }
}

fn path_v6() -> Path {
    let mut path = path_v4();
    path.source.0 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    path.destination.0 = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
    path.flow_label = 0x5_a5a5;
    path
}

/// Both address families, with and without VLAN tag.
fn paths() -> [Path; 4] {
    let tagged = |path| Path {
        vlan: 0xabc,
        ..path
    };
    [path_v4(), path_v6(), tagged(path_v4()), tagged(path_v6())]
}

fn is_v4(path: &Path) -> bool {
    path.source.to_v4().is_some()
}

/// Where the IP header starts.
fn network(path: &Path) -> usize {
    if path.vlan == 0 { 14 } else { 18 }
}

/// Where the UDP header starts.
fn datagram(path: &Path) -> usize {
    network(path) + if is_v4(path) { 20 } else { 40 }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + 1) as u8).collect()
}

/// The frame, in room that was filled with a pattern.
#[track_caller]
fn frame(path: &Path, pdu: &Pdu) -> Vec<u8> {
    let mut frame = vec![0xa5; frame_length(path, pdu)];
    let payload = pattern(pdu.length as usize);
    assert_eq!(emit(path, pdu, 0x4321, &payload, &mut frame), Ok(()));
    frame
}

/// Numbers from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}

/// The definition, bit by bit, over the whole packet with its variant fields set to ones.
fn reference_icrc(packet: &[u8]) -> [u8; 4] {
    let mut bytes = vec![0xff; 8];
    bytes.extend_from_slice(packet);
    let ip = &mut bytes[8..];
    let transport = if ip[0] >> 4 == 4 {
        for variant in [1, 8, 10, 11] {
            ip[variant] = 0xff;
        }
        usize::from(ip[0] & 0xf) * 4
    } else {
        ip[0] |= 0x0f;
        for variant in [1, 2, 3, 7] {
            ip[variant] = 0xff;
        }
        40
    };
    for variant in [6, 7, 8 + 4] {
        ip[transport + variant] = 0xff;
    }

    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let carry = (crc & 1) ^ u32::from(byte >> bit & 1);
            crc = (crc >> 1) ^ (carry * 0xedb8_8320);
        }
    }
    (!crc).to_le_bytes()
}

/// Writes IPv4 checksum and ICRC of a frame that was changed, as a malicious peer would.
fn sign(path: &Path, frame: &mut [u8]) {
    let packet = &mut frame[network(path)..];
    if is_v4(path) {
        let header = usize::from(packet[0] & 0xf) * 4;
        packet[10..12].fill(0);
        let sum: u32 = packet[..header]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        let checksum = !((sum >> 16) + (sum & 0xffff)) as u16;
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let end = if is_v4(path) {
        usize::from(u16::from_be_bytes([packet[2], packet[3]]))
    } else {
        usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40
    };
    let icrc = reference_icrc(&packet[..end - 4]);
    packet[end - 4..end].copy_from_slice(&icrc);
}

/// Asserts that the frame says what the PDU says and came along the path.
#[track_caller]
fn assert_received(received: &Received<'_>, path: &Path, pdu: &Pdu) {
    let tagged = path.vlan != 0;
    let expected = Received {
        source_mac: path.source_mac,
        destination_mac: path.destination_mac,
        vlan: path.vlan,
        priority: if tagged { path.service_level } else { 0 },
        source: path.source,
        destination: path.destination,
        traffic_class: path.traffic_class,
        hop_limit: path.hop_limit,
        flow_label: path.flow_label,
        udp_source: path.udp_source,
        pkey: path.pkey,
        migrated: pdu.body != Body::Congestion,
        fecn: false,
        becn: pdu.body == Body::Congestion,
        pdu: *pdu,
        payload: &pattern(pdu.length as usize),
    };
    assert_eq!(*received, expected);
}

mod captures {
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
            service: crate::pdu::Service::Reliable,
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

    #[test]
    fn unreliable_connection_is_recognised_behind_its_icrc() {
        // A published UC SEND only packet, with a UDP checksum.
        let mut frame = vec![
            0x24, 0x8a, 0x07, 0xa8, 0xfa, 0x22, 0x24, 0x8a, 0x07, 0xa8, 0xfa, 0x22, 0x08,
            0x00, //
            0x45, 0x01, 0x00, 0x40, 0x04, 0x78, 0x40, 0x00, 0x40, 0x11, 0xb4, 0xd5, //
            0xc0, 0xa8, 0x00, 0x07, 0xc0, 0xa8, 0x00, 0x07, //
            0xc0, 0x00, 0x12, 0xb7, 0x00, 0x2c, 0xac, 0xa2, //
            0x24, 0x60, 0xff, 0xff, 0x00, 0x00, 0x00, 0xd3, 0x00, 0xcf, 0x17, 0x10,
        ];
        frame.extend_from_slice(b"F0\x81\x8b\xe2\x895\xd9\x0e\x9a\x95PT\x01\xbe\x88^P\x00\x00");
        frame.extend_from_slice(&[0x78, 0xf3, 0x53, 0xf3]);
        assert_eq!(parse(&frame), Err(DropReason::UnsupportedOpcode));
        frame[60] ^= 1;
        assert_eq!(parse(&frame), Err(DropReason::Icrc));
    }
}

mod round_trip {
    use super::*;

    #[test]
    fn every_operation_on_every_kind_of_path() {
        for path in paths() {
            for body in bodies() {
                let lengths = if has_payload(&body) { 0..=17 } else { 0..=0 };
                for length in lengths.chain(has_payload(&body).then_some(4096)) {
                    let pdu = pdu(body, length);
                    let frame = frame(&path, &pdu);
                    assert_received(&parse(&frame).unwrap(), &path, &pdu);
                }
            }
        }
    }

    #[test]
    fn every_length_up_to_the_largest_mtu() {
        let body = Body::Write {
            place: Place::Only,
            target: Some(RANGE),
            immediate: Some(9),
        };
        for path in paths() {
            for length in 0..=4096 {
                let pdu = pdu(body, length);
                assert_received(&parse(&frame(&path, &pdu)).unwrap(), &path, &pdu);
            }
        }
    }

    #[test]
    fn random_values() {
        let bodies = bodies();
        for seed in 1..=2000 {
            let mut random = Random(seed);
            let mut path = paths()[random.below(4)];
            path.udp_source = random.next() as u16;
            path.hop_limit = random.next() as u8;
            path.traffic_class = random.next() as u8;
            path.service_level = random.next() as u8 & 7;
            path.pkey = random.next() as u16;
            if !is_v4(&path) {
                path.flow_label = random.next() as u32 & 0xf_ffff;
            }
            let body = bodies[random.below(bodies.len())];
            let length = if has_payload(&body) {
                random.below(4097)
            } else {
                0
            };
            let pdu = Pdu {
                destination: Qpn::new(random.next() as u32),
                service: crate::pdu::Service::Reliable,
                psn: Psn::new(random.next() as u32),
                ack_request: random.below(2) == 0,
                solicited: random.below(2) == 0,
                ..pdu(body, length)
            };
            std::println!("seed {seed}");
            assert_received(&parse(&frame(&path, &pdu)).unwrap(), &path, &pdu);
        }
    }

    #[test]
    fn icrc_is_the_definition() {
        for path in paths() {
            for body in bodies() {
                let length = if has_payload(&body) { 13 } else { 0 };
                let frame = frame(&path, &pdu(body, length));
                let udp = datagram(&path);
                let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
                let reference = reference_icrc(&frame[network(&path)..end - 4]);
                assert_eq!(frame[end - 4..end], reference, "{body:?}");
                assert!(frame[end..].iter().all(|&byte| byte == 0), "{body:?}");
            }
        }
    }
}

mod damage {
    use super::*;

    fn samples() -> impl Iterator<Item = (Path, Pdu)> {
        paths().into_iter().flat_map(|path| {
            bodies().into_iter().map(move |body| {
                let length = if has_payload(&body) { 6 } else { 0 };
                (path, pdu(body, length))
            })
        })
    }

    #[test]
    fn truncation_is_noticed() {
        for (path, pdu) in samples() {
            let frame = frame(&path, &pdu);
            let udp = datagram(&path);
            let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
            for length in 0..end {
                assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated));
            }
            assert_received(&parse(&frame[..end]).unwrap(), &path, &pdu);
        }
    }

    /// Whether a bit may change on the way, or means nothing to the receiver.
    fn is_variant(path: &Path, byte: usize, mask: u8, end: usize) -> bool {
        let network = network(path);
        let udp = datagram(path);
        let ethernet = byte < 12 || (path.vlan != 0 && (14..16).contains(&byte));
        let class_or_flow = (byte == network && mask < 0x10)
            || (network + 1..network + 4).contains(&byte)
            || byte == network + 7;
        let checksum = (udp + 6..udp + 8).contains(&byte);
        let congestion = byte == udp + 8 + 4;
        ethernet || (!is_v4(path) && class_or_flow) || checksum || congestion || byte >= end
    }

    #[test]
    fn single_bits_are_noticed_unless_variant() {
        for (path, pdu) in samples() {
            let mut frame = frame(&path, &pdu);
            let udp = datagram(&path);
            let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
            for bit in 0..frame.len() * 8 {
                let (byte, mask) = (bit / 8, 1 << (bit % 8));
                frame[byte] ^= mask;
                let result = parse(&frame);
                let variant = is_variant(&path, byte, mask, end);
                assert_eq!(result.is_ok(), variant, "byte {byte} of {pdu:?}");
                if let Ok(received) = result {
                    assert_eq!(received.pdu, pdu);
                    assert_eq!(received.payload, pattern(pdu.length as usize));
                    assert_eq!(received.source, path.source);
                    assert_eq!(received.destination, path.destination);
                }
                frame[byte] ^= mask;
            }
        }
    }

    #[test]
    fn invariant_bits_count_as_icrc_errors() {
        let body = Body::Send {
            place: Place::Only,
            tail: SendTail::None,
        };
        for path in paths() {
            let mut frame = frame(&path, &pdu(body, 64));
            let bth = datagram(&path) + 8;
            for byte in (bth..frame.len()).filter(|byte| *byte != bth + 4) {
                frame[byte] ^= 0x10;
                assert_eq!(parse(&frame), Err(DropReason::Icrc), "byte {byte}");
                frame[byte] ^= 0x10;
            }
        }
    }

    #[test]
    fn noise_is_harmless() {
        for seed in 1..=20_000 {
            let mut random = Random(seed);
            let noise: Vec<u8> = (0..random.below(120))
                .map(|_| random.next() as u8)
                .collect();
            assert!(parse(&noise).is_err(), "seed {seed}");
        }
    }

    #[test]
    fn signed_noise_is_harmless() {
        let samples: Vec<_> = samples().collect();
        for seed in 1..=20_000 {
            let mut random = Random(seed);
            let (path, pdu) = &samples[random.below(samples.len())];
            let mut frame = frame(path, pdu);
            let from = datagram(path) + 8;
            for _ in 0..=random.below(6) {
                let at = from + random.below(frame.len() - from);
                frame[at] = random.next() as u8;
            }
            sign(path, &mut frame);
            let result = parse(&frame);
            assert_ne!(result, Err(DropReason::Icrc), "seed {seed}");
            assert_ne!(result, Err(DropReason::NotRoce), "seed {seed}");
            if let Ok(received) = result {
                assert_eq!(received.pdu.length as usize, received.payload.len());
            }
        }
    }
}

mod gates {
    use super::*;

    const SEND: Body = Body::Send {
        place: Place::Only,
        tail: SendTail::None,
    };

    /// What becomes of a frame of 20 bytes of payload after a change, with right checksums.
    #[track_caller]
    fn after(path: Path, body: Body, change: impl FnOnce(&mut [u8])) -> Option<DropReason> {
        let length = if has_payload(&body) { 20 } else { 0 };
        let mut frame = frame(&path, &pdu(body, length));
        change(&mut frame[network(&path)..]);
        sign(&path, &mut frame);
        parse(&frame).err()
    }

    #[test]
    fn what_is_not_roce_is_left_to_others() {
        let not_roce = Some(DropReason::NotRoce);
        assert_eq!(after(path_v4(), SEND, |ip| ip[9] = 6), not_roce);
        assert_eq!(after(path_v6(), SEND, |ip| ip[6] = 58), not_roce);
        assert_eq!(after(path_v4(), SEND, |ip| ip[6] = 0x20), not_roce);
        assert_eq!(after(path_v4(), SEND, |ip| ip[7] = 1), not_roce);
        assert_eq!(after(path_v4(), SEND, |ip| ip[20 + 3] ^= 1), not_roce);
        assert_eq!(after(path_v6(), SEND, |ip| ip[40 + 3] ^= 1), not_roce);
        let mut arp = frame(&path_v4(), &pdu(SEND, 0));
        arp[13] = 6;
        assert_eq!(parse(&arp), Err(DropReason::NotRoce));
        assert_eq!(DropReason::NotRoce.counter(), None);
    }

    #[test]
    fn fragments_may_be_allowed_but_not_made() {
        assert_eq!(after(path_v4(), SEND, |ip| ip[6] = 0), None);
    }

    #[test]
    fn ip_headers_must_be_sound() {
        let header = Some(DropReason::IpHeader);
        assert_eq!(after(path_v6(), SEND, |ip| ip[0] = 0x50), header);
        let mut bad = frame(&path_v4(), &pdu(SEND, 0));
        bad[14] = 0x55;
        assert_eq!(parse(&bad).err(), header);
        bad[14] = 0x44;
        assert_eq!(parse(&bad).err(), header);
        bad[14] = 0x45;
        bad[14 + 10] ^= 0x80;
        assert_eq!(parse(&bad).err(), header);
    }

    #[test]
    fn ip_options_are_skipped() {
        let pdu = pdu(SEND, 20);
        let mut frame = frame(&path_v4(), &pdu);
        frame.splice(34..34, [1, 1, 1, 1, 1, 1, 1, 0]);
        frame[14] = 0x47;
        frame[14 + 3] += 8;
        sign(&path_v4(), &mut frame);
        assert_received(&parse(&frame).unwrap(), &path_v4(), &pdu);
        frame[36] = 0;
        assert_eq!(parse(&frame), Err(DropReason::IpHeader));
    }

    #[test]
    fn priority_tags_belong_to_no_vlan() {
        let path = Path {
            vlan: 1,
            ..path_v4()
        };
        let mut frame = frame(&path, &pdu(SEND, 4));
        frame[15] = 0;
        let received = parse(&frame).unwrap();
        assert_eq!((received.vlan, received.priority), (0, 3));
    }

    #[test]
    fn lengths_must_agree() {
        let length = Some(DropReason::Length);
        assert_eq!(after(path_v4(), SEND, |ip| ip[20 + 5] -= 4), length);
        assert_eq!(after(path_v6(), SEND, |ip| ip[40 + 5] += 4), length);
        for missing in 1..4 {
            // The pad count does not say so.
            let shorten = |ip: &mut [u8]| {
                ip[3] -= missing;
                ip[20 + 5] -= missing;
            };
            assert_eq!(after(path_v4(), SEND, shorten), length);
        }
    }

    #[test]
    fn padding_must_be_there() {
        for pad in 0..4 {
            let flags = 0x40 | pad << 4;
            assert_eq!(after(path_v4(), SEND, |ip| ip[29] = flags), None);
        }
        let mut empty = frame(&path_v4(), &pdu(SEND, 0));
        empty[14 + 29] = 0x50;
        sign(&path_v4(), &mut empty);
        assert_eq!(parse(&empty), Err(DropReason::Length));
    }

    #[test]
    fn transport_headers_have_one_version() {
        let result = after(path_v4(), SEND, |ip| ip[29] |= 1);
        assert_eq!(result, Some(DropReason::TransportVersion));
    }

    #[test]
    fn what_carries_no_payload_may_not_have_any() {
        let unexpected = Some(DropReason::UnexpectedPayload);
        for body in bodies().into_iter().filter(|body| !has_payload(body)) {
            assert_eq!(after(path_v4(), body, |ip| ip[29] |= 0x10), unexpected);
            let mut frame = frame(&path_v4(), &pdu(body, 0));
            frame.truncate(usize::from(frame[17]) + 14);
            frame.extend_from_slice(&[0; 4]);
            frame[17] += 4;
            frame[39] += 4;
            sign(&path_v4(), &mut frame);
            assert_eq!(parse(&frame).err(), unexpected);
        }
    }

    #[test]
    fn reserved_syndromes_are_dropped() {
        let body = Body::Acknowledge(acknowledge(Syndrome::Ack(0)));
        for syndrome in 0..=255 {
            let known = matches!(syndrome, 0..=0x3f | 0x60..=0x64);
            let expected = (!known).then_some(DropReason::Syndrome);
            assert_eq!(after(path_v4(), body, |ip| ip[40] = syndrome), expected);
        }
    }

    #[test]
    fn every_opcode_is_known_or_refused() {
        for opcode in 0..=255 {
            // As much payload as the longest header needs.
            let mut frame = frame(&path_v6(), &pdu(SEND, 28));
            frame[14 + 48] = opcode;
            sign(&path_v6(), &mut frame);
            let unknown = matches!(
                opcode,
                0x15 | 0x18..=0x1f
                    | 0x2c..=0x3f
                    | 0x56..=0x63
                    | 0x66..=0x80
                    | 0x82..=0x9f
                    | 0xb5
                    | 0xb8..=0xff
            );
            let unsupported = !unknown && opcode >= 0x20 && opcode != 0x81;
            let result = parse(&frame).err();
            assert_eq!(result == Some(DropReason::UnknownOpcode), unknown);
            assert_eq!(result == Some(DropReason::UnsupportedOpcode), unsupported);
        }
    }

    #[test]
    fn reserved_bits_are_ignored() {
        let pdu = pdu(SEND, 20);
        let mut frame = frame(&path_v4(), &pdu);
        frame[14 + 28 + 4] = 0x3f;
        frame[14 + 28 + 8] |= 0x7f;
        sign(&path_v4(), &mut frame);
        assert_received(&parse(&frame).unwrap(), &path_v4(), &pdu);
    }
}

mod writing {
    use super::*;

    #[track_caller]
    fn refused(path: &Path, pdu: &Pdu) -> EmitError {
        let mut frame = vec![0; frame_length(path, pdu).min(1 << 20)];
        emit_headers(path, pdu, 0, &mut frame).unwrap_err()
    }

    #[test]
    fn keys_are_numbers_and_immediate_data_are_bytes() {
        let place = Place::Only;
        let bytes = [1, 2, 3, 4];
        for tail in [
            SendTail::Immediate(u32::from_ne_bytes(bytes)),
            SendTail::Invalidate(u32::from_be_bytes(bytes)),
        ] {
            let frame = frame(&path_v4(), &pdu(Body::Send { place, tail }, 0));
            assert_eq!(frame[54..58], bytes);
        }
    }

    /// The bytes between the base transport header and the ICRC.
    #[track_caller]
    fn extension(body: Body) -> Vec<u8> {
        let mut frame = frame(&path_v4(), &pdu(body, 0));
        frame.truncate(14 + usize::from(frame[17]) - 4);
        frame.split_off(14 + 20 + 8 + 12)
    }

    #[test]
    fn base_transport_headers_stand_as_specified() {
        let body = Body::Send {
            place: Place::Last,
            tail: SendTail::Invalidate(0),
        };
        let path = Path {
            pkey: 0x8abc,
            ..path_v4()
        };
        for (solicited, flags) in [(false, 0x50), (true, 0xd0)] {
            let pdu = Pdu {
                solicited,
                ..pdu(body, 3)
            };
            let header = [
                0x16, flags, 0x8a, 0xbc, 0x00, 0x12, 0x34, 0x56, 0x80, 0xfe, 0xdc, 0xba,
            ];
            assert_eq!(frame(&path, &pdu)[42..54], header);
        }
    }

    #[test]
    fn extended_transport_headers_stand_as_specified() {
        let range = [
            0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, // virtual address
            0xfe, 0xdc, 0xba, 0x98, // remote key
        ];
        let length = [0x76, 0x54, 0x32, 0x10];
        let swap = [0x55, 0x55, 0x66, 0x66, 0x77, 0x77, 0x88, 0x88];
        let compare = [0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44];
        let atomic = |operation| Body::Atomic {
            address: RANGE.address,
            rkey: RANGE.rkey,
            operation,
        };
        let read = Body::Read { source: RANGE };
        assert_eq!(extension(read), [&range[..], &length].concat());
        let write = Body::Write {
            place: Place::Only,
            target: Some(RANGE),
            immediate: Some(u32::from_ne_bytes([1, 2, 3, 4])),
        };
        let immediate = [1, 2, 3, 4];
        let expected = [&range[..], &length, &immediate].concat();
        assert_eq!(extension(write), expected);
        let compare_swap = atomic(AtomicOperation::CompareSwap {
            compare: u64::from_be_bytes(compare),
            swap: u64::from_be_bytes(swap),
        });
        let expected = [&range[..], &swap, &compare].concat();
        assert_eq!(extension(compare_swap), expected);
        let fetch_add = atomic(AtomicOperation::FetchAdd(u64::from_be_bytes(swap)));
        let expected = [&range[..], &swap, &[0; 8]].concat();
        assert_eq!(extension(fetch_add), expected);
        let response = Body::AtomicResponse {
            acknowledge: acknowledge(Syndrome::Nak(NakCode::RemoteAccess)),
            original: u64::from_be_bytes(compare),
        };
        let expected = [&[0x62, 0xab, 0xcd, 0xef][..], &compare].concat();
        assert_eq!(extension(response), expected);
        let not_ready = Body::Acknowledge(acknowledge(Syndrome::RnrNak(12)));
        assert_eq!(extension(not_ready), [0x2c, 0xab, 0xcd, 0xef]);
    }

    #[test]
    fn what_no_packet_can_say_is_refused() {
        let write = |place, target| Body::Write {
            place,
            target,
            immediate: None,
        };
        let response = |place, acknowledge| Body::ReadResponse { place, acknowledge };
        let ack = acknowledge(Syndrome::Ack(0));
        for body in [
            write(Place::First, None),
            write(Place::Middle, Some(RANGE)),
            response(Place::Middle, Some(ack)),
            response(Place::Last, None),
            Body::Send {
                place: Place::First,
                tail: SendTail::Immediate(1),
            },
        ] {
            assert_eq!(refused(&path_v4(), &pdu(body, 4)), EmitError::NoSuchPacket);
        }
        let ack = pdu(Body::Acknowledge(ack), 4);
        assert_eq!(refused(&path_v6(), &ack), EmitError::NoSuchPacket);
        let mut run = pdu(write(Place::Only, Some(RANGE)), 4);
        run.packets = 2;
        assert_eq!(refused(&path_v6(), &run), EmitError::NoSuchPacket);
    }

    #[test]
    fn paths_have_one_address_family() {
        let pdu = pdu(Body::Congestion, 0);
        for (source, destination) in [(path_v4(), path_v6()), (path_v6(), path_v4())] {
            let path = Path {
                destination: destination.destination,
                ..source
            };
            assert_eq!(refused(&path, &pdu), EmitError::AddressFamily);
        }
    }

    #[test]
    fn packets_do_not_exceed_ip() {
        let body = Body::Send {
            place: Place::Middle,
            tail: SendTail::None,
        };
        for length in [65_535, 65_500, 100_000] {
            let pdu = pdu(body, length);
            assert_eq!(refused(&path_v4(), &pdu), EmitError::TooLong, "{length}");
        }
        for length in [u32::MAX, u32::MAX - 7] {
            assert_eq!(
                refused(&path_v6(), &pdu(body, length as usize)),
                EmitError::FrameLength
            );
        }
        for length in [65_480, 65_488] {
            let pdu = pdu(body, length);
            assert_received(&parse(&frame(&path_v4(), &pdu)).unwrap(), &path_v4(), &pdu);
        }
    }

    #[test]
    fn the_room_has_the_right_length() {
        for path in paths() {
            let pdu = pdu(Body::Congestion, 0);
            for wrong in [0, 1, 13, 40, frame_length(&path, &pdu) - 1, 200] {
                let mut frame = vec![0; wrong];
                let result = emit_headers(&path, &pdu, 0, &mut frame);
                assert_eq!(result, Err(EmitError::FrameLength));
            }
            let mut frame = vec![0; frame_length(&path, &pdu)];
            let headers = emit_headers(&path, &pdu, 0, &mut frame).unwrap();
            let result = headers.finish(&mut frame[..50]);
            assert_eq!(result, Err(EmitError::FrameLength));
        }
    }

    #[test]
    fn short_frames_are_padded() {
        let body = Body::Send {
            place: Place::Only,
            tail: SendTail::None,
        };
        let frame = frame(&path_v4(), &pdu(body, 0));
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[58..], [0, 0]);
    }
}
