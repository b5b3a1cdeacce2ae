//! Posting: descriptors into the rings, doorbells.
//!
//! Atomic context: no call here sleeps, allocates or takes a lock. The two queues of a queue pair
//! are independent of each other, and each is used by one context at a time.
//!
//! The queues of a lost function go on taking requests, as those of a queue pair in the error state
//! do (InfiniBand Architecture volume 1, 10.3.1.7): the device does not hear of them, and the poller
//! completes them as flushed.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use vrnic_abi::doorbell;
use vrnic_abi::wqe::{BASIC_BLOCK, END_OF_LIST, FastRegisterSegment, SEGMENT, WqeFlags, WqeOpcode};

use crate::doorbell::Doorbell;
use crate::error::PostError;
use crate::fast::FastRegion;
use crate::memory::Handle;
use crate::platform::{DmaBuffer, Platform};
use crate::qp::Restart;
use crate::ring::RingSize;
use crate::tables::{CqTable, Noted, QpTables};
use crate::work::{
    DatagramPath, Descriptor, DescriptorLimits, ReceiveRequest, Registration, SendRequest, Sge,
    Target, data_segment,
};

/// The send queue of a queue pair.
pub struct SendQueue<P: Platform> {
    pub(super) queue: Queue<P>,
    /// Offset in the buffer.
    pub(super) base: usize,
    pub(super) limits: DescriptorLimits,
}

/// The receive queue of a queue pair.
pub struct ReceiveQueue<P: Platform> {
    pub(super) queue: Queue<P>,
    /// Data segments of an entry.
    pub(super) segments: usize,
    /// Whether the queue pair has one; otherwise the rest means nothing.
    pub(super) exists: bool,
}

/// What both queues have.
pub(super) struct Queue<P: Platform> {
    pub(super) handle: Handle<P>,
    pub(super) buffer: Arc<P::Dma>,
    pub(super) tables: Arc<QpTables<P>>,
    /// Where requests complete.
    pub(super) cq: Option<Arc<CqTable<P>>>,
    pub(super) doorbell: Doorbell,
    pub(super) head: u32,
}

impl<P: Platform> Queue<P> {
    #[inline]
    fn check(&self) -> Result<(), PostError> {
        if self.handle.is_live() {
            Ok(())
        } else {
            self.check_lost()
        }
    }

    /// A lost function's queue takes requests until it is destroyed: they complete as flushed.
    #[cold]
    fn check_lost(&self) -> Result<(), PostError> {
        let attached = self.tables.attached.load(Ordering::Acquire);
        if attached && !self.handle.is_destroyed() {
            Ok(())
        } else {
            Err(PostError::Stale)
        }
    }

    /// Tells the device of a request that was noted; `tell` has a full fence in it. If the function
    /// is lost, the poller has to know instead.
    ///
    /// The loss may be noted at any time. Before the first look, the device, which may be another
    /// by now, is not touched. Before the second, the poller is told here. After it, the request
    /// was noted before the loss: the poller finds it when it hears of that.
    #[inline]
    fn announce(&self, tell: impl FnOnce(&P)) {
        let platform = &self.handle.shared.platform;
        if self.handle.is_live() {
            tell(platform);
        }
        if !self.handle.is_live() {
            if let Some(cq) = &self.cq {
                cq.wake_lost(platform);
            }
        }
    }

    fn restart(&mut self, restart: &Restart<P>, value: u64) {
        self.tables = Arc::clone(&restart.tables);
        self.head = 0;
        if self.handle.is_live() {
            self.doorbell.publish(&self.handle.shared.platform, value);
        }
    }
}

/// A data segment at byte `offset` of `buffer`.
#[inline]
pub(crate) fn store_sge<D: DmaBuffer>(buffer: &D, offset: usize, sge: &Sge) {
    let [first, second] = data_segment(sge);
    buffer.store(offset, first);
    buffer.store(offset + 8, second);
}

