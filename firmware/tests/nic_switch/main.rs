//! The embedded switch under the operator's rules: VLANs, forged addresses, trust, link state, where
//! stations are learned; with frames of raw packet queues, and with RDMA on all ways that it takes.
//!
//! `vlans`, `spoofing`, `trust`, `links` and `stations` each hold what one kind of rule promises,
//! `changes` that rules can change under traffic, `administration` how the driver of a physical
//! function changes them, `assignments` that the addresses which it assigns are nobody else's.

#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;
#[path = "../nic_raw/support.rs"]
mod support;

mod administration;
mod assignments;
mod changes;
mod links;
mod mirrors;
mod rules;
mod spoofing;
mod stations;
mod trust;
mod vlans;
