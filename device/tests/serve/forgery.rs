//! Packets in another tenant's name, from a queue of raw packets and from a queue pair.
//!
//! A forges packets of B's to queue pairs that are connected with B: at C, a function of the same NIC,
//! and at D, on another NIC behind a wire. They are right in everything, sequence number and key
//! included, so that only the rules stop them: without rules, one does what it says.

use std::path::Path as FilePath;
use std::sync::Arc;

use serde_json::{Value, json};
use vrnic_abi::admin::QpType;
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    Completion, CompletionQueue, CqConfig, Data, DmaBuffer, Driver, Operation, ProtectionDomain,
    QpConfig, QueuePair, SendRequest, Target,
};
use vrnic_driver_vfio::HostPlatform;
use vrnic_firmware::pdu::{Body, Pdu, Place, RemoteRange, Service};
use vrnic_firmware::transport::Path;
use vrnic_firmware::types::{Gid, Mac, Psn, Qpn};
use vrnic_firmware::wire;

use crate::control::Client;
use crate::endpoint::{Endpoint, FIRST_PSN, Identity, ROOM, Retries, START, connect, open, pair};
use crate::modes::link_is_up;
use crate::process::{Nic, directory, until};

type Function = Arc<Driver<HostPlatform>>;
type Pair = (Endpoint<HostPlatform>, Endpoint<HostPlatform>);

/// What memory holds that nobody wrote, what B writes, and what a forger does.
const PATTERN: u8 = 0xa5;
const HONEST: u8 = 0x0b;
const FORGED: u8 = 0x66;
/// Where B writes, and where the forger does.
const HONEST_AT: usize = 0x1000;
const FORGED_AT: usize = 0x2_0000;
const LENGTH: usize = 200;
/// The number of A, the first virtual function, to the control plane.
const FORGER: u32 = 1;

/// A queue pair of raw packets.
struct Forger {
    qp: QueuePair<HostPlatform>,
    cq: CompletionQueue<HostPlatform>,
    driver: Function,
    _pd: ProtectionDomain<HostPlatform>,
}

impl Forger {
    #[track_caller]
    fn new(driver: &Function) -> Self {
        let pd = driver.create_pd().unwrap();
        let cq = driver.create_cq(CqConfig::default()).unwrap();
        let config = QpConfig {
            qp_type: QpType::RawPacket,
            inline: 400,
            ..QpConfig::default()
        };
        let mut qp = driver.create_qp(&pd, &cq, &cq, config).unwrap();
        qp.to_rts_raw().unwrap();
        let driver = Arc::clone(driver);
        Self {
            qp,
            cq,
            driver,
            _pd: pd,
        }
    }

    /// Sends a frame and returns when the device is done with it.
    #[track_caller]
    fn send(&mut self, frame: &[u8]) {
        let request = SendRequest {
            operation: Operation::Send,
            target: Target::Wire { vlan_tag: None },
            data: Data::Inline(frame),
            flags: WqeFlags::SIGNALED,
            ..SendRequest::default()
        };
        self.qp.post_send(&request).unwrap();
        let completion = until("the frame is sent", || {
            let mut found = [Completion::default()];
            (self.cq.poll(&mut found).unwrap() > 0).then(|| found[0])
        });
        assert_eq!(completion.status, CompletionStatus::Success);
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.driver.counters().unwrap().get(counter)
    }
}

/// From whom a packet says that it is.
#[derive(Clone, Copy, Debug)]
struct Source {
    mac: [u8; 6],
    gid: [u8; 16],
    vlan: u16,
}

