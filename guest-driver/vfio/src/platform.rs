//! [`HostPlatform`]: the driver's surroundings in a Linux process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vrnic_abi::{doorbell, pci};
use vrnic_driver::{Level, Lock, OutOfMemory, Platform};

use crate::arena::{Arena, DmaMemory};
use crate::bus::{Bus, COMMAND, COMMAND_MASTER, COMMAND_MEMORY, REGION_CONFIG};
use crate::hugepages;
use crate::kernel::KernelBus;
use crate::mapping::Mapping;
use crate::pinned::PinnedRange;
use crate::socket::SocketBus;
use crate::sysfs::SysfsBus;

/// Sleep between two looks at a device without interrupts.
const LOOK: Duration = Duration::from_micros(100);

/// Configuration space: where the list of capabilities begins.
const FIRST_CAPABILITY: u8 = 0x34;
/// Where the header ends, in which no capability is.
const HEADER_END: u8 = 0x40;
/// ID of the MSI-X capability.
const MSIX: u8 = 0x11;
/// Message control: the number of vectors less one.
const MSIX_TABLE_SIZE: u16 = 0x7ff;

/// How to use a function.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// MSI-X vectors to set up, 1 to 64, or as many as the function has if that is less.
    pub vectors: u16,
    /// Share DMA memory with the process behind a vfio-user socket; otherwise it asks for every
    /// byte in messages.
    pub share_memory: bool,
    /// Map doorbell pages where that is possible; otherwise every access is trapped.
    pub map_doorbells: bool,
    /// Bytes of hugepages to take for [`HostPlatform::open_sysfs`], which has no other memory for
    /// the device.
    pub hugepages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vectors: 4,
            share_memory: true,
            map_doorbells: true,
            hugepages: 64 << 20,
        }
    }
}

/// A region of the function, mapped from its start as far as possible.
struct Region {
    index: u32,
    mapping: Option<Mapping>,
}

impl Region {
    /// The mapping, if it holds `length` bytes at `offset`.
    #[inline]
    fn mapped(&self, offset: usize, length: usize) -> Option<&Mapping> {
        let mapping = self.mapping.as_ref();
        mapping.filter(|mapping| offset + length <= mapping.len())
    }
}

/// A function on VFIO, vfio-user or sysfs.
pub struct HostPlatform {
    bus: Arc<dyn Bus>,
    registers: Region,
    doorbells: Region,
    interrupts: Vec<OwnedFd>,
    arena: Arc<Arena>,
    start: Instant,
}

impl HostPlatform {
    /// Opens the PCI function `address` (such as `0000:00:05.0`), which must be bound to the
    /// kernel's `vfio-pci` driver.
    pub fn open_vfio(address: &str, options: Options) -> anyhow::Result<Self> {
        let bus = Arc::new(KernelBus::open(address)?);
        Self::new(bus.clone(), Arena::new(bus), options)
    }

    /// Opens the PCI function `address`, which must be a vrnic without an IOMMU in front of it, as
    /// root and without VFIO. A kernel driver that has the function loses it.
    ///
    /// What it costs:
    ///
    /// * nothing keeps the device from accessing any memory, and a process that is killed leaves
    ///   it as it is until somebody opens or resets it;
    /// * DMA memory is [`Options::hugepages`] bytes from the kernel's preallocated hugepages and
    ///   does not grow; an allocation needs pages that lie side by side;
    /// * there are no interrupts: whoever waits sleeps for 100 µs between two looks, which adds up
    ///   to this and the scheduler's delay to a latency, and costs a waiting thread about 6 % of a
    ///   processor, beside what it does to look.
    ///
    /// BARs are mapped whole, whatever [`Options::map_doorbells`] says. Once the value and all its
    /// memory are dropped, the function is reset and disabled.
    pub fn open_sysfs(address: &str, options: Options) -> anyhow::Result<Self> {
        let options = Options {
            map_doorbells: true,
            ..options
        };
        let pieces = hugepages::take(options.hugepages).context("cannot take DMA memory")?;
        let bus = Arc::new(SysfsBus::open(address)?);
        Self::new(bus.clone(), Arena::of_pieces(bus, pieces), options)
    }

    /// Connects to the function that `vrnic serve` offers on the UNIX socket `path`.
    pub fn open_socket(path: &Path, options: Options) -> anyhow::Result<Self> {
        let bus = SocketBus::connect(path, options.share_memory)
            .with_context(|| format!("cannot use the device at {}", path.display()))?;
        let bus = Arc::new(bus);
        Self::new(bus.clone(), Arena::new(bus), options)
    }

