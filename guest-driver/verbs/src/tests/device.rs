//! A NIC with one function, in this process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::rc::Rc;

use vrnic_abi::admin::{
    AdminOpcode, Command, CommandHeader, Completion, CreateEq, ObjectOutput, OutputBuffer, Status,
};
use vrnic_abi::doorbell::{BAR_SIZE, END_SLOT, GROUPS, PAGES, kick_offset, page_offset};
use vrnic_abi::object::EqAttributes;
use vrnic_abi::{admin, doorbell, registers};
use vrnic_firmware::host::{CopyError, DmaError, Host, Memory, Wire};
use vrnic_firmware::nic::{FunctionConfig, FunctionId, Nic, NicConfig, Progress};
use vrnic_firmware::types::{Mac, Time};

/// Entries of the admin queue, as a power of two.
const LOG_ADMIN: u32 = 5;

/// Memory of the process, as far as the kernel has pinned it.
#[derive(Default)]
pub(super) struct Pinned(RefCell<BTreeMap<u64, u64>>);

impl Pinned {
    /// Lets the device at `length` bytes from `start` on.
    pub(super) fn pin(&self, start: u64, length: u64) {
        self.0.borrow_mut().insert(start, length);
    }

    pub(super) fn unpin(&self, start: u64) {
        self.0.borrow_mut().remove(&start);
    }

    fn check(&self, address: u64, length: usize) -> Result<*mut u8, DmaError> {
        let pinned = self.0.borrow();
        let inside = pinned
            .iter()
            .any(|(&start, &size)| address >= start && address + length as u64 <= start + size);
        if inside {
            Ok(address as *mut u8)
        } else {
            Err(DmaError { address })
        }
    }
}

