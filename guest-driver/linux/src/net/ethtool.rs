//! What administrators ask about the interface, with `ethtool`. All of it in sleepable context, under
//! the RTNL lock.

use core::ffi::{c_char, c_int};
use core::fmt::Write;

use vrnic_driver::abi::counter::Counter;

use crate::bindings;
use crate::kernel::errno::EOPNOTSUPP;
use crate::kernel::{Table, Text};
use crate::net::port::Port;
use crate::net::{receive, transmit};

/// Full duplex, and a connector of no kind that has a name.
const DUPLEX_FULL: u8 = 1;
const PORT_OTHER: u8 = 0xff;
/// A speed that is not known.
const SPEED_UNKNOWN: u32 = u32::MAX;
const DUPLEX_UNKNOWN: u8 = 0xff;

static OPERATIONS: Table<bindings::ethtool_ops> = Table(bindings::ethtool_ops {
    get_drvinfo: Some(get_drvinfo),
    get_link: Some(bindings::ethtool_op_get_link),
    get_ringparam: Some(get_ringparam),
    get_channels: Some(get_channels),
    get_strings: Some(get_strings),
    get_sset_count: Some(get_sset_count),
    get_ethtool_stats: Some(get_ethtool_stats),
    get_link_ksettings: Some(get_link_ksettings),
    get_ts_info: Some(bindings::ethtool_op_get_ts_info),
    // SAFETY: operations that are not there are null.
    ..unsafe { core::mem::zeroed() }
});

/// The table of operations.
pub(super) fn operations() -> *const bindings::ethtool_ops {
    &raw const OPERATIONS.0
}

/// A name as the datasheet has it, in the kernel's style.
fn put_name(to: &mut Text<'_>, name: &str) {
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_uppercase() && index > 0 {
            to.push(b'_');
        }
        to.push(byte.to_ascii_lowercase());
    }
}

/// # Safety
/// The ethtool core calls it with the RTNL lock, for an interface of this driver; `to` is the
/// caller's.
unsafe extern "C" fn get_drvinfo(
    netdev: *mut bindings::net_device,
    to: *mut bindings::ethtool_drvinfo,
) {
    // SAFETY: a device of this driver, as in all that follow, and the stack wants the rest in there.
    let (nic, to) = unsafe { (&Port::of(netdev).nic, &mut *to) };
    let firmware = nic.driver.attributes().firmware_version;
    // A text that does not fit is cut off.
    let _ = write!(Text::new(&mut to.driver), "vrnic");
    let _ = write!(Text::new(&mut to.version), "{}", env!("CARGO_PKG_VERSION"));
    let _ = write!(
        Text::new(&mut to.fw_version),
        "{}.{}.{}",
        firmware >> 24,
        firmware >> 16 & 0xff,
        firmware & 0xffff
    );
}

/// # Safety
/// As for [`get_drvinfo`].
unsafe extern "C" fn get_link_ksettings(
    netdev: *mut bindings::net_device,
    to: *mut bindings::ethtool_link_ksettings,
) -> c_int {
    // SAFETY: as above.
    let (port, to) = unsafe { (Port::of(netdev), &mut *to) };
    // SAFETY: as above.
    let up = unsafe { bindings::ethtool_op_get_link(netdev) } != 0;
    to.base.port = PORT_OTHER;
    to.base.autoneg = 0;
    (to.base.speed, to.base.duplex) = match up {
        true => (port.speed(), DUPLEX_FULL),
        false => (SPEED_UNKNOWN, DUPLEX_UNKNOWN),
    };
    0
}

/// # Safety
/// As for [`get_drvinfo`].
unsafe extern "C" fn get_channels(
    netdev: *mut bindings::net_device,
    to: *mut bindings::ethtool_channels,
) {
    // SAFETY: as above.
    let (port, to) = unsafe { (Port::of(netdev), &mut *to) };
    to.max_combined = port.channels.len() as u32;
    to.combined_count = to.max_combined;
}

/// # Safety
/// As for [`get_drvinfo`]; what is not used may be anything.
unsafe extern "C" fn get_ringparam(
    _netdev: *mut bindings::net_device,
    to: *mut bindings::ethtool_ringparam,
    _kernel: *mut bindings::kernel_ethtool_ringparam,
    _extack: *mut bindings::netlink_ext_ack,
) {
    // SAFETY: as above.
    let to = unsafe { &mut *to };
    (to.rx_max_pending, to.rx_pending) = (receive::ENTRIES, receive::ENTRIES);
    (to.tx_max_pending, to.tx_pending) = (transmit::ENTRIES, transmit::ENTRIES);
}

/// # Safety
/// The ethtool core calls it with the RTNL lock, for an interface of this driver.
unsafe extern "C" fn get_sset_count(netdev: *mut bindings::net_device, set: c_int) -> c_int {
    if set != bindings::ETH_SS_STATS as c_int {
        return EOPNOTSUPP.get();
    }
    // SAFETY: as above.
    let port = unsafe { Port::of(netdev) };
    let own: usize = port
        .channels
        .iter()
        .map(|c| c.statistics.each().len())
        .sum();
    (own + Counter::ALL.len()) as c_int
}

/// # Safety
/// As for [`get_sset_count`]; there is room at `to` for as many names as that has told.
unsafe extern "C" fn get_strings(netdev: *mut bindings::net_device, set: u32, to: *mut u8) {
    const LENGTH: usize = bindings::ETH_GSTRING_LEN as usize;
    if set != bindings::ETH_SS_STATS {
        return;
    }
    // SAFETY: as above. The stack has room for as many names as `get_sset_count` has said.
    let (port, names) = unsafe {
        let count = get_sset_count(netdev, set as c_int) as usize;
        let names = core::slice::from_raw_parts_mut(to.cast::<[c_char; LENGTH]>(), count);
        (Port::of(netdev), names)
    };
    let mut names = names.iter_mut();
    for (index, channel) in port.channels.iter().enumerate() {
        for ((name, _), to) in channel.statistics.each().iter().zip(&mut names) {
            let _ = write!(Text::new(to), "queue{index}_{name}");
        }
    }
    for (code, to) in Counter::CODES.codes.iter().zip(&mut names) {
        put_name(&mut Text::new(to), code.name);
    }
}

/// # Safety
/// As for [`get_sset_count`]; there is room at `to` for as many numbers as that has told.
unsafe extern "C" fn get_ethtool_stats(
    netdev: *mut bindings::net_device,
    _stats: *mut bindings::ethtool_stats,
    to: *mut u64,
) {
    // SAFETY: as above.
    let (port, values) = unsafe {
        let count = get_sset_count(netdev, bindings::ETH_SS_STATS as c_int) as usize;
        (Port::of(netdev), core::slice::from_raw_parts_mut(to, count))
    };
    let mut values = values.iter_mut();
    for channel in &port.channels {
        for ((_, value), to) in channel.statistics.each().iter().zip(&mut values) {
            *to = *value;
        }
    }
    // A device that does not answer has counted nothing.
    if let Ok(counters) = port.nic.driver.counters() {
        for ((_, value), to) in counters.iter().zip(&mut values) {
            *to = value;
        }
    }
}
