//! Tenants of one NIC: what one of them tries with numbers that are another one's.
//!
//! Function A is the attacker, B the victim, C a third one that both talk to, all of them virtual
//! functions of one physical function; D is on another NIC, behind a wire. Each test looks at the
//! victim's memory and counters, at the counter that must have moved, and then shows that the victim
//! itself gets what the attacker did not: the number was a right one.
//!
//! Here: keys, DMA addresses, doorbells. Forged packets are in [`crate::forgery`].

use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tempfile::TempDir;
use vrnic_abi::admin::{AccessFlags, Status};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::doorbell;
use vrnic_abi::object::QpState;
use vrnic_driver::{
    DmaBuffer, Driver, Error, MemoryRegion, MrConfig, Operation, Platform, QpConfig, RegionMemory,
    Remote, Sge,
};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::endpoint::{Endpoint, ROOM, Retries, START, connect, exchange, open, pair, probe};
use crate::foreign::{BAR_DOORBELLS, ForeignPlatform, Memory, Share};
use crate::process::{Nic, directory, until};
use crate::raw::{REGION_WRITE, Raw, bytes};

type Foreign = Arc<Driver<ForeignPlatform>>;

/// What fills the victim's memory.
const SECRET: u8 = 0x5e;
/// Where accesses go, and how many bytes they want.
const AT: usize = 0x1_0000;
const LENGTH: usize = 3000;
/// A DMA address that nothing else has.
const FAR: u64 = 0x77_0000_0000;

/// Three virtual functions of one NIC.
struct Tenants<P: Platform> {
    nic: Nic,
    a: Arc<Driver<P>>,
    b: Arc<Driver<P>>,
    c: Arc<Driver<HostPlatform>>,
    _dir: TempDir,
}

impl<P: Platform> Tenants<P> {
    /// A and B on platforms that `platform` makes.
    #[track_caller]
    fn new(arguments: &[&str], platform: impl Fn(&Path) -> P) -> Self {
        let dir = directory();
        let nic = Nic::start_family(dir.path(), 3, arguments);
        Self {
            a: probe(platform(nic.socket(1)), 1),
            b: probe(platform(nic.socket(2)), 2),
            c: open(nic.socket(3), 3),
            nic,
            _dir: dir,
        }
    }
}

impl Tenants<ForeignPlatform> {
    /// A and B with memory and doorbells that a test can abuse.
    #[track_caller]
    fn foreign(arguments: &[&str]) -> Self {
        Self::new(arguments, ForeignPlatform::open)
    }
}

/// Both ways from function to function.
const WAYS: [&[&str]; 2] = [&[], &["--no-direct"]];

fn counter<P: Platform>(driver: &Driver<P>, counter: Counter) -> u64 {
    driver.counters().unwrap().get(counter)
}

fn counters<P: Platform>(driver: &Driver<P>) -> Vec<(Counter, u64)> {
    driver.counters().unwrap().iter().collect()
}

fn contents(memory: &impl DmaBuffer) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    memory.read(0, &mut bytes);
    bytes
}

/// Memory that nobody but its owner may write or read.
fn fill(memory: &impl DmaBuffer) {
    memory.write(0, &vec![SECRET; memory.len()]);
}

#[track_caller]
fn is_untouched(memory: &impl DmaBuffer, byte: u8) {
    let changed = contents(memory).iter().position(|found| *found != byte);
    assert_eq!(changed, None, "the first byte that somebody wrote");
}

/// The next completion of an endpoint has this status.
#[track_caller]
fn ends<P: Platform>(endpoint: &mut Endpoint<P>, status: CompletionStatus) {
    let completion = endpoint.wait();
    assert_eq!(completion.status, status, "{completion:?}");
}

// --- keys

