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

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use vrnic_firmware::host;
use vrnic_vfio_user::limits::MAX_DMA_ACCESS;
use vrnic_vfio_user::{ClientHandle, Deferred, DmaMap, DmaUnmap, Errno};

use crate::dma::{
    Backing, CopyError, DmaError, FileError, FileLimits, FileTable, GuestMemory, MapUpdate, Prot,
    RemoteMemory, memory::MAX_MAPPINGS,
};

/// How long the engine waits for a client to answer a DMA message, at most. A client that takes longer
/// gets no further ones.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(2);

/// An answer that comes as soon as this costs no patience. Loaded hosts are slow.
const REMOTE_FREE: Duration = Duration::from_millis(20);

/// Patience comes back in so many times the time it was spent in: all functions of the engine wait
/// while it waits, so one client gets the tenth part of its time.
const REMOTE_RECOVERY: u32 = 10;

/// Changes that can wait for the engine: all mappings that a client can have, gone and made again.
const MAX_WAITING: usize = 2 * MAX_MAPPINGS;

/// For how long the engine applies changes in one go.
const PORTION: Duration = Duration::from_millis(1);

/// For how long an access that meets an unknown address does.
const ACCESS_PORTION: Duration = Duration::from_millis(20);

/// What the control thread queues.
enum Update {
    /// A change, and who waits for it.
    Change(MapUpdate, Option<Deferred>),
    /// The client is gone. What follows is the next one's, and waits for the function's reset.
    Detached(Arc<AtomicBool>),
}

/// How long the engine still waits for the clients of one function, whichever is attached.
struct Patience {
    start: Instant,
    /// When all of it will have come back, in nanoseconds since `start`.
    whole_at: AtomicU64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            whole_at: AtomicU64::new(0),
        }
    }
}

impl Patience {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long to wait for the next answer; `None` if not at all.
    fn left(&self) -> Option<Duration> {
        let missing = self
            .whole_at
            .load(Ordering::Relaxed)
            .saturating_sub(self.now());
        let left = REMOTE_TIMEOUT.saturating_sub(Duration::from_nanos(missing) / REMOTE_RECOVERY);
        (left >= REMOTE_FREE).then_some(left)
    }

    fn spend(&self, waited: Duration) {
        let nanos = u64::try_from((waited * REMOTE_RECOVERY).as_nanos()).unwrap_or(u64::MAX);
        let from = self.whole_at.load(Ordering::Relaxed).max(self.now());
        self.whole_at
            .store(from.saturating_add(nanos), Ordering::Relaxed);
    }
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

/// The control thread's end.
pub struct MemoryControl {
    files: FileTable,
    updates: Sender<Update>,
    shared: Arc<Shared>,
    /// The client has shared a file since it was attached.
    shares: bool,
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
    let control = MemoryControl {
        files: FileTable::new(FileLimits::default()),
        updates: sender,
        shared,
        shares: false,
    };
    (memory, control)
}

impl MemoryControl {
    /// Allows or forbids DMA (PCI command register, bus master enable).
    pub fn set_bus_master(&self, enabled: bool) {
        self.shared.bus_master.store(enabled, Ordering::Relaxed);
    }

    /// Whether the engine is to be told that changes wait. If not, it was told and has yet to look.
    #[must_use]
    pub fn announce(&self) -> bool {
        !self.shared.announced.swap(true, Ordering::AcqRel)
    }

    /// A client is there, whose unshared memory is reached by messages.
    pub fn attach(&mut self, client: ClientHandle) {
        let remote = Remote {
            client,
            failed: Cell::new(false),
            shared: Arc::clone(&self.shared),
        };
        self.queue(MapUpdate::Remote(Some(Box::new(remote))), None);
    }

    /// The client is gone, and so is all its memory. The caller sets the flag it gets when the
    /// function has been reset.
    #[must_use]
    pub fn detach(&mut self) -> Arc<AtomicBool> {
        self.queue(MapUpdate::UnmapAll, None);
        self.queue(MapUpdate::Remote(None), None);
        let reset = Arc::new(AtomicBool::new(false));
        self.send(Update::Detached(Arc::clone(&reset)));
        self.files.clear();
        self.shares = false;
        reset
    }

