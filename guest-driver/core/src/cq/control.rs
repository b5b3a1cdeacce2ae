//! What commands about a completion queue need, whoever polls it: the driver or a user.

use alloc::sync::Arc;

use vrnic_abi::admin::{AdminOpcode, CreateCq, ModifyCq, ResizeCq};
use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::object::CqAttributes;
use vrnic_abi::registers::Capabilities;

use crate::cq::Moderation;
use crate::device::Shared;
use crate::doorbell::{Doorbell, is_page};
use crate::error::Error;
use crate::memory::{RegionMemory, RingObject};
use crate::platform::Platform;
use crate::ring::RingSize;
use crate::tables::{CqTable, Listening};

/// How to create a completion queue, whoever polls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CqSpec {
    pub(crate) size: RingSize,
    pub(crate) completion_vector: u16,
    pub(crate) doorbell_page: u32,
    pub(crate) moderation: Moderation,
}

/// A completion queue, but for its entries.
pub(crate) struct CqControl<P: Platform> {
    pub(crate) object: RingObject<P>,
    pub(crate) doorbell: Doorbell,
    pub(crate) vector: u16,
    listening: Option<Listening<P, CqTable<P>>>,
}

/// Bytes of a ring.
pub(crate) const fn ring_length(size: RingSize) -> usize {
    size.entries() as usize * CompletionEntry::SIZE
}

impl<P: Platform> CqControl<P> {
    /// Creates the queue in `memory`; nobody hears of its events yet.
    pub(crate) fn create(
        shared: &Arc<Shared<P>>,
        memory: RegionMemory<P>,
        spec: &CqSpec,
    ) -> Result<Self, Error> {
        let generation = shared.generation();
        let (page, moderation) = (spec.doorbell_page, spec.moderation);
        if !is_page(page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        if moderation != Moderation::default() {
            shared.require(Capabilities::CQ_MODERATION, "moderation of events")?;
        }
        let count = shared.eqs.len().saturating_sub(1).max(1);
        let eq = usize::from(spec.completion_vector) % count;
        let eq = shared.eqs.get(1 + eq);
        let eq = eq.ok_or(Error::BadArgument("completion vector"))?;
        let number = eq.number().ok_or(Error::Stale)?;
        let body = |buffer| CreateCq {
            buffer,
            doorbell_page: page,
            log_entries: spec.size.log(),
            eq: number,
            moderation_period: moderation.period,
            moderation_count: moderation.count,
            ..CreateCq::default()
        };
        let rings = (memory, ring_length(spec.size));
        let opcode = AdminOpcode::CreateCq;
        let (object, slot) = RingObject::create(shared, generation, opcode, rings, body)?;
        Ok(Self {
            object,
            doorbell: Doorbell::new(page, slot)?,
            vector: eq.vector(),
            listening: None,
        })
    }

    /// Makes the queue's events heard.
    pub(crate) fn listen(&mut self, context: u64, table: Option<&Arc<CqTable<P>>>) {
        let handle = &self.object.handle;
        let listening = Listening::new(handle, |shared| &shared.cqs, context, table);
        self.listening = Some(listening);
    }

    pub(crate) fn set_moderation(&self, moderation: Moderation) -> Result<(), Error> {
        let handle = &self.object.handle;
        handle.check()?;
        let shared = &handle.shared;
        shared.require(Capabilities::CQ_MODERATION, "moderation of events")?;
        let body = ModifyCq {
            cq: handle.number,
            moderation_period: moderation.period,
            moderation_count: moderation.count,
            ..ModifyCq::default()
        };
        let answer = shared.execute(handle.generation, AdminOpcode::ModifyCq, &body, None);
        answer.map(drop)
    }

    /// Has the device go on in `memory`, from the index on that is returned. The queue's memory
    /// stays what it was: that is for the caller, who may still need it.
    pub(crate) fn resize(&self, memory: &RegionMemory<P>, size: RingSize) -> Result<u32, Error> {
        let handle = &self.object.handle;
        handle.check()?;
        let shared = &handle.shared;
        shared.require(Capabilities::CQ_RESIZE, "resizing of completion queues")?;
        let (buffer, keep) = shared.describe_rings(memory, ring_length(size))?;
        let body = ResizeCq {
            cq: handle.number,
            log_entries: size.log(),
            buffer,
            ..ResizeCq::default()
        };
        let generation = handle.generation;
        let base = shared
            .execute(generation, AdminOpcode::ResizeCq, &body, keep)
            .and_then(|answer| u32::try_from(answer.result0).map_err(|_| BAD_BASE));
        shared.keep_unless_refused(generation, memory, base)
    }

    pub(crate) fn query(&self) -> Result<CqAttributes, Error> {
        self.object.handle.query(AdminOpcode::QueryCq)
    }

    pub(crate) fn destroy(&mut self) -> Result<(), Error> {
        self.object.handle.destroy(AdminOpcode::DestroyCq)?;
        self.listening = None;
        Ok(())
    }
}

/// What the answer to ResizeCq is if it cannot be.
pub(crate) const BAD_BASE: Error = Error::BadAnswer("index of a resized completion queue");
