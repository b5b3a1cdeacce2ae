//! A bench for NICs in virtual time: guest memory, doorbell pages, registers and interrupts of a
//! function as plain data, a wire that keeps frames, and a driver that speaks the raw formats.

#![allow(dead_code)] // Each test binary uses its own part.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use vrnic_abi::admin::{
    AccessFlags, AdminOpcode, Buffer, Command, CommandHeader, Completion, CreateCq, CreateEq,
    CreateMr, CreateQp, GidType, ModifyQp, ObjectOutput, ObjectReference, OutputBuffer, QpFlags,
    ResizeCq, SetGid, Status,
};
use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::doorbell;
use vrnic_abi::eqe::EventEntry;
use vrnic_abi::object::{AddressVector, QpAttributes, QpMask, QpState};
use vrnic_abi::registers as reg;
use vrnic_abi::wqe::{
    BASIC_BLOCK, ControlSegment, DataSegment, RemoteSegment, WqeFlags, WqeOpcode,
};
use vrnic_firmware::host::{CopyError, DmaError, Host, Memory, MirrorSide, TraceEvent, Wire};
use vrnic_firmware::nic::{FunctionConfig, FunctionId, Nic, NicConfig, Progress};
use vrnic_firmware::pdu::Pdu;
use vrnic_firmware::types::{Gid, Mac, Time};

mod kinds;
pub mod net;

#[allow(unused_imports, reason = "not every test has other queue pairs")]
pub use kinds::{datagram, filter, group, with_flags};

#[path = "../seeded/mod.rs"]
mod seeded;

#[allow(unused_imports, reason = "not every test is random")]
pub use seeded::Random;

/// What memory holds before anybody writes.
pub const PATTERN: u8 = 0xee;
/// First DMA address that is mapped.
pub const BASE: u64 = 0x1_0000_0000;
/// Bytes that are mapped.
pub const SIZE: usize = 8 << 20;
pub const PAGES: usize = 8;
pub const ADMIN_LOG: u32 = 4;

/// Guest memory of one function.
pub struct Ram {
    bytes: RefCell<Vec<u8>>,
    /// A range of DMA addresses that is not mapped.
    pub hole: RefCell<Option<Range<u64>>>,
    pub accesses: Cell<u64>,
    /// Bytes of all accesses.
    pub moved: Cell<u64>,
}

impl Ram {
    fn at(&self, address: u64, length: usize) -> Result<usize, DmaError> {
        self.accesses.set(self.accesses.get() + 1);
        self.moved.set(self.moved.get() + length as u64);
        let error = DmaError { address };
        let start = address.checked_sub(BASE).ok_or(error)?;
        let end = start.checked_add(length as u64).ok_or(error)?;
        if end > SIZE as u64 {
            return Err(error);
        }
        if let Some(hole) = &*self.hole.borrow() {
            if address < hole.end && hole.start < address + length as u64 {
                return Err(error);
            }
        }
        Ok(start as usize)
    }
}

impl Memory for Ram {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let at = self.at(address, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[at..at + buffer.len()]);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let at = self.at(address, data.len())?;
        self.bytes.borrow_mut()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn write_publish(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        assert_eq!((address % 8, data.len() % 8), (0, 0));
        self.write(address, data)
    }

    fn copy_to(&self, from: u64, other: &Self, to: u64, length: usize) -> Result<(), CopyError> {
        let mut data = vec![0; length];
        self.read(from, &mut data).map_err(CopyError::Source)?;
        other.write(to, &data).map_err(CopyError::Target)
    }

    fn fetch_add(&self, address: u64, value: u64) -> Result<u64, DmaError> {
        let mut old = 0u64;
        self.read(address, bytemuck::bytes_of_mut(&mut old))?;
        self.write(address, bytes_of(&old.wrapping_add(value)))?;
        Ok(old)
    }

    fn compare_swap(&self, address: u64, compare: u64, swap: u64) -> Result<u64, DmaError> {
        let mut old = 0u64;
        self.read(address, bytemuck::bytes_of_mut(&mut old))?;
        if old == compare {
            self.write(address, bytes_of(&swap))?;
        }
        Ok(old)
    }
}

