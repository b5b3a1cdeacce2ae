//! Which frames the function receives: filters of its raw packet queue pairs.
//!
//! Each kind of frame has one filter per queue, all alike and shared, so that the device spreads
//! frames over the queues by their hash. The kinds have the queues in the same order, so that the
//! device chooses one queue for a frame that several kinds match, and a queue gets a frame once.
//!
//! New filters are set before those that are not wanted any more are removed: on the way from one
//! set to another no frame that both want is missed.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use vrnic_driver::{Driver, Filter, FilterConfig, Frames};

use crate::bindings;
use crate::kernel::Errno;
use crate::net::queue::Queue;
use crate::platform::Kernel;

/// A kind of frames, with its filters.
struct Kind {
    frames: Frames,
    filters: Vec<Filter<Kernel>>,
}

impl Kind {
    fn new(driver: &Driver<Kernel>, queues: &[Box<Queue>], frames: Frames) -> Result<Self, Errno> {
        let mut kind = Self {
            frames,
            filters: Vec::with_capacity(queues.len()),
        };
        for queue in queues {
            let config = FilterConfig {
                frames,
                vlan: None,
                spread: true,
            };
            match driver.create_filter(queue.pair(), config) {
                Ok(filter) => kind.filters.push(filter),
                Err(error) => {
                    kind.remove();
                    return Err(error.into());
                }
            }
        }
        Ok(kind)
    }

    fn remove(&mut self) {
        for filter in &mut self.filters {
            // What the device does not remove now it removes with the queue pair.
            let _ = filter.destroy();
        }
        self.filters.clear();
    }
}

/// The filters of an interface.
#[derive(Default)]
pub(super) struct Filters {
    kinds: Vec<Kind>,
}

impl Filters {
    /// Sets the filters for `wanted`. What can be set is, even if something fails. Sleepable context.
    pub(super) fn set(
        &mut self,
        driver: &Driver<Kernel>,
        queues: &[Box<Queue>],
        wanted: &[Frames],
    ) -> Result<(), Errno> {
        let mut result = Ok(());
        for frames in wanted {
            result = self.add(driver, queues, *frames).and(result);
        }
        self.kinds.retain_mut(|kind| {
            let keep = wanted.contains(&kind.frames);
            if !keep {
                kind.remove();
            }
            keep
        });
        result
    }

    /// Adds the filters for `frames`, unless they are there. Sleepable context.
    pub(super) fn add(
        &mut self,
        driver: &Driver<Kernel>,
        queues: &[Box<Queue>],
        frames: Frames,
    ) -> Result<(), Errno> {
        if self.kinds.iter().all(|kind| kind.frames != frames) {
            self.kinds.push(Kind::new(driver, queues, frames)?);
        }
        Ok(())
    }

    /// Removes all filters. Sleepable context.
    pub(super) fn clear(&mut self) {
        self.kinds.iter_mut().for_each(Kind::remove);
        self.kinds.clear();
    }
}

/// Frames for an address.
pub(super) fn address(address: [u8; 6]) -> Frames {
    Frames::Address(address)
}

/// The kinds of frames that the stack wants, as far as there is room for filters on `queues` queues:
/// with too many addresses all frames are received, and the stack drops those it does not want.
pub(super) fn wanted(
    netdev: NonNull<bindings::net_device>,
    driver: &Driver<Kernel>,
    queues: usize,
) -> Vec<Frames> {
    // While addresses change, the old one and the new one have filters.
    let room = (driver.attributes().max_filters as usize / queues.max(1) / 2).max(4);
    let own = own_address(netdev);
    // SAFETY: the device is there.
    let flags = unsafe { (&raw const (*netdev.as_ptr()).flags).read_volatile() };
    if flags & bindings::IFF_PROMISC != 0 {
        return [Frames::Address(own), Frames::All].into();
    }
    let mut addresses: Vec<[u8; 6]> = (0..room).map(|_| [0; 6]).collect();
    // SAFETY: there is room for so many.
    let count = unsafe {
        bindings::vrnic_netdev_addresses(netdev.as_ptr(), addresses.as_mut_ptr(), room as u32)
    };
    addresses.truncate(count as usize);
    let fixed = [Frames::Address(own), Frames::Broadcast];
    if fixed.len() + count as usize > room {
        return [Frames::Address(own), Frames::All].into();
    }
    let all_multicast = flags & bindings::IFF_ALLMULTI != 0;
    let mut wanted = Vec::from(fixed);
    for found in addresses {
        let covered = all_multicast && found[0] & 1 != 0;
        if !covered && !wanted.contains(&address(found)) {
            wanted.push(address(found));
        }
    }
    if all_multicast {
        wanted.push(Frames::AllMulticast);
    }
    wanted
}

/// The interface's address.
fn own_address(netdev: NonNull<bindings::net_device>) -> [u8; 6] {
    // SAFETY: the address has six bytes. It changes under the RTNL lock, and then filters are set
    // again.
    unsafe {
        (*netdev.as_ptr())
            .dev_addr
            .cast::<[u8; 6]>()
            .read_volatile()
    }
}
