//! Carrying out admin commands.
//!
//! A command is checked completely before anything changes. Commands that create an object from a
//! page list wait in [`PendingCreate`] while the list is read in slices, and are checked again when
//! it is complete, as other commands may have been carried out in between.

use vrnic_abi::admin::{
    AccessFlags, CommandHeader, Completion, CreateCq, CreateEq, CreateMr, CreateQp, GidType,
    ModifyPort, ObjectReference, QpFlags, QpType, SetGid, Status,
};
use vrnic_abi::pci::MSIX_VECTORS;
use vrnic_abi::wqe::{BASIC_BLOCK, SEGMENT};
use vrnic_abi::{cqe::CompletionEntry, eqe::EventEntry};

use super::buffer::{self, ListReader, Pages};
use super::command::{Create, Refusal, Reply, Request, argument, parse};
use super::completion::CompletionQueue;
use super::env::WorkQueues;
use super::event::EventQueue;
use super::function::{Function, QueuePair};
use super::objects::ProtectionDomain;
use super::ring::{ReceiveRing, SendRing};
use crate::host::Host;
use crate::nic::Addresses;
use crate::resource::{GidEntry, Owner, PageError, PageMap, Region, RegionOptions, limits};
use crate::transport::{Qp, QpConfig};
use crate::types::{Access, Gid, Mac, Qpn, Time};

/// Commands that are carried out in one step.
const COMMANDS_A_STEP: u32 = 16;

/// What a command needs besides its function.
#[derive(Debug)]
pub struct Context<'a, H> {
    /// The function's surroundings.
    pub host: &'a H,
    /// The current time.
    pub now: Time,
    /// Addresses of all functions of the port.
    pub addresses: &'a mut Addresses,
    /// The function's index in that table.
    pub owner: u16,
    /// The port has a link.
    pub link_up: bool,
    /// Speed of the port in Mbit/s.
    pub speed: u32,
}

/// A command that waits for its page list.
#[derive(Clone, Debug)]
pub(super) struct PendingCreate {
    header: CommandHeader,
    create: Create,
    reader: ListReader,
}

/// What became of a command.
enum Executed {
    Done(Reply),
    Later(Create, ListReader),
}

impl Function {
    /// Carries out commands and reads page lists, a bounded amount; returns whether there was
    /// anything to do.
    pub(crate) fn step_admin<H: Host>(&mut self, cx: &mut Context<'_, H>) -> bool {
        let mut busy = false;
        for _ in 0..COMMANDS_A_STEP {
            let Some(admin) = &mut self.admin else {
                return busy;
            };
            match admin.fetch(cx.host) {
                Ok(Some(command)) => {
                    busy = true;
                    let header = command.header;
                    let result = parse(&command).and_then(|request| self.execute(cx, &request));
                    match result {
                        Ok(Executed::Done(reply)) => self.complete(cx, header, Ok(reply)),
                        Ok(Executed::Later(create, reader)) => {
                            self.creating.push_back(PendingCreate {
                                header,
                                create,
                                reader,
                            });
                        }
                        Err(refusal) => self.complete(cx, header, Err(refusal)),
                    }
                }
                Ok(None) => break,
                Err(fault) => {
                    self.fail(cx.host, cx.now, fault);
                    return true;
                }
            }
        }
        self.step_page_lists(cx) || busy
    }

    /// Reads one slice of the page list that has waited longest.
    fn step_page_lists<H: Host>(&mut self, cx: &mut Context<'_, H>) -> bool {
        let Some(mut pending) = self.creating.pop_front() else {
            return false;
        };
        let entries = pending.reader.entries();
        let result = match pending.reader.read(cx.host.memory()) {
            Ok(None) => {
                self.creating.push_back(pending);
                return true;
            }
            Ok(Some(pages)) => {
                // What the list takes was set aside; what is kept of it counts with the object.
                self.objects.page_entries -= entries;
                self.create(cx, &pending.create, pages)
            }
            Err(refusal) => {
                self.objects.page_entries -= entries;
                Err(refusal)
            }
        };
        self.complete(cx, pending.header, result);
        true
    }

