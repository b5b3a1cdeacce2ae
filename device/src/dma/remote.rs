//! Memory that a client does not share.
//!
//! A DMA_MAP without a file descriptor names memory that only the client can reach; vfio-user has
//! DMA_READ and DMA_WRITE messages for it. This is the seam: what sends them implements
//! [`RemoteMemory`], and [`super::GuestMemory`] calls it from the engine thread, which waits.

use super::DmaError;

/// Reaches a client's memory by messages.
pub trait RemoteMemory: Send {
    /// Reads `buffer.len()` bytes at `iova`. Returns when the client has answered.
    ///
    /// # Errors
    /// [`DmaError::Remote`] when the client refuses, is gone, or does not answer in time.
    fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError>;

    /// Writes `data` at `iova`. Returns when the client has answered: what is written later is seen
    /// later.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError>;
}