/// A receive entry of `segments` data segments at byte `base` of `buffer`.
#[inline]
pub fn store_receive<D: DmaBuffer>(buffer: &D, base: usize, sges: &[Sge], segments: usize) {
    for (index, sge) in sges.iter().enumerate() {
        store_sge(buffer, base + index * SEGMENT, sge);
    }
    if sges.len() < segments {
        let end = Sge {
            address: 0,
            length: 0,
            lkey: END_OF_LIST,
        };
        store_sge(buffer, base + sges.len() * SEGMENT, &end);
    }
}

/// Writes the segments of a descriptor, around the end of the ring.
pub struct Writer<'a, D> {
    buffer: &'a D,
    base: usize,
    offset: usize,
    end: usize,
}

impl<'a, D: DmaBuffer> Writer<'a, D> {
    /// Starts at the block with index `head` of the send queue of `size` blocks that lies at byte
    /// `base` of `buffer`.
    #[inline]
    pub fn new(buffer: &'a D, base: usize, size: RingSize, head: u32) -> Self {
        Self {
            buffer,
            base,
            offset: size.position(head) * BASIC_BLOCK,
            end: size.entries() as usize * BASIC_BLOCK,
        }
    }

    /// Writes the next segment.
    #[inline]
    pub fn put(&mut self, [first, second]: [u64; 2]) {
        let place = self.base + self.offset;
        self.buffer.store(place, first);
        self.buffer.store(place + 8, second);
        self.offset += SEGMENT;
        if self.offset == self.end {
            self.offset = 0;
        }
    }
}

impl<P: Platform> SendQueue<P> {
    /// Begins anew, after the queue pair went to RESET. Atomic context.
    pub fn restart(&mut self, restart: &Restart<P>) {
        let value = doorbell::send_queue(0, self.queue.handle.number);
        self.queue.restart(restart, value);
    }

    /// Posts a work request and tells the device. Atomic context.
    #[inline]
    pub fn post(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        self.queue.check()?;
        self.write(request)?;
        self.ring();
        Ok(())
    }

    /// Writes a work request that the device is told of by the next [`Self::ring`], or post. Atomic
    /// context.
    #[inline]
    pub fn stage(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        self.queue.check()?;
        self.write(request)
    }

