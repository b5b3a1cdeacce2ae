//! A function's guest memory, between the thread that hears of mappings and the one that uses them.
//!
//! [`MemoryControl`] stays with the control thread: it maps files and queues changes.
//! [`FunctionMemory`] goes to the engine, which applies them ([`FunctionMemory::apply_updates`]) when
//! it is told to, and whenever it meets an address that it does not know. A client has the answer to
//! DMA_MAP before its guest can use the range, and the change is queued before the answer is sent; so
//! the engine never takes a mapping for missing because a doorbell overtook it. DMA_UNMAP is answered
//! when the engine has applied it, after which nothing here can reach the range.
//!
//! A client that is gone leaves a mark behind its changes: the engine passes it only when it has reset
//! the function, so that nothing of the former client's meets memory of the next one's, whatever the
//! engine was doing meanwhile.
//!
//! What waits is bounded, because clients can be faster than the engine: further mappings are refused,
//! and unmappings answered late. The engine applies changes in bounded portions.
//!
//! The exception is a client that shares no memory at all. All accesses are messages then, which the
//! client checks against its own mappings, so there is nothing to wait for; and it must not wait for
//! us, because we may be waiting for it (QEMU answers no DMA message while it unmaps).

mod control;
mod remote;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use vrnic_firmware::host;
use vrnic_vfio_user::{Deferred, Errno};

use crate::dma::{CopyError, DmaError, GuestMemory, MapUpdate};
pub use control::MemoryControl;
use remote::Patience;

/// For how long the engine applies changes in one go: others wait meanwhile.
const PORTION: Duration = Duration::from_micros(4);

/// For how long an access that meets an unknown address does.
const ACCESS_PORTION: Duration = Duration::from_millis(20);

/// What the control thread queues.
enum Update {
    /// A change, and who waits for it.
    Change(MapUpdate, Option<Deferred>),
    /// The client is gone. What follows is the next one's, and waits for the function's reset.
    Detached(Arc<AtomicBool>),
}

/// What both ends look at.
#[derive(Default)]
struct Shared {
    patience: Patience,
    bus_master: AtomicBool,
    /// Updates in the queue.
    waiting: AtomicUsize,
    /// The engine was told of them, and has not looked yet.
    announced: AtomicBool,
}

/// The engine's end.
pub struct FunctionMemory {
    guest: RefCell<GuestMemory>,
    updates: Receiver<Update>,
    shared: Arc<Shared>,
    /// Set when the reset is done that the next updates wait for.
    barrier: RefCell<Option<Arc<AtomicBool>>>,
}

/// How far changes were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There were none.
    Nothing,
    /// Some, and there may be more.
    Some,
    /// All that there were.
    All,
}

/// Both ends of a function's memory, without mappings.
#[must_use]
pub fn memory() -> (FunctionMemory, MemoryControl) {
    let (sender, receiver) = channel();
    let shared = Arc::new(Shared::default());
    let memory = FunctionMemory {
        guest: RefCell::new(GuestMemory::default()),
        updates: receiver,
        shared: Arc::clone(&shared),
        barrier: RefCell::default(),
    };
    (memory, MemoryControl::new(sender, shared))
}

impl FunctionMemory {
    /// Applies changes that are queued, a portion of them, and answers those who wait.
    pub fn apply_updates(&self) -> Applied {
        self.shared.announced.swap(false, Ordering::AcqRel);
        self.apply_for(PORTION)
    }

    fn apply_for(&self, portion: Duration) -> Applied {
        let start = Instant::now();
        let mut applied = Applied::Nothing;
        while self.may_go_on() {
            let Ok(update) = self.updates.try_recv() else {
                break;
            };
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            applied = Applied::All;
            self.apply(update);
            if start.elapsed() >= portion {
                return Applied::Some;
            }
        }
        applied
    }

    /// Whether the reset that the next updates wait for, if they do, is done.
    fn may_go_on(&self) -> bool {
        let mut barrier = self.barrier.borrow_mut();
        if let Some(reset) = &*barrier {
            if !reset.load(Ordering::Acquire) {
                return false;
            }
        }
        *barrier = None;
        true
    }

    fn apply(&self, update: Update) {
        let (change, reply) = match update {
            Update::Change(change, reply) => (change, reply),
            Update::Detached(reset) => return *self.barrier.borrow_mut() = Some(reset),
        };
        let result = self.guest.borrow_mut().apply(change);
        if let Err(error) = &result {
            log::warn!("a change of mappings was refused: {error}");
        }
        if let Some(reply) = reply {
            // A refused unmapping leaves the range reachable: the client must not think it gone.
            reply.complete(result.map(|_| ()).map_err(|_| Errno::IO));
        }
    }

