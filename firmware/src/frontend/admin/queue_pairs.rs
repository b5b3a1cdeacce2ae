//! Creating and destroying queue pairs.
//!
//! The buffer holds the receive ring and, from the next basic block on, the send ring; each has a
//! slot of the same doorbell page. A queue pair that takes receives from shared receive queues has
//! no receive ring, an XRC target (IBTA volume 1, annex A14) has no ring at all. A queue pair that is gone leaves nothing behind: its number is
//! not found any more by packets, timers and the list of those ready.

use vrnic_abi::admin::{CreateQp, ObjectReference, QpFlags, QpType, Status};
use vrnic_abi::wqe::{BASIC_BLOCK, SEGMENT};

use super::Context;
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
        let kind = kind(body)?;
        let needs_pd = kind != Kind::XrcTarget || body.pd != 0;
        if needs_pd && self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(CreateQp, pd)));
        }
        self.check_relations(kind, body)?;
        let flags = QpFlags::from_bits(body.flags).ok_or(bad(argument!(CreateQp, flags)))?;
        if flags.contains(QpFlags::STRIP_VLAN) && kind != Kind::Raw {
            return Err(bad(argument!(CreateQp, flags)));
        }
        if kind == Kind::XrcTarget && !flags.is_empty() {
            return Err(bad(argument!(CreateQp, flags)));
        }
        if !self.qps.has_room(kind == Kind::Gsi) {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        let own = OwnQueues::of(kind, body);
        own.check_sizes(body)?;
        Ok(own.bytes(body))
    }

    /// Checks the objects that the queue pair is to work with, and that it names no others.
    fn check_relations(&self, kind: Kind, body: &CreateQp) -> Result<(), Refusal> {
        let completes_receives = !matches!(kind, Kind::XrcInitiator | Kind::XrcTarget);
        for (wanted, cqn, at) in [
            (
                kind.has_send_queue(),
                body.send_cq,
                argument!(CreateQp, send_cq),
            ),
            (
                completes_receives,
                body.receive_cq,
                argument!(CreateQp, receive_cq),
            ),
        ] {
            if !wanted {
                unused(cqn, at)?;
            } else if self.objects.cqs.get(cqn).is_none() {
                return Err(no_such(at));
            }
        }
        let at = argument!(CreateQp, srq);
        if !takes_srq(kind) {
            unused(body.srq, at)?;
        } else if body.srq != 0 {
            let srq = self.objects.srqs.get(body.srq).ok_or(no_such(at))?;
            if srq.extended.is_some() {
                return Err(bad(at));
            }
        }
        let at = argument!(CreateQp, xrcd);
        if kind != Kind::XrcTarget {
            unused(body.xrcd, at)?;
        } else if self.objects.xrcds.get(body.xrcd).is_none() {
            return Err(no_such(at));
        }
        let at = argument!(CreateQp, doorbell_page);
        if kind == Kind::XrcTarget {
            return unused(body.doorbell_page, at);
        }
        self.check_page(body.doorbell_page, at)
    }

    pub(super) fn create_qp<H: Host>(
        &mut self,
        host: &H,
        body: &CreateQp,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let kind = kind(body)?;
        let own = OwnQueues::of(kind, body);
        let page = body.doorbell_page;
        let slots = self.allocate_slots(host, page, own)?;
        let made = self.qps.insert_with(kind == Kind::Gsi, |qpn| {
            new_qp(qpn, kind, body, pages, slots)
        });
        for cqn in [body.send_cq, body.receive_cq] {
            if let (Some(cq), Some(_)) = (self.objects.cqs.get_mut(cqn), made) {
                cq.users = cq.users.saturating_add(1);
            }
        }
        self.use_pd(body.pd, true);
        self.use_srq(body.srq, true);
        self.use_xrcd(body.xrcd, true);
        if let Some(slot) = slots.receive {
            self.name_slot(made, page, slot, Owner::Receive)?;
        }
        if let Some(slot) = slots.send {
            self.name_slot(made, page, slot, Owner::Send)?;
        }
        let number = made.ok_or(Refusal::new(Status::NoResources, 0))?;
        let [send, receive] = [slots.send, slots.receive].map(|slot| slot.unwrap_or(0));
        Ok(Reply {
            result0: number.into(),
            result1: u64::from(send) | u64::from(receive) << 16,
        })
    }

    /// Allocates a slot for each queue.
    fn allocate_slots<H: Host>(
        &mut self,
        host: &H,
        page: u32,
        own: OwnQueues,
    ) -> Result<Slots, Refusal> {
        let mut slots = Slots::default();
        // The owners are filled in when the number is known.
        if own.send {
            slots.send = Some(self.allocate_slot(host, page, Owner::Send(0))?);
        }
        if own.receive {
            let slot = self.allocate_slot(host, page, Owner::Receive(0));
            if let (Err(_), Some(send)) = (&slot, slots.send) {
                self.objects.doorbells.free_slot(page, send);
            }
            slots.receive = Some(slot?);
        }
        Ok(slots)
    }

    pub(super) fn destroy_qp<H>(
        &mut self,
        cx: &mut Context<'_, H>,
        qpn: u32,
    ) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let mut qp = self.qps.remove(qpn).ok_or(no_such(at))?;
        self.objects.keys.unbind_all(&mut qp.queues.windows);
        self.forget_receiver(cx, qpn);
        self.unlist(&qp);
        let queues = &qp.queues;
        for cqn in [queues.send_cq, queues.receive_cq] {
            if let Some(cq) = self.objects.cqs.get_mut(cqn) {
                cq.users = cq.users.saturating_sub(1);
            }
        }
        for (page, slot) in queues.doorbells() {
            self.objects.doorbells.free_slot(page, slot);
        }
        if let Some(index) = qp.gid {
            self.objects.gids.release(index);
        }
        self.use_pd(queues.pd, false);
        self.use_srq(queues.srq.unwrap_or(0), false);
        self.use_xrcd(queues.xrcd.unwrap_or(0), false);
        self.forget_pages(qp.queues.pages);
        Ok(Reply::default())
    }
}