    /// Posts work requests and tells the device once. Returns how many were posted, and why the
    /// next one was not. Atomic context.
    pub fn post_list(&mut self, requests: &[SendRequest<'_>]) -> (usize, Result<(), PostError>) {
        if let Err(error) = self.queue.check() {
            return (0, Err(error));
        }
        let mut posted = 0;
        let mut result = Ok(());
        for request in requests {
            result = self.write(request);
            if result.is_err() {
                break;
            }
            posted += 1;
        }
        if posted > 0 {
            self.ring();
        }
        (posted, result)
    }

    /// Posts the registration of the memory that `region` was given with [`FastRegion::map`], and
    /// tells the device; `target` is that of the queue pair's other requests. The region keeps
    /// its page list until the request has completed. Atomic context.
    pub fn post_fast_register(
        &mut self,
        wr_id: u64,
        region: &mut FastRegion<P>,
        target: Target,
        flags: WqeFlags,
    ) -> Result<(), PostError> {
        self.stage_fast_register(wr_id, region, target, flags)?;
        self.ring();
        Ok(())
    }

    /// Writes a registration as [`Self::post_fast_register`] does, of which the device is told as of
    /// what [`Self::stage`] writes. Atomic context.
    pub fn stage_fast_register(
        &mut self,
        wr_id: u64,
        region: &mut FastRegion<P>,
        target: Target,
        flags: WqeFlags,
    ) -> Result<(), PostError> {
        self.queue.check()?;
        self.limits.service.check_registration(&target)?;
        let segment = region.registration(self.queue.handle.generation)?;
        let index = self.write_registration(wr_id, segment, target, flags)?;
        region.posted(&self.queue.tables, index);
        Ok(())
    }

    /// Returns the index of the request's first block.
    fn write_registration(
        &mut self,
        wr_id: u64,
        segment: FastRegisterSegment,
        target: Target,
        flags: WqeFlags,
    ) -> Result<u32, PostError> {
        let noted = Noted {
            wr_id,
            opcode: WqeOpcode::FastRegister,
            key: segment.key,
        };
        let registration = Registration {
            segment,
            target,
            flags: flags & (WqeFlags::SIGNALED | WqeFlags::FENCE | WqeFlags::SOLICITED),
        };
        let index = self.queue.head;
        let blocks = registration.blocks();
        let mut writer = self.reserve(blocks)?;
        registration.emit(index, |words| writer.put(words));
        self.note(blocks, noted);
        Ok(index)
    }

    /// Basic blocks of 64 bytes that are free.
    #[must_use]
    pub fn free_blocks(&self) -> u32 {
        self.queue.tables.send.free()
    }

    #[inline]
    fn write(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        let head = self.queue.head;
        let descriptor = Descriptor::new(request, self.limits)?;
        if let Target::Datagram(datagram) = &request.target {
            if let DatagramPath::Handle(handle) = datagram.path {
                handle.check(self.queue.handle.generation)?;
            }
        }
        let noted = Noted {
            wr_id: request.wr_id,
            opcode: request.operation.opcode(),
            key: request.operation.local_key(),
        };
        let blocks = descriptor.blocks();
        let mut writer = self.reserve(blocks)?;
        descriptor.emit(request, head, |words| writer.put(words));
        self.note(blocks, noted);
        Ok(())
    }

    /// Where a descriptor of `blocks` blocks goes.
    #[inline]
    fn reserve(&self, blocks: u32) -> Result<Writer<'_, P::Dma>, PostError> {
        let table = &self.queue.tables.send;
        if blocks > table.free() {
            return Err(PostError::QueueFull);
        }
        let buffer = &*self.queue.buffer;
        Ok(Writer::new(
            buffer,
            self.base,
            table.size(),
            self.queue.head,
        ))
    }

    /// Counts the descriptor that was written.
    #[inline]
    fn note(&mut self, blocks: u32, noted: Noted) {
        let head = self.queue.head;
        self.queue.tables.send.push(head, blocks, noted);
        self.queue.head = head.wrapping_add(blocks);
    }

    /// Tells the device of what was staged. Atomic context.
    #[inline]
    pub fn ring(&self) {
        let queue = &self.queue;
        let value = doorbell::send_queue(queue.head, queue.handle.number);
        queue.announce(|platform| queue.doorbell.ring(platform, value));
    }
}

impl<P: Platform> ReceiveQueue<P> {
    /// Begins anew, after the queue pair went to RESET. Atomic context.
    pub fn restart(&mut self, restart: &Restart<P>) {
        if self.exists {
            let value = doorbell::receive_queue(0);
            self.queue.restart(restart, value);
        }
    }

    /// Posts a receive work request. Atomic context.
    #[inline]
    pub fn post(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        if !self.exists {
            return Err(PostError::Unsupported);
        }
        self.queue.check()?;
        if request.sges.len() > self.segments {
            return Err(PostError::TooLarge);
        }
        let head = self.queue.head;
        let table = &self.queue.tables.receive;
        if table.is_full() {
            return Err(PostError::QueueFull);
        }
        let base = table.size().position(head) * self.segments * SEGMENT;
        store_receive(&*self.queue.buffer, base, request.sges, self.segments);
        table.push(head, request.wr_id);
        self.queue.head = head.wrapping_add(1);
        let value = doorbell::receive_queue(self.queue.head);
        let queue = &self.queue;
        queue.announce(|platform| {
            queue.doorbell.publish(platform, value);
            queue.tables.announce_receive(platform);
        });
        Ok(())
    }
}
