//! A PCIe RDMA NIC in software, served over vfio-user.
//!
//! The firmware (`vrnic_firmware`) is the NIC; this crate is the hardware around it, and the
//! process. From the bus to the wire:
//!
//! * [`function`]: one PCI function towards its vfio-user client, on the control thread; [`family`]:
//!   what a physical function and its virtual functions share;
//! * [`pci`]: configuration space and MSI-X; [`registers`]: BAR0; [`doorbell`]: BAR2;
//! * [`dma`]: guest memory through the client's mappings; [`memory`]: how changes of them reach the
//!   engine;
//! * [`engine`]: the thread that runs the firmware; [`host`]: what it offers to it;
//! * [`link`]: what the port is plugged into; [`capture`]: what crosses it, as a file;
//! * [`control`]: the socket for whoever operates the NIC;
//! * [`cli`]: the command line and the control thread.

pub mod capture;
pub mod cli;
pub mod control;
pub mod dma;
pub mod doorbell;
pub mod engine;
pub mod family;
pub mod function;
pub mod host;
pub mod link;
pub mod memory;
pub mod pci;
pub mod registers;
pub mod slots;
