//! The driver's platform on the `vfio_user` crate's client, with memory that a test can abuse.
//!
//! Every allocation is a memory file of its own, mapped for the device alone; all of them are
//! listed, so that a test can overwrite, unmap or truncate what the driver believes to own.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::MemfdFlags;
use vfio_user::Client;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use vrnic_abi::doorbell;
use vrnic_driver::{DmaBuffer, OutOfMemory, PinnedMemory, Platform, Segment};
use vrnic_driver_vfio::MutexLock;

pub(crate) const BAR_REGISTERS: u32 = 0;
pub(crate) const BAR_DOORBELLS: u32 = 2;
pub(crate) const BAR_MSIX: u32 = 4;
pub(crate) const REGION_CONFIG: u32 = 7;
pub(crate) const IRQ_MSIX: u32 = 2;
/// Eventfds (bit 2) that are triggered (bit 5).
pub(crate) const EVENTFD_TRIGGER: u32 = 0x24;
/// Memory decoding and bus mastering.
pub(crate) const COMMAND_ENABLE: [u8; 2] = [6, 0];
const VECTORS: u16 = 3;

/// Memory that the device can access.
pub(crate) struct Memory {
    pub(crate) file: File,
    region: MmapRegion,
    pub(crate) iova: u64,
}

impl Memory {
    #[track_caller]
    pub(crate) fn new(length: usize, iova: u64) -> Self {
        let file = rustix::fs::memfd_create("serve-test", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(length as u64).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let region = MmapRegion::from_file(offset, length).unwrap();
        Self { file, region, iova }
    }

    pub(crate) fn size(&self) -> usize {
        self.region.size()
    }
}

impl DmaBuffer for Memory {
    fn device_address(&self) -> u64 {
        self.iova
    }

    fn len(&self) -> usize {
        self.region.size()
    }

    fn load(&self, offset: usize) -> u64 {
        let slice = self.region.as_volatile_slice();
        slice.load(offset, Ordering::Acquire).unwrap()
    }

    fn store(&self, offset: usize, value: u64) {
        let slice = self.region.as_volatile_slice();
        slice.store(value, offset, Ordering::Release).unwrap();
    }
}

/// Nothing is ever pinned.
pub(crate) enum Nothing {}

impl PinnedMemory for Nothing {
    fn segments(&self) -> usize {
        0
    }

    fn segment(&self, _index: usize) -> Option<Segment> {
        None
    }
}

/// What the driver gets of a [`Memory`]: the list keeps another share.
pub(crate) struct Share(pub(crate) Arc<Memory>);

impl DmaBuffer for Share {
    fn device_address(&self) -> u64 {
        self.0.device_address()
    }

    fn len(&self) -> usize {
        DmaBuffer::len(&*self.0)
    }

