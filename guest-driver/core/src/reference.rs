//! Queues as others name them that are being created.
//!
//! A queue itself is used by one context at a time. Whoever creates a queue pair needs no more than
//! a reference to its completion queues, and keeps nobody from polling those. A reference may
//! outlive its queue: it is then refused, by the driver or by the device.

use alloc::sync::Arc;

use vrnic_abi::admin::SrqType;

use crate::cq::CompletionQueue;
use crate::memory::Handle;
use crate::platform::Platform;
use crate::srq::SharedReceiveQueue;
use crate::tables::{CqTable, SrqTable};
use crate::user::UserCompletionQueue;

/// A completion queue that the driver polls.
pub struct CqReference<P: Platform> {
    pub(crate) handle: Handle<P>,
    pub(crate) table: Arc<CqTable<P>>,
}

/// A completion queue that a user polls.
pub struct UserCqReference<P: Platform> {
    pub(crate) handle: Handle<P>,
}

/// A shared receive queue that the driver posts to.
pub struct SrqReference<P: Platform> {
    pub(crate) handle: Handle<P>,
    pub(crate) srq_type: SrqType,
    pub(crate) table: Arc<SrqTable<P>>,
}

impl<P: Platform> CompletionQueue<P> {
    /// The queue, for those who create queue pairs.
    #[must_use]
    pub fn reference(&self) -> CqReference<P> {
        CqReference {
            handle: self.control.object.handle.clone(),
            table: Arc::clone(&self.table),
        }
    }
}

impl<P: Platform> UserCompletionQueue<P> {
    /// The queue, for those who create queue pairs.
    #[must_use]
    pub fn reference(&self) -> UserCqReference<P> {
        UserCqReference {
            handle: self.control.object.handle.clone(),
        }
    }
}

impl<P: Platform> SharedReceiveQueue<P> {
    /// The queue, for those who create queue pairs.
    #[must_use]
    pub fn reference(&self) -> SrqReference<P> {
        SrqReference {
            handle: self.control.object.handle.clone(),
            srq_type: self.control.srq_type,
            table: Arc::clone(&self.queue.table),
        }
    }
}
