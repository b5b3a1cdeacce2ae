//! Shared receive queues.
//!
//! Posting is in atomic context, by one context at a time; it takes the lock of the queue's table,
//! as completions of the queue are polled on several completion queues. Everything else is
//! commands, in sleepable context.
//!
//! A queue for XRC belongs to an XRC domain and has a completion queue of its own; a basic one is
//! named when queue pairs are created.

use alloc::sync::Arc;

use vrnic_abi::admin::{AdminOpcode, CreateSrq, ModifySrq, QpFlags, SrqType};
use vrnic_abi::doorbell;
use vrnic_abi::object::SrqAttributes;
use vrnic_abi::registers::Capabilities;
use vrnic_abi::wqe::SEGMENT;

use crate::cq::CompletionQueue;
use crate::device::Driver;
use crate::doorbell::{Doorbell, is_page};
use crate::error::{Error, PostError};
use crate::event::contiguous;
use crate::memory::{Handle, ProtectionDomain, RegionMemory};
use crate::platform::Platform;
use crate::qp::{MAX_RECEIVE_SEGMENTS, store_receive};
use crate::ring::RingSize;
use crate::tables::{CqTable, SrqTable};
use crate::work::ReceiveRequest;
use crate::xrc::XrcDomain;

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
}

impl Default for SrqConfig {
    fn default() -> Self {
        Self {
            requests: 256,
            segments: 2,
            privileged: false,
            doorbell_page: doorbell::KERNEL_PAGE,
        }
    }
}

/// A shared receive queue.
pub struct SharedReceiveQueue<P: Platform> {
    pub(crate) handle: Handle<P>,
    pub(crate) table: Arc<SrqTable<P>>,
    srq_type: SrqType,
    /// Where its completions go, if it is for XRC.
    cq: Option<Arc<CqTable<P>>>,
    buffer: Arc<P::Dma>,
    size: RingSize,
    /// Data segments of an entry.
    segments: usize,
    doorbell: Doorbell,
}

impl<P: Platform> SharedReceiveQueue<P> {
    /// Number of the queue; XRC initiators name it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// Whether it is for XRC.
    #[must_use]
    pub fn srq_type(&self) -> SrqType {
        self.srq_type
    }

    /// Work requests in flight at most.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.size.entries()
    }

    /// Work requests that were posted and whose completions were not polled yet.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.table.outstanding()
    }

    /// Posts a receive work request. Atomic context.
    ///
    /// The queue is full, too, while the oldest request of the ring is in flight and no later one
    /// has completed, however many others have.
    pub fn post(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        self.handle.check().map_err(|_| PostError::Stale)?;
        if request.sges.len() > self.segments {
            return Err(PostError::TooLarge);
        }
        let index = self.table.push(request.wr_id);
        let index = index.ok_or(PostError::QueueFull)?;
        let base = self.size.position(index) * self.segments * SEGMENT;
        store_receive(&*self.buffer, base, request.sges, self.segments);
        let value = doorbell::receive_queue(index.wrapping_add(1));
        self.doorbell.publish(&self.handle.shared.platform, value);
        Ok(())
    }

    /// Arms the limit: when fewer requests than `limit` are left, the event SrqLimit says so once.
    /// 0 disarms it.
    pub fn set_limit(&mut self, limit: u32) -> Result<(), Error> {
        self.handle.check()?;
        if limit > self.entries() {
            return Err(Error::BadArgument("limit of the shared receive queue"));
        }
        let body = ModifySrq {
            srq: self.number(),
            limit,
            ..ModifySrq::default()
        };
        let generation = self.handle.generation;
        let shared = &self.handle.shared;
        let answer = shared.execute(generation, AdminOpcode::ModifySrq, &body, None);
        answer.map(drop)
    }

    /// The queue as the device sees it.
    pub fn query(&self) -> Result<SrqAttributes, Error> {
        self.handle.query(AdminOpcode::QuerySrq)
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        let current = self.handle.check().is_ok();
        self.handle.destroy(AdminOpcode::DestroySrq)?;
        if let Some(cq) = self.cq.take().filter(|_| current) {
            cq.detach_srq(self.handle.number);
        }
        Ok(())
    }
}

impl<P: Platform> Drop for SharedReceiveQueue<P> {
    fn drop(&mut self) {
        let memory = RegionMemory::Dma(Arc::clone(&self.buffer));
        let handle = &self.handle;
        handle.shared.quarantine(handle.generation, memory);
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
        self.require(Capabilities::XRC, "XRC")?;
        xrcd.handle.check()?;
        cq.handle.check()?;
        self.create_srq_of(pd, Some((xrcd, cq)), config)
    }

    fn create_srq_of(
        &self,
        pd: &ProtectionDomain<P>,
        xrc: Xrc<'_, P>,
        config: SrqConfig,
    ) -> Result<SharedReceiveQueue<P>, Error> {
        self.require(Capabilities::SRQ, "shared receive queues")?;
        pd.handle.check()?;
        let (size, segments) = self.srq_shape(&config)?;
        let length = (size.entries() as usize * SEGMENT) << segments.log();
        let buffer = self.allocate(length)?;
        let mut flags = QpFlags::empty();
        flags.set(QpFlags::PRIVILEGED, config.privileged);
        let srq_type = if xrc.is_some() {
            SrqType::Xrc
        } else {
            SrqType::Basic
        };
        let body = CreateSrq {
            pd: pd.number(),
            doorbell_page: config.doorbell_page,
            buffer: contiguous(&*buffer),
            srq_type: srq_type.raw(),
            log_entries: size.log(),
            log_segments: segments.log(),
            flags: flags.bits(),
            xrcd: xrc.map_or(0, |(xrcd, _)| xrcd.number()),
            cq: xrc.map_or(0, |(_, cq)| cq.number()),
            ..CreateSrq::default()
        };
        let generation = pd.handle.generation;
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let keep = Some(Arc::clone(&buffer));
        let shared = &self.shared;
        let created = shared
            .execute(generation, AdminOpcode::CreateSrq, &body, keep)
            .and_then(|answer| {
                let handle = Handle::new(shared, generation, answer.result0)?;
                let doorbell = Doorbell::new(config.doorbell_page, answer.result1)?;
                Ok((handle, doorbell))
            });
        let (handle, doorbell) = shared.keep_unless_refused(generation, &memory, created)?;
        let table = SrqTable::new(handle.number, size);
        let table = Arc::new(table);
        let cq = xrc.map(|(_, cq)| Arc::clone(&cq.table));
        if let Some(cq) = &cq {
            cq.attach_srq(&table);
        }
        Ok(SharedReceiveQueue {
            handle,
            table,
            srq_type,
            cq,
            buffer,
            size,
            segments: 1 << segments.log(),
            doorbell,
        })
    }

    /// Entries, and data segments of each.
    fn srq_shape(&self, config: &SrqConfig) -> Result<(RingSize, RingSize), Error> {
        if !is_page(config.doorbell_page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        let limit = self.attributes().log_max_srq_entries;
        let size = RingSize::at_least(config.requests).filter(|size| size.log() <= limit);
        let size = size.ok_or(Error::BadArgument("number of work requests"))?;
        let segments = RingSize::at_least(config.segments)
            .filter(|_| config.segments <= MAX_RECEIVE_SEGMENTS)
            .ok_or(Error::BadArgument("size of a work request"))?;
        Ok((size, segments))
    }
}
