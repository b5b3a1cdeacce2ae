//! Shared receive queues that a user posts to. Sleepable context.

use vrnic_abi::admin::SrqType;
use vrnic_abi::doorbell;
use vrnic_abi::object::SrqAttributes;

use crate::device::Driver;
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::memory::{ProtectionDomain, RegionMemory};
use crate::platform::Platform;
use crate::qp::MAX_RECEIVE_SEGMENTS;
use crate::ring::RingSize;
use crate::srq::{SrqControl, SrqSpec};
use crate::user::UserCompletionQueue;
use crate::xrc::XrcDomain;

/// How to create a shared receive queue that a user posts to.
#[derive(Clone, Copy, Debug)]
pub struct UserSrqConfig {
    /// Entries as a power of two.
    pub log_entries: u8,
    /// Data segments of an entry as a power of two.
    pub log_segments: u8,
    /// Doorbell page.
    pub doorbell_page: u32,
    /// Handed back in every event of the queue.
    pub context: u64,
}

impl Default for UserSrqConfig {
    fn default() -> Self {
        Self {
            log_entries: 8,
            log_segments: 1,
            doorbell_page: doorbell::KERNEL_PAGE,
            context: 0,
        }
    }
}

/// A shared receive queue that a user posts to.
pub struct UserSharedReceiveQueue<P: Platform> {
    pub(crate) control: SrqControl<P>,
    doorbell: Doorbell,
}

impl<P: Platform> UserSharedReceiveQueue<P> {
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

    /// Its doorbell slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.doorbell.slot()
    }

    /// Arms the limit: see [`SrqControl::set_limit`].
    pub fn set_limit(&self, limit: u32) -> Result<(), Error> {
        self.control.set_limit(limit)
    }

    /// The queue as the device sees it.
    pub fn query(&self) -> Result<SrqAttributes, Error> {
        self.control.query()
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()
    }
}

impl<P: Platform> Driver<P> {
    /// Creates a shared receive queue in `memory` that a user posts to, for queue pairs that are
    /// created with it.
    pub fn create_user_srq(
        &self,
        pd: &ProtectionDomain<P>,
        memory: RegionMemory<P>,
        config: UserSrqConfig,
    ) -> Result<UserSharedReceiveQueue<P>, Error> {
        self.create_user_srq_of(pd, None, memory, config)
    }

    /// The same for the XRC targets of `xrcd`, whose messages complete on `cq`.
    pub fn create_user_xrc_srq(
        &self,
        pd: &ProtectionDomain<P>,
        xrcd: &XrcDomain<P>,
        cq: &UserCompletionQueue<P>,
        memory: RegionMemory<P>,
        config: UserSrqConfig,
    ) -> Result<UserSharedReceiveQueue<P>, Error> {
        self.create_user_srq_of(pd, Some((xrcd, cq)), memory, config)
    }

    fn create_user_srq_of(
        &self,
        pd: &ProtectionDomain<P>,
        xrc: Option<(&XrcDomain<P>, &UserCompletionQueue<P>)>,
        memory: RegionMemory<P>,
        config: UserSrqConfig,
    ) -> Result<UserSharedReceiveQueue<P>, Error> {
        let limit = self.attributes().log_max_srq_entries;
        let size = RingSize::within(config.log_entries, limit);
        let size = size.ok_or(Error::BadArgument("number of work requests"))?;
        let limit = MAX_RECEIVE_SEGMENTS.ilog2() as u8;
        let segments = RingSize::within(config.log_segments, limit);
        let spec = SrqSpec {
            pd,
            xrc: xrc.map(|(xrcd, cq)| (xrcd, &cq.control.object.handle)),
            size,
            segments: segments.ok_or(Error::BadArgument("size of a work request"))?,
            privileged: false,
            doorbell_page: config.doorbell_page,
        };
        let (mut control, doorbell) = SrqControl::create(&spec, memory)?;
        control.listen(config.context);
        Ok(UserSharedReceiveQueue { control, doorbell })
    }
}
