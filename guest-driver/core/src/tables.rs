//! What the parts of the driver share about queues: registries by number, and for each queue pair
//! the work requests in flight.
//!
//! [`QpTables`] is written by whoever posts and read by whoever polls, without locks. The poster
//! writes a slot before it rings the doorbell, the poller reads it after it has seen the
//! completion, and the tail that the poller stores gives the slot back to the poster.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::wqe::WqeOpcode;

use crate::doorbell::Doorbell;
use crate::platform::{DmaBuffer, Lock, Platform};
use crate::ring::{RingSize, owner_of};

/// A sorted table from numbers to values. Its memory is only allocated and freed without the lock.
pub(crate) struct Registry<P: Platform, T> {
    entries: P::Lock<Vec<(u32, T)>>,
}

impl<P: Platform, T: Clone> Registry<P, T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: P::Lock::new(Vec::new()),
        }
    }

    /// Adds or replaces an entry. Sleepable context.
    pub(crate) fn insert(&self, key: u32, value: T) {
        let mut value = Some(value);
        let mut spare: Vec<(u32, T)> = Vec::new();
        loop {
            let (old, wanted) = self.entries.with(|entries| {
                if entries.len() == entries.capacity() && spare.capacity() > entries.capacity() {
                    spare.append(entries);
                    core::mem::swap(entries, &mut spare);
                }
                put(entries, key, &mut value)
            });
            drop(old);
            match wanted {
                None => return,
                Some(capacity) => spare = Vec::with_capacity(capacity),
            }
        }
    }

    pub(crate) fn get(&self, key: u32) -> Option<T> {
        self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            entries.get(index).map(|entry| entry.1.clone())
        })
    }

    /// What `look` makes of the value, under the lock. For interrupt handlers, which must not get
    /// hold of the last reference to a value whose memory only sleepable context may free.
    pub(crate) fn look<R>(&self, key: u32, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            entries.get(index).map(|entry| look(&entry.1))
        })
    }

    pub(crate) fn remove(&self, key: u32) -> Option<T> {
        self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            Some(entries.remove(index).1)
        })
    }

    /// Removes all entries. Sleepable context.
    pub(crate) fn clear(&self) {
        drop(self.entries.with(core::mem::take));
    }

    /// Keeps the entries whose value `keep` accepts; returns whether there are any. Atomic context,
    /// so it is for values that own nothing.
    fn retain(&self, keep: impl Fn(T) -> bool) -> bool
    where
        T: Copy,
    {
        self.entries.with(|entries| {
            entries.retain(|entry| keep(entry.1));
            !entries.is_empty()
        })
    }

    /// Removes all entries without dropping them.
    pub(crate) fn leak(&self) {
        core::mem::forget(self.entries.with(core::mem::take));
    }
}

fn find<T>(entries: &[(u32, T)], key: u32) -> Result<usize, usize> {
    entries.binary_search_by_key(&key, |entry| entry.0)
}

/// Puts `value` in place if there is room. Returns what it replaced, or the capacity it wants.
fn put<T>(
    entries: &mut Vec<(u32, T)>,
    key: u32,
    value: &mut Option<T>,
) -> (Option<T>, Option<usize>) {
    match find(entries, key) {
        Ok(index) => {
            let place = entries.get_mut(index).map(|entry| &mut entry.1);
            let old = match (place, value.take()) {
                (Some(place), Some(value)) => Some(core::mem::replace(place, value)),
                _ => None,
            };
            (old, None)
        }
        Err(_) if entries.len() == entries.capacity() => (None, Some(entries.len() * 2 + 8)),
        Err(index) => {
            if let Some(value) = value.take() {
                entries.insert(index, (key, value));
            }
            (None, None)
        }
    }
}

/// The side of a completion queue that the driver and its queue pairs know.
pub(crate) struct CqTable<P: Platform> {
    pub(crate) buffer: Arc<P::Dma>,
    pub(crate) size: RingSize,
    /// Entries ever consumed, as the poller last published.
    consumer: AtomicU32,
    context: u64,
    notifications: AtomicU32,
    queues: Registry<P, Arc<QpTables>>,
    /// Up to which entry completions of a number belong to a queue pair that is gone.
    purges: Registry<P, u32>,
    /// There may be purges.
    purging: AtomicBool,
}

/// Whether entry `counter` is before `until`.
fn is_before(counter: u32, until: u32) -> bool {
    until.wrapping_sub(counter) as i32 > 0
}

