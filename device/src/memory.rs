//! A function's guest memory, between the thread that hears of mappings and the one that uses them.
//!
//! [`MemoryControl`] stays with the control thread: it maps files and queues changes.
//! [`FunctionMemory`] goes to the engine, which applies them ([`FunctionMemory::apply_updates`]) when
//! it is told to, and whenever it meets an address that it does not know. A client has the answer to
//! DMA_MAP before its guest can use the range, and the change is queued before the answer is sent; so
//! the engine never takes a mapping for missing because a doorbell overtook it. DMA_UNMAP is answered
//! when the engine has applied it, after which nothing here can reach the range.
//!
//! The exception is a client that shares no memory at all. All accesses are messages then, which the
//! client checks against its own mappings, so there is nothing to wait for; and it must not wait for
//! us, because we may be waiting for it (QEMU answers no DMA message while it unmaps).

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vrnic_firmware::host;
use vrnic_vfio_user::limits::MAX_DMA_ACCESS;
use vrnic_vfio_user::{ClientHandle, Deferred, DmaMap, DmaUnmap, Errno};

use crate::dma::{
    Backing, CopyError, DmaError, FileError, FileLimits, FileTable, GuestMemory, MapUpdate, Prot,
    RemoteMemory,
};

/// How long the engine waits for a client to answer a DMA message. A client that takes longer gets
/// no further ones.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(2);

/// A change, and who waits for it.
type Update = (MapUpdate, Option<Deferred>);

/// The control thread's end.
pub struct MemoryControl {
    files: FileTable,
    updates: Sender<Update>,
    bus_master: Arc<AtomicBool>,
    /// The client has shared a file since it was attached.
    shares: bool,
}

/// The engine's end.
pub struct FunctionMemory {
    guest: RefCell<GuestMemory>,
    updates: Receiver<Update>,
    bus_master: Arc<AtomicBool>,
}

/// Both ends of a function's memory, without mappings.
#[must_use]
pub fn memory() -> (FunctionMemory, MemoryControl) {
    let (sender, receiver) = channel();
    let bus_master = Arc::new(AtomicBool::new(false));
    let memory = FunctionMemory {
        guest: RefCell::new(GuestMemory::default()),
        updates: receiver,
        bus_master: Arc::clone(&bus_master),
    };
    let control = MemoryControl {
        files: FileTable::new(FileLimits::default()),
        updates: sender,
        bus_master,
        shares: false,
    };
    (memory, control)
}

impl MemoryControl {
    /// Allows or forbids DMA (PCI command register, bus master enable).
    pub fn set_bus_master(&self, enabled: bool) {
        self.bus_master.store(enabled, Ordering::Relaxed);
    }

    /// A client is there, whose unshared memory is reached by messages.
    pub fn attach(&mut self, client: ClientHandle) {
        let remote = Remote {
            client,
            failed: Cell::new(false),
        };
        self.queue(MapUpdate::Remote(Some(Box::new(remote))), None);
    }

    /// The client is gone, and so is all its memory.
    pub fn detach(&mut self) {
        self.queue(MapUpdate::UnmapAll, None);
        self.queue(MapUpdate::Remote(None), None);
        self.files.clear();
        self.shares = false;
    }

    /// Queues a mapping.
    ///
    /// # Errors
    /// If its file cannot be mapped.
    pub fn map(&mut self, map: DmaMap) -> Result<(), Errno> {
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
        if self.shares {
            self.queue(update, Some(reply));
        } else {
            self.queue(update, None);
            reply.complete(Ok(()));
        }
    }

    fn queue(&self, update: MapUpdate, reply: Option<Deferred>) {
        // Without an engine the process is about to end, and the reply says EIO.
        let _ = self.updates.send((update, reply));
    }
}

impl FunctionMemory {
    /// Applies the changes that are queued, and answers those who wait. Says whether there were any.
    pub fn apply_updates(&self) -> bool {
        let mut any = false;
        while let Ok((update, reply)) = self.updates.try_recv() {
            any = true;
            let result = self.guest.borrow_mut().apply(update);
            if let Err(error) = &result {
                log::warn!("a change of mappings was refused: {error}");
            }
            if let Some(reply) = reply {
                // A refused unmapping leaves the range reachable: the client must not think it gone.
                reply.complete(result.map(|_| ()).map_err(|_| Errno::IO));
            }
        }
        any
    }

    /// Runs `access`, and once more if it failed and changes were waiting.
    #[inline]
    fn access<T>(
        &self,
        address: u64,
        access: impl Fn(&GuestMemory) -> Result<T, DmaError>,
    ) -> Result<T, host::DmaError> {
        if !self.bus_master.load(Ordering::Relaxed) {
            return Err(host::DmaError { address });
        }
        let first = access(&self.guest.borrow());
        match first {
            Err(_) if self.apply_updates() => Ok(access(&self.guest.borrow())?),
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
        if !self.bus_master.load(Ordering::Relaxed) {
            return Err(host::CopyError::Source(denied(from)));
        }
        if !other.bus_master.load(Ordering::Relaxed) {
            return Err(host::CopyError::Target(denied(to)));
        }
        let copy = || {
            let (source, target) = (self.guest.borrow(), other.guest.borrow());
            source.copy_to(from, &target, to, length)
        };
        match copy() {
            Err(CopyError::Source(_)) if self.apply_updates() => Ok(copy()?),
            Err(CopyError::Target(_)) if other.apply_updates() => Ok(copy()?),
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
}

impl Remote {
    fn check(
        &self,
        iova: u64,
        result: Result<(), vrnic_vfio_user::DmaError>,
    ) -> Result<(), DmaError> {
        result.map_err(|error| {
            if error == vrnic_vfio_user::DmaError::TimedOut {
                log::warn!("the client does not answer DMA messages; it gets no more of them");
                self.failed.set(true);
            }
            DmaError::Remote(iova)
        })
    }

    fn usable(&self, iova: u64) -> Result<(), DmaError> {
        if self.failed.get() {
            return Err(DmaError::Remote(iova));
        }
        Ok(())
    }
}

impl RemoteMemory for Remote {
    fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for part in buffer.chunks_mut(MAX_DMA_ACCESS) {
            self.usable(at)?;
            self.check(at, self.client.dma_read_wait(at, part, REMOTE_TIMEOUT))?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for part in data.chunks(MAX_DMA_ACCESS) {
            self.usable(at)?;
            let result = self
                .client
                .dma_write_wait(at, part.to_vec(), REMOTE_TIMEOUT);
            self.check(at, result)?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }
}
