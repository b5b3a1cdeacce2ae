//! Performance management: the octets and packets of the port (InfiniBand Architecture volume 1,
//! 16.1).
//!
//! The core asks for them as a management agent would, for `counters` in sysfs; so may whoever
//! reaches queue pair 1. They can be read and not be reset.

use core::ffi::c_int;

use vrnic_driver::Counters;
use vrnic_driver::abi::counter::Counter;

use super::device::{PORT, Shared};
use crate::bindings;
use crate::kernel::Errno;

/// Offset of an attribute in a MAD's data: behind the MAD's header, reserved bytes come first.
const ATTRIBUTE: usize = 40;
/// Bytes of an attribute.
const LENGTH: usize = bindings::IB_MGMT_MAD_DATA as usize - ATTRIBUTE;

/// Attribute: what the agent can do.
const CLASS_PORT_INFO: u16 = 0x0001;
/// Attribute: counters of up to 32 bits.
const PORT_COUNTERS: u16 = 0x0012;
/// Attribute: counters of 64 bits.
const PORT_COUNTERS_EXTENDED: u16 = 0x001d;
/// In `ClassPortInfo`: there are counters of 64 bits.
const EXTENDED_WIDTH: u16 = 1 << 9;
/// In `ClassPortInfo`: `PortXmitWait` is counted.
const XMIT_WAIT: u16 = 1 << 12;

/// An attribute of an answer.
struct Attribute([u8; LENGTH]);

impl Attribute {
    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        if let Some(place) = self.0.get_mut(offset..offset + N) {
            place.copy_from_slice(&bytes);
        }
    }

    /// Counters of limited width stop at their largest value (16.1.3.5).
    fn put_u16(&mut self, offset: usize, value: u64) {
        self.put(
            offset,
            u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes(),
        );
    }

    fn put_u32(&mut self, offset: usize, value: u64) {
        self.put(
            offset,
            u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes(),
        );
    }

    fn put_u64(&mut self, offset: usize, value: u64) {
        self.put(offset, value.to_be_bytes());
    }

    fn class_port_info() -> Self {
        let mut to = Self([0; LENGTH]);
        to.put(0, [1, 1]);
        to.put(2, (EXTENDED_WIDTH | XMIT_WAIT).to_be_bytes());
        to
    }

    fn port_counters(from: &Counters) -> Self {
        let mut to = Self([0; LENGTH]);
        let errors = from
            .get(Counter::RxMalformed)
            .saturating_add(from.get(Counter::RxIcrcEncapsulated));
        to.put(1, [PORT as u8]);
        to.put_u16(8, errors);
        to.put_u16(14, from.get(Counter::PortXmitDiscards));
        to.put_u32(24, from.get(Counter::PortXmitData));
        to.put_u32(28, from.get(Counter::PortRcvData));
        to.put_u32(32, from.get(Counter::PortXmitPackets));
        to.put_u32(36, from.get(Counter::PortRcvPackets));
        to.put_u32(40, from.get(Counter::PortXmitWait));
        to
    }

    fn port_counters_extended(from: &Counters) -> Self {
        let mut to = Self([0; LENGTH]);
        let (sent, received) = (
            from.get(Counter::PortXmitPackets),
            from.get(Counter::PortRcvPackets),
        );
        let (sent_multicast, received_multicast) = (
            from.get(Counter::MulticastXmitPackets),
            from.get(Counter::MulticastRcvPackets),
        );
        to.put(1, [PORT as u8]);
        to.put_u64(8, from.get(Counter::PortXmitData));
        to.put_u64(16, from.get(Counter::PortRcvData));
        to.put_u64(24, sent);
        to.put_u64(32, received);
        // Multicast between functions of the device does not count as the port's.
        to.put_u64(40, sent.saturating_sub(sent_multicast));
        to.put_u64(48, received.saturating_sub(received_multicast));
        to.put_u64(56, sent_multicast);
        to.put_u64(64, received_multicast);
        to
    }
}

impl Shared {
    /// Answers a query of the performance management class; `None` is left to others.
    fn answer(
        &self,
        port: u32,
        request: &bindings::ib_mad,
    ) -> Result<Option<bindings::ib_mad>, Errno> {
        let header = &request.mad_hdr;
        if u32::from(header.mgmt_class) != bindings::IB_MGMT_CLASS_PERF_MGMT
            || u32::from(header.method) != bindings::IB_MGMT_METHOD_GET
            || port != PORT
        {
            return Ok(None);
        }
        let counters = || self.nic.driver.counters();
        let mut answer = *request;
        answer.mad_hdr.method = bindings::IB_MGMT_METHOD_GET_RESP as u8;
        let attribute = match u16::from_be(header.attr_id) {
            CLASS_PORT_INFO => Attribute::class_port_info(),
            PORT_COUNTERS => Attribute::port_counters(&counters()?),
            PORT_COUNTERS_EXTENDED => Attribute::port_counters_extended(&counters()?),
            _ => {
                let status = bindings::IB_MGMT_MAD_STATUS_UNSUPPORTED_METHOD_ATTRIB as u16;
                answer.mad_hdr.status = status.to_be();
                Attribute([0; LENGTH])
            }
        };
        if let Some(place) = answer.data.get_mut(ATTRIBUTE..) {
            place.copy_from_slice(&attribute.0);
        }
        Ok(Some(answer))
    }
}

/// # Safety
/// The RDMA core calls it in process context for a device of this driver; `request` is a whole
/// datagram, `to` the caller's.
unsafe extern "C" fn process_mad(
    ibdev: *mut bindings::ib_device,
    _flags: c_int,
    port: u32,
    _completion: *const bindings::ib_wc,
    _grh: *const bindings::ib_grh,
    request: *const bindings::ib_mad,
    to: *mut bindings::ib_mad,
    _to_size: *mut usize,
    _to_pkey_index: *mut u16,
) -> c_int {
    // SAFETY: by the contract of this function.
    let (shared, request) = unsafe { (Shared::of(ibdev), &*request) };
    let result = match shared.answer(port, request) {
        Ok(Some(answer)) => {
            // SAFETY: a place of the core's for an answer of this size.
            unsafe { to.write(answer) };
            bindings::IB_MAD_RESULT_SUCCESS | bindings::IB_MAD_RESULT_REPLY
        }
        Ok(None) => bindings::IB_MAD_RESULT_SUCCESS,
        Err(_) => bindings::IB_MAD_RESULT_FAILURE,
    };
    result as c_int
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.process_mad = Some(process_mad);
}
