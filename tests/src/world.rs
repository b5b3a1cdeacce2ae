//! NICs, their wire and their clock.
//!
//! The world only moves when somebody asks it to ([`World::advance`]). A NIC that has nothing to do
//! is put to sleep as the device's engine would be: until a kick, a register write, a frame or a
//! timer it does not look at doorbells, so a driver that forgets to kick gets stuck.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use vrnic_abi::doorbell::{DIRTY, END_SLOT, GROUPS, PAGES};
use vrnic_firmware::host::Host;
use vrnic_firmware::nic::{FunctionConfig, FunctionId, Nic, NicConfig, Progress};
use vrnic_firmware::types::{Mac, Time};

use crate::memory::SimMemory;
use crate::wire::{Transmit, Wire};

/// What a function and its driver share.
#[derive(Clone, Default)]
pub struct Function(Rc<Shared>);

struct Shared {
    memory: SimMemory,
    registers: RefCell<Vec<u32>>,
    pages: RefCell<Vec<Page>>,
    raised: Cell<u64>,
}

#[derive(Clone)]
struct Page {
    slots: Vec<u64>,
    marks: [u8; GROUPS as usize],
    asleep: bool,
}

impl Default for Shared {
    fn default() -> Self {
        let page = Page {
            slots: vec![0; END_SLOT as usize],
            marks: [0; GROUPS as usize],
            asleep: false,
        };
        Self {
            memory: SimMemory::default(),
            registers: RefCell::new(vec![0; 1024]),
            pages: RefCell::new(vec![page; PAGES as usize]),
            raised: Cell::new(0),
        }
    }
}

impl Function {
    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &SimMemory {
        &self.0.memory
    }

    /// Reads a register.
    #[must_use]
    pub fn register(&self, offset: u32) -> u32 {
        self.0.registers.borrow()[offset as usize / 4]
    }

    /// Publishes a register.
    pub fn publish(&self, offset: u32, value: u32) {
        self.0.registers.borrow_mut()[offset as usize / 4] = value;
    }

    /// Driver: stores a slot.
    pub fn store_slot(&self, page: u32, slot: u32, value: u64) {
        self.0.pages.borrow_mut()[page as usize].slots[slot as usize] = value;
    }

    /// Driver: stores a mark.
    pub fn store_mark(&self, page: u32, group: u32) {
        self.0.pages.borrow_mut()[page as usize].marks[group as usize] = DIRTY;
    }

    /// Driver: loads the engine's state.
    #[must_use]
    pub fn asleep(&self, page: u32) -> bool {
        self.0.pages.borrow()[page as usize].asleep
    }

    /// Whether `vector` was raised since it was asked for last.
    #[must_use]
    pub fn take_interrupt(&self, vector: u16) -> bool {
        let raised = self.0.raised.get();
        self.0.raised.set(raised & !(1 << vector));
        raised >> vector & 1 == 1
    }

    /// Vectors raised and not taken, bit v for vector v.
    #[must_use]
    pub fn raised(&self) -> u64 {
        self.0.raised.get()
    }
}

impl Host for Function {
    type Memory = SimMemory;

    fn memory(&self) -> &SimMemory {
        &self.0.memory
    }

    fn doorbell(&self, page: u32, slot: u32) -> u64 {
        let pages = self.0.pages.borrow();
        let page = pages.get(page as usize);
        let slot = page.and_then(|page| page.slots.get(slot as usize));
        slot.copied().unwrap_or(0)
    }

    fn take_marks(&self, page: u32) -> u64 {
        let mut pages = self.0.pages.borrow_mut();
        let page = &mut pages[page as usize];
        let marks = std::mem::replace(&mut page.marks, [0; GROUPS as usize]);
        let dirty = (0..GROUPS).filter(|&group| marks[group as usize] != 0);
        dirty.fold(0, |set, group| set | 1 << group)
    }

    fn clear_doorbells(&self, page: u32) {
        let mut pages = self.0.pages.borrow_mut();
        pages[page as usize].slots.fill(0);
        pages[page as usize].marks.fill(0);
    }

    fn clear_slot(&self, page: u32, slot: u32) {
        self.store_slot(page, slot, 0);
    }

    fn set_asleep(&self, page: u32, asleep: bool) {
        self.0.pages.borrow_mut()[page as usize].asleep = asleep;
    }

    fn barrier(&self) {}

