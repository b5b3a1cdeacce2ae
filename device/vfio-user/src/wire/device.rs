//! `DEVICE_GET_INFO`: `struct vfio_device_info`.

use bytemuck::{Pod, Zeroable};

use super::Fixed;

/// The device can be reset (`VFIO_DEVICE_FLAGS_RESET`).
pub const FLAG_RESET: u32 = 1 << 0;
/// The device is a PCI device (`VFIO_DEVICE_FLAGS_PCI`).
pub const FLAG_PCI: u32 = 1 << 1;

/// Request (only `argsz` counts) and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DeviceInfo {
    /// In a request the largest reply, in a reply its size.
    pub argsz: u32,
    /// [`FLAG_RESET`] and [`FLAG_PCI`].
    pub flags: u32,
    /// Number of regions.
    pub num_regions: u32,
    /// Number of interrupt types.
    pub num_irqs: u32,
}

impl Fixed for DeviceInfo {}
