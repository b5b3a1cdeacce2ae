//! `memcpy` on one core, what bandwidth is compared with.

use std::hint::black_box;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// Two buffers of the same size, page-aligned as DMA memory is.
pub(crate) struct MemoryCopy {
    from: Vec<u8>,
    to: Vec<u8>,
    size: usize,
}

impl MemoryCopy {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            from: vec![1; size + PAGE],
            to: vec![2; size + PAGE],
            size,
        }
    }

    /// Copies `count` times.
    pub(crate) fn run(&mut self, count: usize) -> Duration {
        let skip = |buffer: &[u8]| buffer.as_ptr().align_offset(PAGE).min(PAGE);
        let (first, second) = (skip(&self.from), skip(&self.to));
        let from = self.from.split_at(first).1;
        let from = from.split_at(self.size).0;
        let to = self.to.split_at_mut(second).1;
        let to = to.split_at_mut(self.size).0;
        let start = Instant::now();
        for _ in 0..count {
            black_box(&mut *to).copy_from_slice(black_box(from));
        }
        start.elapsed()
    }
}
