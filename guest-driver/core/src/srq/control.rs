//! What commands about a shared receive queue need, whoever posts to it: the driver or a user.

use alloc::sync::Arc;

use vrnic_abi::admin::{AdminOpcode, CreateSrq, ModifySrq, QpFlags, SrqType};
use vrnic_abi::object::SrqAttributes;
use vrnic_abi::registers::Capabilities;
use vrnic_abi::wqe::SEGMENT;

use crate::doorbell::{Doorbell, is_page};
use crate::error::Error;
use crate::memory::{Handle, ProtectionDomain, RegionMemory, RingObject};
use crate::platform::Platform;
use crate::ring::RingSize;
use crate::tables::{CqTable, Listening, SrqTable};
use crate::xrc::XrcDomain;

/// What a shared receive queue is made of, whoever posts to it.
pub(crate) struct SrqSpec<'a, P: Platform> {
    pub(crate) pd: &'a ProtectionDomain<P>,
    /// What a queue for XRC belongs to: its domain and completion queue.
    pub(crate) xrc: Option<(&'a XrcDomain<P>, &'a Handle<P>)>,
    pub(crate) size: RingSize,
    /// Data segments of an entry.
    pub(crate) segments: RingSize,
    pub(crate) privileged: bool,
    pub(crate) doorbell_page: u32,
}

impl<P: Platform> SrqSpec<'_, P> {
    fn srq_type(&self) -> SrqType {
        if self.xrc.is_some() {
            SrqType::Xrc
        } else {
            SrqType::Basic
        }
    }

    /// Bytes of the ring.
    pub(crate) const fn length(&self) -> usize {
        (self.size.entries() as usize * SEGMENT) << self.segments.log()
    }

    fn check(&self) -> Result<(), Error> {
        let shared = &self.pd.handle.shared;
        shared.require(Capabilities::SRQ, "shared receive queues")?;
        if !is_page(self.doorbell_page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        self.pd.handle.check()?;
        if let Some((xrcd, cq)) = self.xrc {
            shared.require(Capabilities::XRC, "XRC")?;
            xrcd.handle.check()?;
            cq.check()?;
        }
        Ok(())
    }
}

/// A shared receive queue but for its requests: its limit and its end. Sleepable context.
pub struct SrqControl<P: Platform> {
    pub(crate) object: RingObject<P>,
    pub(crate) srq_type: SrqType,
    size: RingSize,
    /// Where completions of the driver's requests go, if it is for XRC.
    cq: Option<Arc<CqTable<P>>>,
    listening: Option<Listening<P, SrqTable<P>>>,
}

impl<P: Platform> SrqControl<P> {
    /// Creates the queue in `memory`; nobody hears of its events yet.
    pub(crate) fn create(
        spec: &SrqSpec<'_, P>,
        memory: RegionMemory<P>,
    ) -> Result<(Self, Doorbell), Error> {
        spec.check()?;
        let mut flags = QpFlags::empty();
        flags.set(QpFlags::PRIVILEGED, spec.privileged);
        let body = |buffer| CreateSrq {
            pd: spec.pd.number(),
            doorbell_page: spec.doorbell_page,
            buffer,
            srq_type: spec.srq_type().raw(),
            log_entries: spec.size.log(),
            log_segments: spec.segments.log(),
            flags: flags.bits(),
            xrcd: spec.xrc.map_or(0, |(xrcd, _)| xrcd.number()),
            cq: spec.xrc.map_or(0, |(_, cq)| cq.number),
            ..CreateSrq::default()
        };
        let (shared, generation) = (&spec.pd.handle.shared, spec.pd.handle.generation);
        let rings = (memory, spec.length());
        let (object, slot) =
            RingObject::create(shared, generation, AdminOpcode::CreateSrq, rings, body)?;
        let control = Self {
            object,
            srq_type: spec.srq_type(),
            size: spec.size,
            cq: None,
            listening: None,
        };
        Ok((control, Doorbell::new(spec.doorbell_page, slot)?))
    }

    /// Makes the queue's events heard.
    pub(crate) fn listen(&mut self, context: u64) {
        let handle = &self.object.handle;
        let listening = Listening::new(handle, |shared| &shared.srqs, context, None);
        self.listening = Some(listening);
    }

    /// The queue is the driver's to post to and for XRC: completions on `cq` find its requests.
    pub(super) fn attach(&mut self, cq: &Arc<CqTable<P>>, table: &Arc<SrqTable<P>>) {
        cq.attach_srq(table);
        self.cq = Some(Arc::clone(cq));
    }

    /// Number of the queue; XRC initiators name it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.object.handle.number
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

    /// Arms the limit: when fewer requests than `limit` are left, the event SrqLimit says so once.
    /// 0 disarms it.
    pub fn set_limit(&self, limit: u32) -> Result<(), Error> {
        let handle = &self.object.handle;
        handle.check()?;
        if limit > self.entries() {
            return Err(Error::BadArgument("limit of the shared receive queue"));
        }
        let body = ModifySrq {
            srq: self.number(),
            limit,
            ..ModifySrq::default()
        };
        let shared = &handle.shared;
        let answer = shared.execute(handle.generation, AdminOpcode::ModifySrq, &body, None);
        answer.map(drop)
    }

    /// The queue as the device sees it.
    pub fn query(&self) -> Result<SrqAttributes, Error> {
        self.object.handle.query(AdminOpcode::QuerySrq)
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        let number = self.number();
        self.object.handle.destroy(AdminOpcode::DestroySrq)?;
        self.listening = None;
        if let Some(cq) = self.cq.take() {
            cq.detach_srq(number);
        }
        Ok(())
    }
}
