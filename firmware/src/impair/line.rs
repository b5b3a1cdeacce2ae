//! Frames on their way: each comes out when it is due.
//!
//! Two frames that are due at the same time come out as they went in, so a constant delay never
//! reorders. Memory is bounded in frames and in bytes; what does not fit is refused. Buffers are used
//! again, and count as what they take, not as what they hold.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::types::Time;

/// Frames that can be on their way in one direction.
pub const MAX_FRAMES: usize = 1 << 16;
/// Bytes of memory that they can take.
pub const MAX_BYTES: usize = 64 << 20;
/// Buffers that are kept to be used again.
const SPARE: usize = 64;

/// Frames on their way.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    frames: BinaryHeap<Reverse<Entry>>,
    bytes: usize,
    entered: u64,
    spare: Vec<Vec<u8>>,
}

/// A frame; the order of the fields is the order in which frames come out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    due: Time,
    order: u64,
    frame: Vec<u8>,
}

impl Line {
    /// A buffer with a copy of `frame`.
    pub(super) fn copy(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }

    /// Puts a frame on its way; says whether there was room.
    pub(super) fn push(&mut self, due: Time, frame: Vec<u8>) -> bool {
        let bytes = self.bytes.saturating_add(frame.capacity());
        if self.frames.len() >= MAX_FRAMES || bytes > MAX_BYTES {
            self.recycle(frame);
            return false;
        }
        let order = self.entered;
        self.entered += 1;
        self.bytes = bytes;
        self.frames.push(Reverse(Entry { due, order, frame }));
        true
    }

    /// When the next frame is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.frames.peek().map(|Reverse(entry)| entry.due)
    }

    /// The next frame, if it is due.
    pub(super) fn peek(&self, now: Time) -> Option<&[u8]> {
        let Reverse(entry) = self.frames.peek()?;
        (entry.due <= now).then_some(&entry.frame)
    }

    /// Takes the next frame out.
    pub(super) fn pop(&mut self) {
        if let Some(Reverse(entry)) = self.frames.pop() {
            self.bytes = self.bytes.saturating_sub(entry.frame.capacity());
            self.recycle(entry.frame);
        }
    }

    /// Frames on their way.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }
}