impl Memory for Pinned {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let from = self.check(address, buffer.len())?;
        unsafe { from.copy_to(buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let to = self.check(address, data.len())?;
        unsafe { to.copy_from(data.as_ptr(), data.len()) };
        Ok(())
    }

    fn write_publish(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.write(address, data)
    }

    fn copy_to(&self, from: u64, other: &Self, to: u64, length: usize) -> Result<(), CopyError> {
        let from = self.check(from, length).map_err(CopyError::Source)?;
        let to = other.check(to, length).map_err(CopyError::Target)?;
        unsafe { to.copy_from(from, length) };
        Ok(())
    }

    fn fetch_add(&self, address: u64, value: u64) -> Result<u64, DmaError> {
        let place = self.check(address, 8)?.cast::<u64>();
        let old = unsafe { place.read() };
        unsafe { place.write(old.wrapping_add(value)) };
        Ok(old)
    }

    fn compare_swap(&self, address: u64, compare: u64, swap: u64) -> Result<u64, DmaError> {
        let place = self.check(address, 8)?.cast::<u64>();
        let old = unsafe { place.read() };
        if old == compare {
            unsafe { place.write(swap) };
        }
        Ok(old)
    }
}

/// What the function and the kernel share.
pub(super) struct Shared {
    pub(super) memory: Pinned,
    registers: RefCell<Vec<u32>>,
    /// The doorbell BAR: a file, mapped.
    pub(super) file: c_int,
    pages: *mut u8,
}

impl Shared {
    fn new() -> Self {
        let length = BAR_SIZE as usize;
        let (file, pages) = unsafe {
            let file = libc::memfd_create(c"doorbells".as_ptr(), 0);
            assert!(file >= 0 && libc::ftruncate(file, length as i64) == 0);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let none = core::ptr::null_mut();
            let pages = libc::mmap(none, length, access, libc::MAP_SHARED, file, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            (file, pages)
        };
        Self {
            memory: Pinned::default(),
            registers: RefCell::new(vec![0; 1024]),
            file,
            pages: pages.cast(),
        }
    }

    fn place(&self, offset: u32) -> *mut u8 {
        assert!(offset < BAR_SIZE);
        unsafe { self.pages.add(offset as usize) }
    }

    fn slot(&self, page: u32, slot: u32) -> *mut u64 {
        self.place(page_offset(page) + doorbell::slot_offset(slot))
            .cast()
    }

    /// Whether somebody has written a kick page since it was asked for last.
    fn take_kick(&self) -> bool {
        (0..PAGES).fold(false, |kicked, page| {
            let place = self.place(kick_offset(page)).cast::<u32>();
            kicked | (unsafe { place.replace(0) } != 0)
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        unsafe {
            libc::munmap(self.pages.cast(), BAR_SIZE as usize);
            libc::close(self.file);
        }
    }
}

#[derive(Clone)]
pub(super) struct Function(Rc<Shared>);

impl Host for Function {
    type Memory = Pinned;

    fn memory(&self) -> &Pinned {
        &self.0.memory
    }

    fn doorbell(&self, page: u32, slot: u32) -> u64 {
        if page >= PAGES || slot >= END_SLOT {
            return 0;
        }
        unsafe { self.0.slot(page, slot).read_volatile() }
    }

    fn take_marks(&self, page: u32) -> u64 {
        (1..GROUPS).fold(0, |marks, group| {
            let place = self.0.place(page_offset(page) + group);
            let mark = unsafe { place.replace(0) };
            marks | u64::from(mark != 0) << group
        })
    }

    fn clear_doorbells(&self, page: u32) {
        (doorbell::FIRST_SLOT..END_SLOT).for_each(|slot| self.clear_slot(page, slot));
        self.take_marks(page);
    }

    fn clear_slot(&self, page: u32, slot: u32) {
        unsafe { self.0.slot(page, slot).write(0) };
    }

    fn set_asleep(&self, page: u32, asleep: bool) {
        unsafe { self.0.place(page_offset(page)).write(asleep.into()) };
    }

    fn barrier(&self) {}

    fn raise(&self, vector: u16) {
        assert!(
            vector < 64,
            "the device raised a vector that does not exist"
        );
    }

    fn set_vectors(&self, _vectors: u16) -> bool {
        // The driver has seen how many there are.
        false
    }

    fn set_register(&self, offset: u32, value: u32) {
        self.0.registers.borrow_mut()[offset as usize / 4] = value;
    }
}

/// No wire: everything happens between queue pairs of the function.
struct NoWire(Vec<u8>);

impl Wire for NoWire {
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        self.0.resize(length, 0);
        Some(&mut self.0)
    }

    fn commit(&mut self, _length: usize) {}
}

/// A NIC, its function, and the function's admin queue.
pub(super) struct Device {
    nic: Nic<Function>,
    id: FunctionId,
    pub(super) shared: Rc<Shared>,
    now: u64,
    asleep: bool,
    submission: *mut Command,
    completion: *mut Completion,
    produced: u32,
    /// The event queue that completion queues have.
    pub(super) eq: u32,
    eq_slot: u32,
    pub(super) mac: [u8; 6],
    pub(super) gid: [u8; 16],
}

impl Device {
    /// A function that is enabled and has a GID and an event queue.
    pub(super) fn new() -> Self {
        let shared = Rc::new(Shared::new());
        let config = NicConfig {
            direct: true,
            link_up: true,
            speed: 100_000,
        };
        let mac = [2, 0, 0, 0, 0, 1];
        let function = FunctionConfig {
            number: 0,
            mac: Mac(mac),
            mtu: 4200,
        };
        let mut nic = Nic::new(config);
        let id = nic.add_function(Function(Rc::clone(&shared)), function);
        let (submission, completion) = (pages(4096), pages(4096));
        let mut device = Self {
            nic,
            id: id.unwrap(),
            shared,
            now: 1000,
            asleep: false,
            submission: submission as *mut Command,
            completion: completion as *mut Completion,
            produced: 0,
            eq: 0,
            eq_slot: 0,
            mac,
            gid: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
        };
        device.enable();
        device
    }

    fn write(&mut self, register: &vrnic_abi::Register, value: u32) {
        self.wake();
        let (id, now) = (self.id, Time(self.now));
        self.nic.write_register(now, id, register.offset, value);
    }

    fn enable(&mut self) {
        let (submission, completion) = (self.submission as u64, self.completion as u64);
        self.shared.memory.pin(submission, 4096);
        self.shared.memory.pin(completion, 4096);
        self.write(&registers::ADMIN_SUBMISSION_BASE, submission as u32);
        self.write(
            &registers::ADMIN_SUBMISSION_BASE_HIGH,
            (submission >> 32) as u32,
        );
        self.write(&registers::ADMIN_COMPLETION_BASE, completion as u32);
        self.write(
            &registers::ADMIN_COMPLETION_BASE_HIGH,
            (completion >> 32) as u32,
        );
        self.write(&registers::ADMIN_QUEUE, LOG_ADMIN);
        self.write(&registers::DEVICE_CONTROL, 1);
        self.settle();
        let ring = pages(4096);
        self.shared.memory.pin(ring, 4096);
        let eq = CreateEq {
            buffer: contiguous(ring, 4096),
            log_entries: 7,
            ..CreateEq::default()
        };
        (self.eq, self.eq_slot) = self.command(AdminOpcode::CreateEq, &eq).unwrap();
        let gid = admin::SetGid {
            gid_type: admin::GidType::RoceV2.raw(),
            gid: self.gid,
            ..admin::SetGid::default()
        };
        self.command(AdminOpcode::SetGid, &gid).unwrap();
    }

    /// Carries out a command.
    pub(super) fn command<T: bytemuck::Pod>(
        &mut self,
        opcode: AdminOpcode,
        body: &T,
    ) -> Result<(u32, u32), Status> {
        let mut command = Command {
            header: CommandHeader {
                opcode: opcode.raw(),
                ..CommandHeader::default()
            },
            ..Command::default()
        };
        let bytes = bytemuck::bytes_of(body);
        bytemuck::bytes_of_mut(&mut command.body)[..bytes.len()].copy_from_slice(bytes);
        let place = self.produced as usize % (1 << LOG_ADMIN);
        unsafe { self.submission.add(place).write(command) };
        self.produced += 1;
        self.write(&registers::ADMIN_DOORBELL, self.produced & 0xffff);
        self.settle();
        let pass = (self.produced - 1) >> LOG_ADMIN & 1;
        let completion = unsafe { self.completion.add(place).read_volatile() };
        assert_eq!(
            u32::from(completion.owner & 1),
            1 - pass,
            "{opcode:?} did not complete"
        );
        self.write(
            &registers::ADMIN_COMPLETION_DOORBELL,
            self.produced & 0xffff,
        );
        match Status::from_raw(completion.status).unwrap() {
            Status::Success => Ok((completion.result0 as u32, completion.result1 as u32)),
            status => Err(status),
        }
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.asleep) {
            self.nic.wake();
        }
    }

    /// Lets the device do what it finds; asleep, it looks at nothing unless it was kicked.
    pub(super) fn settle(&mut self) {
        let mut wire = NoWire(Vec::new());
        for _ in 0..1_000_000 {
            if self.shared.take_kick() {
                self.wake();
            }
            if self.asleep {
                return;
            }
            if self.nic.step(Time(self.now), &mut wire) == Progress::Busy {
                continue;
            }
            if self.nic.prepare_sleep() {
                self.asleep = true;
            } else {
                self.nic.wake();
            }
        }
        panic!("the device does not come to rest");
    }

    /// Completion events that were ever written, which are consumed then.
    pub(super) fn events(&mut self) -> u32 {
        let place = pages(4096);
        self.shared.memory.pin(place, 4096);
        let body = ObjectOutput {
            object: self.eq,
            output: OutputBuffer {
                address: place,
                length: EqAttributes::SIZE as u32,
                ..OutputBuffer::default()
            },
            ..ObjectOutput::default()
        };
        self.command(AdminOpcode::QueryEq, &body).unwrap();
        let events = unsafe { (place as *const EqAttributes).read() }.producer;
        unsafe { self.shared.slot(0, self.eq_slot).write(events.into()) };
        events
    }
}

/// Zeroed pages that are never freed.
pub(super) fn pages(length: usize) -> u64 {
    let layout = std::alloc::Layout::from_size_align(length, 4096).unwrap();
    unsafe { std::alloc::alloc_zeroed(layout) as u64 }
}

/// The description of `length` bytes from `address` on.
pub(super) fn contiguous(address: u64, length: u64) -> admin::Buffer {
    let start = address & !4095;
    admin::Buffer {
        address: start,
        pages: (address + length - start).div_ceil(4096) as u32,
        page_shift: 12,
        ..admin::Buffer::default()
    }
}
