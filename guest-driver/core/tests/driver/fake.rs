//! A platform whose device watches the driver. Single-threaded, in virtual time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use vrnic_driver::abi::admin::Command;
use vrnic_driver::abi::cqe::{CompletionEntry, CompletionFlags, CompletionStatus};
use vrnic_driver::abi::eqe::{EventEntry, EventType};
use vrnic_driver::abi::registers::Capabilities;
use vrnic_driver::abi::wqe::{BASIC_BLOCK, ControlSegment, SEGMENT, WqeOpcode};
use vrnic_driver::abi::{VERSION_MAJOR, doorbell, registers};
use vrnic_driver::{OutOfMemory, Platform};

use crate::fake_memory::{CellLock, FakeDma, FakePinned};

/// A ring that the device knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ring {
    pub(crate) base: u64,
    pub(crate) log: u8,
    pub(crate) producer: u32,
    pub(crate) consumer: u32,
    pub(crate) sequence: u16,
    pub(crate) armed: bool,
    pub(crate) vector: u16,
    /// Event queue of a completion queue.
    pub(crate) eq: u32,
    /// Index of the entry at the buffer's first place.
    pub(crate) first: u32,
}

/// A queue pair that the device knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Qp {
    /// Completion queue of the send queue, and of the receive queue.
    pub(crate) cqs: (u32, u32),
    pub(crate) srq: u32,
    pub(crate) send_base: u64,
    pub(crate) send_log: u8,
    pub(crate) fetched: u32,
    pub(crate) received: u32,
    pub(crate) send_slot: u32,
    pub(crate) receive_slot: u32,
    pub(crate) state: u8,
}

/// A shared receive queue that the device knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Srq {
    pub(crate) base: u64,
    pub(crate) log: u8,
    pub(crate) log_segments: u8,
    pub(crate) slot: u32,
    pub(crate) taken: u32,
    /// Of one for XRC.
    pub(crate) cq: u32,
    /// An entry that a queue pair completes as flushed when it goes to ERROR.
    pub(crate) in_use: Option<(u32, u32)>,
}

/// What a slot belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    Eq(u32),
    Cq(u32),
    Send(u32),
    Receive(u32),
    Srq(u32),
}

