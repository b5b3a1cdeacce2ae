//! Shared receive queues and XRC domains (IBTA volume 1, 10.2.9 and annex A14).
//!
//! A queue belongs to a protection domain; one of type XRC belongs to an XRC domain too and
//! completes to a queue of its own. It cannot go while queue pairs name it. Requests name a queue of
//! type XRC from outside, so that it can go at any time: what queue pairs still have of it is taken
//! from them first.

use alloc::vec::Vec;

use vrnic_abi::admin::{CreateSrq, ModifySrq, ObjectReference, QpFlags, SrqType, Status};
use vrnic_abi::wqe::SEGMENT;

use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::function::Function;
use crate::frontend::objects::XrcDomain;
use crate::frontend::ring::ReceiveRing;
use crate::frontend::shared_receive::{Extended, SharedReceiveQueue};
use crate::host::Host;
use crate::resource::{Owner, PageMap, limits};
use crate::transport::Domain;
use crate::types::Time;

impl Function {
    pub(super) fn alloc_xrcd(&mut self) -> Result<Reply, Refusal> {
        let made = self.objects.xrcds.insert_with(|_| XrcDomain::default());
        made.map(Reply::number)
            .ok_or(Refusal::new(Status::NoResources, 0))
    }

    pub(super) fn free_xrcd(&mut self, xrcd: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let entry = self.objects.xrcds.get(xrcd).ok_or(no_such(at))?;
        if entry.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        self.objects.xrcds.remove(xrcd);
        Ok(Reply::default())
    }

    pub(super) fn use_xrcd(&mut self, xrcd: u32, more: bool) {
        if let Some(xrcd) = self.objects.xrcds.get_mut(xrcd) {
            xrcd.users = counted(xrcd.users, more);
        }
    }

    /// Counts a queue pair that was created with the shared receive queue.
    pub(super) fn use_srq(&mut self, srqn: u32, more: bool) {
        if let Some(srq) = self.objects.srqs.get_mut(srqn) {
            srq.users = counted(srq.users, more);
        }
    }

    pub(super) fn check_srq(&self, body: &CreateSrq) -> Result<u64, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(CreateSrq, pd)));
        }
        self.check_page(body.doorbell_page, argument!(CreateSrq, doorbell_page))?;
        self.check_srq_type(body)?;
        if body.log_entries > limits::LOG_SHARED_ENTRIES {
            return Err(bad(argument!(CreateSrq, log_entries)));
        }
        if body.log_segments > limits::LOG_RECEIVE_SEGMENTS {
            return Err(bad(argument!(CreateSrq, log_segments)));
        }
        let at = argument!(CreateSrq, flags);
        let flags = QpFlags::from_bits(body.flags).ok_or(bad(at))?;
        if !QpFlags::PRIVILEGED.contains(flags) {
            return Err(bad(at));
        }
        if self.objects.srqs.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok((SEGMENT as u64) << body.log_segments << body.log_entries)
    }

    /// Checks the type and what depends on it.
    fn check_srq_type(&self, body: &CreateSrq) -> Result<(), Refusal> {
        let srq_type = SrqType::from_raw(body.srq_type);
        let (xrcd_at, cq_at) = (argument!(CreateSrq, xrcd), argument!(CreateSrq, cq));
        match srq_type.ok_or(bad(argument!(CreateSrq, srq_type)))? {
            SrqType::Basic if body.xrcd != 0 => Err(bad(xrcd_at)),
            SrqType::Basic if body.cq != 0 => Err(bad(cq_at)),
            SrqType::Xrc if self.objects.xrcds.get(body.xrcd).is_none() => Err(no_such(xrcd_at)),
            SrqType::Xrc if self.objects.cqs.get(body.cq).is_none() => Err(no_such(cq_at)),
            SrqType::Basic | SrqType::Xrc => Ok(()),
        }
    }

    pub(super) fn create_srq<H: Host>(
        &mut self,
        host: &H,
        body: &CreateSrq,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let page = body.doorbell_page;
        let slot = self.allocate_slot(host, page, Owner::SharedReceive(0))?;
        let domain = Domain {
            pd: body.pd,
            privileged: QpFlags::from_bits_truncate(body.flags).contains(QpFlags::PRIVILEGED),
        };
        let extended = (body.srq_type == SrqType::Xrc.raw()).then_some(Extended {
            xrcd: body.xrcd,
            cq: body.cq,
        });
        let made = self.objects.srqs.insert_with(|number| {
            let ring = ReceiveRing::new(body.log_entries, body.log_segments, (page, slot));
            SharedReceiveQueue::new(number, domain, extended, pages, ring)
        });
        self.use_pd(body.pd, true);
        self.use_extended(extended, true);
        self.name_slot(made, page, slot, Owner::SharedReceive)
    }

    fn use_extended(&mut self, extended: Option<Extended>, more: bool) {
        let Some(Extended { xrcd, cq }) = extended else {
            return;
        };
        self.use_xrcd(xrcd, more);
        if let Some(cq) = self.objects.cqs.get_mut(cq) {
            cq.shared_users = counted(cq.shared_users, more);
        }
    }

    pub(super) fn modify_srq<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        body: &ModifySrq,
    ) -> Result<Reply, Refusal> {
        let srq = self.objects.srqs.get(body.srq);
        let srq = srq.ok_or(no_such(argument!(ModifySrq, srq)))?;
        if body.limit > srq.ring.entries() {
            return Err(bad(argument!(ModifySrq, limit)));
        }
        self.objects.arm_shared(host, now, body.srq, body.limit);
        Ok(Reply::default())
    }

    pub(super) fn destroy_srq<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        srqn: u32,
    ) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let srq = self.objects.srqs.get(srqn).ok_or(no_such(at))?;
        if srq.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        if srq.extended.is_some() {
            self.take_back(host, now, srqn);
        }
        let srq = self.objects.srqs.remove(srqn).ok_or(no_such(at))?;
        let (page, slot) = srq.ring.doorbell;
        self.objects.doorbells.free_slot(page, slot);
        self.use_pd(srq.domain.pd, false);
        self.use_extended(srq.extended, false);
        self.forget_pages(srq.pages);
        Ok(Reply::default())
    }

    /// Fails the queue pairs that have an entry of the queue in use, so that nothing is written to
    /// its buffers any more. At most one message of each XRC target is under way.
    fn take_back<H: Host>(&mut self, host: &H, now: Time, srqn: u32) {
        let holders = self.qps.iter();
        let holders = holders.filter(|(_, qp)| qp.queues.held == Some(srqn));
        let holders: Vec<u32> = holders.map(|(qpn, _)| qpn).collect();
        for qpn in holders {
            self.fail_qp(host, now, qpn);
        }
    }
}

const fn counted(users: u32, more: bool) -> u32 {
    if more {
        users.saturating_add(1)
    } else {
        users.saturating_sub(1)
    }
}
