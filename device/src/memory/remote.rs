//! Memory that a client does not share: DMA by messages, which the engine waits for.
//!
//! All functions of the engine wait with it, so a client has so much patience and no more
//! ([`Patience`]), whatever it does: answer late, not at all, or leave and come back.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vrnic_vfio_user::ClientHandle;
use vrnic_vfio_user::limits::MAX_DMA_ACCESS;

use super::Shared;
use crate::dma::{DmaError, RemoteMemory};

/// How long the engine waits for a client to answer a DMA message, at most. A client that takes longer
/// gets no further ones.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(2);

/// An answer that comes as soon as this costs no patience. Loaded hosts are slow.
const REMOTE_FREE: Duration = Duration::from_millis(20);

/// Patience comes back in so many times the time it was spent in: all functions of the engine wait
/// while it waits, so one client gets the tenth part of its time.
const REMOTE_RECOVERY: u32 = 10;

/// How long the engine still waits for the clients of one function, whichever is attached.
pub(super) struct Patience {
    start: Instant,
    /// When all of it will have come back, in nanoseconds since `start`.
    whole_at: AtomicU64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            whole_at: AtomicU64::new(0),
        }
    }
}

impl Patience {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long to wait for the next answer; `None` if not at all.
    fn left(&self) -> Option<Duration> {
        let missing = self
            .whole_at
            .load(Ordering::Relaxed)
            .saturating_sub(self.now());
        let left = REMOTE_TIMEOUT.saturating_sub(Duration::from_nanos(missing) / REMOTE_RECOVERY);
        (left >= REMOTE_FREE).then_some(left)
    }

    fn spend(&self, waited: Duration) {
        let nanos = u64::try_from((waited * REMOTE_RECOVERY).as_nanos()).unwrap_or(u64::MAX);
        let from = self.whole_at.load(Ordering::Relaxed).max(self.now());
        self.whole_at
            .store(from.saturating_add(nanos), Ordering::Relaxed);
    }
}

/// A client's memory by messages.
pub(super) struct Remote {
    client: ClientHandle,
    /// It did not answer once: it is not waited for again.
    failed: Cell<bool>,
    shared: Arc<Shared>,
}

impl Remote {
    pub(super) fn new(client: ClientHandle, shared: Arc<Shared>) -> Self {
        Self {
            client,
            failed: Cell::new(false),
            shared,
        }
    }

    /// Sends a message by `access`, which is told how long to wait.
    fn ask(
        &self,
        iova: u64,
        access: impl FnOnce(Duration) -> Result<(), vrnic_vfio_user::DmaError>,
    ) -> Result<(), DmaError> {
        let patience = &self.shared.patience;
        let left = patience.left().filter(|_| !self.failed.get());
        let left = left.ok_or(DmaError::Remote(iova))?;
        let start = Instant::now();
        let result = access(left);
        let late = result == Err(vrnic_vfio_user::DmaError::TimedOut);
        if late {
            log::warn!("the client does not answer DMA messages; it gets no more of them");
            self.failed.set(true);
        }
        let waited = start.elapsed();
        if late || waited > REMOTE_FREE {
            patience.spend(waited);
        }
        result.map_err(|_| DmaError::Remote(iova))
    }
}

impl RemoteMemory for Remote {
    fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for part in buffer.chunks_mut(MAX_DMA_ACCESS) {
            self.ask(at, |time| self.client.dma_read_wait(at, part, time))?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut at = iova;
        for part in data.chunks(MAX_DMA_ACCESS) {
            let data = part.to_vec();
            self.ask(at, |time| self.client.dma_write_wait(at, data, time))?;
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_spent_by_waiting_and_comes_back_slowly() {
        let patience = Patience::default();
        assert_eq!(patience.left(), Some(REMOTE_TIMEOUT));
        patience.spend(REMOTE_TIMEOUT / 2);
        let left = patience.left().unwrap();
        assert!(left >= REMOTE_TIMEOUT / 2 && left < REMOTE_TIMEOUT);
        patience.spend(REMOTE_TIMEOUT);
        assert_eq!(patience.left(), None);
    }
}
