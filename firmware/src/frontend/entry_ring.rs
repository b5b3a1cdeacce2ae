//! Rings that the device writes and the driver consumes: completion queues and event queues.
//!
//! An [`EntryRing`] knows where the next entry goes and whether there is room. It trusts no consumer
//! index that goes back or overtakes the producer. Arming, and what follows when an entry cannot be
//! written, is for the queue that owns it.
//!
//! A ring can move into another buffer ([`EntryRing::replace`]). Indices go on; an entry's place and
//! its owner bit follow from how far its index is beyond the first one in the buffer, `base`. Entries
//! before that stay behind in buffers that only the driver still knows, and take no room here.

use bytemuck::Pod;
use vrnic_abi::doorbell;

use crate::host::{Host, Memory};
use crate::resource::PageMap;

/// A ring of entries of one size, in guest memory. Both counters run modulo 2^32.
#[derive(Clone, Debug)]
pub struct EntryRing {
    /// Its memory.
    pub pages: PageMap,
    /// Entries as a power of two.
    pub log_entries: u8,
    /// Doorbell page and slot.
    pub doorbell: (u32, u32),
    producer: u32,
    consumer: u32,
    /// Index of the first entry in the present buffer.
    base: u32,
    /// Entries in earlier buffers that are not consumed. Kept as a number, as `base` says nothing
    /// any more once the counters have gone around.
    left_behind: u32,
}

/// Most entries outstanding that a ring may move with: far from where the counters would meet.
const MAX_LEFT_BEHIND: u32 = 1 << 31;

impl EntryRing {
    /// An empty ring.
    #[must_use]
    pub const fn new(pages: PageMap, log_entries: u8, doorbell: (u32, u32)) -> Self {
        Self {
            pages,
            log_entries,
            doorbell,
            producer: 0,
            consumer: 0,
            base: 0,
            left_behind: 0,
        }
    }

    /// An empty ring whose counters stand at `index`.
    #[cfg(test)]
    pub(super) const fn at(
        index: u32,
        pages: PageMap,
        log_entries: u8,
        doorbell: (u32, u32),
    ) -> Self {
        let mut ring = Self::new(pages, log_entries, doorbell);
        (ring.producer, ring.consumer, ring.base) = (index, index, index);
        ring
    }

    /// Index of the first entry in the present buffer.
    #[must_use]
    pub const fn base(&self) -> u32 {
        self.base
    }

    /// Whether [`Self::replace`] may be called.
    #[must_use]
    pub const fn may_move(&self) -> bool {
        self.outstanding() <= MAX_LEFT_BEHIND
    }

    /// Goes on in another buffer, a ring of 2^`log_entries` entries that is filled with zeros.
    /// Returns the one before, which is not written any more.
    pub const fn replace(&mut self, pages: PageMap, log_entries: u8) -> PageMap {
        self.base = self.producer;
        self.left_behind = self.outstanding();
        self.log_entries = log_entries;
        core::mem::replace(&mut self.pages, pages)
    }

    /// Entries ever written.
    #[must_use]
    pub const fn producer(&self) -> u32 {
        self.producer
    }

    /// Entries ever consumed, as last seen.
    #[must_use]
    pub const fn consumer(&self) -> u32 {
        self.consumer
    }

