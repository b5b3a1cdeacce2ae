//! The port, and its GID table.
//!
//! The core fills the table with an entry for each address of the Ethernet interface and of the
//! interfaces on top of it, and names entries by the index that the device has them under. Only
//! RoCEv2 is spoken (InfiniBand Architecture volume 1, annex A17).

use core::ffi::{c_int, c_void};

use vrnic_driver::abi::counter::Counter;
use vrnic_driver::abi::object::{PathMtu, PortAttributes, PortState};
use vrnic_driver::abi::registers::Capabilities;

use super::device::{PORT, Shared};
use crate::bindings;
use crate::kernel::errno::EINVAL;
use crate::kernel::{Errno, compat};

/// The only partition: the default one, as a full member.
const PKEY: u16 = 0xffff;
/// What the core calls the absence of a VLAN.
const NO_VLAN: u16 = 0xffff;

/// Up to which speed in Mbit/s, what speed of a lane and how many lanes.
const RATES: [(u32, u32, u32); 9] = [
    (1_000, bindings::IB_SPEED_SDR, bindings::IB_WIDTH_1X),
    (10_000, bindings::IB_SPEED_FDR10, bindings::IB_WIDTH_1X),
    (25_000, bindings::IB_SPEED_EDR, bindings::IB_WIDTH_1X),
    (40_000, bindings::IB_SPEED_FDR10, bindings::IB_WIDTH_4X),
    (50_000, bindings::IB_SPEED_EDR, bindings::IB_WIDTH_2X),
    (100_000, bindings::IB_SPEED_EDR, bindings::IB_WIDTH_4X),
    (200_000, bindings::IB_SPEED_HDR, bindings::IB_WIDTH_4X),
    (400_000, bindings::IB_SPEED_NDR, bindings::IB_WIDTH_4X),
    (u32::MAX, bindings::IB_SPEED_XDR, bindings::IB_WIDTH_4X),
];

/// Speed and width that come closest to so many Mbit/s, rounded up.
fn rate(speed: u32) -> (u32, u32) {
    let rate = RATES.iter().find(|(most, _, _)| speed <= *most);
    rate.map_or((0, 0), |(_, speed, width)| (*speed, *width))
}

fn check_port(port: u32) -> Result<(), Errno> {
    if port == PORT { Ok(()) } else { Err(EINVAL) }
}

impl Shared {
    fn query_port(&self, port: u32, to: &mut bindings::ib_port_attr) -> Result<(), Errno> {
        check_port(port)?;
        let driver = &self.nic.driver;
        let found = driver.query_port()?;
        let counters = driver.counters()?;
        describe_port(&found, to);
        self.describe_state(&found, to);
        to.max_msg_sz = self.attributes().max_message;
        to.bad_pkey_cntr = counters.get(Counter::RxBadPkey) as u32;
        to.qkey_viol_cntr = counters.get(Counter::QkeyViolations) as u32;
        Ok(())
    }

    /// The port is as good as the Ethernet interface on it: an administrator who takes that down
    /// means both.
    fn describe_state(&self, found: &PortAttributes, to: &mut bindings::ib_port_attr) {
        let active = found.state == PortState::Active.raw() && self.interface_is_up();
        let (state, physical) = match active {
            true => (PortState::Active, bindings::IB_PORT_PHYS_STATE_LINK_UP),
            false => (PortState::Down, bindings::IB_PORT_PHYS_STATE_DISABLED),
        };
        to.state = u32::from(state.raw());
        to.phys_state = physical as u8;
    }

    fn immutable(&self, port: u32, to: &mut bindings::ib_port_immutable) -> Result<(), Errno> {
        check_port(port)?;
        let found = self.nic.driver.query_port()?;
        to.core_cap_flags = bindings::RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP;
        if self.has(Capabilities::RAW_PACKET) {
            to.core_cap_flags |= bindings::RDMA_CORE_PORT_RAW_PACKET;
        }
        to.max_mad_size = bindings::IB_MGMT_MAD_SIZE;
        to.gid_tbl_len = found.gid_entries as c_int;
        to.pkey_tbl_len = c_int::from(found.pkey_entries);
        Ok(())
    }

