//! Work requests in flight of a queue pair.
//!
//! Written by whoever posts and read by whoever polls, without locks. The poster writes a slot
//! before it rings the doorbell, the poller reads it after it has seen the completion, and the tail
//! that the poller stores gives the slot back to the poster.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use vrnic_abi::cqe::{CompletionOpcode, CompletionStatus};
use vrnic_abi::wqe::WqeOpcode;

use crate::doorbell::Doorbell;
use crate::platform::Platform;
use crate::ring::RingSize;
use crate::tables::SrqTable;
use crate::work::{Completion, Work};

/// Where the receive requests of a queue pair come from.
pub(crate) enum ReceiveSource<P: Platform> {
    /// Its own receive queue, with that many entries and that slot.
    Own(RingSize, Doorbell),
    /// A shared receive queue.
    Shared(Arc<SrqTable<P>>),
    /// It has none.
    None,
}

/// Work requests in flight of one queue pair.
pub(crate) struct QpTables<P: Platform> {
    pub(crate) qpn: u32,
    /// What the owner of the queue pair wants to find in completions.
    pub(crate) context: u64,
    /// Numbers of the completion queues of the send queue and the receive queue.
    cqs: (u32, Option<u32>),
    /// Cleared when the completion queues forget the queue pair.
    pub(crate) attached: AtomicBool,
    /// The queue pair is, or may be, in the error state.
    failed: AtomicBool,
    receive_doorbell: Option<Doorbell>,
    pub(crate) send: SendTable,
    pub(crate) receive: ReceiveTable,
    pub(crate) srq: Option<Arc<SrqTable<P>>>,
}

impl<P: Platform> QpTables<P> {
    pub(crate) fn new(
        qpn: u32,
        context: u64,
        cqs: (u32, Option<u32>),
        send: RingSize,
        source: ReceiveSource<P>,
    ) -> Self {
        let (receive, receive_doorbell, srq) = match source {
            ReceiveSource::Own(size, doorbell) => (size, Some(doorbell), None),
            ReceiveSource::Shared(srq) => (RingSize::from_log(0), None, Some(srq)),
            ReceiveSource::None => (RingSize::from_log(0), None, None),
        };
        Self {
            qpn,
            context,
            cqs,
            attached: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            receive_doorbell,
            send: SendTable::new(send),
            receive: ReceiveTable::new(receive),
            srq,
        }
    }

    /// The same queue pair without requests.
    pub(crate) fn renewed(&self) -> Self {
        let source = match (&self.srq, self.receive_doorbell) {
            (Some(srq), _) => ReceiveSource::Shared(Arc::clone(srq)),
            (None, Some(doorbell)) => ReceiveSource::Own(self.receive.size, doorbell),
            (None, None) => ReceiveSource::None,
        };
        Self::new(self.qpn, self.context, self.cqs, self.send.size, source)
    }

    /// Notes that the queue pair may be in the error state. The device looks at the receive queue
    /// of such a queue pair only when told to, so from now on it must be told of every request;
    /// one that was posted just before is announced here. Atomic context.
    pub(crate) fn set_failed(&self, platform: &P) {
        let Some(doorbell) = self.receive_doorbell else {
            return;
        };
        if !self.failed.swap(true, Ordering::AcqRel) {
            doorbell.nudge(platform);
        }
    }

    /// Notes that the queue pair works again, after its send queue had failed.
    pub(crate) fn clear_failed(&self) {
        self.failed.store(false, Ordering::Release);
    }

    /// Tells the device of a receive request whose slot was stored, if it would not look.
    #[inline]
    pub(crate) fn announce_receive(&self, platform: &P) {
        // Either this load sees the flag, or the nudge of whoever sets it comes after the store.
        fence(Ordering::SeqCst);
        if self.failed.load(Ordering::Relaxed) {
            if let Some(doorbell) = self.receive_doorbell {
                doorbell.nudge(platform);
            }
        }
    }
}

/// A lost function: requests are completed as flushed by the pollers of the two queues.
impl<P: Platform> QpTables<P> {
    /// Whether a request is in flight that completes on queue `cq`. Any context.
    pub(crate) fn is_outstanding(&self, cq: u32) -> bool {
        let (send, receive) = self.cqs;
        send == cq && self.send.counters.used() > 0
            || receive == Some(cq) && self.receive.counters.used() > 0
    }

    /// Completes requests that are in flight and complete on queue `cq`, the oldest of each queue
    /// first, as far as there is room; returns how many. For the poller of the queue.
    pub(crate) fn flush(&self, cq: u32, room: &mut [Completion]) -> usize {
        let mut count = 0;
        for place in room {
            let Some((wr_id, work)) = self.flush_one(cq) else {
                break;
            };
            *place = Completion {
                wr_id,
                qpn: self.qpn,
                context: self.context,
                work,
                status: CompletionStatus::Flushed,
                ..Completion::default()
            };
            count += 1;
        }
        count
    }

