//! A capture file holds what the port sent and received, and is complete.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use vrnic::capture::{Capture, Direction, Tap};
use vrnic::link::MAX_FRAME;

/// A block as the file has it.
#[derive(Debug, PartialEq)]
enum Block {
    Section,
    Interface {
        name: String,
    },
    Packet {
        interface: u32,
        time: u64,
        flags: u32,
        frame: Vec<u8>,
    },
    Statistics {
        interface: u32,
        seen: u64,
        lost: u64,
    },
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The value of an option; the list must end properly.
fn option(mut list: &[u8], code: u16) -> Option<Vec<u8>> {
    let mut found = None;
    loop {
        let (kind, len) = (u16_at(list, 0), usize::from(u16_at(list, 2)));
        if kind == 0 {
            assert_eq!((len, list.len()), (0, 4), "options end with the block");
            return found;
        }
        if kind == code {
            found = Some(list[4..4 + len].to_vec());
        }
        list = &list[4 + len.next_multiple_of(4)..];
    }
}

/// Reads a file back, checking both lengths of every block.
fn parse(path: &Path) -> Vec<Block> {
    let file = std::fs::read(path).unwrap();
    let (mut rest, mut blocks) = (&file[..], Vec::new());
    while !rest.is_empty() {
        let (kind, len) = (u32_at(rest, 0), u32_at(rest, 4) as usize);
        assert_eq!(len % 4, 0);
        assert_eq!(
            u32_at(rest, len - 4) as usize,
            len,
            "the two lengths of a block"
        );
        blocks.push(parse_block(kind, &rest[8..len - 4]));
        rest = &rest[len..];
    }
    blocks
}

fn parse_block(kind: u32, body: &[u8]) -> Block {
    match kind {
        0x0A0D_0D0A => {
            assert_eq!((u32_at(body, 0), u32_at(body, 4)), (0x1A2B_3C4D, 1));
            Block::Section
        }
        1 => {
            assert_eq!(
                (u16_at(body, 0), u32_at(body, 4)),
                (1, 0),
                "Ethernet, whole frames"
            );
            assert_eq!(option(&body[8..], 9), Some(vec![9]), "nanoseconds");
            let name = String::from_utf8(option(&body[8..], 2).unwrap()).unwrap();
            Block::Interface { name }
        }
        6 => {
            let len = u32_at(body, 12) as usize;
            assert_eq!(u32_at(body, 16) as usize, len, "captured whole");
            let options = &body[20 + len.next_multiple_of(4)..];
            Block::Packet {
                interface: u32_at(body, 0),
                time: u64::from(u32_at(body, 4)) << 32 | u64::from(u32_at(body, 8)),
                flags: u32_at(&option(options, 2).unwrap(), 0),
                frame: body[20..20 + len].to_vec(),
            }
        }
        5 => Block::Statistics {
            interface: u32_at(body, 0),
            seen: u64_at(&option(&body[12..], 4).unwrap(), 0),
            lost: u64_at(&option(&body[12..], 5).unwrap(), 0),
        },
        other => panic!("block type {other:#x}"),
    }
}

#[test]
fn a_capture_reads_back_as_it_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let mut capture = Capture::create(&path).unwrap();
    let mut tap = capture.tap(&["port0"]);
    let mut expected = vec![
        Block::Section,
        Block::Interface {
            name: "port0".to_owned(),
        },
    ];
    for (n, len) in [60, 61, 62, 63, 4175, 9000, MAX_FRAME]
        .into_iter()
        .enumerate()
    {
        let frame: Vec<u8> = (0..len).map(|i| (i * 7 + n) as u8).collect();
        let time = 0x0123_4567_89AB_CDEF + n as u64;
        let (direction, flags) = if n % 2 == 0 {
            (Direction::Received, 1)
        } else {
            (Direction::Sent, 2)
        };
        tap.record_at(time, 0, direction, &frame);
        expected.push(Block::Packet {
            interface: 0,
            time,
            flags,
            frame,
        });
    }
    expected.push(Block::Statistics {
        interface: 0,
        seen: 7,
        lost: 0,
    });
    drop(tap);
    capture.finish().unwrap();
    assert!(parse(&path) == expected, "the file differs");
}

/// Records `count` frames that carry their number, and returns how many were lost.
fn record_many(mut tap: Tap, count: u32) -> u64 {
    let mut frame = [0xA5; 1500];
    for n in 0..count {
        frame[..4].copy_from_slice(&n.to_le_bytes());
        tap.record(0, Direction::Sent, &frame);
    }
    tap.lost()
}

#[test]
fn every_frame_is_in_the_file_or_counted_as_lost() {
    const COUNT: u32 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let mut capture = Capture::create(&path).unwrap();
    let taps = ["a", "b"].map(|name| capture.tap(&[name]));
    let lost: Vec<u64> = std::thread::scope(|scope| {
        let threads = taps.map(|tap| scope.spawn(|| record_many(tap, COUNT)));
        threads.map(|thread| thread.join().unwrap()).into()
    });
    capture.finish().unwrap();

    let (mut numbers, mut statistics) = ([Vec::new(), Vec::new()], [None, None]);
    for block in parse(&path) {
        match block {
            Block::Packet {
                interface, frame, ..
            } => {
                numbers[interface as usize].push(u32_at(&frame, 0));
            }
            Block::Statistics {
                interface,
                seen,
                lost,
            } => {
                statistics[interface as usize] = Some((seen, lost));
            }
            Block::Section | Block::Interface { .. } => {}
        }
    }
    for id in 0..2 {
        assert_eq!(numbers[id].len() as u64 + lost[id], u64::from(COUNT));
        assert!(numbers[id].is_sorted(), "frames of one tap are in order");
        assert_eq!(statistics[id], Some((u64::from(COUNT), lost[id])));
    }
}

#[test]
fn what_was_flushed_is_in_the_file_while_the_tap_lives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let mut capture = Capture::create(&path).unwrap();
    let mut tap = capture.tap(&["port0"]);
    tap.record_at(1, 0, Direction::Sent, &[0xA5; 60]);
    tap.flush();
    tap.flush();
    capture.finish().unwrap();
    let frame = vec![0xA5; 60];
    assert_eq!(
        parse(&path)[2..],
        [Block::Packet {
            interface: 0,
            time: 1,
            flags: 2,
            frame
        }]
    );
    // A tap that outlives its capture does no harm.
    (0..100_000).for_each(|_| tap.record(0, Direction::Sent, &[0; 60]));
    tap.flush();
}

#[test]
fn a_frame_that_no_link_carries_is_counted_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut capture = Capture::create(&dir.path().join("x.pcapng")).unwrap();
    let mut tap = capture.tap(&["port0"]);
    tap.record(0, Direction::Sent, &vec![0; MAX_FRAME + 1]);
    assert_eq!(tap.lost(), 1);
}

#[test]
fn a_full_disk_is_reported_at_the_end() {
    let mut capture = match Capture::create(Path::new("/dev/full")) {
        Ok(capture) => capture,
        Err(_) => return, // already the first block is refused
    };
    let mut tap = capture.tap(&["port0"]);
    tap.record(0, Direction::Sent, &[0; 60]);
    drop(tap);
    assert!(capture.finish().is_err());
}
