//! The transmit half of a queue.
//!
//! Two contexts use it: the *poster*, which is whoever holds the stack's lock of the transmit queue,
//! and the *cleaner*, which is the queue's NAPI context. A ring of slots between them says what is in
//! flight: the poster fills slots and moves `head`, the cleaner empties them and moves `tail`. Every
//! request is signaled, so that no packet waits for a later one before its owner gets it back.
//!
//! The work queue has room for as many of the largest requests as there are slots: a free slot is
//! all that a packet needs. When the last one is taken the stack's queue stops, until a quarter of
//! the slots are free.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use vrnic_driver::abi::cqe::CompletionStatus;
use vrnic_driver::abi::wqe::{MAX_SEGMENTED, WqeFlags};
use vrnic_driver::{
    Completion, CompletionQueue, Data, Operation, SendQueue, SendRequest, Sge, Target,
};

use crate::bindings;
use crate::net::packet::{Look, Mapping, PIECES, Packet, segment};
use crate::net::statistics::Statistics;
use crate::platform::Kernel;

/// Requests in flight, a power of two.
pub(super) const ENTRIES: u32 = 512;
/// Slots that must be free before a queue that had stopped goes on.
const ENOUGH: u32 = ENTRIES / 4;
/// Completions polled at a time.
const BATCH: usize = 16;
/// Shortest frame that the device sends.
const SHORTEST: u32 = 14;

/// A packet in flight.
struct Slot {
    /// Null if there is none.
    packet: *mut bindings::sk_buff,
    length: u32,
    /// Frames that it becomes, and their bytes.
    frames: (u32, u32),
    pieces: u32,
    mappings: [Mapping; PIECES],
}

impl Slot {
    #[inline]
    fn fill(&mut self, packet: Packet, look: &Look) {
        self.packet = packet.0.as_ptr();
        self.length = look.0.length;
        self.frames = look.frames();
    }
}

/// What is in flight. Dropping it gives up the packets that are left, which the device must be done
/// with.
pub(super) struct Ring {
    device: *mut bindings::device,
    slots: Box<[UnsafeCell<Slot>]>,
}

// SAFETY: poster and cleaner use different slots, as the counters say.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(device: *mut bindings::device) -> Self {
        let slot = || {
            UnsafeCell::new(Slot {
                packet: null_mut(),
                length: 0,
                frames: (0, 0),
                pieces: 0,
                mappings: [Mapping::default(); PIECES],
            })
        };
        Self {
            device,
            slots: (0..ENTRIES).map(|_| slot()).collect(),
        }
    }

    fn slot(&self, counter: u32) -> *mut Slot {
        self.slots[(counter % ENTRIES) as usize].get()
    }

    /// Makes a packet accessible to the device.
    fn map(&self, slot: &mut Slot, packet: Packet, pieces: usize) -> Result<(), Dropped> {
        for piece in 0..pieces {
            let mapping = &raw mut slot.mappings[piece];
            // SAFETY: the packet is ours and has such a piece.
            let failed = unsafe {
                bindings::vrnic_packet_map(self.device, packet.0.as_ptr(), piece as u32, mapping)
            };
            slot.pieces = piece as u32;
            if failed != 0 {
                self.unmap(slot);
                return Err(Dropped);
            }
        }
        slot.pieces = pieces as u32;
        Ok(())
    }

    #[inline]
    fn unmap(&self, slot: &mut Slot) {
        for mapping in &slot.mappings[..slot.pieces as usize] {
            // SAFETY: mapped by `map`, and the device is done with it.
            unsafe {
                bindings::dma_unmap_page_attrs(
                    self.device,
                    mapping.address,
                    mapping.length as _,
                    bindings::DMA_TO_DEVICE,
                    0,
                );
            }
        }
        slot.pieces = 0;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for counter in 0..ENTRIES {
            // SAFETY: nobody else has the ring.
            let slot = unsafe { &mut *self.slot(counter) };
            self.unmap(slot);
            if let Some(packet) = NonNull::new(slot.packet) {
                // SAFETY: a packet that was not given back.
                unsafe { Packet(packet).discard() };
            }
        }
    }
}

/// A packet that could not be sent.
struct Dropped;

/// What was given back in one go.
#[derive(Default)]
struct Sent {
    packets: u32,
    bytes: u32,
    frames: u64,
    frame_bytes: u64,
}

impl Sent {
    #[inline]
    fn add(&mut self, slot: &Slot, good: bool) {
        self.packets += 1;
        self.bytes += slot.length;
        if good {
            self.frames += u64::from(slot.frames.0);
            self.frame_bytes += u64::from(slot.frames.1);
        }
    }
}