#[test]
fn keys_of_another_function_open_nothing() {
    for arguments in WAYS {
        println!("{arguments:?}");
        let host = |path: &Path| HostPlatform::open_socket(path, Options::default()).unwrap();
        let tenants = Tenants::new(arguments, host);
        let (mut a, mut c) = pair(&tenants.a, &tenants.c, Retries::Long);
        // Keys are a function's own: B's is to be one that neither A nor C has.
        let others = regions(&tenants.b, 4);
        let mut b = Endpoint::new(&tenants.b);
        let key = b.identity().rkey;
        assert!(a.identity().rkey != key && c.identity().rkey != key);
        fill(&*b.memory);
        fill(&*c.memory);
        let before = counters(&b.driver);
        remote_key(&mut a, &mut c, key);
        local_key(&mut a, &mut c, key);
        is_untouched(&*b.memory, SECRET);
        is_untouched(&*c.memory, SECRET);
        assert_eq!(counters(&b.driver), before);
        // It is a key: whoever B allows it gets in.
        let mut friend = Endpoint::new(&tenants.c);
        connect(&mut b, &mut friend, Retries::Long);
        let remote = Remote {
            address: START + AT as u64,
            rkey: key,
        };
        friend
            .post(1, Operation::Read(remote), (AT, LENGTH))
            .unwrap();
        friend.wait_success();
        let mut got = vec![0; LENGTH];
        friend.memory.read(AT, &mut got);
        assert_eq!(got, vec![SECRET; LENGTH]);
        // And A has lost nothing but what it misused.
        connect(&mut a, &mut c, Retries::Long);
        exchange(&mut a, &mut c, &mut SmallRng::seed_from_u64(1));
        drop(others);
        tenants.nic.stop();
    }
}

/// Regions of a function's, for their keys.
#[track_caller]
fn regions<P: Platform>(driver: &Driver<P>, count: usize) -> Vec<MemoryRegion<P>> {
    let (pd, memory) = (driver.create_pd().unwrap(), driver.allocate(4096).unwrap());
    let config = MrConfig {
        offset: 0,
        length: 4096,
        start: START,
        access: AccessFlags::LOCAL_WRITE,
        variant: 7,
    };
    let region = || driver.create_mr(&pd, RegionMemory::Dma(Arc::clone(&memory)), config);
    (0..count).map(|_| region().unwrap()).collect()
}

/// As the remote key of requests to C.
#[track_caller]
fn remote_key<P: Platform, Q: Platform>(a: &mut Endpoint<P>, c: &mut Endpoint<Q>, rkey: u32) {
    const UNREAD: u8 = 0x11;
    let remote = Remote {
        address: START + AT as u64,
        rkey,
    };
    a.memory.write(0, &vec![UNREAD; ROOM]);
    let before = (
        counter(&a.driver, Counter::ReqRemoteAccessErrors),
        counter(&c.driver, Counter::RespRemoteAccessErrors),
    );
    for (count, operation) in (1..).zip([
        Operation::Write(remote),
        Operation::WriteImmediate(remote, 7),
        Operation::Read(remote),
    ]) {
        c.post_receive(1, AT, 0);
        a.post(count, operation, (AT, LENGTH)).unwrap();
        ends(a, CompletionStatus::RemoteAccess);
        let after = (
            counter(&a.driver, Counter::ReqRemoteAccessErrors),
            counter(&c.driver, Counter::RespRemoteAccessErrors),
        );
        assert_eq!(after, (before.0 + count, before.1 + count));
        connect(a, c, Retries::Long);
    }
    is_untouched(&*a.memory, UNREAD);
}

/// As the local key of what A sends, and of where it receives.
#[track_caller]
fn local_key<P: Platform, Q: Platform>(a: &mut Endpoint<P>, c: &mut Endpoint<Q>, lkey: u32) {
    let sge = Sge {
        address: START + AT as u64,
        length: LENGTH as u32,
        lkey,
    };
    let before = counter(&a.driver, Counter::ReqLocalProtectionError);
    c.post_receive(1, AT, LENGTH);
    a.post_from(2, Operation::Send, sge).unwrap();
    ends(a, CompletionStatus::LocalProtection);
    let after = counter(&a.driver, Counter::ReqLocalProtectionError);
    assert_eq!(after, before + 1);
    connect(a, c, Retries::Long);

    let before = counter(&a.driver, Counter::RespLocalOperationErrors);
    a.post_receive_to(3, sge);
    c.post(4, Operation::Send, (AT, LENGTH)).unwrap();
    ends(a, CompletionStatus::LocalProtection);
    ends(c, CompletionStatus::RemoteOperation);
    let after = counter(&a.driver, Counter::RespLocalOperationErrors);
    assert_eq!(after, before + 1);
    connect(a, c, Retries::Long);
}

