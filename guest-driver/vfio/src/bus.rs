//! What VFIO, vfio-user and sysfs have in common: how a function is reached.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::mapping::Mapping;

/// Region indices of a PCI function: BARs are 0 to 5.
pub(crate) const REGION_CONFIG: u32 = 7;

/// Offset of the command register in configuration space.
pub(crate) const COMMAND: u64 = 4;
/// Its bits for decoding of memory BARs and for bus mastering.
pub(crate) const COMMAND_MEMORY: u16 = 1 << 1;
pub(crate) const COMMAND_MASTER: u16 = 1 << 2;

/// Memory to make accessible to the device.
pub(crate) struct DmaRange<'a> {
    /// DMA address.
    pub(crate) iova: u64,
    /// Length in bytes.
    pub(crate) length: u64,
    /// Address in this process.
    pub(crate) address: u64,
    /// The memory itself, if it is a memory file of ours.
    pub(crate) file: Option<(BorrowedFd<'a>, &'a Arc<Mapping>)>,
}

/// A function on VFIO, vfio-user or sysfs. Offsets are bytes in the region.
pub(crate) trait Bus: Send + Sync {
    /// Reads from a region.
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()>;
    /// Writes to a region.
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Maps the part of a region that starts at its first byte, as far as it can be mapped.
    fn map_region(&self, region: u32) -> io::Result<Option<Mapping>>;
    /// Makes memory accessible to the device.
    fn map_dma(&self, range: &DmaRange<'_>) -> io::Result<()>;
    /// Ends that; no access is in flight when it returns.
    fn unmap_dma(&self, iova: u64, length: u64) -> io::Result<()>;
    /// Whether there are interrupts; otherwise whoever waits looks again and again.
    fn interrupts(&self) -> bool {
        true
    }
    /// Lets MSI-X vector n signal the nth file.
    fn set_interrupts(&self, eventfds: &[OwnedFd]) -> io::Result<()>;
    /// Resets the function; [`io::ErrorKind::Unsupported`] if it can only be reset by its registers.
    fn reset(&self) -> io::Result<()>;
}

/// An area of a region that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The fixed part of `struct vfio_region_info`, which vfio-user shares.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct RegionInfo {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) index: u32,
    pub(crate) cap_offset: u32,
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

const REGION_FLAG_MMAP: u32 = 1 << 2;
const REGION_FLAG_CAPS: u32 = 1 << 3;
const CAP_SPARSE_MMAP: u16 = 1;

fn read_at<T: bytemuck::Pod>(bytes: &[u8], offset: usize) -> Option<T> {
    let end = offset.checked_add(size_of::<T>())?;
    bytes.get(offset..end).map(bytemuck::pod_read_unaligned)
}

/// The area at the start of the region that can be mapped. `bytes` is the answer to a question
/// for the region: a [`RegionInfo`] and its capabilities, at offsets from its start.
pub(crate) fn mappable_start(bytes: &[u8]) -> Option<Area> {
    let info: RegionInfo = read_at(bytes, 0)?;
    if info.flags & REGION_FLAG_MMAP == 0 {
        return None;
    }
    let mut next = info.cap_offset as usize;
    if info.flags & REGION_FLAG_CAPS == 0 {
        next = 0;
    }
    let mut sparse = false;
    // Offsets must grow, so this ends.
    while next != 0 {
        let [id, _version]: [u16; 2] = read_at(bytes, next)?;
        let following: u32 = read_at(bytes, next + 4)?;
        if id == CAP_SPARSE_MMAP {
            sparse = true;
            if let Some(area) = first_area(bytes, next) {
                return Some(area);
            }
        }
        let following = following as usize;
        next = if following > next { following } else { 0 };
    }
    let whole = Area {
        offset: 0,
        length: info.size,
    };
    (!sparse).then_some(whole)
}

/// The sparse area at offset 0 in the capability at `base`, with those that follow it directly.
fn first_area(bytes: &[u8], base: usize) -> Option<Area> {
    let count: u32 = read_at(bytes, base + 8)?;
    let areas = (0..count as usize).map_while(|index| {
        let [offset, length]: [u64; 2] = read_at(bytes, base + 16 + index * 16)?;
        Some(Area { offset, length })
    });
    let mut end = 0u64;
    for area in areas {
        if area.offset == end {
            end = end.checked_add(area.length)?;
        }
    }
    (end > 0).then_some(Area {
        offset: 0,
        length: end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(flags: u32, areas: &[(u64, u64)]) -> Vec<u8> {
        let info = RegionInfo {
            flags,
            cap_offset: 32,
            size: 0x20_0000,
            ..RegionInfo::default()
        };
        let mut bytes = bytemuck::bytes_of(&info).to_vec();
        bytes.extend([1, 0, 1, 0, 0, 0, 0, 0]);
        bytes.extend((areas.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        for (offset, length) in areas {
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
        }
        bytes
    }

    #[track_caller]
    fn check(bytes: &[u8], length: Option<u64>) {
        let area = length.map(|length| Area { offset: 0, length });
        assert_eq!(mappable_start(bytes), area);
    }

    #[test]
    fn sparse_areas_limit_what_is_mapped() {
        check(&info(0xf, &[(0, 0x10_0000)]), Some(0x10_0000));
        check(&info(0xf, &[(0, 0x1000), (0x1000, 0x1000)]), Some(0x2000));
        check(&info(0xf, &[(0x1000, 0x1000)]), None);
        check(&info(0xf, &[]), None);
    }

    #[test]
    fn regions_without_capabilities_are_mapped_whole_or_not() {
        check(&info(0x7, &[]), Some(0x20_0000));
        check(&info(0x3, &[]), None);
        check(&[], None);
    }

    #[test]
    fn truncated_capabilities_map_nothing() {
        let bytes = info(0xf, &[(0, 0x10_0000)]);
        check(&bytes[..bytes.len() - 1], None);
        check(&bytes[..34], None);
    }
}
