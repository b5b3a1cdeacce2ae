//! How much of everything a function has.

/// Queue pairs.
pub const QUEUE_PAIRS: u32 = 16384;
/// Completion queues.
pub const COMPLETION_QUEUES: u32 = 16384;
/// Event queues.
pub const EVENT_QUEUES: u32 = 64;
/// Protection domains.
pub const PROTECTION_DOMAINS: u32 = 4096;
/// Memory regions.
pub const REGIONS: u32 = 65536;
/// Entries of the GID table.
pub const GIDS: u32 = 256;
/// Entries of the P_Key table.
pub const PKEYS: u16 = 1;

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
/// Entries of a receive queue, as a power of two.
pub const LOG_RECEIVE_ENTRIES: u8 = 15;
/// Data segments of a receive entry, as a power of two.
pub const LOG_RECEIVE_SEGMENTS: u8 = 4;
/// Entries of a completion queue, as a power of two: the least and the most.
pub const LOG_CQ_ENTRIES: core::ops::RangeInclusive<u8> = 2..=20;
/// Entries of an event queue, as a power of two: the least and the most.
pub const LOG_EQ_ENTRIES: core::ops::RangeInclusive<u8> = 4..=16;
/// Entries of the admin queue, as a power of two: the least and the most.
pub const LOG_ADMIN_ENTRIES: core::ops::RangeInclusive<u32> = 1..=10;

/// READ and atomic operations a queue pair has in flight, as either side.
pub const READ_DEPTH: u8 = 16;

/// Asynchronous events that wait for room in an event queue. More are a fatal error.
pub const HELD_EVENTS: usize = 4096;