/// The transmit half of a queue.
pub(super) struct Transmit {
    ring: Ring,
    /// Requests ever posted; stored by the poster.
    head: AtomicU32,
    /// Requests ever completed; stored by the cleaner.
    tail: AtomicU32,
    /// The poster's.
    queue: NonNull<SendQueue<Kernel>>,
    /// The cleaner's.
    cq: UnsafeCell<CompletionQueue<Kernel>>,
    /// Longest frame.
    longest: u32,
    /// The stack's queue.
    stack: NonNull<bindings::netdev_queue>,
}

impl Transmit {
    /// The half of a queue that sends on `queue`, which lives as long as the value.
    pub(super) fn new(
        device: *mut bindings::device,
        queue: NonNull<SendQueue<Kernel>>,
        cq: CompletionQueue<Kernel>,
        longest: u32,
        stack: NonNull<bindings::netdev_queue>,
    ) -> Self {
        // SAFETY: nobody posts yet.
        unsafe { bindings::vrnic_tx_reset(stack.as_ptr()) };
        Self {
            ring: Ring::new(device),
            head: AtomicU32::new(0),
            tail: AtomicU32::new(0),
            queue,
            cq: UnsafeCell::new(cq),
            longest,
            stack,
        }
    }

    /// Takes it apart: the ring, which must not be dropped before the device is done with it, and
    /// the completion queue.
    pub(super) fn into_parts(self) -> (Ring, CompletionQueue<Kernel>) {
        // SAFETY: nobody posts any more.
        unsafe { bindings::vrnic_tx_reset(self.stack.as_ptr()) };
        (self.ring, self.cq.into_inner())
    }

    fn free(&self) -> u32 {
        let head = self.head.load(Ordering::Relaxed);
        ENTRIES - head.wrapping_sub(self.tail.load(Ordering::Acquire))
    }

    /// Sends a packet, or drops and counts it.
    ///
    /// # Safety
    /// The caller is the poster and owns the packet.
    pub(super) unsafe fn send(&self, packet: Packet, mut look: Look, statistics: &Statistics) {
        let more = look.0.more;
        // SAFETY: the poster alone uses it, and it lives as long as self.
        let queue = unsafe { &mut *self.queue.as_ptr() };
        // SAFETY: by the contract of this function.
        let posted = unsafe { self.post(queue, packet, &mut look, statistics) };
        if posted.is_err() {
            statistics.tx_dropped.add(1);
            // SAFETY: it was not posted, and is ours.
            unsafe { packet.discard() };
        } else {
            self.stop_if_full(statistics);
        }
        let length = if posted.is_ok() { look.0.length } else { 0 };
        // SAFETY: the stack's queue lives as long as its device.
        if unsafe { bindings::vrnic_tx_sent(self.stack.as_ptr(), length, more) } {
            // A queue that did not survive a reset has nobody to tell.
            queue.ring();
        }
    }

