//! What an engine tells about what happens to it, to whoever listens.
//!
//! An engine waits for nobody: notices go through a bounded channel, and what finds no room in it is
//! counted instead. Whoever listens is woken and takes them with [`Notices::take`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use vrnic_firmware::nic::FunctionId;

/// Notices on their way. Guests cause most of them, and can cause many.
const ROOM: usize = 256;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The port has a link, or has none, and its functions were told.
    Link {
        /// Whether it has one.
        up: bool,
    },
    /// A function is served from now on.
    Added {
        /// Which.
        function: FunctionId,
        /// Which function of its family: 0 is the physical one.
        number: u16,
    },
    /// A function is not served any more.
    Removed {
        /// Which.
        function: FunctionId,
    },
    /// A function was reset, whoever asked for it.
    Reset {
        /// Which.
        function: FunctionId,
    },
    /// A function's driver has enabled it.
    Ready {
        /// Which.
        function: FunctionId,
    },
    /// A function failed and waits for a reset.
    Fatal {
        /// Which.
        function: FunctionId,
        /// As in the register HEALTH_CODE.
        code: u32,
        /// As in the register HEALTH_OBJECT.
        object: u32,
    },
}

/// Takes an engine's notices. Clones lead to the same listener.
#[derive(Clone)]
pub struct Observer {
    sender: SyncSender<Notice>,
    lost: Arc<AtomicU64>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// What an observer took.
#[derive(Debug)]
pub struct Notices {
    receiver: Receiver<Notice>,
    lost: Arc<AtomicU64>,
}

/// An observer, and where its notices arrive; it calls `wake` for each.
pub fn notices(wake: impl Fn() + Send + Sync + 'static) -> (Observer, Notices) {
    let (sender, receiver) = sync_channel(ROOM);
    let lost = Arc::new(AtomicU64::new(0));
    let observer = Observer {
        sender,
        lost: Arc::clone(&lost),
        wake: Arc::new(wake),
    };
    (observer, Notices { receiver, lost })
}

impl Observer {
    /// Passes a notice on; without room for it, it is counted.
    pub fn notify(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        (self.wake)();
    }
}

impl Notices {
    /// The next notice.
    pub fn take(&self) -> Option<Notice> {
        self.receiver.try_recv().ok()
    }

    /// How many were lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn what_finds_no_room_is_counted() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let (observer, notices) = notices(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for n in 0..ROOM + 3 {
            observer.notify(Notice::Link { up: n % 2 == 0 });
        }
        assert_eq!(woken.load(Ordering::Relaxed), ROOM + 3);
        let taken: Vec<_> = std::iter::from_fn(|| notices.take()).collect();
        assert_eq!(taken.len(), ROOM);
        assert_eq!(
            taken[..2],
            [Notice::Link { up: true }, Notice::Link { up: false }]
        );
        assert_eq!((notices.take_lost(), notices.take_lost()), (3, 0));
    }
}