    /// Queues a mapping.
    ///
    /// # Errors
    /// If its file cannot be mapped, or too many changes wait.
    pub fn map(&mut self, map: DmaMap) -> Result<(), Errno> {
        if self.is_full() {
            return Err(Errno::BUSY);
        }
        let mut prot = Prot::empty();
        prot.set(Prot::READ, map.readable);
        prot.set(Prot::WRITE, map.writable);
        let update = MapUpdate::Map {
            iova: map.iova,
            len: map.size,
            prot,
            backing: self.backing(map)?,
        };
        self.queue(update, None);
        Ok(())
    }

    fn backing(&mut self, map: DmaMap) -> Result<Backing, Errno> {
        let Some(fd) = map.fd else {
            return Ok(Backing::Remote);
        };
        match self.files.map(fd, map.offset, map.size, map.writable) {
            Ok(file) => {
                self.shares = true;
                Ok(Backing::File {
                    file,
                    offset: map.offset,
                })
            }
            Err(FileError::Range) => Err(Errno::INVAL),
            Err(FileError::Access) => Err(Errno::ACCESS),
            Err(error) => {
                log::warn!("shared memory is reached by messages instead: {error}");
                Ok(Backing::Remote)
            }
        }
    }

    /// Queues the end of mappings; `reply` is sent when nothing can reach them.
    pub fn unmap(&mut self, unmap: DmaUnmap, reply: Deferred) {
        let update = match unmap {
            DmaUnmap::Range { iova, size } => MapUpdate::Unmap { iova, len: size },
            DmaUnmap::All => MapUpdate::UnmapAll,
        };
        if self.shares || self.is_full() {
            self.queue(update, Some(reply));
        } else {
            self.queue(update, None);
            reply.complete(Ok(()));
        }
    }

    fn is_full(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) >= MAX_WAITING
    }

    fn queue(&self, update: MapUpdate, reply: Option<Deferred>) {
        self.send(Update::Change(update, reply));
    }

    fn send(&self, update: Update) {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        // Without an engine the process is about to end, and the reply says EIO.
        let _ = self.updates.send(update);
    }
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

/// A client's memory by messages.
struct Remote {
    client: ClientHandle,
    /// It did not answer once: it is not waited for again.
    failed: Cell<bool>,
    shared: Arc<Shared>,
}

impl Remote {
    /// Sends a message by `access`, which is told how long to wait.
    fn ask(
        &self,
        iova: u64,
        access: impl FnOnce(Duration) -> Result<(), vrnic_vfio_user::DmaError>,
    ) -> Result<(), DmaError> {
        let patience = &self.shared.patience;
        let left = patience.left().filter(|_| !self.failed.get());
        let left = left.ok_or(DmaError::Remote(iova))?;
        let start = Instant::now();
        let result = access(left);
        let late = result == Err(vrnic_vfio_user::DmaError::TimedOut);
        if late {
            log::warn!("the client does not answer DMA messages; it gets no more of them");
            self.failed.set(true);
        }
        let waited = start.elapsed();
        if late || waited > REMOTE_FREE {
            patience.spend(waited);
        }
        result.map_err(|_| DmaError::Remote(iova))
    }
}

impl RemoteMemory for Remote {
    fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for part in buffer.chunks_mut(MAX_DMA_ACCESS) {
            self.ask(at, |time| self.client.dma_read_wait(at, part, time))?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for part in data.chunks(MAX_DMA_ACCESS) {
            let data = part.to_vec();
            self.ask(at, |time| self.client.dma_write_wait(at, data, time))?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vrnic_firmware::host::Memory as _;

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

    #[test]
    fn patience_is_spent_by_waiting_and_comes_back_slowly() {
        let patience = Patience::default();
        assert_eq!(patience.left(), Some(REMOTE_TIMEOUT));
        patience.spend(REMOTE_TIMEOUT / 2);
        let left = patience.left().unwrap();
        assert!(left >= REMOTE_TIMEOUT / 2 && left < REMOTE_TIMEOUT);
        patience.spend(REMOTE_TIMEOUT);
        assert_eq!(patience.left(), None);
    }
}