    /// # Safety
    /// As for [`Self::send`].
    unsafe fn post(
        &self,
        queue: &mut SendQueue<Kernel>,
        packet: Packet,
        look: &mut Look,
        statistics: &Statistics,
    ) -> Result<(), Dropped> {
        if self.free() == 0 {
            return Err(Dropped);
        }
        // SAFETY: the packet is ours.
        let (operation, flags) = unsafe { self.prepare(packet, look)? };
        let head = self.head.load(Ordering::Relaxed);
        // SAFETY: a free slot is the poster's.
        let slot = unsafe { &mut *self.ring.slot(head) };
        self.ring.map(slot, packet, look.pieces())?;
        let mut segments = [Sge::default(); PIECES];
        for (to, from) in segments.iter_mut().zip(&slot.mappings[..look.pieces()]) {
            *to = segment(from);
        }
        let vlan_tag = look.tag();
        let request = SendRequest {
            wr_id: u64::from(head),
            operation,
            target: Target::Wire { vlan_tag },
            data: Data::Sges(&segments[..look.pieces()]),
            flags: flags | WqeFlags::SIGNALED,
        };
        if queue.stage(&request).is_err() {
            self.ring.unmap(slot);
            return Err(Dropped);
        }
        slot.fill(packet, look);
        statistics
            .tx_checked
            .add(flags.contains(WqeFlags::CHECKSUM_TRANSPORT).into());
        statistics.tx_cut.add((look.0.mss > 0).into());
        // SAFETY: the device has not been told yet, so it is still ours.
        unsafe { bindings::vrnic_packet_timestamp(packet.0.as_ptr()) };
        self.head.store(head.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Makes the packet one that the device can send, and says how.
    ///
    /// # Safety
    /// The packet is ours.
    unsafe fn prepare(
        &self,
        packet: Packet,
        look: &mut Look,
    ) -> Result<(Operation, WqeFlags), Dropped> {
        let operation = self.operation(look)?;
        let mut flags = WqeFlags::empty();
        // SAFETY: the packet is ours, and what was read of it is read again after a change.
        unsafe {
            if look.pieces() > PIECES {
                if bindings::vrnic_packet_linearize(packet.0.as_ptr()) != 0 {
                    return Err(Dropped);
                }
                *look = packet.look();
            }
            if look.0.checksum {
                if look.device_fills_checksum() {
                    flags = WqeFlags::CHECKSUM_TRANSPORT;
                } else if bindings::skb_checksum_help(packet.0.as_ptr()) != 0 {
                    return Err(Dropped);
                } else {
                    *look = packet.look();
                }
            }
        }
        Ok((operation, flags))
    }

    /// How the device sends the packet.
    #[inline]
    fn operation(&self, look: &Look) -> Result<Operation, Dropped> {
        let length = look.0.length;
        if look.0.mss == 0 {
            return match (SHORTEST..=self.longest).contains(&length) {
                true => Ok(Operation::Send),
                false => Err(Dropped),
            };
        }
        let data = length.checked_sub(look.0.headers).ok_or(Dropped)?;
        let frame = look.0.headers + look.0.mss.min(data);
        if data > MAX_SEGMENTED || frame > self.longest || !look.device_cuts() {
            return Err(Dropped);
        }
        Ok(Operation::SendSegmented {
            mss: look.0.mss as u16,
            header_length: look.0.headers as u16,
        })
    }

    #[inline]
    fn stop_if_full(&self, statistics: &Statistics) {
        if self.free() > 0 {
            return;
        }
        let stack = self.stack.as_ptr();
        // SAFETY: the stack's queue lives as long as its device.
        unsafe { bindings::vrnic_tx_stop(stack) };
        statistics.tx_stopped.add(1);
        // Either the cleaner sees the stop, or this look sees what it has freed.
        fence(Ordering::SeqCst);
        if self.free() >= ENOUGH {
            // SAFETY: as above.
            unsafe { bindings::vrnic_tx_start(stack) };
        }
    }

    /// Gives sent packets back to their owners, as many as there are. What it returns is how many
    /// failed.
    ///
    /// # Safety
    /// The caller is the cleaner; `budget` is NAPI's.
    pub(super) unsafe fn clean(&self, budget: i32, statistics: &Statistics) -> u32 {
        // SAFETY: by the contract of this function.
        let cq = unsafe { &mut *self.cq.get() };
        let mut completions = [Completion::default(); BATCH];
        let (mut sent, mut errors) = (Sent::default(), 0);
        for _ in 0..ENTRIES as usize / BATCH {
            let count = cq.poll(&mut completions).unwrap_or(0);
            for completion in &completions[..count] {
                let good = completion.status == CompletionStatus::Success;
                errors += u32::from(!good);
                // SAFETY: by the contract of this function.
                unsafe { self.release(completion.wr_id as u32, good, budget, &mut sent) };
            }
            if count < BATCH {
                break;
            }
        }
        if sent.packets > 0 {
            statistics.tx_packets.add(sent.frames);
            statistics.tx_bytes.add(sent.frame_bytes);
            statistics.tx_errors.add(u64::from(errors));
            self.wake(&sent);
        }
        errors
    }

    /// Gives back all packets up to the one with counter `last`, and adds them to `sent`; `good` says
    /// whether they were sent.
    ///
    /// # Safety
    /// As for [`Self::clean`].
    unsafe fn release(&self, last: u32, good: bool, budget: i32, sent: &mut Sent) {
        let head = self.head.load(Ordering::Acquire);
        let mut tail = self.tail.load(Ordering::Relaxed);
        if last.wrapping_sub(tail) >= head.wrapping_sub(tail) {
            return;
        }
        let end = last.wrapping_add(1);
        while tail != end {
            // SAFETY: between tail and head slots are the cleaner's.
            let slot = unsafe { &mut *self.ring.slot(tail) };
            self.ring.unmap(slot);
            // SAFETY: the packet of a request that has completed.
            unsafe { bindings::napi_consume_skb(slot.packet, budget) };
            slot.packet = null_mut();
            sent.add(slot, good);
            tail = tail.wrapping_add(1);
        }
        self.tail.store(tail, Ordering::Release);
    }

    fn wake(&self, sent: &Sent) {
        let stack = self.stack.as_ptr();
        // SAFETY: the stack's queue lives as long as its device.
        unsafe {
            bindings::vrnic_tx_completed(stack, sent.packets, sent.bytes);
            // As in `stop_if_full`.
            fence(Ordering::SeqCst);
            if bindings::vrnic_tx_stopped(stack) && self.free() >= ENOUGH {
                bindings::netif_tx_wake_queue(stack);
            }
        }
    }

    /// Asks for an interrupt; true if there is something to clean already.
    ///
    /// # Safety
    /// The caller is the cleaner.
    pub(super) unsafe fn arm(&self) -> bool {
        // SAFETY: by the contract of this function.
        let cq = unsafe { &mut *self.cq.get() };
        cq.arm(false).unwrap_or(false)
    }
}
