//! Creating and destroying queue pairs.
//!
//! The buffer holds the receive ring and, from the next basic block on, the send ring; each has a
//! slot of the same doorbell page. A queue pair that is gone leaves nothing behind: its number is
//! not found any more by packets, timers and the list of those ready.

use vrnic_abi::admin::{CreateQp, ObjectReference, QpFlags, QpType, Status};
use vrnic_abi::wqe::{BASIC_BLOCK, SEGMENT};

use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::env::WorkQueues;
use crate::frontend::function::Function;
use crate::frontend::queue_pairs::QueuePair;
use crate::frontend::ring::{ReceiveRing, SendRing};
use crate::host::Host;
use crate::resource::{Owner, PageMap, WindowList, limits};
use crate::transport::{Kind, Qp, QpConfig};
use crate::types::Qpn;

impl Function {
    pub(super) fn check_qp(&self, body: &CreateQp) -> Result<u64, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(CreateQp, pd)));
        }
        if self.objects.cqs.get(body.send_cq).is_none() {
            return Err(no_such(argument!(CreateQp, send_cq)));
        }
        if self.objects.cqs.get(body.receive_cq).is_none() {
            return Err(no_such(argument!(CreateQp, receive_cq)));
        }
        if body.srq != 0 {
            return Err(Refusal::new(Status::Unsupported, argument!(CreateQp, srq)));
        }
        self.check_page(body.doorbell_page, argument!(CreateQp, doorbell_page))?;
        let kind = kind(body)?;
        if body.log_send_blocks > limits::LOG_SEND_BLOCKS {
            return Err(bad(argument!(CreateQp, log_send_blocks)));
        }
        if body.log_receive_entries > limits::LOG_RECEIVE_ENTRIES {
            return Err(bad(argument!(CreateQp, log_receive_entries)));
        }
        if body.log_receive_segments > limits::LOG_RECEIVE_SEGMENTS {
            return Err(bad(argument!(CreateQp, log_receive_segments)));
        }
        let flags = QpFlags::from_bits(body.flags).ok_or(bad(argument!(CreateQp, flags)))?;
        if flags.contains(QpFlags::STRIP_VLAN) && kind != Kind::Raw {
            return Err(bad(argument!(CreateQp, flags)));
        }
        if body.xrcd != 0 {
            return Err(Refusal::new(Status::Unsupported, argument!(CreateQp, xrcd)));
        }
        if !self.qps.has_room(kind == Kind::Gsi) {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok(send_offset(body) + ((BASIC_BLOCK as u64) << body.log_send_blocks))
    }

    pub(super) fn create_qp<H: Host>(
        &mut self,
        host: &H,
        body: &CreateQp,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let page = body.doorbell_page;
        let send_slot = self.allocate_slot(host, page, Owner::Send(0))?;
        let receive_slot = match self.allocate_slot(host, page, Owner::Receive(0)) {
            Ok(slot) => slot,
            Err(refusal) => {
                self.objects.doorbells.free_slot(page, send_slot);
                return Err(refusal);
            }
        };
        let kind = kind(body)?;
        let slots = (send_slot, receive_slot);
        let made = self.qps.insert_with(kind == Kind::Gsi, |qpn| {
            new_qp(qpn, kind, body, pages, slots)
        });
        for cqn in [body.send_cq, body.receive_cq] {
            if let (Some(cq), Some(qpn)) = (self.objects.cqs.get_mut(cqn), made) {
                cq.users.push(qpn);
            }
        }
        self.use_pd(body.pd, true);
        self.name_slot(made, page, receive_slot, Owner::Receive)?;
        let reply = self.name_slot(made, page, send_slot, Owner::Send)?;
        Ok(Reply {
            result0: reply.result0,
            result1: u64::from(send_slot) | u64::from(receive_slot) << 16,
        })
    }

    pub(super) fn destroy_qp(&mut self, qpn: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let mut qp = self.qps.remove(qpn).ok_or(no_such(at))?;
        self.objects.keys.unbind_all(&mut qp.queues.windows);
        let queues = &qp.queues;
        for cqn in [queues.send_cq, queues.receive_cq] {
            if let Some(cq) = self.objects.cqs.get_mut(cqn) {
                cq.users.retain(|user| *user != qpn);
            }
        }
        for (page, slot) in queues.doorbells() {
            self.objects.doorbells.free_slot(page, slot);
        }
        if let Some(index) = qp.gid {
            self.objects.gids.release(index);
        }
        self.use_pd(queues.pd, false);
        self.forget_pages(&queues.pages);
        Ok(Reply::default())
    }
}
/// Where the send queue starts in a queue pair's buffer.
fn send_offset(body: &CreateQp) -> u64 {
    let entry = (SEGMENT as u64) << body.log_receive_segments;
    (entry << body.log_receive_entries).next_multiple_of(BASIC_BLOCK as u64)
}

fn new_qp(
    qpn: u32,
    kind: Kind,
    body: &CreateQp,
    pages: PageMap,
    (send_slot, receive_slot): (u32, u32),
) -> QueuePair {
    let page = body.doorbell_page;
    let flags = QpFlags::from_bits_truncate(body.flags);
    let transport = Qp::new(QpConfig {
        qpn: Qpn::new(qpn),
        kind,
        max_initiator_depth: limits::READ_DEPTH,
        max_responder_resources: limits::READ_DEPTH,
    });
    let send = SendRing::new(send_offset(body), body.log_send_blocks, (page, send_slot));
    let receive = ReceiveRing::new(
        body.log_receive_entries,
        body.log_receive_segments,
        (page, receive_slot),
    );
    let queues = WorkQueues {
        qpn,
        pd: body.pd,
        send_cq: body.send_cq,
        receive_cq: body.receive_cq,
        signal_all: flags.contains(QpFlags::SIGNAL_ALL),
        privileged: flags.contains(QpFlags::PRIVILEGED),
        kind,
        windows: WindowList::default(),
        pages,
        send: Some(send),
        receive: Some(receive),
    };
    QueuePair::new(transport, queues)
}

/// The type of the queue pair that is wanted.
fn kind(body: &CreateQp) -> Result<Kind, Refusal> {
    let at = argument!(CreateQp, qp_type);
    match QpType::from_raw(body.qp_type).ok_or(bad(at))? {
        QpType::Rc => Ok(Kind::Rc),
        QpType::Uc => Ok(Kind::Uc),
        QpType::Ud => Ok(Kind::Ud),
        QpType::Gsi => Ok(Kind::Gsi),
        QpType::RawPacket | QpType::XrcInitiator | QpType::XrcTarget => {
            Err(Refusal::new(Status::Unsupported, at))
        }
    }
}

/// How the interface names a type of queue pairs.
pub(super) const fn type_code(kind: Kind) -> QpType {
    match kind {
        Kind::Rc => QpType::Rc,
        Kind::Uc => QpType::Uc,
        Kind::Ud => QpType::Ud,
        Kind::Gsi => QpType::Gsi,
        Kind::Raw => QpType::RawPacket,
        Kind::XrcInitiator => QpType::XrcInitiator,
        Kind::XrcTarget => QpType::XrcTarget,
    }
}
