//! Queue pairs.
//!
//! * `qp`: what a queue pair is, and its creation; `control`: its states and its end;
//! * `service` (private): what each type of queue pair can do and needs;
//! * `shape` (private): its rings; `transition` (private): attributes of its states;
//! * `post`: the two queues, as those who post use them.
//!
//! Creation, the state machine (InfiniBand Architecture volume 1, 10.3.1) and destruction are
//! commands, in sleepable context. Posting writes a descriptor into the ring and rings the
//! doorbell, in atomic context, without locks or allocation.
//!
//! Counters of the send queue count basic blocks, those of the receive queue entries. They start
//! at 0 when the queue pair is created and again when it is reset.

mod control;
mod create;
pub(crate) mod post;
pub(crate) mod service;
pub(crate) mod shape;
pub(crate) mod transition;

use vrnic_abi::admin::{AccessFlags, QpType};
use vrnic_abi::doorbell;
use vrnic_abi::object::{QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::WqeFlags;

use crate::error::{Error, PostError};
use crate::fast::FastRegion;
use crate::platform::Platform;
use crate::work::{ReceiveRequest, SendRequest, Target};

pub use control::{QpControl, Restart};
pub(crate) use control::{QpDoorbells, QpSpec};
pub(crate) use post::store_receive;
pub use post::{ReceiveQueue, SendQueue};
pub(crate) use shape::MAX_RECEIVE_SEGMENTS;
pub use transition::Connection;
use transition::Transition;

/// How to create a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct QpConfig {
    /// Transport service.
    pub qp_type: QpType,
    /// Send work requests of the largest kind in flight.
    pub send_requests: u32,
    /// Receive work requests in flight; not looked at without a receive queue of its own.
    pub receive_requests: u32,
    /// Data segments of a send work request, at most 28; 27 for datagrams and XRC.
    pub send_segments: u32,
    /// Data segments of a receive work request, at most 16.
    pub receive_segments: u32,
    /// Bytes of inline data, at most 448; 432 for datagrams.
    pub inline: u32,
    /// Every send work request completes with an entry.
    pub signal_all: bool,
    /// The reserved local key and fast registration are allowed.
    pub privileged: bool,
    /// Raw packets: VLAN tags are taken out of received frames.
    pub strip_vlan: bool,
    /// Doorbell page.
    pub doorbell_page: u32,
    /// Handed back in every completion and event of the queue pair.
    pub context: u64,
}

impl Default for QpConfig {
    fn default() -> Self {
        Self {
            qp_type: QpType::Rc,
            send_requests: 64,
            receive_requests: 64,
            send_segments: 2,
            receive_segments: 2,
            inline: 32,
            signal_all: false,
            privileged: false,
            strip_vlan: false,
            doorbell_page: doorbell::KERNEL_PAGE,
            context: 0,
        }
    }
}

/// A queue pair. Posting to its two queues and commands are each used by one context at a time; to
/// use them from three at once, [`QueuePair::split`] it.
pub struct QueuePair<P: Platform> {
    pub(crate) control: QpControl<P>,
    send: SendQueue<P>,
    receive: ReceiveQueue<P>,
}

impl<P: Platform> QueuePair<P> {
    /// Number of the queue pair.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.control.number()
    }

    /// Its type.
    #[must_use]
    pub fn qp_type(&self) -> QpType {
        self.control.qp_type()
    }

    /// Takes the queue pair apart, so that contexts which post need not wait for one that changes its
    /// state. Nothing may be posted after the queue pair is destroyed.
    #[must_use]
    pub fn split(self) -> (QpControl<P>, SendQueue<P>, ReceiveQueue<P>) {
        (self.control, self.send, self.receive)
    }

    /// Both queues, for posting from two contexts.
    pub fn queues(&mut self) -> (&mut SendQueue<P>, &mut ReceiveQueue<P>) {
        (&mut self.send, &mut self.receive)
    }

    /// Posts a send work request and tells the device. Atomic context.
    #[inline]
    pub fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        self.send.post(request)
    }

    /// Posts a receive work request. Atomic context.
    #[inline]
    pub fn post_receive(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        self.receive.post(request)
    }

    /// Posts a fast registration: see [`SendQueue::post_fast_register`]. Atomic context.
    pub fn post_fast_register(
        &mut self,
        wr_id: u64,
        region: &mut FastRegion<P>,
        target: Target,
        flags: WqeFlags,
    ) -> Result<(), PostError> {
        self.send.post_fast_register(wr_id, region, target, flags)
    }
}

