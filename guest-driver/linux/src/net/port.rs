//! What an interface is made of, from `open` to `stop`, and its link.
//!
//! The *state* (queues and filters) changes under a mutex, in sleepable context. The hot path
//! reaches a queue through its *channel*, which the stack's transmit queue with that number has for
//! good: a channel without a queue drops packets. Before queues end, the channels are emptied and
//! each transmit queue's lock was taken once, so that no poster has one any more.
//!
//! A queue whose requests fail, or do not complete, is started over by a work item, with all others.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::object::{PortAttributes, PortState};
use vrnic_driver::{AsyncEvent, Level, ProtectionDomain};

use crate::bindings;
use crate::function::Nic;
use crate::interrupts::Listener;
use crate::kernel::Errno;
use crate::kernel::errno::ENODEV;
use crate::kernel::lock::Mutex;
use crate::kernel::work::Work;
use crate::net::filter::{self, Filters};
use crate::net::packet::{Look, Packet};
use crate::net::queue::Queue;
use crate::net::statistics::Statistics;
use crate::platform::Kernel;

/// What a transmit queue of the stack has for good.
pub(super) struct Channel {
    /// Null while there is none.
    queue: AtomicPtr<Queue>,
    pub(super) statistics: Statistics,
}

/// What is there while the interface is up.
#[derive(Default)]
struct State {
    filters: Filters,
    #[expect(clippy::vec_box, reason = "channels have pointers to them")]
    queues: Vec<Box<Queue>>,
    pd: Option<ProtectionDomain<Kernel>>,
}

/// An interface. It stays where it is, and outlives the network device's use of it.
pub(super) struct Port {
    pub(super) nic: Arc<Nic>,
    pub(super) netdev: NonNull<bindings::net_device>,
    pub(super) channels: Box<[Channel]>,
    state: Mutex<State>,
    /// VLAN tags are taken out of received frames.
    strip: AtomicBool,
    /// Speed of the link in Mbit/s.
    speed: AtomicU32,
    /// What was last said about the interface.
    up: AtomicBool,
    link: Work,
    filtering: Work,
    restarting: Work,
}

// SAFETY: the network device outlives the port's use of it, and its functions synchronize.
unsafe impl Send for Port {}
// SAFETY: as above.
unsafe impl Sync for Port {}

impl Listener for Port {
    fn event(&self, event: &AsyncEvent) {
        if matches!(event.event, EventType::PortUp | EventType::PortDown) {
            self.look_at_link();
        }
    }
}

impl Port {
    /// Makes the port of `netdev`, whose private part then points to it.
    pub(super) fn new(
        nic: &Arc<Nic>,
        netdev: NonNull<bindings::net_device>,
        queues: usize,
    ) -> Box<Self> {
        let channel = || Channel {
            queue: AtomicPtr::new(null_mut()),
            statistics: Statistics::default(),
        };
        let mut port = Box::new(Self {
            nic: Arc::clone(nic),
            netdev,
            channels: (0..queues).map(|_| channel()).collect(),
            state: Mutex::new(State::default()),
            strip: AtomicBool::new(true),
            speed: AtomicU32::new(0),
            up: AtomicBool::new(false),
            link: Work::new(),
            filtering: Work::new(),
            restarting: Work::new(),
        });
        let data = core::ptr::from_mut(&mut *port).cast();
        // SAFETY: in their place, and nobody has them yet.
        unsafe {
            port.link.init(look_at_link);
            port.filtering.init(set_filters);
            port.restarting.init(restart);
            bindings::vrnic_set_netdev_data(netdev.as_ptr(), data);
        }
        port
    }

    /// The port of a network device.
    ///
    /// # Safety
    /// It is one of this driver, and the value does not outlive the operation on it.
    #[inline]
    pub(super) unsafe fn of<'a>(netdev: *mut bindings::net_device) -> &'a Self {
        // SAFETY: set by `new`, and the port lives until the device was unregistered.
        unsafe { &*bindings::vrnic_netdev_data(netdev).cast::<Self>() }
    }

    /// Ends what work items do. Nobody asks for more.
    pub(super) fn cancel(&self) {
        for work in [&self.link, &self.filtering, &self.restarting] {
            work.cancel();
        }
    }

    /// The stack's transmit queue with that number.
    pub(super) fn transmit_queue(&self, index: usize) -> NonNull<bindings::netdev_queue> {
        debug_assert!(index < self.channels.len());
        // SAFETY: the device was allocated with as many queues as there are channels.
        unsafe { NonNull::new_unchecked((*self.netdev.as_ptr())._tx.add(index)) }
    }

