//! The send queue of a queue pair.

use std::sync::Arc;

use vrnic_abi::doorbell;
use vrnic_driver::queues::{Descriptor, DescriptorLimits, Noted, Writer};
use vrnic_driver::{PostError, SendRequest};

use crate::buffer::Buffer;
use crate::doorbell::Doorbell;
use crate::queue::Tables;

/// A send queue. Requests are written one by one and announced together.
pub(crate) struct SendQueue {
    pub(crate) buffer: Arc<Buffer>,
    /// Offset in the buffer.
    pub(crate) base: usize,
    pub(crate) tables: Arc<Tables>,
    pub(crate) doorbell: Doorbell,
    pub(crate) limits: DescriptorLimits,
    /// Basic blocks ever written.
    pub(crate) head: u32,
    /// Basic blocks that the device was told of.
    pub(crate) announced: u32,
    /// The queue pair has been in a state that takes send requests since it was created or reset.
    pub(crate) ready: bool,
}

impl SendQueue {
    /// Writes a request behind those that are there. Inlined wherever it is called: a caller that
    /// knows the operation gets code for just that.
    #[inline(always)]
    pub(crate) fn write(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        let descriptor = Descriptor::new(request, self.limits)?;
        let blocks = descriptor.blocks();
        let table = &self.tables.send;
        if blocks > table.free() {
            return Err(PostError::QueueFull);
        }
        let mut writer = Writer::new(&*self.buffer, self.base, table.size(), self.head);
        descriptor.emit(request, self.head, |words| writer.put(words));
        let noted = Noted {
            wr_id: request.wr_id,
            opcode: request.operation.opcode(),
            key: request.operation.local_key(),
        };
        table.push(self.head, blocks, noted);
        self.head = self.head.wrapping_add(blocks);
        Ok(())
    }

    /// Tells the device of what was written.
    #[inline]
    pub(crate) fn announce(&mut self) {
        if self.head != self.announced {
            self.announced = self.head;
            let value = doorbell::send_queue(self.head, self.tables.qpn);
            self.doorbell.ring(value);
        }
    }

    /// Takes back what the device was not told of.
    pub(crate) fn retract(&mut self) {
        self.head = self.announced;
        self.tables.send.retract(self.head);
    }

    /// Starts over, as the device does after a reset of the queue pair.
    pub(crate) fn restart(&mut self, tables: &Arc<Tables>) {
        self.tables = Arc::clone(tables);
        (self.head, self.announced) = (0, 0);
        self.ready = false;
    }
}