    fn new(bus: Arc<dyn Bus>, arena: Arc<Arena>, options: Options) -> anyhow::Result<Self> {
        match bus.reset() {
            // The driver resets it by its registers anyway.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            reset => reset.context("cannot reset the device")?,
        }
        enable_bus_master(&*bus).context("cannot enable the device in configuration space")?;
        let region = |index: u8, map: bool| -> io::Result<Region> {
            let index = u32::from(index);
            let mapping = if map { bus.map_region(index)? } else { None };
            Ok(Region { index, mapping })
        };
        let registers = region(pci::BAR_REGISTERS, true).context("cannot map the registers")?;
        let doorbells = region(pci::BAR_DOORBELLS, options.map_doorbells);
        let doorbells = doorbells.context("cannot map the doorbells")?;
        let most = msix_vectors(&*bus).context("cannot read the MSI-X capability")?;
        let vectors = options.vectors.clamp(1, most);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let interrupts: Result<Vec<_>, _> = (0..vectors).map(|_| eventfd(0, flags)).collect();
        let interrupts = interrupts.context("cannot create event files")?;
        set_interrupts(&*bus, &interrupts).context("cannot set up interrupts")?;
        Ok(Self {
            arena,
            bus,
            registers,
            doorbells,
            interrupts,
            start: Instant::now(),
        })
    }

    /// Whether the doorbell pages are mapped, so that stores cause no exit.
    #[must_use]
    pub fn doorbells_mapped(&self) -> bool {
        self.doorbells.mapping.is_some()
    }

    /// Loads the dirty mark of group `group` of doorbell page `page`: 0 once the engine has taken
    /// it. The driver never needs to know; measurements do.
    #[must_use]
    pub fn load_mark(&self, page: u32, group: u32) -> u8 {
        let offset = doorbell::page_offset(page) + group;
        match self.doorbells.mapped(offset as usize, 1) {
            Some(mapping) => mapping.load_u8(offset as usize),
            None => u8::from_le_bytes(self.trapped_read(&self.doorbells, offset)),
        }
    }

    /// Waits until `vector` was raised since the last call, or `timeout` is over; then false.
    /// Without interrupts ([`HostPlatform::open_sysfs`]) it sleeps for at most 100 µs, and the
    /// answer is that the vector may have been raised.
    pub fn wait_interrupt(&self, vector: u16, timeout: Duration) -> io::Result<bool> {
        let file = self.interrupts.get(usize::from(vector));
        let file = file.ok_or(io::ErrorKind::InvalidInput)?;
        if !self.bus.interrupts() {
            std::thread::sleep(timeout.min(LOOK));
            return Ok(true);
        }
        let mut files = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
        let timeout = timeout.try_into().ok();
        match poll(&mut files, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut count = [0; 8];
        match rustix::io::read(file, &mut count) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes existing memory accessible to the device. On a vfio-user socket and without an IOMMU
    /// only memory of the driver's own can be shared, and this fails.
    ///
    /// # Safety
    /// The memory must stay mapped until the value is dropped, and nothing may hold a reference
    /// into it while the device may write to it.
    #[allow(unsafe_code)]
    pub unsafe fn pin(&self, address: *mut u8, length: usize) -> io::Result<PinnedRange> {
        // SAFETY: The caller promises the same.
        unsafe { PinnedRange::new(&self.arena, address, length) }
    }

    /// Reads from configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.bus.read(REGION_CONFIG, offset, data)
    }

    /// Writes to configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bus.write(REGION_CONFIG, offset, data)
    }

    /// A trapped write. A device that is gone swallows writes, as on a bus; reads tell.
    fn trapped_write(&self, region: &Region, offset: u32, data: &[u8]) {
        let written = self.bus.write(region.index, u64::from(offset), data);
        if let Err(error) = written {
            log::debug!("write to BAR{} failed: {error}", region.index);
        }
    }

    /// A trapped read, all ones if it fails.
    fn trapped_read<const N: usize>(&self, region: &Region, offset: u32) -> [u8; N] {
        let mut data = [0; N];
        match self.bus.read(region.index, u64::from(offset), &mut data) {
            Ok(()) => data,
            Err(error) => {
                log::debug!("read from BAR{} failed: {error}", region.index);
                [0xff; N]
            }
        }
    }
}

/// Sets memory decoding and bus mastering in the command register.
fn enable_bus_master(bus: &dyn Bus) -> io::Result<()> {
    let mut command = [0; 2];
    bus.read(REGION_CONFIG, COMMAND, &mut command)?;
    let command = u16::from_le_bytes(command) | COMMAND_MEMORY | COMMAND_MASTER;
    bus.write(REGION_CONFIG, COMMAND, &command.to_le_bytes())
}

