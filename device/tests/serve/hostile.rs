//! Clients and guests that break every rule, by table and at random.
//!
//! In every test two other functions of the same process keep moving verified data, and at the end
//! the next client brings the abused function up and moves data with it. Random tests print their
//! seed; `VRNIC_SEED` repeats one.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tempfile::TempDir;
use vrnic_abi::registers::{self, DeviceState, HealthCode};
use vrnic_abi::{doorbell, pci};
use vrnic_driver::{CqConfig, DmaBuffer, Driver, Platform};
use vrnic_driver_vfio::HostPlatform;

use crate::endpoint::{Endpoint, Retries, exchange, open, pair, probe};
use crate::foreign::{
    BAR_DOORBELLS, BAR_MSIX, BAR_REGISTERS, ForeignPlatform, IRQ_MSIX, REGION_CONFIG,
};
use crate::process::{Nic, directory, until};
use crate::raw::{
    DMA_MAP, DMA_READ, DMA_UNMAP, GET_INFO, GET_IRQ_INFO, GET_REGION_INFO, NO_REPLY, REGION_READ,
    REGION_WRITE, REPLY, RESET, Raw, SET_IRQS, VERSION, WRITE_MULTI, bytes, message,
};
use crate::traffic::{Pump, Shuttle};

const PAGE: u64 = 4096;

/// A process with a function to abuse, a peer of it, and two bystanders with traffic.
struct Scene {
    nic: Nic,
    peer: Arc<Driver<HostPlatform>>,
    shuttle: Shuttle<HostPlatform>,
    _dir: TempDir,
}

impl Scene {
    #[track_caller]
    fn new() -> Self {
        let dir = directory();
        let nic = Nic::start(dir.path(), &["a", "b", "c", "d"], &[]);
        let peer = open(nic.socket(1), 2);
        let (c, d) = (open(nic.socket(2), 3), open(nic.socket(3), 4));
        Self {
            shuttle: Shuttle::start(pair(&c, &d, Retries::Long)),
            nic,
            peer,
            _dir: dir,
        }
    }

    /// The function to abuse, with a driver whose memory a test can reach.
    #[track_caller]
    fn victim(&self) -> Arc<Driver<ForeignPlatform>> {
        probe(ForeignPlatform::open(self.nic.socket(0)), 1)
    }

    /// Looks whether the process is the same and everybody is served.
    #[track_caller]
    fn still_serves(&mut self) {
        self.nic.assert_alive();
        self.shuttle.moves();
        let a = open(self.nic.socket(0), 1);
        let (mut a, mut b) = pair(&a, &self.peer, Retries::Long);
        exchange(&mut a, &mut b, &mut SmallRng::seed_from_u64(9));
        b.assert_good();
        self.nic.assert_alive();
    }

    #[track_caller]
    fn end(mut self) {
        self.still_serves();
        self.shuttle.stop();
        self.nic.stop();
    }
}

