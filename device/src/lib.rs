//! The device.

pub mod capture;
pub mod link;
pub mod pci;
