//! Floods of packets: to a neighbour, to the victim, and out of the port.

use std::sync::Arc;

use vrnic::link::{self, Link, LinkSpec};
use vrnic_abi::admin::{AccessFlags, QpType};
use vrnic_abi::object::{AddressVector, PortState};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    Completion, CompletionQueue, CqConfig, Data, Datagram, DatagramPath, Driver, MemoryRegion,
    MrConfig, Operation, ProtectionDomain, QpConfig, QueuePair, RegionMemory, SendRequest, Sge,
    Target,
};
use vrnic_driver_vfio::HostPlatform;

use super::{Flood, Scene, compare};
use crate::endpoint::{Endpoint, Retries, START, open, pair};

// --- a connection

/// Large WRITEs of a reliable connection.
struct Writes {
    near: Endpoint<HostPlatform>,
    _far: Endpoint<HostPlatform>,
    outstanding: u32,
}

impl Writes {
    fn take(&mut self) {
        let mut found = [Completion::default(); 16];
        loop {
            let taken = self.near.cq.poll(&mut found).unwrap();
            self.outstanding -= taken as u32;
            if taken == 0 {
                return;
            }
        }
    }
}

impl Flood for Writes {
    fn feed(&mut self) {
        self.take();
        let remote = self.near.peer().remote(0);
        while self.outstanding < 64 {
            let range = (0, 256 << 10);
            self.near.post(1, Operation::Write(remote), range).unwrap();
            self.outstanding += 1;
        }
    }

    fn is_on(&mut self) -> bool {
        self.take();
        self.outstanding > 0
    }
}

#[test]
fn a_flood_of_writes_is_bearable() {
    let mut scene = Scene::new(&[]);
    let flooder = open(scene.flooder(), 3);
    let other = open(scene.other(), 4);
    let (near, far) = pair(&flooder, &other, Retries::Long);
    let mut flood = Writes {
        near,
        _far: far,
        outstanding: 0,
    };
    compare("writes", &mut scene.victim, &mut flood);
    scene.end();
}

// --- datagrams

/// Datagrams that a queue holds.
const DEPTH: u32 = 8192;
/// Bytes of each.
const LENGTH: usize = 1024;

/// Datagrams to somebody.
struct Datagrams {
    qp: QueuePair<HostPlatform>,
    cq: CompletionQueue<HostPlatform>,
    mr: MemoryRegion<HostPlatform>,
    _pd: ProtectionDomain<HostPlatform>,
    to: Datagram,
    outstanding: u32,
    /// The other end of the link.
    peer: Option<Box<dyn Link>>,
    /// Frames that are on their way there: sent, or kept until the kernel has room.
    on_way: u32,
}

impl Datagrams {
    #[track_caller]
    fn new(driver: &Arc<Driver<HostPlatform>>, to: Datagram, peer: Option<Box<dyn Link>>) -> Self {
        let pd = driver.create_pd().unwrap();
        let memory = driver.allocate(LENGTH).unwrap();
        let config = MrConfig {
            offset: 0,
            length: LENGTH as u64,
            start: START,
            access: AccessFlags::LOCAL_WRITE,
            variant: 1,
        };
        let mr = driver.create_mr(&pd, RegionMemory::Dma(memory), config);
        let config = CqConfig {
            entries: DEPTH,
            ..CqConfig::default()
        };
        let cq = driver.create_cq(config).unwrap();
        let config = QpConfig {
            qp_type: QpType::Ud,
            send_requests: DEPTH,
            ..QpConfig::default()
        };
        let mut qp = driver.create_qp(&pd, &cq, &cq, config).unwrap();
        qp.to_init_datagram(1).unwrap();
        qp.to_rtr_datagram().unwrap();
        qp.to_rts_datagram(0).unwrap();
        Self {
            qp,
            cq,
            mr: mr.unwrap(),
            _pd: pd,
            to,
            outstanding: 0,
            peer,
            on_way: 0,
        }
    }

