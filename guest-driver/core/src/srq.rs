//! Shared receive queues.
//!
//! Posting is in atomic context, by one context at a time; it takes the lock of the queue's table,
//! as completions of the queue are polled on several completion queues. Everything else is
//! commands, in sleepable context.
//!
//! A queue for XRC belongs to an XRC domain and has a completion queue of its own; a basic one is
//! named when queue pairs are created.

mod control;

use alloc::sync::Arc;

use vrnic_abi::admin::SrqType;
use vrnic_abi::doorbell;
use vrnic_abi::object::SrqAttributes;
use vrnic_abi::wqe::SEGMENT;

use crate::cq::CompletionQueue;
use crate::device::Driver;
use crate::doorbell::Doorbell;
use crate::error::{Error, PostError};
use crate::memory::{Handle, ProtectionDomain, RegionMemory};
use crate::platform::Platform;
use crate::qp::{MAX_RECEIVE_SEGMENTS, store_receive};
use crate::ring::RingSize;
use crate::tables::SrqTable;
use crate::work::ReceiveRequest;
use crate::xrc::XrcDomain;

pub use control::SrqControl;
pub(crate) use control::SrqSpec;

/// How to create a shared receive queue.
#[derive(Clone, Copy, Debug)]
pub struct SrqConfig {
    /// Work requests in flight.
    pub requests: u32,
    /// Data segments of a work request, at most 16.
    pub segments: u32,
    /// The reserved local key is allowed.
    pub privileged: bool,
    /// Doorbell page.
    pub doorbell_page: u32,
    /// Handed back in every event of the queue.
    pub context: u64,
}

impl Default for SrqConfig {
    fn default() -> Self {
        Self {
            requests: 256,
            segments: 2,
            privileged: false,
            doorbell_page: doorbell::KERNEL_PAGE,
            context: 0,
        }
    }
}

/// The posting side of a shared receive queue.
pub struct SrqQueue<P: Platform> {
    handle: Handle<P>,
    pub(crate) table: Arc<SrqTable<P>>,
    buffer: Arc<P::Dma>,
    size: RingSize,
    /// Data segments of an entry.
    segments: usize,
    doorbell: Doorbell,
}

impl<P: Platform> SrqQueue<P> {
    /// Work requests that were posted and whose completions were not polled yet.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.table.outstanding()
    }

    /// Posts a receive work request. Atomic context.
    ///
    /// The queue is full, too, while the oldest request of the ring is in flight and no later one
    /// has completed, however many others have.
    ///
    /// Requests that are in the queue when its function is lost, or posted later, never complete:
    /// they belong to no queue pair.
    pub fn post(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        if self.handle.is_destroyed() {
            return Err(PostError::Stale);
        }
        if request.sges.len() > self.segments {
            return Err(PostError::TooLarge);
        }
        let index = self.table.push(request.wr_id);
        let index = index.ok_or(PostError::QueueFull)?;
        let base = self.size.position(index) * self.segments * SEGMENT;
        store_receive(&*self.buffer, base, request.sges, self.segments);
        let value = doorbell::receive_queue(index.wrapping_add(1));
        if self.handle.is_live() {
            self.doorbell.publish(&self.handle.shared.platform, value);
        }
        Ok(())
    }
}

/// A shared receive queue. Posting and commands are each used by one context at a time; to use them
/// from two at once, [`SharedReceiveQueue::split`] it.
pub struct SharedReceiveQueue<P: Platform> {
    pub(crate) control: SrqControl<P>,
    pub(crate) queue: SrqQueue<P>,
}

impl<P: Platform> SharedReceiveQueue<P> {
    /// Number of the queue; XRC initiators name it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.control.number()
    }

    /// Whether it is for XRC.
    #[must_use]
    pub fn srq_type(&self) -> SrqType {
        self.control.srq_type()
    }

    /// Work requests in flight at most.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.control.entries()
    }

    /// Work requests that were posted and whose completions were not polled yet.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.queue.outstanding()
    }

    /// Takes the queue apart, so that contexts which post need not wait for one that has a command
    /// under way. Nothing may be posted after the queue is destroyed.
    #[must_use]
    pub fn split(self) -> (SrqControl<P>, SrqQueue<P>) {
        (self.control, self.queue)
    }

    /// Posts a receive work request: see [`SrqQueue::post`]. Atomic context.
    pub fn post(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        self.queue.post(request)
    }

    /// Arms the limit: see [`SrqControl::set_limit`].
    pub fn set_limit(&mut self, limit: u32) -> Result<(), Error> {
        self.control.set_limit(limit)
    }

    /// The queue as the device sees it.
    pub fn query(&self) -> Result<SrqAttributes, Error> {
        self.control.query()
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()?;
        self.queue.handle.generation = self.control.object.handle.generation;
        Ok(())
    }
}

/// What a queue for XRC belongs to.
type Xrc<'a, P> = Option<(&'a XrcDomain<P>, &'a CompletionQueue<P>)>;

impl<P: Platform> Driver<P> {
    /// Creates a shared receive queue for queue pairs that are created with it.
    pub fn create_srq(
        &self,
        pd: &ProtectionDomain<P>,
        config: SrqConfig,
    ) -> Result<SharedReceiveQueue<P>, Error> {
        self.create_srq_of(pd, None, config)
    }

    /// Creates a shared receive queue for the XRC targets of `xrcd`, whose messages complete on `cq`.
    pub fn create_xrc_srq(
        &self,
        pd: &ProtectionDomain<P>,
        xrcd: &XrcDomain<P>,
        cq: &CompletionQueue<P>,
        config: SrqConfig,
    ) -> Result<SharedReceiveQueue<P>, Error> {
        self.create_srq_of(pd, Some((xrcd, cq)), config)
    }

    fn create_srq_of(
        &self,
        pd: &ProtectionDomain<P>,
        xrc: Xrc<'_, P>,
        config: SrqConfig,
    ) -> Result<SharedReceiveQueue<P>, Error> {
        let (size, segments) = self.srq_shape(&config)?;
        let spec = SrqSpec {
            pd,
            xrc: xrc.map(|(xrcd, cq)| (xrcd, &cq.control.object.handle)),
            size,
            segments,
            privileged: config.privileged,
            doorbell_page: config.doorbell_page,
        };
        let buffer = self.allocate(spec.length())?;
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let (mut control, doorbell) = SrqControl::create(&spec, memory)?;
        let table = Arc::new(SrqTable::new(control.number(), size));
        if let Some((_, cq)) = xrc {
            control.attach(&cq.table, &table);
        }
        control.listen(config.context);
        let queue = SrqQueue {
            handle: control.object.handle.clone(),
            table,
            buffer,
            size,
            segments: 1 << segments.log(),
            doorbell,
        };
        Ok(SharedReceiveQueue { control, queue })
    }

    /// Entries, and data segments of each.
    fn srq_shape(&self, config: &SrqConfig) -> Result<(RingSize, RingSize), Error> {
        let limit = self.attributes().log_max_srq_entries;
        let size = RingSize::at_least(config.requests).filter(|size| size.log() <= limit);
        let size = size.ok_or(Error::BadArgument("number of work requests"))?;
        let segments = RingSize::at_least(config.segments)
            .filter(|_| config.segments <= MAX_RECEIVE_SEGMENTS)
            .ok_or(Error::BadArgument("size of a work request"))?;
        Ok((size, segments))
    }
}
