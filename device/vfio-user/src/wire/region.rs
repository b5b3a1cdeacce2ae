//! `DEVICE_GET_REGION_INFO` (`struct vfio_region_info` and its capability
//! chain) and the fixed part of `DEVICE_GET_REGION_IO_FDS`.

use bytemuck::{Pod, Zeroable};

use super::{Fixed, Put};

/// The client may read (`VFIO_REGION_INFO_FLAG_READ`).
pub const FLAG_READ: u32 = 1 << 0;
/// The client may write (`VFIO_REGION_INFO_FLAG_WRITE`).
pub const FLAG_WRITE: u32 = 1 << 1;
/// A descriptor to map comes with the reply (`VFIO_REGION_INFO_FLAG_MMAP`).
pub const FLAG_MMAP: u32 = 1 << 2;
/// A capability chain follows (`VFIO_REGION_INFO_FLAG_CAPS`).
pub const FLAG_CAPS: u32 = 1 << 3;

const CAP_SPARSE_MMAP: u16 = 1;
const CAP_SPARSE_MMAP_VERSION: u16 = 1;
const CAP_HEADER: u32 = 8;
const SPARSE_HEADER: u32 = 8;
const SPARSE_AREA: u32 = 16;

/// Request (`argsz` and `index` count) and fixed part of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RegionInfo {
    /// In a request the largest reply; in a reply the size of all of it,
    /// included or not.
    pub argsz: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// The region.
    pub index: u32,
    /// Where the capability chain starts, from this structure's start.
    pub cap_offset: u32,
    /// Bytes in the region; 0 if it does not exist.
    pub size: u64,
    /// Offset of the region in the descriptor that comes with the reply.
    pub offset: u64,
}

impl Fixed for RegionInfo {}

/// Size of a sparse-mmap capability with `areas` areas, if 32 bits hold it.
pub fn sparse_mmap_size(areas: usize) -> Option<u32> {
    u32::try_from(areas)
        .ok()?
        .checked_mul(SPARSE_AREA)?
        .checked_add(CAP_HEADER + SPARSE_HEADER)
}

/// Appends a sparse-mmap capability, the last of its chain.
pub fn emit_sparse_mmap(out: &mut Vec<u8>, areas: impl ExactSizeIterator<Item = (u64, u64)>) {
    out.put_u16(CAP_SPARSE_MMAP);
    out.put_u16(CAP_SPARSE_MMAP_VERSION);
    out.put_u32(0);
    out.put_u32(u32::try_from(areas.len()).unwrap_or(0));
    out.put_u32(0);
    for (offset, size) in areas {
        out.put_u64(offset);
        out.put_u64(size);
    }
}

/// The request of `DEVICE_GET_REGION_IO_FDS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RegionIoFds {
    /// Largest reply the client takes.
    pub argsz: u32,
    /// Zero.
    pub flags: u32,
    /// The region.
    pub index: u32,
    /// Zero in a request, number of sub-regions in a reply.
    pub count: u32,
}

impl Fixed for RegionIoFds {}
