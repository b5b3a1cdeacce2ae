//! How a vrnic function looks on the PCI bus.
//!
//! The vendor and device IDs are not registered with the PCI-SIG: no product carries them, and a
//! driver binds to them only inside a virtual machine.

/// Vendor ID of all functions.
pub const VENDOR_ID: u16 = 0x5652;
/// Device ID of a physical function.
pub const DEVICE_ID_PF: u16 = 0x0001;
/// Device ID of a virtual function, as the SR-IOV capability announces it.
pub const DEVICE_ID_VF: u16 = 0x0002;
/// Subsystem ID.
pub const SUBSYSTEM_ID: u16 = 0x0001;
/// Class code: network controller, InfiniBand controller.
pub const CLASS_CODE: u32 = 0x02_07_00;
/// Revision ID.
pub const REVISION: u8 = 1;

/// BAR index of the registers ([`crate::registers`]).
pub const BAR_REGISTERS: u8 = 0;
/// BAR index of the doorbell and kick pages ([`crate::doorbell`]).
pub const BAR_DOORBELLS: u8 = 2;
/// BAR index of the MSI-X table and pending bit array.
pub const BAR_MSIX: u8 = 4;

/// Size of the register BAR in bytes.
pub const BAR_REGISTERS_SIZE: u32 = 0x4000;

/// Most MSI-X vectors that a function has.
pub const MSIX_VECTORS: u16 = 64;
/// Offset of the MSI-X table in its BAR.
pub const MSIX_TABLE_OFFSET: u32 = 0;
/// Offset of the pending bit array in the MSI-X BAR.
pub const MSIX_PBA_OFFSET: u32 = 0x4000;
/// Size of the MSI-X BAR in bytes.
pub const BAR_MSIX_SIZE: u32 = 0x8000;
