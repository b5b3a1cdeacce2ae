//! Protection domains, doorbell pages and memory regions.

use alloc::sync::Arc;

use bytemuck::Pod;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Buffer, CreateMr, ObjectReference, ReregisterMr};
use vrnic_abi::object::MrAttributes;

use crate::device::{Driver, Shared};
use crate::doorbell::is_page;
use crate::error::Error;
use crate::event::contiguous;
use crate::pages::{self, PageError, PageList, Pages};
use crate::platform::{DmaBuffer, PinnedMemory, Platform, Segment};

/// Memory that the device can access, shared between a region and its users.
pub enum RegionMemory<P: Platform> {
    /// Allocated for the device.
    Dma(Arc<P::Dma>),
    /// Existing memory.
    Pinned(Arc<P::Pinned>),
}

impl<P: Platform> Clone for RegionMemory<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Dma(memory) => Self::Dma(Arc::clone(memory)),
            Self::Pinned(memory) => Self::Pinned(Arc::clone(memory)),
        }
    }
}

impl<P: Platform> RegionMemory<P> {
    fn segment(&self, index: usize) -> Option<Segment> {
        match self {
            Self::Dma(memory) if index == 0 => Some(Segment {
                address: memory.device_address(),
                length: memory.len() as u64,
            }),
            Self::Dma(_) => None,
            Self::Pinned(memory) => memory.segment(index),
        }
    }

    /// The pieces of `length` bytes from byte `offset` on.
    fn range(&self, offset: u64, length: u64) -> impl Iterator<Item = Segment> + '_ {
        let (mut skip, mut left) = (offset, length);
        (0..)
            .map_while(|index| self.segment(index))
            .filter_map(move |segment| {
                let skipped = skip.min(segment.length);
                skip -= skipped;
                let taken = left.min(segment.length - skipped);
                left -= taken;
                (taken > 0).then_some(Segment {
                    address: segment.address + skipped,
                    length: taken,
                })
            })
    }
}

/// A generation before the first: that of objects which the device does not know any more.
const NO_GENERATION: u32 = 0;

/// A number of the device that a `destroy` gives back.
pub(crate) struct Handle<P: Platform> {
    pub(crate) shared: Arc<Shared<P>>,
    pub(crate) generation: u32,
    pub(crate) number: u32,
}

impl<P: Platform> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            ..*self
        }
    }
}

impl<P: Platform> Handle<P> {
    /// An object of life `generation`, with the number that a command of it returned.
    pub(crate) fn new(
        shared: &Arc<Shared<P>>,
        generation: u32,
        number: u64,
    ) -> Result<Self, Error> {
        let number = u32::try_from(number).map_err(|_| Error::BadAnswer("object number"))?;
        Ok(Self {
            shared: Arc::clone(shared),
            generation,
            number,
        })
    }

    /// Fails if the object did not survive a reset.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.shared.check(self.generation)
    }

    /// Whether the object may be used, as far as the driver knows. One load.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.shared.admin.is_live(self.generation)
    }

    /// Whether it was destroyed, and so given back by the device.
    pub(crate) fn is_destroyed(&self) -> bool {
        self.generation == NO_GENERATION
    }

    /// Whether it was not destroyed, but its function is lost or was reset since.
    pub(crate) fn is_lost(&self) -> bool {
        !self.is_live() && !self.is_destroyed()
    }

    /// Why it is not live.
    pub(crate) fn loss(&self) -> Error {
        self.check().err().unwrap_or(Error::DeviceLost)
    }

    /// The object as the device describes it with command `opcode`. Sleepable context.
    pub(crate) fn query<T: Pod>(&self, opcode: AdminOpcode) -> Result<T, Error> {
        self.check()?;
        let shared = &self.shared;
        shared.query_object(self.generation, opcode, self.number)
    }

    /// Destroys the object on the device; from then on it is stale, and its memory its own.
    ///
    /// If the function is lost or was reset, the device does not hear of it, and that is success:
    /// nobody could do more. The memory is then quarantined when the object is dropped.
    pub(crate) fn destroy(&mut self, opcode: AdminOpcode) -> Result<(), Error> {
        if !self.is_live() {
            return Ok(());
        }
        let reference = ObjectReference {
            object: self.number,
            reserved: 0,
        };
        let destroyed = self
            .shared
            .execute(self.generation, opcode, &reference, None);
        match destroyed {
            Ok(_) => self.generation = NO_GENERATION,
            Err(_) if self.is_lost() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// An object of the device and the memory that its rings are in, if it has any. Dropped without a
/// successful `destroy`, it leaves the memory in quarantine.
pub(crate) struct RingObject<P: Platform> {
    pub(crate) handle: Handle<P>,
    pub(crate) memory: Option<RegionMemory<P>>,
}

impl<P: Platform> RingObject<P> {
    /// Creates an object with its rings in the first `length` bytes of `memory`. `body` makes the
    /// command's body from the description of the memory. Returns the second result, too.
    pub(crate) fn create<B: bytemuck::NoUninit>(
        shared: &Arc<Shared<P>>,
        generation: u32,
        opcode: AdminOpcode,
        (memory, length): (RegionMemory<P>, usize),
        body: impl FnOnce(Buffer) -> B,
    ) -> Result<(Self, u64), Error> {
        let (buffer, keep) = shared.describe_rings(&memory, length)?;
        let created = shared
            .execute(generation, opcode, &body(buffer), keep)
            .and_then(|answer| {
                let handle = Handle::new(shared, generation, answer.result0)?;
                Ok((handle, answer.result1))
            });
        let (handle, result) = shared.keep_unless_refused(generation, &memory, created)?;
        let memory = Some(memory);
        Ok((Self { handle, memory }, result))
    }
}

impl<P: Platform> Drop for RingObject<P> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let shared = &self.handle.shared;
            shared.quarantine(self.handle.generation, memory);
        }
    }
}