    /// Applies changes for the sake of an access; says whether there were any.
    #[cold]
    fn catch_up(&self) -> bool {
        self.apply_for(ACCESS_PORTION) != Applied::Nothing
    }

    /// Runs `access`, and once more if it failed and changes were waiting.
    #[inline]
    fn access<T>(
        &self,
        address: u64,
        access: impl Fn(&GuestMemory) -> Result<T, DmaError>,
    ) -> Result<T, host::DmaError> {
        if !self.shared.bus_master.load(Ordering::Relaxed) {
            return Err(host::DmaError { address });
        }
        let first = access(&self.guest.borrow());
        match first {
            Err(_) if self.catch_up() => Ok(access(&self.guest.borrow())?),
            other => Ok(other?),
        }
    }
}

impl host::Memory for FunctionMemory {
    #[inline]
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), host::DmaError> {
        let buffer = RefCell::new(buffer);
        self.access(address, |guest| {
            guest.read(address, &mut buffer.borrow_mut())
        })
    }

    #[inline]
    fn write(&self, address: u64, data: &[u8]) -> Result<(), host::DmaError> {
        self.access(address, |guest| guest.write(address, data))
    }

    #[inline]
    fn write_publish(&self, address: u64, data: &[u8]) -> Result<(), host::DmaError> {
        self.access(address, |guest| guest.write_publish(address, data))
    }

    #[inline]
    fn copy_to(
        &self,
        from: u64,
        other: &Self,
        to: u64,
        length: usize,
    ) -> Result<(), host::CopyError> {
        let denied = |address| host::DmaError { address };
        if !self.shared.bus_master.load(Ordering::Relaxed) {
            return Err(host::CopyError::Source(denied(from)));
        }
        if !other.shared.bus_master.load(Ordering::Relaxed) {
            return Err(host::CopyError::Target(denied(to)));
        }
        let copy = || {
            let (source, target) = (self.guest.borrow(), other.guest.borrow());
            source.copy_to(from, &target, to, length)
        };
        match copy() {
            Err(CopyError::Source(_)) if self.catch_up() => Ok(copy()?),
            Err(CopyError::Target(_)) if other.catch_up() => Ok(copy()?),
            result => Ok(result?),
        }
    }

    fn fetch_add(&self, address: u64, value: u64) -> Result<u64, host::DmaError> {
        self.access(address, |guest| guest.fetch_add(address, value))
    }

    fn compare_swap(&self, address: u64, compare: u64, swap: u64) -> Result<u64, host::DmaError> {
        self.access(address, |guest| guest.compare_swap(address, compare, swap))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::control::MAX_WAITING;
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vrnic_firmware::host::Memory as _;
    use vrnic_vfio_user::DmaMap;

    /// A mapping of a page at IOVA `iova` that reads as `byte`.
    fn page(iova: u64, byte: u8) -> DmaMap {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 4096).unwrap();
        rustix::io::pwrite(&fd, &[byte; 4096], 0).unwrap();
        DmaMap {
            iova,
            size: 4096,
            readable: true,
            writable: true,
            offset: 0,
            fd: Some(fd),
        }
    }

    fn read(memory: &FunctionMemory, iova: u64) -> Option<u8> {
        let mut byte = [0xa5];
        memory.read(iova, &mut byte).ok().map(|()| byte[0])
    }

    #[test]
    fn nothing_of_a_former_client_meets_the_next_ones_memory() {
        let (memory, mut control) = memory();
        control.set_bus_master(true);
        control.map(page(0x1000, 1)).unwrap();
        assert_eq!(read(&memory, 0x1000), Some(1));
        let reset = control.detach();
        control.map(page(0x2000, 2)).unwrap();
        // The engine has not come to the reset, and the former client's queues still run.
        assert_eq!(read(&memory, 0x2000), None);
        assert_eq!(memory.apply_updates(), Applied::Nothing);
        assert_eq!(read(&memory, 0x1000), None);
        reset.store(true, Ordering::Release);
        assert_eq!(memory.apply_updates(), Applied::All);
        assert_eq!(read(&memory, 0x2000), Some(2));
    }

    #[test]
    fn what_waits_for_the_engine_is_bounded() {
        let (memory, mut control) = memory();
        let map = |iova: u64| DmaMap {
            fd: None,
            ..page(iova, 0)
        };
        let first = map(0);
        let mut fill = || {
            (0..=MAX_WAITING as u64).find_map(|n| {
                let one = DmaMap {
                    iova: n << 12,
                    fd: None,
                    ..first
                };
                control.map(one).err().map(|errno| (n, errno))
            })
        };
        assert_eq!(fill(), Some((MAX_WAITING as u64, Errno::BUSY)));
        while memory.apply_updates() == Applied::Some {}
        assert!(control.map(map(1 << 40)).is_ok());
    }
}
