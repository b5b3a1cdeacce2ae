//! Event queues and completion queues: creating, changing and destroying them.
//!
//! A queue cannot go while something reports to it: completion queues and the function's own role
//! to an event queue, queue pairs and shared receive queues to a completion queue. What waits to be reported for a completion
//! queue goes with it. How the queues work is [`crate::frontend::event`]'s and
//! [`crate::frontend::completion`]'s to say.

use vrnic_abi::admin::{CreateCq, CreateEq, ModifyCq, ObjectReference, ResizeCq, Status};
use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::eqe::EventEntry;

use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::completion::CompletionQueue;
use crate::frontend::entry_ring::EntryRing;
use crate::frontend::event::EventQueue;
use crate::frontend::function::Function;
use crate::frontend::moderation::Moderation;
use crate::frontend::objects::Objects;
use crate::host::Host;
use crate::resource::{Owner, PageMap, limits};
use crate::types::Time;

impl Function {
    pub(super) fn check_eq(&self, body: &CreateEq) -> Result<u64, Refusal> {
        self.check_page(body.doorbell_page, argument!(CreateEq, doorbell_page))?;
        if !limits::LOG_EQ_ENTRIES.contains(&body.log_entries) {
            return Err(bad(argument!(CreateEq, log_entries)));
        }
        if !self.quota().has_vector(body.vector) {
            return Err(bad(argument!(CreateEq, vector)));
        }
        if self.objects.eqs.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok((EventEntry::SIZE as u64) << body.log_entries)
    }

    pub(super) fn create_eq<H: Host>(
        &mut self,
        host: &H,
        body: &CreateEq,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let page = body.doorbell_page;
        // The owner is filled in when the number is known.
        let slot = self.allocate_slot(host, page, Owner::Event(0))?;
        let made = self.objects.eqs.insert_with(|number| {
            let ring = EntryRing::new(pages, body.log_entries, (page, slot));
            EventQueue::new(number, ring, body.vector)
        });
        self.name_slot(made, page, slot, Owner::Event)
    }

    pub(super) fn destroy_eq(&mut self, eqn: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let eq = self.objects.eqs.get(eqn).ok_or(no_such(at))?;
        if eq.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        let eq = self.objects.eqs.remove(eqn).ok_or(no_such(at))?;
        self.objects
            .doorbells
            .free_slot(eq.ring.doorbell.0, eq.ring.doorbell.1);
        self.forget_pages(eq.ring.pages);
        Ok(Reply::default())
    }

    pub(super) fn set_async_eq(&mut self, eqn: u32) -> Result<Reply, Refusal> {
        let wanted = (eqn != 0).then_some(eqn);
        let old = self
            .objects
            .async_eq
            .and_then(|eqn| self.objects.eqs.get(eqn));
        if wanted != self.objects.async_eq && old.is_some_and(EventQueue::holds_asynchronous) {
            // The bound of what is held is that of one queue.
            return Err(Refusal::new(
                Status::Busy,
                argument!(ObjectReference, object),
            ));
        }
        if let Some(eqn) = wanted {
            let eq = self.objects.eqs.get_mut(eqn);
            let eq = eq.ok_or(no_such(argument!(ObjectReference, object)))?;
            eq.users = eq.users.saturating_add(1);
        }
        let old = core::mem::replace(&mut self.objects.async_eq, wanted);
        if let Some(eq) = old.and_then(|eqn| self.objects.eqs.get_mut(eqn)) {
            eq.users = eq.users.saturating_sub(1);
        }
        Ok(Reply::default())
    }

    pub(super) fn check_cq(&self, body: &CreateCq) -> Result<u64, Refusal> {
        self.check_page(body.doorbell_page, argument!(CreateCq, doorbell_page))?;
        if !limits::LOG_CQ_ENTRIES.contains(&body.log_entries) {
            return Err(bad(argument!(CreateCq, log_entries)));
        }
        if self.objects.eqs.get(body.eq).is_none() {
            return Err(no_such(argument!(CreateCq, eq)));
        }
        if self.objects.cqs.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok((CompletionEntry::SIZE as u64) << body.log_entries)
    }

    pub(super) fn create_cq<H: Host>(
        &mut self,
        host: &H,
        body: &CreateCq,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let page = body.doorbell_page;
        let slot = self.allocate_slot(host, page, Owner::Completion(0))?;
        let made = self.objects.cqs.insert_with(|number| {
            let ring = EntryRing::new(pages, body.log_entries, (page, slot));
            let moderation = Moderation {
                period: body.moderation_period,
                count: body.moderation_count,
            };
            CompletionQueue::new(number, ring, body.eq, moderation)
        });
        if let Some(eq) = self.objects.eqs.get_mut(body.eq) {
            eq.users = eq.users.saturating_add(1);
        }
        self.name_slot(made, page, slot, Owner::Completion)
    }

    /// A queue that has failed stays as it is: its driver finds its last entry where it was.
    pub(super) fn check_resize(&self, body: &ResizeCq) -> Result<u64, Refusal> {
        let at = argument!(ResizeCq, cq);
        let cq = self.objects.cqs.get(body.cq).ok_or(no_such(at))?;
        if !limits::LOG_CQ_ENTRIES.contains(&body.log_entries) {
            return Err(bad(argument!(ResizeCq, log_entries)));
        }
        if cq.has_failed() {
            return Err(Refusal::new(Status::BadState, at));
        }
        if !cq.ring.may_move() {
            return Err(Refusal::new(Status::Busy, at));
        }
        Ok((CompletionEntry::SIZE as u64) << body.log_entries)
    }

    pub(super) fn resize_cq(&mut self, body: &ResizeCq, pages: PageMap) -> Result<Reply, Refusal> {
        let cq = self.objects.cqs.get_mut(body.cq);
        let cq = cq.ok_or(no_such(argument!(ResizeCq, cq)))?;
        let old = cq.ring.replace(pages, body.log_entries);
        let base = cq.ring.base();
        self.forget_pages(old);
        Ok(Reply::number(base))
    }

    pub(super) fn modify_cq<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        body: &ModifyCq,
    ) -> Result<Reply, Refusal> {
        if self.objects.cqs.get(body.cq).is_none() {
            return Err(no_such(argument!(ModifyCq, cq)));
        }
        let moderation = Moderation {
            period: body.moderation_period,
            count: body.moderation_count,
        };
        self.objects.moderate(host, now, body.cq, moderation);
        self.check_failures(host, now);
        Ok(Reply::default())
    }

    pub(super) fn destroy_cq(&mut self, cqn: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let cq = self.objects.cqs.get(cqn).ok_or(no_such(at))?;
        if !cq.is_unused() {
            return Err(Refusal::new(Status::Busy, at));
        }
        let cq = self.objects.cqs.remove(cqn).ok_or(no_such(at))?;
        let Objects { cqs, eqs, .. } = &mut self.objects;
        if let Some(eq) = eqs.get_mut(cq.eq) {
            eq.users = eq.users.saturating_sub(1);
            if cq.event_held {
                eq.forget(|cqn| cqs.get(cqn).is_some_and(|cq| cq.event_held));
            }
        }
        self.objects
            .doorbells
            .free_slot(cq.ring.doorbell.0, cq.ring.doorbell.1);
        self.forget_pages(cq.ring.pages);
        Ok(Reply::default())
    }
}
