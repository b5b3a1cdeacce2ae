//! Memory regions for fast registration: memory is given to them by work requests.
//!
//! In turn: [`FastRegion::map`] describes memory (sleepable context), the send queue's
//! `post_fast_register` has the device take it, an invalidation by either side ends that, and
//! [`FastRegion::release`] gives the memory back in exchange for the completion that says so.
//!
//! The region owns the page list that the device reads when it carries the request out, and the
//! memory for as long as the device may access it. Neither is freed before the request has completed
//! and the key is invalid, or the region destroyed, or the function reset.
//!
//! A driver whose users keep their memory themselves, as those of a kernel do, writes the page list
//! with [`FastRegion::list`] and describes it with [`FastRegion::describe`], in atomic context, in
//! place of `map` and `release`.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use vrnic_abi::admin::{AccessFlags, AdminOpcode, AllocMr};
use vrnic_abi::object::MrAttributes;
use vrnic_abi::registers::Capabilities;
use vrnic_abi::wqe::FastRegisterSegment;

use crate::device::Driver;
use crate::error::{Error, PostError};
use crate::key::Keyed;
use crate::memory::{Handle, MrConfig, ProtectionDomain, RegionMemory, describe};
use crate::platform::{DmaBuffer, Platform};
use crate::tables::QpTables;
use crate::work::Completion;

/// A registration that was posted: by which queue pair, at which block.
type Posted<P> = (Arc<QpTables<P>>, u32);

/// A registration of memory that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// Pages in the list.
    pub pages: u32,
    /// Their size as a power of two of bytes.
    pub page_shift: u8,
    /// Virtual address of the first byte, which lies in the first page.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Who may access it how.
    pub access: AccessFlags,
    /// Bits 7:0 of the key.
    pub variant: u8,
}

/// A memory region for fast registration.
pub struct FastRegion<P: Platform> {
    keyed: Keyed<P>,
    list: Arc<P::Dma>,
    max_pages: u32,
    memory: Option<RegionMemory<P>>,
    /// The next registration is of memory that somebody else owns.
    is_listed: bool,
    /// What the next registration says.
    segment: FastRegisterSegment,
    posted: Option<Posted<P>>,
}

impl<P: Platform> FastRegion<P> {
    /// The key, local and remote: of the memory that was mapped last.
    #[must_use]
    pub fn key(&self) -> u32 {
        if self.memory.is_some() || self.is_listed {
            self.segment.key
        } else {
            self.keyed.key()
        }
    }

    /// Most pages of a registration.
    #[must_use]
    pub fn max_pages(&self) -> u32 {
        self.max_pages
    }

    /// Whether a registration was posted that has not completed.
    #[must_use]
    pub fn is_posted(&self) -> bool {
        let current = self.keyed.handle().is_live();
        self.posted.as_ref().is_some_and(|(tables, index)| {
            let attached = tables.attached.load(Ordering::Acquire);
            current && attached && tables.send.holds(*index)
        })
    }

    /// Describes memory for the next registration, whose key differs from the one before.
    /// Sleepable context.
    pub fn map(&mut self, memory: RegionMemory<P>, config: MrConfig) -> Result<(), Error> {
        let handle = self.keyed.handle();
        if !handle.is_live() {
            // A lost device may still read the list for the registration before.
            return Err(handle.loss());
        }
        if self.memory.is_some() || self.is_posted() {
            return Err(Error::Busy("memory of the region"));
        }
        if u32::from(config.variant) == self.keyed.key() & 0xff {
            return Err(Error::BadArgument("variant of the key, which must change"));
        }
        let pages = describe(&handle.shared, &memory, &config, self.max_pages)?;
        let mut count = 0;
        for (index, page) in pages.addresses().enumerate() {
            self.list.store(index * 8, page);
            count += 1;
        }
        self.segment = FastRegisterSegment {
            key: self.keyed.change(config.variant),
            access: config.access.bits(),
            start: config.start,
            length: config.length,
            list: self.list.device_address(),
            pages: count,
            page_shift: pages.shift,
            ..FastRegisterSegment::default()
        };
        self.is_listed = false;
        self.memory = Some(memory);
        Ok(())
    }

    /// The page list: `max_pages` addresses of 8 bytes each. Whoever writes it knows that no
    /// registration is posted that the device has yet to carry out.
    #[must_use]
    pub fn list(&self) -> &Arc<P::Dma> {
        &self.list
    }