    fn flush_one(&self, cq: u32) -> Option<(u64, Work)> {
        let (send, receive) = self.cqs;
        if send == cq {
            if let Some(noted) = self.send.complete_oldest() {
                return Some((noted.wr_id, Work::Request(noted.opcode)));
            }
        }
        if receive != Some(cq) {
            return None;
        }
        let wr_id = self.receive.complete_oldest()?;
        Some((wr_id, Work::Receive(CompletionOpcode::Receive)))
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

    /// The oldest entry in flight, as the poller sees it.
    fn oldest(&self) -> Option<u32> {
        let tail = self.tail.load(Ordering::Relaxed);
        (tail != self.head.load(Ordering::Acquire)).then_some(tail)
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
    /// The local key that the request changes.
    key: AtomicU32,
}

/// A send work request as the poster noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Returned in the completion.
    pub wr_id: u64,
    /// What it does.
    pub opcode: WqeOpcode,
    /// The local key that the request registers, binds or invalidates, or 0.
    pub key: u32,
}

/// Send work requests in flight, by basic block. One context at a time pushes and one completes.
pub struct SendTable {
    size: RingSize,
    slots: Box<[SendSlot]>,
    counters: Counters,
}

impl SendTable {
    /// A table for a ring of `size` basic blocks, without requests.
    #[must_use]
    pub fn new(size: RingSize) -> Self {
        Self {
            size,
            slots: filled(size),
            counters: Counters::default(),
        }
    }

    /// Basic blocks that are free.
    #[inline]
    #[must_use]
    pub fn free(&self) -> u32 {
        self.size.entries() - self.counters.used().min(self.size.entries())
    }

    /// Size of the ring.
    #[inline]
    #[must_use]
    pub fn size(&self) -> RingSize {
        self.size
    }

    /// Notes a request at block `head` that takes `blocks` blocks.
    #[inline]
    pub fn push(&self, head: u32, blocks: u32, request: Noted) {
        if let Some(slot) = self.slots.get(self.size.position(head)) {
            let shape = u32::from(request.opcode.raw()) << 8 | blocks;
            slot.wr_id.store(request.wr_id, Ordering::Relaxed);
            slot.shape.store(shape, Ordering::Relaxed);
            slot.key.store(request.key, Ordering::Relaxed);
        }
        let next = head.wrapping_add(blocks);
        self.counters.head.store(next, Ordering::Release);
    }

    /// Takes back the requests from block `head` on, which the device was not told of.
    pub fn retract(&self, head: u32) {
        self.counters.head.store(head, Ordering::Release);
    }

    /// Completes the request at block `index` and, silently, all before it; `None` if it is not in
    /// flight.
    #[inline]
    pub fn complete(&self, index: u32) -> Option<Noted> {
        if !self.counters.holds(index) {
            return None;
        }
        let slot = self.slots.get(self.size.position(index))?;
        let shape = slot.shape.load(Ordering::Relaxed);
        let request = Noted {
            wr_id: slot.wr_id.load(Ordering::Relaxed),
            opcode: WqeOpcode::from_raw((shape >> 8) as u8)?,
            key: slot.key.load(Ordering::Relaxed),
        };
        let next = index.wrapping_add(shape & 0xff);
        self.counters.tail.store(next, Ordering::Release);
        Some(request)
    }

    fn complete_oldest(&self) -> Option<Noted> {
        self.complete(self.counters.oldest()?)
    }

    /// Whether the request at block `index` has not completed.
    pub(crate) fn holds(&self, index: u32) -> bool {
        // Asked by others than the poller, who may be storing the tail.
        let tail = self.counters.tail.load(Ordering::Acquire);
        let head = self.counters.head.load(Ordering::Acquire);
        index.wrapping_sub(tail) < head.wrapping_sub(tail)
    }
}

/// Receive work requests in flight. One context at a time pushes and one completes.
pub struct ReceiveTable {
    size: RingSize,
    slots: Box<[AtomicU64]>,
    counters: Counters,
}

impl ReceiveTable {
    /// A table for a ring of `size` entries, without requests.
    #[must_use]
    pub fn new(size: RingSize) -> Self {
        Self {
            size,
            slots: filled(size),
            counters: Counters::default(),
        }
    }

    /// Whether all entries are in flight.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.counters.used() >= self.size.entries()
    }

    /// Size of the ring.
    #[inline]
    #[must_use]
    pub fn size(&self) -> RingSize {
        self.size
    }

    fn complete_oldest(&self) -> Option<u64> {
        self.complete(self.counters.oldest()?)
    }

    /// Notes the request at `head`.
    #[inline]
    pub fn push(&self, head: u32, wr_id: u64) {
        if let Some(slot) = self.slots.get(self.size.position(head)) {
            slot.store(wr_id, Ordering::Relaxed);
        }
        let next = head.wrapping_add(1);
        self.counters.head.store(next, Ordering::Release);
    }

    /// Completes the request at `index`; `None` if it is not in flight.
    #[inline]
    pub fn complete(&self, index: u32) -> Option<u64> {
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
    use super::*;

    #[test]
    fn receive_queue_counts_across_the_wrap() {
        let start = u32::MAX;
        let size = RingSize::from_log(1);
        let counters = Counters {
            head: AtomicU32::new(start),
            tail: AtomicU32::new(start),
        };
        let receive = ReceiveTable {
            size,
            slots: filled(size),
            counters,
        };
        receive.push(start, 5);
        receive.push(start.wrapping_add(1), 6);
        assert!(receive.is_full());
        assert_eq!(receive.complete(start), Some(5));
        assert_eq!(receive.complete(0), Some(6));
        assert!(!receive.is_full());
    }
}
