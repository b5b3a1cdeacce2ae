//! `DEVICE_GET_INFO`: `struct vfio_device_info`.

use super::{Put, Reader};

/// The device can be reset (`VFIO_DEVICE_FLAGS_RESET`).
pub const FLAG_RESET: u32 = 1 << 0;
/// The device is a PCI device (`VFIO_DEVICE_FLAGS_PCI`).
pub const FLAG_PCI: u32 = 1 << 1;

/// Request (only `argsz` counts) and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl DeviceInfo {
    /// Bytes on the wire.
    pub const SIZE: u32 = 16;

    /// Reads the request.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut r = Reader::new(body);
        Some(Self {
            argsz: r.u32()?,
            flags: r.u32()?,
            num_regions: r.u32()?,
            num_irqs: r.u32()?,
        })
    }

    /// Appends the reply.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz);
        out.put_u32(self.flags);
        out.put_u32(self.num_regions);
        out.put_u32(self.num_irqs);
    }
}
