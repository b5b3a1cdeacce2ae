//! What the driver core asks for, in a kernel.
//!
//! Registers and doorbells are memory-mapped I/O: on x86, for which alone this is built, a volatile
//! access of the right size is what `readl` and `writel` are. Interrupt handlers call the core by
//! themselves ([`crate::interrupts`]), so nobody else drains event queues.

use core::fmt;
use core::ptr::NonNull;

use alloc::sync::Arc;

use vrnic_driver::abi::doorbell;
use vrnic_driver::{AsyncEvent, Level, OutOfMemory, Platform};

use crate::bindings;
use crate::interrupts::Interrupts;
use crate::kernel::SpinLock;
use crate::kernel::dma::Coherent;
use crate::kernel::log;
use crate::kernel::wait;
use crate::verbs::umem::UserMemory;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("accesses to registers are written for x86-64");

/// What a completion queue tells its owner by: the queue's `context` is the address of one of
/// these, which lives as long as the queue, and until the handlers that were running when the queue
/// was destroyed have returned ([`Interrupts::synchronize`]).
#[repr(C)]
pub(crate) struct Notify {
    /// Called in interrupt context with this very value.
    pub(crate) call: unsafe fn(NonNull<Notify>),
}

impl Notify {
    /// The value as a context.
    pub(crate) fn context(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }
}

/// The mapped BARs of a function.
#[derive(Clone, Copy)]
pub(crate) struct Bars {
    /// BAR0.
    pub(crate) registers: NonNull<u8>,
    /// BAR2.
    pub(crate) doorbells: NonNull<u8>,
}

/// The surroundings of one function.
pub(crate) struct Kernel {
    device: *mut bindings::device,
    bars: Bars,
    interrupts: Arc<Interrupts>,
}

// SAFETY: the device outlives the driver, and registers can be accessed from any context.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// # Safety
    /// `device` is a device, and with the BARs outlives the value.
    pub(crate) unsafe fn new(
        device: *mut bindings::device,
        bars: Bars,
        interrupts: Arc<Interrupts>,
    ) -> Self {
        Self {
            device,
            bars,
            interrupts,
        }
    }

    /// The device.
    pub(crate) fn device(&self) -> *mut bindings::device {
        self.device
    }

    /// Logs a line about the device.
    pub(crate) fn print(&self, level: Level, text: fmt::Arguments<'_>) {
        // SAFETY: it is a device.
        unsafe { log::log(self.device, level, text) };
    }

    fn register(&self, offset: u32) -> *mut u32 {
        debug_assert!(offset < vrnic_abi::pci::BAR_REGISTERS_SIZE);
        // SAFETY: offsets are those of the interface and lie in the BAR.
        unsafe { self.bars.registers.add(offset as usize) }
            .as_ptr()
            .cast()
    }

    fn doorbell(&self, offset: u32) -> *mut u8 {
        // SAFETY: the core checks numbers of pages and slots, so that the offset lies in the BAR.
        unsafe { self.bars.doorbells.add(offset as usize) }.as_ptr()
    }
}

impl Platform for Kernel {
    type Dma = Coherent;
    type Pinned = UserMemory;
    type Lock<T> = SpinLock<T>;

    const HANDLES_INTERRUPTS: bool = true;

    fn read_register(&self, offset: u32) -> u32 {
        // SAFETY: a register.
        unsafe { self.register(offset).read_volatile() }
    }

    fn write_register(&self, offset: u32, value: u32) {
        // SAFETY: a register.
        unsafe { self.register(offset).write_volatile(value) };
    }

    #[inline]
    fn store_slot(&self, page: u32, slot: u32, value: u64) {
        let offset = doorbell::page_offset(page) + doorbell::slot_offset(slot);
        // SAFETY: a slot, aligned.
        unsafe { self.doorbell(offset).cast::<u64>().write_volatile(value) };
    }

    #[inline]
    fn store_mark(&self, page: u32, group: u32) {
        let offset = doorbell::page_offset(page) + group;
        // SAFETY: a mark.
        unsafe { self.doorbell(offset).write_volatile(doorbell::DIRTY) };
    }

    #[inline]
    fn load_engine_state(&self, page: u32) -> u8 {
        let offset = doorbell::page_offset(page) + doorbell::ENGINE_STATE_OFFSET;
        // SAFETY: a byte of the page.
        unsafe { self.doorbell(offset).read_volatile() }
    }

    fn kick(&self, page: u32) {
        // SAFETY: the first word of the kick page.
        unsafe {
            self.doorbell(doorbell::kick_offset(page))
                .cast::<u32>()
                .write_volatile(1);
        }
    }

    fn allocate_dma(&self, length: usize) -> Result<Coherent, OutOfMemory> {
        // SAFETY: the device can do DMA since before the driver was made, and outlives it.
        unsafe { Coherent::new(self.device, length) }
    }

    fn vectors(&self) -> u16 {
        self.interrupts.count()
    }

    fn now(&self) -> u64 {
        wait::now()
    }

    fn relax(&self, vector: Option<u16>, deadline: u64) {
        match vector {
            None => wait::sleep(deadline.saturating_sub(wait::now())),
            Some(vector) => self.wait(vector, self.raised(vector), deadline),
        }
    }

    fn raised(&self, _vector: u16) -> u32 {
        self.interrupts.signal().count()
    }

    fn wait(&self, _vector: u16, seen: u32, deadline: u64) {
        let left = deadline.saturating_sub(wait::now());
        self.interrupts.signal().wait(seen, left);
    }

    fn is_detached(&self) -> bool {
        // SAFETY: the PCI device outlives the driver.
        unsafe { !bindings::pci_device_is_present(self.interrupts.pdev()) }
    }

    fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        self.print(level, message);
    }

    fn completion_event(&self, _cq: u32, context: u64) {
        let notify = context as *mut Notify;
        if let Some(notify) = NonNull::new(notify) {
            // SAFETY: the context of a queue is one of these, and lives long enough.
            unsafe { (notify.as_ref().call)(notify) };
        }
    }

    fn asynchronous_event(&self, event: &AsyncEvent) {
        self.interrupts.tell(event);
    }
}
