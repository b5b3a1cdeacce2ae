//! What of rdma-core's interfaces the provider uses, declared for version 56 on 64-bit machines.
//!
//! * [`verbs`]: the structures of the public header `infiniband/verbs.h`, which applications share;
//! * [`provider`]: the private ones between `libibverbs` and its providers, interface 34;
//! * [`command`]: the commands to the kernel, of which only sizes matter here: `libibverbs` fills
//!   them in, the provider appends its own part.
//!
//! Names are those of rdma-core. Sizes and offsets are asserted at compile time; the numbers are
//! those that a C compiler gives for the headers of rdma-core 56.1. `libibverbs` names its private
//! interface in the version of its symbols, which [`crate::library`] asks for when it is loaded.

#![allow(non_camel_case_types)]

#[cfg(not(all(target_pointer_width = "64", target_os = "linux")))]
compile_error!("the structures of rdma-core are declared for 64-bit Linux");

pub(crate) mod command;
pub(crate) mod provider;
pub(crate) mod verbs;

/// Asserts sizes of structures, and offsets of fields.
macro_rules! assert_layout {
    ($($name:ident: $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {
        $(
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
            $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*
        )*
    };
}
pub(crate) use assert_layout;