/// The device. Tests look at it and change it directly.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) memory: BTreeMap<u64, Rc<RefCell<Vec<u8>>>>,
    next_iova: u64,
    /// Memory of live objects: first address, length, whose.
    pub(crate) known: Vec<(u64, u64, (&'static str, u32))>,
    pub(crate) registers: BTreeMap<u32, u32>,
    pub(crate) state: u32,
    pub(crate) resets: u32,
    pub(crate) commands: Ring,
    pub(crate) completed: u16,
    pub(crate) held: VecDeque<Command>,
    pub(crate) eqs: BTreeMap<u32, Ring>,
    pub(crate) cqs: BTreeMap<u32, Ring>,
    pub(crate) qps: BTreeMap<u32, Qp>,
    pub(crate) srqs: BTreeMap<u32, Srq>,
    /// Members of multicast groups: queue pair, address and VLAN.
    pub(crate) members: BTreeSet<(u32, [u8; 16], u16)>,
    /// Keys of windows and of regions for fast registration, and whether they are valid.
    pub(crate) keys: Vec<(u32, bool)>,
    /// Commands that were carried out, the latest last.
    pub(crate) commands_seen: Vec<Command>,
    pub(crate) async_eq: u32,
    pub(crate) slots: BTreeMap<u32, u64>,
    pub(crate) owners: BTreeMap<u32, Owner>,
    dirty: BTreeSet<u32>,
    pub(crate) next_number: u32,
    pub(crate) next_qpn: u32,
    pub(crate) next_srqn: u32,
    /// Requests announced and fetched: queue pair and control segment.
    pub(crate) fetched: VecDeque<(u32, ControlSegment)>,
    pub(crate) raised: BTreeSet<u16>,
    // What the test wants.
    pub(crate) gone: bool,
    pub(crate) asleep: bool,
    pub(crate) capabilities: Capabilities,
    /// MSI-X vectors that it serves.
    pub(crate) vectors: u16,
    pub(crate) ignore_resets: bool,
    pub(crate) hold_commands: bool,
    pub(crate) refuse: Option<u16>,
    /// Results that commands return instead of their own, by opcode.
    pub(crate) forged: BTreeMap<u16, (u64, u64)>,
    /// It cannot access memory any more.
    pub(crate) detached: bool,
    // What the device has seen.
    pub(crate) kicks: u32,
    pub(crate) marks: u32,
}

/// Something that another thread does.
type Act = Box<dyn FnOnce()>;

/// The device and the clock, shared by the platform, its buffers and the test.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) device: Rc<RefCell<Device>>,
    time: Rc<Cell<u64>>,
    meanwhile: Rc<RefCell<Option<Act>>>,
    completion_events: Rc<RefCell<Vec<(u32, u64)>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let device = Device {
            next_iova: 0x10_0000,
            next_number: 1,
            next_qpn: 0x100,
            next_srqn: 0x500,
            capabilities: Capabilities::all(),
            vectors: 64,
            ..Device::default()
        };
        Self {
            device: Rc::new(RefCell::new(device)),
            time: Rc::new(Cell::new(0)),
            meanwhile: Rc::default(),
            completion_events: Rc::default(),
        }
    }

    /// What another thread does when the driver allocates memory next.
    pub(crate) fn while_allocating(&self, act: impl FnOnce() + 'static) {
        *self.meanwhile.borrow_mut() = Some(Box::new(act));
    }

    /// The completion events since this was asked last: number and context of the queues.
    pub(crate) fn take_completion_events(&self) -> Vec<(u32, u64)> {
        self.completion_events.take()
    }

    pub(crate) fn platform(&self) -> FakePlatform {
        FakePlatform(self.clone())
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Device) -> R) -> R {
        f(&mut self.device.borrow_mut())
    }

    /// The time, which this does not advance.
    pub(crate) fn now(&self) -> u64 {
        self.time.get()
    }

    /// Buffers that are allocated.
    pub(crate) fn buffers(&self) -> usize {
        self.with(|device| device.memory.len())
    }

    /// Completes the oldest request of `qpn` that was fetched.
    pub(crate) fn complete(&self, qpn: u32, status: CompletionStatus) {
        self.with(|device| {
            let place = device.fetched.iter().position(|(number, _)| *number == qpn);
            let place = place.expect("no request was announced");
            let (_, control) = device.fetched.remove(place).expect("it is there");
            device.write_completion(CompletionEntry {
                qpn,
                wqe_index: control.index,
                status: status.raw(),
                flags: CompletionFlags::SEND_QUEUE.bits(),
                ..CompletionEntry::default()
            });
        });
    }

    /// Consumes a receive entry of `qpn`, if one was announced.
    pub(crate) fn receive(&self, qpn: u32, length: u32) -> bool {
        self.with(|device| {
            let qp = device.qps.get_mut(&qpn).expect("queue pair");
            let posted = device.slots.get(&qp.receive_slot).copied().unwrap_or(0);
            let index = qp.received;
            if doorbell::index(posted) == index {
                return false;
            }
            qp.received += 1;
            device.write_completion(CompletionEntry {
                qpn,
                wqe_index: index,
                byte_length: length,
                opcode: 1,
                ..CompletionEntry::default()
            });
            true
        })
    }
}

impl Device {
    pub(crate) fn read(&self, address: u64, to: &mut [u8]) {
        let (start, memory) = self.memory.range(..=address).next_back().expect("mapped");
        let offset = (address - start) as usize;
        let memory = memory.borrow();
        assert!(offset + to.len() <= memory.len(), "DMA beyond a buffer");
        to.copy_from_slice(&memory[offset..offset + to.len()]);
    }

