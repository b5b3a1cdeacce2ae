//! Creating queue pairs.

use alloc::sync::Arc;

use vrnic_abi::admin::{AdminOpcode, CreateQp, QpFlags, QpType, SrqType};
use vrnic_abi::registers::Capabilities;

use crate::cq::CompletionQueue;
use crate::device::Driver;
use crate::doorbell::{Doorbell, is_page};
use crate::error::Error;
use crate::event::contiguous;
use crate::memory::{Handle, ProtectionDomain, RegionMemory};
use crate::platform::Platform;
use crate::qp::post::Queue;
use crate::qp::service::{self, Service};
use crate::qp::shape::Shape;
use crate::qp::{Control, QpConfig, QueuePair, ReceiveQueue, SendQueue};
use crate::srq::SharedReceiveQueue;
use crate::tables::{QpTables, ReceiveSource};
use crate::work::DescriptorLimits;

/// Where a queue pair's receive requests come from and complete.
enum Receive<'a, P: Platform> {
    Own(&'a CompletionQueue<P>),
    Shared(&'a CompletionQueue<P>, &'a SharedReceiveQueue<P>),
    None,
}

impl<P: Platform> Receive<'_, P> {
    fn cq(&self) -> Option<&CompletionQueue<P>> {
        match self {
            Self::Own(cq) | Self::Shared(cq, _) => Some(cq),
            Self::None => None,
        }
    }

    fn srq(&self) -> Option<&SharedReceiveQueue<P>> {
        match self {
            Self::Shared(_, srq) => Some(srq),
            Self::Own(_) | Self::None => None,
        }
    }
}

/// What a queue pair is made of.
struct Parts<'a, P: Platform> {
    pd: &'a ProtectionDomain<P>,
    send_cq: &'a CompletionQueue<P>,
    receive: Receive<'a, P>,
    config: &'a QpConfig,
    shape: Shape,
}

impl<P: Platform> Parts<'_, P> {
    /// Fails if one of the objects is stale.
    fn check(&self) -> Result<(), Error> {
        self.pd.handle.check()?;
        self.send_cq.handle.check()?;
        if let Some(cq) = self.receive.cq() {
            cq.handle.check()?;
        }
        match self.receive.srq() {
            Some(srq) if srq.srq_type() != SrqType::Basic => {
                Err(Error::BadArgument("shared receive queue, which is for XRC"))
            }
            Some(srq) => srq.handle.check(),
            None => Ok(()),
        }
    }

    /// The command, but for the buffer.
    fn body(&self) -> CreateQp {
        let config = self.config;
        let mut flags = QpFlags::empty();
        flags.set(QpFlags::SIGNAL_ALL, config.signal_all);
        flags.set(QpFlags::PRIVILEGED, config.privileged);
        flags.set(QpFlags::STRIP_VLAN, config.strip_vlan);
        CreateQp {
            pd: self.pd.number(),
            send_cq: self.send_cq.number(),
            receive_cq: self.receive.cq().map_or(0, CompletionQueue::number),
            srq: self.receive.srq().map_or(0, SharedReceiveQueue::number),
            doorbell_page: config.doorbell_page,
            qp_type: config.qp_type.raw(),
            log_send_blocks: self.shape.send.log(),
            log_receive_entries: self.shape.receive.log(),
            log_receive_segments: self.shape.log_receive_segments,
            flags: flags.bits(),
            ..CreateQp::default()
        }
    }

    /// The receive side of the tables; `slot` is what the device answered.
    fn source(&self, slot: u64) -> Result<ReceiveSource<P>, Error> {
        Ok(match &self.receive {
            Receive::Own(_) => {
                let doorbell = Doorbell::new(self.config.doorbell_page, slot)?;
                ReceiveSource::Own(self.shape.receive, doorbell)
            }
            Receive::Shared(_, srq) => ReceiveSource::Shared(Arc::clone(&srq.table)),
            Receive::None => ReceiveSource::None,
        })
    }

    /// Makes the queue pair from the device's answer; `handle` makes handles of its number.
    fn assemble(
        &self,
        handle: impl Fn() -> Result<Handle<P>, Error>,
        slots: u64,
        service: Service,
        buffer: Arc<P::Dma>,
    ) -> Result<QueuePair<P>, Error> {
        let config = self.config;
        let own = handle()?;
        let send_doorbell = Doorbell::new(config.doorbell_page, slots & 0xffff)?;
        let (exists, receive_doorbell, source) = match self.source(slots >> 16)? {
            ReceiveSource::Own(size, doorbell) => {
                (true, doorbell, ReceiveSource::Own(size, doorbell))
            }
            other => (false, send_doorbell, other),
        };
        let tables = Arc::new(QpTables::new(
            own.number,
            config.context,
            self.shape.send,
            source,
        ));
        let queue = |doorbell: Doorbell| -> Result<Queue<P>, Error> {
            Ok(Queue {
                handle: handle()?,
                buffer: Arc::clone(&buffer),
                tables: Arc::clone(&tables),
                doorbell,
                head: 0,
            })
        };
        let send = SendQueue {
            queue: queue(send_doorbell)?,
            base: self.shape.send_offset,
            limits: DescriptorLimits {
                service,
                segments: config.send_segments,
                inline: config.inline,
            },
        };
        let receive = ReceiveQueue {
            queue: queue(receive_doorbell)?,
            segments: 1 << self.shape.log_receive_segments,
            exists,
        };
        let receive_cq = self.receive.cq().map(|cq| Arc::clone(&cq.table));
        let qp = QueuePair {
            control: Control {
                handle: own,
                qp_type: config.qp_type,
            },
            buffer,
            send_cq: Arc::clone(&self.send_cq.table),
            receive_cq,
            send,
            receive,
        };
        qp.attach(&tables);
        Ok(qp)
    }
}