    /// Largest payload.
    pub(super) fn mtu(&self) -> u32 {
        // SAFETY: the device is there.
        unsafe { (&raw const (*self.netdev.as_ptr()).mtu).read_volatile() }
    }

    pub(super) fn strips_tags(&self) -> bool {
        self.strip.load(Ordering::Relaxed)
    }

    /// Speed of the link in Mbit/s.
    pub(super) fn speed(&self) -> u32 {
        self.speed.load(Ordering::Relaxed)
    }

    /// Brings the interface up. Sleepable context, under the RTNL lock.
    pub(super) fn open(&self) -> Result<(), Errno> {
        self.state.with(|state| self.start(state))?;
        self.look_at_link();
        Ok(())
    }

    /// Takes it down. Sleepable context, under the RTNL lock.
    pub(super) fn close(&self) {
        self.state.with(|state| self.stop(state));
        self.look_at_link();
    }

    /// Does `change` while the interface is down, if it is up otherwise. If it does not come up
    /// again, `undo` is done, and it is tried once more. Sleepable context, under the RTNL lock.
    pub(super) fn change(&self, change: impl FnOnce(), undo: impl FnOnce()) -> Result<(), Errno> {
        // SAFETY: the device is there.
        if !unsafe { bindings::vrnic_netdev_running(self.netdev.as_ptr()) } {
            change();
            return Ok(());
        }
        let result = self.state.with(|state| {
            self.stop(state);
            change();
            self.start(state).inspect_err(|_| {
                undo();
                // It stays down if that fails, too: packets are dropped.
                let _ = self.start(state);
            })
        });
        // SAFETY: as above. Packets have waited in the stack.
        unsafe { bindings::vrnic_tx_wake_all(self.netdev.as_ptr()) };
        result
    }

    /// Whether VLAN tags are to be taken out of received frames.
    pub(super) fn set_strip(&self, strip: bool) -> Result<(), Errno> {
        let set = |strip| self.strip.store(strip, Ordering::Relaxed);
        self.change(|| set(strip), || set(!strip))
    }

    fn start(&self, state: &mut State) -> Result<(), Errno> {
        self.create(state).inspect_err(|errno| {
            self.stop(state);
            self.nic.log(
                Level::Error,
                format_args!("cannot start the Ethernet interface: error {}", errno.get()),
            );
        })?;
        for (queue, channel) in state.queues.iter().zip(&self.channels) {
            queue.enable();
            let queue = core::ptr::from_ref::<Queue>(queue).cast_mut();
            channel.queue.store(queue, Ordering::Release);
        }
        // SAFETY: the device is there.
        unsafe { bindings::vrnic_tx_start_all(self.netdev.as_ptr()) };
        Ok(())
    }

    fn create(&self, state: &mut State) -> Result<(), Errno> {
        let driver = &self.nic.driver;
        if driver.is_lost() {
            return Err(ENODEV);
        }
        let mtu = self.mtu();
        driver.set_mtu(mtu)?;
        let pd = state.pd.insert(driver.create_pd()?);
        for index in 0..self.channels.len() {
            state.queues.push(Queue::new(self, pd, index, mtu)?);
        }
        let wanted = filter::wanted(self.netdev, driver, state.queues.len());
        state.filters.set(driver, &state.queues, &wanted)
    }

    fn stop(&self, state: &mut State) {
        let mut enabled = false;
        for channel in &self.channels {
            enabled |= !channel.queue.swap(null_mut(), Ordering::AcqRel).is_null();
        }
        // SAFETY: the device is there. This waits for posters.
        unsafe { bindings::vrnic_tx_disable(self.netdev.as_ptr()) };
        state.filters.clear();
        for queue in state.queues.drain(..) {
            if enabled {
                queue.disable();
            }
            queue.end();
        }
        if let Some(mut pd) = state.pd.take() {
            // If that fails the device has failed, and is reset.
            let _ = pd.destroy();
        }
    }

    /// Sends a packet, or drops it; `look` was had at it.
    ///
    /// # Safety
    /// The caller holds the lock of its transmit queue, and owns the packet.
    #[inline]
    pub(super) unsafe fn send(&self, packet: Packet, look: Look) {
        let channel = self.channels.get(look.0.queue as usize);
        let found = channel.map_or(null_mut(), |channel| channel.queue.load(Ordering::Acquire));
        // SAFETY: `stop` waits for posters before it ends the queue.
        match unsafe { found.as_ref() } {
            // SAFETY: by the contract of this function.
            Some(found) if !self.nic.driver.is_lost() => unsafe { found.send(self, packet, look) },
            _ => {
                if let Some(channel) = channel {
                    channel.statistics.tx_dropped.add(1);
                }
                // SAFETY: by the contract of this function.
                unsafe { packet.discard() };
            }
        }
    }

