//! The receive half of a queue, which its NAPI context alone uses.
//!
//! Each receive request is one buffer, a piece of a page that is large enough for the longest frame
//! and for what the stack wants around it, so that a packet is made of it without a copy. A frame
//! that arrives takes its buffer along; a new one takes the place. Requests complete in order, so
//! that the place of the oldest one is free when its completion was consumed.

use alloc::boxed::Box;
use core::ptr::NonNull;

use vrnic_driver::abi::cqe::{CompletionFlags, CompletionStatus};
use vrnic_driver::abi::wqe::RESERVED_LKEY;
use vrnic_driver::{Completion, CompletionQueue, ReceiveQueue, ReceiveRequest, Sge};

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::ENOMEM;
use crate::net::packet::Packet;
use crate::net::statistics::Statistics;
use crate::platform::Kernel;

/// Receive requests, a power of two.
pub(super) const ENTRIES: u32 = 512;
/// With fewer than these, somebody must see to it that more are posted.
const FEW: u32 = ENTRIES / 8;
/// Completions polled at a time.
const BATCH: usize = 16;

/// Memory that the device may write a frame to.
struct Buffer {
    memory: NonNull<u8>,
    address: u64,
}

/// The buffers that the device has. Dropping it frees them, and the device must be done with them.
pub(super) struct Ring {
    device: *mut bindings::device,
    /// Bytes of a buffer, and of the frame in it.
    size: u32,
    length: u32,
    buffers: Box<[Option<Buffer>]>,
}

// SAFETY: it is memory, and the device outlives it.
unsafe impl Send for Ring {}

impl Ring {
    fn new(device: *mut bindings::device, length: u32) -> Self {
        Self {
            device,
            // SAFETY: no more than a number.
            size: unsafe { bindings::vrnic_buffer_size(length) },
            length,
            buffers: (0..ENTRIES).map(|_| None).collect(),
        }
    }

    /// A new buffer, which the device can write to.
    #[inline]
    fn allocate(&self) -> Option<Buffer> {
        // SAFETY: callable in this context.
        let memory = unsafe { bindings::vrnic_buffer_alloc(self.size) };
        let memory = NonNull::new(memory.cast::<u8>())?;
        let mut address = 0;
        // SAFETY: the frame's place lies in the buffer, which is ours.
        let failed = unsafe {
            let place = memory.as_ptr().add(bindings::VRNIC_HEADROOM as usize);
            bindings::vrnic_buffer_map(self.device, place.cast(), self.length, &raw mut address)
        };
        if failed != 0 {
            // SAFETY: allocated above.
            unsafe { bindings::vrnic_buffer_free(memory.as_ptr().cast()) };
            return None;
        }
        Some(Buffer { memory, address })
    }

    /// Takes a buffer back from the device.
    #[inline]
    fn reclaim(&self, buffer: Buffer) -> NonNull<u8> {
        // SAFETY: mapped by `allocate`, and the device is done with it.
        unsafe {
            bindings::dma_unmap_page_attrs(
                self.device,
                buffer.address,
                self.length as _,
                bindings::DMA_FROM_DEVICE,
                0,
            );
        }
        buffer.memory
    }

    fn free(&self, buffer: Buffer) {
        let memory = self.reclaim(buffer);
        // SAFETY: allocated by `allocate`, and nobody else has it.
        unsafe { bindings::vrnic_buffer_free(memory.as_ptr().cast()) };
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for index in 0..self.buffers.len() {
            if let Some(buffer) = self.buffers[index].take() {
                self.free(buffer);
            }
        }
    }
}

/// The receive half of a queue.
pub(super) struct Receive {
    ring: Ring,
    queue: NonNull<ReceiveQueue<Kernel>>,
    cq: CompletionQueue<Kernel>,
    /// Requests ever posted.
    head: u32,
    /// Requests that the device has.
    posted: u32,
}

/// What a packet needs to reach the stack.
pub(super) struct Stack<'a> {
    pub(super) netdev: NonNull<bindings::net_device>,
    pub(super) napi: *mut bindings::napi_struct,
    /// Number of the queue.
    pub(super) queue: u16,
    pub(super) statistics: &'a Statistics,
}

impl Receive {
    /// The half of a queue that receives on `queue`, which lives as long as the value, frames of at
    /// most `length` bytes.
    pub(super) fn new(
        device: *mut bindings::device,
        queue: NonNull<ReceiveQueue<Kernel>>,
        cq: CompletionQueue<Kernel>,
        length: u32,
    ) -> Self {
        Self {
            ring: Ring::new(device, length),
            queue,
            cq,
            head: 0,
            posted: 0,
        }
    }

    /// Posts the first requests. Sleepable context.
    pub(super) fn fill(&mut self, statistics: &Statistics) -> Result<(), Errno> {
        self.refill(statistics);
        if self.posted > FEW {
            Ok(())
        } else {
            Err(ENOMEM)
        }
    }

