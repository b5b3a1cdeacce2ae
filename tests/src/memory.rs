//! Guest memory of the simulation: one array of bytes, reached by DMA addresses from [`BASE`] on.
//!
//! Freed buffers are taken out of reach, so that a device that touches one after it was freed gets
//! a DMA error, and its bytes are overwritten.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vrnic_firmware::host::{CopyError, DmaError, Memory};

/// The first DMA address, so that small numbers are never valid addresses.
pub const BASE: u64 = 0x10_0000_0000;

/// What memory holds that nobody has written.
pub const POISON: u8 = 0xd5;

/// Guest memory; clones are the same memory.
#[derive(Clone, Debug, Default)]
pub struct SimMemory(Rc<RefCell<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    /// Buffers in use: offset and length.
    live: BTreeMap<usize, usize>,
}

impl Contents {
    /// The offset of `length` bytes at `address` if they lie in one buffer in use.
    fn find(&self, address: u64, length: usize) -> Result<usize, DmaError> {
        let error = DmaError { address };
        let offset = address.checked_sub(BASE).ok_or(error)?;
        let offset = usize::try_from(offset).map_err(|_| error)?;
        let (start, size) = self.live.range(..=offset).next_back().ok_or(error)?;
        let end = offset.checked_add(length).ok_or(error)?;
        if end > start + size {
            return Err(error);
        }
        Ok(offset)
    }
}

impl SimMemory {
    /// Makes a buffer of `length` zero bytes at a page boundary, with an unreachable page behind
    /// it, and returns its address.
    #[must_use]
    pub fn allocate(&self, length: usize) -> u64 {
        let mut contents = self.0.borrow_mut();
        let offset = contents.bytes.len();
        let pages = length.div_ceil(4096) + 1;
        contents.bytes.resize(offset + pages * 4096, POISON);
        contents.bytes[offset..offset + length].fill(0);
        contents.live.insert(offset, length);
        BASE + offset as u64
    }

    /// Takes a buffer out of reach.
    pub fn free(&self, address: u64) {
        let mut contents = self.0.borrow_mut();
        let offset = (address - BASE) as usize;
        if let Some(length) = contents.live.remove(&offset) {
            contents.bytes[offset..offset + length].fill(POISON);
        }
    }

    /// Buffers that are in use.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.0.borrow().live.len()
    }
}

impl Memory for SimMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let contents = self.0.borrow();
        let offset = contents.find(address, buffer.len())?;
        buffer.copy_from_slice(&contents.bytes[offset..offset + buffer.len()]);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut contents = self.0.borrow_mut();
        let offset = contents.find(address, data.len())?;
        contents.bytes[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn write_publish(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        assert!(
            address % 8 == 0 && data.len() % 8 == 0,
            "publishing is aligned"
        );
        self.write(address, data)
    }

    fn copy_to(&self, from: u64, other: &Self, to: u64, length: usize) -> Result<(), CopyError> {
        let mut data = vec![0; length];
        self.read(from, &mut data).map_err(CopyError::Source)?;
        other.write(to, &data).map_err(CopyError::Target)
    }

    fn fetch_add(&self, address: u64, value: u64) -> Result<u64, DmaError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        let old = u64::from_le_bytes(bytes);
        self.write(address, &old.wrapping_add(value).to_le_bytes())?;
        Ok(old)
    }

    fn compare_swap(&self, address: u64, compare: u64, swap: u64) -> Result<u64, DmaError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        let old = u64::from_le_bytes(bytes);
        if old == compare {
            self.write(address, &swap.to_le_bytes())?;
        }
        Ok(old)
    }
}
