//! The side of a completion queue that the driver and its queue pairs know.
//!
//! A queue has one ring, and while it is being resized a second one, which the device goes on in
//! from some index on: [`CqRing::base`]. In a ring, place and owner bit follow from the index less
//! that base. The poller has a copy of the ring of its own, so that polling takes no lock.
//!
//! A queue pair that is gone leaves completions behind. They are *purged*: up to the entry that
//! the device had written when the queue pair was reset, completions with its number are dropped,
//! and the requests of a shared receive queue that they were for are retired.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use vrnic_abi::cqe::CompletionEntry;

use crate::platform::{DmaBuffer, Lock, Platform};
use crate::ring::{RingSize, owner_of};
use crate::tables::{QpTables, Registry, SrqTable};

/// A ring of completion entries.
pub struct CqRing<D> {
    /// Where it is.
    pub buffer: Arc<D>,
    /// How many entries it has.
    pub size: RingSize,
    /// Index of the entry at the ring's first place in its first pass.
    pub base: u32,
}

impl<D> Clone for CqRing<D> {
    fn clone(&self) -> Self {
        Self {
            buffer: Arc::clone(&self.buffer),
            ..*self
        }
    }
}

impl<D: DmaBuffer> CqRing<D> {
    #[inline]
    fn offset(&self, counter: u32) -> usize {
        self.size.position(counter.wrapping_sub(self.base)) * CompletionEntry::SIZE
    }

    /// The last 8 bytes of entry `counter`, if the device has written it.
    #[inline(always)]
    fn last(&self, counter: u32) -> Option<u64> {
        let last = self.buffer.load(self.offset(counter) + 56);
        let pass = counter.wrapping_sub(self.base);
        self.size.is_valid(pass, owner_of(last)).then_some(last)
    }

    /// Whether the device has written entry `counter`.
    #[must_use]
    pub fn is_valid(&self, counter: u32) -> bool {
        self.last(counter).is_some()
    }

    /// Entry `counter`, if the device has written it.
    #[inline(always)]
    #[must_use]
    pub fn entry(&self, counter: u32) -> Option<CompletionEntry> {
        let last = self.last(counter)?;
        fence(Ordering::Acquire);
        let base = self.offset(counter);
        let load = |index: usize| self.buffer.load(base + index * 8);
        let words = [
            load(0),
            load(1),
            load(2),
            load(3),
            load(4),
            load(5),
            load(6),
            last,
        ];
        Some(bytemuck::cast(words))
    }

    /// Counter of the first entry from `start` on that the device has not written yet.
    fn scan(&self, start: u32) -> u32 {
        let mut counter = start;
        while counter.wrapping_sub(start) < self.size.entries() && self.is_valid(counter) {
            counter = counter.wrapping_add(1);
        }
        counter
    }
}

/// The ring in use, and the one that the device is moving to or has just moved to.
struct Rings<P: Platform> {
    current: CqRing<P::Dma>,
    next: Option<CqRing<P::Dma>>,
}

/// Completions of a queue pair that is gone.
struct Purge<P: Platform> {
    /// The first entry that is not one of them.
    until: u32,
    /// Where its receive requests are from.
    srq: Option<Arc<SrqTable<P>>>,
}

impl<P: Platform> Clone for Purge<P> {
    fn clone(&self) -> Self {
        Self {
            until: self.until,
            srq: self.srq.clone(),
        }
    }
}

/// What the driver, the queue pairs and the poller share about a completion queue.
pub(crate) struct CqTable<P: Platform> {
    number: u32,
    context: u64,
    /// The consumer waits for an event, as far as the driver knows.
    armed: AtomicBool,
    rings: P::Lock<Rings<P>>,
    /// Entries ever consumed, as the poller last published.
    consumer: AtomicU32,
    notifications: AtomicU32,
    queues: Registry<P, Arc<QpTables<P>>>,
    /// Shared receive queues whose completions all come here: those for XRC.
    srqs: Registry<P, Arc<SrqTable<P>>>,
    /// By number of the queue pair, or of the shared receive queue with [`SRQ_KEY`].
    purges: Registry<P, Purge<P>>,
    /// There may be purges.
    purging: AtomicBool,
}

/// Tells the numbers of shared receive queues from those of queue pairs; both have 24 bits.
const SRQ_KEY: u32 = 1 << 31;

/// Whether entry `counter` is before `until`.
pub(crate) fn is_before(counter: u32, until: u32) -> bool {
    until.wrapping_sub(counter) as i32 > 0
}

impl<P: Platform> CqTable<P> {
    pub(crate) fn new(ring: CqRing<P::Dma>, number: u32, context: u64) -> Self {
        Self {
            number,
            context,
            armed: AtomicBool::new(false),
            rings: P::Lock::new(Rings {
                current: ring,
                next: None,
            }),
            consumer: AtomicU32::new(0),
            notifications: AtomicU32::new(0),
            queues: Registry::new(),
            srqs: Registry::new(),
            purges: Registry::new(),
            purging: AtomicBool::new(false),
        }
    }

    /// Names the ring that the device is about to be told to move to. Sleepable context, like all
    /// that can free a ring.
    pub(crate) fn prepare_move(&self, ring: CqRing<P::Dma>) {
        drop(self.rings.with(|rings| rings.next.replace(ring)));
    }

    /// The device stays in the ring where it is.
    pub(crate) fn abandon_move(&self) {
        drop(self.rings.with(|rings| rings.next.take()));
    }

    /// The device has moved to `ring`.
    pub(crate) fn finish_move(&self, ring: CqRing<P::Dma>) {
        let old = self.rings.with(|rings| {
            let old = core::mem::replace(&mut rings.current, ring);
            (old, rings.next.take())
        });
        drop(old);
    }