/// A generator whose seed is printed, which a failed test shows.
pub(crate) fn seeded() -> SmallRng {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("VRNIC_SEED").map_or_else(
        |_| now().as_nanos() as u64,
        |seed| seed.parse().expect("VRNIC_SEED is a number"),
    );
    println!("VRNIC_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

// --- messages

/// Sends a whole message on a new connection: the answer must be an error, or the end.
#[track_caller]
fn is_refused(scene: &Scene, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut raw = Raw::negotiated(scene.nic.socket(0));
    raw.send(bytes, fds);
    if let Some((errno, body)) = raw.reply() {
        assert_ne!(errno, 0, "accepted {bytes:x?}: {body:x?}");
    }
}

/// Sends a part of a message, and nothing ever after: there must be no answer.
#[track_caller]
fn is_not_answered(scene: &Scene, bytes: &[u8]) {
    let mut raw = Raw::negotiated(scene.nic.socket(0));
    raw.send(bytes, &[]);
    raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = raw.reply();
    assert_eq!(answer, None, "to {bytes:x?}");
}

#[test]
fn wrong_headers_are_refused() {
    let scene = Scene::new();
    let header = |command: u16, size: u32, flags: u32| bytes!(1_u16, command, size, flags, 0_u32);
    for size in [0, 1, 15, (1 << 20) + 4096, u32::MAX] {
        is_refused(&scene, &header(RESET, size, 0), &[]);
    }
    for flags in [REPLY, 2, 3, 0x21, 0x20, 0x40, u32::MAX] {
        is_refused(&scene, &header(RESET, 16, flags), &[]);
    }
    for command in [0, 6, DMA_READ, 12, 14, 16, 99, u16::MAX] {
        is_refused(&scene, &header(command, 16, 0), &[]);
    }
    for length in 0..16 {
        is_not_answered(&scene, &header(RESET, 16, 0)[..length]);
    }
    is_refused(&scene, &message(VERSION, 0, &bytes!(0_u16, 1_u16)), &[]);
    scene.end();
}

/// Right bodies of every command that has one.
fn right_bodies() -> Vec<(u16, Vec<u8>)> {
    vec![
        (GET_INFO, bytes!(16_u32, 0_u32, 0_u32, 0_u32)),
        (
            GET_REGION_INFO,
            bytes!(32_u32, 0_u32, BAR_DOORBELLS, 0_u32, 0_u64, 0_u64),
        ),
        (GET_IRQ_INFO, bytes!(16_u32, 0_u32, IRQ_MSIX, 0_u32)),
        (SET_IRQS, bytes!(20_u32, 0x21_u32, IRQ_MSIX, 0_u32, 1_u32)),
        (DMA_MAP, bytes!(32_u32, 3_u32, 0_u64, PAGE, PAGE)),
        (DMA_UNMAP, bytes!(24_u32, 0_u32, PAGE, PAGE)),
        (REGION_READ, bytes!(0_u64, BAR_REGISTERS, 4_u32)),
        (REGION_WRITE, bytes!(0x30_u64, BAR_REGISTERS, 4_u32, 7_u32)),
        (
            WRITE_MULTI,
            bytes!(1_u64, 0x30_u64, BAR_REGISTERS, 4_u32, 7_u64),
        ),
    ]
}

#[test]
fn truncated_messages_are_refused() {
    let scene = Scene::new();
    for (command, body) in right_bodies() {
        let mut raw = Raw::negotiated(scene.nic.socket(0));
        let answer = raw.ask(command, &body, &[]);
        assert_eq!(answer.map(|(errno, _)| errno), Some(0), "command {command}");
        drop(raw);
        for length in 0..body.len() {
            // The header tells the truth about the body, which is too short.
            is_refused(&scene, &message(command, 0, &body[..length]), &[]);
            // The header promises more than comes.
            let whole = message(command, 0, &body);
            is_not_answered(&scene, &whole[..16 + length]);
        }
    }
    scene.end();
}

#[test]
fn wrong_arguments_are_refused() {
    let scene = Scene::new();
    let file = memfd_create("hostile", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, PAGE).unwrap();
    let files = [file.as_fd(); 2];
    let (none, one, two) = (&files[..0], &files[..1], &files[..]);
    let map = |argsz: u32, flags: u32, offset: u64, iova: u64, size: u64| {
        (DMA_MAP, bytes!(argsz, flags, offset, iova, size))
    };
    let unmap = |argsz: u32, flags: u32, iova: u64, size: u64| {
        (DMA_UNMAP, bytes!(argsz, flags, iova, size))
    };
    let irqs = |flags: u32, index: u32, start: u32, count: u32| {
        (SET_IRQS, bytes!(20_u32, flags, index, start, count))
    };
    let read = |region: u32, offset: u64, count: u32| (REGION_READ, bytes!(offset, region, count));
    let write =
        |region: u32, offset: u64, count: u32| (REGION_WRITE, bytes!(offset, region, count, 0_u64));
    let far = u64::MAX - PAGE + 1;
    let bar0 = u64::from(pci::BAR_REGISTERS_SIZE);
    let table = [
        (map(4, 3, 0, 0, PAGE), one),
        (map(32, 0xff, 0, 0, PAGE), one),
        (map(32, 3, 0, 0, 0), one),
        (map(32, 3, 0, 1, PAGE), one),
        (map(32, 3, 0, 0, PAGE - 1), one),
        (map(32, 3, 1, 0, PAGE), one),
        (map(32, 3, 0, far, 2 * PAGE), one),
        (map(32, 3, far, 0, 2 * PAGE), one),
        (map(32, 3, 0, 0, u64::MAX), one),
        (map(32, 3, 0, 0, PAGE), two),
        (unmap(4, 0, 0, PAGE), none),
        (unmap(24, 0xf0, 0, PAGE), none),
        (unmap(24, 0, far, 2 * PAGE), none),
        (unmap(24, 0, 0, PAGE), one),
        ((GET_INFO, bytes!(4_u32, 0_u32, 0_u32, 0_u32)), none),
        (
            (
                GET_REGION_INFO,
                bytes!(32_u32, 0_u32, 9_u32, 0_u32, 0_u64, 0_u64),
            ),
            none,
        ),
        (
            (
                GET_REGION_INFO,
                bytes!(31_u32, 0_u32, 0_u32, 0_u32, 0_u64, 0_u64),
            ),
            none,
        ),
        ((GET_IRQ_INFO, bytes!(16_u32, 0_u32, 5_u32, 0_u32)), none),
        (irqs(0x21, 5, 0, 1), none),
        (irqs(0x21, 0, 0, 1), none),
        (irqs(0x21, IRQ_MSIX, 64, 1), none),
        (irqs(0x21, IRQ_MSIX, 0, 65), none),
        (irqs(0x21, IRQ_MSIX, u32::MAX, 2), none),
        (irqs(0x23, IRQ_MSIX, 0, 1), none),
        (irqs(0x01, IRQ_MSIX, 0, 1), none),
        (irqs(0x39, IRQ_MSIX, 0, 1), none),
        (irqs(0x22, IRQ_MSIX, 0, 4), none),
        (irqs(0x24, IRQ_MSIX, 0, 2), one),
        (irqs(0x24, IRQ_MSIX, 0, 1), two),
        (read(9, 0, 4), none),
        (read(1, 0, 4), none),
        (read(BAR_REGISTERS, bar0, 1), none),
        (read(BAR_REGISTERS, bar0 - 1, 2), none),
        (read(BAR_REGISTERS, u64::MAX, 4), none),
        (read(BAR_REGISTERS, 0, u32::MAX), none),
        (read(REGION_CONFIG, 4096, 1), none),
        (write(9, 0, 8), none),
        (write(BAR_MSIX, pci::BAR_MSIX_SIZE.into(), 8), none),
        (write(BAR_DOORBELLS, u64::MAX - 3, 8), none),
        (write(BAR_REGISTERS, 0, 9), none),
        (
            (WRITE_MULTI, bytes!(u64::MAX, 0_u64, 0_u32, 4_u32, 0_u64)),
            none,
        ),
        (
            (WRITE_MULTI, bytes!(1_u64, 0_u64, 0_u32, 9_u32, 0_u64)),
            none,
        ),
        (
            (WRITE_MULTI, bytes!(1_u64, 0_u64, 9_u32, 4_u32, 0_u64)),
            none,
        ),
    ];
    for (index, ((command, body), fds)) in table.iter().enumerate() {
        println!("case {index}");
        is_refused(&scene, &message(*command, 0, body), fds);
    }
    scene.end();
}

#[test]
fn an_unmap_that_cuts_a_mapping_is_refused() {
    let scene = Scene::new();
    let file = memfd_create("hostile", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 2 * PAGE).unwrap();
    let mut raw = Raw::negotiated(scene.nic.socket(0));
    let errno = |answer: Option<(u32, Vec<u8>)>| answer.map(|(errno, _)| errno);
    let map = bytes!(32_u32, 3_u32, 0_u64, 0_u64, 2 * PAGE);
    assert_eq!(errno(raw.ask(DMA_MAP, &map, &[file.as_fd()])), Some(0));
    let mut unmap = |iova: u64, size: u64| {
        let body = bytes!(24_u32, 0_u32, iova, size);
        errno(raw.ask(DMA_UNMAP, &body, &[]))
    };
    for (iova, size) in [(1, PAGE), (0, PAGE), (PAGE, PAGE), (0, 2 * PAGE - 1)] {
        assert_ne!(unmap(iova, size), Some(0), "{iova:#x}, {size:#x}");
    }
    // What holds it whole is not, nor is what holds nothing.
    assert_eq!(unmap(0, 1 << 40), Some(0));
    assert_eq!(unmap(0, 1 << 40), Some(0));
    drop(raw);
    scene.end();
}

/// A message that is nearly right.
fn nearly_right(rng: &mut SmallRng) -> Vec<u8> {
    let bodies = right_bodies();
    let (command, mut body) = bodies[rng.random_range(0..bodies.len())].clone();
    if matches!(command, REGION_READ | REGION_WRITE) && rng.random() {
        let region: u32 =
            [BAR_REGISTERS, BAR_DOORBELLS, BAR_MSIX, REGION_CONFIG][rng.random_range(0..4_usize)];
        let count = rng.random_range(0..17_u32);
        body = bytes!(rng.random_range(0..0x120_u64), region, count);
        body.extend((0..count).map(|_| rng.random::<u8>()));
    }
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..body.len());
        body[at] = [0, 1, 0x7f, 0x80, 0xff, rng.random()][rng.random_range(0..6_usize)];
    }
    if rng.random_ratio(1, 8) {
        body.resize(rng.random_range(0..64), 0xaa);
    }
    let flags = if rng.random_ratio(1, 4) { NO_REPLY } else { 0 };
    let mut bytes = message(command, flags, &body);
    if rng.random_ratio(1, 50) {
        let at = rng.random_range(0..16);
        bytes[at] = rng.random();
    }
    bytes
}

