//! The two positions of a ring: [`Producer`] and [`Consumer`].
//!
//! Positions count bytes; a ring's index is the low part. They do not wrap: 64
//! bits last for centuries, and the other end can advance neither of them by more
//! than a ring beyond what we did ourselves.
//! The producer writes records and publishes `head`, the consumer takes records
//! and publishes `tail`, both with release order, and each reads the other's
//! with acquire order, only when what it knows does not suffice. Records start
//! on cache lines, so that the ends share no line but the one being handed over.
//!
//! A record is its frame's length (8 bytes, native order), then the frame, padded
//! to whole lines. Everything read from the other end is checked: positions
//! may only advance, and only as far as the ring allows; a record must fit into
//! what was published. [`Violation`] is the answer to the rest.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::super::MAX_FRAME;
use super::memory::{Lane, Memory};

/// Alignment of records.
const LINE: u64 = 64;

/// Bytes of the length in front of a frame.
const HEADER: u64 = 8;

/// Bytes that the producer fills, or the consumer frees, before it says so while
/// there is more to do: the other end starts early, and the shared lines do not
/// move for every frame.
const PUBLISH_EVERY: u64 = 16 << 10;

/// The other end broke the rules of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// Ring bytes that a frame of `len` bytes takes.
fn record_bytes(len: usize) -> u64 {
    (HEADER + len as u64).next_multiple_of(LINE)
}

/// The sending end of a ring.
pub(super) struct Producer {
    lane: Lane,
    head: u64,
    published: u64,
    /// The consumer's position when we last looked.
    tail: u64,
}

impl Producer {
    pub(super) fn new(lane: Lane) -> Self {
        Producer {
            lane,
            head: 0,
            published: 0,
            tail: 0,
        }
    }

    /// Whether a frame of `len` bytes has room.
    pub(super) fn has_room(&mut self, memory: &Memory, len: usize) -> Result<bool, Violation> {
        let need = record_bytes(len);
        if self.head + need - self.tail <= memory.ring() {
            return Ok(true);
        }
        self.publish(memory);
        self.look(memory)?;
        Ok(self.head + need - self.tail <= memory.ring())
    }

    /// Whether half of the ring is free. A consumer wakes a producer that waits
    /// for room only then, so that they do not take turns frame by frame.
    pub(super) fn half_free(&mut self, memory: &Memory) -> Result<bool, Violation> {
        self.look(memory)?;
        Ok(self.head - self.tail <= memory.ring() / 2)
    }

    /// Reads the consumer's position.
    fn look(&mut self, memory: &Memory) -> Result<(), Violation> {
        let tail = memory.word(self.lane.tail).load(Acquire);
        if tail < self.tail || tail > self.published {
            return Err(Violation);
        }
        self.tail = tail;
        Ok(())
    }

    /// Puts a frame, for which there is room, into the ring.
    pub(super) fn push(&mut self, memory: &Memory, frame: &[u8]) {
        memory
            .record(self.lane, self.head)
            .store(frame.len() as u64, Relaxed);
        memory.copy_in(self.lane, self.head + HEADER, frame);
        self.head += record_bytes(frame.len());
        if self.head - self.published >= PUBLISH_EVERY {
            self.publish(memory);
        }
    }

    /// Lets the consumer see everything pushed so far.
    pub(super) fn publish(&mut self, memory: &Memory) {
        if self.published != self.head {
            memory.word(self.lane.head).store(self.head, Release);
            self.published = self.head;
        }
    }
}

/// The receiving end of a ring.
pub(super) struct Consumer {
    lane: Lane,
    tail: u64,
    published: u64,
    /// The producer's position when we last looked.
    head: u64,
    closed: bool,
}

impl Consumer {
    pub(super) fn new(lane: Lane) -> Self {
        Consumer {
            lane,
            tail: 0,
            published: 0,
            head: 0,
            closed: false,
        }
    }

    /// Takes the next frame into `buffer` and returns its length; `None` when the
    /// ring is empty.
    pub(super) fn pop(
        &mut self,
        memory: &Memory,
        buffer: &mut [u8; MAX_FRAME],
    ) -> Result<Option<usize>, Violation> {
        if self.is_empty(memory)? {
            return Ok(None);
        }
        let len = memory.record(self.lane, self.tail).load(Relaxed);
        let len = usize::try_from(len).map_err(|_| Violation)?;
        let bytes = buffer.get_mut(..len).ok_or(Violation)?;
        if record_bytes(len) > self.head - self.tail {
            return Err(Violation);
        }
        memory.copy_out(self.lane, self.tail + HEADER, bytes);
        self.tail += record_bytes(len);
        if self.tail - self.published >= PUBLISH_EVERY {
            self.publish(memory);
        }
        Ok(Some(len))
    }

    /// Whether everything published has been taken.
    pub(super) fn is_empty(&mut self, memory: &Memory) -> Result<bool, Violation> {
        if self.tail == self.head && !self.closed {
            self.look(memory)?;
        }
        Ok(self.tail == self.head)
    }

    /// Reads the producer's position.
    fn look(&mut self, memory: &Memory) -> Result<(), Violation> {
        let head = memory.word(self.lane.head).load(Acquire);
        let ahead = head.checked_sub(self.tail).ok_or(Violation)?;
        if head < self.head || ahead > memory.ring() || head % LINE != 0 {
            return Err(Violation);
        }
        self.head = head;
        Ok(())
    }

    /// Gives the room of everything taken back to the producer.
    pub(super) fn publish(&mut self, memory: &Memory) {
        if self.published != self.tail {
            memory.word(self.lane.tail).store(self.tail, Release);
            self.published = self.tail;
        }
    }

    /// From now on only what is published now arrives: the producer is gone.
    pub(super) fn close(&mut self, memory: &Memory) -> Result<(), Violation> {
        let result = self.look(memory);
        self.closed = true;
        result
    }

    /// Whether at least half of the ring is free, so far as we know.
    pub(super) fn half_free(&self, memory: &Memory) -> bool {
        self.head - self.tail <= memory.ring() / 2
    }
}
