//! Memory of the fake platform, and its lock.

use std::cell::RefCell;
use std::rc::Rc;

use vrnic_driver::{DmaBuffer, Lock, PinnedMemory, Segment};

use crate::fake::World;

/// A buffer; complains if it is freed while the device knows it.
pub(crate) struct FakeDma {
    world: World,
    address: u64,
    data: Rc<RefCell<Vec<u8>>>,
}

impl FakeDma {
    pub(crate) fn new(world: World, address: u64, data: Rc<RefCell<Vec<u8>>>) -> Self {
        Self {
            world,
            address,
            data,
        }
    }
}

impl DmaBuffer for FakeDma {
    fn device_address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.data.borrow().len()
    }

    fn load(&self, offset: usize) -> u64 {
        assert_eq!(offset % 8, 0);
        let data = self.data.borrow();
        u64::from_le_bytes(data[offset..offset + 8].try_into().expect("8 bytes"))
    }

    fn store(&self, offset: usize, value: u64) {
        assert_eq!(offset % 8, 0);
        self.data.borrow_mut()[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
}

impl Drop for FakeDma {
    fn drop(&mut self) {
        let (start, end) = (self.address, self.address + self.len() as u64);
        let known = self.world.with(|device| {
            device.memory.remove(&start);
            let overlaps = |known: &&(u64, u64, (&'static str, u32))| {
                known.0 < end && start < known.0 + known.1
            };
            device.known.iter().find(overlaps).map(|known| known.2)
        });
        if !std::thread::panicking() {
            assert_eq!(known, None, "freed while the device knows it");
        }
    }
}

/// Scattered memory that nobody reads.
pub(crate) struct FakePinned(pub(crate) Vec<Segment>);

impl PinnedMemory for FakePinned {
    fn segments(&self) -> usize {
        self.0.len()
    }

    fn segment(&self, index: usize) -> Option<Segment> {
        self.0.get(index).copied()
    }
}

/// A lock that panics when it is taken twice.
pub(crate) struct CellLock<T>(RefCell<T>);

impl<T> Lock<T> for CellLock<T> {
    fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}