impl<P: Platform> AsRef<QpControl<P>> for QueuePair<P> {
    fn as_ref(&self) -> &QpControl<P> {
        &self.control
    }
}

/// States and their attributes. Sleepable context.
impl<P: Platform> QueuePair<P> {
    /// Changes attributes and state. A queue pair that goes to RESET loses its work requests, and
    /// the completions that were not polled yet. So does a shared receive queue lose the request
    /// that the queue pair has taken, unless that goes to ERROR first.
    ///
    /// If the function is lost, going to RESET or ERROR succeeds, and nothing else does.
    pub fn modify(&mut self, attributes: &QpAttributes, mask: QpMask) -> Result<(), Error> {
        self.enter((*attributes, mask))
    }

    fn enter(&mut self, transition: Transition) -> Result<(), Error> {
        if let Some(restart) = self.control.enter(transition)? {
            self.send.restart(&restart);
            self.receive.restart(&restart);
        }
        Ok(())
    }

    /// Changes the state only.
    pub fn modify_state(&mut self, state: QpState) -> Result<(), Error> {
        self.enter(transition::state(state))
    }

    /// RESET to INIT of a connected queue pair; `access` is what the peer may do.
    pub fn to_init(&mut self, access: AccessFlags) -> Result<(), Error> {
        service::require_connected(self.control.qp_type)?;
        self.enter(transition::init(access))
    }

    /// INIT to RTR of a connected queue pair.
    pub fn to_rtr(&mut self, connection: &Connection) -> Result<(), Error> {
        service::require_connected(self.control.qp_type)?;
        self.enter(transition::rtr(self.control.qp_type, connection))
    }

    /// RTR to RTS of a connected queue pair.
    pub fn to_rts(&mut self, connection: &Connection) -> Result<(), Error> {
        service::require_connected(self.control.qp_type)?;
        self.enter(transition::rts(self.control.qp_type, connection))
    }

    /// RESET to INIT of a datagram queue pair; datagrams must carry `qkey`.
    pub fn to_init_datagram(&mut self, qkey: u32) -> Result<(), Error> {
        service::require_datagram(self.control.qp_type)?;
        self.enter(transition::init_datagram(self.control.qp_type, qkey))
    }

    /// INIT to RTR of a datagram queue pair.
    pub fn to_rtr_datagram(&mut self) -> Result<(), Error> {
        service::require_datagram(self.control.qp_type)?;
        self.enter(transition::state(QpState::Rtr))
    }

    /// RTR to RTS of a datagram queue pair.
    pub fn to_rts_datagram(&mut self, send_psn: u32) -> Result<(), Error> {
        service::require_datagram(self.control.qp_type)?;
        self.enter(transition::rts_datagram(send_psn))
    }

    /// RESET to RTS of a raw packet queue pair.
    pub fn to_rts_raw(&mut self) -> Result<(), Error> {
        service::require_raw(self.control.qp_type)?;
        self.enter(transition::init_raw())?;
        self.enter(transition::state(QpState::Rtr))?;
        self.enter(transition::state(QpState::Rts))
    }

    /// Changes the key that received datagrams must carry.
    pub fn set_qkey(&mut self, qkey: u32) -> Result<(), Error> {
        service::require_datagram(self.control.qp_type)?;
        let attributes = QpAttributes {
            qkey,
            ..QpAttributes::default()
        };
        self.enter((attributes, QpMask::QKEY))
    }

    /// RTS to SQD: requests that have started go on, no others start. With `notify`, the event
    /// SendQueueDrained says when all have completed; [`Self::query`] says so, too.
    pub fn drain(&mut self, notify: bool) -> Result<(), Error> {
        self.enter(transition::drain(notify))
    }

    /// SQD to RTS.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.enter(transition::resume(QpState::Sqd))
    }

    /// SQE to RTS: a queue pair of an unreliable service sends again after a request has failed.
    pub fn recover_send_queue(&mut self) -> Result<(), Error> {
        service::require_unreliable(self.control.qp_type)?;
        self.enter(transition::resume(QpState::Sqe))?;
        self.send.queue.tables.clear_failed();
        Ok(())
    }

    /// Attributes and state as the device has them.
    pub fn query(&self) -> Result<QpAttributes, Error> {
        self.control.query()
    }

    /// Destroys the queue pair; its completions that were not polled yet are dropped.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()?;
        for queue in [&mut self.send.queue, &mut self.receive.queue] {
            queue.handle.generation = self.control.object.handle.generation;
        }
        Ok(())
    }
}
