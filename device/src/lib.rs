//! The device.

pub mod pci;
