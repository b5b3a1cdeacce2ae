//! The driver's platform in user space.
//!
//! [`HostPlatform`] runs the driver core on a function that is reached through
//!
//! * Linux VFIO ([`HostPlatform::open_vfio`]): in a virtual machine or on bare metal, through the
//!   IOMMU that the kernel controls;
//! * a vfio-user socket ([`HostPlatform::open_socket`]): in any process on the host, without a
//!   virtual machine;
//! * sysfs ([`HostPlatform::open_sysfs`]): in a virtual machine without an IOMMU, as root, on
//!   hugepages, without interrupts.
//!
//! Each is a `Bus` (private): regions, DMA mappings, interrupts and reset. What the driver stores
//! into often, the doorbell pages, is mapped where the bus allows it. DMA memory comes from an
//! arena of memory files that are mapped for the device a few megabytes at a time, or of hugepages
//! that lie where the device looks for them.
#![deny(unsafe_code)]

mod arena;
mod bus;
mod hugepages;
#[allow(unsafe_code)]
mod kernel;
#[allow(unsafe_code)]
mod mapping;
#[allow(unsafe_code)]
mod pinned;
mod platform;
mod socket;
mod sysfs;

pub use arena::DmaMemory;
pub use pinned::PinnedRange;
pub use platform::{HostPlatform, MutexLock, Options};
