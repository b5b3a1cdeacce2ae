//! What memory holds: before a step, and after it if all went well.
//!
//! The region is divided into slots, one for each request. A slot is full of guard bytes, and in
//! the midst of it lies the request's data, which the step's seed determines. So each end knows,
//! without having seen the other's memory, what each byte of its own must be, before and after,
//! and compares all of them: those that had to arrive, those that had to stay.

use anyhow::{Result, bail, ensure};
use vrnic_driver::{Operation as Verb, Remote};

use crate::rnic::{MEMORY, Place, Rnic};
use crate::step::{Connection, End, Operation, Service, Step, mix};

/// Bytes that a datagram's receive request holds before the payload (11.4.1.2).
pub(crate) const GRH: usize = 40;
/// Guard bytes before and behind all that a request may touch.
const GUARD: usize = 64;

/// Which moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// The memory of one end in one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) connection: Connection,
    pub(crate) step: Step,
    pub(crate) end: End,
}

impl Image {
    /// The image, if the region has room for it.
    pub(crate) fn new(connection: Connection, step: Step, end: End) -> Result<Self> {
        let image = Self {
            connection,
            step,
            end,
        };
        let room = MEMORY / image.stride();
        ensure!(
            step.count as usize <= room,
            "{step:?} needs too much memory"
        );
        Ok(image)
    }

    fn initiates(&self) -> bool {
        self.step.from == self.end
    }

    /// Whether data arrives here.
    pub(crate) fn is_sink(&self) -> bool {
        self.initiates() == (self.step.operation == Operation::Read)
    }

    fn stride(&self) -> usize {
        (GUARD + GRH + 8 + self.step.size as usize + GUARD).next_multiple_of(64)
    }

    /// Offset of the data in a slot: the two ends differ, and atomics are aligned.
    fn data_offset(&self, end: End) -> usize {
        let skew = match end {
            _ if self.step.operation.is_atomic() => 0,
            End::Vrnic => self.step.seed,
            End::Rxe => self.step.seed.wrapping_add(3),
        };
        GUARD + GRH + (skew % 8) as usize
    }

    fn place_at(&self, end: End, index: u32) -> Place {
        Place {
            offset: index as usize * self.stride() + self.data_offset(end),
            length: self.step.size,
        }
    }

    /// Where the data of request `index` is at this end.
    pub(crate) fn place(&self, index: u32) -> Place {
        self.place_at(self.end, index)
    }

    /// What a receive request for it has to name: a datagram brings its route header along.
    pub(crate) fn receive_place(&self, index: u32) -> Place {
        let place = self.place(index);
        match self.connection.service {
            Service::Ud => Place {
                offset: place.offset - GRH,
                length: place.length + GRH as u32,
            },
            _ => place,
        }
    }

    /// The operation of request `index`, on memory of the other end that starts at `address` and
    /// has the key `rkey`.
    pub(crate) fn verb(&self, index: u32, address: u64, rkey: u32) -> Verb {
        let remote = self.remote(index, address, rkey);
        let immediate = self.step.immediate(index);
        match self.step.operation {
            Operation::Send => Verb::Send,
            Operation::SendImmediate => Verb::SendImmediate(immediate),
            Operation::SendInvalidate => Verb::SendInvalidate(rkey),
            Operation::Write => Verb::Write(remote),
            Operation::WriteImmediate => Verb::WriteImmediate(remote, immediate),
            Operation::Read => Verb::Read(remote),
            Operation::CompareSwap => Verb::CompareSwap {
                remote,
                compare: self.compare(index),
                swap: self.operand(index),
            },
            Operation::FetchAdd => Verb::FetchAdd {
                remote,
                add: self.operand(index),
            },
            Operation::AtomicWrite => Verb::AtomicWrite {
                remote,
                value: self.operand(index),
            },
        }
    }

    fn remote(&self, index: u32, address: u64, rkey: u32) -> Remote {
        let other = match self.end {
            End::Vrnic => End::Rxe,
            End::Rxe => End::Vrnic,
        };
        Remote {
            address: address + self.place_at(other, index).offset as u64,
            rkey,
        }
    }

    /// What an atomic operation finds.
    fn original(&self, index: u32) -> u64 {
        mix(self.step.seed, u64::from(index))
    }

    fn operand(&self, index: u32) -> u64 {
        mix(!self.step.seed, u64::from(index))
    }

    /// Every other comparison fails.
    fn compare(&self, index: u32) -> u64 {
        self.original(index) ^ u64::from(index % 2)
    }

    /// What an atomic operation leaves.
    fn result(&self, index: u32) -> u64 {
        let original = self.original(index);
        match self.step.operation {
            Operation::FetchAdd => original.wrapping_add(self.operand(index)),
            Operation::AtomicWrite => self.operand(index),
            _ if self.compare(index) == original => self.operand(index),
            _ => original,
        }
    }

