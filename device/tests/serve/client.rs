//! A client that nobody here wrote: `vfio_user::Client`, and an admin queue built by hand.
//!
//! That client ignores the errors in replies, so what it asked for is always looked at afterwards.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::Client;
use vm_memory::{Bytes, VolatileMemory};
use vrnic_abi::admin::{AdminOpcode, Command, CommandHeader, Completion, OutputBuffer, Status};
use vrnic_abi::object::DeviceAttributes;
use vrnic_abi::registers::{self, DeviceState, HealthCode};
use vrnic_abi::{Register, doorbell, pci};
use vrnic_driver::DmaBuffer;

use crate::endpoint::{Retries, exchange, open, pair, probe};
use crate::foreign::{
    BAR_DOORBELLS, BAR_MSIX, BAR_REGISTERS, COMMAND_ENABLE, EVENTFD_TRIGGER, ForeignPlatform,
    IRQ_MSIX, Memory, REGION_CONFIG, map_doorbells, wait_event,
};
use crate::process::{Nic, PATIENCE, directory, until};

/// MSI-X vector of the admin queue.
const VECTOR: u16 = 21;
/// Entries of the admin rings, as a power of two.
const LOG_ENTRIES: u32 = 4;
/// Where things are in the memory of the admin queue.
const COMPLETIONS: usize = 4096;
const OUTPUT: usize = 8192;
const MEMORY: usize = 12288;

#[track_caller]
fn read<const N: usize>(client: &mut Client, region: u32, offset: u64) -> [u8; N] {
    let mut data = [0xa5; N];
    client.region_read(region, offset, &mut data).unwrap();
    data
}

#[track_caller]
fn config32(client: &mut Client, offset: u64) -> u32 {
    u32::from_le_bytes(read(client, REGION_CONFIG, offset))
}

#[track_caller]
fn register(client: &mut Client, register: &Register) -> u32 {
    u32::from_le_bytes(read(client, BAR_REGISTERS, register.offset.into()))
}

#[track_caller]
fn set_register(client: &mut Client, register: &Register, value: u32) {
    client
        .region_write(BAR_REGISTERS, register.offset.into(), &value.to_le_bytes())
        .unwrap();
}

#[track_caller]
fn state(client: &mut Client) -> Option<DeviceState> {
    let status = register(client, &registers::DEVICE_STATUS);
    DeviceState::from_raw(registers::device_status::STATE.get(status) as u8)
}

#[track_caller]
fn reset_count(client: &mut Client) -> u32 {
    registers::device_status::RESET_COUNT.get(register(client, &registers::DEVICE_STATUS))
}

/// All registers but the status and the heartbeat.
#[track_caller]
fn snapshot(client: &mut Client) -> Vec<u8> {
    let mut all = read::<0x100>(client, BAR_REGISTERS, 0).to_vec();
    for varying in [&registers::DEVICE_STATUS, &registers::HEARTBEAT] {
        all[varying.offset as usize..][..4].fill(0);
    }
    all
}

// --- what the function is

#[test]
fn regions_and_interrupts_are_described() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut client = Client::new(nic.socket(0)).unwrap();
    let sizes: Vec<u64> = (0..9).map(|n| client.region(n).unwrap().size).collect();
    let (bar0, bar2) = (pci::BAR_REGISTERS_SIZE.into(), doorbell::BAR_SIZE.into());
    let bar4 = pci::BAR_MSIX_SIZE.into();
    assert_eq!(sizes, [bar0, 0, bar2, 0, bar4, 0, 0, 4096, 0]);
    for index in [BAR_REGISTERS, BAR_DOORBELLS, BAR_MSIX, REGION_CONFIG] {
        let region = client.region(index).unwrap();
        assert_eq!(
            region.flags & 3,
            3,
            "region {index} can be read and written"
        );
        let mapped = region.file_offset.is_some();
        assert_eq!(mapped, index == BAR_DOORBELLS, "region {index}");
    }
    let areas = &client.region(BAR_DOORBELLS).unwrap().sparse_areas;
    let areas: Vec<_> = areas.iter().map(|area| (area.offset, area.size)).collect();
    assert_eq!(areas, [(0, bar2 / 2)], "kick pages are trapped");
    let mut irq = |index| {
        let info = client.get_irq_info(index).unwrap();
        assert_eq!(info.index, index);
        (info.count, info.flags)
    };
    assert_eq!(irq(0), (0, 0), "no INTx");
    assert_eq!(irq(1), (0, 0), "no MSI");
    assert_eq!(irq(IRQ_MSIX), (64, 1), "eventfds");
    assert_eq!(irq(3).0, 1);
    assert_eq!(irq(4), (0, 0));
}

