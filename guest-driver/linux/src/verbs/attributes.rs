//! Attributes of queue pairs, as the kernel has them and as the device has them (InfiniBand
//! Architecture volume 1, 11.2.5.2).

use core::ffi::c_int;

use vrnic_driver::abi::admin::{AccessFlags, QpType};
use vrnic_driver::abi::object::{QpAttributes, QpMask, QpState};

use super::access;
use super::ah;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, EOPNOTSUPP};

/// Each bit of the kernel's mask and the device's.
const MASK: [(u32, QpMask); 21] = [
    (bindings::IB_QP_STATE, QpMask::STATE),
    (bindings::IB_QP_CUR_STATE, QpMask::CURRENT_STATE),
    (
        bindings::IB_QP_EN_SQD_ASYNC_NOTIFY,
        QpMask::EN_SQD_ASYNC_NOTIFY,
    ),
    (bindings::IB_QP_ACCESS_FLAGS, QpMask::ACCESS),
    (bindings::IB_QP_PKEY_INDEX, QpMask::PKEY_INDEX),
    (bindings::IB_QP_PORT, QpMask::PORT),
    (bindings::IB_QP_QKEY, QpMask::QKEY),
    (bindings::IB_QP_AV, QpMask::PRIMARY_PATH),
    (bindings::IB_QP_PATH_MTU, QpMask::PATH_MTU),
    (bindings::IB_QP_TIMEOUT, QpMask::TIMEOUT),
    (bindings::IB_QP_RETRY_CNT, QpMask::RETRY_COUNT),
    (bindings::IB_QP_RNR_RETRY, QpMask::RNR_RETRY),
    (bindings::IB_QP_RQ_PSN, QpMask::RECEIVE_PSN),
    (bindings::IB_QP_MAX_QP_RD_ATOMIC, QpMask::INITIATOR_DEPTH),
    (bindings::IB_QP_ALT_PATH, QpMask::ALTERNATE_PATH),
    (bindings::IB_QP_MIN_RNR_TIMER, QpMask::MIN_RNR_TIMER),
    (bindings::IB_QP_SQ_PSN, QpMask::SEND_PSN),
    (
        bindings::IB_QP_MAX_DEST_RD_ATOMIC,
        QpMask::RESPONDER_RESOURCES,
    ),
    (bindings::IB_QP_PATH_MIG_STATE, QpMask::MIGRATION_STATE),
    (bindings::IB_QP_DEST_QPN, QpMask::REMOTE_QPN),
    (bindings::IB_QP_RATE_LIMIT, QpMask::RATE_LIMIT),
];

/// Each state of the kernel and the device's.
const STATES: [(bindings::ib_qp_state, QpState); 7] = [
    (bindings::IB_QPS_RESET, QpState::Reset),
    (bindings::IB_QPS_INIT, QpState::Init),
    (bindings::IB_QPS_RTR, QpState::Rtr),
    (bindings::IB_QPS_RTS, QpState::Rts),
    (bindings::IB_QPS_SQD, QpState::Sqd),
    (bindings::IB_QPS_SQE, QpState::Sqe),
    (bindings::IB_QPS_ERR, QpState::Error),
];

/// The device's name for a state of the kernel.
pub(super) fn state_of(state: bindings::ib_qp_state) -> Result<QpState, Errno> {
    let found = STATES.iter().find(|names| names.0 == state);
    found.map(|names| names.1).ok_or(EINVAL)
}

/// The kernel's name for a state of the device.
pub(super) fn kernel_state(state: QpState) -> bindings::ib_qp_state {
    let found = STATES.iter().find(|names| names.1 == state);
    found.map_or(bindings::IB_QPS_ERR, |names| names.0)
}