    fn take(&mut self) {
        let mut found = [Completion::default(); 64];
        loop {
            let taken = self.cq.poll(&mut found).unwrap();
            self.outstanding -= taken as u32;
            if taken == 0 {
                return;
            }
        }
    }

    fn drain(&mut self) {
        while let Some(peer) = &mut self.peer {
            let frames = peer.receive(64, &mut |_| ()).unwrap();
            self.on_way -= frames as u32;
            if frames == 0 {
                return;
            }
        }
    }
}

impl Flood for Datagrams {
    fn feed(&mut self) {
        self.take();
        self.drain();
        while self.outstanding < DEPTH / 2 {
            let sges = [Sge {
                address: START,
                length: LENGTH as u32,
                lkey: self.mr.key(),
            }];
            let request = SendRequest {
                wr_id: 1,
                operation: Operation::Send,
                target: Target::Datagram(self.to),
                data: Data::Sges(&sges),
                flags: WqeFlags::SIGNALED,
            };
            self.qp.post_send(&request).unwrap();
            self.outstanding += 1;
            self.on_way += u32::from(self.peer.is_some());
        }
    }

    fn is_on(&mut self) -> bool {
        self.take();
        self.drain();
        self.outstanding > 0 || self.on_way > 0
    }
}

/// An address that a datagram goes to.
fn to(mac: [u8; 6], number: u8, remote_qpn: u32) -> Datagram {
    let gid = std::net::Ipv4Addr::new(10, 9, 0, number);
    Datagram {
        remote_qpn,
        qkey: 1,
        path: DatagramPath::Vector(AddressVector {
            gid: gid.to_ipv6_mapped().octets(),
            mac,
            hop_limit: 64,
            ..AddressVector::default()
        }),
    }
}

#[test]
fn a_flood_of_datagrams_to_a_neighbour_is_bearable() {
    let mut scene = Scene::new(&[]);
    let flooder = open(scene.flooder(), 3);
    let other = open(scene.other(), 4);
    let none = CqConfig::default();
    let (pd, cq) = (other.create_pd().unwrap(), other.create_cq(none).unwrap());
    let config = QpConfig {
        qp_type: QpType::Ud,
        ..QpConfig::default()
    };
    // It has no receive buffers: each datagram is looked at and dropped.
    let mut sink = other.create_qp(&pd, &cq, &cq, config).unwrap();
    sink.to_init_datagram(1).unwrap();
    sink.to_rtr_datagram().unwrap();
    let mac = other.query_port().unwrap().mac;
    let mut flood = Datagrams::new(&flooder, to(mac, 4, sink.number()), None);
    compare("datagrams", &mut scene.victim, &mut flood);
    scene.end();
}

#[test]
fn a_flood_of_datagrams_to_the_victim_is_bearable() {
    let mut scene = Scene::new(&[]);
    let flooder = open(scene.flooder(), 3);
    let mac = scene.victim.near.driver.query_port().unwrap().mac;
    let nobody = to(mac, 2, 0x77_7777);
    let mut flood = Datagrams::new(&flooder, nobody, None);
    compare("datagrams to the victim", &mut scene.victim, &mut flood);
    scene.end();
}

#[test]
fn a_flood_of_the_link_is_bearable() {
    let dir = crate::process::directory();
    let path = dir.path().join("link");
    let mut scene = Scene::new(&["--link", &format!("shm:listen={}", path.display())]);
    let spec: LinkSpec = format!("shm:connect={}", path.display()).parse().unwrap();
    let mut peer = link::open(&spec).unwrap();
    let flooder = open(scene.flooder(), 3);
    crate::process::until("the link is up", || {
        peer.wake();
        let up = flooder.query_port().unwrap().state == PortState::Active.raw();
        (up && peer.is_up()).then_some(())
    });
    let far = to([2, 0, 0, 0, 0x77, 1], 77, 0x100);
    let mut flood = Datagrams::new(&flooder, far, Some(peer));
    compare("the link", &mut scene.victim, &mut flood);
    scene.end();
}
