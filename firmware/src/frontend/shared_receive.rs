//! Shared receive queues (IBTA volume 1, 10.2.9; XRC: annex A14).
//!
//! A queue is a receive ring that several queue pairs take from: those that named it when they were
//! created, or, with type XRC, the targets of its XRC domain whose packets name it. An entry is
//! copied when it is taken, in the order of posting; from then on it belongs to the queue pair that
//! took it, and completions come in any order. So the ring itself counts an entry as consumed as
//! soon as it is taken, and trusts no producer that is more than a ring ahead of that.
//!
//! The limit is compared with what the doorbell slot says at that moment: an event means that the
//! driver had really not posted more.
//!
//! A queue whose entries cannot be read has failed for good. Its queue pairs are not told at once;
//! each goes to the error state when it next needs an entry.

use vrnic_abi::eqe::EventType;

use super::ring::ReceiveRing;
use crate::host::Host;
use crate::resource::PageMap;
use crate::transport::{Domain, NoReceive, ReceiveWork};

/// What only queues of type XRC have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// XRC domain.
    pub xrcd: u32,
    /// Completion queue of the entries.
    pub cq: u32,
}

/// What a look at the queue brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The doorbell made sense.
    pub valid: bool,
    /// An event to report.
    pub event: Option<EventType>,
}

/// A shared receive queue.
#[derive(Clone, Debug)]
pub struct SharedReceiveQueue {
    number: u32,
    /// In whose name the entries' buffers are accessed.
    pub domain: Domain,
    /// Set for queues of type XRC.
    pub extended: Option<Extended>,
    /// The ring's memory.
    pub pages: PageMap,
    /// The ring.
    pub ring: ReceiveRing,
    /// Queue pairs that were created with it.
    pub users: u32,
    limit: u32,
    failed: bool,
}

impl SharedReceiveQueue {
    /// The XRC domain of a queue of type XRC.
    #[must_use]
    pub fn xrcd(&self) -> Option<u32> {
        self.extended.as_ref().map(|extended| extended.xrcd)
    }

    /// An empty queue without a limit.
    #[must_use]
    pub const fn new(
        number: u32,
        domain: Domain,
        extended: Option<Extended>,
        pages: PageMap,
        ring: ReceiveRing,
    ) -> Self {
        Self {
            number,
            domain,
            extended,
            pages,
            ring,
            users: 0,
            limit: 0,
            failed: false,
        }
    }

    /// The limit, 0 if it is not armed.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether the queue has failed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Arms the limit; 0 disarms it.
    pub fn arm<H: Host>(&mut self, host: &H, limit: u32) -> Look {
        self.limit = limit;
        let mut look = Look {
            valid: true,
            event: None,
        };
        self.check_limit(host, &mut look);
        look
    }

    /// Takes the next entry.
    pub fn take<H: Host>(&mut self, host: &H) -> (Result<ReceiveWork, NoReceive>, Look) {
        let mut look = Look {
            valid: true,
            event: None,
        };
        if self.failed {
            return (Err(NoReceive::Failed), look);
        }
        let (work, valid) = self.ring.next(host, &self.pages, self.domain);
        look.valid = valid;
        let Some(mut work) = work else {
            return (Err(NoReceive::Empty), look);
        };
        if work.invalid.is_some() {
            self.failed = true;
            look.event = Some(EventType::SrqError);
            return (Err(NoReceive::Failed), look);
        }
        let index = self.ring.end(work.cookie);
        work.cookie = cookie(self.number, index);
        self.check_limit(host, &mut look);
        (Ok(work), look)
    }

    /// Reports, once, that fewer entries than the limit are left (IBTA volume 1, 10.2.9.3).
    fn check_limit<H: Host>(&mut self, host: &H, look: &mut Look) {
        if self.ring.left() >= self.limit || self.failed {
            return;
        }
        look.valid &= self.ring.look(host);
        if self.ring.left() < self.limit {
            self.limit = 0;
            look.event = Some(EventType::SrqLimit);
        }
    }
}

/// The cookie of an entry of shared receive queue `srqn`: no queue has number 0, which stands for
/// the queue pair's own.
const fn cookie(srqn: u32, index: u32) -> u64 {
    (srqn as u64) << 32 | index as u64
}

/// The shared receive queue that a cookie names, and the index of the entry.
#[must_use]
pub const fn shared(cookie: u64) -> Option<(u32, u32)> {
    match (cookie >> 32) as u32 {
        0 => None,
        srqn => Some((srqn, cookie as u32)),
    }
}
