//! Doorbell pages and their slots.
//!
//! A page is cleared before the driver learns its number, a slot before the queue that it is given
//! to learns of it, so that nothing rung before is taken for the new owner's.

use vrnic_abi::admin::{ObjectReference, Status};

use super::command::{Refusal, Reply, argument, no_such};
use crate::frontend::function::Function;
use crate::host::Host;
use crate::resource::{Owner, PageError};

impl Function {
    pub(super) fn alloc_doorbell_page<H: Host>(&mut self, host: &H) -> Result<Reply, Refusal> {
        let page = self.objects.doorbells.allocate();
        let page = page.ok_or(Refusal::new(Status::NoResources, 0))?;
        host.clear_doorbells(page);
        host.set_asleep(page, false);
        Ok(Reply::number(page))
    }

    pub(super) fn free_doorbell_page(&mut self, page: u32) -> Result<Reply, Refusal> {
        let at = argument!(ObjectReference, object);
        let freed = self.objects.doorbells.free(page);
        freed.map_err(|error| match error {
            PageError::Missing => no_such(at),
            PageError::InUse => Refusal::new(Status::Busy, at),
        })?;
        Ok(Reply::default())
    }

    pub(super) fn check_page(&self, page: u32, at: u32) -> Result<(), Refusal> {
        if self.objects.doorbells.contains(page) {
            Ok(())
        } else {
            Err(no_such(at))
        }
    }

    pub(super) fn allocate_slot<H: Host>(
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

    /// Names the owner of a slot, now that the object has a number.
    pub(super) fn name_slot(
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
}
