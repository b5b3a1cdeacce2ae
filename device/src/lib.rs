//! The device.

pub mod capture;
pub mod dma;
pub mod link;
pub mod pci;
