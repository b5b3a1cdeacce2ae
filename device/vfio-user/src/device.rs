//! What an embedder implements for each socket: [`Device`], and the values it
//! exchanges with the server.
//!
//! Every method is called on the thread that runs the server, never
//! concurrently, and, but for [`Device::connected`], only between
//! [`Device::attached`] and [`Device::detached`]. All indexes, ranges and flags were checked against
//! what the device itself said of its regions and interrupts.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::handle::{ClientHandle, Deferred};
use crate::wire::version::NegotiatedCaps;

/// Answer to `DEVICE_GET_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// It is a PCI device (no client known takes another).
    pub pci: bool,
    /// It implements [`Device::reset`].
    pub resettable: bool,
    /// Regions; 9 or more for PCI. QEMU takes at most 100.
    pub num_regions: u32,
    /// Interrupt types; 5 or more for PCI. QEMU takes at most 50.
    pub num_irqs: u32,
}

/// A part of a region that the client can map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseArea {
    /// Offset in the region, a multiple of the page size.
    pub offset: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
}

/// How the client maps a region.
#[derive(Debug, Clone)]
pub struct RegionMmap {
    /// What it maps; a duplicate goes to every client that asks.
    pub fd: Arc<OwnedFd>,
    /// Offset in `fd` at which the region begins.
    pub offset: u64,
    /// The parts that can be mapped; all of it if empty.
    pub areas: Vec<SparseArea>,
}

/// Answer to `DEVICE_GET_REGION_INFO`. The default is a region that does not
/// exist.
#[derive(Debug, Clone, Default)]
pub struct RegionInfo {
    /// Bytes; 0 if the region does not exist.
    pub size: u64,
    /// Reads are allowed.
    pub readable: bool,
    /// Writes are allowed.
    pub writable: bool,
    /// What can be mapped, if anything.
    pub mmap: Option<RegionMmap>,
}

/// Answer to `DEVICE_GET_IRQ_INFO`. The default is a type without interrupts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// Number of sub-indexes (vectors).
    pub count: u32,
    /// `INFO_*` of [`wire::irq`](crate::wire::irq).
    pub flags: u32,
}

/// A range of the client's memory that the device may use from now on.
#[derive(Debug)]
pub struct DmaMap {
    /// First address; a multiple of 4096.
    pub iova: u64,
    /// Bytes; a multiple of 4096, not 0; the range ends within 64 bits.
    pub size: u64,
    /// The device may read.
    pub readable: bool,
    /// The device may write.
    pub writable: bool,
    /// Where the range begins in `fd`; a multiple of 4096. With `size` it
    /// stays below 2^63, but may lie beyond the end of the file.
    pub offset: u64,
    /// The memory, to be mapped; without it, use [`ClientHandle`].
    pub fd: Option<OwnedFd>,
}

/// What the device must no longer use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmaUnmap {
    /// All mappings that lie in the range: several, one or none. None of them
    /// reaches beyond it.
    Range {
        /// First address.
        iova: u64,
        /// Bytes; not 0; the range ends within 64 bits.
        size: u64,
    },
    /// All mappings.
    All,
}

/// What happens to interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// They are masked, or an eventfd tells the client that they were.
    Mask,
    /// They are unmasked, or an eventfd tells the client that they were.
    Unmask,
    /// They fire, or an eventfd is assigned for when they do.
    Trigger,
}

/// To which interrupts of the range an [`IrqAction`] applies, and how.
#[derive(Debug)]
pub enum IrqData {
    /// To all of them, now. With a count of 0 and [`IrqAction::Trigger`]: the
    /// whole type is disabled.
    None,
    /// To those with a `true`, now; one a sub-index.
    Bool(Vec<bool>),
    /// Not now, but whenever it happens the eventfd is to be written; one a
    /// sub-index. Replaces what was assigned before.
    Assign(Vec<OwnedFd>),
    /// The eventfds that were assigned to the range are dropped.
    Deassign,
}

/// A validated `DEVICE_SET_IRQS`: the index exists, and `start + count` lies
/// within its count.
#[derive(Debug)]
pub struct SetIrqs {
    /// The interrupt type.
    pub index: u32,
    /// The first sub-index.
    pub start: u32,
    /// Number of sub-indexes; 0 only with [`IrqData::None`].
    pub count: u32,
    /// What to do.
    pub action: IrqAction,
    /// To which, and how.
    pub data: IrqData,
}

/// A device behind one socket.
pub trait Device {
    /// A client has connected, and has not negotiated yet. `socket` is its
    /// connection, of which the kernel can be asked who is at the other end.
    fn connected(&mut self, _socket: BorrowedFd<'_>) {}

    /// A client has connected and negotiated. The handle reaches its memory
    /// by messages; it can be cloned and sent to other threads.
    fn attached(&mut self, client: ClientHandle, caps: &NegotiatedCaps);

    /// The client is gone. Everything it gave (mappings, eventfds) is to be
    /// dropped; the device's own state stays (vfio-user, "Socket
    /// Disconnection Behavior"). [`Deferred`] replies still held go nowhere.
    fn detached(&mut self);

    /// The device's type, and the number of regions and interrupt types.
    fn info(&self) -> DeviceInfo;

    /// A region below `num_regions`.
    fn region(&self, index: u32) -> RegionInfo;

    /// Size and access of a region, for the check of every access. Override
    /// it when [`Device::region`] is expensive.
    fn region_access(&self, index: u32) -> RegionAccess {
        let region = self.region(index);
        RegionAccess {
            size: region.size,
            readable: region.readable,
            writable: region.writable,
        }
    }

    /// An interrupt type below `num_irqs`.
    fn irq(&self, index: u32) -> IrqInfo;

    /// Fills `data` (not empty) from a readable region, within its size.
    ///
    /// The answer cannot be deferred and must not wait for the client: it may
    /// hold a lock until it has it, as QEMU does, and serves no DMA request
    /// before.
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Takes `data` (not empty) for a writable region, within its size. As
    /// with reads, it must not wait for the client.
    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// A new mapping. It overlaps none that the client still has, but can
    /// overlap one whose [`Device::dma_unmap`] has not been answered: a client
    /// may send both without waiting in between.
    fn dma_map(&mut self, map: DmaMap) -> Result<(), Errno>;

    /// Mappings go away. Answer when nothing can touch them any more; until
    /// then other requests of the client keep arriving.
    ///
    /// The mappings are gone for the client whatever the answer.
    fn dma_unmap(&mut self, unmap: DmaUnmap, reply: Deferred);

    /// Changes interrupts.
    fn set_irqs(&mut self, set: SetIrqs) -> Result<(), Errno>;

    /// Resets the device (only if [`DeviceInfo::resettable`]). Answer when it
    /// is done and no DMA is left in flight.
    fn reset(&mut self, reply: Deferred);
}

/// What [`Device::region_access`] answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionAccess {
    /// Bytes; 0 if the region does not exist.
    pub size: u64,
    /// Reads are allowed.
    pub readable: bool,
    /// Writes are allowed.
    pub writable: bool,
}
