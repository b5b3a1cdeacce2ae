//! What the stack calls.

use core::ffi::{c_int, c_uint, c_void};
use core::ptr::NonNull;

use vrnic_driver::abi::object::PortAttributes;
use vrnic_driver::abi::registers::Capabilities;

use crate::bindings;
use crate::kernel::{Errno, Table};
use crate::net::ethtool;
use crate::net::packet::Packet;
use crate::net::port::Port;
use crate::net::vf;

/// Payloads that the device can be set to.
const LEAST_MTU: u32 = 576;
const MOST_MTU: u32 = 9000;
/// Jiffies after which a packet that was not sent makes the queues start over.
const PATIENCE: c_int = 5 * bindings::HZ as c_int;

/// What all of the device's packets can be offered.
const BASIC: bindings::netdev_features_t = bindings::VRNIC_F_SG
    | bindings::VRNIC_F_IP_CSUM
    | bindings::VRNIC_F_IPV6_CSUM
    | bindings::VRNIC_F_HIGHDMA;
/// What can be switched off, with [`segmentation`].
const SWITCHED: bindings::netdev_features_t = bindings::VRNIC_F_SG
    | bindings::VRNIC_F_IP_CSUM
    | bindings::VRNIC_F_IPV6_CSUM
    | bindings::VRNIC_F_RXCSUM
    | bindings::VRNIC_F_RXHASH
    | bindings::VRNIC_F_VLAN_TX
    | bindings::VRNIC_F_VLAN_RX;

static OPERATIONS: Table<bindings::net_device_ops> = Table(vf::add(bindings::net_device_ops {
    ndo_open: Some(open),
    ndo_stop: Some(stop),
    ndo_start_xmit: Some(start_xmit),
    ndo_set_rx_mode: Some(set_rx_mode),
    ndo_set_mac_address: Some(set_mac_address),
    ndo_validate_addr: Some(bindings::eth_validate_addr),
    ndo_change_mtu: Some(change_mtu),
    ndo_tx_timeout: Some(tx_timeout),
    ndo_get_stats64: Some(get_stats64),
    ndo_set_features: Some(set_features),
    ndo_features_check: Some(features_check),
    // SAFETY: operations that are not there are null.
    ..unsafe { core::mem::zeroed() }
}));

/// What the device can do about packets that are longer than a frame.
fn segmentation(port: &Port) -> bindings::netdev_features_t {
    match port.nic.driver.capabilities() {
        able if able.contains(Capabilities::SEGMENTATION) => bindings::VRNIC_F_TSO,
        _ => 0,
    }
}

/// Fills in a network device before it is registered.
pub(super) fn prepare(port: &Port, attributes: &PortAttributes) {
    // SAFETY: the device is not registered: it is ours alone.
    let netdev = unsafe { &mut *port.netdev.as_ptr() };
    netdev.netdev_ops = &raw const OPERATIONS.0;
    netdev.ethtool_ops = ethtool::operations();
    netdev.dev.parent = port.nic.device();
    netdev.watchdog_timeo = PATIENCE;
    netdev.min_mtu = LEAST_MTU;
    netdev.max_mtu = MOST_MTU;
    netdev.mtu = attributes.mtu.clamp(LEAST_MTU, MOST_MTU);
    let segmentation = segmentation(port);
    netdev.features = BASIC | SWITCHED | segmentation;
    netdev.hw_features = SWITCHED | segmentation;
    netdev.vlan_features = BASIC | segmentation;
    // SAFETY: an address of six bytes, and filled in by the kernel's own function.
    unsafe {
        bindings::vrnic_netdev_announce_filters(netdev);
        bindings::dev_addr_mod(
            netdev,
            0,
            attributes.mac.as_ptr().cast(),
            attributes.mac.len(),
        );
    }
}

/// # Safety
/// `ndo_open`: the stack calls it with the RTNL lock, for a registered interface of this driver
/// that is down.
unsafe extern "C" fn open(netdev: *mut bindings::net_device) -> c_int {
    // SAFETY: a device of this driver, as in all that follow.
    Errno::of(unsafe { Port::of(netdev) }.open())
}

/// # Safety
/// `ndo_stop`: the stack calls it with the RTNL lock, for an interface of this driver that is up.
unsafe extern "C" fn stop(netdev: *mut bindings::net_device) -> c_int {
    // SAFETY: as above.
    unsafe { Port::of(netdev) }.close();
    0
}

