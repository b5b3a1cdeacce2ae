//! The public interface of `libibverbs`, declared for rdma-core 56 on 64-bit Linux: what the provider
//! shares with applications, and what a program of the tests calls the library with.
//!
//! * [`structures`] of `infiniband/verbs.h`, whose binary interface has not changed since its version
//!   1.1; what nobody here looks into is a piece of memory of the right size;
//! * [`numbers`]: types, states, masks and flags.
//!
//! Names are those of rdma-core, where they are documented. Sizes and offsets are asserted at compile
//! time. There are no functions here: a program loads the library when it runs, so that none of this
//! needs it to be built, and the private interface between the library and its providers is the
//! provider's affair.
#![no_std]
#![forbid(unsafe_code)]
#![allow(non_camel_case_types, missing_docs)]

#[cfg(not(all(target_pointer_width = "64", target_os = "linux")))]
compile_error!("the structures of rdma-core are declared for 64-bit Linux");

/// Asserts sizes of structures, and offsets of fields.
#[macro_export]
macro_rules! assert_layout {
    ($($name:ident: $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {
        $(
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
            $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*
        )*
    };
}

mod layout;
pub mod numbers;
pub mod structures;

pub use numbers::*;
pub use structures::*;
