//! Congestion: what is marked, who is notified, how much slower that makes whom, and what a
//! bottleneck sees of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bottleneck;
#[path = "../nic_bench/mod.rs"]
mod nic_bench;
mod notifying;
mod reacting;
mod settings;

use nic_bench::*;
use vrnic_abi::admin::{AdminOpcode, ConfigureCongestion, CongestionFlags, CreateQp, QpType};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::nic::{NicConfig, Progress};
use vrnic_firmware::pdu::{Body, Pdu, Service};
use vrnic_firmware::transport::{Path, Qp, Rate};
use vrnic_firmware::types::{Psn, Qpn, State, Time};
use vrnic_firmware::wire;

const MICRO: u64 = 1_000;
/// Bytes of a packet of 1024 bytes of payload on the line, gap and all.
const ON_THE_LINE: u64 = 1024 + 82;

/// Two NICs with a wire between them that takes no time.
struct Link {
    x: Bench,
    y: Bench,
    a: Node,
    b: Node,
}

/// The way that a frame takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

impl Link {
    #[track_caller]
    fn new(speed: u32) -> Self {
        Self::with(speed, |_, _| ())
    }

    /// With another pair of queue pairs than that of the nodes.
    #[track_caller]
    fn with(speed: u32, change: impl FnOnce(&mut [Bench; 2], [&mut Node; 2])) -> Self {
        let config = NicConfig {
            speed,
            ..NicConfig::default()
        };
        let mut benches = [Bench::new(config), Bench::new(config)];
        let mut a = Node::new(&mut benches[0], 1);
        let mut b = Node::new(&mut benches[1], 2);
        change(&mut benches, [&mut a, &mut b]);
        let [mut x, mut y] = benches;
        if transport(&x, &a).state() == State::Reset {
            connect((&mut x, &mut a), (&mut y, &mut b));
        }
        let now = x.now.max(y.now);
        (x.now, y.now) = (now, now);
        Self { x, y, a, b }
    }

    /// Lets a microsecond pass. `hook` sees each frame, and may change it or, with `false`, lose it.
    fn tick(&mut self, hook: &mut dyn FnMut(Time, Way, &mut Vec<u8>) -> bool) -> bool {
        let mut moved = self.x.step() == Progress::Busy;
        self.y.now = self.x.now;
        moved |= self.y.nic.step(self.y.now, &mut self.y.wire) == Progress::Busy;
        for way in [Way::There, Way::Back] {
            let (from, to) = match way {
                Way::There => (&mut self.x, &mut self.y),
                Way::Back => (&mut self.y, &mut self.x),
            };
            while let Some(mut frame) = from.wire.sent.pop_front() {
                moved = true;
                if hook(to.now, way, &mut frame) {
                    to.nic.receive(to.now, &frame, &mut to.wire);
                }
            }
        }
        moved
    }

    fn now(&self) -> Time {
        self.x.now
    }

    /// Ticks until nothing happens any more, timers included; returns all frames.
    fn settle(&mut self) -> Vec<(Time, Way, Vec<u8>)> {
        let mut frames = Vec::new();
        for _ in 0..1_000_000 {
            let moved = self.tick(&mut |at, way, frame| {
                frames.push((at, way, frame.clone()));
                true
            });
            let next = [&self.x, &self.y].map(|bench| bench.nic.next_timeout());
            match next.into_iter().flatten().min() {
                _ if moved => {}
                None => return frames,
                Some(at) => self.x.now = self.x.now.max(Time(at.0.saturating_sub(MICRO))),
            }
        }
        panic!("no rest");
    }

    /// Posts a WRITE (or READ) of `length` bytes from `a`.
    fn post(&mut self, opcode: WqeOpcode, length: u32) {
        let (remote, list) = ((self.b.memory, self.b.key), [self.a.segment(0, length)]);
        self.a.qp.rdma(&self.a.driver.hw, opcode, remote, &list);
    }

