//! What the parts of the driver share about queues: registries by number, and the work requests in
//! flight of queue pairs and shared receive queues.
//!
//! * [`Registry`]: objects by number;
//! * [`Listeners`]: whom event handlers tell of an object's events;
//! * [`CqTable`]: the rings of a completion queue, and whose completions it holds;
//! * [`QpTables`], [`SrqTable`]: work requests from being posted to being polled.

mod cq;
mod listener;
mod qp;
mod registry;
mod srq;

pub use cq::CqRing;
pub(crate) use cq::CqTable;
pub(crate) use listener::{Listeners, Listening};
pub use qp::{Noted, ReceiveTable, SendTable};
pub(crate) use qp::{QpTables, ReceiveSource};
pub(crate) use registry::Registry;
pub use srq::SrqRequests;
pub(crate) use srq::SrqTable;

#[cfg(test)]
pub(crate) use tests::{Cells, Memory};

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use core::sync::atomic::{AtomicU64, Ordering};

    use std::sync::Mutex;

    use vrnic_abi::wqe::WqeOpcode;

    use super::qp::{Noted, ReceiveSource};
    use super::*;
    use crate::doorbell::Doorbell;
    use crate::platform::{DmaBuffer, Lock, OutOfMemory, PinnedMemory, Platform, Segment};
    use crate::ring::RingSize;

    /// A platform that is nothing but memory.
    pub(crate) struct Memory;

    pub(crate) struct Cells(Vec<AtomicU64>);

    impl Cells {
        pub(crate) fn new(words: impl Iterator<Item = u64>) -> Self {
            Self(words.map(AtomicU64::new).collect())
        }
    }

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
    }

    impl PinnedMemory for Cells {
        fn segments(&self) -> usize {
            0
        }
        fn segment(&self, _index: usize) -> Option<Segment> {
            None
        }
    }

    pub(crate) struct Exclusive<T>(Mutex<T>);

    impl<T> Lock<T> for Exclusive<T> {
        fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }
        fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            f(&mut self.0.try_lock().expect("the lock is free"))
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
        let cells = Cells::new((0..4 * 8).map(|_| 0));
        (0..written).for_each(|entry| cells.store(entry * 64 + 56, 1 << 56));
        let ring = CqRing {
            buffer: Arc::new(cells),
            size,
            base: 0,
        };
        CqTable::new(ring, 1, 0)
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
            assert!(!table.is_purging());
        }
    }

    fn tables(send: u8, receive: u8) -> QpTables<Memory> {
        let doorbell = Doorbell::new(0, 9).expect("a slot");
        let source = ReceiveSource::Own(RingSize::from_log(receive), doorbell);
        QpTables::new(7, 70, (1, Some(2)), RingSize::from_log(send), source)
    }

    fn noted(opcode: WqeOpcode, wr_id: u64) -> Noted {
        let key = 0;
        Noted { wr_id, opcode, key }
    }

    #[test]
    fn unsignaled_requests_are_retired_by_the_next_completion() {
        let tables = tables(3, 0);
        tables.send.push(0, 2, noted(WqeOpcode::Write, 10));
        tables.send.push(2, 1, noted(WqeOpcode::Send, 11));
        tables.send.push(3, 4, noted(WqeOpcode::Read, 12));
        assert_eq!(tables.send.free(), 1);
        assert_eq!(tables.send.complete(2), Some(noted(WqeOpcode::Send, 11)));
        assert_eq!(tables.send.free(), 4);
        assert_eq!(tables.send.complete(3), Some(noted(WqeOpcode::Read, 12)));
        assert_eq!(tables.send.free(), 8);
    }

    #[test]
    fn completions_of_nothing_in_flight_are_refused() {
        let tables = tables(3, 1);
        assert_eq!(tables.send.complete(0), None);
        tables.send.push(0, 1, noted(WqeOpcode::Send, 1));
        assert_eq!(tables.send.complete(1), None);
        assert_eq!(tables.send.complete(u32::MAX), None);
        assert!(tables.send.complete(0).is_some());
        assert_eq!(tables.send.complete(0), None);
        assert_eq!(tables.receive.complete(0), None);
    }
}
