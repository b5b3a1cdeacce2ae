//! A shared receive queue, with its requests in flight.
//!
//! Posters and the pollers of several completion queues use it, hence the lock around it.

use vrnic_abi::doorbell;
use vrnic_abi::wqe::SEGMENT;
use vrnic_driver::queues::{RingSize, SrqRequests, store_receive};
use vrnic_driver::{PostError, Sge};

use crate::buffer::Buffer;
use crate::doorbell::Doorbell;

/// A shared receive queue. Requests are written one by one and announced together.
pub(crate) struct SharedQueue {
    pub(crate) buffer: Buffer,
    pub(crate) size: RingSize,
    /// Data segments of an entry.
    pub(crate) segments: usize,
    pub(crate) doorbell: Doorbell,
    pub(crate) requests: SrqRequests,
    /// Entries ever written.
    pub(crate) head: u32,
}

impl SharedQueue {
    /// Writes a request behind those that are there.
    #[inline]
    pub(crate) fn write(&mut self, wr_id: u64, sges: &[Sge]) -> Result<(), PostError> {
        if sges.len() > self.segments {
            return Err(PostError::TooLarge);
        }
        let index = self.requests.push(wr_id).ok_or(PostError::QueueFull)?;
        let base = self.size.position(index) * self.segments * SEGMENT;
        store_receive(&self.buffer, base, sges, self.segments);
        self.head = index.wrapping_add(1);
        Ok(())
    }

    /// Tells the device of what was written.
    #[inline]
    pub(crate) fn announce(&self) {
        self.doorbell.publish(doorbell::receive_queue(self.head));
    }

    /// The request at `index` has completed.
    #[inline]
    pub(crate) fn complete(&mut self, index: u32) -> Option<u64> {
        self.requests.complete(index)
    }
}
