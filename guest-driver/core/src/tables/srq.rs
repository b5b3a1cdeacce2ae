//! SrqRequests in flight of a shared receive queue.
//!
//! Entries are taken in order, by any of the queue pairs, and complete in any order. The place of
//! an entry in the ring is free when a completion of it *or of a later one* was consumed, so an
//! entry whose message takes long can outlive its place by many rounds. The wr_ids therefore
//! have a table of their own, by index: chains in as many buckets as the ring has entries, from
//! a pool of as many nodes. A queue never has more requests in flight than entries.
//!
//! Completions arrive on any of several completion queues, hence the lock. It is held for a few
//! loads and stores; a chain is short unless the device completes nearly nothing.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::platform::{Lock, Platform};
use crate::ring::RingSize;

/// No node.
const END: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    wr_id: u64,
    index: u32,
    /// The next node of the bucket, or of the free ones.
    next: u32,
}

/// Requests in flight of a shared receive queue, used by one context at a time.
pub struct SrqRequests {
    size: RingSize,
    /// Entries ever posted.
    head: u32,
    /// Up to which entry places of the ring are free.
    tail: u32,
    /// SrqRequests that have not completed.
    outstanding: u32,
    buckets: Box<[u32]>,
    nodes: Box<[Node]>,
    unused: u32,
}

impl SrqRequests {
    /// A table for a ring of `size` entries, without requests.
    #[must_use]
    pub fn new(size: RingSize) -> Self {
        let node = |number: u32| Node {
            wr_id: 0,
            index: 0,
            next: if number + 1 < size.entries() {
                number + 1
            } else {
                END
            },
        };
        Self {
            size,
            head: 0,
            tail: 0,
            outstanding: 0,
            buckets: (0..size.entries()).map(|_| END).collect(),
            nodes: (0..size.entries()).map(node).collect(),
            unused: 0,
        }
    }

    /// The bucket of `index`. Multiplying spreads what differs by multiples of the ring's size:
    /// entries that stay while others come and go can stand at the same place.
    fn bucket(&self, index: u32) -> usize {
        let mixed = u64::from(index.wrapping_mul(0x9e37_79b1));
        (mixed << self.size.log() >> 32) as usize
    }

    fn node(&mut self, number: u32) -> Option<&mut Node> {
        self.nodes.get_mut(number as usize)
    }

    /// The node of `index` and the one before it.
    fn find(&mut self, index: u32) -> Option<(u32, Option<u32>)> {
        let (mut number, mut before) = (*self.buckets.get(self.bucket(index))?, None);
        loop {
            let node = self.node(number)?;
            if node.index == index {
                return Some((number, before));
            }
            (before, number) = (Some(number), node.next);
        }
    }

    /// Notes a request and returns its index; `None` if the queue is full.
    pub fn push(&mut self, wr_id: u64) -> Option<u32> {
        let index = self.head;
        let places = index.wrapping_sub(self.tail);
        // A request that is still in flight after 2^32 others blocks the one of its index.
        if places >= self.size.entries() || self.find(index).is_some() {
            return None;
        }
        let (number, bucket) = (self.unused, self.bucket(index));
        let first = *self.buckets.get(bucket)?;
        let node = self.node(number)?;
        let unused = core::mem::replace(&mut node.next, first);
        (node.wr_id, node.index) = (wr_id, index);
        self.unused = unused;
        *self.buckets.get_mut(bucket)? = number;
        self.outstanding += 1;
        self.head = index.wrapping_add(1);
        Some(index)
    }

    /// Completes the request at `index`; `None` if it is not in flight.
    pub fn complete(&mut self, index: u32) -> Option<u64> {
        let (number, before) = self.find(index)?;
        let unused = self.unused;
        let node = self.node(number)?;
        let (wr_id, next) = (node.wr_id, core::mem::replace(&mut node.next, unused));
        self.unused = number;
        match before {
            Some(before) => self.node(before)?.next = next,
            None => *self.buckets.get_mut(self.bucket(index))? = next,
        }
        self.outstanding -= 1;
        let after = index.wrapping_add(1);
        if self.head.wrapping_sub(after) < self.head.wrapping_sub(self.tail) {
            self.tail = after;
        }
        Some(wr_id)
    }
}

/// SrqRequests in flight of a shared receive queue.
pub(crate) struct SrqTable<P: Platform> {
    number: u32,
    /// Cleared when the completion queue of a queue for XRC forgets it.
    attached: AtomicBool,
    requests: P::Lock<SrqRequests>,
}

impl<P: Platform> SrqTable<P> {
    pub(crate) fn new(number: u32, size: RingSize) -> Self {
        Self {
            number,
            attached: AtomicBool::new(true),
            requests: P::Lock::new(SrqRequests::new(size)),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    /// The completion queue has forgotten the queue.
    pub(crate) fn detach(&self) {
        self.attached.store(false, Ordering::Release);
    }

    /// Notes a request and returns its index; `None` if the queue is full.
    #[inline]
    pub(crate) fn push(&self, wr_id: u64) -> Option<u32> {
        self.requests.with(|requests| requests.push(wr_id))
    }

    /// Completes the request at `index`.
    #[inline]
    pub(crate) fn complete(&self, index: u32) -> Option<u64> {
        self.requests.with(|requests| requests.complete(index))
    }

    /// SrqRequests that have not completed.
    pub(crate) fn outstanding(&self) -> u32 {
        self.requests.with(|requests| requests.outstanding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(log: u8) -> SrqRequests {
        SrqRequests::new(RingSize::from_log(log))
    }

    #[test]
    fn a_later_completion_frees_the_places_before_it() {
        let mut requests = requests(2);
        for wr_id in 0..4 {
            assert_eq!(requests.push(wr_id), Some(wr_id as u32));
        }
        assert_eq!(requests.push(9), None);
        assert_eq!(requests.complete(2), Some(2));
        // Three places, but only one node.
        assert_eq!(requests.push(4), Some(4));
        assert_eq!(requests.push(9), None);
        assert_eq!(requests.complete(0), Some(0));
        assert_eq!(requests.complete(1), Some(1));
        assert_eq!(requests.complete(1), None);
        assert_eq!((requests.push(5), requests.push(6)), (Some(5), Some(6)));
        assert_eq!(requests.push(9), None);
        assert_eq!(requests.outstanding, 4);
    }

    #[test]
    fn slow_requests_outlive_their_places_across_the_wrap() {
        let mut requests = requests(3);
        let start = u32::MAX - 100;
        (requests.head, requests.tail) = (start, start);
        // Three stay, among them two that a ring's size is between.
        let stays = |number: u32| [0, 8, 15].contains(&number);
        for number in 0..10_000u32 {
            let index = requests.push(number.into()).expect("room");
            assert_eq!(index, start.wrapping_add(number));
            if !stays(number) {
                assert_eq!(requests.complete(index), Some(number.into()));
            }
        }
        assert_eq!(requests.outstanding, 3);
        for number in [8, 0, 15] {
            let index = start.wrapping_add(number);
            assert_eq!(requests.complete(index), Some(number.into()));
        }
        assert_eq!(requests.outstanding, 0);
        for wr_id in 0..8 {
            assert!(requests.push(wr_id).is_some());
        }
        assert_eq!(requests.push(8), None);
    }

    #[test]
    fn a_queue_of_one_entry_works() {
        let mut requests = requests(0);
        for wr_id in 0..5 {
            let index = requests.push(wr_id).expect("room");
            assert_eq!(requests.push(9), None);
            assert_eq!(requests.complete(index.wrapping_add(1)), None);
            assert_eq!(requests.complete(index), Some(wr_id));
        }
    }
}