/// The WRITE that the first packet of a connection to `victim` would be.
#[track_caller]
fn forged(source: Source, victim: &Identity) -> Vec<u8> {
    let path = Path {
        source: Gid(source.gid),
        source_mac: Mac(source.mac),
        vlan: source.vlan,
        destination: Gid(victim.gid),
        destination_mac: Mac(victim.mac),
        udp_source: 0xc123,
        hop_limit: 64,
        pkey: 0xffff,
        ..Path::default()
    };
    let target = RemoteRange {
        address: START + FORGED_AT as u64,
        rkey: victim.rkey,
        length: LENGTH as u32,
    };
    let pdu = Pdu {
        destination: Qpn::new(victim.qpn),
        service: Service::Reliable,
        psn: Psn::new(FIRST_PSN),
        packets: 1,
        length: LENGTH as u32,
        ack_request: true,
        solicited: false,
        body: Body::Write {
            place: Place::Only,
            target: Some(target),
            immediate: None,
        },
    };
    let mut frame = vec![0; wire::frame_length(&path, &pdu)];
    wire::emit(&path, &pdu, 1, &[FORGED; LENGTH], &mut frame).unwrap();
    frame
}

/// Two NICs and a wire: A, B and C on one of them, D on the other.
struct World {
    near: Nic,
    far: Nic,
    a: Function,
    b: Function,
    c: Function,
    d: Function,
    operator: Client,
}

impl World {
    #[track_caller]
    fn new(dir: &FilePath, arguments: &[&str]) -> Self {
        let one = [
            "--link",
            "shm:listen=l",
            "--control",
            "c",
            "--mac",
            "02:00:00:00:0a:00",
        ];
        let near = Nic::start_family(dir, 3, &[&one, arguments].concat());
        let two = ["--link", "shm:connect=l", "--mac", "02:00:00:00:0d:00"];
        let far = Nic::start(dir, &["d"], &two);
        let [a, b, c] = [1, 2, 3].map(|n: u8| open(near.socket(n.into()), n));
        let d = open(far.socket(0), 4);
        [&a, &b, &c, &d].into_iter().for_each(link_is_up);
        let operator = Client::connect(&dir.join("c"));
        Self {
            near,
            far,
            a,
            b,
            c,
            d,
            operator,
        }
    }

    fn set_policy(&mut self, mut rules: Value) {
        rules["function"] = json!(FORGER);
        self.operator.execute("set-policy", rules);
    }

    fn stop(self) {
        drop((self.a, self.b, self.c, self.d));
        self.far.stop();
        self.near.stop();
    }
}

/// B and a peer, connected, with a pattern in the peer's memory.
#[track_caller]
fn connection(b: &Function, peer: &Function) -> Pair {
    let pair = pair(b, peer, Retries::Long);
    pair.1.memory.write(0, &vec![PATTERN; ROOM]);
    pair
}

/// B writes the first message of the connection: after it, everything that was sent before has come.
/// The rest of the peer's memory is as it was.
#[track_caller]
fn only_b_writes((b, peer): &mut Pair) {
    b.memory.write(HONEST_AT, &[HONEST; LENGTH]);
    let to = b.peer().remote(HONEST_AT);
    b.post(1, Operation::Write(to), (HONEST_AT, LENGTH))
        .unwrap();
    b.wait_success();
    let mut expected = vec![PATTERN; ROOM];
    expected[HONEST_AT..HONEST_AT + LENGTH].fill(HONEST);
    let mut found = vec![0; ROOM];
    peer.memory.read(0, &mut found);
    let wrong = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(wrong, None, "the first wrong byte");
}

/// Without rules a forged packet of B's is one of B's, on both sides of the wire: what is sent
/// in the other tests is stopped by the rules, and by nothing else.
#[test]
fn without_rules_a_forged_packet_is_believed() {
    let dir = directory();
    let world = World::new(dir.path(), &[]);
    for function in [&world.d, &world.c] {
        let (_b, peer) = connection(&world.b, function);
        let mut forger = Forger::new(&world.a);
        let b = Endpoint::new(&world.b).identity();
        let source = Source {
            mac: b.mac,
            gid: b.gid,
            vlan: 0,
        };
        forger.send(&forged(source, &peer.identity()));
        let mut found = vec![0; LENGTH];
        until("the packet does what it says", || {
            peer.memory.read(FORGED_AT, &mut found);
            (found == [FORGED; LENGTH]).then_some(())
        });
        drop((forger, peer));
    }
    world.stop();
}