/// A protection domain. Dropped without `destroy`, its number stays in use until a reset.
pub struct ProtectionDomain<P: Platform> {
    pub(crate) handle: Handle<P>,
}

impl<P: Platform> ProtectionDomain<P> {
    /// Number of the domain.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// Frees the domain; the device refuses while it is in use.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.handle.destroy(AdminOpcode::FreePd)
    }
}

/// A doorbell page for a user context.
pub struct DoorbellPage<P: Platform> {
    handle: Handle<P>,
}

impl<P: Platform> DoorbellPage<P> {
    /// Number of the page.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// Frees the page; the device refuses while queues have slots in it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.handle.destroy(AdminOpcode::FreeDoorbellPage)
    }
}

/// What part of which memory a region covers, and who may access it how.
#[derive(Clone, Copy, Debug)]
pub struct MrConfig {
    /// First byte in the memory.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Virtual address of the first byte, as work requests name it: equal to the first byte's DMA
    /// address modulo 4096.
    pub start: u64,
    /// Who may access it how.
    pub access: AccessFlags,
    /// Bits 7:0 of the key.
    pub variant: u8,
}

/// A memory region.
pub struct MemoryRegion<P: Platform> {
    handle: Handle<P>,
    memory: RegionMemory<P>,
    config: MrConfig,
}

impl<P: Platform> MemoryRegion<P> {
    /// The key, local and remote.
    #[must_use]
    pub fn key(&self) -> u32 {
        self.handle.number
    }

    /// Virtual address of the first byte.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.config.start
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.config.length
    }

    /// The region as the device has it. Sleepable context.
    pub fn query(&self) -> Result<MrAttributes, Error> {
        self.handle.query(AdminOpcode::QueryMr)
    }

    /// Makes the region one over a part of `memory`, in domain `pd`, and leaves it its key, whatever
    /// the variant. When that succeeds, nothing accesses its former memory any more; if the device
    /// refuses, the region is what it was. Sleepable context.
    pub fn reregister(
        &mut self,
        pd: &ProtectionDomain<P>,
        memory: RegionMemory<P>,
        config: MrConfig,
    ) -> Result<(), Error> {
        self.handle.check()?;
        pd.handle.check()?;
        let (shared, generation) = (&self.handle.shared, self.handle.generation);
        let list = describe(shared, &memory, &config, shared.attributes.max_pages)?;
        let (buffer, keep) = shared.buffer(&list)?;
        let body = ReregisterMr {
            pd: pd.number(),
            access: config.access.bits(),
            start: config.start,
            length: config.length,
            buffer,
            key: self.handle.number,
            ..ReregisterMr::default()
        };
        let done = shared.execute(generation, AdminOpcode::ReregisterMr, &body, keep);
        shared.keep_unless_refused(generation, &memory, done)?;
        (self.memory, self.config) = (memory, config);
        Ok(())
    }

    /// Destroys the region. When that succeeds, nothing accesses its memory any more; if the function
    /// is lost, that is so once it has been reset, and until then the driver keeps the memory.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.handle.destroy(AdminOpcode::DestroyMr)
    }
}

impl<P: Platform> Drop for MemoryRegion<P> {
    fn drop(&mut self) {
        let memory = self.memory.clone();
        self.handle
            .shared
            .quarantine(self.handle.generation, memory);
    }
}

impl<P: Platform> Driver<P> {
    /// Allocates a protection domain.
    pub fn create_pd(&self) -> Result<ProtectionDomain<P>, Error> {
        let handle = self.allocate_number(AdminOpcode::AllocPd)?;
        Ok(ProtectionDomain { handle })
    }

    /// Allocates a doorbell page for a user context.
    pub fn create_doorbell_page(&self) -> Result<DoorbellPage<P>, Error> {
        let handle = self.allocate_number(AdminOpcode::AllocDoorbellPage)?;
        if !is_page(handle.number) {
            return Err(Error::BadAnswer("doorbell page"));
        }
        Ok(DoorbellPage { handle })
    }

