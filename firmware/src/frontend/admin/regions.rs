//! Protection domains and memory regions (IBTA volume 1, 10.2.3 and 10.6).
//!
//! A region belongs to a protection domain, which cannot go while it has regions or queue pairs. A
//! key is the table's number, chosen by the device, and eight bits chosen by the driver. Nothing
//! else keeps what a region translated to: when it is gone, no access through it is in flight.
//!
//! A region of CreateMr that is registered again keeps its key: peers that know it go on with the new
//! rights and the new memory.
//!
//! A region for fast registration takes the page list of its largest registration out of the
//! function's budget when it is allocated; work requests then need no more.

use core::mem::offset_of;

use vrnic_abi::admin::{AccessFlags, AllocMr, CreateMr, ObjectReference, ReregisterMr, Status};

use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::function::Function;
use crate::frontend::keys::{key_access, region_options};
use crate::frontend::objects::ProtectionDomain;
use crate::resource::{FastRegion, KeyError, MemoryKey, PageMap, Region, limits};

/// What CreateMr would be given for the region that another one is to become. Its arguments stand at
/// the same places.
fn created(body: &ReregisterMr) -> CreateMr {
    const {
        assert!(offset_of!(ReregisterMr, pd) == offset_of!(CreateMr, pd));
        assert!(offset_of!(ReregisterMr, access) == offset_of!(CreateMr, access));
        assert!(offset_of!(ReregisterMr, length) == offset_of!(CreateMr, length));
    }
    CreateMr {
        pd: body.pd,
        access: body.access,
        start: body.start,
        length: body.length,
        buffer: body.buffer,
        ..CreateMr::default()
    }
}

/// The region that `body` describes.
fn region(key: u32, body: &CreateMr, pages: PageMap) -> Region {
    let flags = AccessFlags::from_bits_truncate(body.access);
    Region {
        key,
        pd: body.pd,
        start: body.start,
        length: body.length,
        access: key_access(flags),
        options: region_options(flags),
        page_shift: body.buffer.page_shift,
        windows: 0,
        pages,
    }
}

/// Why the key at `at` cannot be given up or registered again.
fn refused_key(error: KeyError, at: u32) -> Refusal {
    match error {
        KeyError::State => Refusal::new(Status::Busy, at),
        _ => no_such(at),
    }
}

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

    pub(super) fn check_create_mr(&self, body: &CreateMr) -> Result<u64, Refusal> {
        let needed = self.check_mr(body)?;
        if !self.objects.keys.has_room_for_region() {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        Ok(needed)
    }

    pub(super) fn check_reregister_mr(&self, body: &ReregisterMr) -> Result<u64, Refusal> {
        self.objects
            .keys
            .plain_region(body.key)
            .map_err(|error| refused_key(error, argument!(ReregisterMr, key)))?;
        self.check_mr(&created(body))
    }

    /// Checks what a region is to be, and returns how many bytes its pages must hold.
    fn check_mr(&self, body: &CreateMr) -> Result<u64, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(CreateMr, pd)));
        }
        let at = argument!(CreateMr, access);
        let access = AccessFlags::from_bits(body.access).ok_or(bad(at))?;
        if access.contains(AccessFlags::FLUSH_PERSISTENT) {
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
        let shift = body.buffer.page_shift.min(limits::MAX_PAGE_SHIFT);
        let first = body.start & ((1 << shift) - 1);
        Ok(first + body.length)
    }

    pub(super) fn create_mr(&mut self, body: &CreateMr, pages: PageMap) -> Result<Reply, Refusal> {
        let added = self.objects.keys.add_region(body.variant, |key| {
            MemoryKey::Region(region(key, body, pages))
        });
        let key = added.ok_or(Refusal::new(Status::NoResources, 0))?;
        self.use_pd(body.pd, true);
        Ok(Reply::number(key))
    }

    pub(super) fn reregister_mr(
        &mut self,
        body: &ReregisterMr,
        pages: PageMap,
    ) -> Result<Reply, Refusal> {
        let new = region(body.key, &created(body), pages);
        let replaced = self.objects.keys.replace_region(new);
        let old = replaced.map_err(|error| refused_key(error, argument!(ReregisterMr, key)))?;
        self.use_pd(body.pd, true);
        self.use_pd(old.pd, false);
        self.forget_pages(old.pages);
        Ok(Reply::default())
    }

    pub(super) fn alloc_mr(&mut self, body: &AllocMr) -> Result<Reply, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(AllocMr, pd)));
        }
        let at = argument!(AllocMr, max_pages);
        let max_pages = body.max_pages;
        if !(1..=limits::FAST_PAGES).contains(&max_pages) {
            return Err(bad(at));
        }
        let entries = self.objects.page_entries_with(max_pages);
        let entries = entries.ok_or(Refusal::new(Status::NoResources, at))?;
        let allocated = self.objects.keys.add_region(body.variant, |key| {
            MemoryKey::Fast(FastRegion::new(key, body.pd, max_pages))
        });
        let key = allocated.ok_or(Refusal::new(Status::NoResources, 0))?;
        self.objects.page_entries = entries;
        self.use_pd(body.pd, true);
        Ok(Reply::number(key))
    }

    pub(super) fn destroy_mr(&mut self, key: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let removed = self.objects.keys.remove_region(key);
        let removed = removed.map_err(|error| refused_key(error, at))?;
        match removed {
            MemoryKey::Region(region) => {
                self.use_pd(region.pd, false);
                self.forget_pages(region.pages);
            }
            MemoryKey::Fast(fast) => {
                self.use_pd(fast.pd, false);
                self.objects.page_entries =
                    self.objects.page_entries.saturating_sub(fast.max_pages);
            }
            MemoryKey::Window(window) => self.use_pd(window.pd, false),
        }
        Ok(Reply::default())
    }
}
