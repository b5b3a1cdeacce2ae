//! Memory windows (InfiniBand Architecture volume 1, 10.6.7).
//!
//! A window is allocated and freed by commands, in sleepable context, and bound by a work request
//! that [`MemoryWindow::bind`] makes. A bind gives the window a new key; hand its completion to
//! [`MemoryWindow::completed`], so that the next bind starts from the right one. One bind of a
//! window at a time is in flight.

use vrnic_abi::admin::{AccessFlags, AdminOpcode, AllocMw, WindowType};
use vrnic_abi::object::MrAttributes;
use vrnic_abi::registers::Capabilities;

use crate::device::Driver;
use crate::error::Error;
use crate::key::Keyed;
use crate::memory::{Handle, MemoryRegion, ProtectionDomain};
use crate::platform::Platform;
use crate::work::{Bind, Completion};

/// What a window is to cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindConfig {
    /// Virtual address of the first byte in the region.
    pub start: u64,
    /// Length in bytes; 0 unbinds a window of type 1.
    pub length: u64,
    /// REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC, ZERO_BASED.
    pub access: AccessFlags,
    /// Bits 7:0 of the new key; other than before, so that the old key is no longer valid.
    pub variant: u8,
}

/// A memory window. It has no memory: dropped without `destroy`, it stays until a reset.
pub struct MemoryWindow<P: Platform> {
    keyed: Keyed<P>,
    window_type: WindowType,
}

impl<P: Platform> MemoryWindow<P> {
    /// The key that the window is known to have.
    #[must_use]
    pub fn key(&self) -> u32 {
        self.keyed.key()
    }

    /// Its type.
    #[must_use]
    pub fn window_type(&self) -> WindowType {
        self.window_type
    }

    /// A request that binds the window to a part of `region`, which allows WINDOW_BIND.
    pub fn bind(&mut self, region: &MemoryRegion<P>, config: BindConfig) -> Bind {
        Bind {
            window: self.keyed.key(),
            key: self.keyed.change(config.variant),
            region: region.key(),
            access: config.access,
            start: config.start,
            length: config.length,
        }
    }

    /// Takes note of a completed bind; false if it is of something else, or has failed.
    pub fn completed(&mut self, completion: &Completion) -> bool {
        let key = completion.validated_key();
        key.is_some_and(|key| self.keyed.confirm(key))
    }

    /// The window as the device has it. Finds out, too, which key it has. Sleepable context.
    pub fn query(&mut self) -> Result<MrAttributes, Error> {
        self.keyed.query()
    }

    /// Frees the window, bound or not. No access through it is in flight when that succeeds.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.keyed.destroy(AdminOpcode::FreeMw)
    }
}

impl<P: Platform> Driver<P> {
    /// Allocates a memory window that is not bound; `variant` is bits 7:0 of its first key.
    pub fn create_mw(
        &self,
        pd: &ProtectionDomain<P>,
        window_type: WindowType,
        variant: u8,
    ) -> Result<MemoryWindow<P>, Error> {
        self.require(Capabilities::MEMORY_WINDOWS, "memory windows")?;
        pd.handle.check()?;
        let body = AllocMw {
            pd: pd.number(),
            window_type: window_type.raw(),
            variant,
            ..AllocMw::default()
        };
        let generation = pd.handle.generation;
        let shared = &self.shared;
        let answer = shared.execute(generation, AdminOpcode::AllocMw, &body, None)?;
        let handle = Handle::new(shared, generation, answer.result0)?;
        Ok(MemoryWindow {
            keyed: Keyed::new(handle),
            window_type,
        })
    }
}