    fn raise(&self, vector: u16) {
        assert!(
            vector < 64,
            "the device raised a vector that does not exist"
        );
        self.0.raised.set(self.0.raised.get() | 1 << vector);
    }

    fn set_vectors(&self, _vectors: u16) -> bool {
        // The driver has seen how many there are.
        false
    }

    fn set_register(&self, offset: u32, value: u32) {
        self.publish(offset, value);
    }
}

struct Port {
    nic: Nic<Function>,
    asleep: bool,
}

impl Port {
    fn wake(&mut self) {
        if std::mem::take(&mut self.asleep) {
            self.nic.wake();
        }
    }
}

/// Two NICs, on either end of a wire.
pub struct World {
    ports: Vec<Port>,
    wire: Wire,
    now: u64,
    /// Frames built by steps, so that a run can be compared with another.
    pub steps: u64,
}

impl World {
    /// Two NICs without functions.
    #[must_use]
    pub fn new(config: NicConfig, wire: Wire) -> Self {
        let port = || Port {
            nic: Nic::new(config),
            asleep: false,
        };
        let mut world = Self {
            ports: vec![port(), port()],
            wire,
            now: 1_000,
            steps: 0,
        };
        for port in &mut world.ports {
            port.nic.set_link(true);
        }
        world
    }

    /// Adds a function to NIC `port`.
    pub fn add_function(&mut self, port: usize, mac: Mac) -> (Function, FunctionId) {
        let function = Function::default();
        let config = FunctionConfig {
            number: 0,
            mac,
            mtu: 4200,
        };
        let id = self.ports[port].nic.add_function(function.clone(), config);
        (function, id.expect("a NIC has room for a few functions"))
    }

    /// The time in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// A driver writes a register.
    pub fn write_register(&mut self, port: usize, id: FunctionId, offset: u32, value: u32) {
        let port = &mut self.ports[port];
        port.wake();
        port.nic.write_register(Time(self.now), id, offset, value);
    }

    /// A driver writes a kick page.
    pub fn kick(&mut self, port: usize) {
        self.ports[port].wake();
    }

    /// The bus or the client resets a function.
    pub fn reset(&mut self, port: usize, id: FunctionId) {
        self.ports[port].wake();
        self.ports[port].nic.reset(id);
    }

    /// Does everything that can be done at the current time.
    pub fn settle(&mut self) {
        while self.step() {
            self.steps += 1;
            assert!(self.steps < 50_000_000, "the world does not come to rest");
        }
    }

    fn step(&mut self) -> bool {
        let now = Time(self.now);
        let mut busy = false;
        while let Some((to, frame)) = self.wire.arrived(self.now) {
            let mut transmit = transmit(&mut self.wire, self.now, to);
            self.ports[to].wake();
            self.ports[to].nic.receive(now, &frame, &mut transmit);
            busy = true;
        }
        for (number, port) in self.ports.iter_mut().enumerate() {
            if port.nic.next_timeout().is_some_and(|at| at <= now) {
                port.wake();
            }
            if port.asleep {
                continue;
            }
            let mut transmit = transmit(&mut self.wire, self.now, number);
            if port.nic.step(now, &mut transmit) == Progress::Busy {
                busy = true;
            } else if port.nic.prepare_sleep() {
                port.asleep = true;
            } else {
                port.nic.wake();
                busy = true;
            }
        }
        busy
    }

    /// Lets the world run until `done` says so or the time is `deadline`; returns whether it was
    /// done.
    pub fn advance(&mut self, deadline: u64, mut done: impl FnMut() -> bool) -> bool {
        loop {
            self.settle();
            if done() {
                return true;
            }
            if self.now >= deadline {
                return false;
            }
            let timers = self.ports.iter().filter_map(|port| port.nic.next_timeout());
            let next = timers.map(|at| at.0).chain(self.wire.next_arrival()).min();
            // A timer of the past would have been handled by settling: time always goes on.
            self.now = next
                .unwrap_or(deadline)
                .clamp(self.now + 1, deadline.max(self.now + 1));
        }
    }

    /// A NIC, to look at.
    #[must_use]
    pub fn nic(&self, port: usize) -> &Nic<Function> {
        &self.ports[port].nic
    }

    /// Frames that the wire disturbed so far.
    #[must_use]
    pub fn disturbed(&self) -> u64 {
        self.wire.disturbed
    }
}

fn transmit(wire: &mut Wire, now: u64, port: usize) -> Transmit<'_> {
    Transmit {
        wire,
        now,
        port,
        frame: Vec::new(),
    }
}