#[test]
fn random_messages_do_no_harm() {
    let mut rng = seeded();
    let scene = Scene::new();
    let file = memfd_create("hostile", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, PAGE).unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for _ in 0..60 {
        let mut raw = Raw::negotiated(scene.nic.socket(0));
        raw.stream.set_nonblocking(true).unwrap();
        for _ in 0..rng.random_range(1..100) {
            let fds: &[_] = match rng.random_range(0..20) {
                0 => &[file.as_fd()],
                1 => &[event.as_fd()],
                _ => &[],
            };
            raw.send(&nearly_right(&mut rng), fds);
            let mut sink = [0; 4096];
            while std::io::Read::read(&mut raw.stream, &mut sink).is_ok_and(|n| n > 0) {}
        }
    }
    scene.end();
}

#[test]
fn random_bytes_do_no_harm() {
    let mut rng = seeded();
    let scene = Scene::new();
    for round in 0..100 {
        let mut raw = if round % 2 == 0 {
            Raw::connect(scene.nic.socket(0))
        } else {
            Raw::negotiated(scene.nic.socket(0))
        };
        let mut bytes = vec![0; rng.random_range(0..300)];
        rng.fill(&mut bytes[..]);
        raw.send(&bytes, &[]);
    }
    scene.end();
}

#[test]
fn a_client_that_stays_silent_hurts_only_its_own_function() {
    let mut scene = Scene::new();
    let mute = Raw::connect(scene.nic.socket(0));
    let mut half = Raw::connect(scene.nic.socket(1));
    half.send(&[1], &[]);
    scene.shuttle.moves();
    drop((mute, half));
    scene.still_serves();
}

