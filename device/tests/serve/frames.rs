//! Reads captures: pcapng as far as the tests need it, with every length checked.

use std::path::Path;

/// What is in a capture.
pub(crate) struct Frames {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Frames that the writer had no room for, as the file tells at its end.
    pub(crate) lost: u64,
}

/// What is in a capture of one interface.
#[derive(Debug, Default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) received: Vec<Vec<u8>>,
    /// As [`Frames::lost`].
    pub(crate) lost: u64,
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

/// The blocks of a file, without their types and lengths: whole ones, and a header first.
#[track_caller]
fn blocks(bytes: &[u8]) -> Vec<(u32, &[u8])> {
    let (mut at, mut blocks) = (0, Vec::new());
    while at < bytes.len() {
        let (kind, length) = (u32_at(bytes, at), u32_at(bytes, at + 4) as usize);
        assert!(length >= 12 && length % 4 == 0, "block length {length}");
        let second = u32_at(bytes, at + length - 4) as usize;
        assert_eq!(second, length, "second length");
        blocks.push((kind, &bytes[at + 8..at + length - 4]));
        at += length;
    }
    let kind = |block: Option<&(u32, &[u8])>| block.map(|(kind, _)| *kind);
    assert_eq!(kind(blocks.first()), Some(0x0a0d_0d0a), "section header");
    assert_eq!(kind(blocks.get(1)), Some(1), "interface");
    assert_eq!(kind(blocks.last()), Some(5), "statistics end it");
    blocks
}

/// Reads the capture at `path`: whole blocks, whole frames, and for each interface statistics at the
/// end that tell of these frames and of those that are missing.
#[track_caller]
pub(crate) fn read_interfaces(path: &Path) -> Vec<Interface> {
    let bytes = std::fs::read(path).unwrap();
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut told = 0;
    for (kind, body) in blocks(&bytes) {
        match kind {
            1 => {
                // The name is the first option.
                assert_eq!(u16_at(body, 8), 2, "a name");
                let name = body[12..12 + usize::from(u16_at(body, 10))].to_vec();
                let name = String::from_utf8(name).unwrap();
                interfaces.push(Interface {
                    name,
                    ..Interface::default()
                });
            }
            6 => {
                let captured = u32_at(body, 12) as usize;
                assert_eq!(u32_at(body, 16) as usize, captured, "frames are whole");
                let frame = body[20..20 + captured].to_vec();
                let option = 20 + captured.next_multiple_of(4);
                assert_eq!((u16_at(body, option), u16_at(body, option + 2)), (2, 4));
                let interface = &mut interfaces[u32_at(body, 0) as usize];
                match u32_at(body, option + 4) {
                    1 => interface.received.push(frame),
                    2 => interface.sent.push(frame),
                    other => panic!("flags {other:#x}"),
                }
            }
            5 => {
                // Two options of 8 bytes, received (4) and dropped (5).
                assert_eq!((u16_at(body, 12), u16_at(body, 24)), (4, 5));
                let interface = &mut interfaces[u32_at(body, 0) as usize];
                let (seen, lost) = (u64_at(body, 16), u64_at(body, 28));
                let frames = interface.sent.len() + interface.received.len();
                assert_eq!(seen, frames as u64 + lost, "seen");
                interface.lost = lost;
                told += 1;
            }
            _ => {}
        }
    }
    assert_eq!(told, interfaces.len(), "statistics");
    interfaces
}

/// Reads a capture of one interface.
#[track_caller]
pub(crate) fn read(path: &Path) -> Frames {
    let mut interfaces = read_interfaces(path);
    let one = interfaces.pop().unwrap();
    assert!(interfaces.is_empty(), "one interface");
    Frames {
        frames: [one.sent, one.received].concat(),
        lost: one.lost,
    }
}

/// Whether `frame` is RoCEv2 over IPv4.
pub(crate) fn is_roce(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
        && frame.get(23) == Some(&17)
        && frame.get(36..38) == Some(&4791u16.to_be_bytes())
}
