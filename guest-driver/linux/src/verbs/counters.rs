//! Statistics of the port: the device's counters under the names that current RNICs have for them,
//! in `hw_counters` and for `rdma statistic`.
//!
//! The names are the interface's, in the spelling of Linux: `OutOfSequence` is `out_of_sequence`.
//! Octets and packets of the port are in [`super::pma`], too.

use core::ffi::{c_int, c_ulong};
use core::ptr::null;

use vrnic_driver::abi::counter::Counter;

use super::device::{PORT, Shared};
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::EINVAL;

/// How many there are.
const COUNT: usize = Counter::ALL.len();
/// Bytes of a name, the 0 at its end included.
const LENGTH: usize = 48;

/// Names, each ended by 0.
static NAMES: [[u8; LENGTH]; COUNT] = names();

/// What the core knows about the counters, for ever.
struct Descriptions([bindings::rdma_stat_desc; COUNT]);

// SAFETY: nobody writes it, and what it points to is static.
unsafe impl Sync for Descriptions {}

static DESCRIPTIONS: Descriptions = Descriptions(descriptions());

/// A name in the spelling of Linux.
const fn spelled(name: &str) -> [u8; LENGTH] {
    let name = name.as_bytes();
    let mut spelled = [0; LENGTH];
    let (mut from, mut to) = (0, 0);
    while from < name.len() {
        if from > 0 && name[from].is_ascii_uppercase() {
            spelled[to] = b'_';
            to += 1;
        }
        spelled[to] = name[from].to_ascii_lowercase();
        from += 1;
        to += 1;
    }
    assert!(to < LENGTH, "room for a 0");
    spelled
}

const fn names() -> [[u8; LENGTH]; COUNT] {
    let mut names = [[0; LENGTH]; COUNT];
    let mut index = 0;
    while index < COUNT {
        names[index] = spelled(Counter::CODES.codes[index].name);
        index += 1;
    }
    names
}

const fn descriptions() -> [bindings::rdma_stat_desc; COUNT] {
    let none = bindings::rdma_stat_desc {
        name: null(),
        flags: 0,
        priv_: null(),
    };
    let mut descriptions = [none; COUNT];
    let mut index = 0;
    while index < COUNT {
        descriptions[index].name = NAMES[index].as_ptr().cast();
        index += 1;
    }
    descriptions
}

impl Shared {
    /// Reads all counters, which costs no more than one.
    ///
    /// # Safety
    /// `stats` is from [`alloc_hw_port_stats`].
    unsafe fn read_counters(
        &self,
        stats: *mut bindings::rdma_hw_stats,
        port: u32,
    ) -> Result<c_int, Errno> {
        if port != PORT {
            return Err(EINVAL);
        }
        let counters = self.nic.driver.counters()?;
        for (index, (_, value)) in counters.iter().enumerate().take(COUNT) {
            // SAFETY: by the contract of this function there is room for so many, and the core
            // holds their lock.
            unsafe { (*stats).value.as_mut_ptr().add(index).write(value) };
        }
        Ok(COUNT as c_int)
    }
}

/// # Safety
/// None: no argument is looked at.
unsafe extern "C" fn alloc_hw_port_stats(
    _ibdev: *mut bindings::ib_device,
    _port: u32,
) -> *mut bindings::rdma_hw_stats {
    let lifespan = bindings::RDMA_HW_STATS_DEFAULT_LIFESPAN as c_ulong;
    // SAFETY: the descriptions live for ever, and there are so many.
    unsafe {
        bindings::rdma_alloc_hw_stats_struct(DESCRIPTIONS.0.as_ptr(), COUNT as c_int, lifespan)
    }
}

/// # Safety
/// The RDMA core calls it in process context for a device of this driver, with the lock of `stats`,
/// which are from [`alloc_hw_port_stats`].
unsafe extern "C" fn get_hw_stats(
    ibdev: *mut bindings::ib_device,
    stats: *mut bindings::rdma_hw_stats,
    port: u32,
    _index: c_int,
) -> c_int {
    // SAFETY: by the contract of this function.
    let result = unsafe { Shared::of(ibdev).read_counters(stats, port) };
    result.unwrap_or_else(Errno::get)
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.alloc_hw_port_stats = Some(alloc_hw_port_stats);
    ops.get_hw_stats = Some(get_hw_stats);
}
