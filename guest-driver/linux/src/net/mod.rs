//! The Ethernet interface of a function.
//!
//! * [`port`]: what an interface is made of, from `open` to `stop`, its link;
//! * [`queue`]: a raw packet queue pair, its completion queues and the NAPI context that polls them;
//!   [`transmit`] and [`receive`]: its two halves; [`packet`]: the stack's packets;
//! * [`filter`]: which frames the function receives;
//! * [`ops`]: what the stack calls; [`ethtool`]: what administrators ask; [`statistics`]; [`vf`]: what
//!   they set of virtual functions.
//!
//! Commands are issued in sleepable context only: by `open`, `stop` and the like, which the stack
//! calls under its RTNL lock, and by work items. The hot path, `start_xmit` under the lock of a
//! transmit queue and NAPI, shares nothing between queues, and allocates nothing but buffers.
//!
//! RoCEv2 packets for an address of the function never come here: the device takes them for itself.

mod ethtool;
mod filter;
mod ops;
mod packet;
mod port;
mod queue;
mod receive;
mod statistics;
mod transmit;
mod vf;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use crate::bindings;
use crate::function::Nic;
use crate::interrupts::Part;
use crate::kernel::Errno;
use crate::kernel::errno::ENOMEM;
use port::Port;

/// A registered network device.
pub(crate) struct Interface {
    netdev: NonNull<bindings::net_device>,
    port: Box<Port>,
}

// SAFETY: the kernel's functions for network devices synchronize themselves.
unsafe impl Send for Interface {}

impl Interface {
    /// Registers the interface. Sleepable context.
    #[inline(never)]
    pub(crate) fn new(nic: &Arc<Nic>) -> Result<Self, Errno> {
        let queues = u32::from(nic.driver.completion_vectors().max(1));
        // The private part is a pointer to the port.
        let private = size_of::<*mut Port>() as core::ffi::c_int;
        // SAFETY: no more than the sizes.
        let netdev = unsafe { bindings::alloc_etherdev_mqs(private, queues, queues) };
        let netdev = NonNull::new(netdev).ok_or(ENOMEM)?;
        let port = Port::new(nic, netdev, queues as usize);
        let attributes = nic.driver.query_port();
        let result = attributes.map_err(Errno::from).and_then(|attributes| {
            ops::prepare(&port, &attributes);
            // SAFETY: allocated above, and the port lives until it was unregistered.
            unsafe {
                bindings::netif_carrier_off(netdev.as_ptr());
                Errno::check(bindings::register_netdev(netdev.as_ptr()))
            }
        });
        if let Err(errno) = result {
            // SAFETY: it is not registered.
            unsafe { bindings::free_netdev(netdev.as_ptr()) };
            return Err(errno);
        }
        // SAFETY: `drop` ends it.
        unsafe { nic.interrupts.listen(Part::Net, &*port) };
        // What has changed before anybody listened.
        port.look_at_link();
        Ok(Self { netdev, port })
    }

    /// The network device, which lives as long as the value.
    pub(crate) fn netdev(&self) -> *mut bindings::net_device {
        self.netdev.as_ptr()
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        self.port.nic.interrupts.ignore(Part::Net);
        // SAFETY: registered by `new`. It is stopped if it is up, and nobody calls it afterwards.
        unsafe { bindings::unregister_netdev(self.netdev.as_ptr()) };
        self.port.cancel();
        // SAFETY: nothing refers to it any more.
        unsafe { bindings::free_netdev(self.netdev.as_ptr()) };
    }
}