// --- accesses

#[test]
fn random_accesses_to_a_working_function_do_no_harm() {
    let mut rng = seeded();
    let mut scene = Scene::new();
    for _ in 0..3 {
        let victim = scene.victim();
        let (near, far) = pair(&victim, &scene.peer, Retries::Short);
        let (to, from) = (Pump::start(near), Pump::start(far));
        to.flows();
        from.flows();
        for _ in 0..3000 {
            random_access(&victim, &mut rng);
        }
        to.stop();
        from.stop();
        println!("left as {:?}", victim.health());
        drop(victim);
        scene.still_serves();
    }
    scene.end();
}

/// Reads or writes anywhere, with any width, but more often where something is.
fn random_access(victim: &Driver<ForeignPlatform>, rng: &mut SmallRng) {
    let (region, size) = [
        (BAR_REGISTERS, u64::from(pci::BAR_REGISTERS_SIZE)),
        (BAR_DOORBELLS, doorbell::BAR_SIZE.into()),
        (BAR_MSIX, pci::BAR_MSIX_SIZE.into()),
        (REGION_CONFIG, 4096),
    ][rng.random_range(0..4_usize)];
    let width = [1, 2, 3, 4, 4, 4, 8, 8, 16, 64][rng.random_range(0..10_usize)];
    let end = if rng.random() { size } else { 0x140 };
    let mut offset = rng.random_range(0..end - width as u64);
    if rng.random_ratio(3, 4) {
        offset &= !3;
    }
    let mut data = vec![0; width];
    match rng.random_range(0..3) {
        0 => {}
        1 => data.fill(0xff),
        _ => rng.fill(&mut data[..]),
    }
    let mut client = victim.platform().client();
    if rng.random() {
        client.region_read(region, offset, &mut data).unwrap();
    } else {
        client.region_write(region, offset, &data).unwrap();
    }
}