// --- DMA addresses

/// Maps `memory` for a function, at its address.
#[track_caller]
fn map(driver: &Foreign, memory: &Memory) {
    let (fd, length) = (memory.file.as_raw_fd(), memory.size() as u64);
    let mut client = driver.platform().client();
    client.dma_map(0, memory.iova, length, fd).unwrap();
}

/// An endpoint with memory at [`FAR`], which is mapped only if the test does so.
#[track_caller]
fn far_away(driver: &Foreign) -> (Endpoint<ForeignPlatform>, Arc<Memory>) {
    let memory = Arc::new(Memory::new(ROOM, FAR));
    let share = Arc::new(Share(Arc::clone(&memory)));
    (Endpoint::over(driver, share), memory)
}

#[test]
fn addresses_that_another_function_has_mapped_lead_nowhere() {
    for arguments in WAYS {
        println!("{arguments:?}");
        let tenants = Tenants::foreign(arguments);
        let (mut b, secret) = far_away(&tenants.b);
        map(&tenants.b, &secret);
        fill(&*secret);
        let before = counters(&tenants.b);
        let (mut a, own) = far_away(&tenants.a);
        let mut c = Endpoint::new(&tenants.c);
        fill(&*c.memory);
        unmapped(&mut a, &mut c);
        is_untouched(&*secret, SECRET);
        is_untouched(&*c.memory, SECRET);
        assert_eq!(counters(&tenants.b), before);
        // The same address is A's memory for A, and B's for B.
        map(&tenants.a, &own);
        let mut rng = SmallRng::seed_from_u64(2);
        connect(&mut a, &mut c, Retries::Long);
        exchange(&mut a, &mut c, &mut rng);
        is_untouched(&*secret, SECRET);
        let kept = contents(&*own);
        connect(&mut b, &mut c, Retries::Long);
        exchange(&mut b, &mut c, &mut rng);
        assert!(kept == contents(&*own), "B wrote what is A's");
        tenants.nic.stop();
    }
}

/// Every access to memory of A's that is not mapped fails, whoever asks for it.
#[track_caller]
fn unmapped<P: Platform, Q: Platform>(a: &mut Endpoint<P>, c: &mut Endpoint<Q>) {
    use CompletionStatus::{LocalProtection, RemoteOperation};
    connect(a, c, Retries::Long);
    let before = counter(&a.driver, Counter::ReqLocalProtectionError);
    c.post_receive(1, AT, LENGTH);
    a.post(2, Operation::Send, (AT, LENGTH)).unwrap();
    ends(a, LocalProtection);
    let after = counter(&a.driver, Counter::ReqLocalProtectionError);
    assert_eq!(after, before + 1);

    let before = counter(&a.driver, Counter::RespLocalOperationErrors);
    connect(a, c, Retries::Long);
    a.post_receive(3, AT, LENGTH);
    c.post(4, Operation::Send, (AT, LENGTH)).unwrap();
    ends(a, LocalProtection);
    ends(c, RemoteOperation);
    for operation in [Operation::Write, Operation::Read] {
        connect(a, c, Retries::Long);
        let to = a.identity().remote(AT);
        c.post(5, operation(to), (AT, LENGTH)).unwrap();
        ends(c, RemoteOperation);
    }
    let after = counter(&a.driver, Counter::RespLocalOperationErrors);
    assert_eq!(after, before + 3);
}

