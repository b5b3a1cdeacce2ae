//! The link to nothing: the functions of this process have only each other.
//!
//! Frames sent are dropped and counted, and none is received. The link is up all the same: software
//! in guests uses no port that is down, and there is somebody to talk to.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Link, LinkCounters, MAX_FRAME};

/// A link to nobody outside of the process.
pub struct NoLink {
    scratch: Box<[u8]>,
    counters: LinkCounters,
}

impl Default for NoLink {
    fn default() -> Self {
        let scratch = vec![0; MAX_FRAME].into();
        NoLink {
            scratch,
            counters: LinkCounters::default(),
        }
    }
}

impl Link for NoLink {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.scratch.get_mut(..len)
    }

    fn commit(&mut self, _len: usize) {
        self.counters.tx_no_peer += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, _budget: usize, _deliver: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        Ok(0)
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn prepare_sleep(&mut self) -> bool {
        true
    }

    fn wake(&mut self) {}

    fn is_up(&self) -> bool {
        true
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}
