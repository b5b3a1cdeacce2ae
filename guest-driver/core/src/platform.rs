//! What the driver's surroundings provide.
//!
//! One trait, [`Platform`], with three kinds of things in it: the function's BARs, memory that the
//! function can reach, and the services of an operating system. Its implementations are Linux VFIO
//! and vfio-user in user space, a kernel, and in tests a device in the same process.
//!
//! The rules an implementation keeps:
//!
//! * no method calls back into the driver: interrupts are delivered between calls, not inside one;
//! * register, doorbell and [`DmaBuffer`] accesses reach the device in program order, except that
//!   a load may overtake an earlier store; the driver puts the barriers where more is needed;
//! * only [`Platform::relax`], [`Platform::wait`], [`Platform::allocate_dma`] and [`Platform::reset_function`], and
//!   dropping DMA memory, may sleep.

use core::fmt;

use crate::event::AsyncEvent;

/// No memory, or no DMA addresses, for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Importance of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The device or a user cannot go on.
    Error,
    /// Something is wrong, but goes on.
    Warning,
    /// Bring-up and removal.
    Info,
}

/// The surroundings of one function. Methods take `&self`; an implementation that is used from
/// several threads is `Sync`, but the driver does not ask for it.
pub trait Platform {
    /// Memory that the device can access.
    type Dma: DmaBuffer;
    /// Existing memory (of a user process) that was made accessible to the device.
    type Pinned: PinnedMemory;
    /// Mutual exclusion, also against interrupt handlers.
    type Lock<T>: Lock<T>;

    /// Whether every interrupt leads to a call of [`crate::Driver::handle_interrupt`] by itself. If
    /// not, whoever waits for a command hands on the events that it was woken for.
    const HANDLES_INTERRUPTS: bool = false;

    /// Loads the register at byte `offset` of BAR0; all ones if the device is gone.
    fn read_register(&self, offset: u32) -> u32;
    /// Stores into the register at byte `offset` of BAR0.
    fn write_register(&self, offset: u32, value: u32);

    /// Stores `value` into slot `slot` of doorbell page `page`, as one 8-byte store if the page is
    /// mapped.
    fn store_slot(&self, page: u32, slot: u32, value: u64);
    /// Stores the dirty mark of group `group` of doorbell page `page`.
    fn store_mark(&self, page: u32, group: u32);
    /// Loads the engine's state from doorbell page `page`.
    fn load_engine_state(&self, page: u32) -> u8;
    /// Writes kick page `page`.
    fn kick(&self, page: u32);

    /// Allocates `length` bytes or a few more, zeroed, page-aligned and contiguous in DMA addresses.
    fn allocate_dma(&self, length: usize) -> Result<Self::Dma, OutOfMemory>;

    /// Number of MSI-X vectors that are set up, at least 1; the driver uses vectors 0 to n - 1.
    fn vectors(&self) -> u16;
    /// Nanoseconds since any fixed moment.
    fn now(&self) -> u64;
    /// Sleeps until `vector` was raised (if one is given) or the time is `deadline`; may return
    /// early. Called in sleepable context only, without a lock held.
    fn relax(&self, vector: Option<u16>, deadline: u64);
    /// How often `vector` was raised, modulo 2^32, for [`Self::wait`]. A platform whose `relax`
    /// returns for an interrupt of before the call, too, need not count.
    fn raised(&self, _vector: u16) -> u32 {
        0
    }
    /// Sleeps as [`Self::relax`] does, but not if `vector` was raised since [`Self::raised`]
    /// returned `seen`: what happened between a look and the wait is not missed, however many wait.
    fn wait(&self, vector: u16, _seen: u32, deadline: u64) {
        self.relax(Some(vector), deadline);
    }
    /// Resets the function by other means than its registers (function level reset); false if
    /// there are none or they failed.
    fn reset_function(&self) -> bool {
        false
    }
    /// Whether the function cannot access memory any more, although its registers do not tell of a
    /// reset: it was taken out of its slot, or its bus mastering was switched off and all that it had
    /// begun is done. The driver then frees what it would have leaked.
    fn is_detached(&self) -> bool {
        false
    }
    /// Logs a line.
    fn log(&self, _level: Level, _message: fmt::Arguments<'_>) {}

    /// An armed completion queue has entries. `context` is the one the queue was created with.
    /// Called from an interrupt handler; and once the function is lost, also by whoever posts, who
    /// may hold locks of its own, and by [`crate::Driver::flush_lost`] and resets. So it defers what
    /// polls. A handler that runs while the queue is destroyed may still
    /// pass it on: whoever frees what `context` stands for waits for handlers in progress first.
    fn completion_event(&self, _cq: u32, _context: u64) {}
    /// Called from an interrupt handler: something happened to an object or the function. For the
    /// event's context, the same holds.
    fn asynchronous_event(&self, _event: &AsyncEvent) {}
}

/// A piece of memory shared with the device. The device may change it at any time, so it is only
/// ever copied, by atomic accesses to words of 8 bytes: implementations hand out no references.
///
/// All offsets are in bytes. Methods panic if the range lies outside of the buffer or an 8-byte
/// access is not aligned: that is a bug of the caller, never of the device.
#[allow(clippy::len_without_is_empty)]
pub trait DmaBuffer {
    /// DMA address of the first byte, a multiple of 4096.
    fn device_address(&self) -> u64;
    /// Length in bytes, a multiple of 8 greater than 0.
    fn len(&self) -> usize;
    /// One 8-byte load with acquire ordering; the byte at `offset` is the least significant one.
    fn load(&self, offset: usize) -> u64;
    /// One 8-byte store, ordered after earlier ones.
    fn store(&self, offset: usize, value: u64);

