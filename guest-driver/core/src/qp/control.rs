//! What commands about a queue pair need, whoever posts to it: the driver, a user, or nobody.

use alloc::sync::Arc;
use alloc::vec::Vec;

use vrnic_abi::admin::{AdminOpcode, Buffer, CreateQp, ModifyQp, QpFlags, QpType, SrqType};
use vrnic_abi::object::{QpAttributes, QpMask, QpState};

use crate::device::Shared;
use crate::doorbell::{Doorbell, is_page};
use crate::error::Error;
use crate::memory::{Handle, ProtectionDomain, RegionMemory, RingObject};
use crate::platform::{DmaBuffer, Platform};
use crate::qp::service;
use crate::qp::shape::Shape;
use crate::qp::transition::{self, Transition};
use crate::tables::{CqTable, Listening, QpTables};

/// What a queue pair with rings is made of, whoever posts to it.
pub(crate) struct QpSpec<'a, P: Platform> {
    pub(crate) pd: &'a ProtectionDomain<P>,
    pub(crate) send_cq: &'a Handle<P>,
    /// None for XRC initiators.
    pub(crate) receive_cq: Option<&'a Handle<P>>,
    /// A shared receive queue, and its type.
    pub(crate) srq: Option<(&'a Handle<P>, SrqType)>,
    pub(crate) qp_type: QpType,
    pub(crate) doorbell_page: u32,
    pub(crate) flags: QpFlags,
    pub(crate) shape: Shape,
}

impl<P: Platform> QpSpec<'_, P> {
    /// Whether it has a receive queue of its own.
    pub(crate) fn receives(&self) -> bool {
        self.receive_cq.is_some() && self.srq.is_none()
    }

    /// Fails if the parts do not belong together, or one of them is stale.
    fn check(&self, shared: &Shared<P>) -> Result<(), Error> {
        if !is_page(self.doorbell_page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        self.shape.check(&shared.attributes)?;
        let (capability, name) = service::capability(self.qp_type);
        shared.require(capability, name)?;
        self.check_receive()?;
        self.pd.handle.check()?;
        self.send_cq.check()?;
        self.receive_cq.map_or(Ok(()), Handle::check)?;
        match self.srq {
            Some((_, SrqType::Xrc)) => {
                Err(Error::BadArgument("shared receive queue, which is for XRC"))
            }
            Some((srq, SrqType::Basic)) => srq.check(),
            None => Ok(()),
        }
    }

    /// Fails if queue pairs of the type do not receive in this way.
    fn check_receive(&self) -> Result<(), Error> {
        let fits = match self.qp_type {
            QpType::Rc | QpType::Uc | QpType::Ud => self.receive_cq.is_some(),
            QpType::Gsi | QpType::RawPacket => self.receives(),
            QpType::XrcInitiator => self.receive_cq.is_none() && self.srq.is_none(),
            QpType::XrcTarget => false,
        };
        if fits {
            Ok(())
        } else {
            Err(Error::BadArgument("type, which does not receive like that"))
        }
    }
}

impl<P: Platform> QpSpec<'_, P> {
    /// The command.
    fn body(&self, buffer: Buffer) -> CreateQp {
        CreateQp {
            pd: self.pd.number(),
            send_cq: self.send_cq.number,
            receive_cq: self.receive_cq.map_or(0, |cq| cq.number),
            srq: self.srq.map_or(0, |(srq, _)| srq.number),
            buffer,
            doorbell_page: self.doorbell_page,
            qp_type: self.qp_type.raw(),
            log_send_blocks: self.shape.send.log(),
            log_receive_entries: self.shape.receive.log(),
            log_receive_segments: self.shape.log_receive_segments,
            flags: self.flags.bits(),
            ..CreateQp::default()
        }
    }
}

/// The doorbells of a queue pair with rings.
pub(crate) struct QpDoorbells {
    pub(crate) send: Doorbell,
    /// Of a receive queue of its own.
    pub(crate) receive: Option<Doorbell>,
}

