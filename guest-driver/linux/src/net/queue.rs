//! A queue of the interface: a raw packet queue pair with a completion queue for each of its halves,
//! both on one interrupt vector and polled by one NAPI context.
//!
//! An interrupt schedules NAPI. A poll that finds less than its budget arms both completion queues
//! before it says that it is done: an interrupt from then on makes NAPI poll once more, and what had
//! come before makes arming say so. So nothing is missed, and completion queues are touched by who
//! polls alone.
//!
//! A queue that has ended gives packets and buffers back only when the device has confirmed that it
//! forgot the queue pair. If it does not, they remain until the function has been reset.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::ptr::NonNull;

use vrnic_driver::abi::admin::QpType;
use vrnic_driver::{CompletionQueue, CqConfig, Error, ProtectionDomain, QpConfig, QueuePair};

use crate::bindings;
use crate::kernel::Errno;
use crate::net::packet::{Look, PIECES, Packet};
use crate::net::port::Port;
use crate::net::receive::{self, Receive, Stack};
use crate::net::transmit::{self, Transmit};
use crate::platform::{Kernel, Notify};

/// Bytes of a frame besides its payload: addresses, type and two VLAN tags.
pub(super) const AROUND: u32 = 14 + 2 * 4;
/// The same, as far as the device sends it: one tag.
const AROUND_SENT: u32 = 14 + 4;

/// What an interrupt schedules. It stays where it is.
#[repr(C)]
struct Poller {
    notify: Notify,
    napi: UnsafeCell<bindings::napi_struct>,
    /// The queue, while NAPI is enabled.
    queue: UnsafeCell<Option<NonNull<Queue>>>,
}

// SAFETY: the kernel's functions for NAPI synchronize themselves.
unsafe impl Send for Poller {}

impl Poller {
    fn new(netdev: NonNull<bindings::net_device>) -> Box<Self> {
        let poller = Box::new(Self {
            notify: Notify { call: schedule },
            // SAFETY: what the stack expects of one that it does not know: all zero.
            napi: UnsafeCell::new(unsafe { MaybeUninit::zeroed().assume_init() }),
            queue: UnsafeCell::new(None),
        });
        let napi = poller.napi.get();
        // SAFETY: it stays in its box until it was removed.
        unsafe { bindings::vrnic_napi_add(netdev.as_ptr(), napi, Some(poll)) };
        poller
    }

    /// Removes it from the stack. Nothing schedules it any more, though interrupts may try.
    fn remove(&self) {
        // SAFETY: added by `new`, and disabled.
        unsafe { bindings::vrnic_napi_del(self.napi.get()) };
    }
}

/// What a completion queue's interrupt calls.
///
/// # Safety
/// `notify` is that of a poller.
unsafe fn schedule(notify: NonNull<Notify>) {
    const { assert!(offset_of!(Poller, notify) == 0) };
    // SAFETY: the first member of a poller, which lives as long as interrupts can come.
    unsafe {
        let napi = notify.cast::<Poller>().as_ref().napi.get();
        if bindings::napi_schedule_prep(napi) {
            bindings::__napi_schedule(napi);
        }
    }
}

/// # Safety
/// NAPI calls it in softirq context, once at a time, with the instance of a [`Poller`], which lives
/// until `remove`.
unsafe extern "C" fn poll(napi: *mut bindings::napi_struct, budget: i32) -> i32 {
    // SAFETY: part of a poller, whose queue is there while it is enabled.
    unsafe {
        let poller = napi.byte_sub(offset_of!(Poller, napi)).cast::<Poller>();
        match *(*poller).queue.get() {
            Some(queue) => queue.as_ref().poll(budget),
            None => 0,
        }
    }
}

/// A queue pair that others have pointers into.
struct Pair(NonNull<QueuePair<Kernel>>);