    /// Copies out, word by word: bytes that the device writes meanwhile are old or new ones.
    fn read(&self, offset: usize, to: &mut [u8]) {
        let (mut place, mut rest) = (offset, to);
        while !rest.is_empty() {
            let within = place % 8;
            let word = self.load(place - within).to_le_bytes();
            let count = rest.len().min(8 - within);
            let (piece, after) = rest.split_at_mut(count);
            piece.copy_from_slice(&word[within..within + count]);
            (place, rest) = (place + count, after);
        }
    }

    /// Copies in, word by word. A word at an end that is written in part is loaded and stored whole:
    /// the device must not write the rest of it meanwhile.
    fn write(&self, offset: usize, from: &[u8]) {
        let (mut place, mut rest) = (offset, from);
        while !rest.is_empty() {
            let within = place % 8;
            let count = rest.len().min(8 - within);
            let (piece, after) = rest.split_at(count);
            let mut word = match count {
                8 => [0; 8],
                _ => self.load(place - within).to_le_bytes(),
            };
            word[within..within + count].copy_from_slice(piece);
            self.store(place - within, u64::from_le_bytes(word));
            (place, rest) = (place + count, after);
        }
    }
}

/// A contiguous range of DMA addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub address: u64,
    /// Length in bytes, greater than 0.
    pub length: u64,
}

/// Existing memory that is accessible to the device for as long as the value lives.
pub trait PinnedMemory {
    /// Number of contiguous pieces.
    fn segments(&self) -> usize;
    /// Piece `index` in the order of the memory; `None` past the end.
    fn segment(&self, index: usize) -> Option<Segment>;
}

/// A value that one context at a time can use; in a kernel a spin lock that keeps interrupts off.
/// The driver holds it for a few loads and stores, never while it sleeps or allocates.
pub trait Lock<T> {
    /// Wraps a value.
    fn new(value: T) -> Self;
    /// Runs `f` on the value. The driver does not nest calls on one lock.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::vec::Vec;

    use super::DmaBuffer;
    use crate::tables::Cells;

    /// What byte `place` of the buffer has at first.
    fn pattern(place: usize) -> u8 {
        place as u8 ^ 0xa5
    }

    fn buffer() -> Cells {
        let word = |index: usize| u64::from_le_bytes(core::array::from_fn(|b| pattern(index + b)));
        Cells::new((0..40).step_by(8).map(word))
    }

    #[test]
    fn any_range_is_read_and_nothing_else() {
        let buffer = buffer();
        for offset in 0..40 {
            for length in 0..=40 - offset {
                let mut to = std::vec![0xee; length + 1];
                buffer.read(offset, &mut to[..length]);
                let expected: Vec<u8> = (offset..offset + length).map(pattern).collect();
                assert_eq!(to[..length], expected, "{offset} {length}");
                assert_eq!(to[length], 0xee);
            }
        }
    }

    #[test]
    fn any_range_is_written_and_nothing_else() {
        for offset in 0..40 {
            for length in 0..=40 - offset {
                let buffer = buffer();
                let from: Vec<u8> = (0..length).map(|index| 0x40 + index as u8).collect();
                buffer.write(offset, &from);
                let mut all = [0; 40];
                buffer.read(0, &mut all);
                let mut expected: [u8; 40] = core::array::from_fn(pattern);
                expected[offset..offset + length].copy_from_slice(&from);
                assert_eq!(all, expected, "{offset} {length}");
            }
        }
    }

    #[test]
    #[should_panic]
    fn what_lies_outside_is_not_read() {
        buffer().read(36, &mut [0; 5]);
    }
}
