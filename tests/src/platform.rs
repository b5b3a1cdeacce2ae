//! The driver's platform in the simulation.

use std::cell::RefCell;
use std::rc::Rc;

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
}

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
        }
    }

    /// What the function and its driver share.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
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
        self.function.register(offset)
    }

    fn write_register(&self, offset: u32, value: u32) {
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

/// The simulation pins nothing: tests use DMA buffers.
#[derive(Debug)]
pub enum SimPinned {}

impl PinnedMemory for SimPinned {
    fn segments(&self) -> usize {
        match *self {}
    }

    fn segment(&self, _index: usize) -> Option<Segment> {
        match *self {}
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
