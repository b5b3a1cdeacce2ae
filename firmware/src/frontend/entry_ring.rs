//! Rings that the device writes and the driver consumes: completion queues and event queues.
//!
//! An [`EntryRing`] knows where the next entry goes and whether there is room. It trusts no consumer
//! index that goes back or overtakes the producer. Arming, and what follows when an entry cannot be
//! written, is for the queue that owns it.

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
}

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
        }
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

    /// Whether there is no room for another entry.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.outstanding() >= 1u32 << self.log_entries
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
            self.consumer = index;
        }
        valid
    }

    /// The owner bit of the next entry.
    #[must_use]
    pub const fn owner(&self) -> u8 {
        (self.producer >> self.log_entries & 1 == 0) as u8
    }

    /// Writes the next entry, its owner bit set.
    ///
    /// # Errors
    /// The address that could not be written, 0 if there is none.
    pub fn write<H: Host, T: Pod>(&mut self, host: &H, entry: &T) -> Result<(), u64> {
        let index = self.producer & ((1u32 << self.log_entries) - 1);
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
