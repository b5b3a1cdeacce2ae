//! A vfio-user server: devices served to VMMs over UNIX sockets.
//!
//! Implements the server's side of the vfio-user protocol, versions 0.0 and
//! 0.1 (QEMU `docs/interop/vfio-user.rst`), for any number of sockets in one
//! `mio` loop that belongs to the embedder. It knows nothing of what the
//! devices do.
//!
//! In order from the wire to the embedder:
//! - [`wire`]: the layout of every message, parsed from and written to bytes.
//! - [`frame`]: cuts the byte stream, and the descriptors that travel with it,
//!   into messages.
//! - [`request`]: a message as a typed, validated [`request::Request`].
//! - `session`: the state of one connection, without I/O: negotiation, the DMA
//!   mappings, messages to send (`outbox`), DMA requests towards the client
//!   (`dma`); `dispatch` makes requests calls of the device.
//! - [`device`]: the [`Device`] trait that an embedder implements.
//! - [`handle`]: what other threads hold: [`Deferred`] replies and
//!   [`ClientHandle`] for DMA through messages.
//! - [`listen`]: socket files. `conn`: one socket's I/O. [`server`]: all of them,
//!   by readiness.
//!
//! # Hostile clients
//! No byte, descriptor, order or timing of a client's messages makes this
//! crate panic, block, or hold more than a fixed amount of memory and
//! descriptors for that client ([`limits`]). A request that is understood but
//! cannot be done is answered with an errno; a violation of the framing ends
//! the connection. After either, the next client finds a clean state.
//!
//! Not implemented: twin sockets, ioeventfd/ioregionfd and migration; requests
//! for the latter two are answered with `ENOTSUP`.
#![forbid(unsafe_code)]

pub mod device;
pub mod frame;
pub mod handle;
pub mod limits;
pub mod listen;
pub mod request;
pub mod server;
pub mod wire;

mod conn;
mod dispatch;
mod dma;
mod mappings;
mod outbox;
mod session;

pub use device::{
    Device, DeviceInfo, DmaMap, DmaUnmap, IrqAction, IrqData, IrqInfo, RegionInfo, RegionMmap,
    SetIrqs, SparseArea,
};
pub use handle::{ClientHandle, Deferred, DmaError};
pub use listen::{ListenError, Listener};
pub use rustix::io::Errno;
pub use server::{Server, SocketId};
pub use wire::version::NegotiatedCaps;
