//! A function's surroundings on the engine thread, as the firmware asks for them.

use std::cell::Cell;
use std::sync::Arc;

use vrnic_abi::registers::{self, DeviceState, device_status};
use vrnic_firmware::host::{Host, TraceEvent};
use vrnic_firmware::nic::FunctionId;

use crate::doorbell::DoorbellPages;
use crate::engine::{Notice, Observer};
use crate::memory::{Applied, FunctionMemory};
use crate::pci::MsixHandle;
use crate::registers::Registers;

/// What one function needs: its memory, doorbell pages, registers and interrupt vectors.
pub struct FunctionHost {
    memory: FunctionMemory,
    doorbells: Arc<DoorbellPages>,
    registers: Arc<Registers>,
    interrupts: MsixHandle,
    observed: Option<Observed>,
    trace: bool,
}

/// Who is told about the function, and what that knows.
struct Observed {
    id: FunctionId,
    observer: Observer,
    /// DEVICE_STATUS.
    status: Cell<u32>,
}

impl Observed {
    /// The device publishes a new state.
    fn status(&self, value: u32, registers: &Registers) {
        let (function, old) = (self.id, self.status.replace(value));
        let state = |status| u8::try_from(device_status::STATE.get(status)).unwrap_or(u8::MAX);
        if device_status::RESET_COUNT.get(old) != device_status::RESET_COUNT.get(value) {
            self.observer.notify(Notice::Reset { function });
        }
        if state(old) == state(value) {
            return;
        }
        match DeviceState::from_raw(state(value)) {
            Some(DeviceState::Ready) => self.observer.notify(Notice::Ready { function }),
            Some(DeviceState::Error) => {
                let code = registers.get(registers::HEALTH_CODE.offset);
                let object = registers.get(registers::HEALTH_OBJECT.offset);
                self.observer.notify(Notice::Fatal {
                    function,
                    code,
                    object,
                });
            }
            _ => {}
        }
    }
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
            observed: None,
            trace: log::log_enabled!(target: "vrnic::trace", log::Level::Trace),
        }
    }

    /// Tells `observer` from now on what becomes of the function.
    pub fn observe(&mut self, id: FunctionId, observer: Observer) {
        let status = Cell::new(self.registers.get(registers::DEVICE_STATUS.offset));
        self.observed = Some(Observed {
            id,
            observer,
            status,
        });
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

    fn clear_all_doorbells(&self) {
        self.doorbells.clear();
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

    fn set_vectors(&self, vectors: u16) -> bool {
        self.interrupts.set_vectors(vectors)
    }

    fn set_register(&self, offset: u32, value: u32) {
        self.registers.publish(offset, value);
        if offset == registers::DEVICE_STATUS.offset {
            if let Some(observed) = &self.observed {
                observed.status(value, &self.registers);
            }
        }
    }

    #[inline]
    fn trace(&self, event: &TraceEvent<'_>) {
        if self.trace {
            log::trace!(target: "vrnic::trace", "{event:x?}");
        }
    }
}