    /// Entries that the driver has not consumed.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.producer.wrapping_sub(self.consumer)
    }

    /// Whether there is no room for another entry in the present buffer.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.outstanding() - self.left_behind >= 1u32 << self.log_entries
    }

    /// The value of the doorbell slot.
    pub fn slot<H: Host>(&self, host: &H) -> u64 {
        host.doorbell(self.doorbell.0, self.doorbell.1)
    }

    /// Takes the consumer index in a value of the slot; `false` if it makes no sense.
    pub const fn take_consumer(&mut self, value: u64) -> bool {
        let index = doorbell::index(value);
        let valid = self.producer.wrapping_sub(index) <= self.outstanding();
        if valid {
            let consumed = index.wrapping_sub(self.consumer);
            self.left_behind = self.left_behind.saturating_sub(consumed);
            self.consumer = index;
        }
        valid
    }

    /// The owner bit of the next entry.
    #[must_use]
    pub const fn owner(&self) -> u8 {
        (self.place() >> self.log_entries & 1 == 0) as u8
    }

    /// How far the next entry is beyond the first one in the buffer. That this wraps around does no
    /// harm: 2^32 is an even number of passes over any ring.
    const fn place(&self) -> u32 {
        self.producer.wrapping_sub(self.base)
    }

    /// Writes the next entry, its owner bit set.
    ///
    /// # Errors
    /// The address that could not be written, 0 if there is none.
    pub fn write<H: Host, T: Pod>(&mut self, host: &H, entry: &T) -> Result<(), u64> {
        let index = self.place() & ((1u32 << self.log_entries) - 1);
        let offset = u64::from(index) * size_of::<T>() as u64;
        let (address, _) = self.pages.run(offset).ok_or(0u64)?;
        let written = host
            .memory()
            .write_publish(address, bytemuck::bytes_of(entry));
        written.map_err(|_| address)?;
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    fn pages(number: u64) -> PageMap {
        PageMap::contiguous(number << 32, 1 << 31).unwrap()
    }

    /// What the driver reads: every buffer that the ring ever had, entry by entry.
    struct Driver {
        /// Address of the buffer, entries as a power of two, index of its first entry.
        buffers: VecDeque<(u64, u8, u32)>,
        /// Index and owner bit that were last written to each place.
        written: Vec<(u64, u32, u8)>,
        consumer: u32,
    }

    impl Driver {
        /// Consumes the next entry by the rule in the datasheet.
        fn consume(&mut self) -> bool {
            while self
                .buffers
                .get(1)
                .is_some_and(|next| next.2 == self.consumer)
            {
                self.buffers.pop_front();
            }
            let (base, log_entries, first) = self.buffers[0];
            let place = self.consumer.wrapping_sub(first);
            let address = base + u64::from(place & ((1 << log_entries) - 1));
            let valid = u8::from(place >> log_entries & 1 == 0);
            let entry = self.written.iter().rev().find(|entry| entry.0 == address);
            match entry {
                Some((_, index, owner)) if *owner == valid => {
                    assert_eq!(*index, self.consumer);
                    self.consumer = self.consumer.wrapping_add(1);
                    true
                }
                _ => false,
            }
        }
    }

    /// Entries are found in order across buffers and around the end of the counters, and each
    /// buffer has room for as many as it holds.
    #[test]
    fn moves_lose_nothing_wherever_the_counters_stand() {
        for start in [0, 1, 5, u32::MAX - 2, u32::MAX - 30, 1 << 31, 0x7fff_fff0] {
            let mut state = u64::from(start) + 1;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) % below
            };
            let mut ring = EntryRing::at(start, pages(1), 2, (0, 8));
            let mut driver = Driver {
                buffers: VecDeque::from([(1 << 32, 2, start)]),
                written: Vec::new(),
                consumer: start,
            };
            let mut count = 0;
            for step in 2..600 {
                match random(8) {
                    0 => {
                        let log_entries = 2 + random(3) as u8;
                        ring.replace(pages(step), log_entries);
                        let first = ring.base();
                        driver.buffers.push_back((step << 32, log_entries, first));
                    }
                    1..4 => {
                        driver.consume();
                        assert!(ring.take_consumer(driver.consumer.into()));
                    }
                    _ if !ring.is_full() => {
                        let (index, owner) = (ring.producer, ring.owner());
                        let place = u64::from(ring.place() & ((1 << ring.log_entries) - 1));
                        let (address, _) = ring.pages.run(place).unwrap();
                        driver.written.push((address, index, owner));
                        ring.producer = ring.producer.wrapping_add(1);
                        count += 1;
                    }
                    _ => {
                        let (_, _, first) = driver.buffers[driver.buffers.len() - 1];
                        let from = driver.consumer.wrapping_sub(start);
                        let from = from.max(first.wrapping_sub(start));
                        let here = ring.producer.wrapping_sub(start) - from;
                        assert_eq!(here, 1 << ring.log_entries, "full too early");
                    }
                }
            }
            while driver.consume() {}
            assert_eq!(driver.consumer.wrapping_sub(start), count, "start {start}");
        }
    }

    #[test]
    fn a_consumer_beyond_what_was_written_is_not_taken() {
        let mut ring = EntryRing::at(u32::MAX, pages(1), 2, (0, 8));
        ring.producer = 1;
        ring.replace(pages(2), 2);
        assert!(!ring.take_consumer(2));
        assert!(!ring.take_consumer(u64::from(u32::MAX - 1)));
        assert_eq!((ring.outstanding(), ring.left_behind), (2, 2));
        assert!(ring.take_consumer(0));
        assert_eq!((ring.outstanding(), ring.left_behind), (1, 1));
        assert!(ring.may_move());
        ring.consumer = ring.producer.wrapping_sub(MAX_LEFT_BEHIND + 1);
        assert!(!ring.may_move());
    }
}
