//! Completion queues that a user polls. Sleepable context.

use vrnic_abi::doorbell;
use vrnic_abi::object::CqAttributes;

use crate::cq::{CqControl, CqSpec, Moderation};
use crate::device::{Driver, Shared};
use crate::error::Error;
use crate::memory::RegionMemory;
use crate::platform::Platform;
use crate::ring::RingSize;

/// How to create a completion queue that a user polls.
#[derive(Clone, Copy, Debug)]
pub struct UserCqConfig {
    /// Entries as a power of two; the ring is 64 bytes times this.
    pub log_entries: u8,
    /// Which of the driver's event queues for completions, modulo their number.
    pub completion_vector: u16,
    /// Handed back in every event of the queue.
    pub context: u64,
    /// Doorbell page.
    pub doorbell_page: u32,
    /// When an armed queue notifies.
    pub moderation: Moderation,
}

impl Default for UserCqConfig {
    fn default() -> Self {
        Self {
            log_entries: 8,
            completion_vector: 0,
            context: 0,
            doorbell_page: doorbell::KERNEL_PAGE,
            moderation: Moderation::default(),
        }
    }
}

/// A completion queue that a user polls.
pub struct UserCompletionQueue<P: Platform> {
    pub(crate) control: CqControl<P>,
    size: RingSize,
}

impl<P: Platform> UserCompletionQueue<P> {
    /// Number of the queue.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.control.object.handle.number
    }

    /// Its doorbell slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.control.doorbell.slot()
    }

    /// The MSI-X vector on which the queue's events arrive.
    #[must_use]
    pub fn vector(&self) -> u16 {
        self.control.vector
    }

    /// Completions it holds.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.size.entries()
    }

    /// Changes when the queue notifies.
    pub fn set_moderation(&self, moderation: Moderation) -> Result<(), Error> {
        self.control.set_moderation(moderation)
    }

    /// Moves the queue into `memory`, filled with zeros, for 2^`log_entries` completions. Returns
    /// the index of the first entry there; those before it stay in the old memory, which the device
    /// does not write any more, for the user to read.
    pub fn resize(&mut self, memory: RegionMemory<P>, log_entries: u8) -> Result<u32, Error> {
        let size = ring(&self.control.object.handle.shared, log_entries)?;
        let base = self.control.resize(&memory, size)?;
        self.control.object.memory = Some(memory);
        self.size = size;
        Ok(base)
    }

    /// The queue as the device sees it.
    pub fn query(&self) -> Result<CqAttributes, Error> {
        self.control.query()
    }

    /// Destroys the queue; the device refuses while queue pairs use it.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.control.destroy()
    }
}

fn ring<P: Platform>(shared: &Shared<P>, log_entries: u8) -> Result<RingSize, Error> {
    let size = RingSize::within(log_entries, shared.attributes.log_max_cq_entries);
    size.ok_or(Error::BadArgument("entries of the completion queue"))
}

impl<P: Platform> Driver<P> {
    /// Creates a completion queue in `memory`, filled with zeros, that a user polls.
    pub fn create_user_cq(
        &self,
        memory: RegionMemory<P>,
        config: UserCqConfig,
    ) -> Result<UserCompletionQueue<P>, Error> {
        let size = ring(&self.shared, config.log_entries)?;
        let spec = CqSpec {
            size,
            completion_vector: config.completion_vector,
            doorbell_page: config.doorbell_page,
            moderation: config.moderation,
        };
        let mut control = CqControl::create(&self.shared, memory, &spec)?;
        control.listen(config.context, None);
        Ok(UserCompletionQueue { control, size })
    }
}