/// Everything around one function.
pub struct Hardware {
    pub ram: Ram,
    slots: RefCell<Vec<[u64; doorbell::END_SLOT as usize]>>,
    marks: RefCell<Vec<u64>>,
    asleep: RefCell<Vec<bool>>,
    pub interrupts: RefCell<Vec<u32>>,
    /// The number of MSI-X vectors, if the NIC has set it.
    pub vectors: Cell<u16>,
    /// Somebody has seen how many there are.
    pub attached: Cell<bool>,
    registers: RefCell<Vec<u32>>,
    /// All registers that were published, as offset and value, in order.
    pub published: RefCell<Vec<(u32, u32)>>,
    /// Called before every access of the NIC to doorbell pages.
    pub hook: RefCell<Option<Box<dyn FnMut()>>>,
    /// The NIC's stores of the engine's state stay in its store buffer until a barrier.
    pub buffer_stores: Cell<bool>,
    /// Barriers do nothing.
    pub no_barriers: Cell<bool>,
    store_buffer: RefCell<Vec<(u32, bool)>>,
    /// PDUs that the function's queue pairs have sent, if that is wanted.
    pub sent: RefCell<Option<Vec<Pdu>>>,
}

impl Hardware {
    pub fn new() -> Rc<Self> {
        let pages = doorbell::PAGES as usize;
        Rc::new(Self {
            ram: Ram {
                bytes: RefCell::new(vec![PATTERN; SIZE]),
                hole: RefCell::new(None),
                accesses: Cell::new(0),
                moved: Cell::new(0),
            },
            slots: RefCell::new(vec![[0; doorbell::END_SLOT as usize]; pages]),
            marks: RefCell::new(vec![0; pages]),
            asleep: RefCell::new(vec![false; pages]),
            interrupts: RefCell::new(vec![0; 64]),
            vectors: Cell::new(0),
            attached: Cell::new(false),
            registers: RefCell::new(vec![0; 64]),
            published: RefCell::default(),
            hook: RefCell::new(None),
            buffer_stores: Cell::new(false),
            no_barriers: Cell::new(false),
            store_buffer: RefCell::new(Vec::new()),
            sent: RefCell::new(None),
        })
    }

    pub fn register(&self, register: &vrnic_abi::Register) -> u32 {
        self.registers.borrow()[register.offset as usize / 4]
    }

    /// Slots are numbered on from one page to the next, so that a queue needs not know its page.
    pub fn store_slot(&self, page: u32, slot: u32, value: u64) {
        let page = page + slot / doorbell::END_SLOT;
        let slot = slot % doorbell::END_SLOT;
        self.slots.borrow_mut()[page as usize][slot as usize] = value;
    }

    pub fn mark(&self, page: u32, slot: u32) {
        let page = page + slot / doorbell::END_SLOT;
        let group = doorbell::mark_offset(slot % doorbell::END_SLOT);
        self.marks.borrow_mut()[page as usize] |= 1 << group;
    }

    pub fn mark_all(&self, page: u32, marks: u64) {
        self.marks.borrow_mut()[page as usize] |= marks;
    }

    fn call_hook(&self) {
        let hook = self.hook.borrow_mut().take();
        if let Some(mut hook) = hook {
            hook();
            *self.hook.borrow_mut() = Some(hook);
        }
    }

    /// Makes buffered stores visible.
    pub fn drain_stores(&self) {
        for (page, asleep) in self.store_buffer.borrow_mut().drain(..) {
            self.asleep.borrow_mut()[page as usize] = asleep;
        }
    }

    /// As a driver that overwrites the state of the engine.
    pub fn set_asleep(&self, page: u32, asleep: bool) {
        self.asleep.borrow_mut()[page as usize] = asleep;
    }

    pub fn is_asleep(&self, page: u32) -> bool {
        self.asleep.borrow()[page as usize]
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read(address, &mut bytes).unwrap();
        bytes
    }

    pub fn read<T: Pod>(&self, address: u64) -> T {
        pod_read_unaligned(&self.bytes(address, size_of::<T>()))
    }

    pub fn write<T: Pod>(&self, address: u64, value: &T) {
        self.ram.write(address, bytes_of(value)).unwrap();
    }
}

/// A function's surroundings, as the NIC owns them.
pub struct TestHost(pub Rc<Hardware>);

impl Host for TestHost {
    type Memory = Ram;

    fn memory(&self) -> &Ram {
        &self.0.ram
    }

    fn doorbell(&self, page: u32, slot: u32) -> u64 {
        self.0.call_hook();
        let slots = self.0.slots.borrow();
        let page = slots.get(page as usize);
        page.and_then(|page| page.get(slot as usize))
            .copied()
            .unwrap_or(0)
    }

    fn take_marks(&self, page: u32) -> u64 {
        self.0.call_hook();
        std::mem::take(&mut self.0.marks.borrow_mut()[page as usize])
    }

    fn clear_doorbells(&self, page: u32) {
        self.0.slots.borrow_mut()[page as usize].fill(0);
        self.0.marks.borrow_mut()[page as usize] = 0;
    }