    /// Takes it apart: the ring, which must not be dropped before the device is done with it, and
    /// the completion queue.
    pub(super) fn into_parts(self) -> (Ring, CompletionQueue<Kernel>) {
        (self.ring, self.cq)
    }

    /// Hands at most `budget` packets to the stack: how many completions there were, and whether one
    /// was an error.
    pub(super) fn poll(&mut self, budget: usize, stack: &Stack<'_>) -> (usize, bool) {
        let mut completions = [Completion::default(); BATCH];
        let (mut done, mut failed) = (0, false);
        while done < budget {
            let most = BATCH.min(budget - done);
            let count = self.cq.poll(&mut completions[..most]).unwrap_or(0);
            for completion in &completions[..count] {
                failed |= completion.status != CompletionStatus::Success;
                self.take(completion, stack);
            }
            done += count;
            if count < most {
                break;
            }
        }
        if self.posted < ENTRIES {
            self.refill(stack.statistics);
        }
        (done, failed)
    }

    /// Whether there are so few requests that polling must go on until there are more.
    pub(super) fn is_starved(&self) -> bool {
        self.posted < FEW
    }

    /// Asks for an interrupt; true if there is something to poll already.
    pub(super) fn arm(&mut self) -> bool {
        self.cq.arm(false).unwrap_or(false)
    }

    fn refill(&mut self, statistics: &Statistics) {
        // SAFETY: used by one context at a time, and it lives as long as self.
        let queue = unsafe { self.queue.as_mut() };
        while self.posted < ENTRIES {
            let Some(buffer) = self.ring.allocate() else {
                statistics.rx_no_buffer.add(1);
                break;
            };
            let place = (self.head % ENTRIES) as usize;
            let sge = Sge {
                address: buffer.address,
                length: self.ring.length,
                lkey: RESERVED_LKEY,
            };
            let request = ReceiveRequest {
                wr_id: place as u64,
                sges: &[sge],
            };
            if queue.post(&request).is_err() {
                self.ring.free(buffer);
                break;
            }
            self.ring.buffers[place] = Some(buffer);
            self.head = self.head.wrapping_add(1);
            self.posted += 1;
        }
    }

    /// Hands the frame of a completion to the stack.
    #[inline]
    fn take(&mut self, completion: &Completion, stack: &Stack<'_>) {
        let place = completion.wr_id as usize % ENTRIES as usize;
        let Some(buffer) = self.ring.buffers[place].take() else {
            return;
        };
        self.posted -= 1;
        let memory = self.ring.reclaim(buffer);
        let good = completion.status == CompletionStatus::Success
            && completion.byte_length <= self.ring.length;
        // SAFETY: the buffer is of that size, and the frame lies in it.
        let packet = unsafe {
            let memory = memory.as_ptr().cast();
            let packet = match good {
                true => {
                    bindings::vrnic_buffer_packet(memory, self.ring.size, completion.byte_length)
                }
                false => core::ptr::null_mut(),
            };
            if packet.is_null() {
                bindings::vrnic_buffer_free(memory);
            }
            NonNull::new(packet)
        };
        match packet {
            // SAFETY: it was made above.
            Some(packet) => unsafe { deliver(Packet(packet), completion, stack) },
            None if good => stack.statistics.rx_dropped.add(1),
            None => stack.statistics.rx_errors.add(1),
        }
    }
}

/// Notes what the device says about a frame, and hands it to the stack.
///
/// # Safety
/// The packet is ours, and is not used any more.
#[inline]
unsafe fn deliver(packet: Packet, completion: &Completion, stack: &Stack<'_>) {
    let statistics = stack.statistics;
    statistics.rx_packets.add(1);
    statistics.rx_bytes.add(u64::from(completion.byte_length));
    let checked = completion
        .flags
        .contains(CompletionFlags::CHECKSUM_TRANSPORT);
    let skb = packet.0.as_ptr();
    // SAFETY: by the contract of this function. Features change under the RTNL lock, and it does
    // not matter which value is seen meanwhile.
    unsafe {
        let features = (&raw const (*stack.netdev.as_ptr()).features).read_volatile();
        if checked && features & bindings::VRNIC_F_RXCSUM != 0 {
            bindings::vrnic_packet_checked(skb);
            statistics.rx_checked.add(1);
        }
        if completion.hash != 0 && features & bindings::VRNIC_F_RXHASH != 0 {
            let ports = completion.flags.contains(CompletionFlags::HASH_PORTS);
            bindings::vrnic_packet_hashed(skb, completion.hash, ports);
        }
        if completion.flags.contains(CompletionFlags::VLAN) {
            bindings::vrnic_packet_tagged(skb, completion.vlan_tag);
        }
        bindings::vrnic_packet_deliver(stack.napi, skb, stack.queue);
    }
}