    fn load(&self, offset: usize) -> u64 {
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u64) {
        self.0.store(offset, value);
    }
}

/// A function behind the foreign client.
pub(crate) struct ForeignPlatform {
    client: Mutex<Client>,
    doorbells: MmapRegion,
    interrupts: Vec<OwnedFd>,
    next_iova: AtomicU64,
    memory: Mutex<Vec<Arc<Memory>>>,
    /// The driver's doorbells and kicks reach nobody.
    silent: AtomicBool,
    start: Instant,
}

impl ForeignPlatform {
    #[track_caller]
    pub(crate) fn open(path: &Path) -> Self {
        let mut client = Client::new(path).unwrap();
        client.reset().unwrap();
        client
            .region_write(REGION_CONFIG, 4, &COMMAND_ENABLE)
            .unwrap();
        let doorbells = map_doorbells(&client);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let interrupts: Vec<_> = (0..VECTORS).map(|_| eventfd(0, flags).unwrap()).collect();
        let fds: Vec<RawFd> = interrupts.iter().map(AsRawFd::as_raw_fd).collect();
        client
            .set_irqs(IRQ_MSIX, EVENTFD_TRIGGER, 0, VECTORS.into(), &fds)
            .unwrap();
        Self {
            client: Mutex::new(client),
            doorbells,
            interrupts,
            next_iova: AtomicU64::new(1 << 32),
            memory: Mutex::default(),
            silent: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    pub(crate) fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Overwrites bytes of the mapped doorbell pages.
    pub(crate) fn scribble(&self, offset: u32, bytes: &[u8]) {
        let pages = self.doorbells.as_volatile_slice();
        pages.write_slice(bytes, offset as usize).unwrap();
    }

    /// Keeps the driver's doorbells from the device, or no longer; what it does not tell the device
    /// waits in its rings.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// All memory that was ever allocated.
    pub(crate) fn memory(&self) -> Vec<Arc<Memory>> {
        self.memory.lock().unwrap().clone()
    }
}

/// Maps the doorbell pages as the client was told it may.
#[track_caller]
pub(crate) fn map_doorbells(client: &Client) -> MmapRegion {
    let region = client.region(BAR_DOORBELLS).unwrap();
    let [area] = region.sparse_areas[..] else {
        panic!("not one area: {:?}", region.sparse_areas);
    };
    let file = region.file_offset.as_ref().unwrap();
    let start = file.start() + area.offset;
    let offset = FileOffset::new(file.file().try_clone().unwrap(), start);
    MmapRegion::from_file(offset, area.size as usize).unwrap()
}

/// Waits until `event` was raised, and takes that; false after `timeout`.
pub(crate) fn wait_event(event: &OwnedFd, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&timeout.try_into().unwrap()));
    ready.is_ok_and(|count| count > 0) && rustix::io::read(event, &mut [0u8; 8]).is_ok()
}

impl Platform for ForeignPlatform {
    type Dma = Share;
    type Pinned = Nothing;
    type Lock<T> = MutexLock<T>;

    fn read_register(&self, offset: u32) -> u32 {
        let mut data = [0xff; 4];
        let _ = self
            .client()
            .region_read(BAR_REGISTERS, offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write_register(&self, offset: u32, value: u32) {
        let data = value.to_le_bytes();
        let _ = self
            .client()
            .region_write(BAR_REGISTERS, offset.into(), &data);
    }

    fn store_slot(&self, page: u32, slot: u32, value: u64) {
        if self.is_silent() {
            return;
        }
        let offset = doorbell::page_offset(page) + doorbell::slot_offset(slot);
        let pages = self.doorbells.as_volatile_slice();
        pages
            .store(value, offset as usize, Ordering::Release)
            .unwrap();
    }

    fn store_mark(&self, page: u32, group: u32) {
        if self.is_silent() {
            return;
        }
        let offset = doorbell::page_offset(page) + group;
        let pages = self.doorbells.as_volatile_slice();
        pages
            .store(doorbell::DIRTY, offset as usize, Ordering::Release)
            .unwrap();
    }

    fn load_engine_state(&self, page: u32) -> u8 {
        let offset = doorbell::page_offset(page) + doorbell::ENGINE_STATE_OFFSET;
        let pages = self.doorbells.as_volatile_slice();
        pages.load(offset as usize, Ordering::Acquire).unwrap()
    }

    fn kick(&self, page: u32) {
        if self.is_silent() {
            return;
        }
        let offset = doorbell::kick_offset(page);
        let _ = self
            .client()
            .region_write(BAR_DOORBELLS, offset.into(), &[1, 0, 0, 0]);
    }

    fn allocate_dma(&self, length: usize) -> Result<Share, OutOfMemory> {
        let length = length.next_multiple_of(4096);
        let iova = self
            .next_iova
            .fetch_add(2 * length as u64, Ordering::Relaxed);
        let memory = Arc::new(Memory::new(length, iova));
        self.client()
            .dma_map(0, iova, length as u64, memory.file.as_raw_fd())
            .map_err(|_| OutOfMemory)?;
        self.memory.lock().unwrap().push(Arc::clone(&memory));
        Ok(Share(memory))
    }

    fn vectors(&self) -> u16 {
        VECTORS
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn relax(&self, vector: Option<u16>, deadline: u64) {
        let left = Duration::from_nanos(deadline.saturating_sub(self.now()));
        match vector.and_then(|vector| self.interrupts.get(usize::from(vector))) {
            Some(event) => drop(wait_event(event, left)),
            None => std::thread::sleep(left),
        }
    }
}
