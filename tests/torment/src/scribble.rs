//! Random stores into rings and doorbell pages. Some look like what a driver would store, so that the
//! device goes on to believe the rest.

use std::sync::PoisonError;

use rand::Rng;
use rand::rngs::SmallRng;
use vrnic_abi::doorbell;
use vrnic_abi::wqe::BASIC_BLOCK;

use crate::context::{Context, PAGE, Queue};

/// One thread's way to scribble on a context.
pub(crate) struct Scribbler<'a> {
    pub(crate) context: &'a Context,
    pub(crate) rng: SmallRng,
}

impl Scribbler<'_> {
    /// Scribbles once.
    pub(crate) fn scribble(&mut self) {
        let queue = self.context.queue(self.rng.random_range(0..64));
        match (self.rng.random_range(0..8), queue) {
            (0..3, Some(queue)) => self.post(queue),
            (3, Some(queue)) => {
                let value = self.rng.random();
                self.ring(queue, value);
            }
            (4, _) => self.garbage_doorbell(),
            (5, _) => self.guess(),
            _ => self.garbage(),
        }
    }

    /// Random bytes anywhere in the memory, of which rings are a part.
    fn garbage(&mut self) {
        let offset: usize = self.rng.random_range(0..self.context.memory.length());
        for index in 0..self.rng.random_range(1..64) {
            self.context.memory.store(offset + index, self.rng.random());
        }
    }

    /// Random bytes in a doorbell page or its kick page.
    fn garbage_doorbell(&mut self) {
        let pages = self
            .context
            .pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some((page, kick)) = pages.get(self.rng.random_range(0..pages.len().max(1))) else {
            return;
        };
        for _ in 0..self.rng.random_range(1..32) {
            page.store(self.rng.random_range(0..PAGE), self.rng.random());
        }
        let offset = if self.rng.random() {
            0
        } else {
            self.rng.random_range(0..PAGE)
        };
        kick.store(offset, self.rng.random());
    }

    /// Stores a value into a queue's slot, marks its group and kicks.
    fn ring(&mut self, queue: Queue, value: u64) {
        let pages = self
            .context
            .pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some((page, kick)) = pages.get(queue.page) else {
            return;
        };
        page.store_word(doorbell::slot_offset(queue.slot) as usize, value);
        page.store(doorbell::mark_offset(queue.slot) as usize, doorbell::DIRTY);
        if self.rng.random_ratio(1, 4) {
            kick.store_word(0, 1);
        }
    }

    /// Something like work requests, and a doorbell for them.
    fn post(&mut self, queue: Queue) {
        let count: u32 = self.rng.random_range(1..5);
        let Some(qpn) = queue.qpn else {
            // Entries consumed, and perhaps armed; or requests posted to a receive queue.
            let value = doorbell::consumer(count, self.rng.random(), self.rng.random());
            return self.ring(queue, value);
        };
        let first = self.rng.random_range(0..3);
        for block in first..first + count {
            self.request(queue, block);
        }
        self.ring(queue, doorbell::send_queue(first + count, qpn));
    }

    /// A control segment that may be good, and segments with a key of ours.
    fn request(&mut self, queue: Queue, block: u32) {
        let at = queue.ring + block as usize * BASIC_BLOCK;
        let memory = &self.context.memory;
        let (opcode, flags): (u8, u8) = (self.rng.random_range(0..20), self.rng.random());
        let segments: u8 = self.rng.random_range(0..6);
        let head = u64::from(opcode) | u64::from(flags) << 8 | u64::from(segments) << 16 | 1 << 24;
        memory.store_word(at, head | u64::from(self.rng.random::<u32>()) << 32);
        memory.store_word(at + 8, u64::from(block) << 32);
        let key = self.context.keys.pick(self.rng.random_range(0..64));
        for segment in 1..4 {
            let address = memory.address() + self.rng.random_range(0..memory.length()) as u64;
            memory.store_word(at + segment * 16, address);
            let length: u32 = self.rng.random_range(0..1 << 16);
            // A remote segment has its key first, a data segment its length or key.
            let (low, high) = if segment == 1 {
                (key, 0)
            } else {
                (length, key)
            };
            memory.store_word(
                at + segment * 16 + 8,
                u64::from(low) | u64::from(high) << 32,
            );
        }
    }

    /// Tries to map pages that nobody has offered to this context.
    fn guess(&mut self) {
        let offset = self.rng.random_range(0..80) << 12;
        let pages = self.rng.random_range(1..3);
        self.context
            .map_any(offset, pages * PAGE, self.rng.random());
    }
}
