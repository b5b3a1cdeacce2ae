//! A send work request in progress.

use super::{SendOperation, SendWork};
use crate::pdu::{Body, Pdu, Place, SendTail, Service};
use crate::types::{Mtu, Outcome, Psn, Qpn};

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
    /// Transport service of its packets.
    pub(super) service: Service,
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

/// A run of packets of a SEND or WRITE.
pub(super) struct Run {
    /// First packet of the message that it covers.
    pub(super) packet: u32,
    /// Number of packets.
    pub(super) packets: u32,
    /// Bytes before it.
    pub(super) offset: u32,
    /// Bytes of it.
    pub(super) length: u32,
    /// It ends the message.
    pub(super) ends: bool,
}

impl Message {
    pub(super) fn new(work: SendWork) -> Self {
        Self {
            service: work.remote.reliable_service(),
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
            SendOperation::Read { .. }
                | SendOperation::Atomic { .. }
                | SendOperation::AtomicWrite { .. }
                | SendOperation::Flush { .. }
        )
    }

    /// Whether that response is one of RDMA READ: atomic writes and flushes are answered as a READ
    /// of no bytes is (IBTA volume 1, annex A19).
    pub(super) const fn awaits_read_response(&self) -> bool {
        self.awaits_response() && !matches!(self.work.operation, SendOperation::Atomic { .. })
    }

    /// Sequence numbers that are not done.
    pub(super) const fn remaining(&self) -> u32 {
        self.packets.saturating_sub(self.acked)
    }

    /// The run that starts with packet `packet`, of `most` packets at most.
    pub(super) fn run(&self, packet: u32, most: u32, mtu: Mtu) -> Run {
        let left = self.packets.saturating_sub(packet);
        let packets = left.min(most);
        let offset = packet.saturating_mul(mtu.bytes());
        let rest = self.length.saturating_sub(offset);
        Run {
            packet,
            packets,
            offset,
            length: packets.saturating_mul(mtu.bytes()).min(rest),
            ends: packets == left,
        }
    }

    /// All of a message that is one packet, whatever its length.
    pub(super) const fn whole(&self) -> Run {
        Run {
            packet: 0,
            packets: 1,
            offset: 0,
            length: self.length,
            ends: true,
        }
    }

    /// The inline data of a run, if the message has inline data.
    pub(super) fn inline_part(&self, run: &Run) -> Option<&[u8]> {
        if self.work.inline.is_empty() {
            return None;
        }
        let (offset, length) = (run.offset as usize, run.length as usize);
        self.work.inline.get(offset..offset + length)
    }

    /// The PDU of a run of packets of a SEND or WRITE.
    pub(super) fn data_pdu(&self, destination: Qpn, run: &Run, ack_request: bool) -> Pdu {
        let place = Place::new(run.packet == 0, run.ends);
        let (body, solicitable) = match self.work.operation {
            SendOperation::Write { immediate, .. } => {
                let target = self.work.operation.remote(self.length);
                let body = Body::Write {
                    place,
                    target: target.filter(|_| place.starts()),
                    immediate: immediate.filter(|_| run.ends),
                };
                (body, immediate.is_some())
            }
            SendOperation::Send(tail) => {
                let tail = if run.ends { tail } else { SendTail::None };
                (Body::Send { place, tail }, true)
            }
            // Other operations are no runs.
            _ => (Body::Congestion, false),
        };
        Pdu {
            destination,
            service: self.service,
            psn: self.first.plus(run.packet),
            packets: run.packets,
            length: run.length,
            ack_request,
            solicited: run.ends && solicitable && self.work.solicited,
            body,
        }
    }
}

/// Whether a part of a message fills its packets: all but the last entirely, and the last of
/// several not empty.
pub(super) fn fills_packets(pdu: &Pdu, place: Place, mtu: Mtu) -> bool {
    let most = u64::from(pdu.packets) * u64::from(mtu.bytes());
    let least = most.saturating_sub(mtu.bytes().into());
    let length = u64::from(pdu.length);
    match place {
        Place::First | Place::Middle => length == most,
        Place::Only if pdu.packets == 1 => length <= most,
        Place::Last | Place::Only => length > least && length <= most,
    }
}
