//! The bounds on what one client can make the server hold.
//!
//! They apply to each connection by itself. Exceeding one is either answered
//! with an errno or ends the connection; the item says which.

/// Descriptors accepted with one message, and announced as `max_msg_fds`.
///
/// QEMU's client refuses a server that announces more. More of them in a
/// message end the connection.
pub const MAX_MSG_FDS: usize = 16;

/// Bytes of data in one region or DMA access: our `max_data_xfer_size`.
///
/// A larger region access is answered with `EINVAL` if it fits a message.
pub const MAX_DATA_XFER: u32 = 1 << 20;

/// Largest message body accepted: the data of a transfer and its fixed part.
///
/// A header that announces more ends the connection.
pub const MAX_BODY: usize = MAX_DATA_XFER as usize + 64;

/// Largest body of the first message, `VERSION`. More ends the connection.
pub const MAX_VERSION_BODY: usize = 16 << 10;

/// DMA mappings that can exist at once; announced as `max_dma_maps`.
///
/// The next `DMA_MAP` is answered with `ENOSPC`.
pub const MAX_DMA_MAPS: u32 = 65_535;

/// Page sizes of DMA mappings, or'ed: iova, size and offset are multiples of
/// the smallest.
pub const PAGE_SIZES: u64 = 4096;

/// Requests whose answer the device has deferred. The next one that would be
/// deferred is answered with `EBUSY`.
pub const MAX_DEFERRED: usize = 16_384;

/// Bytes that wait for the client to read them. More ends the connection.
pub const MAX_OUT_BYTES: usize = 16 << 20;

/// Messages that wait for the client to read them. More end the connection.
pub const MAX_OUT_MESSAGES: usize = 16_384;

/// DMA requests sent to the client and not yet answered; others wait.
pub const DMA_WINDOW: usize = 8;

/// Bytes of one DMA access towards the client (it is sent in chunks).
pub const MAX_DMA_ACCESS: usize = 8 << 20;

/// Bytes of all DMA accesses that wait or are in flight towards the client.
pub const MAX_DMA_BYTES: usize = 32 << 20;

/// DMA accesses that wait or are in flight towards the client.
pub const MAX_DMA_ACCESSES: usize = 4096;

/// Messages of one connection handled before the other sockets get a turn.
pub(crate) const TURN_MESSAGES: usize = 64;

/// Connections accepted on one socket before the other sockets get a turn.
pub(crate) const TURN_ACCEPTS: usize = 8;

/// Notes of other threads handled before the sockets get a turn.
pub(crate) const TURN_NOTES: usize = 1024;