    pub(crate) fn write(&self, address: u64, from: &[u8]) {
        let (start, memory) = self.memory.range(..=address).next_back().expect("mapped");
        let offset = (address - start) as usize;
        let mut memory = memory.borrow_mut();
        assert!(offset + from.len() <= memory.len(), "DMA beyond a buffer");
        memory[offset..offset + from.len()].copy_from_slice(from);
    }

    pub(crate) fn read_pod<T: bytemuck::Pod>(&self, address: u64) -> T {
        let mut value = T::zeroed();
        self.read(address, bytemuck::bytes_of_mut(&mut value));
        value
    }

    /// Writes a completion of a queue pair's send or receive queue.
    pub(crate) fn write_completion(&mut self, entry: CompletionEntry) {
        let (send, receive) = self.qps.get(&entry.qpn).expect("queue pair").cqs;
        let of_send = entry.flags & CompletionFlags::SEND_QUEUE.bits() != 0;
        self.write_completion_to(if of_send { send } else { receive }, entry);
    }

    pub(crate) fn write_completion_to(&mut self, cqn: u32, mut entry: CompletionEntry) {
        let cq = self.cqs.get_mut(&cqn).expect("completion queue");
        let in_use = (cq.producer.wrapping_sub(cq.consumer)).min(cq.producer - cq.first);
        assert!(in_use < 1 << cq.log, "the completion queue overflows");
        let index = cq.producer - cq.first;
        entry.owner = (index >> cq.log & 1 ^ 1) as u8;
        let address = cq.base + u64::from(index % (1 << cq.log)) * 64;
        cq.producer += 1;
        self.write(address, bytemuck::bytes_of(&entry));
        self.notify(cqn);
    }

    fn notify(&mut self, cqn: u32) {
        let cq = self.cqs.get_mut(&cqn).expect("completion queue");
        if cq.armed && cq.producer != cq.consumer {
            cq.armed = false;
            let eq = cq.eq;
            self.write_event(eq, EventType::Completion, cqn);
        }
    }

    pub(crate) fn write_event(&mut self, eqn: u32, event: EventType, object: u32) {
        let eq = self.eqs.get_mut(&eqn).expect("event queue");
        let index = eq.producer;
        assert!(index.wrapping_sub(eq.consumer) < 1 << eq.log, "EQ overflow");
        let entry = EventEntry {
            object,
            event: event.raw(),
            owner: (index >> eq.log & 1 ^ 1) as u8,
            ..EventEntry::default()
        };
        let address = eq.base + u64::from(index % (1 << eq.log)) * 32;
        eq.producer += 1;
        self.write(address, bytemuck::bytes_of(&entry));
        self.raise(eqn);
    }

    fn raise(&mut self, eqn: u32) {
        let eq = self.eqs.get_mut(&eqn).expect("event queue");
        if eq.armed && eq.producer != eq.consumer {
            eq.armed = false;
            self.raised.insert(eq.vector);
        }
    }

    fn status(&self) -> u32 {
        self.state | (self.resets & 0xff) << 8
    }

    fn reset(&mut self) {
        if self.ignore_resets {
            return;
        }
        *self = Self {
            memory: std::mem::take(&mut self.memory),
            next_iova: self.next_iova,
            resets: self.resets + 1,
            next_number: self.next_number,
            next_qpn: self.next_qpn,
            next_srqn: self.next_srqn,
            gone: self.gone,
            asleep: self.asleep,
            capabilities: self.capabilities,
            vectors: self.vectors,
            refuse: self.refuse,
            ..Self::default()
        };
    }

