//! Raw packet queue pairs: frames out and in, offloads, filters, the embedded switch.
//!
//! Checksums are computed here once more, by other code than the firmware's.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod nic_bench;
#[path = "nic_raw/support.rs"]
mod support;

#[path = "nic_raw/filters.rs"]
mod filters;
#[path = "nic_raw/hostile.rs"]
mod hostile;
#[path = "nic_raw/receiving.rs"]
mod receiving;
#[path = "nic_raw/segmenting.rs"]
mod segmenting;
#[path = "nic_raw/sending.rs"]
mod sending;
#[path = "nic_raw/switching.rs"]
mod switching;