#[test]
fn forged_packets_are_dropped_and_counted_on_both_sides_of_the_wire() {
    for arguments in [&[][..], &["--no-direct"]] {
        println!("{arguments:?}");
        let dir = directory();
        let mut world = World::new(dir.path(), arguments);
        world.set_policy(json!({
            "check": {"mac": true, "vlan": true, "gid": true},
            "vlan": {"mode": "trunk", "vlans": [0, 7]},
        }));
        let [own, b] = [&world.a, &world.b].map(|function| Endpoint::new(function).identity());
        let honest = Source {
            mac: own.mac,
            gid: own.gid,
            vlan: 0,
        };
        let lies = [
            (
                Source {
                    mac: b.mac,
                    gid: b.gid,
                    vlan: 0,
                },
                Counter::TxSpoofedMac,
            ),
            (
                Source {
                    mac: b.mac,
                    ..honest
                },
                Counter::TxSpoofedMac,
            ),
            (
                Source {
                    mac: [2, 0, 0, 0, 9, 9],
                    ..honest
                },
                Counter::TxSpoofedMac,
            ),
            (
                Source {
                    gid: b.gid,
                    ..honest
                },
                Counter::TxSpoofedGid,
            ),
            (Source { vlan: 5, ..honest }, Counter::TxSpoofedVlan),
        ];
        let mut forger = Forger::new(&world.a);
        for function in [&world.c, &world.d] {
            let mut pair = connection(&world.b, function);
            let victim = pair.1.identity();
            let sent = forger.counter(Counter::PortXmitPackets);
            for (source, counter) in lies {
                let before = forger.counter(counter);
                forger.send(&forged(source, &victim));
                assert_eq!(forger.counter(counter), before + 1, "{source:?}");
            }
            assert_eq!(forger.counter(Counter::PortXmitPackets), sent);
            // What says whom it is from leaves, and the peer of a connection is another one.
            let wrong = |at: &Function| at.counters().unwrap().get(Counter::RxWrongSource);
            let before = wrong(function);
            forger.send(&forged(honest, &victim));
            until("the packet is refused", || {
                (wrong(function) > before).then_some(())
            });
            assert_eq!(wrong(function), before + 1);
            only_b_writes(&mut pair);
        }
        drop(forger);
        world.stop();
    }
}

/// A queue pair of A's that is connected to one which is connected to B: its number is all it has.
#[test]
fn a_queue_pair_that_belongs_to_a_connection_of_others_is_not_reached() {
    for arguments in [&[][..], &["--no-direct"]] {
        println!("{arguments:?}");
        let dir = directory();
        let world = World::new(dir.path(), arguments);
        for function in [&world.c, &world.d] {
            let mut pair = connection(&world.b, function);
            let victim = pair.1.identity();
            let mut intruder = Endpoint::new(&world.a);
            intruder.connect(&victim, Retries::Short);
            intruder.memory.write(FORGED_AT, &[FORGED; LENGTH]);
            let wrong = || function.counters().unwrap().get(Counter::RxWrongSource);
            let before = wrong();
            let to = victim.remote(FORGED_AT);
            let from = (FORGED_AT, LENGTH);
            intruder.post(1, Operation::Write(to), from).unwrap();
            let completion = intruder.wait();
            assert_eq!(completion.status, CompletionStatus::RetryExceeded);
            assert!(wrong() > before);
            only_b_writes(&mut pair);
            // With a queue pair that expects it, it gets there.
            let mut friend = Endpoint::new(function);
            friend.memory.write(0, &vec![PATTERN; ROOM]);
            connect(&mut intruder, &mut friend, Retries::Long);
            let to = friend.identity().remote(FORGED_AT);
            intruder.post(2, Operation::Write(to), from).unwrap();
            intruder.wait_success();
            let mut found = vec![0; LENGTH];
            friend.memory.read(FORGED_AT, &mut found);
            assert_eq!(found, [FORGED; LENGTH]);
        }
        world.stop();
    }
}