    fn complete<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        header: CommandHeader,
        result: Result<Reply, Refusal>,
    ) {
        let (reply, refusal) = match result {
            Ok(reply) => (reply, Refusal::new(Status::Success, 0)),
            Err(refusal) => (Reply::default(), refusal),
        };
        let entry = Completion {
            result0: reply.result0,
            result1: reply.result1,
            syndrome: refusal.syndrome,
            id: header.id,
            status: refusal.status.raw(),
            opcode: header.opcode,
            ..Completion::default()
        };
        if let Some(admin) = &mut self.admin {
            if let Err(fault) = admin.complete(cx.host, entry) {
                self.fail(cx.host, cx.now, fault);
            }
        }
    }

    fn execute<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        request: &Request,
    ) -> Result<Executed, Refusal> {
        let reply = match request {
            Request::Nop => Ok(Reply::default()),
            Request::QueryDevice(output) => self.query_device(cx.host, output),
            Request::QueryPort(output) => self.query_port(cx, output),
            Request::ModifyPort(body) => self.modify_port(body),
            Request::QueryCounters(output) => self.query_counters(cx.host, output),
            Request::SetGid(body) => self.set_gid(cx, body),
            Request::QueryGid(body) => self.query_gid(cx.host, body),
            Request::AllocDoorbellPage => self.alloc_doorbell_page(cx.host),
            Request::FreeDoorbellPage(page) => self.free_doorbell_page(*page),
            Request::AllocPd => self.alloc_pd(),
            Request::FreePd(pd) => self.free_pd(*pd),
            Request::Create(create) => return self.start_create(cx, create),
            Request::DestroyMr(key) => self.destroy_mr(*key),
            Request::QueryMr(body) => self.query_mr(cx.host, body),
            Request::DestroyEq(eqn) => self.destroy_eq(*eqn),
            Request::SetAsyncEq(eqn) => self.set_async_eq(*eqn),
            Request::DestroyCq(cqn) => self.destroy_cq(*cqn),
            Request::QueryCq(body) => self.query_cq(cx.host, body),
            Request::DestroyQp(qpn) => self.destroy_qp(*qpn),
            Request::ModifyQp(body) => self.modify_qp(cx.host, cx.now, body),
            Request::QueryQp(body) => self.query_qp(cx.host, body),
        };
        reply.map(Executed::Done)
    }

    // --- objects with pages -----------------------------------------------------------------

    /// Checks a command that creates an object, and creates it unless its page list has to be read
    /// first.
    fn start_create<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        create: &Create,
    ) -> Result<Executed, Refusal> {
        let needed = self.check_create(create)?;
        let (buffer, at) = match create {
            Create::Mr(body) => (&body.buffer, argument!(CreateMr, buffer)),
            Create::Eq(body) => (&body.buffer, argument!(CreateEq, buffer)),
            Create::Cq(body) => (&body.buffer, argument!(CreateCq, buffer)),
            Create::Qp(body) => (&body.buffer, argument!(CreateQp, buffer)),
        };
        match buffer::check(buffer, needed, at)? {
            Pages::Known(pages) => self.create(cx, create, pages).map(Executed::Done),
            Pages::Listed(reader) => {
                let entries = self.objects.page_entries.saturating_add(reader.entries());
                if entries > limits::PAGE_LIST_ENTRIES {
                    return Err(Refusal::new(Status::NoResources, at));
                }
                self.objects.page_entries = entries;
                Ok(Executed::Later(*create, reader))
            }
        }
    }

    /// Checks everything but the pages and returns how many bytes they must hold.
    fn check_create(&self, create: &Create) -> Result<u64, Refusal> {
        match create {
            Create::Mr(body) => self.check_mr(body),
            Create::Eq(body) => self.check_eq(body),
            Create::Cq(body) => self.check_cq(body),
            Create::Qp(body) => self.check_qp(body),
        }
    }

    fn create<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        create: &Create,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        self.check_create(create)?;
        let entries = pages.list_entries();
        let reply = match create {
            Create::Mr(body) => self.create_mr(body, pages),
            Create::Eq(body) => self.create_eq(cx.host, body, pages),
            Create::Cq(body) => self.create_cq(cx.host, body, pages),
            Create::Qp(body) => self.create_qp(cx.host, body, pages),
        }?;
        self.objects.page_entries = self.objects.page_entries.saturating_add(entries);
        Ok(reply)
    }

    fn forget_pages(&mut self, pages: &PageMap) {
        self.objects.page_entries = self
            .objects
            .page_entries
            .saturating_sub(pages.list_entries());
    }

    fn check_page(&self, page: u32, at: u32) -> Result<(), Refusal> {
        if self.objects.doorbells.contains(page) {
            Ok(())
        } else {
            Err(no_such(at))
        }
    }

    fn allocate_slot<H: Host>(
        &mut self,
        host: &H,
        page: u32,
        owner: Owner,
    ) -> Result<u32, Refusal> {
        let slot = self
            .objects
            .doorbells
            .allocate_slot(page, owner)
            .ok_or(Refusal::new(Status::NoResources, 0))?;
        host.clear_slot(page, slot);
        Ok(slot)
    }

    // --- memory regions ---------------------------------------------------------------------

    fn check_mr(&self, body: &CreateMr) -> Result<u64, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(CreateMr, pd)));
        }
        let at = argument!(CreateMr, access);
        let access = AccessFlags::from_bits(body.access).ok_or(bad(at))?;
        if access.contains(AccessFlags::WINDOW_BIND) {
            return Err(Refusal::new(Status::Unsupported, at));
        }
        let needs_local = AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_ATOMIC;
        if access.intersects(needs_local) && !access.contains(AccessFlags::LOCAL_WRITE) {
            return Err(bad(at));
        }
        let at = argument!(CreateMr, length);
        if body.length == 0 || body.length > limits::REGION_BYTES {
            return Err(bad(at));
        }
        let zero_based = access.contains(AccessFlags::ZERO_BASED);
        if !zero_based && body.start.checked_add(body.length - 1).is_none() {
            return Err(bad(at));
        }
        if self.objects.regions.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        let shift = body.buffer.page_shift.min(limits::MAX_PAGE_SHIFT);
        let first = body.start & ((1 << shift) - 1);
        Ok(first + body.length)
    }

    fn create_mr(&mut self, body: &CreateMr, pages: PageMap) -> Result<Reply, Refusal> {
        let flags = AccessFlags::from_bits_truncate(body.access);
        let mut key = 0;
        let region = |number: u32| {
            key = number << 8 | u32::from(body.variant);
            Region {
                key,
                pd: body.pd,
                start: body.start,
                length: body.length,
                access: region_access(flags),
                options: region_options(flags),
                page_shift: body.buffer.page_shift,
                pages,
            }
        };
        let created = self.objects.regions.insert_with(region);
        created.ok_or(Refusal::new(Status::NoResources, 0))?;
        self.use_pd(body.pd, true);
        Ok(Reply::number(key))
    }

    fn destroy_mr(&mut self, key: u32) -> Result<Reply, Refusal> {
        let missing = no_such(argument!(ObjectReference, object));
        self.objects.region(key).ok_or(missing)?;
        let region = self.objects.regions.remove(key >> 8).ok_or(missing)?;
        self.use_pd(region.pd, false);
        self.forget_pages(&region.pages);
        Ok(Reply::default())
    }

    // --- event queues -----------------------------------------------------------------------

    fn check_eq(&self, body: &CreateEq) -> Result<u64, Refusal> {
        self.check_page(body.doorbell_page, argument!(CreateEq, doorbell_page))?;
        if !limits::LOG_EQ_ENTRIES.contains(&body.log_entries) {
            return Err(bad(argument!(CreateEq, log_entries)));
        }
        if body.vector >= MSIX_VECTORS {
            return Err(bad(argument!(CreateEq, vector)));
        }
        if self.objects.eqs.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok((EventEntry::SIZE as u64) << body.log_entries)
    }

    fn create_eq<H: Host>(
        &mut self,
        host: &H,
        body: &CreateEq,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let page = body.doorbell_page;
        // The owner is filled in when the number is known.
        let slot = self.allocate_slot(host, page, Owner::Event(0))?;
        let made = self.objects.eqs.insert_with(|number| {
            EventQueue::new(number, pages, body.log_entries, body.vector, (page, slot))
        });
        self.name_slot(made, page, slot, Owner::Event)
    }

    fn destroy_eq(&mut self, eqn: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let eq = self.objects.eqs.get(eqn).ok_or(no_such(at))?;
        if eq.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        let eq = self.objects.eqs.remove(eqn).ok_or(no_such(at))?;
        self.objects
            .doorbells
            .free_slot(eq.doorbell.0, eq.doorbell.1);
        self.forget_pages(&eq.pages);
        Ok(Reply::default())
    }

    fn set_async_eq(&mut self, eqn: u32) -> Result<Reply, Refusal> {
        let wanted = (eqn != 0).then_some(eqn);
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

    // --- completion queues ------------------------------------------------------------------

    fn check_cq(&self, body: &CreateCq) -> Result<u64, Refusal> {
        self.check_page(body.doorbell_page, argument!(CreateCq, doorbell_page))?;
        if !limits::LOG_CQ_ENTRIES.contains(&body.log_entries) {
            return Err(bad(argument!(CreateCq, log_entries)));
        }
        if self.objects.eqs.get(body.eq).is_none() {
            return Err(no_such(argument!(CreateCq, eq)));
        }
        if body.moderation_period != 0 {
            let at = argument!(CreateCq, moderation_period);
            return Err(Refusal::new(Status::Unsupported, at));
        }
        if body.moderation_count != 0 {
            let at = argument!(CreateCq, moderation_count);
            return Err(Refusal::new(Status::Unsupported, at));
        }
        if self.objects.cqs.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok((CompletionEntry::SIZE as u64) << body.log_entries)
    }

    fn create_cq<H: Host>(
        &mut self,
        host: &H,
        body: &CreateCq,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let page = body.doorbell_page;
        let slot = self.allocate_slot(host, page, Owner::Completion(0))?;
        let made = self.objects.cqs.insert_with(|number| {
            CompletionQueue::new(number, pages, body.log_entries, body.eq, (page, slot))
        });
        if let Some(eq) = self.objects.eqs.get_mut(body.eq) {
            eq.users = eq.users.saturating_add(1);
        }
        self.name_slot(made, page, slot, Owner::Completion)
    }

    fn destroy_cq(&mut self, cqn: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let cq = self.objects.cqs.get(cqn).ok_or(no_such(at))?;
        if cq.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        let cq = self.objects.cqs.remove(cqn).ok_or(no_such(at))?;
        if let Some(eq) = self.objects.eqs.get_mut(cq.eq) {
            eq.users = eq.users.saturating_sub(1);
            eq.forget(cqn);
        }
        self.objects
            .doorbells
            .free_slot(cq.doorbell.0, cq.doorbell.1);
        self.forget_pages(&cq.pages);
        Ok(Reply::default())
    }

    // --- queue pairs ------------------------------------------------------------------------

    fn check_qp(&self, body: &CreateQp) -> Result<u64, Refusal> {
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
        let at = argument!(CreateQp, qp_type);
        match QpType::from_raw(body.qp_type) {
            Some(QpType::Rc) => {}
            Some(_) => return Err(Refusal::new(Status::Unsupported, at)),
            None => return Err(bad(at)),
        }
        if body.log_send_blocks > limits::LOG_SEND_BLOCKS {
            return Err(bad(argument!(CreateQp, log_send_blocks)));
        }
        if body.log_receive_entries > limits::LOG_RECEIVE_ENTRIES {
            return Err(bad(argument!(CreateQp, log_receive_entries)));
        }
        if body.log_receive_segments > limits::LOG_RECEIVE_SEGMENTS {
            return Err(bad(argument!(CreateQp, log_receive_segments)));
        }
        QpFlags::from_bits(body.flags).ok_or(bad(argument!(CreateQp, flags)))?;
        if body.xrcd != 0 {
            return Err(Refusal::new(Status::Unsupported, argument!(CreateQp, xrcd)));
        }
        if self.qps.is_full() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok(send_offset(body) + ((BASIC_BLOCK as u64) << body.log_send_blocks))
    }

    fn create_qp<H: Host>(
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
        let flags = QpFlags::from_bits_truncate(body.flags);
        let slots = (send_slot, receive_slot);
        let made = self
            .qps
            .insert_with(|qpn| new_qp(qpn, body, flags, pages, slots));
        for cqn in [body.send_cq, body.receive_cq] {
            if let Some(cq) = self.objects.cqs.get_mut(cqn) {
                cq.users = cq.users.saturating_add(1);
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

    fn destroy_qp(&mut self, qpn: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let qp = self.qps.remove(qpn).ok_or(no_such(at))?;
        let queues = &qp.queues;
        for cqn in [queues.send_cq, queues.receive_cq] {
            if let Some(cq) = self.objects.cqs.get_mut(cqn) {
                cq.users = cq.users.saturating_sub(1);
            }
        }
        for (page, slot) in [queues.send.doorbell, queues.receive.doorbell] {
            self.objects.doorbells.free_slot(page, slot);
        }
        if let Some(index) = qp.gid {
            self.objects.gids.release(index);
        }
        self.use_pd(queues.pd, false);
        self.forget_pages(&queues.pages);
        Ok(Reply::default())
    }

    /// Names the owner of a slot, now that the object has a number.
    fn name_slot(
        &mut self,
        made: Option<u32>,
        page: u32,
        slot: u32,
        owner: impl Fn(u32) -> Owner,
    ) -> Result<Reply, Refusal> {
        let number = made.ok_or(Refusal::new(Status::NoResources, 0))?;
        self.objects.doorbells.set_owner(page, slot, owner(number));
        Ok(Reply {
            result0: number.into(),
            result1: slot.into(),
        })
    }

    // --- small things -----------------------------------------------------------------------

    fn alloc_pd(&mut self) -> Result<Reply, Refusal> {
        let made = self
            .objects
            .pds
            .insert_with(|_| ProtectionDomain::default());
        made.map(Reply::number)
            .ok_or(Refusal::new(Status::NoResources, 0))
    }

    fn free_pd(&mut self, pd: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let entry = self.objects.pds.get(pd).ok_or(no_such(at))?;
        if entry.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        self.objects.pds.remove(pd);
        Ok(Reply::default())
    }

    fn use_pd(&mut self, pd: u32, more: bool) {
        if let Some(pd) = self.objects.pds.get_mut(pd) {
            pd.users = if more {
                pd.users.saturating_add(1)
            } else {
                pd.users.saturating_sub(1)
            };
        }
    }

    fn alloc_doorbell_page<H: Host>(&mut self, host: &H) -> Result<Reply, Refusal> {
        let page = self.objects.doorbells.allocate();
        let page = page.ok_or(Refusal::new(Status::NoResources, 0))?;
        host.clear_doorbells(page);
        host.set_asleep(page, false);
        Ok(Reply::number(page))
    }

    fn free_doorbell_page(&mut self, page: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let freed = self.objects.doorbells.free(page);
        freed.map_err(|error| match error {
            PageError::Missing => no_such(at),
            PageError::InUse => Refusal::new(Status::Busy, at),
        })?;
        Ok(Reply::default())
    }

    fn modify_port(&mut self, body: &ModifyPort) -> Result<Reply, Refusal> {
        if !(576..=9000).contains(&body.mtu) {
            return Err(bad(argument!(ModifyPort, mtu)));
        }
        self.mtu = body.mtu;
        Ok(Reply::default())
    }

    fn set_gid<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        body: &SetGid,
    ) -> Result<Reply, Refusal> {
        let at = argument!(SetGid, index);
        if !self.objects.gids.contains(body.index) {
            return Err(bad(at));
        }
        let entry = self.gid_entry(body)?;
        let old = self.objects.gids.get(body.index).copied();
        if old == entry {
            return Ok(Reply::default());
        }
        if self.objects.gids.in_use(body.index) {
            return Err(Refusal::new(Status::Busy, at));
        }
        if !cx.addresses.replace(cx.owner, old, entry) {
            return Err(Refusal::new(Status::Busy, argument!(SetGid, gid)));
        }
        self.objects.gids.set(body.index, entry);
        Ok(Reply::default())
    }

    fn gid_entry(&self, body: &SetGid) -> Result<Option<GidEntry>, Refusal> {
        let gid_type = GidType::from_raw(body.gid_type);
        match gid_type.ok_or(bad(argument!(SetGid, gid_type)))? {
            GidType::Empty => return Ok(None),
            GidType::RoceV2 => {}
        }
        if body.vlan > 4094 {
            return Err(bad(argument!(SetGid, vlan)));
        }
        let gid = Gid(body.gid);
        let [first, ..] = body.gid;
        let multicast_v4 = gid.to_v4().is_some_and(|[a, ..]| a >= 224 || a == 0);
        if gid.is_zero() || first == 0xff || multicast_v4 {
            return Err(bad(argument!(SetGid, gid)));
        }
        let [first, ..] = body.mac;
        if first & 1 == 1 {
            return Err(bad(argument!(SetGid, mac)));
        }
        let mac = match body.mac {
            [0, 0, 0, 0, 0, 0] => self.identity.mac,
            mac => Mac(mac),
        };
        Ok(Some(GidEntry {
            gid,
            mac,
            vlan: body.vlan,
        }))
    }
}

/// A refusal of the argument at `at`.
pub(super) const fn bad(at: u32) -> Refusal {
    Refusal::new(Status::BadArgument, at)
}

/// A refusal of the number at `at`.
pub(super) const fn no_such(at: u32) -> Refusal {
    Refusal::new(Status::NoSuchObject, at)
}

/// Where the send queue starts in a queue pair's buffer.
fn send_offset(body: &CreateQp) -> u64 {
    let entry = (SEGMENT as u64) << body.log_receive_segments;
    (entry << body.log_receive_entries).next_multiple_of(BASIC_BLOCK as u64)
}

fn new_qp(
    qpn: u32,
    body: &CreateQp,
    flags: QpFlags,
    pages: PageMap,
    (send_slot, receive_slot): (u32, u32),
) -> QueuePair {
    let page = body.doorbell_page;
    let transport = Qp::new(QpConfig {
        qpn: Qpn::new(qpn),
        max_initiator_depth: limits::READ_DEPTH,
        max_responder_resources: limits::READ_DEPTH,
    });
    let queues = WorkQueues {
        qpn,
        pd: body.pd,
        send_cq: body.send_cq,
        receive_cq: body.receive_cq,
        signal_all: flags.contains(QpFlags::SIGNAL_ALL),
        privileged: flags.contains(QpFlags::PRIVILEGED),
        pages,
        send: SendRing::new(send_offset(body), body.log_send_blocks, (page, send_slot)),
        receive: ReceiveRing::new(
            body.log_receive_entries,
            body.log_receive_segments,
            (page, receive_slot),
        ),
    };
    QueuePair::new(transport, queues)
}

/// Rights of a region or queue pair.
pub(super) fn region_access(flags: AccessFlags) -> Access {
    let mut access = Access::LOCAL_READ;
    for (flag, right) in [
        (AccessFlags::LOCAL_WRITE, Access::LOCAL_WRITE),
        (AccessFlags::REMOTE_WRITE, Access::REMOTE_WRITE),
        (AccessFlags::REMOTE_READ, Access::REMOTE_READ),
        (AccessFlags::REMOTE_ATOMIC, Access::REMOTE_ATOMIC),
    ] {
        access.set(right, flags.contains(flag));
    }
    access
}

fn region_options(flags: AccessFlags) -> RegionOptions {
    let mut options = RegionOptions::empty();
    for (flag, option) in [
        (AccessFlags::ZERO_BASED, RegionOptions::ZERO_BASED),
        (AccessFlags::WINDOW_BIND, RegionOptions::WINDOW_BIND),
        (
            AccessFlags::RELAXED_ORDERING,
            RegionOptions::RELAXED_ORDERING,
        ),
    ] {
        options.set(option, flags.contains(flag));
    }
    options
}
