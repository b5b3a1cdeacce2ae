//! The vrnic RDMA NIC in user space: a provider of rdma-core 56.
//!
//! Applications call `libibverbs`, which loads this library for devices of the vrnic kernel
//! driver. What creates, changes or destroys an object goes to the kernel; posting, polling and
//! arming go straight to the device, through rings in the application's memory and doorbell pages
//! that are mapped into it, without a system call.
//!
//! * `ffi`: the structures of rdma-core; `library`: its functions; `load`: how it finds this
//!   provider;
//! * `doorbell`, `buffer`, `lock`: pages of the device, memory of the rings, mutual exclusion;
//! * `queue`: sending, receiving and completion queues, which know nothing of `libibverbs`;
//! * `context`, `memory`, `address`, `cq`, `qp`, `srq`, `xrc`: the verbs.
//!
//! Descriptors and completions are those of the driver (`vrnic_driver::queues`), and what kernel
//! and provider tell each other is in `vrnic_abi::verbs`.
//!
//! An object that `libibverbs` sees starts with the structure that it knows. Objects are boxes,
//! handed out as pointers; what several threads use of them is behind locks, so they are only ever
//! borrowed shared. The application vouches for the pointers it passes, as with any provider. What
//! the device and the kernel write is checked: it is never an index, a length or a pointer as it
//! is. No panic is meant to happen; one that does ends the process at the boundary.

#![deny(clippy::indexing_slicing)]

mod address;
mod buffer;
mod context;
mod cq;
mod doorbell;
mod ffi;
mod library;
mod load;
mod lock;
mod memory;
mod qp;
mod queue;
mod srq;
mod xrc;

#[cfg(test)]
mod tests;

/// Sets the calling thread's `errno`.
fn set_errno(error: i32) {
    // SAFETY: the C library's function returns a valid pointer to the thread's own number.
    unsafe { *libc::__errno_location() = error };
}

/// What functions that return a pointer return after `error`.
fn fail<T>(error: i32) -> *mut T {
    set_errno(error);
    core::ptr::null_mut()
}