/// # Safety
/// `ndo_start_xmit`: the stack calls it in atomic context, with the lock of the queue that the
/// packet names, for an interface of this driver that is up. `skb` is nobody else's.
unsafe extern "C" fn start_xmit(
    skb: *mut bindings::sk_buff,
    netdev: *mut bindings::net_device,
) -> bindings::netdev_tx_t {
    if let Some(skb) = NonNull::new(skb) {
        // SAFETY: as above; the caller holds the queue's lock, and the packet is ours.
        unsafe {
            let packet = Packet(skb);
            let look = packet.look();
            Port::of(netdev).send(packet, look);
        }
    }
    bindings::NETDEV_TX_OK
}

/// # Safety
/// `ndo_features_check`: the stack calls it in atomic context for an interface of this driver,
/// about a packet that nobody changes meanwhile.
unsafe extern "C" fn features_check(
    skb: *mut bindings::sk_buff,
    _netdev: *mut bindings::net_device,
    features: bindings::netdev_features_t,
) -> bindings::netdev_features_t {
    // SAFETY: a packet that the stack has.
    unsafe {
        let features = bindings::vrnic_packet_features(skb, features);
        match NonNull::new(skb) {
            Some(skb)
                if bindings::vrnic_packet_is_cut(skb.as_ptr())
                    && !Packet(skb).look().device_cuts() =>
            {
                features & !bindings::VRNIC_F_GSO
            }
            _ => features,
        }
    }
}

/// # Safety
/// `ndo_set_rx_mode`: the stack calls it in atomic context, with the lock of the addresses, for an
/// interface of this driver.
unsafe extern "C" fn set_rx_mode(netdev: *mut bindings::net_device) {
    // SAFETY: as above.
    unsafe { Port::of(netdev) }.request_filters();
}

/// # Safety
/// `ndo_set_mac_address`: the stack calls it with the RTNL lock, for an interface of this driver;
/// `address` is a `sockaddr`.
unsafe extern "C" fn set_mac_address(
    netdev: *mut bindings::net_device,
    address: *mut c_void,
) -> c_int {
    // SAFETY: as above; the stack hands over a `sockaddr`.
    unsafe {
        let result = Errno::check(bindings::eth_prepare_mac_addr_change(netdev, address));
        let result = result.and_then(|()| {
            let data = bindings::vrnic_sockaddr_address(address).cast::<[u8; 6]>();
            Port::of(netdev).add_address(data.read())
        });
        if result.is_ok() {
            bindings::eth_commit_mac_addr_change(netdev, address);
            Port::of(netdev).request_filters();
        }
        Errno::of(result)
    }
}

/// # Safety
/// `ndo_change_mtu`: the stack calls it with the RTNL lock, for an interface of this driver.
unsafe extern "C" fn change_mtu(netdev: *mut bindings::net_device, mtu: c_int) -> c_int {
    // SAFETY: as above. Others read the value without a lock.
    unsafe {
        let place = &raw mut (*netdev).mtu;
        let old = place.read();
        let set = |mtu: u32| place.write_volatile(mtu);
        Errno::of(Port::of(netdev).change(|| set(mtu.unsigned_abs()), || set(old)))
    }
}

/// # Safety
/// `ndo_tx_timeout`: the stack calls it in atomic context for an interface of this driver.
unsafe extern "C" fn tx_timeout(netdev: *mut bindings::net_device, _queue: c_uint) {
    // SAFETY: as above.
    unsafe { Port::of(netdev) }.request_restart();
}

/// # Safety
/// `ndo_get_stats64`: the stack calls it, in any context, for an interface of this driver; `to` is
/// the caller's, and zeroed.
unsafe extern "C" fn get_stats64(
    netdev: *mut bindings::net_device,
    to: *mut bindings::rtnl_link_stats64,
) {
    // SAFETY: as above; the stack wants them in there, zeroed.
    let (port, to) = unsafe { (Port::of(netdev), &mut *to) };
    for channel in &port.channels {
        let from = &channel.statistics;
        to.rx_packets += from.rx_packets.get();
        to.rx_bytes += from.rx_bytes.get();
        to.rx_dropped += from.rx_dropped.get();
        to.rx_errors += from.rx_errors.get();
        to.tx_packets += from.tx_packets.get();
        to.tx_bytes += from.tx_bytes.get();
        to.tx_dropped += from.tx_dropped.get();
        to.tx_errors += from.tx_errors.get();
    }
}

/// # Safety
/// `ndo_set_features`: the stack calls it with the RTNL lock, for an interface of this driver.
unsafe extern "C" fn set_features(
    netdev: *mut bindings::net_device,
    features: bindings::netdev_features_t,
) -> c_int {
    let strip = features & bindings::VRNIC_F_VLAN_RX != 0;
    // SAFETY: as above.
    let port = unsafe { Port::of(netdev) };
    if strip == port.strips_tags() {
        return 0;
    }
    Errno::of(port.set_strip(strip))
}
