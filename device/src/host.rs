//! A function's surroundings on the engine thread, as the firmware asks for them.

use std::sync::Arc;

use vrnic_firmware::host::{Host, TraceEvent};

use crate::doorbell::DoorbellPages;
use crate::memory::{Applied, FunctionMemory};
use crate::pci::MsixHandle;
use crate::registers::Registers;

/// What one function needs: its memory, doorbell pages, registers and interrupt vectors.
pub struct FunctionHost {
    memory: FunctionMemory,
    doorbells: Arc<DoorbellPages>,
    registers: Arc<Registers>,
    interrupts: MsixHandle,
    trace: bool,
}

impl FunctionHost {
    /// Puts a function's surroundings together.
    #[must_use]
    pub fn new(
        memory: FunctionMemory,
        doorbells: Arc<DoorbellPages>,
        registers: Arc<Registers>,
        interrupts: MsixHandle,
    ) -> Self {
        Self {
            memory,
            doorbells,
            registers,
            interrupts,
            trace: log::log_enabled!(target: "vrnic::trace", log::Level::Trace),
        }
    }

    /// Applies changes of memory mappings that wait, a portion of them.
    pub fn apply_memory_updates(&self) -> Applied {
        self.memory.apply_updates()
    }
}

impl Host for FunctionHost {
    type Memory = FunctionMemory;

    #[inline]
    fn memory(&self) -> &FunctionMemory {
        &self.memory
    }

    #[inline]
    fn doorbell(&self, page: u32, slot: u32) -> u64 {
        self.doorbells.slot(page, slot)
    }

    #[inline]
    fn take_marks(&self, page: u32) -> u64 {
        self.doorbells.take_marks(page)
    }

    fn clear_doorbells(&self, page: u32) {
        self.doorbells.clear_page(page);
    }

    fn clear_slot(&self, page: u32, slot: u32) {
        self.doorbells.clear_slot(page, slot);
    }

    fn set_asleep(&self, page: u32, asleep: bool) {
        self.doorbells.set_asleep(page, asleep);
    }

    fn barrier(&self) {
        self.doorbells.barrier();
    }

    fn raise(&self, vector: u16) {
        self.interrupts.raise(vector.into());
    }

    fn set_register(&self, offset: u32, value: u32) {
        self.registers.publish(offset, value);
    }

    #[inline]
    fn trace(&self, event: &TraceEvent<'_>) {
        if self.trace {
            log::trace!(target: "vrnic::trace", "{event:x?}");
        }
    }
}