    fn clear_slot(&self, page: u32, slot: u32) {
        self.0.store_slot(page, slot, 0);
    }

    fn set_asleep(&self, page: u32, asleep: bool) {
        self.0.call_hook();
        self.0.store_buffer.borrow_mut().push((page, asleep));
        if !self.0.buffer_stores.get() {
            self.0.drain_stores();
        }
    }

    fn barrier(&self) {
        self.0.call_hook();
        if !self.0.no_barriers.get() {
            self.0.drain_stores();
        }
    }

    fn raise(&self, vector: u16) {
        if let Some(count) = self.0.interrupts.borrow_mut().get_mut(usize::from(vector)) {
            *count += 1;
        }
    }

    fn set_vectors(&self, vectors: u16) -> bool {
        if !self.0.attached.get() {
            self.0.vectors.set(vectors);
        }
        !self.0.attached.get()
    }

    fn trace(&self, event: &TraceEvent<'_>) {
        if let (TraceEvent::PacketSent(pdu), Some(sent)) = (event, &mut *self.0.sent.borrow_mut()) {
            sent.push(**pdu);
        }
    }

    fn set_register(&self, offset: u32, value: u32) {
        self.0.registers.borrow_mut()[offset as usize / 4] = value;
        self.0.published.borrow_mut().push((offset, value));
    }
}

/// The port's transmit side: frames in the order of sending.
#[derive(Default)]
pub struct TestWire {
    room: Vec<u8>,
    pub sent: VecDeque<Vec<u8>>,
    pub looped: u64,
    /// Frames of mirrored functions.
    pub mirrored: Vec<(FunctionId, MirrorSide, Vec<u8>)>,
    /// Frames that fit before there is no room.
    pub limit: Option<usize>,
}

impl Wire for TestWire {
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        if self.limit.is_some_and(|limit| self.sent.len() >= limit) {
            return None;
        }
        self.room.clear();
        self.room.resize(length, 0xdd);
        Some(&mut self.room)
    }

    fn commit(&mut self, length: usize) {
        self.sent.push_back(self.room[..length].to_vec());
    }

    fn looped(&mut self, _frame: &[u8]) {
        self.looped += 1;
    }

    fn mirrored(&mut self, function: FunctionId, side: MirrorSide, frame: &[u8]) {
        self.mirrored.push((function, side, frame.to_vec()));
    }
}

/// A NIC, its wire, and the time.
pub struct Bench {
    pub nic: Nic<TestHost>,
    pub wire: TestWire,
    pub now: Time,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(NicConfig::default())
    }
}

impl Bench {
    pub fn new(config: NicConfig) -> Self {
        Self {
            nic: Nic::new(config),
            wire: TestWire::default(),
            now: Time(1_000),
        }
    }

    pub fn step(&mut self) -> Progress {
        self.now = Time(self.now.0 + 1_000);
        self.nic.step(self.now, &mut self.wire)
    }

    /// Steps until nothing is left to do at once.
    #[track_caller]
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            if self.step() == Progress::Idle {
                return;
            }
        }
        panic!("the NIC does not come to rest");
    }

    /// Lets the time pass to the next timer.
    pub fn skip(&mut self) -> bool {
        let Some(timeout) = self.nic.next_timeout() else {
            return false;
        };
        self.now = Time(self.now.0.max(timeout.0));
        true
    }
}

pub fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

pub fn gid(n: u8) -> Gid {
    Gid::from_v4([10, 0, 0, n])
}

/// A driver of one function.
pub struct Driver {
    pub hw: Rc<Hardware>,
    pub id: FunctionId,
    pub n: u8,
    /// The doorbell page of completion queues and queue pairs that are created.
    pub page: u32,
    next: u64,
    submission: u64,
    completion: u64,
    submitted: u16,
    completed: u16,
}

impl Driver {
    /// Adds function `n` to the NIC; nothing is enabled yet.
    pub fn add(bench: &mut Bench, n: u8) -> Self {
        let hw = Hardware::new();
        let config = FunctionConfig {
            number: n.into(),
            mac: mac(n),
            mtu: 9000,
        };
        let id = bench
            .nic
            .add_function(TestHost(hw.clone()), config)
            .unwrap();
        Self {
            hw,
            id,
            n,
            page: 0,
            next: BASE,
            submission: 0,
            completion: 0,
            submitted: 0,
            completed: 0,
        }
    }

    /// Adds function `n`, enables it, and gives it its address.
    #[track_caller]
    pub fn ready(bench: &mut Bench, n: u8) -> Self {
        let mut driver = Self::add(bench, n);
        driver.enable(bench);
        let body = SetGid {
            gid_type: GidType::RoceV2.raw(),
            gid: gid(n).0,
            ..SetGid::default()
        };
        driver.ok(bench, AdminOpcode::SetGid, &body);
        driver
    }

