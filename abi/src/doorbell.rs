//! BAR2: doorbell pages and kick pages.
//!
//! The first half of the BAR is memory, one 4 KiB doorbell page for each user context (UAR); the
//! second half holds one trapped kick page for each doorbell page, in the same order. User space
//! that is given both pages of a UAR reaches its own queues and nobody else's.
//!
//! A doorbell page is 64 groups of 64 bytes:
//!
//! * group 0 is the *summary*: byte 0 is the engine's state ([`ENGINE_AWAKE`], [`ENGINE_ASLEEP`]),
//!   byte g (1 to 63) is the dirty mark of group g;
//! * groups 1 to 63 hold eight 8-byte *slots* each. A slot belongs to one queue for as long as that
//!   exists; the command that creates the queue says which ([`slot_offset`]).
//!
//! To announce work, a driver
//!
//! 1. stores the slot's new value (one 8-byte store, after the descriptors it announces),
//! 2. stores [`DIRTY`] into the group's mark (after the slot),
//! 3. executes a full memory barrier and loads the engine's state,
//! 4. if that is [`ENGINE_ASLEEP`], writes any value to offset 0 of the kick page.
//!
//! An engine exchanges the mark with 0 (a full barrier) and then loads the group's eight slots, so
//! a store that comes too late for the load leaves its mark for the next round. Before it sleeps,
//! the engine stores [`ENGINE_ASLEEP`] into every page in use, executes a full barrier and looks at
//! all marks once more; so either it sees the mark of step 2, or the driver's load in step 3, which
//! comes after a barrier too, sees that the engine sleeps. A kick that finds the engine awake does
//! no harm.
//!
//! A client that cannot map the page gets the same semantics from trapped accesses to it. An 8-byte
//! store may then arrive as two 4-byte ones, lower half first; every value below is laid out so
//! that the state in between means nothing.

/// Size of a doorbell page and of a kick page in bytes.
pub const PAGE_SIZE: u32 = 4096;
/// Number of doorbell pages of a function.
pub const PAGES: u32 = 256;
/// Size of BAR2 in bytes: the doorbell pages, then the kick pages.
pub const BAR_SIZE: u32 = 2 * PAGES * PAGE_SIZE;
/// The doorbell page that exists from reset on and belongs to the function's own driver.
pub const KERNEL_PAGE: u32 = 0;

/// Groups in a page, the summary included.
pub const GROUPS: u32 = 64;
/// Slots in a group.
pub const SLOTS_PER_GROUP: u32 = 8;
/// The first slot that a queue can have; lower numbers lie in the summary.
pub const FIRST_SLOT: u32 = SLOTS_PER_GROUP;
/// One past the last slot of a page.
pub const END_SLOT: u32 = GROUPS * SLOTS_PER_GROUP;

/// Offset of the engine's state in the page.
pub const ENGINE_STATE_OFFSET: u32 = 0;
/// Engine state: polls the page; a store suffices.
pub const ENGINE_AWAKE: u8 = 0;
/// Engine state: sleeps; a store must be followed by a kick.
pub const ENGINE_ASLEEP: u8 = 1;
/// Value of a dirty mark.
pub const DIRTY: u8 = 1;

/// Offset of slot `slot` in its page.
#[must_use]
pub const fn slot_offset(slot: u32) -> u32 {
    slot * 8
}

/// Offset of the dirty mark of `slot`'s group in the page.
#[must_use]
pub const fn mark_offset(slot: u32) -> u32 {
    slot / SLOTS_PER_GROUP
}

/// Offset of doorbell page `page` in the BAR.
#[must_use]
pub const fn page_offset(page: u32) -> u32 {
    page * PAGE_SIZE
}

/// Offset of the kick page of doorbell page `page` in the BAR.
#[must_use]
pub const fn kick_offset(page: u32) -> u32 {
    (PAGES + page) * PAGE_SIZE
}

/// Value of a send queue's slot: bits 31:0 the number of 64-byte basic blocks ever posted, modulo
/// 2^32; bits 55:32 the queue pair number, which the device compares with the slot's owner.
#[must_use]
pub const fn send_queue(producer: u32, qpn: u32) -> u64 {
    producer as u64 | ((qpn as u64) << 32)
}

/// Value of the slot of a receive queue or shared receive queue: bits 31:0 the number of entries
/// ever posted, modulo 2^32. The slot is read when a message arrives: it needs no dirty mark and no
/// kick, unless the queue pair is in the state ERROR and the requests are to be flushed.
#[must_use]
pub const fn receive_queue(producer: u32) -> u64 {
    producer as u64
}

/// Value of the slot of a completion queue or event queue: bits 31:0 the number of entries ever
/// consumed, modulo 2^32; bits 47:32 the arm sequence number; bit 48 set to be notified of
/// solicited completions and errors only (completion queues).
///
/// The queue is armed when the device finds a sequence number other than the one it saw last: it
/// then notifies once, at once if an entry beyond the consumer index exists already. Storing a new
/// consumer index with the old sequence number only frees entries, and needs no mark and no kick.
#[must_use]
pub const fn consumer(index: u32, arm_sequence: u16, solicited_only: bool) -> u64 {
    index as u64 | ((arm_sequence as u64) << 32) | ((solicited_only as u64) << 48)
}

/// The arm sequence number in the value of a completion or event queue's slot.
#[must_use]
pub const fn arm_sequence(value: u64) -> u16 {
    (value >> 32) as u16
}

/// Whether the slot's value asks for solicited completions only.
#[must_use]
pub const fn solicited_only(value: u64) -> bool {
    value >> 48 & 1 == 1
}

/// The index in the lower half of any slot's value.
#[must_use]
pub const fn index(value: u64) -> u32 {
    value as u32
}
