//! The Linux kernel driver of the vrnic RDMA NIC.
//!
//! The driver proper is the crate `vrnic-driver`; this one puts it into the kernel. In the order in
//! which a function meets them:
//!
//! * [`kernel`]: the kernel's services as Rust values: memory, locks, waiting, logging;
//! * [`platform`]: what the driver core asks for, made of them;
//! * [`function`]: a PCI function from probe to removal, reset and recovery; [`resources`]: what it
//!   takes of the bus; [`remains`]: what of it must outlive a device that does not answer;
//! * [`sriov`]: its virtual functions, which are bound as functions of their own; [`family`]: what
//!   these have to do with it then; [`devlink`]: what administrators see of all that;
//! * [`net`]: its Ethernet interface, [`verbs`]: its RDMA device, which is bound to that.
//!
//! The kernel is entered through `bindings`, made from its headers when the module is built, and
//! through `shim/helpers.c`, where it is made of inline functions and macros. What the kernel calls
//! is `extern "C"`; such a function does nothing but find its object and call a method.
//!
//! Contexts are the driver core's: *sleepable* (process context) and *atomic* (interrupt handlers,
//! softirqs, under spin locks). Memory is allocated in the former only.
#![no_std]
#![warn(
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks
)]

extern crate alloc;

use vrnic_linux_bindings as bindings;

#[cfg(kernel = "devlink")]
mod devlink;
#[cfg(not(kernel = "devlink"))]
#[path = "devlink_absent.rs"]
mod devlink;
mod family;
mod function;
mod interrupts;
mod kernel;
mod net;
mod platform;
mod remains;
mod resources;
mod sriov;
mod verbs;
