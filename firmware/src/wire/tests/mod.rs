//! Known frames, round trips, damage, hostile frames; here what those share.

extern crate std;

mod captures;
mod checksum;
mod damage;
mod frame;
mod gates;
mod known;
mod round_trip;
mod route;
mod writing;

use std::vec;
use std::vec::Vec;

use super::network::Network;
use super::{DropReason, EmitError, Received, emit, emit_headers, frame_length, parse};
use crate::pdu::{
    Acknowledge, AtomicOperation, Body, FlushExtent, NakCode, Pdu, Place, Placement, RemoteRange,
    SendTail, Service, Syndrome,
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

const DATAGRAM: Service = Service::Datagram {
    qkey: 0x8001_0203,
    source: Qpn::new(0x65_4321),
};

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
    bodies.push(Body::AtomicWrite {
        address: RANGE.address,
        rkey: RANGE.rkey,
        value: *b"in order",
    });
    bodies.extend(flushes());
    bodies.push(Body::AtomicResponse {
        acknowledge: acknowledge(Syndrome::Ack(31)),
        original: 0x8877_6655_4433_2211,
    });
    bodies.extend(syndromes().map(|syndrome| Body::Acknowledge(acknowledge(syndrome))));
    bodies
}

fn flushes() -> impl Iterator<Item = Body> {
    let extents = [FlushExtent::Range, FlushExtent::Region];
    extents.into_iter().flat_map(|extent| {
        let kinds = [(true, false), (false, true), (true, true)];
        kinds.map(move |(global, persistent)| Body::Flush {
            target: RANGE,
            extent,
            placement: Placement { global, persistent },
        })
    })
}

/// Whether a transport service has the operation (IBTA volume 1, table "OpCode field").
fn belongs(service: Service, body: &Body) -> bool {
    match service {
        Service::Reliable => true,
        Service::Unreliable => match body {
            Body::Send { tail, .. } => !matches!(tail, SendTail::Invalidate(_)),
            Body::Write { .. } => true,
            _ => false,
        },
        Service::Datagram { .. } => matches!(
            body,
            Body::Send {
                place: Place::Only,
                tail: SendTail::None | SendTail::Immediate(_),
            }
        ),
        Service::Extended { .. } => *body != Body::Congestion,
    }
}

fn is_response(body: &Body) -> bool {
    matches!(
        body,
        Body::ReadResponse { .. } | Body::AtomicResponse { .. } | Body::Acknowledge(_)
    )
}

/// Every opcode of every transport service, every syndrome, and congestion notification.
fn packets() -> Vec<(Service, Body)> {
    let mut packets = vec![];
    for body in bodies() {
        let srqn = if is_response(&body) { 0 } else { 0xab_cdef };
        let extended = Service::Extended { srqn };
        let services = [Service::Reliable, Service::Unreliable, DATAGRAM, extended];
        let fitting = services.into_iter().filter(|&s| belongs(s, &body));
        packets.extend(fitting.map(|service| (service, body)));
    }
    packets
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

/// A PDU of a reliable connection.
fn pdu(body: Body, length: usize) -> Pdu {
    pdu_of(Service::Reliable, body, length)
}

fn pdu_of(service: Service, body: Body, length: usize) -> Pdu {
    Pdu {
        destination: Qpn::new(0x12_3456),
        service,
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
        migrated: pdu.body != Body::Congestion && !path.armed,
        fecn: false,
        becn: pdu.body == Body::Congestion,
        pdu: *pdu,
        payload: &pattern(pdu.length as usize),
        // Compared byte by byte where it is the subject.
        network: received.network,
    };
    assert_eq!(*received, expected);
    assert_eq!(matches!(received.network, Network::V4(_)), is_v4(path));
}