    /// Memory for `length` bytes, page-aligned, with the pattern or zeros.
    pub fn memory(&mut self, length: u64, zeroed: bool) -> u64 {
        let address = self.next;
        self.next += length.next_multiple_of(4096);
        let fill = if zeroed { 0 } else { PATTERN };
        let bytes = vec![fill; length as usize];
        self.hw.ram.write(address, &bytes).unwrap();
        address
    }

    pub fn write_register(&self, bench: &mut Bench, register: &vrnic_abi::Register, value: u32) {
        bench
            .nic
            .write_register(bench.now, self.id, register.offset, value);
    }

    pub fn state(&self) -> u32 {
        reg::device_status::STATE.get(self.hw.register(&reg::DEVICE_STATUS))
    }

    #[track_caller]
    pub fn enable(&mut self, bench: &mut Bench) {
        self.next = BASE;
        self.submission = self.memory(64 << ADMIN_LOG, true);
        self.completion = self.memory(32 << ADMIN_LOG, true);
        self.submitted = 0;
        self.completed = 0;
        let halves = |address: u64| (address as u32, (address >> 32) as u32);
        let (low, high) = halves(self.submission);
        self.write_register(bench, &reg::ADMIN_SUBMISSION_BASE, low);
        self.write_register(bench, &reg::ADMIN_SUBMISSION_BASE_HIGH, high);
        let (low, high) = halves(self.completion);
        self.write_register(bench, &reg::ADMIN_COMPLETION_BASE, low);
        self.write_register(bench, &reg::ADMIN_COMPLETION_BASE_HIGH, high);
        let queue = reg::admin_queue::LOG_ENTRIES.put(ADMIN_LOG)
            | reg::admin_queue::VECTOR.put(0)
            | reg::admin_queue::INTERRUPT.put(1);
        self.write_register(bench, &reg::ADMIN_QUEUE, queue);
        self.write_register(bench, &reg::DEVICE_CONTROL, 1);
        assert_eq!(self.state(), u32::from(reg::DeviceState::Ready.raw()));
    }

    /// Puts a command into the ring without announcing it.
    pub fn put(&mut self, opcode: u16, body: &[u8]) -> u16 {
        let mut raw = [0u8; 56];
        raw[..body.len()].copy_from_slice(body);
        let id = self.submitted.wrapping_mul(7);
        let command = Command {
            header: CommandHeader {
                opcode,
                id,
                reserved: 0,
            },
            body: pod_read_unaligned(&raw),
        };
        let at = u64::from(self.submitted) % (1 << ADMIN_LOG);
        self.hw.write(self.submission + at * 64, &command);
        self.submitted = self.submitted.wrapping_add(1);
        id
    }

    pub fn announce(&self, bench: &mut Bench) {
        self.write_register(bench, &reg::ADMIN_DOORBELL, self.submitted.into());
    }

    /// The next completion, if it is there.
    pub fn take(&mut self, bench: &mut Bench) -> Option<Completion> {
        let at = u64::from(self.completed) % (1 << ADMIN_LOG);
        let entry: Completion = self.hw.read(self.completion + at * 32);
        let pass = self.completed >> ADMIN_LOG;
        if entry.owner & 1 != u8::from(pass & 1 == 0) {
            return None;
        }
        self.completed = self.completed.wrapping_add(1);
        let completed = self.completed;
        self.write_register(bench, &reg::ADMIN_COMPLETION_DOORBELL, completed.into());
        Some(entry)
    }

    /// Executes a command.
    #[track_caller]
    pub fn raw(&mut self, bench: &mut Bench, opcode: u16, body: &[u8]) -> Completion {
        let id = self.put(opcode, body);
        self.announce(bench);
        for _ in 0..10_000 {
            if let Some(completion) = self.take(bench) {
                assert_eq!((completion.id, completion.opcode), (id, opcode));
                return completion;
            }
            bench.step();
        }
        panic!("no completion");
    }

    #[track_caller]
    pub fn command<T: Pod>(
        &mut self,
        bench: &mut Bench,
        opcode: AdminOpcode,
        body: &T,
    ) -> Completion {
        self.raw(bench, opcode.raw(), bytes_of(body))
    }

    /// Executes a command that succeeds and returns result0.
    #[track_caller]
    pub fn ok<T: Pod>(&mut self, bench: &mut Bench, opcode: AdminOpcode, body: &T) -> u64 {
        let completion = self.command(bench, opcode, body);
        assert_eq!(
            Status::from_raw(completion.status),
            Some(Status::Success),
            "{opcode:?} refused at {:#x}",
            completion.syndrome
        );
        completion.result0
    }

