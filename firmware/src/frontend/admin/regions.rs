//! Protection domains and memory regions (IBTA volume 1, 10.2.3 and 10.6).
//!
//! A region belongs to a protection domain, which cannot go while it has regions or queue pairs. A
//! key is the table's number, chosen by the device, and eight bits chosen by the driver. Nothing
//! else keeps what a region translated to: when it is gone, no access through it is in flight.

use vrnic_abi::admin::{AccessFlags, CreateMr, ObjectReference, Status};

use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::function::Function;
use crate::frontend::keys::key_access;
use crate::frontend::objects::ProtectionDomain;
use crate::resource::{PageMap, Region, RegionOptions, limits};

impl Function {
    pub(super) fn alloc_pd(&mut self) -> Result<Reply, Refusal> {
        let made = self
            .objects
            .pds
            .insert_with(|_| ProtectionDomain::default());
        made.map(Reply::number)
            .ok_or(Refusal::new(Status::NoResources, 0))
    }

    pub(super) fn free_pd(&mut self, pd: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let entry = self.objects.pds.get(pd).ok_or(no_such(at))?;
        if entry.users > 0 {
            return Err(Refusal::new(Status::Busy, at));
        }
        self.objects.pds.remove(pd);
        Ok(Reply::default())
    }

    pub(super) fn use_pd(&mut self, pd: u32, more: bool) {
        if let Some(pd) = self.objects.pds.get_mut(pd) {
            pd.users = if more {
                pd.users.saturating_add(1)
            } else {
                pd.users.saturating_sub(1)
            };
        }
    }

    pub(super) fn check_mr(&self, body: &CreateMr) -> Result<u64, Refusal> {
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

    pub(super) fn create_mr(&mut self, body: &CreateMr, pages: PageMap) -> Result<Reply, Refusal> {
        let flags = AccessFlags::from_bits_truncate(body.access);
        let mut key = 0;
        let region = |number: u32| {
            key = number << 8 | u32::from(body.variant);
            Region {
                key,
                pd: body.pd,
                start: body.start,
                length: body.length,
                access: key_access(flags),
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

    pub(super) fn destroy_mr(&mut self, key: u32) -> Result<Reply, Refusal> {
        let missing = no_such(argument!(ObjectReference, object));
        self.objects.region(key).ok_or(missing)?;
        let region = self.objects.regions.remove(key >> 8).ok_or(missing)?;
        self.use_pd(region.pd, false);
        self.forget_pages(&region.pages);
        Ok(Reply::default())
    }
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
