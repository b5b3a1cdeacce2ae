//! The receive queue of a queue pair.

use std::sync::Arc;

use vrnic_abi::doorbell;
use vrnic_abi::wqe::SEGMENT;
use vrnic_driver::queues::store_receive;
use vrnic_driver::{PostError, Sge};

use crate::buffer::Buffer;
use crate::doorbell::Doorbell;
use crate::queue::Tables;

/// A receive queue. Its ring is at the start of the buffer. Requests are written one by one and
/// announced together.
pub(crate) struct ReceiveQueue {
    pub(crate) buffer: Arc<Buffer>,
    /// Data segments of an entry.
    pub(crate) segments: usize,
    pub(crate) tables: Arc<Tables>,
    pub(crate) doorbell: Doorbell,
    /// Entries ever written.
    pub(crate) head: u32,
    /// The queue pair has been in a state that takes receive requests since it was created or reset.
    pub(crate) ready: bool,
}

impl ReceiveQueue {
    /// Writes a request behind those that are there.
    #[inline]
    pub(crate) fn write(&mut self, wr_id: u64, sges: &[Sge]) -> Result<(), PostError> {
        if sges.len() > self.segments {
            return Err(PostError::TooLarge);
        }
        let table = &self.tables.receive;
        if table.is_full() {
            return Err(PostError::QueueFull);
        }
        let base = table.size().position(self.head) * self.segments * SEGMENT;
        store_receive(&*self.buffer, base, sges, self.segments);
        table.push(self.head, wr_id);
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    /// Tells the device of what was written.
    #[inline]
    pub(crate) fn announce(&self) {
        self.doorbell.publish(doorbell::receive_queue(self.head));
        self.tables.announce_receive();
    }

    /// Starts over, as the device does after a reset of the queue pair.
    pub(crate) fn restart(&mut self, tables: &Arc<Tables>) {
        self.tables = Arc::clone(tables);
        self.head = 0;
        self.ready = false;
    }
}