fn mask_of(mask: u32, qp_type: QpType) -> Result<QpMask, Errno> {
    let mut left = mask;
    let mut found = QpMask::empty();
    for (kernel, device) in MASK {
        if left & kernel != 0 {
            found |= device;
            left &= !kernel;
        }
    }
    if left != 0 {
        return Err(EOPNOTSUPP);
    }
    // Queue pair 1 is one of its port by its nature, and the device wants not to be told.
    if qp_type == QpType::Gsi {
        found -= QpMask::PORT;
    }
    Ok(found)
}

/// What a modification by the kernel is to the device.
pub(super) fn to_device(
    attr: &bindings::ib_qp_attr,
    mask: u32,
    qp_type: QpType,
) -> Result<(QpAttributes, QpMask), Errno> {
    let mask = mask_of(mask, qp_type)?;
    // Of what the mask does not name, nothing is looked at; it may not even be initialized.
    let given = |bit: QpMask| mask.contains(bit);
    let mut to = QpAttributes::default();
    if given(QpMask::STATE) {
        to.state = state_of(attr.qp_state)?.raw();
    }
    if given(QpMask::CURRENT_STATE) {
        to.current_state = state_of(attr.cur_qp_state)?.raw();
    }
    if given(QpMask::ACCESS) {
        let remote = attr.qp_access_flags as u32 & !bindings::IB_ACCESS_LOCAL_WRITE;
        to.access = access::from_kernel(remote)?.bits();
    }
    if given(QpMask::PRIMARY_PATH) {
        to.primary = ah::vector(&attr.ah_attr)?;
    }
    if given(QpMask::ALTERNATE_PATH) {
        to.alternate = ah::vector(&attr.alt_ah_attr)?;
    }
    to.sqd_notify = attr.en_sqd_async_notify;
    to.pkey_index = attr.pkey_index;
    to.port = attr.port_num as u8;
    to.qkey = attr.qkey;
    to.path_mtu = attr.path_mtu as u8;
    to.timeout = attr.timeout;
    to.retry_count = attr.retry_cnt;
    to.rnr_retry = attr.rnr_retry;
    to.receive_psn = attr.rq_psn & 0xff_ffff;
    to.send_psn = attr.sq_psn & 0xff_ffff;
    to.initiator_depth = attr.max_rd_atomic;
    to.responder_resources = attr.max_dest_rd_atomic;
    to.min_rnr_timer = attr.min_rnr_timer;
    to.migration_state = attr.path_mig_state as u8;
    to.remote_qpn = attr.dest_qp_num;
    to.rate_limit = attr.rate_limit / 1000;
    Ok((to, mask))
}

/// Fills in what the device says about a queue pair.
pub(super) fn to_kernel(from: &QpAttributes, attr: &mut bindings::ib_qp_attr) {
    let state = QpState::from_raw(from.state).unwrap_or(QpState::Error);
    attr.qp_state = kernel_state(state);
    attr.cur_qp_state = attr.qp_state;
    attr.path_mtu = u32::from(from.path_mtu).max(bindings::IB_MTU_256);
    attr.path_mig_state = u32::from(from.migration_state);
    attr.qkey = from.qkey;
    attr.rq_psn = from.receive_psn;
    attr.sq_psn = from.send_psn;
    attr.dest_qp_num = from.remote_qpn;
    let flags = AccessFlags::from_bits_truncate(from.access);
    attr.qp_access_flags = access::to_kernel(flags) as c_int;
    attr.pkey_index = from.pkey_index;
    attr.sq_draining = from.sq_draining;
    attr.max_rd_atomic = from.initiator_depth;
    attr.max_dest_rd_atomic = from.responder_resources;
    attr.min_rnr_timer = from.min_rnr_timer;
    attr.port_num = u32::from(from.port).max(1);
    attr.timeout = from.timeout;
    attr.retry_cnt = from.retry_count;
    attr.rnr_retry = from.rnr_retry;
    attr.rate_limit = from.rate_limit.saturating_mul(1000);
    ah::to_kernel(&from.primary, &mut attr.ah_attr);
    ah::to_kernel(&from.alternate, &mut attr.alt_ah_attr);
}
