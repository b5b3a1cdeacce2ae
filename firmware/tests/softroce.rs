//! Frames that Linux Soft-RoCE sent: the codec reads every one, and writes the same bytes.
//!
//! The frames are in `data/softroce.hex`, whose head says how to make it again.

use std::collections::BTreeSet;

use vrnic_firmware::transport::Path;
use vrnic_firmware::wire::{Received, emit, frame_length, parse};

const FRAMES: &str = include_str!("data/softroce.hex");

/// Length of the Ethernet header.
const ETHERNET: usize = 14;

fn frames() -> Vec<Vec<u8>> {
    let digit = |digit: u8| {
        (digit as char)
            .to_digit(16)
            .map_or(0xff, |value| value as u8)
    };
    let bytes = |line: &str| {
        let pairs = line.as_bytes().chunks_exact(2);
        pairs
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    };
    let lines = FRAMES.lines().filter(|line| !line.starts_with('#'));
    lines.map(bytes).collect()
}

/// Where the base transport header starts.
fn transport_header(frame: &[u8]) -> usize {
    let ip = if frame[ETHERNET] >> 4 == 4 { 20 } else { 40 };
    ETHERNET + ip + 8
}

/// The path that a frame took.
fn path(received: &Received<'_>) -> Path {
    Path {
        source: received.source,
        source_mac: received.source_mac,
        vlan: received.vlan,
        destination: received.destination,
        destination_mac: received.destination_mac,
        udp_source: received.udp_source,
        flow_label: received.flow_label,
        hop_limit: received.hop_limit,
        traffic_class: received.traffic_class,
        pkey: received.pkey,
        armed: !received.migrated,
        ..Path::default()
    }
}

#[test]
fn every_frame_is_read_and_written_to_the_bit() {
    for frame in frames() {
        // Reading compares the ICRC with one of our own.
        let received = parse(&frame).unwrap_or_else(|why| panic!("{why:?}: {frame:02x?}"));
        let identification = match received.source.to_v4() {
            Some(_) => u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]),
            None => 0,
        };
        let path = path(&received);
        let mut ours = vec![0xa5; frame_length(&path, &received.pdu)];
        emit(
            &path,
            &received.pdu,
            identification,
            received.payload,
            &mut ours,
        )
        .unwrap();

        // The ICRC included.
        assert_eq!(ours[..frame.len()], frame[..], "{:?}", received.pdu);
        // Soft-RoCE leaves frames shorter than Ethernet's shortest to be padded by others.
        assert!(ours[frame.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_damaged_bit_shows() {
    for frame in frames() {
        for bit in 8 * transport_header(&frame)..8 * frame.len() {
            // The byte behind the partition key may change on the way.
            if bit / 8 == transport_header(&frame) + 4 {
                continue;
            }
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&damaged).is_err(), "bit {bit} of {frame:02x?}");
        }
    }
}

#[test]
fn every_opcode_is_there_over_both_versions_of_ip() {
    let kind = |frame: &Vec<u8>| (frame[ETHERNET] >> 4, frame[transport_header(frame)]);
    let found: BTreeSet<_> = frames().iter().map(kind).collect();
    // RC from SEND to the atomics, those with invalidate, ATOMIC WRITE; UC; UD.
    let reliable = (0x00..=0x14).chain([0x16, 0x17, 0x1d]);
    let all: Vec<_> = reliable.chain(0x20..=0x2b).chain([0x64, 0x65]).collect();
    let of = |version| all.iter().map(move |opcode| (version, *opcode));
    assert_eq!(found, of(4).chain(of(6)).collect());
}
