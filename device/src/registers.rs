//! BAR0 as clients see it: reads are served at once, writes become 32-bit register writes.
//!
//! A client can hold a big lock while it waits for a register, and may need that lock to answer a
//! DMA message; so a read never waits for the engine. The engine publishes the value of every
//! register whenever that changes ([`Registers::publish`]), the thread that serves the client reads
//! the published value, and makes what a client writes into a read/write register readable before
//! the engine has even seen it.

use std::sync::atomic::{AtomicU32, Ordering};

use vrnic_abi::{RegisterAccess, pci, registers};

const WORDS: usize = (pci::BAR_REGISTERS_SIZE / 4) as usize;

/// The published values of a function's registers.
#[derive(Debug)]
pub struct Registers {
    words: Box<[AtomicU32]>,
}

impl Default for Registers {
    /// All registers zero.
    fn default() -> Self {
        Self {
            words: (0..WORDS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Registers {
    /// Makes `value` what the register at byte `offset` reads as.
    pub fn publish(&self, offset: u32, value: u32) {
        if let Some(word) = self.words.get(offset as usize / 4) {
            word.store(value, Ordering::Release);
        }
    }

    /// Reads bytes from `offset` on; bytes that belong to no register are zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut at = offset;
        for byte in data {
            let word = usize::try_from(at / 4).ok().and_then(|n| self.words.get(n));
            let word = word.map_or(0, |word| word.load(Ordering::Acquire));
            *byte = word.to_le_bytes()[(at % 4) as usize];
            at = at.saturating_add(1);
        }
    }
}

/// Collects a client's writes into writes of whole registers.
#[derive(Debug, Default)]
pub struct WriteCombiner {
    offset: u32,
    bytes: [u8; 4],
}

impl WriteCombiner {
    /// Takes a write of any width. Calls `write` with offset and value for each register whose most
    /// significant byte was written; bytes of it that were not written just before are zero.
    pub fn write(
        &mut self,
        published: &Registers,
        offset: u64,
        data: &[u8],
        mut write: impl FnMut(u32, u32),
    ) {
        for (n, byte) in (0u64..).zip(data) {
            let Some(at) = offset.checked_add(n).and_then(|at| u32::try_from(at).ok()) else {
                return;
            };
            if at & !3 != self.offset {
                (self.offset, self.bytes) = (at & !3, [0; 4]);
            }
            self.bytes[(at % 4) as usize] = *byte;
            if at % 4 == 3 {
                let value = u32::from_le_bytes(std::mem::take(&mut self.bytes));
                if let Some(value) = accept(published, self.offset, value) {
                    write(self.offset, value);
                }
            }
        }
    }
}

/// Looks the register up; makes a read/write one readable. `None` if it cannot be written.
fn accept(published: &Registers, offset: u32, value: u32) -> Option<u32> {
    let register = registers::ALL.iter().find(|r| r.offset == offset)?;
    match register.access {
        RegisterAccess::ReadOnly => None,
        RegisterAccess::WriteOnly => Some(value),
        RegisterAccess::ReadWrite => {
            published.publish(offset, value);
            Some(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(pieces: &[(u64, &[u8])]) -> (Vec<(u32, u32)>, Registers) {
        let (mut combiner, published, mut seen) =
            (WriteCombiner::default(), Registers::default(), Vec::new());
        for (offset, data) in pieces {
            combiner.write(&published, *offset, data, |o, v| seen.push((o, v)));
        }
        (seen, published)
    }

    #[test]
    fn any_width_makes_whole_registers() {
        let (seen, published) = writes(&[
            (0x30, &[1, 0, 0, 0, 2, 0, 0, 0]),
            (0x28, &[0x52, 0x53]),
            (0x2a, &[0x45, 0x54]),
        ]);
        assert_eq!(seen, [(0x30, 1), (0x34, 2), (0x28, registers::RESET_VALUE)]);
        let mut back = [0xaa; 9];
        published.read(0x30, &mut back);
        assert_eq!(back, [1, 0, 0, 0, 2, 0, 0, 0, 0]);
        published.read(0x28, &mut back[..4]);
        assert_eq!(back[..4], [0; 4], "write-only registers read as zero");
    }

    #[test]
    fn read_only_registers_and_holes_take_no_writes() {
        let (seen, published) = writes(&[(0, &[9; 4]), (0x3ff8, &[9; 16]), (u64::MAX, &[9; 4])]);
        assert_eq!(seen, []);
        let mut back = [0xaa; 4];
        published.read(0, &mut back);
        assert_eq!(back, [0; 4]);
        published.read(u64::MAX - 1, &mut back);
        assert_eq!(back, [0; 4]);
    }
}