    /// An object that is nothing but a number.
    pub(crate) fn allocate_number(&self, opcode: AdminOpcode) -> Result<Handle<P>, Error> {
        let shared = &self.shared;
        let generation = shared.generation();
        let answer = shared.execute(generation, opcode, &[0u64; 0], None)?;
        Handle::new(shared, generation, answer.result0)
    }

    /// Allocates zeroed memory that the device can access.
    pub fn allocate(&self, length: usize) -> Result<Arc<P::Dma>, Error> {
        if length == 0 {
            return Err(Error::BadArgument("length"));
        }
        Ok(Arc::new(self.shared.platform.allocate_dma(length)?))
    }

    /// Creates a memory region over a part of `memory`.
    pub fn create_mr(
        &self,
        pd: &ProtectionDomain<P>,
        memory: RegionMemory<P>,
        config: MrConfig,
    ) -> Result<MemoryRegion<P>, Error> {
        pd.handle.check()?;
        let shared = &self.shared;
        let generation = pd.handle.generation;
        let list = describe(shared, &memory, &config, shared.attributes.max_pages)?;
        let (buffer, keep) = shared.buffer(&list)?;
        let body = CreateMr {
            pd: pd.number(),
            access: config.access.bits(),
            start: config.start,
            length: config.length,
            buffer,
            variant: config.variant,
            ..CreateMr::default()
        };
        let handle = shared
            .execute(generation, AdminOpcode::CreateMr, &body, keep)
            .and_then(|answer| Handle::new(shared, generation, answer.result0));
        let handle = shared.keep_unless_refused(generation, &memory, handle)?;
        Ok(MemoryRegion {
            handle,
            memory,
            config,
        })
    }
}

/// What is wrong with memory that rings cannot be in.
const RINGS: &str = "memory of a ring, which must be whole pages and hold all of it";

/// A buffer as a command names it, and the page list that must live until it completes.
type Described<P> = (Buffer, Option<Arc<<P as Platform>::Dma>>);

/// Describes the memory of a region with at most `most` of the pages that the device supports.
pub(crate) fn describe<P: Platform>(
    shared: &Shared<P>,
    memory: &RegionMemory<P>,
    config: &MrConfig,
    most: u32,
) -> Result<PageList, Error> {
    let range = || memory.range(config.offset, config.length);
    let found: u64 = range().map(|segment| segment.length).sum();
    if config.length == 0 || found != config.length {
        return Err(Error::BadArgument("range of the memory region"));
    }
    let sizes = shared.attributes.page_sizes;
    pages::describe(range(), config.start, sizes, most).map_err(|error| {
        Error::BadArgument(match error {
            PageError::Empty => "memory region without memory",
            PageError::Misaligned => "memory is not made of whole pages",
            PageError::Offset => "start address, which must have the memory's offset in a page",
            PageError::TooMany => "memory region needs too many pages",
            PageError::OutOfMemory => return Error::OutOfMemory,
        })
    })
}

impl<P: Platform> Shared<P> {
    /// Keeps memory of an object whose creation came to nothing, unless the device has said that it
    /// did not create it: the command may have taken effect, or still will.
    pub(crate) fn keep_unless_refused<T>(
        &self,
        generation: u32,
        memory: &RegionMemory<P>,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        result.inspect_err(|error| {
            if !matches!(error, Error::Command { .. }) {
                self.quarantine(generation, memory.clone());
            }
        })
    }

    /// Describes the first `length` bytes of `memory`, where rings are.
    pub(crate) fn describe_rings(
        &self,
        memory: &RegionMemory<P>,
        length: usize,
    ) -> Result<Described<P>, Error> {
        if let RegionMemory::Dma(memory) = memory {
            if memory.len() < length {
                return Err(Error::BadArgument(RINGS));
            }
            return Ok((contiguous(&**memory), Some(Arc::clone(memory))));
        }
        let range = || memory.range(0, length as u64);
        let found: u64 = range().map(|segment| segment.length).sum();
        if found != length as u64 {
            return Err(Error::BadArgument(RINGS));
        }
        let (sizes, most) = (self.attributes.page_sizes, self.attributes.max_pages);
        let list = pages::describe(range(), 0, sizes, most).map_err(|error| match error {
            PageError::OutOfMemory => Error::OutOfMemory,
            _ => Error::BadArgument(RINGS),
        });
        self.buffer(&list?)
    }

    /// Writes a page list, if one is needed.
    fn buffer(&self, list: &PageList) -> Result<Described<P>, Error> {
        let mut buffer = Buffer {
            page_shift: list.shift,
            ..Buffer::default()
        };
        let pages = match &list.pages {
            Pages::Contiguous { address, count } => {
                buffer.address = *address;
                buffer.pages = *count;
                return Ok((buffer, None));
            }
            Pages::List(pages) => pages,
        };
        let memory = Arc::new(self.platform.allocate_dma(pages.len() * 8)?);
        for (index, page) in pages.iter().enumerate() {
            memory.store(index * 8, *page);
        }
        buffer.address = memory.device_address();
        buffer.pages = pages.len() as u32;
        buffer.list = 1;
        Ok((buffer, Some(memory)))
    }
}
