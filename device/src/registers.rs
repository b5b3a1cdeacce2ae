//! BAR0 as clients see it: reads are served at once, writes become 32-bit register writes.
//!
//! A client can hold a big lock while it waits for a register, and may need that lock to answer a
//! DMA message; so a read never waits for the engine. The engine publishes the value of every
//! read-only register whenever that changes ([`Registers::publish`]), and the thread that serves the
//! client reads the published value. Read/write registers belong to that thread alone: what a client
//! writes is readable before the engine has even seen it, and a reset that is requested makes them
//! zero at once ([`Registers::begin_reset`]), so that the engine, which comes to it later, cannot
//! undo what was written in between.

use std::sync::atomic::{AtomicU32, Ordering};

use vrnic_abi::registers::{DeviceState, device_status};
use vrnic_abi::{Register, RegisterAccess, pci, registers};

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
    /// Engine: makes `value` what the register at byte `offset` reads as, unless that is a
    /// read/write register.
    pub fn publish(&self, offset: u32, value: u32) {
        let access = register_at(offset).map(|register| register.access);
        if access != Some(RegisterAccess::ReadWrite) {
            self.store(offset, value);
        }
    }

    /// A reset was requested: the registers say so until the engine has carried it out.
    pub fn begin_reset(&self) {
        let writable = |register: &&Register| register.access == RegisterAccess::ReadWrite;
        for register in registers::ALL.iter().filter(writable) {
            self.store(register.offset, 0);
        }
        let mut status = [0; 4];
        self.read(registers::DEVICE_STATUS.offset.into(), &mut status);
        let count = device_status::RESET_COUNT.get(u32::from_le_bytes(status));
        let status = device_status::RESET_COUNT.put(count)
            | device_status::STATE.put(DeviceState::Resetting.raw().into());
        self.store(registers::DEVICE_STATUS.offset, status);
    }

    fn store(&self, offset: u32, value: u32) {
        if let Some(word) = self.words.get(offset as usize / 4) {
            word.store(value, Ordering::Release);
        }
    }

    /// The value of the register at `offset`, 0 if there is none.
    #[must_use]
    pub fn get(&self, offset: u32) -> u32 {
        let word = self.words.get(offset as usize / 4);
        word.map_or(0, |word| word.load(Ordering::Acquire))
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

fn register_at(offset: u32) -> Option<&'static Register> {
    let mut all = registers::ALL.iter();
    all.find(|register| register.offset == offset)
}

/// Looks the register up; makes a read/write one readable. `None` if it cannot be written.
fn accept(published: &Registers, offset: u32, value: u32) -> Option<u32> {
    match register_at(offset)?.access {
        RegisterAccess::ReadOnly => return None,
        RegisterAccess::WriteOnly if offset == registers::RESET.offset => {
            if value == registers::RESET_VALUE {
                published.begin_reset();
            }
        }
        RegisterAccess::WriteOnly => {}
        RegisterAccess::ReadWrite => published.store(offset, value),
    }
    Some(value)
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
            (0x44, &[0x52, 0x53]),
            (0x46, &[0x45, 0x54]),
        ]);
        assert_eq!(seen, [(0x30, 1), (0x34, 2), (0x44, 0x5445_5352)]);
        let mut back = [0xaa; 9];
        published.read(0x30, &mut back);
        assert_eq!(back, [1, 0, 0, 0, 2, 0, 0, 0, 0]);
        published.read(0x44, &mut back[..4]);
        assert_eq!(back[..4], [0; 4], "write-only registers read as zero");
    }

    #[test]
    fn a_reset_clears_what_clients_write_and_the_engine_does_not() {
        let (_, published) = writes(&[(0x30, &[1, 0, 0, 0])]);
        let read = |offset: u64| {
            let mut back = [0xaa; 4];
            published.read(offset, &mut back);
            u32::from_le_bytes(back)
        };
        published.publish(0x30, 9);
        published.publish(0x24, 0x501);
        assert_eq!((read(0x30), read(0x24)), (1, 0x501));
        let _ = accept(&published, 0x28, 1);
        assert_eq!((read(0x30), read(0x24)), (1, 0x501), "not the right value");
        let _ = accept(&published, 0x28, registers::RESET_VALUE);
        assert_eq!((read(0x30), read(0x24)), (0, 0x503));
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