// --- doorbell pages

#[test]
fn random_doorbells_do_no_harm() {
    let mut rng = seeded();
    let mut scene = Scene::new();
    for _ in 0..3 {
        let victim = scene.victim();
        let (near, far) = pair(&victim, &scene.peer, Retries::Short);
        let (to, from) = (Pump::start(near), Pump::start(far));
        to.flows();
        from.flows();
        for _ in 0..2000 {
            random_doorbell(victim.platform(), &mut rng);
        }
        to.stop();
        from.stop();
        println!("left as {:?}", victim.health());
        drop(victim);
        scene.still_serves();
    }
    scene.end();
}

/// Overwrites something in the doorbell pages; mostly in the kernel's, where the slots are.
fn random_doorbell(platform: &ForeignPlatform, rng: &mut SmallRng) {
    let page = if rng.random_ratio(1, 8) {
        rng.random_range(0..doorbell::PAGES)
    } else {
        doorbell::KERNEL_PAGE
    };
    match rng.random_range(0..4) {
        // Slots in use are the first ones; their values are small indices and flags above.
        0 => platform.store_slot(page, rng.random_range(8..24), rng.random()),
        1 => {
            let value = rng.random_range(0..1 << 12) | rng.random_range(0..1_u64 << 20) << 32;
            platform.store_slot(page, rng.random_range(8..24), value);
        }
        2 => platform.store_mark(page, rng.random_range(1..doorbell::GROUPS)),
        _ => {
            let mut bytes = [0; 64];
            rng.fill(&mut bytes[..]);
            let within = rng.random_range(0..doorbell::PAGE_SIZE - 64);
            platform.scribble(doorbell::page_offset(page) + within, &bytes);
        }
    }
    if rng.random_ratio(1, 16) {
        platform.kick(page);
    }
}

// --- memory

#[test]
fn random_bytes_in_every_ring_do_no_harm() {
    let mut rng = seeded();
    let mut scene = Scene::new();
    for round in 0..4 {
        let victim = scene.victim();
        let (near, far) = pair(&victim, &scene.peer, Retries::Short);
        let memory = victim.platform().memory();
        let (to, from) = (Pump::start(near), Pump::start(far));
        to.flows();
        from.flows();
        for _ in 0..2000 {
            let place = &memory[rng.random_range(0..memory.len())];
            let mut bytes = vec![0; rng.random_range(1..64)];
            rng.fill(&mut bytes[..]);
            let end = place.size().min(8192) - bytes.len();
            place.write(rng.random_range(0..end), &bytes);
            // That soon ends in the error state, in which nothing else is looked at.
            if round % 2 == 1 && rng.random_ratio(1, 16) {
                let (at, value) = (registers::ADMIN_DOORBELL.offset, rng.random_range(0..64));
                victim.platform().write_register(at, value);
            }
            random_announcement(victim.platform(), &mut rng);
        }
        to.stop();
        from.stop();
        println!("left as {:?}", victim.health());
        drop(victim);
        scene.still_serves();
    }
    scene.end();
}

/// Makes the engine look at a queue, whatever is in it now.
fn random_announcement(platform: &ForeignPlatform, rng: &mut SmallRng) {
    let slot = rng.random_range(8..24);
    let value = rng.random_range(0..256) | rng.random_range(0..16_u64) << 32;
    platform.store_slot(doorbell::KERNEL_PAGE, slot, value);
    platform.store_mark(doorbell::KERNEL_PAGE, doorbell::mark_offset(slot));
}