    fn enable(&mut self) {
        let base = |this: &Self, low: &vrnic_driver::abi::Register| {
            let high = this.registers.get(&(low.offset + 4)).copied().unwrap_or(0);
            u64::from(this.registers[&low.offset]) | u64::from(high) << 32
        };
        let log = (self.registers[&registers::ADMIN_QUEUE.offset] & 0xf) as u8;
        let submission = base(self, &registers::ADMIN_SUBMISSION_BASE);
        let completion = base(self, &registers::ADMIN_COMPLETION_BASE);
        self.commands = Ring {
            base: submission,
            log,
            ..Ring::default()
        };
        self.known.push((submission, 64 << log, ("admin", 0)));
        self.known.push((completion, 32 << log, ("admin", 0)));
        self.state = 1;
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        if offset == registers::RESET.offset {
            assert_eq!(value, registers::RESET_VALUE);
            self.reset();
        } else if offset == registers::DEVICE_CONTROL.offset {
            assert_eq!(self.state, 0, "enabled outside of RESET");
            self.enable();
        } else if offset == registers::ADMIN_DOORBELL.offset {
            self.fetch_commands(value as u16);
        } else if offset != registers::ADMIN_COMPLETION_DOORBELL.offset {
            self.registers.insert(offset, value);
        }
    }

    fn fetch_commands(&mut self, producer: u16) {
        while self.commands.consumer as u16 != producer {
            let index = self.commands.consumer % (1 << self.commands.log);
            let command = self.read_pod(self.commands.base + u64::from(index) * 64);
            self.commands.consumer += 1;
            self.held.push_back(command);
        }
        while !self.hold_commands && !self.held.is_empty() {
            self.run_command(0);
        }
    }

    /// What the engine does with a dirty group.
    fn scan(&mut self) {
        for slot in std::mem::take(&mut self.dirty) {
            let value = self.slots[&slot];
            match self.owners.get(&slot).copied() {
                // As the device zeroed it.
                Some(Owner::Send(_)) if value == 0 => {}
                Some(Owner::Send(qpn)) => self.fetch_requests(qpn, value),
                Some(Owner::Cq(cqn)) => {
                    let cq = self.cqs.get_mut(&cqn).expect("completion queue");
                    arm(cq, value);
                    self.notify(cqn);
                }
                Some(Owner::Eq(eqn)) => {
                    arm(self.eqs.get_mut(&eqn).expect("event queue"), value);
                    self.raise(eqn);
                }
                Some(Owner::Receive(_) | Owner::Srq(_)) | None => {}
            }
        }
    }

    /// The first `N` words of the request of `qpn` at block `index`.
    pub(crate) fn request<const N: usize>(&self, qpn: u32, index: u32) -> [u64; N] {
        let qp = self.qps[&qpn];
        std::array::from_fn(|word| {
            let block = (index + word as u32 / 8) % (1 << qp.send_log);
            let place = block as usize * BASIC_BLOCK + word % 8 * 8;
            self.read_pod(qp.send_base + place as u64)
        })
    }

    fn fetch_requests(&mut self, qpn: u32, value: u64) {
        assert_eq!(
            value >> 32,
            u64::from(qpn),
            "doorbell of another queue pair"
        );
        loop {
            let qp = self.qps[&qpn];
            let index = qp.fetched;
            if index == doorbell::index(value) {
                return;
            }
            let position = u64::from(index % (1 << qp.send_log));
            let address = qp.send_base + position * BASIC_BLOCK as u64;
            let control: ControlSegment = self.read_pod(address);
            assert_eq!(control.index, index, "announced before it was written");
            assert!(WqeOpcode::from_raw(control.opcode).is_some());
            let blocks = u32::from(control.segments).div_ceil((BASIC_BLOCK / SEGMENT) as u32);
            assert!(blocks > 0);
            self.qps.get_mut(&qpn).expect("queue pair").fetched += blocks;
            self.fetched.push_back((qpn, control));
        }
    }
}

fn arm(ring: &mut Ring, value: u64) {
    ring.consumer = doorbell::index(value);
    if doorbell::arm_sequence(value) != ring.sequence {
        ring.sequence = doorbell::arm_sequence(value);
        ring.armed = true;
    }
}

pub(crate) struct FakePlatform(World);

impl FakePlatform {
    /// Delivers what was raised; true if anything was.
    pub(crate) fn deliver(driver: &vrnic_driver::Driver<Self>) -> bool {
        let raised = driver
            .platform()
            .0
            .with(|device| std::mem::take(&mut device.raised));
        for vector in &raised {
            driver.handle_interrupt(*vector);
        }
        !raised.is_empty()
    }
}

