//! Two drivers with a connected queue pair each.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use vrnic_abi::admin::AccessFlags;
use vrnic_abi::object::{AddressVector, PathMtu};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    Completion, CompletionQueue, Config, Connection, CqConfig, Data, DmaBuffer, Driver,
    MemoryRegion, MrConfig, Operation, Platform, PostError, ProtectionDomain, QpConfig, QueuePair,
    ReceiveRequest, RegionMemory, Remote, SendRequest, Sge,
};
use vrnic_firmware::nic::NicConfig;
use vrnic_firmware::types::Mac;
use vrnic_tests::platform::{SimDma, SimPlatform};
use vrnic_tests::wire::{Faults, Wire};
use vrnic_tests::world::World;

/// Bytes of each side's memory region.
pub const SIZE: usize = 256 << 10;
/// Work requests of each kind in flight.
pub const DEPTH: u32 = 16;
/// Virtual nanoseconds that a test waits for anything.
pub const LIMIT: u64 = 60_000_000_000;
/// Where regions start; not a DMA address, so that a confusion of the two shows.
const START: u64 = 0x7fff_0000_0000;

/// One side.
pub struct Side {
    pub driver: Driver<SimPlatform>,
    pub pd: ProtectionDomain<SimPlatform>,
    pub cq: CompletionQueue<SimPlatform>,
    pub qp: QueuePair<SimPlatform>,
    pub mr: MemoryRegion<SimPlatform>,
    pub memory: Arc<SimDma>,
    pub gid: [u8; 16],
    pub mac: [u8; 6],
}

/// Two sides in one world.
pub struct Pair {
    pub world: Rc<RefCell<World>>,
    pub a: Side,
    pub b: Side,
}

/// Which NICs the two functions are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One on either end of the wire.
    Wire,
    /// Both on one NIC, on the direct path.
    Direct,
}

/// A world whose wire has `faults`.
pub fn world(faults: Faults, seed: u64) -> Rc<RefCell<World>> {
    let world = World::new(NicConfig::default(), Wire::new(faults, seed));
    Rc::new(RefCell::new(world))
}

impl Pair {
    #[track_caller]
    pub fn new(place: Place, faults: Faults, seed: u64, mtu: PathMtu) -> Self {
        let world = world(faults, seed);
        let mut a = Side::new(&world, 0, 1);
        let port = if place == Place::Wire { 1 } else { 0 };
        let mut b = Side::new(&world, port, 2);
        a.connect(&b, mtu);
        b.connect(&a, mtu);
        Self { world, a, b }
    }

    /// Connects both sides once more, after their queue pairs were reset or made anew.
    #[track_caller]
    pub fn connect(&mut self) {
        self.a.connect(&self.b, PathMtu::Mtu1024);
        self.b.connect(&self.a, PathMtu::Mtu1024);
    }
}

impl Side {
    #[track_caller]
    pub fn new(world: &Rc<RefCell<World>>, port: usize, number: u8) -> Self {
        let mac = [2, 0, 0, 0, 0, number];
        let platform = SimPlatform::new(world, port, Mac(mac));
        let driver = Driver::probe(platform, Config::default()).unwrap();
        let gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, number];
        Self::with_driver(driver, gid, mac)
    }

    #[track_caller]
    fn with_driver(driver: Driver<SimPlatform>, gid: [u8; 16], mac: [u8; 6]) -> Self {
        driver.set_gid(0, gid, 0).unwrap();
        let pd = driver.create_pd().unwrap();
        let cq = driver.create_cq(CqConfig::default()).unwrap();
        let config = QpConfig {
            send_requests: DEPTH,
            receive_requests: DEPTH,
            ..QpConfig::default()
        };
        let mut qp = driver.create_qp(&pd, &cq, &cq, config).unwrap();
        let remote = AccessFlags::REMOTE_READ
            | AccessFlags::REMOTE_WRITE
            | AccessFlags::REMOTE_ATOMIC
            | AccessFlags::FLUSH_GLOBAL;
        qp.to_init(remote).unwrap();
        let memory = driver.allocate(SIZE).unwrap();
        let config = MrConfig {
            offset: 0,
            length: SIZE as u64,
            start: START,
            access: AccessFlags::LOCAL_WRITE | remote,
            variant: 7,
        };
        let region = RegionMemory::Dma(Arc::clone(&memory));
        let mr = driver.create_mr(&pd, region, config).unwrap();
        Self {
            driver,
            pd,
            cq,
            qp,
            mr,
            memory,
            gid,
            mac,
        }
    }

    /// Makes everything anew on the same driver, after that has recovered its function.
    #[track_caller]
    pub fn renew(self) -> Self {
        let Self {
            driver, gid, mac, ..
        } = self;
        Self::with_driver(driver, gid, mac)
    }

    #[track_caller]
    pub fn connect(&mut self, peer: &Side, mtu: PathMtu) {
        let connection = Connection {
            remote_qpn: peer.qp.number(),
            path: AddressVector {
                gid: peer.gid,
                mac: peer.mac,
                ..AddressVector::default()
            },
            mtu,
            send_psn: 0xff_fff0,
            receive_psn: 0xff_fff0,
            responder_resources: 4,
            initiator_depth: 4,
            min_rnr_timer: 1,
            timeout: 8,
            retry_count: 7,
            rnr_retry: 7,
        };
        self.qp.to_rtr(&connection).unwrap();
        self.qp.to_rts(&connection).unwrap();
    }

    pub fn sge(&self, offset: usize, length: u32) -> Sge {
        Sge {
            address: self.mr.start() + offset as u64,
            length,
            lkey: self.mr.key(),
        }
    }

    pub fn remote(&self, offset: usize) -> Remote {
        Remote {
            address: self.mr.start() + offset as u64,
            rkey: self.mr.key(),
        }
    }

    pub fn send(
        &mut self,
        wr_id: u64,
        operation: Operation,
        offset: usize,
        length: u32,
    ) -> Result<(), PostError> {
        let sges = [self.sge(offset, length)];
        self.qp.post_send(&SendRequest {
            wr_id,
            operation,
            data: Data::Sges(&sges),
            flags: WqeFlags::SIGNALED,
            ..SendRequest::default()
        })
    }

    pub fn receive(&mut self, wr_id: u64, offset: usize, length: u32) -> Result<(), PostError> {
        let sges = [self.sge(offset, length)];
        self.qp.post_receive(&ReceiveRequest { wr_id, sges: &sges })
    }

    pub fn fill(&self, offset: usize, data: &[u8]) {
        self.memory.write(offset, data);
    }

    pub fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.read(offset, &mut data);
        data
    }

    /// Completions that are there.
    #[track_caller]
    pub fn poll(&mut self) -> Vec<Completion> {
        let mut completions = [Completion::default(); 8];
        let count = self.cq.poll(&mut completions).unwrap();
        completions[..count].to_vec()
    }

    /// Sleeps until there are completions, as a program that waits for events does.
    #[track_caller]
    pub fn wait(&mut self) -> Vec<Completion> {
        let deadline = self.driver.platform().now() + LIMIT;
        loop {
            let completions = self.poll();
            if !completions.is_empty() {
                return completions;
            }
            if self.cq.arm(false).unwrap() {
                continue;
            }
            let (platform, vector) = (self.driver.platform(), self.cq.vector());
            platform.relax(Some(vector), deadline);
            self.driver.handle_interrupt(vector);
            assert!(platform.now() < deadline, "no completion in a minute");
        }
    }
}