    #[track_caller]
    pub fn destroy(&mut self, bench: &mut Bench, opcode: AdminOpcode, object: u32) {
        let body = ObjectReference {
            object,
            reserved: 0,
        };
        self.ok(bench, opcode, &body);
    }

    #[track_caller]
    pub fn query<T: Pod>(&mut self, bench: &mut Bench, opcode: AdminOpcode, object: u32) -> T {
        let address = self.memory(size_of::<T>() as u64, false);
        let output = OutputBuffer {
            address,
            length: size_of::<T>() as u32,
            reserved: 0,
        };
        let body = ObjectOutput {
            object,
            reserved: 0,
            output,
        };
        self.ok(bench, opcode, &body);
        self.hw.read(address)
    }

    pub fn buffer(&mut self, bytes: u64) -> Buffer {
        let pages = bytes.div_ceil(4096).max(1);
        Buffer {
            address: self.memory(pages * 4096, true),
            pages: pages as u32,
            page_shift: 12,
            list: 0,
            reserved: 0,
        }
    }

    /// Turns a contiguous buffer into a page list of the same pages, in reverse order.
    pub fn scattered(&mut self, bytes: u64) -> Buffer {
        let mut buffer = self.buffer(bytes);
        let list = self.memory(u64::from(buffer.pages) * 8, true);
        for page in 0..u64::from(buffer.pages) {
            let at = buffer.address + (u64::from(buffer.pages) - 1 - page) * 4096;
            self.hw.write(list + page * 8, &at);
        }
        buffer.address = list;
        buffer.list = 1;
        buffer
    }

    #[track_caller]
    pub fn eq(&mut self, bench: &mut Bench, log_entries: u8, vector: u16) -> Eq {
        let buffer = self.buffer(32 << log_entries);
        let body = CreateEq {
            buffer,
            log_entries,
            vector,
            ..CreateEq::default()
        };
        let completion = self.command(bench, AdminOpcode::CreateEq, &body);
        assert_eq!(completion.status, 0);
        Eq {
            number: completion.result0 as u32,
            slot: completion.result1 as u32,
            vector,
            base: buffer.address,
            log_entries,
            consumer: 0,
            arm: 0,
        }
    }

    #[track_caller]
    pub fn cq(&mut self, bench: &mut Bench, eq: &Eq, log_entries: u8) -> Cq {
        let buffer = self.buffer(64 << log_entries);
        let body = CreateCq {
            buffer,
            log_entries,
            eq: eq.number,
            doorbell_page: self.page,
            ..CreateCq::default()
        };
        let completion = self.command(bench, AdminOpcode::CreateCq, &body);
        assert_eq!(completion.status, 0);
        Cq {
            number: completion.result0 as u32,
            slot: completion.result1 as u32 + self.page * doorbell::END_SLOT,
            base: buffer.address,
            log_entries,
            first: 0,
            earlier: VecDeque::new(),
            consumer: 0,
            arm: 0,
        }
    }

    /// Moves a completion queue into a buffer of another size.
    #[track_caller]
    pub fn resize_cq(&mut self, bench: &mut Bench, cq: &mut Cq, log_entries: u8) {
        let buffer = self.buffer(64 << log_entries);
        let body = ResizeCq {
            cq: cq.number,
            log_entries,
            buffer,
            ..ResizeCq::default()
        };
        let first = self.ok(bench, AdminOpcode::ResizeCq, &body) as u32;
        cq.moved(buffer.address, log_entries, first);
    }

    #[track_caller]
    pub fn qp(&mut self, bench: &mut Bench, pd: u32, send_cq: &Cq, receive_cq: &Cq) -> Qp {
        self.qp_with(bench, pd, send_cq, receive_cq, QpFlags::empty())
    }

    #[track_caller]
    pub fn qp_with(
        &mut self,
        bench: &mut Bench,
        pd: u32,
        send_cq: &Cq,
        receive_cq: &Cq,
        flags: QpFlags,
    ) -> Qp {
        let buffer = self.scattered((64 << 6) + (64 << 6));
        let body = CreateQp {
            pd,
            send_cq: send_cq.number,
            receive_cq: receive_cq.number,
            buffer,
            log_send_blocks: 6,
            log_receive_entries: 6,
            log_receive_segments: 2,
            doorbell_page: self.page,
            flags: flags.bits(),
            ..CreateQp::default()
        };
        let completion = self.command(bench, AdminOpcode::CreateQp, &body);
        assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
        let list = buffer.address;
        let first = self.page * doorbell::END_SLOT;
        Qp {
            number: completion.result0 as u32,
            send_slot: first + (completion.result1 as u32 & 0xffff),
            receive_slot: first + (completion.result1 >> 16) as u32,
            receive_page: self.hw.read(list),
            send_page: self.hw.read(list + 8),
            posted: 0,
            received: 0,
        }
    }

