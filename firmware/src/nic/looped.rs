//! Frames on their way between functions of this NIC: those of raw packet queues, of multicast
//! groups, and all others when PDUs do not take the direct path.
//!
//! A frame here is a copy, so that its sender is done with it. The queue is short, and its buffers
//! are reused, so that nothing is allocated for a frame.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Frames that can be queued.
const MAX_FRAMES: usize = 256;

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    /// The function.
    pub(super) function: u16,
    /// It came from a raw packet queue: no queue pair of the function gets it, not even one that
    /// is attached to the multicast group which the frame is for.
    pub(super) raw: bool,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(super) struct LoopedQueue {
    queue: VecDeque<(Sender, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl LoopedQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_FRAMES
    }

    /// Room for a frame; give it back with [`Self::push`] or [`Self::recycle`].
    pub(super) fn buffer(&mut self, length: usize) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Queues a frame, for which there is room.
    pub(super) fn push(&mut self, from: Sender, frame: Vec<u8>) {
        self.queue.push_back((from, frame));
    }

    /// Takes the oldest frame; give its buffer back with [`Self::recycle`].
    pub(super) fn pop(&mut self) -> Option<(Sender, Vec<u8>)> {
        self.queue.pop_front()
    }

    /// Drops all frames from a function that is no more: its number may get a new owner.
    pub(super) fn purge(&mut self, function: u16) {
        self.queue.retain(|(from, _)| from.function != function);
    }

    /// Reuses a buffer.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < MAX_FRAMES && buffer.capacity() > 0 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}