#[test]
fn configuration_space_is_that_of_a_network_controller() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut client = Client::new(nic.socket(0)).unwrap();
    let ids = u32::from(pci::VENDOR_ID) | u32::from(pci::DEVICE_ID_PF) << 16;
    assert_eq!(config32(&mut client, 0), ids);
    let class = pci::CLASS_CODE << 8 | u32::from(pci::REVISION);
    assert_eq!(config32(&mut client, 8), class);
    let [header_type] = read(&mut client, REGION_CONFIG, 0xe);
    assert_eq!(header_type & 0x7f, 0);
    assert_eq!(standard_capabilities(&mut client), [0x01, 0x10, 0x11]);
    let extended = extended_capabilities(&mut client);
    assert_eq!(extended, [0x0001, 0x0003], "AER, serial number");
    for bar in [BAR_REGISTERS, BAR_DOORBELLS, BAR_MSIX] {
        let size = client.region(bar).unwrap().size;
        assert_eq!(bar_size(&mut client, bar), size, "BAR{bar}");
    }
}

/// IDs of the PCI-compatible capabilities, sorted.
#[track_caller]
fn standard_capabilities(client: &mut Client) -> Vec<u8> {
    let [mut at] = read::<1>(client, REGION_CONFIG, 0x34);
    let mut found = Vec::new();
    while at != 0 {
        assert!(at >= 0x40 && at % 4 == 0 && found.len() < 48, "{found:?}");
        let [id, next] = read(client, REGION_CONFIG, at.into());
        found.push(id);
        at = next;
    }
    found.sort_unstable();
    found
}

/// IDs of the extended capabilities.
#[track_caller]
fn extended_capabilities(client: &mut Client) -> Vec<u32> {
    let (mut at, mut found) = (0x100, Vec::new());
    while at != 0 {
        assert!(at >= 0x100 && at % 4 == 0 && found.len() < 480, "{found:?}");
        let header = config32(client, at.into());
        found.push(header & 0xffff);
        at = header >> 20;
    }
    found
}

/// The size of a 64-bit memory BAR, found as firmware finds it.
#[track_caller]
fn bar_size(client: &mut Client, bar: u32) -> u64 {
    let at = 0x10 + 4 * u64::from(bar);
    let before: [u8; 8] = read(client, REGION_CONFIG, at);
    assert_eq!(before[0] & 7, 4, "a 64-bit memory BAR");
    for half in [at, at + 4] {
        client
            .region_write(REGION_CONFIG, half, &[0xff; 4])
            .unwrap();
    }
    let low = u64::from(config32(client, at));
    let high = u64::from(config32(client, at + 4));
    client.region_write(REGION_CONFIG, at, &before).unwrap();
    assert_eq!(read::<8>(client, REGION_CONFIG, at), before);
    !(high << 32 | low & !0xf) + 1
}

// --- registers and the admin queue

/// An enabled function with an admin queue made by hand.
struct Admin {
    client: Client,
    memory: Memory,
    event: OwnedFd,
    produced: u32,
}

impl Admin {
    #[track_caller]
    fn start(socket: &Path) -> Self {
        let mut client = Client::new(socket).unwrap();
        let memory = Memory::new(MEMORY, 0x7_0000_0000);
        let (size, fd) = (memory.size() as u64, memory.file.as_raw_fd());
        client.dma_map(0, memory.iova, size, fd).unwrap();
        client
            .region_write(REGION_CONFIG, 4, &COMMAND_ENABLE)
            .unwrap();
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        client
            .set_irqs(
                IRQ_MSIX,
                EVENTFD_TRIGGER,
                VECTOR.into(),
                1,
                &[event.as_raw_fd()],
            )
            .unwrap();
        let mut admin = Self {
            client,
            memory,
            event,
            produced: 0,
        };
        admin.enable();
        admin
    }

    #[track_caller]
    fn enable(&mut self) {
        let Self { client, memory, .. } = self;
        let completions = memory.iova + COMPLETIONS as u64;
        let shape = LOG_ENTRIES | u32::from(VECTOR) << 4 | 1 << 16;
        for (register, value) in [
            (&registers::ADMIN_SUBMISSION_BASE, memory.iova as u32),
            (
                &registers::ADMIN_SUBMISSION_BASE_HIGH,
                (memory.iova >> 32) as u32,
            ),
            (&registers::ADMIN_COMPLETION_BASE, completions as u32),
            (
                &registers::ADMIN_COMPLETION_BASE_HIGH,
                (completions >> 32) as u32,
            ),
            (&registers::ADMIN_QUEUE, shape),
        ] {
            set_register(client, register, value);
            assert_eq!(
                u32::from_le_bytes(read(client, BAR_REGISTERS, register.offset.into())),
                value
            );
        }
        set_register(client, &registers::DEVICE_CONTROL, 1);
        until("the function is ready", || {
            (state(client) == Some(DeviceState::Ready)).then_some(())
        });
    }