    /// A region of `length` bytes at virtual address = DMA address, with all rights.
    #[track_caller]
    pub fn mr(&mut self, bench: &mut Bench, pd: u32, address: u64, length: u64) -> u32 {
        let access = AccessFlags::LOCAL_WRITE
            | AccessFlags::REMOTE_WRITE
            | AccessFlags::REMOTE_READ
            | AccessFlags::REMOTE_ATOMIC;
        let body = CreateMr {
            pd,
            access: access.bits(),
            start: address,
            length,
            buffer: Buffer {
                address: address & !4095,
                pages: ((address % 4096 + length).div_ceil(4096)) as u32,
                page_shift: 12,
                ..Buffer::default()
            },
            variant: 0x5a,
            ..CreateMr::default()
        };
        self.ok(bench, AdminOpcode::CreateMr, &body) as u32
    }

    pub fn modify(
        &mut self,
        bench: &mut Bench,
        qp: u32,
        mask: QpMask,
        attributes: &QpAttributes,
    ) -> Completion {
        let address = self.memory(256, true);
        self.hw.write(address, attributes);
        let body = ModifyQp {
            qp,
            mask: mask.bits(),
            attributes: address,
            reserved: 0,
        };
        let completion = self.command(bench, AdminOpcode::ModifyQp, &body);
        self.next = address;
        completion
    }

    #[track_caller]
    pub fn modify_ok(&mut self, bench: &mut Bench, qp: u32, mask: QpMask, given: &QpAttributes) {
        let completion = self.modify(bench, qp, mask, given);
        assert_eq!(
            (completion.status, completion.syndrome),
            (0, 0),
            "{given:?}"
        );
    }

    #[track_caller]
    pub fn set_state(&mut self, bench: &mut Bench, qp: u32, state: QpState) {
        let given = QpAttributes {
            state: state.raw(),
            ..QpAttributes::default()
        };
        self.modify_ok(bench, qp, QpMask::STATE, &given);
    }

    /// Takes a queue pair from RESET to RTS, connected to queue pair `remote` of function `peer`.
    #[track_caller]
    pub fn connect(&mut self, bench: &mut Bench, qp: u32, peer: u8, remote: u32) {
        let (mask, given) = to_init();
        self.modify_ok(bench, qp, mask, &given);
        let (mask, given) = to_rtr(peer, remote);
        self.modify_ok(bench, qp, mask, &given);
        let (mask, given) = to_rts();
        self.modify_ok(bench, qp, mask, &given);
    }
}

