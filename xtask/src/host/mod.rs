//! What has to run on this machine, found here or made privately under `target/vm`.
//!
//! - [`mirror`]: where Debian packages come from. The project names no host; this machine's apt
//!   knows one.
//! - [`apt`]: a private apt (its own state, cache and sources) that resolves and downloads
//!   packages without root, with apt's own signature checks.
//! - [`root`]: packages unpacked into a private root, and wrappers that run its programs through
//!   its own dynamic loader, so that neither root nor the machine's libraries are involved.
//! - [`tools`]: QEMU and tshark, this machine's own where they will do.
//! - [`accel`]: whether KVM really runs a guest.
//! - [`bare`]: a compiler and library sources for the bare target.
//!
//! Invariant: a root is complete or absent (it is unpacked beside its place and renamed), and
//! whoever makes one holds [`lock`]. A second call finds the root by its stamp and does nothing.

pub(crate) mod accel;
pub(crate) mod apt;
pub(crate) mod bare;
pub(crate) mod lock;
pub(crate) mod mirror;
pub(crate) mod root;
pub(crate) mod tools;
