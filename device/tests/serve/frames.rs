//! Reads captures: pcapng as far as the tests need it, with every length checked.

use std::path::Path;

/// What is in a capture.
pub(crate) struct Frames {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Frames that the writer had no room for, as the file tells at its end.
    pub(crate) lost: u64,
}

/// Reads the capture at `path`: whole blocks, whole frames, and statistics at the end that tell of
/// these frames and of those that are missing.
#[track_caller]
pub(crate) fn read(path: &Path) -> Frames {
    let bytes = std::fs::read(path).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let (mut at, mut kinds, mut frames) = (0, Vec::new(), Vec::new());
    let mut statistics = None;
    while at < bytes.len() {
        let (kind, length) = (u32_at(at), u32_at(at + 4) as usize);
        assert!(length >= 12 && length % 4 == 0, "block length {length}");
        assert_eq!(u32_at(at + length - 4) as usize, length, "second length");
        if kind == 6 {
            let captured = u32_at(at + 20) as usize;
            assert_eq!(u32_at(at + 24) as usize, captured, "frames are whole");
            frames.push(bytes[at + 28..at + 28 + captured].to_vec());
        }
        if kind == 5 {
            // Two options of 8 bytes, received (4) and dropped (5).
            let codes = (u32_at(at + 20) & 0xffff, u32_at(at + 32) & 0xffff);
            assert_eq!(codes, (4, 5));
            statistics = Some((u64_at(at + 24), u64_at(at + 36)));
        }
        kinds.push(kind);
        at += length;
    }
    assert_eq!(kinds.first(), Some(&0x0a0d_0d0a), "section header");
    assert_eq!(kinds.get(1), Some(&1), "interface");
    assert_eq!(kinds.last(), Some(&5), "statistics end a complete capture");
    let (seen, lost) = statistics.unwrap();
    assert_eq!(seen, frames.len() as u64 + lost, "seen");
    Frames { frames, lost }
}

/// Whether `frame` is RoCEv2 over IPv4.
pub(crate) fn is_roce(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
        && frame.get(23) == Some(&17)
        && frame.get(36..38) == Some(&4791u16.to_be_bytes())
}
