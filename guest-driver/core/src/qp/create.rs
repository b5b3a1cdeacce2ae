//! Creating queue pairs that the driver posts to.

use alloc::sync::Arc;

use vrnic_abi::admin::{QpFlags, QpType};
use vrnic_abi::registers::Capabilities;

use crate::cq::CompletionQueue;
use crate::device::Driver;
use crate::error::Error;
use crate::memory::{ProtectionDomain, RegionMemory};
use crate::platform::Platform;
use crate::qp::control::{QpControl, QpDoorbells, QpSpec};
use crate::qp::post::Queue;
use crate::qp::service::Service;
use crate::qp::shape::Shape;
use crate::qp::{QpConfig, QueuePair, ReceiveQueue, SendQueue};
use crate::reference::{CqReference, SrqReference};
use crate::srq::SharedReceiveQueue;
use crate::tables::{CqTable, QpTables, ReceiveSource};
use crate::work::DescriptorLimits;

/// Where a queue pair's receive requests come from and complete.
enum Receive<'a, P: Platform> {
    Own(&'a CqReference<P>),
    Shared(&'a CqReference<P>, &'a SrqReference<P>),
    None,
}

impl<P: Platform> Receive<'_, P> {
    fn cq(&self) -> Option<&CqReference<P>> {
        match self {
            Self::Own(cq) | Self::Shared(cq, _) => Some(cq),
            Self::None => None,
        }
    }

    fn srq(&self) -> Option<&SrqReference<P>> {
        match self {
            Self::Shared(_, srq) => Some(srq),
            Self::Own(_) | Self::None => None,
        }
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
        let (send_cq, receive_cq) = (send_cq.reference(), receive_cq.reference());
        self.create_qp_on(pd, &send_cq, &receive_cq, None, config)
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
        let (send_cq, receive_cq) = (send_cq.reference(), receive_cq.reference());
        self.create_qp_on(pd, &send_cq, &receive_cq, Some(&srq.reference()), config)
    }

    /// Creates a queue pair in state RESET as [`Self::create_qp`] does, or with a shared receive queue
    /// as [`Self::create_qp_with_srq`] does, while others use those queues.
    pub fn create_qp_on(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CqReference<P>,
        receive_cq: &CqReference<P>,
        srq: Option<&SrqReference<P>>,
        config: QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        let receive = match srq {
            Some(srq) => {
                self.require(Capabilities::SRQ, "shared receive queues")?;
                Receive::Shared(receive_cq, srq)
            }
            None => Receive::Own(receive_cq),
        };
        self.create_from(pd, send_cq, &receive, &config)
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
        self.create_from(pd, &send_cq.reference(), &Receive::None, &config)
    }

    fn create_from(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CqReference<P>,
        receive: &Receive<'_, P>,
        config: &QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        let own_receive = matches!(receive, Receive::Own(_));
        let mut flags = QpFlags::empty();
        flags.set(QpFlags::SIGNAL_ALL, config.signal_all);
        flags.set(QpFlags::PRIVILEGED, config.privileged);
        flags.set(QpFlags::STRIP_VLAN, config.strip_vlan);
        let spec = QpSpec {
            pd,
            send_cq: &send_cq.handle,
            receive_cq: receive.cq().map(|cq| &cq.handle),
            srq: receive.srq().map(|srq| (&srq.handle, srq.srq_type)),
            qp_type: config.qp_type,
            doorbell_page: config.doorbell_page,
            flags,
            shape: self.shape(config, own_receive)?,
        };
        let length = spec.shape.length();
        let buffer = self.allocate(length.ok_or(Error::BadArgument("size of the queues"))?)?;
        let (control, doorbells) =
            QpControl::create(&spec, RegionMemory::Dma(Arc::clone(&buffer)))?;
        let service = Service::new(config.qp_type, self.capabilities(), config.privileged);
        let parts = Parts {
            control,
            doorbells,
            shape: spec.shape,
            buffer,
            limits: DescriptorLimits {
                service,
                segments: config.send_segments,
                inline: config.inline,
            },
        };
        Ok(parts.assemble(send_cq, receive, config.context))
    }

    fn shape(&self, config: &QpConfig, own_receive: bool) -> Result<Shape, Error> {
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

/// What the device has created, and its memory.
struct Parts<P: Platform> {
    control: QpControl<P>,
    doorbells: QpDoorbells,
    shape: Shape,
    buffer: Arc<P::Dma>,
    limits: DescriptorLimits,
}

impl<P: Platform> Parts<P> {
    fn assemble(
        mut self,
        send_cq: &CqReference<P>,
        receive: &Receive<'_, P>,
        context: u64,
    ) -> QueuePair<P> {
        let source = match (receive.srq(), self.doorbells.receive) {
            (Some(srq), _) => ReceiveSource::Shared(Arc::clone(&srq.table)),
            (None, Some(doorbell)) => ReceiveSource::Own(self.shape.receive, doorbell),
            (None, None) => ReceiveSource::None,
        };
        let number = self.control.number();
        let receive_cq = receive.cq().map(|cq| &cq.table);
        let cqs = (send_cq.table.number(), receive_cq.map(|cq| cq.number()));
        let tables = QpTables::new(number, context, cqs, self.shape.send, source);
        let tables = Arc::new(tables);
        self.control.attach(&send_cq.table, receive_cq, &tables);
        let queue = |doorbell, cq: Option<&Arc<CqTable<P>>>| Queue {
            handle: self.control.object.handle.clone(),
            buffer: Arc::clone(&self.buffer),
            tables: Arc::clone(&tables),
            cq: cq.map(Arc::clone),
            doorbell,
            head: 0,
        };
        let send_doorbell = self.doorbells.send;
        let send = SendQueue {
            queue: queue(send_doorbell, Some(&send_cq.table)),
            base: self.shape.send_offset,
            limits: self.limits,
        };
        let receive = ReceiveQueue {
            queue: queue(self.doorbells.receive.unwrap_or(send_doorbell), receive_cq),
            segments: 1 << self.shape.log_receive_segments,
            exists: self.doorbells.receive.is_some(),
        };
        QueuePair {
            control: self.control,
            send,
            receive,
        }
    }
}