    /// Puts a command into the ring and announces it.
    #[track_caller]
    fn submit(&mut self, opcode: AdminOpcode, body: &impl Pod) {
        let mut command = Command {
            header: CommandHeader {
                opcode: opcode.raw(),
                id: 0x4000 + self.produced as u16,
                reserved: 0,
            },
            ..Command::default()
        };
        let bytes = bytes_of(body);
        bytemuck::cast_slice_mut(&mut command.body)[..bytes.len()].copy_from_slice(bytes);
        let entry = self.produced as usize % (1 << LOG_ENTRIES);
        self.memory.write(entry * 64, bytes_of(&command));
        self.produced += 1;
        set_register(&mut self.client, &registers::ADMIN_DOORBELL, self.produced);
    }

    /// Takes the newest completion after an interrupt that follows it; others may come before,
    /// such as the one that announces the error state.
    #[track_caller]
    fn complete(&mut self) -> Completion {
        let index = self.produced as usize - 1;
        let entry = index % (1 << LOG_ENTRIES);
        let owner = 1 - (index >> LOG_ENTRIES) as u8 % 2;
        let mut bytes = [0; 32];
        bytes[31] = 1 - owner;
        while bytes[31] & 1 != owner {
            assert!(wait_event(&self.event, PATIENCE), "no interrupt");
            self.memory.read(COMPLETIONS + entry * 32, &mut bytes);
        }
        let completion: Completion = pod_read_unaligned(&bytes);
        set_register(
            &mut self.client,
            &registers::ADMIN_COMPLETION_DOORBELL,
            self.produced,
        );
        completion
    }

    fn output(&self) -> OutputBuffer {
        OutputBuffer {
            address: self.memory.iova + OUTPUT as u64,
            length: 4096,
            reserved: 0,
        }
    }

    #[track_caller]
    fn query_device(&mut self) -> DeviceAttributes {
        self.memory.write(OUTPUT, &[0xa5; 4096]);
        self.submit(AdminOpcode::QueryDevice, &self.output());
        let completion = self.complete();
        assert_eq!(completion.status, Status::Success.raw());
        assert_eq!(completion.id, 0x4000 + self.produced as u16 - 1);
        assert_eq!(completion.opcode, AdminOpcode::QueryDevice.raw());
        let mut bytes = [0; size_of::<DeviceAttributes>()];
        self.memory.read(OUTPUT, &mut bytes);
        pod_read_unaligned(&bytes)
    }
}

#[test]
fn an_admin_queue_made_by_hand_works() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut admin = Admin::start(nic.socket(0));
    let magic = register(&mut admin.client, &registers::MAGIC);
    assert_eq!(magic, registers::MAGIC_VALUE);
    let first = admin.query_device();
    assert_eq!((first.ports, first.vectors), (1, 64));
    // More than twice around the ring.
    for _ in 0..40 {
        assert_eq!(bytes_of(&admin.query_device()), bytes_of(&first));
    }
    // An unknown command is refused and does nothing else.
    admin.submit(AdminOpcode::QueryQp, &admin.output());
    assert_ne!(admin.complete().status, Status::Success.raw());
    assert_eq!(state(&mut admin.client), Some(DeviceState::Ready));
}

#[test]
fn a_client_can_raise_a_vector_itself() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut admin = Admin::start(nic.socket(0));
    assert!(!wait_event(&admin.event, Duration::ZERO));
    // No data (bit 0), trigger (bit 5).
    admin
        .client
        .set_irqs(IRQ_MSIX, 0x21, VECTOR.into(), 1, &[])
        .unwrap();
    assert!(wait_event(&admin.event, PATIENCE));
}

#[test]
fn unmapped_memory_is_out_of_reach_and_mapped_again_is_not() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut admin = Admin::start(nic.socket(0));
    admin.query_device();
    let (iova, size) = (admin.memory.iova, admin.memory.size() as u64);
    admin.client.dma_unmap(iova, size).unwrap();
    let mut before = vec![0; MEMORY];
    admin.memory.read(0, &mut before);
    admin.submit(AdminOpcode::QueryDevice, &admin.output());
    until("the function fails", || {
        (state(&mut admin.client) == Some(DeviceState::Error)).then_some(())
    });
    let code = register(&mut admin.client, &registers::HEALTH_CODE);
    assert_eq!(code, u32::from(HealthCode::AdminDmaFailed.raw()));
    let mut after = vec![0; MEMORY];
    admin.memory.read(0, &mut after);
    assert_eq!(before[COMPLETIONS..], after[COMPLETIONS..]);
    // Recovery: reset, map, enable.
    admin.client.reset().unwrap();
    let fd = admin.memory.file.as_raw_fd();
    admin.client.dma_map(0, iova, size, fd).unwrap();
    admin
        .client
        .region_write(REGION_CONFIG, 4, &COMMAND_ENABLE)
        .unwrap();
    admin.memory.write(0, &[0; MEMORY]);
    admin.produced = 0;
    // A reset of the function does not take the client's eventfds.
    admin.enable();
    admin.query_device();
}