    /// Makes an entry of the GID table what the core says, sent from the address and the VLAN of
    /// its interface.
    fn add_gid(&self, attr: &bindings::ib_gid_attr) -> Result<(), Errno> {
        if attr.gid_type != bindings::IB_GID_TYPE_ROCE_UDP_ENCAP {
            return Err(EINVAL);
        }
        let (mut vlan, mut mac) = (NO_VLAN, [0; 6]);
        // SAFETY: an entry that the core is adding, and places for the results.
        let result =
            unsafe { bindings::rdma_read_gid_l2_fields(attr, &raw mut vlan, mac.as_mut_ptr()) };
        Errno::check(result)?;
        let vlan = if vlan == NO_VLAN { 0 } else { vlan };
        // SAFETY: all forms of a GID are the same bytes.
        let gid = unsafe { attr.gid.raw };
        let driver = &self.nic.driver;
        driver.set_gid_from(u32::from(attr.index), gid, vlan, mac)?;
        Ok(())
    }

    fn delete_gid(&self, attr: &bindings::ib_gid_attr) -> Result<(), Errno> {
        self.nic.driver.clear_gid(u32::from(attr.index))?;
        Ok(())
    }
}

fn describe_port(found: &PortAttributes, to: &mut bindings::ib_port_attr) {
    to.max_mtu = u32::from(found.max_mtu);
    to.active_mtu = u32::from(found.active_mtu);
    to.phys_mtu = PathMtu::from_raw(found.active_mtu).map_or(0, PathMtu::bytes);
    to.gid_tbl_len = found.gid_entries as c_int;
    to.set_ip_gids(1);
    to.port_cap_flags = bindings::IB_PORT_CM_SUP;
    to.pkey_tbl_len = found.pkey_entries;
    to.max_vl_num = 1;
    let (speed, width) = rate(found.speed);
    to.active_speed = speed as u16;
    to.active_width = width as u8;
}

/// # Safety
/// The RDMA core calls it in process context for a device of this driver; `to` is the caller's, and
/// zeroed.
unsafe extern "C" fn query_port(
    ibdev: *mut bindings::ib_device,
    port: u32,
    to: *mut bindings::ib_port_attr,
) -> c_int {
    // SAFETY: a device of this driver, and a zeroed place of the core's.
    let (shared, to) = unsafe { (Shared::of(ibdev), &mut *to) };
    Errno::of(shared.query_port(port, to))
}

/// # Safety
/// The RDMA core calls it in process context for a device of this driver that it registers; `to` is
/// the caller's.
unsafe extern "C" fn get_port_immutable(
    ibdev: *mut bindings::ib_device,
    port: u32,
    to: *mut bindings::ib_port_immutable,
) -> c_int {
    // SAFETY: a device of this driver, and a place of the core's.
    let (shared, to) = unsafe { (Shared::of(ibdev), &mut *to) };
    Errno::of(shared.immutable(port, to))
}

/// # Safety
/// None: no argument is looked at.
unsafe extern "C" fn get_link_layer(
    _ibdev: *mut bindings::ib_device,
    _port: u32,
) -> bindings::rdma_link_layer {
    bindings::IB_LINK_LAYER_ETHERNET
}

/// # Safety
/// The RDMA core calls it with a place of the caller's.
unsafe extern "C" fn query_pkey(
    _ibdev: *mut bindings::ib_device,
    port: u32,
    index: u16,
    to: *mut u16,
) -> c_int {
    if (port, index) != (PORT, 0) {
        return EINVAL.get();
    }
    // SAFETY: a place of the core's.
    unsafe { to.write(PKEY) };
    0
}

/// # Safety
/// The RDMA core calls it in process context for an entry of the table of a device of this driver,
/// one call at a time for each; `attr` is filled in.
unsafe extern "C" fn add_gid(
    attr: *const bindings::ib_gid_attr,
    _context: *mut *mut c_void,
) -> c_int {
    // SAFETY: an entry of a device of this driver.
    let (attr, shared) = unsafe { (&*attr, Shared::of((*attr).device)) };
    Errno::of(shared.add_gid(attr))
}

/// # Safety
/// As for [`add_gid`], for an entry that this added.
unsafe extern "C" fn del_gid(
    attr: *const bindings::ib_gid_attr,
    _context: *mut *mut c_void,
) -> c_int {
    // SAFETY: as above.
    let (attr, shared) = unsafe { (&*attr, Shared::of((*attr).device)) };
    Errno::of(shared.delete_gid(attr))
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.query_port = Some(query_port);
    ops.get_port_immutable = Some(get_port_immutable);
    ops.get_link_layer = Some(get_link_layer);
    ops.query_pkey = Some(query_pkey);
    ops.add_gid = Some(add_gid);
    ops.del_gid = Some(del_gid);
    compat::report_own_port_events(ops);
}