/// What the driver keeps about a queue pair that it posts to itself.
struct Posted<P: Platform> {
    send_cq: Arc<CqTable<P>>,
    /// Not that of an initiator, which receives nothing.
    receive_cq: Option<Arc<CqTable<P>>>,
    tables: Arc<QpTables<P>>,
}

impl<P: Platform> Posted<P> {
    fn cqs(&self) -> impl Iterator<Item = &Arc<CqTable<P>>> {
        core::iter::once(&self.send_cq).chain(&self.receive_cq)
    }
}

/// Says that a queue pair has forgotten its work requests: its queues begin anew.
#[must_use = "both queues go on with it"]
pub struct Restart<P: Platform> {
    pub(super) tables: Arc<QpTables<P>>,
}

/// A queue pair but for its two queues: its attributes, states and end. Sleepable context.
///
/// A context that changes the state need not keep others from posting meanwhile: that is what
/// [`crate::QueuePair::split`] is for.
pub struct QpControl<P: Platform> {
    pub(crate) object: RingObject<P>,
    pub(crate) qp_type: QpType,
    /// Requests come from a shared receive queue, of which it can have one in use.
    shares: bool,
    posted: Option<Posted<P>>,
    listening: Option<Listening<P, QpTables<P>>>,
    /// Multicast groups that it has joined, with their VLANs.
    pub(crate) groups: Vec<([u8; 16], u16)>,
}

impl<P: Platform> AsRef<Self> for QpControl<P> {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<P: Platform> QpControl<P> {
    /// Creates a queue pair whose rings are in `memory`, in state RESET; nobody hears of its events
    /// yet.
    pub(crate) fn create(
        spec: &QpSpec<'_, P>,
        memory: RegionMemory<P>,
    ) -> Result<(Self, QpDoorbells), Error> {
        let shared = &spec.pd.handle.shared;
        spec.check(shared)?;
        let length = spec.shape.length();
        let length = length.ok_or(Error::BadArgument("size of the queues"))?;
        let generation = spec.pd.handle.generation;
        let rings = (memory, length);
        let body = |buffer| spec.body(buffer);
        let (object, slots) =
            RingObject::create(shared, generation, AdminOpcode::CreateQp, rings, body)?;
        let page = spec.doorbell_page;
        let receive = spec.receives().then(|| Doorbell::new(page, slots >> 16));
        let doorbells = QpDoorbells {
            send: Doorbell::new(page, slots & 0xffff)?,
            receive: receive.transpose()?,
        };
        let control = Self {
            object,
            qp_type: spec.qp_type,
            shares: spec.srq.is_some(),
            posted: None,
            listening: None,
            groups: Vec::new(),
        };
        Ok((control, doorbells))
    }

    /// An XRC target, which has no rings; what it receives is from shared receive queues.
    pub(crate) fn target(handle: Handle<P>) -> Self {
        Self {
            object: RingObject {
                handle,
                memory: None,
            },
            qp_type: QpType::XrcTarget,
            shares: true,
            posted: None,
            listening: None,
            groups: Vec::new(),
        }
    }

    /// Number of the queue pair.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.object.handle.number
    }

    /// Its type.
    #[must_use]
    pub fn qp_type(&self) -> QpType {
        self.qp_type
    }

    /// Changes attributes and state, as [`crate::QueuePair::modify`] does. With the answer, if there
    /// is one, both queues must be restarted before anything is posted.
    ///
    /// If the function is lost, going to RESET or ERROR succeeds, and nothing else does.
    pub fn modify(
        &mut self,
        attributes: &QpAttributes,
        mask: QpMask,
    ) -> Result<Option<Restart<P>>, Error> {
        self.enter((*attributes, mask))
    }

    pub(crate) fn enter(&mut self, transition: Transition) -> Result<Option<Restart<P>>, Error> {
        let (attributes, mask) = transition;
        let state = QpState::from_raw(attributes.state);
        match state.filter(|_| mask.contains(QpMask::STATE)) {
            Some(QpState::Reset) => {
                self.stop(transition)?;
                Ok(self.restart())
            }
            Some(QpState::Error) => {
                self.stop(transition)?;
                self.note_failure();
                Ok(None)
            }
            _ => self.command(transition).map(|()| None),
        }
    }

