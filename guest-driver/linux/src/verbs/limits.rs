//! What the device can do, and how much of it.

use core::ffi::c_int;

use vrnic_driver::abi::pci;
use vrnic_driver::abi::registers::{Capabilities, firmware_version};

use super::device::Shared;
use crate::bindings;
use crate::kernel::Errno;

/// Completions carry the time in nanoseconds: the clock's rate in kHz.
const CLOCK: u64 = 1_000_000;
/// Basic blocks that the smallest request of a datagram queue pair takes in a send queue. Other
/// requests of one or two data segments are no larger.
const BLOCKS_PER_REQUEST: u64 = 2;

/// Data segments of a receive request at most: the interface has no larger ones.
const RECEIVE_SEGMENTS: u32 = 16;

/// What a device with one of these capabilities announces.
const FLAGS: [(Capabilities, u64); 7] = [
    (Capabilities::XRC, bindings::IB_DEVICE_XRC),
    (
        Capabilities::FAST_REGISTRATION,
        bindings::IB_DEVICE_MEM_MGT_EXTENSIONS,
    ),
    (
        Capabilities::MEMORY_WINDOWS,
        bindings::IB_DEVICE_MEM_WINDOW | bindings::IB_DEVICE_MEM_WINDOW_TYPE_2B,
    ),
    (Capabilities::FLUSH, bindings::IB_DEVICE_FLUSH_GLOBAL),
    (Capabilities::ATOMIC_WRITE, bindings::IB_DEVICE_ATOMIC_WRITE),
    (Capabilities::RAW_PACKET, bindings::IB_DEVICE_RAW_IP_CSUM),
    (
        Capabilities::RAW_PACKET,
        bindings::IB_DEVICE_MANAGED_FLOW_STEERING,
    ),
];

/// What every device announces.
const ALWAYS: u64 = bindings::IB_DEVICE_BAD_PKEY_CNTR
    | bindings::IB_DEVICE_BAD_QKEY_CNTR
    | bindings::IB_DEVICE_CURR_QP_STATE_MOD
    | bindings::IB_DEVICE_PORT_ACTIVE_EVENT
    | bindings::IB_DEVICE_SYS_IMAGE_GUID
    | bindings::IB_DEVICE_RC_RNR_NAK_GEN;

/// A number of the core's. Whether those are signed depends on the kernel; to a process they are.
fn count<T: TryFrom<c_int> + Default>(value: impl TryInto<c_int>) -> T {
    let value = value.try_into().unwrap_or(c_int::MAX);
    T::try_from(value).unwrap_or_default()
}

/// The number with that logarithm.
fn power(log: u8) -> u64 {
    1u64.checked_shl(u32::from(log)).unwrap_or(u64::MAX)
}

impl Shared {
    /// How much of `value` there is, if the device has the capability at all.
    fn if_has<T: Default>(&self, capability: Capabilities, value: T) -> T {
        if self.has(capability) {
            value
        } else {
            T::default()
        }
    }

    fn describe(&self, to: &mut bindings::ib_device_attr) {
        self.describe_identity(to);
        self.describe_capabilities(to);
        self.describe_queues(to);
        self.describe_objects(to);
    }

    fn describe_identity(&self, to: &mut bindings::ib_device_attr) {
        let version = self.attributes().firmware_version;
        to.fw_ver = u64::from(firmware_version::MAJOR.get(version)) << 32
            | u64::from(firmware_version::MINOR.get(version)) << 16
            | u64::from(firmware_version::PATCH.get(version));
        to.vendor_id = u32::from(pci::VENDOR_ID);
        to.hw_ver = u32::from(pci::REVISION);
        // SAFETY: both devices live, and their identity does not change.
        unsafe {
            to.vendor_part_id = u32::from((*self.nic.pdev).device);
            to.sys_image_guid = (*self.ibdev.as_ptr()).node_guid;
        }
    }