/// How many MSI-X vectors the function has, by its capability (PCI Express Base 6.0, section 7.7.2).
fn msix_vectors(bus: &dyn Bus) -> io::Result<u16> {
    let word = |offset: u8| {
        let mut bytes = [0; 2];
        let read = bus.read(REGION_CONFIG, offset.into(), &mut bytes);
        read.map(|()| u16::from_le_bytes(bytes))
    };
    let [mut at, _] = word(FIRST_CAPABILITY)?.to_le_bytes();
    // A list that is longer than there is room for capabilities of 4 bytes leads in a circle.
    for _ in 0..48 {
        at &= !3;
        if at < HEADER_END {
            break;
        }
        let [id, next] = word(at)?.to_le_bytes();
        if id == MSIX {
            let control = word(at.saturating_add(2))?;
            return Ok((control & MSIX_TABLE_SIZE) + 1);
        }
        at = next;
    }
    let missing = "the function has no MSI-X capability";
    Err(io::Error::new(io::ErrorKind::InvalidData, missing))
}

/// Lets the vectors signal the files, if there are interrupts.
fn set_interrupts(bus: &dyn Bus, files: &[OwnedFd]) -> io::Result<()> {
    if bus.interrupts() {
        bus.set_interrupts(files)?;
    }
    Ok(())
}

impl Platform for HostPlatform {
    type Dma = DmaMemory;
    type Pinned = PinnedRange;
    type Lock<T> = MutexLock<T>;

    fn read_register(&self, offset: u32) -> u32 {
        match self.registers.mapped(offset as usize, 4) {
            Some(mapping) => mapping.load_u32(offset as usize),
            None => u32::from_le_bytes(self.trapped_read(&self.registers, offset)),
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match self.registers.mapped(offset as usize, 4) {
            Some(mapping) => mapping.store_u32(offset as usize, value),
            None => self.trapped_write(&self.registers, offset, &value.to_le_bytes()),
        }
    }

    #[inline]
    fn store_slot(&self, page: u32, slot: u32, value: u64) {
        let offset = doorbell::page_offset(page) + doorbell::slot_offset(slot);
        match self.doorbells.mapped(offset as usize, 8) {
            Some(mapping) => mapping.store_u64(offset as usize, value),
            None => self.trapped_write(&self.doorbells, offset, &value.to_le_bytes()),
        }
    }

    #[inline]
    fn store_mark(&self, page: u32, group: u32) {
        let offset = doorbell::page_offset(page) + group;
        match self.doorbells.mapped(offset as usize, 1) {
            Some(mapping) => mapping.store_u8(offset as usize, doorbell::DIRTY),
            None => self.trapped_write(&self.doorbells, offset, &[doorbell::DIRTY]),
        }
    }

    #[inline]
    fn load_engine_state(&self, page: u32) -> u8 {
        let offset = doorbell::page_offset(page) + doorbell::ENGINE_STATE_OFFSET;
        match self.doorbells.mapped(offset as usize, 1) {
            Some(mapping) => mapping.load_u8(offset as usize),
            None => u8::from_le_bytes(self.trapped_read(&self.doorbells, offset)),
        }
    }

    fn kick(&self, page: u32) {
        let offset = doorbell::kick_offset(page);
        match self.doorbells.mapped(offset as usize, 4) {
            Some(mapping) => mapping.store_u32(offset as usize, 1),
            None => self.trapped_write(&self.doorbells, offset, &1u32.to_le_bytes()),
        }
    }

    fn allocate_dma(&self, length: usize) -> Result<DmaMemory, OutOfMemory> {
        self.arena.allocate(length).map_err(|error| {
            log::error!("cannot allocate {length} bytes of DMA memory: {error}");
            OutOfMemory
        })
    }

    fn vectors(&self) -> u16 {
        self.interrupts.len() as u16
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn relax(&self, vector: Option<u16>, deadline: u64) {
        let left = Duration::from_nanos(deadline.saturating_sub(self.now()));
        match vector {
            Some(vector) => {
                let _ = self.wait_interrupt(vector, left);
            }
            None => std::thread::sleep(left),
        }
    }

    fn reset_function(&self) -> bool {
        let reset = self
            .bus
            .reset()
            .and_then(|()| enable_bus_master(&*self.bus));
        reset
            .and_then(|()| set_interrupts(&*self.bus, &self.interrupts))
            .is_ok()
    }

    fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        match level {
            Level::Error => log::error!("{message}"),
            Level::Warning => log::warn!("{message}"),
            Level::Info => log::info!("{message}"),
        }
    }
}

/// A mutex. A panic of one user does not keep the others out: the driver holds no lock while it
/// runs code that could leave its data half changed.
pub struct MutexLock<T>(Mutex<T>);

impl<T> Lock<T> for MutexLock<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