impl Platform for FakePlatform {
    type Dma = FakeDma;
    type Pinned = FakePinned;
    type Lock<T> = CellLock<T>;

    fn read_register(&self, offset: u32) -> u32 {
        self.0.with(|device| match offset {
            _ if device.gone => u32::MAX,
            _ if offset == registers::MAGIC.offset => {
                let magic = device.registers.get(&offset).copied();
                magic.unwrap_or(registers::MAGIC_VALUE)
            }
            _ if offset == registers::INTERFACE_VERSION.offset => {
                let version = device.registers.get(&offset).copied();
                version.unwrap_or(u32::from(VERSION_MAJOR) << 16)
            }
            _ if offset == registers::LIMITS.offset => 6 << 16 | 256,
            _ if offset == registers::DEVICE_STATUS.offset => device.status(),
            _ => device.registers.get(&offset).copied().unwrap_or(0),
        })
    }

    fn write_register(&self, offset: u32, value: u32) {
        self.0.with(|device| {
            if !device.gone {
                device.write_register(offset, value);
            }
        });
    }

    fn store_slot(&self, page: u32, slot: u32, value: u64) {
        assert_eq!(page, doorbell::KERNEL_PAGE);
        self.0.with(|device| {
            assert!(device.owners.contains_key(&slot), "slot {slot} is nobody's");
            device.slots.insert(slot, value);
            match device.owners[&slot] {
                // A consumer index counts without a mark.
                Owner::Cq(number) => {
                    let cq = device.cqs.get_mut(&number).expect("completion queue");
                    cq.consumer = doorbell::index(value);
                }
                Owner::Eq(number) => {
                    let eq = device.eqs.get_mut(&number).expect("event queue");
                    eq.consumer = doorbell::index(value);
                }
                Owner::Send(_) | Owner::Receive(_) | Owner::Srq(_) => {}
            }
        });
    }

    fn store_mark(&self, _page: u32, group: u32) {
        self.0.with(|device| {
            device.marks += 1;
            let slots = group * 8..group * 8 + 8;
            let stored = slots.filter(|slot| device.slots.contains_key(slot));
            let stored: Vec<_> = stored.collect();
            assert!(!stored.is_empty(), "marked before the slot was stored");
            device.dirty.extend(stored);
            if !device.asleep {
                device.scan();
            }
        });
    }

    fn load_engine_state(&self, _page: u32) -> u8 {
        self.0.with(|device| u8::from(device.asleep))
    }

    fn kick(&self, _page: u32) {
        self.0.with(|device| {
            device.kicks += 1;
            device.scan();
        });
    }

    fn allocate_dma(&self, length: usize) -> Result<FakeDma, OutOfMemory> {
        assert!(length > 0);
        let meanwhile = self.0.meanwhile.borrow_mut().take();
        if let Some(act) = meanwhile {
            act();
        }
        let data = Rc::new(RefCell::new(vec![0; length.next_multiple_of(8)]));
        let address = self.0.with(|device| {
            let address = device.next_iova;
            device.next_iova += (length as u64).next_multiple_of(4096) + 4096;
            device.memory.insert(address, Rc::clone(&data));
            address
        });
        Ok(FakeDma::new(self.0.clone(), address, data))
    }

    fn completion_event(&self, cq: u32, context: u64) {
        self.0.completion_events.borrow_mut().push((cq, context));
    }

    fn is_detached(&self) -> bool {
        self.0.with(|device| {
            if device.detached {
                device.known.clear();
            }
            device.detached
        })
    }

    fn vectors(&self) -> u16 {
        2
    }

    fn now(&self) -> u64 {
        self.0.time.set(self.0.time.get() + 1000);
        self.0.time.get()
    }

    fn relax(&self, _vector: Option<u16>, deadline: u64) {
        self.0.time.set(self.0.time.get().max(deadline));
    }
}
