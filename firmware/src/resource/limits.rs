//! How much of everything a function has.

/// Queue pairs.
pub const QUEUE_PAIRS: u32 = 16384;
/// Completion queues.
pub const COMPLETION_QUEUES: u32 = 16384;
/// Shared receive queues.
pub const SHARED_RECEIVE_QUEUES: u32 = 16384;
/// XRC domains.
pub const XRC_DOMAINS: u32 = 4096;
/// Event queues.
pub const EVENT_QUEUES: u32 = 64;
/// Protection domains.
pub const PROTECTION_DOMAINS: u32 = 4096;
/// Memory regions.
pub const REGIONS: u32 = 65536;
/// Memory windows.
pub const WINDOWS: u32 = 65536;
/// Pages of a fast registration: their list is read in one go.
pub const FAST_PAGES: u32 = 1024;
/// Address handles.
pub const ADDRESS_HANDLES: u32 = 65536;
/// Entries of the GID table.
pub const GIDS: u32 = 256;
/// Entries of the P_Key table.
pub const PKEYS: u16 = 1;

/// Filters of received frames.
pub const FILTERS: u32 = 256;
/// Copies of a frame that filters for the same addresses can ask for.
pub const FILTER_COPIES: usize = 16;
/// Multicast groups that queue pairs are attached to.
pub const MULTICAST_GROUPS: usize = 256;
/// Queue pairs that are attached to one multicast group.
pub const GROUP_MEMBERS: usize = 64;
/// Attachments of queue pairs to multicast groups, all groups together.
pub const MULTICAST_ATTACHMENTS: usize = 1024;

/// Pages of one region or queue that is described by a page list.
pub const PAGES: u32 = 1 << 20;
/// Entries of all page lists of a function together: 32 MiB of the process's memory.
pub const PAGE_LIST_ENTRIES: u32 = 1 << 22;
/// Smallest page as a power of two.
pub const MIN_PAGE_SHIFT: u8 = 12;
/// Largest page as a power of two.
pub const MAX_PAGE_SHIFT: u8 = 30;
/// Largest region in bytes.
pub const REGION_BYTES: u64 = (PAGES as u64) << MAX_PAGE_SHIFT;

/// Basic blocks of a send queue, as a power of two.
pub const LOG_SEND_BLOCKS: u8 = 15;
/// Basic blocks of send work requests that a queue pair may have handed out while the function has
/// `queue_pairs`: each costs memory of the process until it ends. A queue pair always gets a few
/// requests, and never needs more than the transport takes.
#[must_use]
pub const fn send_blocks(queue_pairs: u32) -> u32 {
    const TOGETHER: u32 = 1 << 18;
    const LEAST: u32 = 32;
    const MOST: u32 = 2048;
    let share = TOGETHER / (queue_pairs + 1);
    if share < LEAST {
        LEAST
    } else if share > MOST {
        MOST
    } else {
        share
    }
}

/// Entries of a receive queue, as a power of two.
pub const LOG_RECEIVE_ENTRIES: u8 = 15;
/// Entries of a shared receive queue, as a power of two.
pub const LOG_SHARED_ENTRIES: u8 = 16;
/// Data segments of a receive entry, as a power of two.
pub const LOG_RECEIVE_SEGMENTS: u8 = 4;
/// Entries of a completion queue, as a power of two: the least and the most.
pub const LOG_CQ_ENTRIES: core::ops::RangeInclusive<u8> = 2..=20;
/// Entries of an event queue, as a power of two: the least and the most.
pub const LOG_EQ_ENTRIES: core::ops::RangeInclusive<u8> = 4..=16;
/// Entries of the admin queue, as a power of two: the least and the most.
pub const LOG_ADMIN_ENTRIES: core::ops::RangeInclusive<u32> = 1..=10;

/// READ and atomic operations a queue pair has in flight, as either side.
pub const READ_DEPTH: u8 = 64;

/// Asynchronous events that wait for room in an event queue while the function has so many objects.
/// More are a fatal error.
///
/// A user can let all of its objects fail at the same time, and that must not let the function fail,
/// which is others' too. So there is room for all that every object can report without a command:
/// a queue pair that communication is established, that its send queue has drained, that it has failed,
/// that its last request was consumed, and that an answer which was still queued has failed; a shared
/// receive queue its limit and that it has failed; a completion queue that it has failed. A driver
/// consumes events when its commands complete.
#[must_use]
pub const fn held_events(queue_pairs: u32, shared_receive_queues: u32, cqs: u32) -> usize {
    5 * queue_pairs as usize + 2 * shared_receive_queues as usize + cqs as usize + 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_pairs_share_what_may_be_handed_out() {
        assert_eq!(send_blocks(1), 2048);
        assert_eq!(send_blocks(1023), 256);
        assert_eq!(send_blocks(QUEUE_PAIRS), 32);
        for queue_pairs in 0..=QUEUE_PAIRS {
            let all = send_blocks(queue_pairs) * queue_pairs;
            assert!(all <= (1 << 18).max(32 * queue_pairs));
        }
    }
}
