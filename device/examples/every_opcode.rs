//! Writes one packet of every opcode of every transport service into a capture, over IPv4, IPv6 and
//! a VLAN, for a dissector that nobody here wrote to judge.
//!
//! `cargo run -p vrnic --example every_opcode -- FILE`

use std::path::Path as FilePath;

use anyhow::{Context, Result, ensure};
use vrnic::capture::{Capture, Direction};
use vrnic_firmware::pdu::{
    Acknowledge, AtomicOperation, Body, FlushExtent, NakCode, Pdu, Place, Placement, RemoteRange,
    SendTail, Service, Syndrome,
};
use vrnic_firmware::transport::Path;
use vrnic_firmware::types::{Gid, Mac, Psn, Qpn};
use vrnic_firmware::wire::{emit, frame_length, parse};

const PLACES: [Place; 4] = [Place::First, Place::Middle, Place::Last, Place::Only];
const RANGE: RemoteRange = RemoteRange {
    address: 0x7f00_1234_5678,
    rkey: 0x0101,
    length: 4096,
};

fn main() -> Result<()> {
    let file = std::env::args_os().nth(1).context("name a file")?;
    let mut capture = Capture::create(FilePath::new(&file))?;
    let mut tap = capture.tap(&["every opcode"]);
    let mut count = 0;
    for path in paths() {
        for pdu in pdus() {
            let payload: Vec<u8> = (0..pdu.length).map(|n| n as u8).collect();
            let mut frame = vec![0; frame_length(&path, &pdu)];
            let written = emit(&path, &pdu, count, &payload, &mut frame);
            ensure!(written.is_ok(), "{pdu:?} is not written: {written:?}");
            let read = parse(&frame).map(|received| received.pdu);
            ensure!(read == Ok(pdu), "{pdu:?} is read as {read:?}");
            tap.record(0, Direction::Sent, &frame);
            count += 1;
        }
    }
    drop(tap);
    capture.finish()?;
    println!("{count} packets");
    Ok(())
}

fn paths() -> [Path; 3] {
    let v4 = Path {
        source: Gid::from_v4([10, 77, 0, 1]),
        source_mac: Mac([2, 0, 0, 0, 0, 1]),
        destination: Gid::from_v4([10, 77, 0, 2]),
        destination_mac: Mac([2, 0, 0, 0, 0, 2]),
        udp_source: 0xc001,
        hop_limit: 64,
        pkey: 0xffff,
        ..Path::default()
    };
    let v6 = |last| {
        let mut gid = [0; 16];
        [gid[0], gid[1], gid[15]] = [0xfe, 0x80, last];
        Gid(gid)
    };
    let mut over_v6 = v4;
    (over_v6.source, over_v6.destination) = (v6(1), v6(2));
    let vlan = Path { vlan: 77, ..v4 };
    [v4, over_v6, vlan]
}

/// Every opcode, payloads of all residues modulo 4 among them.
fn pdus() -> Vec<Pdu> {
    let source = Qpn::new(0x31);
    let datagram = Service::Datagram {
        qkey: 0x8001_0000,
        source,
    };
    let mut all = Vec::new();
    for (service, requests) in [
        (Service::Reliable, reliable_requests()),
        (Service::Unreliable, messages()),
        (datagram, datagrams()),
        (Service::Extended { srqn: 0x21 }, reliable_requests()),
    ] {
        all.extend(requests.into_iter().map(|body| (service, body)));
    }
    for service in [Service::Reliable, Service::Extended { srqn: 0 }] {
        all.extend(responses().into_iter().map(|body| (service, body)));
    }
    all.push((Service::Reliable, Body::Congestion));
    let pdus = all.into_iter().enumerate();
    pdus.map(|(n, (service, body))| pdu(n as u32, service, body))
        .collect()
}

fn pdu(n: u32, service: Service, body: Body) -> Pdu {
    let length = match body {
        Body::Send { .. } | Body::Write { .. } => 64 + n % 4,
        Body::ReadResponse { .. } => 100,
        _ => 0,
    };
    Pdu {
        destination: Qpn::new(0x42),
        service,
        psn: Psn::new(n),
        packets: 1,
        length,
        ack_request: false,
        solicited: false,
        body,
    }
}

/// Parts of SEND and RDMA WRITE, with and without immediate data.
fn messages() -> Vec<Body> {
    let mut bodies = Vec::new();
    for place in PLACES {
        let tails = [SendTail::None, SendTail::Immediate(7)];
        let tails = tails.into_iter().take(1 + usize::from(place.ends()));
        bodies.extend(tails.map(|tail| Body::Send { place, tail }));
        let target = Some(RANGE).filter(|_| place.starts());
        let immediates = [None, Some(7)].into_iter();
        let immediates = immediates.take(1 + usize::from(place.ends()));
        bodies.extend(immediates.map(|immediate| Body::Write {
            place,
            target,
            immediate,
        }));
    }
    bodies
}

fn datagrams() -> Vec<Body> {
    let place = Place::Only;
    [SendTail::None, SendTail::Immediate(7)]
        .map(|tail| Body::Send { place, tail })
        .to_vec()
}

fn reliable_requests() -> Vec<Body> {
    let mut bodies = messages();
    let tail = SendTail::Invalidate(0x0202);
    bodies.extend([Place::Last, Place::Only].map(|place| Body::Send { place, tail }));
    let operations = [
        AtomicOperation::CompareSwap {
            compare: 1,
            swap: 2,
        },
        AtomicOperation::FetchAdd(3),
    ];
    let (address, rkey) = (RANGE.address, RANGE.rkey);
    bodies.extend(operations.map(|operation| Body::Atomic {
        address,
        rkey,
        operation,
    }));
    bodies.extend([
        Body::Read { source: RANGE },
        Body::AtomicWrite {
            address,
            rkey,
            value: *b"8 bytes!",
        },
        Body::Flush {
            target: RANGE,
            extent: FlushExtent::Range,
            placement: Placement {
                global: true,
                persistent: false,
            },
        },
    ]);
    bodies
}

fn responses() -> Vec<Body> {
    let acknowledge = Acknowledge {
        syndrome: Syndrome::Ack(31),
        msn: Psn::new(9),
    };
    let mut bodies: Vec<_> = PLACES
        .map(|place| Body::ReadResponse {
            place,
            acknowledge: Some(acknowledge).filter(|_| place != Place::Middle),
        })
        .to_vec();
    bodies.push(Body::AtomicResponse {
        acknowledge,
        original: 5,
    });
    for syndrome in [
        Syndrome::Ack(31),
        Syndrome::RnrNak(12),
        Syndrome::Nak(NakCode::PsnSequence),
        Syndrome::Nak(NakCode::InvalidRequest),
        Syndrome::Nak(NakCode::RemoteAccess),
        Syndrome::Nak(NakCode::RemoteOperational),
    ] {
        bodies.push(Body::Acknowledge(Acknowledge {
            syndrome,
            ..acknowledge
        }));
    }
    bodies
}
