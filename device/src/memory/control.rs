//! The control thread's end of a function's memory: maps files, queues changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use vrnic_vfio_user::{ClientHandle, Deferred, DmaMap, DmaUnmap, Errno};

use super::remote::Remote;
use super::{Shared, Update};
use crate::dma::memory::MAX_MAPPINGS;
use crate::dma::{Backing, FileError, FileLimits, FileTable, MapUpdate, Prot};

/// Changes that can wait for the engine: all mappings that a client can have, gone and made again.
pub(super) const MAX_WAITING: usize = 2 * MAX_MAPPINGS;

/// The control thread's end.
pub struct MemoryControl {
    files: FileTable,
    updates: Sender<Update>,
    shared: Arc<Shared>,
    /// The client has shared a file since it was attached.
    shares: bool,
    /// The log says that a file of the client's could not be mapped.
    warned: bool,
}

impl MemoryControl {
    pub(super) fn new(updates: Sender<Update>, shared: Arc<Shared>) -> Self {
        Self {
            files: FileTable::new(FileLimits::default()),
            updates,
            shared,
            shares: false,
            warned: false,
        }
    }

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
        self.warned = false;
        let remote = Remote::new(client, Arc::clone(&self.shared));
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
                if !std::mem::replace(&mut self.warned, true) {
                    log::warn!("shared memory is reached by messages instead: {error}");
                }
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
