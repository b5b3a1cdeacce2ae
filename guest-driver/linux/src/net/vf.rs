//! What administrators set of virtual functions on the interface of their physical one, with
//! `ip link set … vf`, and see there. All of it in sleepable context, under the RTNL lock.
//!
//! The stack counts virtual functions from 0, the device from 1; those that the kernel has enabled are
//! here. What the device's operator does not let the driver change fails with `EPERM`.

use core::ffi::c_int;

use vrnic_driver::VfChange;
use vrnic_driver::abi::admin::{VfFlags, VfLink};
use vrnic_driver::abi::object::VfAttributes;

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, EOPNOTSUPP};
use crate::net::port::Port;

/// IEEE 802.1Q tags, in network byte order.
const TAGS: u16 = (bindings::ETH_P_8021Q as u16).to_be();

/// Adds what this module does to the operations of an interface.
pub(super) const fn add(operations: bindings::net_device_ops) -> bindings::net_device_ops {
    bindings::net_device_ops {
        ndo_set_vf_mac: Some(set_mac),
        ndo_set_vf_vlan: Some(set_vlan),
        ndo_set_vf_rate: Some(set_rate),
        ndo_set_vf_spoofchk: Some(set_spoofchk),
        ndo_set_vf_trust: Some(set_trust),
        ndo_set_vf_link_state: Some(set_link_state),
        ndo_get_vf_config: Some(get_config),
        ndo_get_vf_stats: Some(get_stats),
        ..operations
    }
}

/// The device's number of a virtual function. The device refuses those that it does not have; one that
/// it has need not be this kernel's, as it may be another machine's.
fn number(vf: c_int) -> Result<u16, Errno> {
    let number = u16::try_from(vf)
        .ok()
        .and_then(|number| number.checked_add(1));
    number.ok_or(EINVAL)
}

/// # Safety
/// `netdev` is an interface of this driver that is registered.
unsafe fn change(netdev: *mut bindings::net_device, vf: c_int, change: VfChange) -> c_int {
    // SAFETY: by the contract of this function.
    let port = unsafe { Port::of(netdev) };
    let result = number(vf).and_then(|number| Ok(port.nic.driver.configure_vf(number, &change)?));
    Errno::of(result)
}

/// # Safety
/// As for [`change`].
unsafe fn query(netdev: *mut bindings::net_device, vf: c_int) -> Result<VfAttributes, Errno> {
    // SAFETY: by the contract of this function.
    let port = unsafe { Port::of(netdev) };
    let number = number(vf)?;
    Ok(port.nic.driver.query_vf(number)?)
}

/// # Safety
/// `ndo_set_vf_mac`: the stack calls it with the RTNL lock, for an interface of this driver; `mac` has
/// six bytes.
unsafe extern "C" fn set_mac(netdev: *mut bindings::net_device, vf: c_int, mac: *mut u8) -> c_int {
    // SAFETY: as above.
    unsafe {
        let settings = VfChange {
            mac: Some(mac.cast::<[u8; 6]>().read()),
            ..VfChange::default()
        };
        change(netdev, vf, settings)
    }
}

/// # Safety
/// `ndo_set_vf_vlan`: as for [`set_mac`].
unsafe extern "C" fn set_vlan(
    netdev: *mut bindings::net_device,
    vf: c_int,
    vlan: u16,
    priority: u8,
    tags: bindings::__be16,
) -> c_int {
    if tags != TAGS {
        return EOPNOTSUPP.get();
    }
    let settings = VfChange {
        vlan: Some((vlan, priority)),
        ..VfChange::default()
    };
    // SAFETY: as above.
    unsafe { change(netdev, vf, settings) }
}

/// # Safety
/// `ndo_set_vf_rate`, in Mbit/s: as for [`set_mac`].
unsafe extern "C" fn set_rate(
    netdev: *mut bindings::net_device,
    vf: c_int,
    least: c_int,
    most: c_int,
) -> c_int {
    // The device promises none.
    if least != 0 {
        return EOPNOTSUPP.get();
    }
    let Ok(most) = u32::try_from(most) else {
        return EINVAL.get();
    };
    let settings = VfChange {
        max_rate: Some(most),
        ..VfChange::default()
    };
    // SAFETY: as above.
    unsafe { change(netdev, vf, settings) }
}