    /// Describes memory for the next registration: pages that were written into the list, and that
    /// their owner keeps for as long as the key is valid. Atomic context.
    pub fn describe(&mut self, listed: &Listed) -> Result<(), Error> {
        if self.memory.is_some() {
            return Err(Error::Busy("memory of the region"));
        }
        if listed.pages == 0 || listed.pages > self.max_pages {
            return Err(Error::BadArgument("number of pages"));
        }
        self.segment = FastRegisterSegment {
            key: self.keyed.change(listed.variant),
            access: listed.access.bits(),
            start: listed.start,
            length: listed.length,
            list: self.list.device_address(),
            pages: listed.pages,
            page_shift: listed.page_shift,
            ..FastRegisterSegment::default()
        };
        self.is_listed = true;
        Ok(())
    }

    /// What to post, by a queue of life `generation`.
    pub(crate) fn registration(&self, generation: u32) -> Result<FastRegisterSegment, PostError> {
        if self.keyed.handle().generation != generation {
            return Err(PostError::Stale);
        }
        let mapped = self.memory.is_some() && !self.is_posted();
        if mapped || self.is_listed {
            Ok(self.segment)
        } else {
            Err(PostError::NotMapped)
        }
    }

    pub(crate) fn posted(&mut self, tables: &Arc<QpTables<P>>, index: u32) {
        // The owner of listed memory knows by himself when the list is free again.
        if self.memory.is_some() {
            self.posted = Some((Arc::clone(tables), index));
        }
    }

    /// Gives the memory back if `completion` says that the region's key is invalid: it is that of
    /// a LocalInvalidate, or of a SEND with invalidate that arrived. Dropping the memory may sleep.
    pub fn release(&mut self, completion: &Completion) -> Option<RegionMemory<P>> {
        let key = completion.invalidated_key()?;
        if self.memory.is_none() || key != self.segment.key {
            return None;
        }
        // What is invalidated was valid, so the registration has taken effect.
        self.keyed.confirm(key);
        self.posted = None;
        self.memory.take()
    }

    /// Gives the memory back if the device says that it cannot access it, for example after the
    /// queue pair has failed. Sleepable context.
    pub fn release_invalid(&mut self) -> Result<Option<RegionMemory<P>>, Error> {
        if self.is_posted() || self.query()?.valid != 0 {
            return Err(Error::Busy("memory of the region"));
        }
        Ok(self.memory.take())
    }

    /// The region as the device has it. Finds out, too, which key it has. Sleepable context.
    pub fn query(&mut self) -> Result<MrAttributes, Error> {
        self.keyed.query()
    }

    /// Destroys the region, with the same effect on its memory as
    /// [`crate::MemoryRegion::destroy`].
    pub fn destroy(&mut self) -> Result<(), Error> {
        if self.is_posted() {
            return Err(Error::Busy("page list of the region"));
        }
        self.keyed.destroy(AdminOpcode::DestroyMr)
    }
}

impl<P: Platform> Drop for FastRegion<P> {
    fn drop(&mut self) {
        let list = RegionMemory::Dma(Arc::clone(&self.list));
        let handle = self.keyed.handle();
        for memory in self.memory.take().into_iter().chain([list]) {
            handle.shared.quarantine(handle.generation, memory);
        }
    }
}

impl<P: Platform> Driver<P> {
    /// Allocates a memory region for fast registration of up to `max_pages` pages; `variant` is
    /// bits 7:0 of its first key.
    pub fn create_fast_region(
        &self,
        pd: &ProtectionDomain<P>,
        max_pages: u32,
        variant: u8,
    ) -> Result<FastRegion<P>, Error> {
        self.require(Capabilities::FAST_REGISTRATION, "fast registration")?;
        pd.handle.check()?;
        if max_pages == 0 || max_pages > self.attributes().max_fast_pages {
            return Err(Error::BadArgument("number of pages"));
        }
        let list = self.allocate(max_pages as usize * size_of::<u64>())?;
        let body = AllocMr {
            pd: pd.number(),
            max_pages,
            variant,
            ..AllocMr::default()
        };
        let generation = pd.handle.generation;
        let shared = &self.shared;
        let answer = shared.execute(generation, AdminOpcode::AllocMr, &body, None)?;
        let handle = Handle::new(shared, generation, answer.result0)?;
        Ok(FastRegion {
            keyed: Keyed::new(handle),
            list,
            max_pages,
            memory: None,
            is_listed: false,
            segment: FastRegisterSegment::default(),
            posted: None,
        })
    }
}
