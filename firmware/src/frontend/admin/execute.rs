//! Carrying out admin commands.
//!
//! A command is checked completely before anything changes. Commands that bring an object's pages in
//! a list wait in [`PendingCreate`] while the list is read in segments, and are checked again when
//! it is complete, as other commands may have been carried out in between.

use alloc::vec::Vec;

use vrnic_abi::admin::{
    Buffer, CommandHeader, Completion, CreateCq, CreateEq, CreateMr, CreateQp, CreateSrq,
    ReregisterMr, ResizeCq, Status,
};

use super::buffer::{self, ListReader, Pages, Reading};
use super::command::{Create, Refusal, Reply, Request, argument, bad, parse};
use super::virtual_functions::{Administration, Task};
use crate::frontend::function::Function;
use crate::host::Host;
use crate::nic::Addresses;
use crate::resource::{PageMap, Segment};
use crate::types::Time;

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
pub(in crate::frontend) struct PendingCreate {
    header: CommandHeader,
    create: Create,
    reader: ListReader,
}

impl PendingCreate {
    /// Gives up what was read of the list, to be freed.
    pub(in crate::frontend) fn clear(&mut self) -> Vec<Segment> {
        self.reader.clear()
    }
}

/// What became of a command.
enum Executed {
    Done(Reply),
    Later(Create, ListReader),
    /// The NIC has to do it, as it is about another function.
    Elsewhere(Task),
}

impl Function {
    /// Carries out a command and reads a segment of a page list: that takes about as long as a
    /// neighbour's message, and an engine that has nothing else to do comes back soon. Returns whether
    /// there was anything to do.
    pub(crate) fn step_admin<H: Host>(&mut self, cx: &mut Context<'_, H>) -> bool {
        let fetched = self.step_command(cx);
        self.step_page_lists(cx) || fetched
    }

    /// Carries out the next command.
    fn step_command<H: Host>(&mut self, cx: &mut Context<'_, H>) -> bool {
        let Some(admin) = &mut self.admin else {
            return false;
        };
        let command = match admin.fetch(cx.host) {
            Ok(Some(command)) => command,
            Ok(None) => return false,
            Err(fault) => {
                self.fail(cx.host, cx.now, fault);
                return true;
            }
        };
        let header = command.header;
        let result = parse(&command).and_then(|request| self.execute(cx, &request));
        match result {
            Ok(Executed::Done(reply)) => self.complete(cx.host, cx.now, header, Ok(reply)),
            Ok(Executed::Elsewhere(task)) => {
                self.administration = Some(Administration::new(header, task));
            }
            Ok(Executed::Later(create, reader)) => {
                self.creating.push_back(PendingCreate {
                    header,
                    create,
                    reader,
                });
            }
            Err(refusal) => self.complete(cx.host, cx.now, header, Err(refusal)),
        }
        true
    }

    /// Reads one segment of the page list that has waited longest.
    fn step_page_lists<H: Host>(&mut self, cx: &mut Context<'_, H>) -> bool {
        let Some(mut pending) = self.creating.pop_front() else {
            return false;
        };
        let entries = pending.reader.entries();
        let Reading::Done(pages, rest) = pending.reader.read(cx.host.memory()) else {
            self.creating.push_back(pending);
            return true;
        };
        // What the list takes was set aside; what is kept of it counts with the object.
        self.objects.page_entries = self.objects.page_entries.saturating_sub(entries);
        self.remains.add_segments(rest);
        let result = pages.and_then(|pages| self.create(cx, &pending.create, pages));
        self.complete(cx.host, cx.now, pending.header, result);
        true
    }