/// # Safety
/// `ndo_set_vf_spoofchk`: as for [`set_mac`].
unsafe extern "C" fn set_spoofchk(
    netdev: *mut bindings::net_device,
    vf: c_int,
    check: bool,
) -> c_int {
    let settings = VfChange {
        spoof_check: Some(check),
        ..VfChange::default()
    };
    // SAFETY: as above.
    unsafe { change(netdev, vf, settings) }
}

/// # Safety
/// `ndo_set_vf_trust`: as for [`set_mac`].
unsafe extern "C" fn set_trust(netdev: *mut bindings::net_device, vf: c_int, trust: bool) -> c_int {
    let settings = VfChange {
        trust: Some(trust),
        ..VfChange::default()
    };
    // SAFETY: as above.
    unsafe { change(netdev, vf, settings) }
}

/// # Safety
/// `ndo_set_vf_link_state`: as for [`set_mac`].
unsafe extern "C" fn set_link_state(
    netdev: *mut bindings::net_device,
    vf: c_int,
    state: c_int,
) -> c_int {
    let link = match u32::try_from(state) {
        Ok(bindings::IFLA_VF_LINK_STATE_AUTO) => VfLink::Auto,
        Ok(bindings::IFLA_VF_LINK_STATE_ENABLE) => VfLink::Enabled,
        Ok(bindings::IFLA_VF_LINK_STATE_DISABLE) => VfLink::Disabled,
        _ => return EINVAL.get(),
    };
    let settings = VfChange {
        link: Some(link),
        ..VfChange::default()
    };
    // SAFETY: as above.
    unsafe { change(netdev, vf, settings) }
}

/// # Safety
/// `ndo_get_vf_config`: the stack calls it with the RTNL lock, for an interface of this driver; `to` is
/// the caller's, and filled with what stands for nothing.
unsafe extern "C" fn get_config(
    netdev: *mut bindings::net_device,
    vf: c_int,
    to: *mut bindings::ifla_vf_info,
) -> c_int {
    // SAFETY: as above.
    let found = unsafe { query(netdev, vf) };
    Errno::of(found.map(|found| {
        // SAFETY: as above.
        let to = unsafe { &mut *to };
        let has = |flag: VfFlags| u32::from(found.flags & flag.bits() != 0);
        to.vf = vf.unsigned_abs();
        for (to, byte) in to.mac.iter_mut().zip(found.mac) {
            *to = byte;
        }
        to.vlan = found.vlan.into();
        to.qos = found.priority.into();
        to.vlan_proto = TAGS;
        to.max_tx_rate = found.max_rate;
        to.spoofchk = has(VfFlags::SPOOF_CHECK);
        to.trusted = has(VfFlags::TRUST);
        to.linkstate = match VfLink::from_raw(found.link) {
            Some(VfLink::Enabled) => bindings::IFLA_VF_LINK_STATE_ENABLE,
            Some(VfLink::Disabled) => bindings::IFLA_VF_LINK_STATE_DISABLE,
            Some(VfLink::Auto) | None => bindings::IFLA_VF_LINK_STATE_AUTO,
        };
    }))
}

/// # Safety
/// `ndo_get_vf_stats`: as for [`get_config`].
unsafe extern "C" fn get_stats(
    netdev: *mut bindings::net_device,
    vf: c_int,
    to: *mut bindings::ifla_vf_stats,
) -> c_int {
    // SAFETY: as above.
    let found = unsafe { query(netdev, vf) };
    Errno::of(found.map(|found| {
        // SAFETY: as above.
        let to = unsafe { &mut *to };
        to.rx_packets = found.rx_packets;
        to.tx_packets = found.tx_packets;
        to.rx_bytes = found.rx_bytes;
        to.tx_bytes = found.tx_bytes;
        to.multicast = found.rx_multicast;
        to.rx_dropped = found.rx_dropped;
        to.tx_dropped = found.tx_dropped;
    }))
}