impl<P: Platform> CqTable<P> {
    pub(crate) fn new(buffer: Arc<P::Dma>, size: RingSize, context: u64) -> Self {
        Self {
            buffer,
            size,
            consumer: AtomicU32::new(0),
            context,
            notifications: AtomicU32::new(0),
            queues: Registry::new(),
            purges: Registry::new(),
            purging: AtomicBool::new(false),
        }
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
        // In this order, as `detach` does the reverse.
        self.purging.store(false, Ordering::SeqCst);
        if self.purges.retain(|until| is_before(consumer, until)) {
            self.purging.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn context(&self) -> u64 {
        self.context
    }

    pub(crate) fn notify(&self) {
        self.notifications.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn notifications(&self) -> u32 {
        self.notifications.load(Ordering::Acquire)
    }

    pub(crate) fn attach(&self, tables: &Arc<QpTables>) {
        self.queues.insert(tables.qpn, Arc::clone(tables));
    }

    /// Forgets a queue pair that the device completes nothing for any more, and the completions
    /// of it that are still in the ring.
    pub(crate) fn detach(&self, qpn: u32) {
        if let Some(tables) = self.queues.remove(qpn) {
            tables.attached.store(false, Ordering::Release);
        }
        self.purges.insert(qpn, self.producer());
        self.purging.store(true, Ordering::SeqCst);
    }

    /// Counter of the first entry that the device has not written yet.
    fn producer(&self) -> u32 {
        let start = self.consumer.load(Ordering::Acquire);
        let mut counter = start;
        while counter.wrapping_sub(start) < self.size.entries() && self.is_valid(counter) {
            counter = counter.wrapping_add(1);
        }
        counter
    }

    /// Whether the device has written entry `counter`.
    pub(crate) fn is_valid(&self, counter: u32) -> bool {
        let offset = self.size.position(counter) * CompletionEntry::SIZE + 56;
        self.size
            .is_valid(counter, owner_of(self.buffer.load(offset)))
    }

    /// The queue pair that completion `counter` with number `qpn` belongs to.
    pub(crate) fn find(&self, qpn: u32, counter: u32) -> Option<Arc<QpTables>> {
        if let Some(until) = self.purges.get(qpn) {
            if is_before(counter, until) {
                return None;
            }
            self.purges.remove(qpn);
        }
        self.queues.get(qpn)
    }
}

/// Work requests in flight of one queue pair.
pub(crate) struct QpTables {
    pub(crate) qpn: u32,
    /// Cleared when the completion queues forget the queue pair.
    pub(crate) attached: AtomicBool,
    /// The queue pair is, or may be, in the error state.
    failed: AtomicBool,
    receive_doorbell: Doorbell,
    pub(crate) send: SendTable,
    pub(crate) receive: ReceiveTable,
}

impl QpTables {
    pub(crate) fn new(qpn: u32, sizes: (RingSize, RingSize), receive_doorbell: Doorbell) -> Self {
        let (send, receive) = sizes;
        Self {
            qpn,
            attached: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            receive_doorbell,
            send: SendTable {
                size: send,
                slots: filled(send),
                counters: Counters::default(),
            },
            receive: ReceiveTable {
                size: receive,
                slots: filled(receive),
                counters: Counters::default(),
            },
        }
    }
}

impl QpTables {
    /// Notes that the queue pair may be in the error state. The device looks at the receive queue
    /// of such a queue pair only when told to, so from now on it must be told of every request;
    /// one that was posted just before is announced here. Atomic context.
    pub(crate) fn set_failed<P: Platform>(&self, platform: &P) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.receive_doorbell.nudge(platform);
        }
    }

    /// Tells the device of a receive request whose slot was stored, if it would not look.
    #[inline]
    pub(crate) fn announce_receive<P: Platform>(&self, platform: &P) {
        // Either this load sees the flag, or the nudge of whoever sets it comes after the store.
        fence(Ordering::SeqCst);
        if self.failed.load(Ordering::Relaxed) {
            self.receive_doorbell.nudge(platform);
        }
    }
}

fn filled<T: Default>(size: RingSize) -> Box<[T]> {
    (0..size.entries()).map(|_| T::default()).collect()
}

/// Head, written by the poster, and tail, written by the poller.
#[derive(Default)]
struct Counters {
    head: AtomicU32,
    tail: AtomicU32,
}

impl Counters {
    fn used(&self) -> u32 {
        let head = self.head.load(Ordering::Relaxed);
        head.wrapping_sub(self.tail.load(Ordering::Acquire))
    }

