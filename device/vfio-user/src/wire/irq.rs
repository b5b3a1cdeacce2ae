//! `DEVICE_GET_IRQ_INFO` and `DEVICE_SET_IRQS`: `struct vfio_irq_info` and
//! `struct vfio_irq_set`.

use bytemuck::{Pod, Zeroable};

use super::{Fixed, Reader};

/// The interrupt is signalled by eventfd (`VFIO_IRQ_INFO_EVENTFD`).
pub const INFO_EVENTFD: u32 = 1 << 0;
/// It can be masked (`VFIO_IRQ_INFO_MASKABLE`).
pub const INFO_MASKABLE: u32 = 1 << 1;
/// It masks itself when it triggers (`VFIO_IRQ_INFO_AUTOMASKED`).
pub const INFO_AUTOMASKED: u32 = 1 << 2;
/// Its sub-indexes are enabled as one set (`VFIO_IRQ_INFO_NORESIZE`).
pub const INFO_NORESIZE: u32 = 1 << 3;

/// No data: the action applies to the whole range.
pub const SET_DATA_NONE: u32 = 1 << 0;
/// One byte a sub-index says whether the action applies.
pub const SET_DATA_BOOL: u32 = 1 << 1;
/// Descriptors come with the message, one a sub-index or none at all.
pub const SET_DATA_EVENTFD: u32 = 1 << 2;
/// Mask.
pub const SET_ACTION_MASK: u32 = 1 << 3;
/// Unmask.
pub const SET_ACTION_UNMASK: u32 = 1 << 4;
/// Trigger.
pub const SET_ACTION_TRIGGER: u32 = 1 << 5;
/// All data types.
pub const SET_DATA: u32 = SET_DATA_NONE | SET_DATA_BOOL | SET_DATA_EVENTFD;
/// All actions.
pub const SET_ACTION: u32 = SET_ACTION_MASK | SET_ACTION_UNMASK | SET_ACTION_TRIGGER;

/// Request (`argsz` and `index` count) and reply of `DEVICE_GET_IRQ_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IrqInfo {
    /// In a request the largest reply, in a reply its size.
    pub argsz: u32,
    /// `INFO_*`.
    pub flags: u32,
    /// The interrupt type.
    pub index: u32,
    /// Number of its sub-indexes.
    pub count: u32,
}

impl Fixed for IrqInfo {}

/// The request of `DEVICE_SET_IRQS`; its reply has no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// Size of this structure with its data.
    pub argsz: u32,
    /// One of `SET_DATA_*` and one of `SET_ACTION_*`.
    pub flags: u32,
    /// The interrupt type.
    pub index: u32,
    /// The first sub-index.
    pub start: u32,
    /// Number of sub-indexes.
    pub count: u32,
    /// What follows: a byte a sub-index with [`SET_DATA_BOOL`].
    pub data: &'a [u8],
}

impl<'a> SetIrqs<'a> {
    /// Bytes on the wire, without data.
    pub const SIZE: u32 = 20;

    /// Reads the request.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(body);
        Some(Self {
            argsz: r.u32()?,
            flags: r.u32()?,
            index: r.u32()?,
            start: r.u32()?,
            count: r.u32()?,
            data: r.rest(),
        })
    }
}