    /// A congestion notification packet from one end to the other.
    fn notify(&mut self, way: Way) {
        let (from, to, bench) = match way {
            Way::There => (&self.a, &self.b, &mut self.y),
            Way::Back => (&self.b, &self.a, &mut self.x),
        };
        let frame = notification(from.driver.n, to.driver.n, to.qp.number);
        bench.nic.receive(bench.now, &frame, &mut bench.wire);
    }
}

/// The queue pair of a node, in the NIC.
fn transport<'a>(bench: &'a Bench, node: &Node) -> &'a Qp {
    let function = bench.nic.function(node.driver.id).unwrap();
    &function.qps.get(node.qp.number).unwrap().transport
}

/// The frame of a notification of function `from` to a queue pair of function `to`.
fn notification(from: u8, to: u8, qpn: u32) -> Vec<u8> {
    packet(from, to, qpn, Service::Reliable, Body::Congestion)
}

/// The frame of a packet without payload.
fn packet(from: u8, to: u8, qpn: u32, service: Service, body: Body) -> Vec<u8> {
    let path = Path {
        source: gid(from),
        source_mac: mac(from),
        destination: gid(to),
        destination_mac: mac(to),
        udp_source: 0xc000,
        hop_limit: 64,
        pkey: 0xffff,
        ..Path::default()
    };
    let pdu = Pdu {
        destination: Qpn::new(qpn),
        service,
        psn: Psn::new(0),
        packets: 1,
        length: 0,
        ack_request: false,
        solicited: false,
        body,
    };
    let mut frame = vec![0; wire::frame_length(&path, &pdu)];
    wire::emit(&path, &pdu, 7, &[], &mut frame).unwrap();
    frame
}

#[track_caller]
fn configure(bench: &mut Bench, node: &mut Node, body: &ConfigureCongestion) {
    node.driver
        .ok(bench, AdminOpcode::ConfigureCongestion, body);
}

fn flags(flags: CongestionFlags) -> ConfigureCongestion {
    ConfigureCongestion {
        flags: flags.bits(),
        ..ConfigureCongestion::default()
    }
}

/// Marks an IPv4 packet as a router does.
fn mark(frame: &mut [u8]) {
    frame[15] |= 3;
    frame[24..26].fill(0);
    let words = frame[14..34].chunks_exact(2);
    let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

fn is_notification(frame: &[u8]) -> bool {
    matches!(wire::parse(frame), Ok(packet) if packet.pdu.body == Body::Congestion)
}

fn is_data(frame: &[u8]) -> bool {
    matches!(wire::parse(frame), Ok(packet) if packet.pdu.length > 0)
}

/// The rate in Mbit/s that the queue pair of a node is limited to; 0 if it is not.
fn rate(bench: &Bench, node: &Node) -> u32 {
    let function = bench.nic.function(node.driver.id).unwrap();
    let settings = &function.objects.congestion;
    let rate = transport(bench, node).current_rate(bench.now, settings);
    rate.map_or(0, Rate::to_megabits)
}

fn deadline(bench: &Bench, node: &Node) -> Option<Time> {
    transport(bench, node).deadline()
}

/// A queue pair of another type than those of the nodes.
#[track_caller]
fn create(bench: &mut Bench, node: &mut Node, qp_type: QpType) -> nic_bench::Qp {
    let buffer = node.driver.scattered(2 << 12);
    let body = CreateQp {
        pd: node.pd,
        send_cq: node.cq.number,
        receive_cq: node.cq.number,
        buffer,
        qp_type: qp_type.raw(),
        log_send_blocks: 6,
        log_receive_entries: 6,
        log_receive_segments: 2,
        ..CreateQp::default()
    };
    let completion = node.driver.command(bench, AdminOpcode::CreateQp, &body);
    assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
    nic_bench::Qp {
        number: completion.result0 as u32,
        send_slot: completion.result1 as u32 & 0xffff,
        receive_slot: (completion.result1 >> 16) as u32,
        receive_page: node.hw().read(buffer.address),
        send_page: node.hw().read(buffer.address + 8),
        posted: 0,
        received: 0,
    }
}