/// Which work queues a queue pair has itself, in its buffer.
#[derive(Clone, Copy, Debug)]
struct OwnQueues {
    send: bool,
    receive: bool,
}

/// The slots of those queues.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    send: Option<u32>,
    receive: Option<u32>,
}

impl OwnQueues {
    fn of(kind: Kind, body: &CreateQp) -> Self {
        let extended = matches!(kind, Kind::XrcInitiator | Kind::XrcTarget);
        Self {
            send: kind.has_send_queue(),
            receive: !extended && body.srq == 0,
        }
    }

    /// Checks the sizes of the queues there are, and that no others are given.
    fn check_sizes(self, body: &CreateQp) -> Result<(), Refusal> {
        let limit = |exists, limit| if exists { limit } else { 0 };
        for (size, limit, at) in [
            (
                body.log_send_blocks,
                limit(self.send, limits::LOG_SEND_BLOCKS),
                argument!(CreateQp, log_send_blocks),
            ),
            (
                body.log_receive_entries,
                limit(self.receive, limits::LOG_RECEIVE_ENTRIES),
                argument!(CreateQp, log_receive_entries),
            ),
            (
                body.log_receive_segments,
                limit(self.receive, limits::LOG_RECEIVE_SEGMENTS),
                argument!(CreateQp, log_receive_segments),
            ),
        ] {
            if size > limit {
                return Err(bad(at));
            }
        }
        Ok(())
    }

    /// Where the send queue starts in the buffer.
    fn send_offset(self, body: &CreateQp) -> u64 {
        if !self.receive {
            return 0;
        }
        let entry = (SEGMENT as u64) << body.log_receive_segments;
        (entry << body.log_receive_entries).next_multiple_of(BASIC_BLOCK as u64)
    }

    /// Bytes of all queues.
    fn bytes(self, body: &CreateQp) -> u64 {
        let send = if self.send {
            (BASIC_BLOCK as u64) << body.log_send_blocks
        } else {
            0
        };
        self.send_offset(body) + send
    }
}

/// Whether receives can come from a shared receive queue of type Basic. What the connection manager
/// and raw packets receive is theirs alone.
const fn takes_srq(kind: Kind) -> bool {
    matches!(kind, Kind::Rc | Kind::Uc | Kind::Ud)
}

/// An argument without a meaning for the type of the queue pair.
fn unused(value: u32, at: u32) -> Result<(), Refusal> {
    if value == 0 { Ok(()) } else { Err(bad(at)) }
}

fn new_qp(qpn: u32, kind: Kind, body: &CreateQp, pages: PageMap, slots: Slots) -> QueuePair {
    let page = body.doorbell_page;
    let flags = QpFlags::from_bits_truncate(body.flags);
    let transport = Qp::new(QpConfig {
        qpn: Qpn::new(qpn),
        kind,
        max_initiator_depth: limits::READ_DEPTH,
        max_responder_resources: limits::READ_DEPTH,
    });
    let offset = OwnQueues::of(kind, body).send_offset(body);
    let send = slots
        .send
        .map(|slot| SendRing::new(offset, body.log_send_blocks, (page, slot)));
    let (entries, segments) = (body.log_receive_entries, body.log_receive_segments);
    let receive = slots
        .receive
        .map(|slot| ReceiveRing::new(entries, segments, (page, slot)));
    let queues = WorkQueues {
        qpn,
        pd: body.pd,
        send_cq: body.send_cq,
        receive_cq: body.receive_cq,
        signal_all: flags.contains(QpFlags::SIGNAL_ALL),
        privileged: flags.contains(QpFlags::PRIVILEGED),
        strip_vlan: flags.contains(QpFlags::STRIP_VLAN),
        waits: false,
        kind,
        template: None,
        windows: WindowList::default(),
        pages,
        send,
        receive,
        srq: (body.srq != 0).then_some(body.srq),
        xrcd: (body.xrcd != 0).then_some(body.xrcd),
        held: None,
        trouble: None,
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
        QpType::RawPacket => Ok(Kind::Raw),
        QpType::XrcInitiator => Ok(Kind::XrcInitiator),
        QpType::XrcTarget => Ok(Kind::XrcTarget),
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