    /// Whether entry `index` is in flight.
    fn holds(&self, index: u32) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        let head = self.head.load(Ordering::Acquire);
        index.wrapping_sub(tail) < head.wrapping_sub(tail)
    }
}

#[derive(Default)]
struct SendSlot {
    wr_id: AtomicU64,
    /// Opcode in bits 15:8, number of basic blocks in bits 7:0.
    shape: AtomicU32,
}

/// Send work requests in flight, by basic block.
pub(crate) struct SendTable {
    size: RingSize,
    slots: Box<[SendSlot]>,
    counters: Counters,
}

impl SendTable {
    /// Basic blocks that are free.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.size.entries() - self.counters.used().min(self.size.entries())
    }

    #[inline]
    pub(crate) fn size(&self) -> RingSize {
        self.size
    }

    /// Notes a request at block `head` that takes `blocks` blocks.
    #[inline]
    pub(crate) fn push(&self, head: u32, blocks: u32, opcode: WqeOpcode, wr_id: u64) {
        if let Some(slot) = self.slots.get(self.size.position(head)) {
            let shape = u32::from(opcode.raw()) << 8 | blocks;
            slot.wr_id.store(wr_id, Ordering::Relaxed);
            slot.shape.store(shape, Ordering::Relaxed);
        }
        let next = head.wrapping_add(blocks);
        self.counters.head.store(next, Ordering::Release);
    }

    /// Completes the request at block `index` and, silently, all before it.
    #[inline]
    pub(crate) fn complete(&self, index: u32) -> Option<(u64, WqeOpcode)> {
        if !self.counters.holds(index) {
            return None;
        }
        let slot = self.slots.get(self.size.position(index))?;
        let shape = slot.shape.load(Ordering::Relaxed);
        let opcode = WqeOpcode::from_raw((shape >> 8) as u8)?;
        let wr_id = slot.wr_id.load(Ordering::Relaxed);
        let next = index.wrapping_add(shape & 0xff);
        self.counters.tail.store(next, Ordering::Release);
        Some((wr_id, opcode))
    }
}

/// Receive work requests in flight.
pub(crate) struct ReceiveTable {
    size: RingSize,
    slots: Box<[AtomicU64]>,
    counters: Counters,
}

