//! Messages of the vfio-user protocol, as far as the client uses them. All little-endian.

use bytemuck::{Pod, Zeroable};

/// Commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    GetRegionInfo = 5,
    SetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    DmaRead = 11,
    DmaWrite = 12,
    DeviceReset = 13,
}

pub(super) const FLAG_TYPE: u32 = 0xf;
pub(super) const TYPE_COMMAND: u32 = 0;
pub(super) const TYPE_REPLY: u32 = 1;
pub(super) const FLAG_NO_REPLY: u32 = 1 << 4;
pub(super) const FLAG_ERROR: u32 = 1 << 5;

pub(super) const DMA_READ_WRITE: u32 = 3;
pub(super) const IRQ_INDEX_MSIX: u32 = 2;
/// Files are event files; trigger when raised.
pub(super) const IRQ_EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) command: u16,
    /// Of the whole message in bytes.
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) error: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Version {
    pub(super) major: u16,
    pub(super) minor: u16,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct DmaMap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    /// In the file.
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) size: u64,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct DmaUnmap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) address: u64,
    pub(super) size: u64,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SetIrqs {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) start: u32,
    pub(super) count: u32,
}

/// Start of REGION_READ and REGION_WRITE, command and reply.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RegionAccess {
    pub(super) offset: u64,
    pub(super) region: u32,
    pub(super) count: u32,
}

/// Start of DMA_READ and DMA_WRITE, command and reply.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct DmaAccess {
    pub(super) address: u64,
    pub(super) count: u64,
}