#[test]
fn data_whose_file_is_truncated_fails_one_queue_pair() {
    let mut scene = Scene::new();
    let victim = scene.victim();
    let mut other = pair(&victim, &scene.peer, Retries::Long);
    let (near, far) = pair(&victim, &scene.peer, Retries::Short);
    let memory = Arc::clone(&near.memory.0);
    let (to, from) = (Pump::start(near), Pump::start(far));
    to.flows();
    from.flows();
    // From here on nothing in this process may touch it.
    memory.file.set_len(0).unwrap();
    let (near, end) = to.ends();
    assert!(matches!(end, crate::traffic::End::Failed(_)), "{end:?}");
    let (_far, end) = from.ends();
    assert!(matches!(end, crate::traffic::End::Failed(_)), "{end:?}");
    near.assert_good();
    exchange(&mut other.0, &mut other.1, &mut SmallRng::seed_from_u64(10));
    scene.nic.assert_alive();
    drop((near, other, victim));
    scene.end();
}

#[test]
fn rings_whose_files_are_truncated_fail_one_function() {
    let mut scene = Scene::new();
    let victim = scene.victim();
    let (near, far) = pair(&victim, &scene.peer, Retries::Short);
    let from = Pump::start(far);
    from.flows();
    // The driver would die of its own rings from here on: it is never used nor dropped.
    for memory in victim.platform().memory() {
        memory.file.set_len(0).unwrap();
    }
    let platform = victim.platform();
    for slot in 8..16 {
        platform.store_slot(0, slot, doorbell::send_queue(40, near.qp.number()));
        platform.store_mark(0, doorbell::mark_offset(slot));
    }
    platform.kick(0);
    platform.write_register(registers::ADMIN_DOORBELL.offset, 63);
    let code = until("the function fails", || {
        let status = platform.read_register(registers::DEVICE_STATUS.offset);
        let state = registers::device_status::STATE.get(status);
        (state == u32::from(DeviceState::Error.raw()))
            .then(|| platform.read_register(registers::HEALTH_CODE.offset))
    });
    let causes = [HealthCode::AdminDmaFailed, HealthCode::EventDmaFailed]
        .map(|cause| u32::from(cause.raw()));
    assert!(causes.contains(&code), "{code}");
    let (_far, end) = from.ends();
    assert!(matches!(end, crate::traffic::End::Failed(_)), "{end:?}");
    platform.client().shutdown().unwrap();
    std::mem::forget::<Endpoint<_>>(near);
    std::mem::forget(victim);
    scene.still_serves();
    scene.end();
}

/// Ends a loop on another thread, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process with a doorbell page of a function writes anything into it, marks all of it and kicks,
/// without end; another page of the function, and other functions, are served meanwhile.
#[test]
fn garbage_in_a_doorbell_page_disturbs_nobody() {
    let mut scene = Scene::new();
    let driver = open(scene.nic.socket(0), 1);
    let page = driver.create_doorbell_page().unwrap();
    let number = page.number();
    let on_page = || CqConfig {
        doorbell_page: number,
        ..CqConfig::default()
    };
    let cqs = [0; 70].map(|_| driver.create_cq(on_page()).unwrap());
    let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (platform, mut rng) = (driver.platform(), SmallRng::seed_from_u64(11));
            while !over.load(Ordering::Relaxed) {
                for slot in doorbell::FIRST_SLOT..doorbell::END_SLOT {
                    platform.store_slot(number, slot, rng.random());
                }
                (0..doorbell::GROUPS).for_each(|group| platform.store_mark(number, group));
                platform.kick(number);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _over = Over(&over);
        let (mut a, mut b) = pair(&driver, &scene.peer, Retries::Long);
        let mut rng = SmallRng::seed_from_u64(12);
        while rounds.load(Ordering::Relaxed) < 100 {
            exchange(&mut a, &mut b, &mut rng);
            scene.shuttle.moves();
        }
        a.assert_good();
    });
    drop((cqs, page, driver));
    scene.nic.assert_alive();
    scene.end();
}