impl<P: Platform> Driver<P> {
    /// Creates a queue pair in state RESET, of any type but XRC.
    pub fn create_qp(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CompletionQueue<P>,
        receive_cq: &CompletionQueue<P>,
        config: QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        refuse_xrc(config.qp_type)?;
        self.create_from(pd, send_cq, Receive::Own(receive_cq), &config)
    }

    /// Creates an RC, UC or UD queue pair in state RESET whose receive requests come from `srq`.
    pub fn create_qp_with_srq(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CompletionQueue<P>,
        receive_cq: &CompletionQueue<P>,
        srq: &SharedReceiveQueue<P>,
        config: QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        if !matches!(config.qp_type, QpType::Rc | QpType::Uc | QpType::Ud) {
            return Err(Error::BadArgument(
                "type, which has no shared receive queue",
            ));
        }
        self.require(Capabilities::SRQ, "shared receive queues")?;
        self.create_from(pd, send_cq, Receive::Shared(receive_cq, srq), &config)
    }

    /// Creates an XRC initiator queue pair in state RESET. It sends only; the peer is an XRC target.
    /// The type in `config` is not looked at.
    pub fn create_xrc_initiator(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CompletionQueue<P>,
        config: QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        let config = QpConfig {
            qp_type: QpType::XrcInitiator,
            ..config
        };
        self.create_from(pd, send_cq, Receive::None, &config)
    }

    fn create_from(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CompletionQueue<P>,
        receive: Receive<'_, P>,
        config: &QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        let (capability, name) = service::capability(config.qp_type);
        self.require(capability, name)?;
        let own_receive = matches!(receive, Receive::Own(_));
        let parts = Parts {
            pd,
            send_cq,
            receive,
            config,
            shape: self.shape(config, own_receive)?,
        };
        parts.check()?;
        let length = parts.shape.length();
        let buffer = self.allocate(length.ok_or(Error::BadArgument("size of the queues"))?)?;
        let body = CreateQp {
            buffer: contiguous(&*buffer),
            ..parts.body()
        };
        let keep = Some(Arc::clone(&buffer));
        let generation = pd.handle.generation;
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let service = Service::new(config.qp_type, self.capabilities(), config.privileged);
        let shared = &self.shared;
        let created = shared
            .execute(generation, AdminOpcode::CreateQp, &body, keep)
            .and_then(|answer| {
                let handle = || Handle::new(shared, generation, answer.result0);
                parts.assemble(handle, answer.result1, service, buffer)
            });
        shared.keep_unless_refused(generation, &memory, created)
    }

    fn shape(&self, config: &QpConfig, own_receive: bool) -> Result<Shape, Error> {
        if !is_page(config.doorbell_page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        let limits = self.attributes();
        let shape = Shape::new(config, own_receive);
        let shape = shape.ok_or(Error::BadArgument("size of a work request"))?;
        if config.send_segments > limits.max_sge || config.inline > limits.max_inline {
            return Err(Error::BadArgument("size of a work request"));
        }
        shape.check(limits)?;
        Ok(shape)
    }
}

/// Only [`Driver::create_xrc_initiator`] and [`Driver::create_xrc_target`] make such queue pairs.
fn refuse_xrc(qp_type: QpType) -> Result<(), Error> {
    match qp_type {
        QpType::XrcInitiator | QpType::XrcTarget => Err(Error::BadArgument("type, which is XRC")),
        _ => Ok(()),
    }
}
