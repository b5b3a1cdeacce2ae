//! Test data in DMA memory: patterns, checksums and guard bytes.
//!
//! A message is a sequence of bytes that a seed determines. It lies in memory in pieces, with gaps
//! between and around them; a receiver's memory is filled with guard bytes before, and afterwards
//! they must still stand in the gaps.

use vrnic_driver::DmaBuffer;
use vrnic_driver_vfio::DmaMemory;

/// Bytes handled at a time.
const BLOCK: usize = 4096;
/// Bytes between two pieces, and at least around all of them.
const GAP: u64 = 37;

/// A part of the memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// `size` bytes in `count` pieces from `offset` on.
pub(crate) fn pieces(offset: u64, size: u64, count: u64) -> Vec<Piece> {
    let count = count.max(1);
    let mut place = offset;
    let mut piece = |length| {
        let piece = Piece {
            offset: place,
            length,
        };
        place += length + GAP;
        piece
    };
    let share = size / count;
    let mut pieces: Vec<_> = (1..count).map(|_| piece(share)).collect();
    pieces.push(piece(size - share * (count - 1)));
    pieces
}

/// Memory that `pieces` need, with the guard bytes behind them.
pub(crate) fn extent(pieces: &[Piece]) -> u64 {
    pieces
        .last()
        .map_or(0, |piece| piece.offset + piece.length + GAP)
}

/// Word `index` of the message of `seed` (splitmix64).
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Calls `f` with each contiguous part of `pieces` that lies in one block of the message: offset
/// in the memory, offset in the message, length.
fn parts(pieces: &[Piece], mut f: impl FnMut(u64, u64, usize)) {
    let mut position = 0;
    for piece in pieces {
        let mut done = 0;
        while done < piece.length {
            let block_left = BLOCK as u64 - position % BLOCK as u64;
            let length = block_left.min(piece.length - done);
            f(piece.offset + done, position, length as usize);
            done += length;
            position += length;
        }
    }
}

/// Writes the message of `seed`.
pub(crate) fn fill(memory: &DmaMemory, pieces: &[Piece], seed: u64) {
    let mut block = [0u8; BLOCK];
    let mut current = None;
    parts(pieces, |offset, position, length| {
        let number = position / BLOCK as u64;
        if current != Some(number) {
            let first = number * (BLOCK as u64 / 8);
            for (index, bytes) in block.chunks_exact_mut(8).enumerate() {
                bytes.copy_from_slice(&word(seed, first + index as u64).to_le_bytes());
            }
            current = Some(number);
        }
        let start = (position % BLOCK as u64) as usize;
        let bytes = block.get(start..start + length).unwrap_or_default();
        memory.write(offset as usize, bytes);
    });
}

/// Checksum of the message that lies in `pieces`: depends on every byte, its place, and the length.
pub(crate) fn checksum(memory: &DmaMemory, pieces: &[Piece]) -> u64 {
    let mut block = [0u8; BLOCK];
    let mut sum = Sum::new();
    parts(pieces, |offset, position, length| {
        let start = (position % BLOCK as u64) as usize;
        let end = start + length;
        if let Some(bytes) = block.get_mut(start..end) {
            memory.read(offset as usize, bytes);
        }
        if end == BLOCK {
            sum.add(&block);
        }
    });
    let size: u64 = pieces.iter().map(|piece| piece.length).sum();
    let rest = (size % BLOCK as u64) as usize;
    sum.add(block.get(..rest).unwrap_or_default());
    sum.finish(size)
}

struct Sum(u64);

impl Sum {
    /// Of no bytes; not 0, so that nothing is not taken for something that nobody computed.
    fn new() -> Self {
        Self(0x6a09_e667_f3bc_c908)
    }

    fn add(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            let mixed = self.0 ^ u64::from_le_bytes(word);
            self.0 = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    fn finish(self, size: u64) -> u64 {
        let mixed = (self.0 ^ size).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ mixed >> 32
    }
}

fn guard_byte(offset: u64) -> u8 {
    (offset as u8).wrapping_mul(31) ^ 0xc3
}

/// Fills the first `length` bytes with guard bytes.
pub(crate) fn guard(memory: &DmaMemory, length: u64) {
    let block: [u8; BLOCK] = std::array::from_fn(|index| guard_byte(index as u64));
    let mut offset = 0;
    while offset < length {
        let part = (length - offset).min(BLOCK as u64) as usize;
        memory.write(offset as usize, block.get(..part).unwrap_or_default());
        offset += part as u64;
    }
}

/// Offset of the first guard byte around `pieces` that does not stand any more.
pub(crate) fn broken_guard(memory: &DmaMemory, pieces: &[Piece]) -> Option<u64> {
    let mut gaps = Vec::new();
    let mut start = 0;
    for piece in pieces {
        gaps.push((start, piece.offset));
        start = piece.offset + piece.length;
    }
    gaps.push((start, extent(pieces)));
    gaps.into_iter()
        .flat_map(|(from, to)| from..to)
        .find(|offset| {
            let mut byte = [0];
            memory.read(*offset as usize, &mut byte);
            byte != [guard_byte(*offset)]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_size_with_gaps() {
        for (size, count) in [(0, 1), (1, 3), (100, 1), (10_001, 7), (4096, 2)] {
            let pieces = pieces(5, size, count);
            assert_eq!(pieces.len() as u64, count);
            assert_eq!(pieces.iter().map(|piece| piece.length).sum::<u64>(), size);
            for pair in pieces.windows(2) {
                assert_eq!(pair[0].offset + pair[0].length + GAP, pair[1].offset);
            }
        }
    }

    #[test]
    fn parts_stay_within_blocks_and_cover_everything() {
        let pieces = pieces(3, 20_000, 3);
        let mut next = 0;
        parts(&pieces, |_, position, length| {
            assert_eq!(position, next);
            next += length as u64;
            assert!(position / BLOCK as u64 == (next - 1) / BLOCK as u64);
        });
        assert_eq!(next, 20_000);
    }

    #[test]
    fn the_sum_depends_on_order_and_length() {
        let sum = |bytes: &[u8]| {
            let mut sum = Sum::new();
            sum.add(bytes);
            sum.finish(bytes.len() as u64)
        };
        assert_ne!(sum(&[1, 2]), sum(&[2, 1]));
        assert_ne!(sum(&[1]), sum(&[1, 0]));
        assert_ne!(sum(&[]), sum(&[0]));
    }
}