#[test]
fn a_reset_brings_the_registers_back() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut client = Client::new(nic.socket(0)).unwrap();
    let initial = snapshot(&mut client);
    drop(client);
    let mut admin = Admin::start(nic.socket(0));
    admin.query_device();
    assert_ne!(snapshot(&mut admin.client), initial);
    let mut counts = vec![reset_count(&mut admin.client)];
    admin.client.reset().unwrap();
    assert_eq!(snapshot(&mut admin.client), initial);
    assert_eq!(state(&mut admin.client), Some(DeviceState::Reset));
    counts.push(reset_count(&mut admin.client));
    set_register(&mut admin.client, &registers::ADMIN_QUEUE, 5);
    set_register(&mut admin.client, &registers::RESET, registers::RESET_VALUE);
    let last = counts[1];
    let count = until("the reset is counted", || {
        let count = reset_count(&mut admin.client);
        (count != last).then_some(count)
    });
    counts.push(count);
    assert_eq!(snapshot(&mut admin.client), initial);
    let steps: Vec<_> = counts
        .windows(2)
        .map(|w| (w[1] + 256 - w[0]) % 256)
        .collect();
    assert_eq!(steps, [1, 1], "{counts:?}");
}

#[test]
fn the_next_client_finds_a_function_after_power_on() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let initial = snapshot(&mut Client::new(nic.socket(0)).unwrap());
    for round in 0..50 {
        drop(Admin::start(nic.socket(0)));
        let mut client = Client::new(nic.socket(0)).unwrap();
        let found = state(&mut client);
        let expected = [Some(DeviceState::Reset), Some(DeviceState::Resetting)];
        assert!(expected.contains(&found), "round {round}: {found:?}");
        // What is written now is not undone by the end of the old client.
        set_register(&mut client, &registers::ADMIN_QUEUE, 0x123);
        until("the reset is done", || {
            (state(&mut client) == Some(DeviceState::Reset)).then_some(())
        });
        let written = register(&mut client, &registers::ADMIN_QUEUE);
        assert_eq!(written, 0x123, "round {round}");
        set_register(&mut client, &registers::ADMIN_QUEUE, 0);
        assert_eq!(snapshot(&mut client), initial);
    }
}

// --- doorbells

#[test]
fn a_doorbell_in_mapped_memory_reaches_the_engine() {
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a"], &[]);
    let mut admin = Admin::start(nic.socket(0));
    let region = map_doorbells(&admin.client);
    let pages = region.as_volatile_slice();
    let (slot, value) = (17, 0x0011_2233_4455_6677_u64);
    let (at, mark) = (doorbell::slot_offset(slot), doorbell::mark_offset(slot));
    for _ in 0..100 {
        pages.store(value, at as usize, Ordering::Release).unwrap();
        pages
            .store(doorbell::DIRTY, mark as usize, Ordering::SeqCst)
            .unwrap();
        std::sync::atomic::fence(Ordering::SeqCst);
        let asleep: u8 = pages.load(0, Ordering::SeqCst).unwrap();
        if asleep == doorbell::ENGINE_ASLEEP {
            let kick = doorbell::kick_offset(0).into();
            admin
                .client
                .region_write(BAR_DOORBELLS, kick, &[1, 0, 0, 0])
                .unwrap();
        }
        until("the mark is taken", || {
            let mark: u8 = pages.load(mark as usize, Ordering::Acquire).unwrap();
            (mark == 0).then_some(())
        });
    }
    let seen: [u8; 8] = read(&mut admin.client, BAR_DOORBELLS, at.into());
    assert_eq!(
        u64::from_le_bytes(seen),
        value,
        "trapped reads see the page"
    );
    let other = 0x7766_5544_3322_1100_u64;
    let trapped = u64::from(doorbell::page_offset(9) + at);
    admin
        .client
        .region_write(BAR_DOORBELLS, trapped, &other.to_le_bytes())
        .unwrap();
    let mapped: u64 = pages.load(trapped as usize, Ordering::Acquire).unwrap();
    assert_eq!(mapped, other, "the page sees trapped writes");
}

#[test]
fn the_driver_moves_data_on_this_client() {
    use rand::SeedableRng;
    let dir = directory();
    let nic = Nic::start(dir.path(), &["a", "b"], &[]);
    let a = probe(ForeignPlatform::open(nic.socket(0)), 1);
    let b = open(nic.socket(1), 2);
    let (mut a, mut b) = pair(&a, &b, Retries::Long);
    let mut rng = rand::rngs::SmallRng::seed_from_u64(5);
    for _ in 0..10 {
        exchange(&mut a, &mut b, &mut rng);
    }
}