    pub(super) fn complete<H: Host>(
        &mut self,
        host: &H,
        now: Time,
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
            if let Err(fault) = admin.complete(host, entry) {
                self.fail(host, now, fault);
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
            Request::ConfigureCongestion(body) => self.configure_congestion(cx, body),
            Request::QueryCongestion(output) => self.query_congestion(cx.host, output),
            Request::SetGid(body) => self.set_gid(cx, body),
            Request::QueryGid(body) => self.query_gid(cx.host, body),
            Request::AllocDoorbellPage => self.alloc_doorbell_page(cx.host),
            Request::FreeDoorbellPage(page) => self.free_doorbell_page(*page),
            Request::AllocPd => self.alloc_pd(),
            Request::FreePd(pd) => self.free_pd(*pd),
            Request::Create(create) => return self.start_create(cx, create),
            Request::DestroyMr(key) => self.destroy_mr(*key),
            Request::QueryMr(body) => self.query_mr(cx.host, body),
            Request::AllocMr(body) => self.alloc_mr(body),
            Request::AllocMw(body) => self.alloc_mw(body),
            Request::FreeMw(key) => self.free_mw(*key),
            Request::DestroyEq(eqn) => self.destroy_eq(*eqn),
            Request::SetAsyncEq(eqn) => self.set_async_eq(*eqn),
            Request::QueryEq(body) => self.query_eq(cx.host, body),
            Request::ModifyCq(body) => self.modify_cq(cx.host, cx.now, body),
            Request::DestroyCq(cqn) => self.destroy_cq(*cqn),
            Request::QueryCq(body) => self.query_cq(cx.host, body),
            Request::DestroySrq(srqn) => self.destroy_srq(cx.host, cx.now, *srqn),
            Request::ModifySrq(body) => self.modify_srq(cx.host, cx.now, body),
            Request::QuerySrq(body) => self.query_srq(cx.host, body),
            Request::AllocXrcd => self.alloc_xrcd(),
            Request::FreeXrcd(xrcd) => self.free_xrcd(*xrcd),
            Request::DestroyQp(qpn) => self.destroy_qp(cx, *qpn),
            Request::ModifyQp(body) => self.modify_qp(cx.host, cx.now, body),
            Request::QueryQp(body) => self.query_qp(cx.host, cx.now, body),
            Request::CreateAh(body) => self.create_ah(body),
            Request::DestroyAh(number) => self.destroy_ah(*number),
            Request::QueryAh(body) => self.query_ah(cx.host, body),
            Request::AttachMulticast(body) => self.attach_multicast(cx, body),
            Request::DetachMulticast(body) => self.detach_multicast(cx, body),
            Request::SetFilter(body) => self.set_filter(cx, body),
            Request::ClearFilter(number) => self.clear_filter(cx, *number),
            Request::ConfigureVf(body) => {
                return self.configure_vf(body).map(Executed::Elsewhere);
            }
            Request::QueryVf(body) => return self.query_vf(body).map(Executed::Elsewhere),
        };
        reply.map(Executed::Done)
    }

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
            Create::MrPages(body) => (&body.buffer, argument!(ReregisterMr, buffer)),
            Create::Eq(body) => (&body.buffer, argument!(CreateEq, buffer)),
            Create::Cq(body) => (&body.buffer, argument!(CreateCq, buffer)),
            Create::CqPages(body) => (&body.buffer, argument!(ResizeCq, buffer)),
            Create::Srq(body) => (&body.buffer, argument!(CreateSrq, buffer)),
            Create::Qp(body) => (&body.buffer, argument!(CreateQp, buffer)),
        };
        if needed == 0 {
            if *buffer != Buffer::default() {
                return Err(bad(at));
            }
            return self
                .create(cx, create, PageMap::empty())
                .map(Executed::Done);
        }
        match buffer::check(buffer, needed, at)? {
            Pages::Known(pages) => self.create(cx, create, pages).map(Executed::Done),
            Pages::Listed(reader) => {
                let entries = self.objects.page_entries_with(reader.entries());
                self.objects.page_entries = entries.ok_or(Refusal::new(Status::NoResources, at))?;
                Ok(Executed::Later(*create, reader))
            }
        }
    }

    /// Checks everything but the pages and returns how many bytes they must hold: 0 if the object has
    /// no buffer.
    fn check_create(&self, create: &Create) -> Result<u64, Refusal> {
        match create {
            Create::Mr(body) => self.check_create_mr(body),
            Create::MrPages(body) => self.check_reregister_mr(body),
            Create::Eq(body) => self.check_eq(body),
            Create::Cq(body) => self.check_cq(body),
            Create::CqPages(body) => self.check_resize(body),
            Create::Srq(body) => self.check_srq(body),
            Create::Qp(body) => self.check_qp(body),
        }
    }

    fn create<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        create: &Create,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        if let Err(refusal) = self.check_create(create) {
            self.remains.add_segments(pages.into_segments());
            return Err(refusal);
        }
        let entries = pages.list_entries();
        let reply = match create {
            Create::Mr(body) => self.create_mr(body, pages),
            Create::MrPages(body) => self.reregister_mr(body, pages),
            Create::Eq(body) => self.create_eq(cx.host, body, pages),
            Create::Cq(body) => self.create_cq(cx.host, body, pages),
            Create::CqPages(body) => self.resize_cq(body, pages),
            Create::Srq(body) => self.create_srq(cx.host, body, pages),
            Create::Qp(body) => self.create_qp(cx.host, body, pages),
        }?;
        self.objects.page_entries = self.objects.page_entries.saturating_add(entries);
        Ok(reply)
    }

    /// Gives up the pages of an object that is gone.
    pub(super) fn forget_pages(&mut self, pages: PageMap) {
        self.objects.page_entries = self
            .objects
            .page_entries
            .saturating_sub(pages.list_entries());
        self.remains.add_segments(pages.into_segments());
    }
}