    /// Publishes how many entries the poller has consumed.
    #[inline]
    pub(crate) fn consumed(&self, consumer: u32) {
        self.consumer.store(consumer, Ordering::Release);
        if self.purging.load(Ordering::Relaxed) {
            self.end_purges(consumer);
        }
    }

    /// Ends purges that are over. One that stayed would seem to begin again after 2^31 entries, and
    /// swallow completions of a later queue pair of its number.
    #[cold]
    fn end_purges(&self, consumer: u32) {
        // In this order, as `purge` does the reverse.
        self.purging.store(false, Ordering::SeqCst);
        let goes_on = |purge: &Purge<P>| is_before(consumer, purge.until);
        if self.purges.retain(goes_on) {
            self.purging.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The consumer is about to wait for an event.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Release);
    }

    /// Tells the consumer of a request that was posted although the function is lost, if it waits.
    ///
    /// No request is forgotten: the poster notes it and then looks whether the consumer waits, the
    /// consumer says that it waits and then looks for requests, each with a full fence in between.
    #[cold]
    pub(crate) fn wake_lost(&self, platform: &P) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) {
            self.notify();
            platform.completion_event(self.number, self.context);
        }
    }

    /// The first queue pair from number `from` on that completes here.
    pub(crate) fn attached_from(&self, from: u32) -> Option<Arc<QpTables<P>>> {
        self.queues.look_from(from, Arc::clone).map(|found| found.1)
    }

    /// Whether requests of queue pairs are in flight that complete here.
    pub(crate) fn is_outstanding(&self) -> bool {
        let mut from = 0;
        while let Some(tables) = self.attached_from(from) {
            if tables.is_outstanding(self.number) {
                return true;
            }
            from = tables.qpn.wrapping_add(1);
        }
        false
    }

    /// The consumer was told.
    pub(crate) fn notify(&self) {
        self.armed.store(false, Ordering::Relaxed);
        self.notifications.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn notifications(&self) -> u32 {
        self.notifications.load(Ordering::Acquire)
    }

    pub(crate) fn attach(&self, tables: &Arc<QpTables<P>>) {
        self.queues.insert(tables.qpn, Arc::clone(tables));
    }

    /// Forgets a queue pair that the device completes nothing for any more, and the completions
    /// of it that are still in the ring. Sleepable context.
    pub(crate) fn detach(&self, qpn: u32) {
        let tables = self.queues.remove(qpn);
        if let Some(tables) = &tables {
            tables.attached.store(false, Ordering::Release);
        }
        let srq = tables.and_then(|tables| tables.srq.clone());
        self.purge(qpn, srq);
    }

    pub(crate) fn attach_srq(&self, table: &Arc<SrqTable<P>>) {
        self.srqs.insert(table.number(), Arc::clone(table));
    }

    /// The same for a shared receive queue whose completions come here.
    pub(crate) fn detach_srq(&self, srqn: u32) {
        if let Some(table) = self.srqs.remove(srqn) {
            table.detach();
        }
        self.purge(srqn | SRQ_KEY, None);
    }

    fn purge(&self, key: u32, srq: Option<Arc<SrqTable<P>>>) {
        let until = self.producer();
        // Both queues of a queue pair can complete here, so this may be the second time.
        let before = || self.purges.get(key).and_then(|purge| purge.srq);
        let srq = srq.or_else(before);
        self.purges.insert(key, Purge { until, srq });
        self.purging.store(true, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn is_purging(&self) -> bool {
        self.purging.load(Ordering::Relaxed)
    }

    /// Counter of the first entry that the device has not written yet.
    ///
    /// While the queue moves, entries that are written meanwhile may be missed, but none of
    /// before: the device goes on in the new ring only where it has left the old one.
    fn producer(&self) -> u32 {
        let consumer = self.consumer.load(Ordering::Acquire);
        let (current, next) = self
            .rings
            .with(|rings| (rings.current.clone(), rings.next.clone()));
        let start = if is_before(consumer, current.base) {
            current.base
        } else {
            consumer
        };
        let end = current.scan(start);
        match next {
            Some(next) => CqRing { base: end, ..next }.scan(end),
            None => end,
        }
    }

    /// Whether completion `counter` is left from a queue that had the number of `key`.
    fn is_purged(&self, key: u32, counter: u32) -> bool {
        let until = self.purges.look(key, |purge| purge.until);
        match until {
            Some(until) if is_before(counter, until) => true,
            Some(_) => {
                self.purges.remove(key);
                false
            }
            None => false,
        }
    }

    /// The queue pair that completion `counter` with number `qpn` belongs to.
    pub(crate) fn find(&self, qpn: u32, counter: u32) -> Option<Arc<QpTables<P>>> {
        if self.is_purged(qpn, counter) {
            return None;
        }
        self.queues.get(qpn)
    }

    /// The shared receive queue for XRC that completion `counter` with number `srqn` belongs to.
    pub(crate) fn find_srq(&self, srqn: u32, counter: u32) -> Option<Arc<SrqTable<P>>> {
        if self.is_purged(srqn | SRQ_KEY, counter) {
            return None;
        }
        self.srqs.get(srqn)
    }

    /// Retires the request of a shared receive queue that a dropped completion `counter` was for.
    pub(crate) fn retire(&self, qpn: u32, index: u32, counter: u32) {
        let purge = self.purges.get(qpn);
        let purge = purge.filter(|purge| is_before(counter, purge.until));
        if let Some(srq) = purge.and_then(|purge| purge.srq) {
            srq.complete(index);
        }
    }
}
