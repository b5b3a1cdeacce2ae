//! What the interface counts, by queue.
//!
//! Each counter has one writer at a time, the poster or the NAPI context of its queue, so that
//! counting is a load and a store. They go on counting while the interface is down.

use core::sync::atomic::{AtomicU64, Ordering};

/// A number that one context at a time counts up.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(super) fn add(&self, more: u64) {
        let value = self.0.load(Ordering::Relaxed).wrapping_add(more);
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a queue counts.
#[derive(Default)]
pub(super) struct Statistics {
    /// Packets that the stack got, and their bytes.
    pub(super) rx_packets: Count,
    pub(super) rx_bytes: Count,
    /// Packets dropped for want of memory.
    pub(super) rx_dropped: Count,
    /// Receive requests that completed with an error.
    pub(super) rx_errors: Count,
    /// Packets whose checksum the device has found right.
    pub(super) rx_checked: Count,
    /// Times that no buffer could be allocated.
    pub(super) rx_no_buffer: Count,
    /// Frames that the device has sent, and their bytes. Written by NAPI.
    pub(super) tx_packets: Count,
    pub(super) tx_bytes: Count,
    /// Send requests that completed with an error. Written by NAPI.
    pub(super) tx_errors: Count,
    /// Packets that could not be posted.
    pub(super) tx_dropped: Count,
    /// Packets that the device cuts into frames.
    pub(super) tx_cut: Count,
    /// Times that the queue was full.
    pub(super) tx_stopped: Count,
    /// Packets whose checksum the device fills in.
    pub(super) tx_checked: Count,
}

impl Statistics {
    /// Names and values, in an order that stays.
    pub(super) fn each(&self) -> [(&'static str, u64); 13] {
        [
            ("rx_packets", self.rx_packets.get()),
            ("rx_bytes", self.rx_bytes.get()),
            ("rx_dropped", self.rx_dropped.get()),
            ("rx_errors", self.rx_errors.get()),
            ("rx_checked", self.rx_checked.get()),
            ("rx_no_buffer", self.rx_no_buffer.get()),
            ("tx_packets", self.tx_packets.get()),
            ("tx_bytes", self.tx_bytes.get()),
            ("tx_errors", self.tx_errors.get()),
            ("tx_dropped", self.tx_dropped.get()),
            ("tx_stopped", self.tx_stopped.get()),
            ("tx_cut", self.tx_cut.get()),
            ("tx_checked", self.tx_checked.get()),
        ]
    }
}
