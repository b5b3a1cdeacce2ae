//! What the tests of single rules share.

use crate::bench::*;
pub use vrnic_abi::counter::Counter;
pub use vrnic_firmware::pdu::{
    Acknowledge, AtomicOperation, Body, FlushExtent, NakCode, Pdu, Place, Placement, RemoteRange,
    SendTail, Service, Syndrome,
};
pub use vrnic_firmware::transport::{
    AttributeSet, DatagramTarget, Kind, LocalOperation, Modify, ModifyError, Offload, Pkey,
    QpEvent, ReceiveKind, ReceiveWork, Remote, Route, SendOperation,
};
pub use vrnic_firmware::types::{Access, Mtu, Outcome, Psn, Qpn, State, Time};

pub const ACK: Syndrome = Syndrome::Ack(31);

pub const fn nak(code: NakCode) -> Syndrome {
    Syndrome::Nak(code)
}

/// The state that every fault must lead to: error, everything flushed, nothing left to do.
#[track_caller]
pub fn assert_broken(solo: &mut Solo) {
    assert_eq!(solo.qp.state(), State::Error);
    solo.run();
    assert!(solo.node.handed.is_empty() && solo.node.receives_handed.is_empty());
    assert!(solo.node.sends.is_empty() && solo.node.receives.is_empty());
    assert!(!solo.qp.has_work() && solo.qp.deadline().is_none());
}

/// How the last send ended before the flush.
#[track_caller]
pub fn assert_sends(solo: &Solo, outcomes: &[Outcome]) {
    let expected: Vec<_> = (1..).zip(outcomes.iter().copied()).collect();
    assert_eq!(solo.node.outcomes(), expected);
}

#[track_caller]
pub fn assert_receives(solo: &Solo, outcomes: &[Outcome]) {
    let got: Vec<_> = solo.node.received.iter().map(|done| done.outcome).collect();
    assert_eq!(got, outcomes);
}

pub fn atomic(offset: u64, operation: AtomicOperation) -> SendOperation {
    SendOperation::Atomic {
        address: BASE + offset,
        rkey: KEY,
        operation,
    }
}

pub fn atomic_body(offset: u64, operation: AtomicOperation) -> Body {
    Body::Atomic {
        address: BASE + offset,
        rkey: KEY,
        operation,
    }
}