    /// Starts all queues over some time soon. Any context.
    pub(super) fn request_restart(&self) {
        self.restarting.schedule(0);
    }

    /// Sets the filters some time soon. Any context.
    pub(super) fn request_filters(&self) {
        self.filtering.schedule(0);
    }

    fn restart(&self) {
        // A function that is lost is about to be taken down, and what it had to send was flushed.
        if self.nic.driver.is_lost() {
            return;
        }
        let text = format_args!("starting the queues of the Ethernet interface over");
        self.nic.log(Level::Warning, text);
        // SAFETY: sleepable context, without locks.
        unsafe { bindings::rtnl_lock() };
        // What fails is in the log.
        let _ = self.change(|| (), || ());
        // SAFETY: taken above.
        unsafe { bindings::rtnl_unlock() };
    }

    /// Sets the filters that the stack wants. Sleepable context.
    pub(super) fn set_filters(&self) -> Result<(), Errno> {
        self.state.with(|state| {
            if state.queues.is_empty() {
                return Ok(());
            }
            let driver = &self.nic.driver;
            let wanted = filter::wanted(self.netdev, driver, state.queues.len());
            state.filters.set(driver, &state.queues, &wanted)
        })
    }

    /// Receives frames for one more address until the filters are set the next time. Sleepable
    /// context.
    pub(super) fn add_address(&self, address: [u8; 6]) -> Result<(), Errno> {
        self.state.with(|state| {
            if state.queues.is_empty() {
                return Ok(());
            }
            let frames = filter::address(address);
            state.filters.add(&self.nic.driver, &state.queues, frames)
        })
    }

    /// Has the work item ask the device about its link. Nobody else sets the carrier, so that of
    /// two answers the later one counts.
    pub(super) fn look_at_link(&self) {
        self.link.schedule(0);
    }

    fn link_changed(&self) {
        let Ok(attributes) = self.nic.driver.query_port() else {
            return;
        };
        self.set_link(&attributes);
    }

    fn set_link(&self, attributes: &PortAttributes) {
        self.speed.store(attributes.speed, Ordering::Relaxed);
        let up = attributes.state == PortState::Active.raw();
        // SAFETY: the device is there.
        unsafe {
            match up {
                true => bindings::netif_carrier_on(self.netdev.as_ptr()),
                false => bindings::netif_carrier_off(self.netdev.as_ptr()),
            }
        }
    }

    /// Says so if the interface has come up or gone down.
    fn tell_state(&self) {
        // SAFETY: the device is there.
        let up = unsafe { bindings::vrnic_netdev_is_up(self.netdev.as_ptr()) };
        if self.up.swap(up, Ordering::Relaxed) != up {
            self.nic.interrupts.tell_interface();
        }
    }
}

/// The port that a work item is part of.
///
/// # Safety
/// The item stands at `offset` in a port, which cancels it before it is dropped.
unsafe fn port<'a>(work: *mut bindings::work_struct, offset: usize) -> &'a Port {
    // SAFETY: by the contract of this function.
    unsafe { &*Work::from_raw(work).byte_sub(offset).cast::<Port>() }
}

/// # Safety
/// A work queue runs it, in process context, on the item `link` of a port, which cancels it before
/// it is dropped.
unsafe extern "C" fn look_at_link(work: *mut bindings::work_struct) {
    // SAFETY: initialized with this function.
    let port = unsafe { port(work, offset_of!(Port, link)) };
    port.link_changed();
    port.tell_state();
}

/// # Safety
/// As for [`look_at_link`], on the item `filtering`.
unsafe extern "C" fn set_filters(work: *mut bindings::work_struct) {
    // SAFETY: initialized with this function.
    let port = unsafe { port(work, offset_of!(Port, filtering)) };
    if let Err(errno) = port.set_filters() {
        port.nic.log(
            Level::Warning,
            format_args!("cannot set all filters of frames: error {}", errno.get()),
        );
    }
}

/// # Safety
/// As for [`look_at_link`], on the item `restarting`.
unsafe extern "C" fn restart(work: *mut bindings::work_struct) {
    // SAFETY: initialized with this function.
    unsafe { port(work, offset_of!(Port, restarting)) }.restart();
}
