//! Queue pairs that a user posts to. Sleepable context.

use vrnic_abi::admin::{QpFlags, QpType};
use vrnic_abi::doorbell;
use vrnic_abi::object::{QpAttributes, QpMask, QpState};

use crate::device::Driver;
use crate::error::Error;
use crate::memory::{ProtectionDomain, RegionMemory};
use crate::platform::Platform;
use crate::qp::shape::Shape;
use crate::qp::{QpControl, QpDoorbells, QpSpec, transition};
use crate::reference::UserCqReference;
use crate::user::UserSharedReceiveQueue;

/// How to create a queue pair that a user posts to.
#[derive(Clone, Copy, Debug)]
pub struct UserQpConfig {
    /// Transport service; XRC targets are made by [`Driver::create_xrc_target`].
    pub qp_type: QpType,
    /// Basic blocks of 64 bytes of the send queue, as a power of two.
    pub log_send_blocks: u8,
    /// Entries of the receive queue as a power of two; not looked at without one.
    pub log_receive_entries: u8,
    /// Data segments of a receive entry as a power of two; not looked at without a receive queue.
    pub log_receive_segments: u8,
    /// Every send work request completes with an entry.
    pub signal_all: bool,
    /// Raw packets: VLAN tags are taken out of received frames.
    pub strip_vlan: bool,
    /// Doorbell page of both slots.
    pub doorbell_page: u32,
    /// Handed back in every event of the queue pair.
    pub context: u64,
}

impl Default for UserQpConfig {
    fn default() -> Self {
        Self {
            qp_type: QpType::Rc,
            log_send_blocks: 6,
            log_receive_entries: 6,
            log_receive_segments: 1,
            signal_all: false,
            strip_vlan: false,
            doorbell_page: doorbell::KERNEL_PAGE,
            context: 0,
        }
    }
}

/// Where a user's queue pair receives.
pub enum UserReceive<'a, P: Platform> {
    /// From a receive queue of its own, which completes on this queue.
    Own(UserCqReference<P>),
    /// From a shared receive queue; RC, UC and UD.
    Shared(UserCqReference<P>, &'a UserSharedReceiveQueue<P>),
    /// Nothing: XRC initiators.
    None,
}

impl<'a, P: Platform> UserReceive<'a, P> {
    fn cq(&self) -> Option<&UserCqReference<P>> {
        match self {
            Self::Own(cq) | Self::Shared(cq, _) => Some(cq),
            Self::None => None,
        }
    }

    fn srq(&self) -> Option<&'a UserSharedReceiveQueue<P>> {
        match *self {
            Self::Shared(_, srq) => Some(srq),
            Self::Own(_) | Self::None => None,
        }
    }
}

/// A queue pair that a user posts to.
pub struct UserQueuePair<P: Platform> {
    control: QpControl<P>,
    doorbells: QpDoorbells,
}

impl<P: Platform> UserQueuePair<P> {
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

    /// Doorbell slot of the send queue.
    #[must_use]
    pub fn send_slot(&self) -> u32 {
        self.doorbells.send.slot()
    }

    /// Doorbell slot of the receive queue, if it has one.
    #[must_use]
    pub fn receive_slot(&self) -> Option<u32> {
        self.doorbells.receive.map(|doorbell| doorbell.slot())
    }

    /// Changes attributes and state. Going to RESET forgets all work requests; the user begins
    /// anew with index 0 in both queues, and tells the device so.
    pub fn modify(&mut self, attributes: &QpAttributes, mask: QpMask) -> Result<(), Error> {
        // The user restarts its queues itself.
        self.control.modify(attributes, mask).map(drop)
    }

    /// Changes the state only.
    pub fn modify_state(&mut self, state: QpState) -> Result<(), Error> {
        let (attributes, mask) = transition::state(state);
        self.modify(&attributes, mask)
    }

    /// Attributes and state as the device has them.
    pub fn query(&self) -> Result<QpAttributes, Error> {
        self.control.query()
    }

    /// Receives what is sent to the multicast GID `gid`: see [`QpControl::attach_multicast`].
    pub fn attach_multicast(&self, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.control.attach_multicast(gid, vlan)
    }

    /// No longer receives what is sent to a multicast GID.
    pub fn detach_multicast(&self, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.control.detach_multicast(gid, vlan)
    }

    /// Destroys the queue pair. Its completions stay in the completion queues, for the user to tell
    /// from those of a later queue pair with the number.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()
    }
}

impl<P: Platform> AsMut<QpControl<P>> for UserQueuePair<P> {
    fn as_mut(&mut self) -> &mut QpControl<P> {
        &mut self.control
    }
}

impl<P: Platform> AsRef<QpControl<P>> for UserQueuePair<P> {
    fn as_ref(&self) -> &QpControl<P> {
        &self.control
    }
}

impl<P: Platform> Driver<P> {
    /// Creates a queue pair in state RESET that a user posts to, with its rings in `memory`: the
    /// receive queue from the first byte on, if it has one, and the send queue from the next multiple
    /// of 64 on.
    pub fn create_user_qp(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &UserCqReference<P>,
        receive: &UserReceive<'_, P>,
        memory: RegionMemory<P>,
        config: UserQpConfig,
    ) -> Result<UserQueuePair<P>, Error> {
        let entries = (config.log_receive_entries, config.log_receive_segments);
        let own = matches!(receive, UserReceive::Own(_)).then_some(entries);
        let shape = Shape::exact(config.log_send_blocks, own);
        let mut flags = QpFlags::empty();
        flags.set(QpFlags::SIGNAL_ALL, config.signal_all);
        flags.set(QpFlags::STRIP_VLAN, config.strip_vlan);
        let spec = QpSpec {
            pd,
            send_cq: &send_cq.handle,
            receive_cq: receive.cq().map(|cq| &cq.handle),
            srq: receive
                .srq()
                .map(|srq| (&srq.control.object.handle, srq.control.srq_type)),
            qp_type: config.qp_type,
            doorbell_page: config.doorbell_page,
            flags,
            shape: shape.ok_or(Error::BadArgument("size of the queues"))?,
        };
        let (mut control, doorbells) = QpControl::create(&spec, memory)?;
        control.listen(config.context, None);
        Ok(UserQueuePair { control, doorbells })
    }
}
