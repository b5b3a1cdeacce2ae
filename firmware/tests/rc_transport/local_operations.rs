//! Work requests that no peer hears of.

use crate::bench::*;
use crate::rules::*;

const INVALIDATE: SendOperation = SendOperation::Local(LocalOperation::Invalidate(KEY));
const REFUSED: SendOperation = SendOperation::Local(LocalOperation::Invalidate(0x999));

fn post(solo: &mut Solo, cookie: u64, operation: SendOperation) {
    let mut work = work(cookie, operation, 0, 0);
    work.sges.clear();
    solo.node.sends.push_back(work);
    solo.qp.post_notify();
}

/// What was sent before may have to be sent again from the memory that the key names.
#[test]
fn an_invalidation_waits_until_all_before_it_is_complete() {
    let mut solo = Solo::new();
    solo.post(1, SEND, 0, 10);
    post(&mut solo, 2, INVALIDATE);
    solo.post(3, SEND, 0, 10);
    assert_eq!(solo.sent_psns(), [0]);
    assert!(solo.node.local.is_empty());
    solo.ack(0);
    assert_eq!(solo.sent_psns(), [1]);
    assert_eq!(solo.node.local, [LocalOperation::Invalidate(KEY)]);
    solo.ack(1);
    assert_sends(&solo, &[Outcome::Success; 3]);
}

#[test]
fn a_refusal_ends_the_queue_pair_after_those_before_it() {
    let mut solo = Solo::new();
    solo.post(1, SEND, 0, 10);
    post(&mut solo, 2, REFUSED);
    post(&mut solo, 3, INVALIDATE);
    solo.run();
    solo.ack(0);
    solo.run();
    let outcomes = [
        Outcome::Success,
        Outcome::MemoryWindowBind,
        Outcome::Flushed,
    ];
    assert_sends(&solo, &outcomes);
    assert_broken(&mut solo);
}

#[test]
fn they_work_without_acknowledgements_too() {
    let mut solo = Solo::of(Kind::Uc);
    post(&mut solo, 1, INVALIDATE);
    solo.post(2, SEND, 0, 10);
    post(&mut solo, 3, REFUSED);
    assert_eq!(solo.sent_psns(), [0]);
    let outcomes = [
        Outcome::Success,
        Outcome::Success,
        Outcome::MemoryWindowBind,
    ];
    assert_sends(&solo, &outcomes);
    assert_eq!(solo.qp.state(), State::Sqe);
}
