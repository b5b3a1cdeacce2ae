//! Ringing doorbells, with the ordering that [`vrnic_abi::doorbell`] asks for.

use core::sync::atomic::{Ordering, fence};

use vrnic_abi::doorbell::{END_SLOT, ENGINE_AWAKE, FIRST_SLOT, PAGES, SLOTS_PER_GROUP};

use crate::error::Error;
use crate::platform::Platform;

/// Whether there can be a doorbell page `page`: others lie outside of the BAR.
pub(crate) const fn is_page(page: u32) -> bool {
    page < PAGES
}

/// The doorbell slot of one queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doorbell {
    page: u32,
    slot: u32,
}

impl Doorbell {
    /// The slot that a command returned.
    pub(crate) fn new(page: u32, slot: u64) -> Result<Self, Error> {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        if !(FIRST_SLOT..END_SLOT).contains(&slot) {
            return Err(Error::BadAnswer("doorbell slot"));
        }
        Ok(Self { page, slot })
    }

    /// Number of the slot in its page.
    pub(crate) const fn slot(self) -> u32 {
        self.slot
    }

    /// Stores a value that the engine reads when it needs it.
    #[inline]
    pub(crate) fn publish<P: Platform>(self, platform: &P, value: u64) {
        // Descriptors and freed entries must be visible before the value that covers them.
        fence(Ordering::Release);
        platform.store_slot(self.page, self.slot, value);
    }

    /// Stores a value that the engine must act on, and wakes the engine if it sleeps.
    #[inline]
    pub(crate) fn ring<P: Platform>(self, platform: &P, value: u64) {
        self.publish(platform, value);
        self.nudge(platform);
    }

    /// Makes the engine look at the slot again.
    #[inline]
    pub(crate) fn nudge<P: Platform>(self, platform: &P) {
        fence(Ordering::Release);
        platform.store_mark(self.page, self.slot / SLOTS_PER_GROUP);
        // The mark must be visible before the state is loaded: the engine does the reverse.
        fence(Ordering::SeqCst);
        if platform.load_engine_state(self.page) != ENGINE_AWAKE {
            platform.kick(self.page);
        }
    }
}
