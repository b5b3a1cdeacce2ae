//! Transitions of queue pairs: the attributes of each, and which of them the device shall take.
//!
//! States are those of InfiniBand Architecture volume 1, 10.3.1, attributes those of 11.2.5.2.

use vrnic_abi::admin::{AccessFlags, QpType};
use vrnic_abi::object::{AddressVector, PathMtu, QpAttributes, QpMask, QpState};

use crate::qp::service;

/// How to connect a queue pair. What the queue pair's type does not have is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The peer's queue pair number.
    pub remote_qpn: u32,
    /// Where the peer is; `mac`, `gid` and `sgid_index` are what matters.
    pub path: AddressVector,
    /// Path MTU.
    pub mtu: PathMtu,
    /// Sequence number of the first request to send, 24 bits.
    pub send_psn: u32,
    /// Sequence number of the first request expected, 24 bits.
    pub receive_psn: u32,
    /// READ and atomic operations answered at a time.
    pub responder_resources: u8,
    /// READ and atomic operations in flight.
    pub initiator_depth: u8,
    /// RNR NAK timer code to send, 0 to 31.
    pub min_rnr_timer: u8,
    /// Local ack timeout: 4.096 µs times 2 to this power.
    pub timeout: u8,
    /// Retries after timeouts, 0 to 7.
    pub retry_count: u8,
    /// Retries after RNR NAKs, 0 to 7; 7 is without limit.
    pub rnr_retry: u8,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            remote_qpn: 0,
            path: AddressVector::default(),
            mtu: PathMtu::Mtu1024,
            send_psn: 0,
            receive_psn: 0,
            responder_resources: 4,
            initiator_depth: 4,
            min_rnr_timer: 12,
            timeout: 17,
            retry_count: 7,
            rnr_retry: 7,
        }
    }
}

/// Attributes, and which of them to take.
pub(crate) type Transition = (QpAttributes, QpMask);

fn attributes(state: QpState) -> QpAttributes {
    QpAttributes {
        state: state.raw(),
        ..QpAttributes::default()
    }
}

/// To `state`, which needs nothing more.
pub(crate) fn state(state: QpState) -> Transition {
    (attributes(state), QpMask::STATE)
}

/// RESET to INIT of a connected queue pair.
pub(crate) fn init(access: AccessFlags) -> Transition {
    let attributes = QpAttributes {
        port: 1,
        access: access.bits(),
        ..attributes(QpState::Init)
    };
    let mask = QpMask::STATE | QpMask::PORT | QpMask::PKEY_INDEX | QpMask::ACCESS;
    (attributes, mask)
}

/// RESET to INIT of a datagram queue pair.
pub(crate) fn init_datagram(qp_type: QpType, qkey: u32) -> Transition {
    let attributes = QpAttributes {
        port: 1,
        qkey,
        ..attributes(QpState::Init)
    };
    let mut mask = QpMask::STATE | QpMask::PKEY_INDEX | QpMask::QKEY;
    // Queue pair 1 is one of its port by its nature.
    mask.set(QpMask::PORT, qp_type != QpType::Gsi);
    (attributes, mask)
}

/// RESET to INIT of a raw packet queue pair.
pub(crate) fn init_raw() -> Transition {
    let attributes = QpAttributes {
        port: 1,
        ..attributes(QpState::Init)
    };
    (attributes, QpMask::STATE | QpMask::PORT)
}

/// INIT to RTR of a connected queue pair.
pub(crate) fn rtr(qp_type: QpType, connection: &Connection) -> Transition {
    let attributes = QpAttributes {
        path_mtu: connection.mtu.raw(),
        remote_qpn: connection.remote_qpn,
        receive_psn: connection.receive_psn,
        responder_resources: connection.responder_resources,
        min_rnr_timer: connection.min_rnr_timer,
        primary: connection.path,
        ..attributes(QpState::Rtr)
    };
    (attributes, service::rtr_mask(qp_type))
}

/// RTR to RTS of a connected queue pair.
pub(crate) fn rts(qp_type: QpType, connection: &Connection) -> Transition {
    let attributes = QpAttributes {
        send_psn: connection.send_psn,
        initiator_depth: connection.initiator_depth,
        timeout: connection.timeout,
        retry_count: connection.retry_count,
        rnr_retry: connection.rnr_retry,
        ..attributes(QpState::Rts)
    };
    (attributes, service::rts_mask(qp_type))
}

/// RTR to RTS of a datagram queue pair.
pub(crate) fn rts_datagram(send_psn: u32) -> Transition {
    let attributes = QpAttributes {
        send_psn,
        ..attributes(QpState::Rts)
    };
    (attributes, QpMask::STATE | QpMask::SEND_PSN)
}

/// RTS to SQD.
pub(crate) fn drain(notify: bool) -> Transition {
    let attributes = QpAttributes {
        sqd_notify: notify.into(),
        ..attributes(QpState::Sqd)
    };
    let mut mask = QpMask::STATE;
    mask.set(QpMask::EN_SQD_ASYNC_NOTIFY, notify);
    (attributes, mask)
}

/// From `current` back to RTS.
pub(crate) fn resume(current: QpState) -> Transition {
    let attributes = QpAttributes {
        current_state: current.raw(),
        ..attributes(QpState::Rts)
    };
    (attributes, QpMask::STATE | QpMask::CURRENT_STATE)
}