    fn describe_capabilities(&self, to: &mut bindings::ib_device_attr) {
        let flags = FLAGS.iter().filter(|(capability, _)| self.has(*capability));
        to.device_cap_flags = flags.fold(ALWAYS, |all, (_, flag)| all | flag);
        let reserved_key = u64::from(bindings::IBK_LOCAL_DMA_LKEY);
        to.kernel_cap_flags = self.if_has(Capabilities::RESERVED_LKEY, reserved_key);
        to.atomic_cap = self.if_has(Capabilities::ATOMICS, bindings::IB_ATOMIC_HCA);
        let checksums = bindings::IB_RAW_PACKET_CAP_IP_CSUM;
        to.raw_packet_caps = self.if_has(Capabilities::RAW_PACKET, checksums);
        to.timestamp_mask = u64::MAX;
        to.hca_core_clock = CLOCK;
        let moderation = self.if_has(Capabilities::CQ_MODERATION, u16::MAX);
        to.cq_caps.max_cq_moderation_count = moderation;
        to.cq_caps.max_cq_moderation_period = moderation;
    }

    fn describe_queues(&self, to: &mut bindings::ib_device_attr) {
        let has = self.attributes();
        let send = power(has.log_max_send_blocks) / BLOCKS_PER_REQUEST;
        let receive = power(has.log_max_receive_entries);
        to.max_qp = count(has.max_qp);
        to.max_qp_wr = count(send.min(receive));
        to.max_send_sge = count(has.max_sge);
        to.max_recv_sge = count(has.max_sge.min(RECEIVE_SEGMENTS));
        to.max_sge_rd = count(has.max_sge);
        to.max_cq = count(has.max_cq);
        to.max_cqe = count(power(has.log_max_cq_entries));
        to.max_qp_rd_atom = count(has.max_responder_resources);
        to.max_qp_init_rd_atom = count(has.max_initiator_depth);
        let all = u64::from(has.max_responder_resources).saturating_mul(has.max_qp.into());
        to.max_res_rd_atom = count(all);
        to.max_raw_ethy_qp = self.if_has(Capabilities::RAW_PACKET, count(has.max_qp));
        if self.has(Capabilities::SRQ) {
            to.max_srq = count(has.max_srq);
            to.max_srq_wr = count(power(has.log_max_srq_entries));
            to.max_srq_sge = to.max_recv_sge;
        }
        to.local_ca_ack_delay = has.local_ack_delay;
    }

    fn describe_objects(&self, to: &mut bindings::ib_device_attr) {
        let has = self.attributes();
        to.max_mr_size = has.max_mr_size;
        to.page_size_cap = has.page_sizes;
        to.max_mr = count(has.max_mr);
        to.max_pd = count(has.max_pd);
        to.max_mw = self.if_has(Capabilities::MEMORY_WINDOWS, count(has.max_mw));
        to.max_fast_reg_page_list_len =
            self.if_has(Capabilities::FAST_REGISTRATION, has.max_fast_pages);
        to.max_ah = count(has.max_ah);
        to.max_pkeys = 1;
        if self.has(Capabilities::MULTICAST) {
            to.max_mcast_grp = count(has.max_multicast_groups);
            to.max_mcast_qp_attach = count(has.max_multicast_attachments.min(has.max_qp));
            to.max_total_mcast_qp_attach = count(has.max_multicast_attachments);
        }
    }
}

/// # Safety
/// The RDMA core calls it in process context for a device of this driver; `to` is the caller's, and
/// zeroed.
unsafe extern "C" fn query_device(
    ibdev: *mut bindings::ib_device,
    to: *mut bindings::ib_device_attr,
    _udata: *mut bindings::ib_udata,
) -> c_int {
    // SAFETY: a device of this driver, and a zeroed place of the core's.
    let (shared, to) = unsafe { (Shared::of(ibdev), &mut *to) };
    shared.describe(to);
    Errno::of(Ok(()))
}

/// Adds the operations of this module.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.query_device = Some(query_device);
}
