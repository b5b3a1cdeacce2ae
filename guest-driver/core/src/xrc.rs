//! XRC domains and target queue pairs (InfiniBand Architecture volume 1, annex A14).
//!
//! An XRC target is the peer of an XRC initiator. It belongs to a domain, has neither queues nor
//! completions, and nothing is posted to it: an initiator's SENDs name a shared receive queue of
//! the domain, and complete on the completion queue of that. Sleepable context.

use vrnic_abi::admin::{AccessFlags, AdminOpcode, CreateQp, QpType};
use vrnic_abi::doorbell;
use vrnic_abi::object::{QpAttributes, QpMask, QpState};
use vrnic_abi::registers::Capabilities;

use crate::device::Driver;
use crate::error::Error;
use crate::memory::{Handle, ProtectionDomain};
use crate::platform::Platform;
use crate::qp::transition::{self, Transition};
use crate::qp::{Connection, QpControl};

/// An XRC domain. Dropped without `destroy`, its number stays in use until a reset.
pub struct XrcDomain<P: Platform> {
    pub(crate) handle: Handle<P>,
}

impl<P: Platform> XrcDomain<P> {
    /// Number of the domain.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// Frees the domain; the device refuses while it is in use.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.handle.destroy(AdminOpcode::FreeXrcd)
    }
}

/// An XRC target queue pair. It has no memory: dropped without `destroy`, it stays until a reset.
pub struct XrcTarget<P: Platform> {
    control: QpControl<P>,
}

impl<P: Platform> XrcTarget<P> {
    /// Number of the queue pair.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.control.number()
    }

    /// Changes attributes and state.
    pub fn modify(&mut self, attributes: &QpAttributes, mask: QpMask) -> Result<(), Error> {
        self.enter((*attributes, mask))
    }

    /// Changes the state only.
    pub fn modify_state(&mut self, state: QpState) -> Result<(), Error> {
        self.enter(transition::state(state))
    }

    /// RESET to INIT; `access` is what the peer may do.
    pub fn to_init(&mut self, access: AccessFlags) -> Result<(), Error> {
        self.enter(transition::init(access))
    }

    /// INIT to RTR, which is all it needs to receive.
    pub fn to_rtr(&mut self, connection: &Connection) -> Result<(), Error> {
        self.enter(transition::rtr(QpType::XrcTarget, connection))
    }

    /// RTR to RTS.
    pub fn to_rts(&mut self, connection: &Connection) -> Result<(), Error> {
        self.enter(transition::rts(QpType::XrcTarget, connection))
    }

    fn enter(&mut self, transition: Transition) -> Result<(), Error> {
        // It has no queues that a restart would be for.
        self.control.enter(transition).map(drop)
    }

    /// Attributes and state as the device has them.
    pub fn query(&self) -> Result<QpAttributes, Error> {
        self.control.query()
    }

    /// Destroys the queue pair. A request of a shared receive queue that it has taken completes as
    /// flushed.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()
    }
}

impl<P: Platform> Driver<P> {
    /// Allocates an XRC domain.
    pub fn create_xrcd(&self) -> Result<XrcDomain<P>, Error> {
        self.require(Capabilities::XRC, "XRC domains")?;
        let handle = self.allocate_number(AdminOpcode::AllocXrcd)?;
        Ok(XrcDomain { handle })
    }

    /// Creates an XRC target queue pair in state RESET. The regions that its peer names belong to
    /// `pd`, or if there is none to the domain of the shared receive queue that the peer names with
    /// them; `context` is handed back in every event of the queue pair.
    pub fn create_xrc_target(
        &self,
        pd: Option<&ProtectionDomain<P>>,
        xrcd: &XrcDomain<P>,
        context: u64,
    ) -> Result<XrcTarget<P>, Error> {
        self.require(Capabilities::XRC, "XRC queue pairs")?;
        if let Some(pd) = pd {
            pd.handle.check()?;
        }
        xrcd.handle.check()?;
        let body = CreateQp {
            pd: pd.map_or(0, ProtectionDomain::number),
            doorbell_page: doorbell::KERNEL_PAGE,
            qp_type: QpType::XrcTarget.raw(),
            xrcd: xrcd.number(),
            ..CreateQp::default()
        };
        let generation = xrcd.handle.generation;
        let shared = &self.shared;
        let answer = shared.execute(generation, AdminOpcode::CreateQp, &body, None)?;
        let handle = Handle::new(shared, generation, answer.result0)?;
        let mut control = QpControl::target(handle);
        control.listen(context, None);
        Ok(XrcTarget { control })
    }
}
