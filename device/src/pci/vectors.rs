//! How many MSI-X vectors a function has, agreed between two threads.
//!
//! The engine's thread changes the number, when whoever operates the NIC says so; the control
//! thread shows it to a client. A client has sized its table by what it has seen, so that the number
//! stands from when a client comes until it is gone: both are in one word.

use std::sync::atomic::{AtomicU32, Ordering};

/// A client has seen the number.
const SEEN: u32 = 1 << 31;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct VectorCount(AtomicU32);

impl VectorCount {
    /// So many, without a client.
    pub(super) fn new(vectors: u16) -> Self {
        Self(AtomicU32::new(vectors.into()))
    }

    /// Changes the number; `false`, and it stays, if a client has seen another one.
    pub(super) fn change(&self, vectors: u16) -> bool {
        let (relaxed, new) = (Ordering::Relaxed, u32::from(vectors));
        let change = |old| match old & SEEN {
            0 => Some(new),
            _ => (old == new | SEEN).then_some(old),
        };
        self.0.fetch_update(relaxed, relaxed, change).is_ok()
    }

    /// A client comes, and sees this.
    pub(super) fn show(&self) -> u16 {
        let vectors = self.0.fetch_or(SEEN, Ordering::Relaxed) & !SEEN;
        u16::try_from(vectors).unwrap_or(u16::MAX)
    }

    /// The client is gone.
    pub(super) fn release(&self) {
        self.0.fetch_and(!SEEN, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_seen_stands_until_it_is_gone() {
        let count = VectorCount::new(64);
        assert!(count.change(2) && count.change(3));
        assert_eq!(count.show(), 3);
        assert!(!count.change(4) && count.change(3));
        assert_eq!(count.show(), 3);
        count.release();
        assert!(count.change(4));
        assert_eq!(count.show(), 4);
    }
}