pub fn to_init() -> (QpMask, QpAttributes) {
    let access = AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_READ | AccessFlags::REMOTE_ATOMIC;
    let given = QpAttributes {
        state: QpState::Init.raw(),
        port: 1,
        access: access.bits(),
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE | QpMask::PORT | QpMask::PKEY_INDEX | QpMask::ACCESS;
    (mask, given)
}

pub fn to_rtr(peer: u8, remote: u32) -> (QpMask, QpAttributes) {
    let given = QpAttributes {
        state: QpState::Rtr.raw(),
        path_mtu: 3,
        remote_qpn: remote,
        receive_psn: 0xff_fff0,
        responder_resources: 4,
        min_rnr_timer: 1,
        primary: AddressVector {
            gid: gid(peer).0,
            mac: mac(peer).0,
            ..AddressVector::default()
        },
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE
        | QpMask::PATH_MTU
        | QpMask::REMOTE_QPN
        | QpMask::RECEIVE_PSN
        | QpMask::RESPONDER_RESOURCES
        | QpMask::MIN_RNR_TIMER
        | QpMask::PRIMARY_PATH;
    (mask, given)
}

pub fn to_rts() -> (QpMask, QpAttributes) {
    let given = QpAttributes {
        state: QpState::Rts.raw(),
        send_psn: 0xff_fff0,
        initiator_depth: 4,
        timeout: 10,
        retry_count: 7,
        rnr_retry: 7,
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE
        | QpMask::SEND_PSN
        | QpMask::INITIATOR_DEPTH
        | QpMask::TIMEOUT
        | QpMask::RETRY_COUNT
        | QpMask::RNR_RETRY;
    (mask, given)
}

/// An event queue as the driver knows it.
pub struct Eq {
    pub number: u32,
    pub slot: u32,
    pub vector: u16,
    pub base: u64,
    pub log_entries: u8,
    pub consumer: u32,
    pub arm: u16,
}

impl Eq {
    pub fn poll(&mut self, hw: &Hardware) -> Option<EventEntry> {
        let at = u64::from(self.consumer) % (1 << self.log_entries);
        let entry: EventEntry = hw.read(self.base + at * 32);
        if entry.owner & 1 != u8::from((self.consumer >> self.log_entries) & 1 == 0) {
            return None;
        }
        self.consumer = self.consumer.wrapping_add(1);
        Some(entry)
    }

    pub fn arm(&mut self, hw: &Hardware) {
        self.arm = self.arm.wrapping_add(1);
        hw.store_slot(
            0,
            self.slot,
            doorbell::consumer(self.consumer, self.arm, false),
        );
        hw.mark(0, self.slot);
    }

    /// Frees consumed entries without arming.
    pub fn free(&self, hw: &Hardware) {
        hw.store_slot(
            0,
            self.slot,
            doorbell::consumer(self.consumer, self.arm, false),
        );
    }
}

/// A completion queue as the driver knows it.
pub struct Cq {
    pub number: u32,
    pub slot: u32,
    pub base: u64,
    pub log_entries: u8,
    /// Index of the first entry in the buffer.
    pub first: u32,
    /// Buffers before it with entries that are not consumed: address, size, first index.
    pub earlier: VecDeque<(u64, u8, u32)>,
    pub consumer: u32,
    pub arm: u16,
}

impl Cq {
    /// The queue's entries from index `first` on stand in another buffer.
    pub fn moved(&mut self, base: u64, log_entries: u8, first: u32) {
        self.earlier
            .push_back((self.base, self.log_entries, self.first));
        (self.base, self.log_entries, self.first) = (base, log_entries, first);
    }

    /// The buffer in which the next entry is to be found.
    fn buffer(&mut self) -> (u64, u8, u32) {
        loop {
            let end = self.earlier.get(1).map_or(self.first, |next| next.2);
            match self.earlier.front() {
                // At the end of one of the earlier buffers, the driver is done with it.
                Some(_) if self.consumer == end => self.earlier.pop_front(),
                Some(buffer) => return *buffer,
                None => return (self.base, self.log_entries, self.first),
            };
        }
    }

    pub fn poll(&mut self, hw: &Hardware) -> Option<CompletionEntry> {
        let (base, log_entries, first) = self.buffer();
        let place = self.consumer.wrapping_sub(first);
        let at = u64::from(place) % (1 << log_entries);
        let entry: CompletionEntry = hw.read(base + at * 64);
        if entry.owner & 1 != u8::from((place >> log_entries) & 1 == 0) {
            return None;
        }
        self.consumer = self.consumer.wrapping_add(1);
        hw.store_slot(
            0,
            self.slot,
            doorbell::consumer(self.consumer, self.arm, false),
        );
        Some(entry)
    }

    pub fn arm(&mut self, hw: &Hardware, solicited_only: bool) {
        self.arm = self.arm.wrapping_add(1);
        let value = doorbell::consumer(self.consumer, self.arm, solicited_only);
        hw.store_slot(0, self.slot, value);
        hw.mark(0, self.slot);
    }
}

/// A queue pair as the driver knows it: 64 basic blocks, 64 receive entries of 64 bytes, each ring
/// one page.
pub struct Qp {
    pub number: u32,
    pub send_slot: u32,
    pub receive_slot: u32,
    pub receive_page: u64,
    pub send_page: u64,
    pub posted: u32,
    pub received: u32,
}

impl Qp {
    /// Puts raw segments into the ring as one request and announces it. The first segment's index
    /// and length are filled in.
    pub fn post(&mut self, hw: &Hardware, control: ControlSegment, rest: &[&[u8]]) {
        let rest = rest.concat();
        let segments = 1 + rest.len().div_ceil(16);
        let control = ControlSegment {
            segments: segments as u8,
            index: self.posted,
            ..control
        };
        let mut bytes = bytes_of(&control).to_vec();
        bytes.extend_from_slice(&rest);
        bytes.resize(bytes.len().next_multiple_of(BASIC_BLOCK), 0);
        for block in bytes.chunks(BASIC_BLOCK) {
            let at = u64::from(self.posted % 64) * BASIC_BLOCK as u64;
            hw.ram.write(self.send_page + at, block).unwrap();
            self.posted = self.posted.wrapping_add(1);
        }
        self.ring(hw);
    }

    pub fn ring(&self, hw: &Hardware) {
        let value = doorbell::send_queue(self.posted, self.number);
        hw.store_slot(0, self.send_slot, value);
        hw.mark(0, self.send_slot);
    }

    pub fn send(&mut self, hw: &Hardware, opcode: WqeOpcode, immediate: u32, data: &[DataSegment]) {
        let control = control(opcode, immediate, data.len());
        self.post(hw, control, &[bytemuck::cast_slice(data)]);
    }

    pub fn rdma(
        &mut self,
        hw: &Hardware,
        opcode: WqeOpcode,
        (address, rkey): (u64, u32),
        data: &[DataSegment],
    ) {
        let remote = RemoteSegment {
            address,
            rkey,
            reserved: 0,
        };
        let control = control(opcode, 0x1234_5678, data.len());
        self.post(
            hw,
            control,
            &[bytes_of(&remote), bytemuck::cast_slice(data)],
        );
    }

    pub fn receive(&mut self, hw: &Hardware, data: &[DataSegment]) {
        let at = self.receive_page + u64::from(self.received % 64) * 64;
        let mut entry = [DataSegment::default(); 4];
        entry[..data.len()].copy_from_slice(data);
        hw.write(at, &entry);
        self.received = self.received.wrapping_add(1);
        hw.store_slot(0, self.receive_slot, doorbell::receive_queue(self.received));
    }
}

pub fn control(opcode: WqeOpcode, immediate: u32, data_segments: usize) -> ControlSegment {
    ControlSegment {
        opcode: opcode.raw(),
        flags: WqeFlags::SIGNALED.bits(),
        data_segments: data_segments as u8,
        immediate,
        ..ControlSegment::default()
    }
}

pub fn data(address: u64, length: u32, lkey: u32) -> DataSegment {
    DataSegment {
        address,
        length,
        lkey,
    }
}

/// A function with everything that traffic needs.
pub struct Node {
    pub driver: Driver,
    pub eq: Eq,
    pub cq: Cq,
    pub pd: u32,
    pub qp: Qp,
    /// One mebibyte of memory with the pattern.
    pub memory: u64,
    pub key: u32,
}

pub const BUFFER: u64 = 1 << 20;

impl Node {
    #[track_caller]
    pub fn new(bench: &mut Bench, n: u8) -> Self {
        let driver = Driver::ready(bench, n);
        Self::on(bench, driver)
    }

    #[track_caller]
    pub fn on(bench: &mut Bench, mut driver: Driver) -> Self {
        let eq = driver.eq(bench, 6, 3);
        driver.destroy(bench, AdminOpcode::SetAsyncEq, eq.number);
        let cq = driver.cq(bench, &eq, 8);
        let pd = driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
        let qp = driver.qp(bench, pd, &cq, &cq);
        let memory = driver.memory(BUFFER, false);
        let key = driver.mr(bench, pd, memory, BUFFER);
        Self {
            driver,
            eq,
            cq,
            pd,
            qp,
            memory,
            key,
        }
    }

    pub fn hw(&self) -> &Hardware {
        &self.driver.hw
    }

    pub fn poll(&mut self) -> Option<CompletionEntry> {
        self.cq.poll(&self.driver.hw)
    }

    pub fn segment(&self, offset: u64, length: u32) -> DataSegment {
        data(self.memory + offset, length, self.key)
    }

    pub fn counter(&self, bench: &Bench, counter: vrnic_abi::counter::Counter) -> u64 {
        let function = bench.nic.function(self.driver.id).unwrap();
        function.objects.counters[usize::from(counter.raw())]
    }
}

/// Connects the queue pairs of two nodes of possibly different NICs.
#[track_caller]
pub fn connect(a: (&mut Bench, &mut Node), b: (&mut Bench, &mut Node)) {
    let (qa, qb) = (a.1.qp.number, b.1.qp.number);
    let (na, nb) = (a.1.driver.n, b.1.driver.n);
    a.1.driver.connect(a.0, qa, nb, qb);
    b.1.driver.connect(b.0, qb, na, qa);
}

/// Two connected nodes of one NIC.
#[track_caller]
pub fn pair(bench: &mut Bench) -> (Node, Node) {
    let mut a = Node::new(bench, 1);
    let mut b = Node::new(bench, 2);
    join(bench, &mut a, &mut b);
    (a, b)
}

#[track_caller]
pub fn join(bench: &mut Bench, a: &mut Node, b: &mut Node) {
    let (qa, qb) = (a.qp.number, b.qp.number);
    a.driver.connect(bench, qa, b.driver.n, qb);
    b.driver.connect(bench, qb, a.driver.n, qa);
}
