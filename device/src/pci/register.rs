//! What a configuration register is, and the file of all of them.
//!
//! A [`Register`] says which bits software writes (RW), clears by writing one (RW1C), which
//! survive a function level reset (the sticky kinds, and those that section 6.6.2 excepts), and the
//! value after power-on; everything else is read-only. [`RegisterFile`] turns the tables into one
//! mask of each kind per byte, so that accesses of any width and alignment, across registers too,
//! follow the rules in one place.
//!
//! Clause: PCI Express Base 6.0, section 7.4 (register attributes).

use super::config::ConfigError;

/// Size of a function's configuration space in bytes.
pub const CONFIG_SPACE_SIZE: usize = 4096;

/// One register of 1, 2 or 4 bytes, little-endian, at an offset within its block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Register {
    offset: u16,
    width: u8,
    reset: u32,
    rw: u32,
    rw1c: u32,
    keep: u32,
}

impl Register {
    /// A register of `width` bytes whose bits are all read-only.
    pub(super) const fn new(offset: u16, width: u8, reset: u32) -> Self {
        Self {
            offset,
            width,
            reset,
            rw: 0,
            rw1c: 0,
            keep: 0,
        }
    }

    /// Makes the bits in `mask` writable.
    pub(super) const fn rw(mut self, mask: u32) -> Self {
        self.rw = mask;
        self
    }

    /// Lets a written one clear the bits in `mask`.
    pub(super) const fn rw1c(mut self, mask: u32) -> Self {
        self.rw1c = mask;
        self
    }

    /// Keeps the bits in `mask` across a function level reset.
    pub(super) const fn keep(mut self, mask: u32) -> Self {
        self.keep = mask;
        self
    }
}

/// The kinds of bytes there are for each byte of configuration space.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    reset: u8,
    rw: u8,
    rw1c: u8,
    keep: u8,
}

/// All registers of a function: values and rules.
#[derive(Clone, Debug)]
pub(super) struct RegisterFile {
    bytes: Vec<u8>,
    rules: Vec<Rules>,
}

impl RegisterFile {
    /// A configuration space that reads zero and ignores writes.
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; CONFIG_SPACE_SIZE],
            rules: vec![Rules::default(); CONFIG_SPACE_SIZE],
        }
    }

    /// Adds the registers of a block that starts at `base`, with their values after power-on.
    pub(super) fn define(&mut self, base: u16, registers: &[Register]) -> Result<(), ConfigError> {
        for register in registers {
            let start = usize::from(base) + usize::from(register.offset);
            let end = start + usize::from(register.width);
            let bytes = self.bytes.get_mut(start..end).ok_or(ConfigError::NoRoom)?;
            let rules = self.rules.get_mut(start..end).ok_or(ConfigError::NoRoom)?;
            let columns = register
                .reset
                .to_le_bytes()
                .into_iter()
                .zip(register.rw.to_le_bytes())
                .zip(register.rw1c.to_le_bytes())
                .zip(register.keep.to_le_bytes());
            for ((byte, rule), (((reset, rw), rw1c), keep)) in
                bytes.iter_mut().zip(rules).zip(columns)
            {
                *byte = reset;
                *rule = Rules {
                    reset,
                    rw,
                    rw1c,
                    keep,
                };
            }
        }
        Ok(())
    }

    /// Reads `data.len()` bytes at `offset`.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), ConfigError> {
        let range = range(offset, data.len())?;
        data.copy_from_slice(self.bytes.get(range).ok_or(ConfigError::OutOfRange)?);
        Ok(())
    }

    /// Writes `data` at `offset`, as far as the rules allow.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ConfigError> {
        let range = range(offset, data.len())?;
        let bytes = self
            .bytes
            .get_mut(range.clone())
            .ok_or(ConfigError::OutOfRange)?;
        let rules = self.rules.get(range).ok_or(ConfigError::OutOfRange)?;
        for ((byte, rule), &value) in bytes.iter_mut().zip(rules).zip(data) {
            *byte = (*byte & !rule.rw) | (value & rule.rw);
            *byte &= !(value & rule.rw1c);
        }
        Ok(())
    }

    /// Back to the values after power-on; with `keep_sticky`, but for the bits that stay.
    pub(super) fn reset(&mut self, keep_sticky: bool) {
        for (byte, rule) in self.bytes.iter_mut().zip(&self.rules) {
            let keep = if keep_sticky { rule.keep } else { 0 };
            *byte = (*byte & keep) | (rule.reset & !keep);
        }
    }

    /// The `N` bytes at `offset`, which the tables say exist; zero past the end.
    pub(super) fn get<const N: usize>(&self, offset: u16) -> [u8; N] {
        let start = usize::from(offset);
        self.bytes
            .get(start..start + N)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; N])
    }

    pub(super) fn u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    pub(super) fn u32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.get(offset))
    }

    /// Sets the bytes at `offset` as the device itself does, whatever software may write.
    pub(super) fn set(&mut self, offset: u16, value: &[u8]) {
        let start = usize::from(offset);
        if let Some(bytes) = self.bytes.get_mut(start..start + value.len()) {
            bytes.copy_from_slice(value);
        }
    }

    /// All bytes, as they read.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes over saved bytes; refuses them if a bit that nobody can write differs.
    pub(super) fn restore(
        &mut self,
        saved: &[u8],
        device_owned: &[u16],
    ) -> Result<(), ConfigError> {
        if saved.len() != CONFIG_SPACE_SIZE {
            return Err(ConfigError::Incompatible { offset: 0 });
        }
        for (offset, (rule, &value)) in (0u16..).zip(self.rules.iter().zip(saved)) {
            let fixed = !(rule.rw | rule.rw1c);
            if (value ^ rule.reset) & fixed != 0 && !device_owned.contains(&offset) {
                return Err(ConfigError::Incompatible { offset });
            }
        }
        self.bytes.copy_from_slice(saved);
        Ok(())
    }
}

/// The bytes `offset..offset + len` of configuration space.
fn range(offset: u64, len: usize) -> Result<std::ops::Range<usize>, ConfigError> {
    let start = usize::try_from(offset).map_err(|_| ConfigError::OutOfRange)?;
    let end = start.checked_add(len).ok_or(ConfigError::OutOfRange)?;
    if end > CONFIG_SPACE_SIZE {
        return Err(ConfigError::OutOfRange);
    }
    Ok(start..end)
}
