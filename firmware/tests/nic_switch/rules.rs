//! Rules that the tests use, and RDMA to try them with.

use vrnic_abi::admin::{AdminOpcode, GidType, SetGid};
use vrnic_abi::counter::Counter;
use vrnic_abi::object::{AddressVector, QpAttributes};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::{FunctionId, Policy, SpoofChecks, VlanMode, Vlans};
use vrnic_firmware::types::{Gid, Mac};

use super::nic_bench::net::{Net, WAYS, Way};
use super::nic_bench::{Bench, Driver, Node, gid, mac, to_init, to_rtr, to_rts};
use super::support::Station;

pub fn access(vlan: u16, priority: u8) -> Policy {
    Policy {
        vlan: VlanMode::Access { vlan, priority },
        ..Policy::default()
    }
}

/// A trunk port with these VLANs, 0 for none.
pub fn trunk(vlans: &[u16]) -> Policy {
    Policy {
        vlan: VlanMode::Trunk(Vlans::Only(vlans.iter().copied().collect())),
        ..Policy::default()
    }
}

/// Everything is checked; without lists.
pub fn checked() -> Policy {
    Policy {
        checks: SpoofChecks {
            mac: true,
            vlan: true,
            gid: true,
        },
        ..Policy::default()
    }
}

#[track_caller]
pub fn set(bench: &mut Bench, id: FunctionId, policy: Policy) {
    bench.nic.set_policy(id, policy.clone()).unwrap();
    assert_eq!(bench.nic.policy(id), Some(&policy));
}

/// Entry 0 of the GID table.
pub fn gid_entry(gid: Gid, mac: Mac, vlan: u16) -> SetGid {
    SetGid {
        gid_type: GidType::RoceV2.raw(),
        gid: gid.0,
        mac: mac.0,
        vlan,
        ..SetGid::default()
    }
}

/// Clears entry 0 and sets it again.
#[track_caller]
pub fn set_gid(bench: &mut Bench, driver: &mut Driver, entry: &SetGid) {
    driver.ok(bench, AdminOpcode::SetGid, &SetGid::default());
    driver.ok(bench, AdminOpcode::SetGid, entry);
}

/// Takes a queue pair to RTS towards queue pair `remote` at any address.
#[track_caller]
pub fn connect_to(bench: &mut Bench, node: &mut Node, gid: Gid, mac: Mac, remote: u32) {
    let qpn = node.qp.number;
    let (mask, given) = to_init();
    node.driver.modify_ok(bench, qpn, mask, &given);
    let (mask, given) = to_rtr(0, remote);
    let given = QpAttributes {
        primary: AddressVector {
            gid: gid.0,
            mac: mac.0,
            ..AddressVector::default()
        },
        ..given
    };
    node.driver.modify_ok(bench, qpn, mask, &given);
    let (mask, given) = to_rts();
    node.driver.modify_ok(bench, qpn, mask, &given);
}

/// Two nodes, 1 and 2, that are connected on one of the ways.
pub struct Connection {
    pub net: Net,
    pub nodes: [Node; 2],
    pub way: Way,
    writes: u64,
}

impl Connection {
    /// On every way.
    pub fn each() -> impl Iterator<Item = Self> {
        WAYS.into_iter().map(Self::new)
    }

    #[track_caller]
    pub fn new(way: Way) -> Self {
        let entries = [1, 2].map(|n| gid_entry(gid(n), mac(n), 0));
        Self::with(way, entries)
    }

    /// Between these addresses.
    #[track_caller]
    pub fn with(way: Way, entries: [SetGid; 2]) -> Self {
        let mut net = Net::new(way);
        let mut nodes = [0, 1].map(|index| {
            let bench = net.of(index);
            let mut node = Node::new(bench, index as u8 + 1);
            set_gid(bench, &mut node.driver, &entries[index]);
            node
        });
        let numbers = [0, 1].map(|index| nodes[index].qp.number);
        for (index, node) in nodes.iter_mut().enumerate() {
            let peer = &entries[1 - index];
            let remote = numbers[1 - index];
            connect_to(net.of(index), node, Gid(peer.gid), Mac(peer.mac), remote);
        }
        Self {
            net,
            nodes,
            way,
            writes: 0,
        }
    }

    #[track_caller]
    pub fn set(&mut self, index: usize, policy: Policy) {
        let id = self.nodes[index].driver.id;
        set(self.net.of(index), id, policy);
    }

    /// Posts a WRITE of `length` bytes from one node to the other; returns what it writes, and
    /// where.
    pub fn post(&mut self, from: usize, length: u32) -> (u64, Vec<u8>) {
        self.writes += 1;
        let fill = (self.writes % 200) as u8;
        let bytes: Vec<u8> = (0..length).map(|at| fill ^ at as u8).collect();
        let (remote, key) = (self.nodes[1 - from].memory, self.nodes[1 - from].key);
        let node = &mut self.nodes[from];
        node.driver.hw.ram.write(node.memory, &bytes).unwrap();
        let segment = node.segment(0, length);
        let to = remote + 500_000;
        (node.qp).rdma(&node.driver.hw, WqeOpcode::Write, (to, key), &[segment]);
        (to, bytes)
    }

    /// A WRITE arrives; returns the frames that crossed a wire.
    #[track_caller]
    pub fn works(&mut self, from: usize) -> Vec<Vec<u8>> {
        let (at, bytes) = self.post(from, 3000);
        let frames = self.net.run();
        let way = self.way;
        let entry = self.nodes[from].poll();
        assert_eq!(entry.map(|entry| entry.status), Some(0), "{way:?}");
        assert_eq!(self.nodes[1 - from].hw().bytes(at, 3000), bytes, "{way:?}");
        frames
    }

    /// A WRITE does not arrive, however often it is sent.
    #[track_caller]
    pub fn fails(&mut self, from: usize) -> Vec<Vec<u8>> {
        let to = &self.nodes[1 - from];
        let before = to.hw().bytes(to.memory, 1 << 20);
        self.post(from, 3000);
        let mut frames = self.net.run();
        for _ in 0..20 {
            self.net.of(from).skip();
            frames.extend(self.net.run());
        }
        let entry = self.nodes[from].poll().expect("it gives up");
        let exceeded = vrnic_abi::cqe::CompletionStatus::RetryExceeded;
        assert_eq!(entry.status, exceeded.raw(), "{:?}", self.way);
        let to = &self.nodes[1 - from];
        let after = to.hw().bytes(to.memory, 1 << 20);
        assert!(before == after, "{:?}: something was written", self.way);
        frames
    }

    /// What was lost is sent again, and completes.
    #[track_caller]
    pub fn recovers(&mut self, from: usize) {
        for _ in 0..5 {
            self.net.of(from).skip();
            self.net.run();
            if let Some(entry) = self.nodes[from].poll() {
                assert_eq!(entry.status, 0, "{:?}", self.way);
                return;
            }
        }
        panic!("{:?}: no completion", self.way);
    }

    pub fn counter(&mut self, index: usize, counter: Counter) -> u64 {
        let bench = self.net.of(index);
        self.nodes[index].counter(bench, counter)
    }
}

/// The VLAN tag of a frame.
pub fn control_of(frame: &[u8]) -> Option<u16> {
    (frame[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([frame[14], frame[15]]))
}

/// Packets that reached a function, and no queue pair of its.
pub fn refused(bench: &Bench, station: &Station) -> u64 {
    let counters = [
        Counter::RxNoQp,
        Counter::RxBadState,
        Counter::RxWrongService,
        Counter::RxBadPkey,
    ];
    counters
        .map(|counter| station.counter(bench, counter))
        .iter()
        .sum()
}