    /// Fills the region for the step.
    pub(crate) fn fill(&self, rnic: &dyn Rnic) {
        let mut slot = Vec::new();
        for index in 0..self.step.count {
            self.slot(Moment::Before, index, index, &mut slot);
            rnic.write(index as usize * self.stride(), &slot);
        }
    }

    /// Compares slot `index` with what it must hold afterwards, when message `message` lies in it.
    /// Returns the number of bytes compared.
    pub(crate) fn check(&self, rnic: &dyn Rnic, index: u32, message: u32) -> Result<u64> {
        let mut expected = Vec::new();
        self.slot(Moment::After, index, message, &mut expected);
        let mut found = vec![0; expected.len()];
        rnic.read(index as usize * self.stride(), &mut found);
        let data = self.data_offset(self.end);
        let header = data - GRH..data;
        let headed = self.connection.service == Service::Ud && self.is_sink();
        let differs =
            |at: &usize| expected.get(*at) != found.get(*at) && !(headed && header.contains(at));
        if let Some(at) = (0..expected.len()).find(differs) {
            bail!(
                "request {index} of {:?}: byte {} of its data is {:#04x?} instead of {:#04x?}",
                self.step,
                at as i64 - data as i64,
                found.get(at),
                expected.get(at)
            );
        }
        Ok(expected.len() as u64 - if headed { GRH as u64 } else { 0 })
    }

    /// A slot's bytes.
    fn slot(&self, moment: Moment, index: u32, message: u32, slot: &mut Vec<u8>) {
        slot.clear();
        let guard = mix(u64::from(index), 0xfe).to_le_bytes();
        slot.extend(guard.iter().cycle().take(self.stride()));
        let start = self.data_offset(self.end);
        let room = slot.get_mut(start..start + self.step.size as usize);
        let Some(room) = room else { return };
        if self.step.operation.is_atomic() {
            let value = match (self.initiates(), moment) {
                (true, Moment::Before) => return,
                (true, Moment::After) if !self.step.operation.returns() => return,
                (true, Moment::After) | (false, Moment::Before) => self.original(index),
                (false, Moment::After) => self.result(index),
            };
            // Operands and results are numbers, and both ends little-endian.
            room.iter_mut()
                .zip(value.to_le_bytes())
                .for_each(|(to, from)| *to = from);
        } else if !self.is_sink() || moment == Moment::After {
            self.data(message, room);
        }
    }

    /// The data of a message.
    fn data(&self, message: u32, room: &mut [u8]) {
        let seed = mix(self.step.seed, u64::from(message));
        for (word, bytes) in (0..).zip(room.chunks_mut(8)) {
            let value = mix(seed, word).to_le_bytes();
            bytes
                .iter_mut()
                .zip(value)
                .for_each(|(to, from)| *to = from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Family;

    fn image(operation: Operation, end: End) -> Image {
        let connection = Connection {
            service: Service::Rc,
            family: Family::V4,
            mtu: 1024,
            qps: 1,
            lossy: false,
        };
        let size = if operation.is_atomic() { 8 } else { 100 };
        let step = Step {
            operation,
            from: End::Rxe,
            size,
            count: 4,
            windows: false,
            seed: 5,
        };
        Image::new(connection, step, end).expect("fits")
    }

    fn slot(image: &Image, moment: Moment, index: u32) -> Vec<u8> {
        let mut slot = Vec::new();
        image.slot(moment, index, index, &mut slot);
        slot
    }

    #[test]
    fn data_moves_from_the_source_to_the_sink() {
        for (operation, sink) in [(Operation::Write, End::Vrnic), (Operation::Read, End::Rxe)] {
            for end in [End::Vrnic, End::Rxe] {
                let image = image(operation, end);
                let [before, after] = [Moment::Before, Moment::After].map(|m| slot(&image, m, 1));
                assert_eq!(before != after, end == sink, "{operation:?} at {end:?}");
            }
        }
    }

    #[test]
    fn slots_differ_in_data_and_guards() {
        let image = image(Operation::Write, End::Rxe);
        let (one, two) = (
            slot(&image, Moment::After, 1),
            slot(&image, Moment::After, 2),
        );
        assert!(one.iter().zip(&two).filter(|(a, b)| a == b).count() < one.len() / 16);
    }

    #[test]
    fn a_failed_comparison_changes_nothing() {
        let image = image(Operation::CompareSwap, End::Vrnic);
        let changed =
            |index| slot(&image, Moment::Before, index) != slot(&image, Moment::After, index);
        assert_eq!([0, 1, 2, 3].map(changed), [true, false, true, false]);
    }

    #[test]
    fn no_step_overruns_the_region() {
        let small = image(Operation::Write, End::Rxe);
        let step = Step {
            size: MEMORY as u32,
            ..small.step
        };
        assert!(Image::new(small.connection, step, End::Rxe).is_err());
    }
}
