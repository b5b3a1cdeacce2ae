//! What of rdma-core's private interfaces the provider uses, declared for version 56 on 64-bit
//! machines; the public one, which applications share, is in `vrnic_ibverbs`.
//!
//! * [`provider`]: between `libibverbs` and its providers, interface 34;
//! * [`command`]: the commands to the kernel, of which only sizes matter here: `libibverbs` fills
//!   them in, the provider appends its own part.
//!
//! Names are those of rdma-core. Sizes and offsets are asserted at compile time; the numbers are
//! those that a C compiler gives for the headers of rdma-core 56.1. `libibverbs` names its private
//! interface in the version of its symbols, which [`crate::library`] asks for when it is loaded.

#![allow(non_camel_case_types)]

pub(crate) mod command;
pub(crate) mod provider;