impl ReceiveTable {
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.counters.used() >= self.size.entries()
    }

    #[inline]
    pub(crate) fn size(&self) -> RingSize {
        self.size
    }

    /// Notes the request at `head`.
    #[inline]
    pub(crate) fn push(&self, head: u32, wr_id: u64) {
        if let Some(slot) = self.slots.get(self.size.position(head)) {
            slot.store(wr_id, Ordering::Relaxed);
        }
        let next = head.wrapping_add(1);
        self.counters.head.store(next, Ordering::Release);
    }

    /// Completes the request at `index`.
    #[inline]
    pub(crate) fn complete(&self, index: u32) -> Option<u64> {
        if !self.counters.holds(index) {
            return None;
        }
        let slot = self.slots.get(self.size.position(index))?;
        let wr_id = slot.load(Ordering::Relaxed);
        let next = index.wrapping_add(1);
        self.counters.tail.store(next, Ordering::Release);
        Some(wr_id)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::platform::{OutOfMemory, PinnedMemory, Segment};

    /// A platform that is nothing but memory.
    struct Memory;

    struct Cells(Vec<AtomicU64>);

    impl DmaBuffer for Cells {
        fn device_address(&self) -> u64 {
            0
        }
        fn len(&self) -> usize {
            self.0.len() * 8
        }
        fn load(&self, offset: usize) -> u64 {
            self.0[offset / 8].load(Ordering::Acquire)
        }
        fn store(&self, offset: usize, value: u64) {
            self.0[offset / 8].store(value, Ordering::Release);
        }
        fn read(&self, _offset: usize, _to: &mut [u8]) {}
        fn write(&self, _offset: usize, _from: &[u8]) {}
    }

    impl PinnedMemory for Cells {
        fn segments(&self) -> usize {
            0
        }
        fn segment(&self, _index: usize) -> Option<Segment> {
            None
        }
    }

    struct Exclusive<T>(RefCell<T>);

    impl<T> Lock<T> for Exclusive<T> {
        fn new(value: T) -> Self {
            Self(RefCell::new(value))
        }
        fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            f(&mut self.0.borrow_mut())
        }
    }

    impl Platform for Memory {
        type Dma = Cells;
        type Pinned = Cells;
        type Lock<T> = Exclusive<T>;

        fn read_register(&self, _offset: u32) -> u32 {
            u32::MAX
        }
        fn write_register(&self, _offset: u32, _value: u32) {}
        fn store_slot(&self, _page: u32, _slot: u32, _value: u64) {}
        fn store_mark(&self, _page: u32, _group: u32) {}
        fn load_engine_state(&self, _page: u32) -> u8 {
            0
        }
        fn kick(&self, _page: u32) {}
        fn allocate_dma(&self, _length: usize) -> Result<Cells, OutOfMemory> {
            Err(OutOfMemory)
        }
        fn vectors(&self) -> u16 {
            1
        }
        fn now(&self) -> u64 {
            0
        }
        fn relax(&self, _vector: Option<u16>, _deadline: u64) {}
    }

    /// A completion queue of 4 entries, of which the device has written `written`.
    fn completions(written: usize) -> CqTable<Memory> {
        let size = RingSize::from_log(2);
        let cells = Cells((0..4 * 8).map(|_| AtomicU64::new(0)).collect());
        (0..written).for_each(|entry| cells.store(entry * 64 + 56, 1 << 56));
        CqTable::new(Arc::new(cells), size, 0)
    }

    #[test]
    fn completions_of_a_queue_pair_that_is_gone_are_dropped() {
        let table = completions(2);
        table.attach(&Arc::new(tables(0, 0)));
        table.detach(7);
        table.attach(&Arc::new(tables(0, 0)));
        assert!(table.find(7, 0).is_none());
        table.consumed(1);
        assert!(table.find(7, 1).is_none());
        assert!(table.find(7, 2).is_some());
    }

    #[test]
    fn a_number_is_good_again_however_late_it_is_used() {
        for written in 0..=4 {
            let table = completions(written);
            table.attach(&Arc::new(tables(0, 0)));
            table.detach(7);
            // Other queue pairs complete.
            let mut counter = 0u32;
            for _ in 0..3 {
                counter = counter.wrapping_add(4);
                table.consumed(counter);
                table.attach(&Arc::new(tables(0, 0)));
                assert!(table.find(9, counter).is_none());
            }
            counter = counter.wrapping_add(1 << 31);
            table.consumed(counter);
            assert!(table.find(7, counter).is_some(), "{written} written");
            assert!(!table.purging.load(Ordering::Relaxed));
        }
    }

    fn tables(send: u8, receive: u8) -> QpTables {
        let sizes = (RingSize::from_log(send), RingSize::from_log(receive));
        QpTables::new(7, sizes, Doorbell::new(0, 9).expect("a slot"))
    }

    #[test]
    fn unsignaled_requests_are_retired_by_the_next_completion() {
        let tables = tables(3, 0);
        tables.send.push(0, 2, WqeOpcode::Write, 10);
        tables.send.push(2, 1, WqeOpcode::Send, 11);
        tables.send.push(3, 4, WqeOpcode::Read, 12);
        assert_eq!(tables.send.free(), 1);
        assert_eq!(tables.send.complete(2), Some((11, WqeOpcode::Send)));
        assert_eq!(tables.send.free(), 4);
        assert_eq!(tables.send.complete(3), Some((12, WqeOpcode::Read)));
        assert_eq!(tables.send.free(), 8);
    }

    #[test]
    fn completions_of_nothing_in_flight_are_refused() {
        let tables = tables(3, 1);
        assert_eq!(tables.send.complete(0), None);
        tables.send.push(0, 1, WqeOpcode::Send, 1);
        assert_eq!(tables.send.complete(1), None);
        assert_eq!(tables.send.complete(u32::MAX), None);
        assert!(tables.send.complete(0).is_some());
        assert_eq!(tables.send.complete(0), None);
        assert_eq!(tables.receive.complete(0), None);
    }

    #[test]
    fn receive_queue_counts_across_the_wrap() {
        let tables = tables(0, 1);
        let start = u32::MAX;
        tables.receive.counters.head.store(start, Ordering::Relaxed);
        tables.receive.counters.tail.store(start, Ordering::Relaxed);
        tables.receive.push(start, 5);
        tables.receive.push(start.wrapping_add(1), 6);
        assert!(tables.receive.is_full());
        assert_eq!(tables.receive.complete(start), Some(5));
        assert_eq!(tables.receive.complete(0), Some(6));
        assert!(!tables.receive.is_full());
    }
}