#[test]
fn rings_at_addresses_that_only_another_function_has_lead_nowhere() {
    let tenants = Tenants::foreign(&[]);
    let addresses = |driver: &Foreign| -> Vec<_> {
        let memory = driver.platform().memory();
        memory
            .iter()
            .map(|memory| (memory.iova, memory.size()))
            .collect()
    };
    let boot = addresses(&tenants.a).len();
    // Two drivers that do the same have the same at the same addresses.
    let (mut a, mut b) = (Endpoint::new(&tenants.a), Endpoint::new(&tenants.b));
    assert_eq!(addresses(&tenants.a), addresses(&tenants.b));
    let mut c = Endpoint::new(&tenants.c);
    connect(&mut a, &mut c, Retries::Short);
    fill(&*b.memory);
    // Commands that come later have buffers of their own.
    let rings = boot..addresses(&tenants.b).len();
    let all = || -> Vec<_> {
        let memory = tenants.b.platform().memory();
        let rings = memory[rings.clone()].iter();
        rings.map(|memory| contents(&**memory)).collect()
    };
    let counted = counters(&tenants.b);
    let before = all();
    for memory in &tenants.a.platform().memory()[rings.clone()] {
        let mut client = tenants.a.platform().client();
        client.dma_unmap(memory.iova, memory.size() as u64).unwrap();
    }
    // Its send queue, its receive queue and the completion queue are where only B has memory.
    a.post(1, Operation::Send, (AT, LENGTH)).unwrap();
    until("the queue pair fails", || {
        (a.qp.query().unwrap().state == QpState::Error.raw()).then_some(())
    });
    assert!(all() == before, "A's rings were taken from B");
    assert_eq!(counters(&tenants.b), counted);
    connect(&mut b, &mut c, Retries::Long);
    exchange(&mut b, &mut c, &mut SmallRng::seed_from_u64(3));
    tenants.nic.stop();
}

// --- doorbells

/// Stores and marks in slots of a page of A's, by mapping and by trapped writes, and kicks.
fn ring(platform: &ForeignPlatform, page: u32, slots: std::ops::Range<u32>, value: u64) {
    for slot in slots.clone() {
        platform.store_slot(page, slot, value);
        platform.store_mark(page, doorbell::mark_offset(slot));
    }
    platform.kick(page);
    for slot in slots.take(32) {
        let offset = doorbell::page_offset(page) + doorbell::slot_offset(slot);
        let mut client = platform.client();
        let at = u64::from(offset);
        client
            .region_write(BAR_DOORBELLS, at, &value.to_le_bytes())
            .unwrap();
    }
}

#[test]
fn doorbells_of_another_function_are_not_rung() {
    let tenants = Tenants::foreign(&[]);
    let (pages_a, pages_b) = (
        tenants.a.create_doorbell_page().unwrap(),
        [(); 3].map(|()| tenants.b.create_doorbell_page().unwrap()),
    );
    // B has work in a queue of its kernel's page and in one of a page that A does not have.
    let (mut kernel, mut c1) = pair(&tenants.b, &tenants.c, Retries::Long);
    let (mut user, mut c2) = (Endpoint::new(&tenants.b), Endpoint::new(&tenants.c));
    let config = QpConfig {
        doorbell_page: pages_b[2].number(),
        ..QpConfig::default()
    };
    user.qp = tenants
        .b
        .create_qp(&user.pd, &user.cq, &user.cq, config)
        .unwrap();
    connect(&mut user, &mut c2, Retries::Long);
    assert_ne!(pages_a.number(), pages_b[2].number());
    for receiver in [&mut c1, &mut c2] {
        receiver.post_receive(1, AT, LENGTH);
        receiver.post_receive(2, AT, LENGTH);
    }
    fill(&*kernel.memory);
    fill(&*user.memory);
    tenants.b.platform().silence(true);
    kernel.post(3, Operation::Send, (AT, LENGTH)).unwrap();
    user.post(4, Operation::Send, (AT, LENGTH)).unwrap();
    let before = counters(&tenants.b);

    // A has a queue in a page of its own; the rest of its pages is nobody's.
    let (mut a, mut c) = (Endpoint::new(&tenants.a), Endpoint::new(&tenants.c));
    let config = QpConfig {
        doorbell_page: pages_a.number(),
        ..QpConfig::default()
    };
    a.qp = tenants.a.create_qp(&a.pd, &a.cq, &a.cq, config).unwrap();
    connect(&mut a, &mut c, Retries::Long);
    let bad = counter(&tenants.a, Counter::BadDoorbell);
    for qpn in [kernel.qp.number(), user.qp.number()] {
        assert_ne!(qpn, a.qp.number());
        let value = doorbell::send_queue(1, qpn);
        for page in 0..doorbell::PAGES {
            // The first slots of the kernel's page are those of A's own event queues.
            let first = if page == doorbell::KERNEL_PAGE {
                64
            } else {
                doorbell::FIRST_SLOT
            };
            ring(tenants.a.platform(), page, first..doorbell::END_SLOT, value);
        }
    }
    until("the doorbells with a wrong number are counted", || {
        (counter(&tenants.a, Counter::BadDoorbell) > bad).then_some(())
    });
    exchange(&mut a, &mut c, &mut SmallRng::seed_from_u64(4));
    assert_eq!(counters(&tenants.b), before);
    for waiting in [&mut c1, &mut c2] {
        let found = waiting.wait_or(|| true).unwrap();
        assert!(found.is_none(), "{found:?}");
    }
    // What B waited with was work: told of it, the device does it.
    tenants.b.platform().silence(false);
    for (from, to) in [(&mut kernel, &mut c1), (&mut user, &mut c2)] {
        from.post(5, Operation::Send, (AT, LENGTH)).unwrap();
        for wr_id in [1, 2] {
            from.wait_success();
            assert_eq!(to.wait_success().wr_id, wr_id);
        }
        let mut got = vec![0; LENGTH];
        to.memory.read(AT, &mut got);
        assert_eq!(got, vec![SECRET; LENGTH]);
    }
    tenants.nic.stop();
}

