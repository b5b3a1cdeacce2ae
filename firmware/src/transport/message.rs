//! A send work request in progress.

use super::{SendOperation, SendWork};
use crate::types::{Outcome, Psn};

/// Largest message in bytes (IBTA volume 1, 9.4.1).
pub(super) const MAX_LENGTH: u32 = 1 << 31;

/// A send work request between being handed out and its completion.
///
/// `acked` counts the sequence numbers that are done: request packets acknowledged, or response
/// packets of a READ placed. A message is complete when it equals `packets`.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The request.
    pub(super) work: SendWork,
    /// Bytes of data.
    pub(super) length: u32,
    /// Its first sequence number, once started.
    pub(super) first: Psn,
    /// Sequence numbers that it takes: 0 before it is started, and if nothing is to be sent.
    pub(super) packets: u32,
    /// Sequence numbers that are done.
    pub(super) acked: u32,
    /// Request packets of all messages started before it, modulo 2^32.
    pub(super) serial: u32,
    /// It has a place in the sequence; before that it may have to wait.
    pub(super) started: bool,
    /// It failed, and says so when all messages before it are complete.
    pub(super) failed: Option<Outcome>,
}

impl Message {
    pub(super) fn new(work: SendWork) -> Self {
        Self {
            work,
            length: 0,
            first: Psn::default(),
            packets: 0,
            acked: 0,
            serial: 0,
            started: false,
            failed: None,
        }
    }

    /// Whether it ends with a response and not with an acknowledgement.
    pub(super) const fn awaits_response(&self) -> bool {
        matches!(
            self.work.operation,
            SendOperation::Read { .. } | SendOperation::Atomic { .. }
        )
    }

    /// Whether it is an RDMA READ.
    pub(super) const fn is_read(&self) -> bool {
        matches!(self.work.operation, SendOperation::Read { .. })
    }

    /// Sequence numbers that are not done.
    pub(super) const fn remaining(&self) -> u32 {
        self.packets.saturating_sub(self.acked)
    }
}
