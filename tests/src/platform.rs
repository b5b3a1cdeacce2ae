//! The driver's platform in the simulation.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use vrnic_abi::doorbell::{ENGINE_ASLEEP, ENGINE_AWAKE};
use vrnic_abi::registers;
use vrnic_driver::{DmaBuffer, Level, Lock, OutOfMemory, PinnedMemory, Platform, Segment};
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::FunctionId;
use vrnic_firmware::types::Mac;

use crate::memory::SimMemory;
use crate::world::{Function, World};

/// One function's surroundings, as the driver sees them.
#[derive(Clone)]
pub struct SimPlatform {
    world: Rc<RefCell<World>>,
    port: usize,
    id: FunctionId,
    function: Function,
    completion_events: Rc<RefCell<Vec<(u32, u64)>>>,
    unplugged: Rc<Cell<bool>>,
}

/// Bytes of a page of user memory.
const PAGE: usize = 4096;

impl SimPlatform {
    /// Adds a function to NIC `port` of the world.
    #[must_use]
    pub fn new(world: &Rc<RefCell<World>>, port: usize, mac: Mac) -> Self {
        let (function, id) = world.borrow_mut().add_function(port, mac);
        Self {
            world: Rc::clone(world),
            port,
            id,
            function,
            completion_events: Rc::default(),
            unplugged: Rc::default(),
        }
    }

    /// Memory of a user process, zeroed, of at least `length` bytes. No page lies behind its
    /// predecessor.
    #[must_use]
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "the driver shares memory so; the simulation is one thread"
    )]
    pub fn pin(&self, length: usize) -> Arc<SimPinned> {
        let memory = self.function.memory().clone();
        let mut pages: Vec<_> = (0..length.div_ceil(PAGE))
            .map(|_| memory.allocate(PAGE))
            .collect();
        pages.reverse();
        Arc::new(SimPinned { memory, pages })
    }

    /// The completion events since this was asked last: number and context of the queues.
    #[must_use]
    pub fn take_completion_events(&self) -> Vec<(u32, u64)> {
        self.completion_events.take()
    }

    /// What the function and its driver share.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Takes the function out of its slot: it can access nothing any more, nor be accessed.
    pub fn unplug(&self) {
        self.bus_reset();
        self.unplugged.set(true);
    }

    /// Resets the function as the bus or the client does.
    pub fn bus_reset(&self) {
        self.world.borrow_mut().reset(self.port, self.id);
    }
}

impl Platform for SimPlatform {
    type Dma = SimDma;
    type Pinned = SimPinned;
    type Lock<T> = SimLock<T>;

    fn read_register(&self, offset: u32) -> u32 {
        self.world.borrow_mut().settle();
        if self.unplugged.get() {
            return u32::MAX;
        }
        self.function.register(offset)
    }

    fn write_register(&self, offset: u32, value: u32) {
        if self.unplugged.get() {
            return;
        }
        let register = registers::ALL.iter().find(|r| r.offset == offset);
        if register.is_some_and(|r| r.access == vrnic_abi::RegisterAccess::ReadWrite) {
            self.function.publish(offset, value);
        }
        let mut world = self.world.borrow_mut();
        world.write_register(self.port, self.id, offset, value);
    }

    fn store_slot(&self, page: u32, slot: u32, value: u64) {
        self.function.store_slot(page, slot, value);
    }

    fn store_mark(&self, page: u32, group: u32) {
        self.function.store_mark(page, group);
    }

    fn load_engine_state(&self, page: u32) -> u8 {
        if self.function.asleep(page) {
            ENGINE_ASLEEP
        } else {
            ENGINE_AWAKE
        }
    }

    fn kick(&self, _page: u32) {
        self.world.borrow_mut().kick(self.port);
    }

    fn allocate_dma(&self, length: usize) -> Result<SimDma, OutOfMemory> {
        let memory = self.function.memory().clone();
        let length = length.next_multiple_of(8);
        let address = memory.allocate(length);
        Ok(SimDma {
            memory,
            address,
            length,
        })
    }

    fn vectors(&self) -> u16 {
        2
    }

    fn now(&self) -> u64 {
        self.world.borrow().now()
    }

    fn relax(&self, vector: Option<u16>, deadline: u64) {
        let raised = || vector.is_some_and(|vector| self.function.take_interrupt(vector));
        // Without a vector the driver polls: let a little time go by.
        let slice = self.now() + 10_000;
        let deadline = if vector.is_some() {
            deadline
        } else {
            deadline.min(slice)
        };
        self.world.borrow_mut().advance(deadline, raised);
    }

    fn is_detached(&self) -> bool {
        self.unplugged.get()
    }

    fn completion_event(&self, cq: u32, context: u64) {
        self.completion_events.borrow_mut().push((cq, context));
    }

    fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        println!("{level:?}: {message}");
    }
}

/// A buffer in simulated guest memory.
#[derive(Debug)]
pub struct SimDma {
    memory: SimMemory,
    address: u64,
    length: usize,
}

impl SimDma {
    fn check(&self, offset: usize, length: usize) -> u64 {
        assert!(
            offset + length <= self.length,
            "the driver leaves its buffer"
        );
        self.address + offset as u64
    }
}

impl Drop for SimDma {
    fn drop(&mut self) {
        self.memory.free(self.address);
    }
}

impl DmaBuffer for SimDma {
    fn device_address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.length
    }

    fn load(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn store(&self, offset: usize, value: u64) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        let address = self.check(offset, to.len());
        assert_eq!(self.memory.read(address, to), Ok(()));
    }

    fn write(&self, offset: usize, from: &[u8]) {
        let address = self.check(offset, from.len());
        assert_eq!(self.memory.write(address, from), Ok(()));
    }
}

/// Memory of a user process: pages that lie anywhere, in any order.
#[derive(Debug)]
pub struct SimPinned {
    memory: SimMemory,
    pages: Vec<u64>,
}

impl SimPinned {
    /// Copies out.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let mut done = 0;
        while let Some((address, length)) = self.piece(offset + done, to.len() - done) {
            let piece = &mut to[done..done + length];
            assert_eq!(self.memory.read(address, piece), Ok(()));
            done += length;
        }
        assert_eq!(done, to.len(), "beyond the pinned memory");
    }

    /// Copies in.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let mut done = 0;
        while let Some((address, length)) = self.piece(offset + done, from.len() - done) {
            let piece = &from[done..done + length];
            assert_eq!(self.memory.write(address, piece), Ok(()));
            done += length;
        }
        assert_eq!(done, from.len(), "beyond the pinned memory");
    }

    /// What of `length` bytes from `offset` on is in one page.
    fn piece(&self, offset: usize, length: usize) -> Option<(u64, usize)> {
        let within = offset % PAGE;
        let page = self.pages.get(offset / PAGE).filter(|_| length > 0)?;
        Some((page + within as u64, length.min(PAGE - within)))
    }
}

impl Drop for SimPinned {
    fn drop(&mut self) {
        self.pages.iter().for_each(|page| self.memory.free(*page));
    }
}

impl PinnedMemory for SimPinned {
    fn segments(&self) -> usize {
        self.pages.len()
    }

    fn segment(&self, index: usize) -> Option<Segment> {
        let page = self.pages.get(index)?;
        Some(Segment {
            address: *page,
            length: PAGE as u64,
        })
    }
}

/// A lock for one thread.
#[derive(Debug)]
pub struct SimLock<T>(RefCell<T>);

impl<T> Lock<T> for SimLock<T> {
    fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}
