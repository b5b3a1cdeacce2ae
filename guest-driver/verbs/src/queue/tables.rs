//! Requests in flight of a queue pair, between whoever posts and whoever polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use vrnic_driver::queues::{ReceiveTable, RingSize, SendTable};

use crate::doorbell::Doorbell;
use crate::lock::Lock;
use crate::queue::SharedQueue;

/// Where the receive requests of a queue pair come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// Its own receive queue, with that many entries and that doorbell.
    Own(RingSize, Doorbell),
    /// A shared receive queue.
    Shared(Arc<Lock<SharedQueue>>, u32),
    /// It has none.
    None,
}

/// Requests in flight of a queue pair. A queue pair that is reset gets new ones.
pub(crate) struct Tables {
    pub(crate) qpn: u32,
    pub(crate) send: SendTable,
    pub(crate) receive: ReceiveTable,
    pub(crate) source: Source,
    /// The queue pair is, or may be, in the error state.
    failed: AtomicBool,
}

impl Tables {
    pub(crate) fn new(qpn: u32, send: RingSize, source: Source) -> Self {
        let receive = match source {
            Source::Own(size, _) => size,
            Source::Shared(..) | Source::None => RingSize::from_log(0),
        };
        Self {
            qpn,
            send: SendTable::new(send),
            receive: ReceiveTable::new(receive),
            source,
            failed: AtomicBool::new(false),
        }
    }

    /// The same queue pair without requests.
    pub(crate) fn renewed(&self) -> Self {
        Self::new(self.qpn, self.send.size(), self.source.clone())
    }

    fn doorbell(&self) -> Option<Doorbell> {
        match self.source {
            Source::Own(_, doorbell) => Some(doorbell),
            Source::Shared(..) | Source::None => None,
        }
    }

    /// Notes that the queue pair may be in the error state. The device looks at the receive queue
    /// of such a queue pair only when told to, so from now on it must be told of every request;
    /// one that was posted just before is announced here.
    pub(crate) fn set_failed(&self) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            if let Some(doorbell) = self.doorbell() {
                doorbell.nudge();
            }
        }
    }

    /// Notes that the queue pair works again, after its send queue had failed.
    pub(crate) fn clear_failed(&self) {
        self.failed.store(false, Ordering::Release);
    }

    /// Tells the device of receive requests whose slot was stored, if it would not look.
    #[inline]
    pub(crate) fn announce_receive(&self) {
        // Either this load sees the flag, or the nudge of whoever sets it comes after the store.
        fence(Ordering::SeqCst);
        if self.failed.load(Ordering::Relaxed) {
            if let Some(doorbell) = self.doorbell() {
                doorbell.nudge();
            }
        }
    }
}