#[test]
fn a_function_maps_its_own_doorbell_pages_and_no_others() {
    let tenants = Tenants::foreign(&[]);
    let files = [&tenants.a, &tenants.b].map(|driver| {
        let client = driver.platform().client();
        let region = client.region(BAR_DOORBELLS).unwrap();
        let [area] = region.sparse_areas[..] else {
            panic!("not one area: {:?}", region.sparse_areas);
        };
        assert_eq!(area.offset + area.size, u64::from(doorbell::BAR_SIZE / 2));
        let file = region.file_offset.as_ref().unwrap();
        let status = file.file().metadata().unwrap();
        // There is nothing else in the file.
        assert_eq!((file.start(), status.len()), (0, area.offset + area.size));
        (status.st_dev(), status.st_ino())
    });
    assert_ne!(files[0], files[1]);
    drop(tenants.a);
    // Beyond the end of the region there is no trapped page either.
    let past = u64::from(doorbell::BAR_SIZE);
    let mut raw = Raw::negotiated(tenants.nic.socket(1));
    for (offset, accepted) in [
        (past - 4, true),
        (past, false),
        (past + 4096, false),
        (past << 8, false),
        (u64::MAX - 3, false),
    ] {
        let body = bytes!(offset, BAR_DOORBELLS, 4_u32, 1_u32);
        let (errno, _) = raw.ask(REGION_WRITE, &body, &[]).unwrap();
        assert_eq!(errno == 0, accepted, "{offset:#x}");
    }
    tenants.b.query_port().unwrap();
    tenants.nic.stop();
}

/// A region over the victim's DMA address can be described, as no address is anybody's secret; it is
/// of no use. What a region may not have is another function's protection domain.
#[test]
fn a_protection_domain_of_another_function_is_no_domain() {
    let tenants = Tenants::foreign(&[]);
    let domains: Vec<_> = (0..9).map(|_| tenants.b.create_pd().unwrap()).collect();
    let theirs = domains.last().unwrap();
    let memory = tenants.a.allocate(ROOM).unwrap();
    let config = MrConfig {
        offset: 0,
        length: ROOM as u64,
        start: START,
        access: AccessFlags::LOCAL_WRITE,
        variant: 1,
    };
    let refused = tenants
        .a
        .create_mr(theirs, RegionMemory::Dma(memory), config);
    let Err(Error::Command { status, .. }) = refused else {
        panic!("not refused by the device");
    };
    assert_eq!(status, Status::NoSuchObject);
    tenants.nic.stop();
}