impl Pair {
    /// Creates the queue pair, in RTS. A queue pair is some hundred bytes, and moved around as a whole
    /// on the way into its box: in a frame of its own, as stacks are small.
    #[inline(never)]
    fn new(
        port: &Port,
        pd: &ProtectionDomain<Kernel>,
        send: &CompletionQueue<Kernel>,
        receive: &CompletionQueue<Kernel>,
    ) -> Result<Self, Error> {
        let config = config(port.strips_tags());
        let mut pair = port.nic.driver.create_qp(pd, send, receive, config)?;
        if let Err(error) = pair.to_rts_raw() {
            give_up(pair.destroy());
            return Err(error);
        }
        Ok(Self(NonNull::from(Box::leak(Box::new(pair)))))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: leaked by `new`, and the pointers into it are not used any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A queue. It stays where it is.
pub(super) struct Queue {
    port: NonNull<Port>,
    index: usize,
    transmit: Transmit,
    /// The poller's.
    receive: UnsafeCell<Receive>,
    pair: Pair,
    poller: Box<Poller>,
}

// SAFETY: the port and the stack's objects outlive it.
unsafe impl Send for Queue {}

impl Queue {
    /// Creates the queue with that number, with receive buffers, for packets of at most `mtu` bytes.
    /// Sleepable context. In a frame of its own, with those of its callees', as stacks are small.
    #[inline(never)]
    pub(super) fn new(
        port: &Port,
        pd: &ProtectionDomain<Kernel>,
        index: usize,
        mtu: u32,
    ) -> Result<Box<Self>, Errno> {
        let poller = Poller::new(port.netdev);
        // What was created before something failed is gone, and nothing was armed.
        let objects = create(port, pd, index, poller.notify.context());
        let (send_cq, receive_cq, pair) = objects.inspect_err(|_| poller.remove())?;
        // SAFETY: only the pointers into it are used until it is dropped.
        let (send, receive) = unsafe { (*pair.0.as_ptr()).queues() };
        let (send, receive) = (NonNull::from(send), NonNull::from(receive));
        let device = port.nic.device();
        let stack = port.transmit_queue(index);
        let mut receive = Receive::new(device, receive, receive_cq, mtu + AROUND);
        let filled = receive.fill(&port.channels[index].statistics);
        let queue = Box::new(Self {
            port: NonNull::from(port),
            index,
            transmit: Transmit::new(device, send, send_cq, mtu + AROUND_SENT, stack),
            receive: UnsafeCell::new(receive),
            pair,
            poller,
        });
        match filled {
            Ok(()) => Ok(queue),
            Err(errno) => {
                queue.end();
                Err(errno)
            }
        }
    }

    /// The queue pair, for filters.
    pub(super) fn pair(&self) -> &QueuePair<Kernel> {
        // SAFETY: nobody has it mutably; its two queues are used through their own pointers.
        unsafe { self.pair.0.as_ref() }
    }

    /// Lets NAPI poll.
    pub(super) fn enable(&self) {
        // SAFETY: NAPI is disabled; a first poll arms the completion queues.
        unsafe {
            *self.poller.queue.get() = Some(NonNull::from(self));
            bindings::napi_enable(self.poller.napi.get());
            bindings::vrnic_napi_kick(self.poller.napi.get());
        }
    }

    /// Waits until NAPI does not poll any more. Sleepable context.
    pub(super) fn disable(&self) {
        // SAFETY: enabled before.
        unsafe { bindings::napi_disable(self.poller.napi.get()) };
    }

    /// Ends the queue, which is disabled and not posted to. Sleepable context.
    pub(super) fn end(self: Box<Self>) {
        // SAFETY: the port outlives its queues.
        let nic = unsafe { &self.port.as_ref().nic };
        let Self {
            transmit,
            receive,
            mut pair,
            poller,
            ..
        } = *self;
        let (packets, mut send_cq) = transmit.into_parts();
        let (buffers, mut receive_cq) = receive.into_inner().into_parts();
        // SAFETY: the pointers into it are gone.
        let forgotten = unsafe { pair.0.as_mut() }.destroy().is_ok();
        let silent = [&mut send_cq, &mut receive_cq].map(|cq| cq.destroy().is_ok());
        nic.interrupts.synchronize(send_cq.vector());
        poller.remove();
        if !forgotten || silent != [true, true] {
            nic.remains.add(Box::new((packets, buffers, poller)));
        }
    }

    /// Sends a packet that `look` was had at.
    ///
    /// # Safety
    /// The caller holds the lock of the stack's transmit queue, and owns the packet.
    #[inline]
    pub(super) unsafe fn send(&self, port: &Port, packet: Packet, look: Look) {
        let statistics = &port.channels[self.index].statistics;
        // SAFETY: by the contract of this function.
        unsafe { self.transmit.send(packet, look, statistics) };
    }

    /// NAPI's poll.
    ///
    /// # Safety
    /// Called by NAPI.
    unsafe fn poll(&self, budget: i32) -> i32 {
        // SAFETY: the port outlives its queues.
        let port = unsafe { self.port.as_ref() };
        let statistics = &port.channels[self.index].statistics;
        // SAFETY: NAPI polls in one context at a time.
        let errors = unsafe { self.transmit.clean(budget, statistics) };
        let Ok(most @ 1..) = usize::try_from(budget) else {
            // Somebody wants to get rid of packets, and cannot take any.
            return 0;
        };
        // SAFETY: as above.
        let receive = unsafe { &mut *self.receive.get() };
        let stack = Stack {
            netdev: port.netdev,
            napi: self.poller.napi.get(),
            queue: self.index as u16,
            statistics,
        };
        let (done, failed) = receive.poll(most, &stack);
        if failed || errors > 0 {
            port.request_restart();
        }
        // SAFETY: as above.
        if done == most || receive.is_starved() || unsafe { self.arm(receive) } {
            return budget;
        }
        // SAFETY: NAPI polls, and has work left to do.
        unsafe { bindings::napi_complete_done(self.poller.napi.get(), done as i32) };
        done as i32
    }

    /// Asks for interrupts; true if there is something to poll already.
    ///
    /// # Safety
    /// As for [`Self::poll`].
    unsafe fn arm(&self, receive: &mut Receive) -> bool {
        // SAFETY: by the contract of this function.
        let sent = unsafe { self.transmit.arm() };
        receive.arm() || sent
    }
}

/// What a queue is made of on the device: two completion queues, and the queue pair in RTS.
type Objects = (CompletionQueue<Kernel>, CompletionQueue<Kernel>, Pair);

/// The device's objects of a queue. They are moved around as wholes, some hundred bytes each, so the
/// frame in which that happens is one of its own: stacks are small.
#[inline(never)]
fn create(
    port: &Port,
    pd: &ProtectionDomain<Kernel>,
    index: usize,
    context: u64,
) -> Result<Objects, Error> {
    let driver = &port.nic.driver;
    let cq = |entries: u32| {
        driver.create_cq(CqConfig {
            entries,
            completion_vector: index as u16,
            context,
            ..CqConfig::default()
        })
    };
    let mut send = cq(transmit::ENTRIES)?;
    let mut receive = cq(receive::ENTRIES).inspect_err(|_| give_up(send.destroy()))?;
    match Pair::new(port, pd, &send, &receive) {
        Ok(pair) => Ok((send, receive, pair)),
        Err(error) => {
            give_up(send.destroy());
            give_up(receive.destroy());
            Err(error)
        }
    }
}

/// If an object that nobody has used cannot be destroyed, the device has failed, and is reset.
fn give_up(_: Result<(), Error>) {}

/// How the queue pairs are created.
fn config(strip_vlan: bool) -> QpConfig {
    QpConfig {
        qp_type: QpType::RawPacket,
        send_requests: transmit::ENTRIES,
        receive_requests: receive::ENTRIES,
        send_segments: PIECES as u32,
        receive_segments: 1,
        inline: 0,
        signal_all: false,
        privileged: true,
        strip_vlan,
        ..QpConfig::default()
    }
}