    /// To RESET or ERROR, where a lost function's queue pair is as good as already.
    fn stop(&self, transition: Transition) -> Result<(), Error> {
        let stopped = self.command(transition);
        if self.object.handle.is_lost() {
            return Ok(());
        }
        stopped
    }

    fn note_failure(&self) {
        let handle = &self.object.handle;
        if let Some(posted) = self.posted.as_ref().filter(|_| handle.is_live()) {
            posted.tables.set_failed(&handle.shared.platform);
        }
    }

    fn command(&self, (attributes, mask): Transition) -> Result<(), Error> {
        let handle = &self.object.handle;
        if !handle.is_live() {
            return Err(handle.loss());
        }
        let shared = &handle.shared;
        let memory = Arc::new(shared.platform.allocate_dma(QpAttributes::SIZE)?);
        memory.write(0, bytemuck::bytes_of(&attributes));
        let body = ModifyQp {
            qp: handle.number,
            mask: mask.bits(),
            attributes: memory.device_address(),
            ..ModifyQp::default()
        };
        let generation = handle.generation;
        let answer = shared.execute(generation, AdminOpcode::ModifyQp, &body, Some(memory));
        answer.map(drop)
    }

    /// Attributes and state as the device has them.
    pub fn query(&self) -> Result<QpAttributes, Error> {
        self.object.handle.query(AdminOpcode::QueryQp)
    }

    /// Destroys the queue pair; its completions that were not polled yet are dropped. A request of
    /// a shared receive queue that it has taken completes as flushed. If the function is lost, that
    /// succeeds all the same, and the memory of the rings is kept until it has been reset.
    pub fn destroy(&mut self) -> Result<(), Error> {
        if self.object.handle.is_destroyed() {
            return Ok(());
        }
        if self.shares {
            // On the way to RESET, and when it is destroyed, nothing completes: a shared receive
            // queue would never hear of a request that this queue pair has taken.
            self.stop(transition::state(QpState::Error))?;
        }
        // In RESET the device writes no more completions, and the number is still ours: only now
        // can old completions be told from those of a later queue pair of the same number.
        if self.posted.is_some() {
            self.stop(transition::state(QpState::Reset))?;
            self.detach();
        }
        self.object.handle.destroy(AdminOpcode::DestroyQp)?;
        self.listening = None;
        Ok(())
    }
}

/// Work requests and events.
impl<P: Platform> QpControl<P> {
    /// The queue pair is the driver's to post to: completions find its requests in `tables`.
    pub(super) fn attach(
        &mut self,
        send_cq: &Arc<CqTable<P>>,
        receive_cq: Option<&Arc<CqTable<P>>>,
        tables: &Arc<QpTables<P>>,
    ) {
        let posted = Posted {
            send_cq: Arc::clone(send_cq),
            receive_cq: receive_cq.map(Arc::clone),
            tables: Arc::clone(tables),
        };
        for cq in posted.cqs() {
            cq.attach(tables);
        }
        self.posted = Some(posted);
        self.listen(tables.context, Some(tables));
    }

    /// Makes the queue pair's events heard.
    pub(crate) fn listen(&mut self, context: u64, tables: Option<&Arc<QpTables<P>>>) {
        let handle = &self.object.handle;
        let listening = Listening::new(handle, |shared| &shared.qps, context, tables);
        self.listening = Some(listening);
    }

    fn detach(&self) {
        for cq in self.posted.iter().flat_map(Posted::cqs) {
            cq.detach(self.number());
        }
    }

    /// Forgets all work requests, as the device did.
    fn restart(&mut self) -> Option<Restart<P>> {
        self.detach();
        let posted = self.posted.take()?;
        let tables = Arc::new(posted.tables.renewed());
        self.attach(&posted.send_cq, posted.receive_cq.as_ref(), &tables);
        Some(Restart { tables })
    }
}
