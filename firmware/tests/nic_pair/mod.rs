//! Two connected queue pairs of any service, on the physical and a virtual function of one NIC,
//! whose packets go directly or as frames; and packets that nobody sent.

#![allow(dead_code, reason = "not every test needs everything")]
#![allow(missing_docs, unreachable_pub)]

use bytemuck::{bytes_of, cast_slice};
use vrnic_abi::admin::{AdminOpcode, CreateQp, QpType};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionFlags, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{AddressVector, QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::{
    AtomicSegment, ControlSegment, DataSegment, DatagramSegment, RemoteSegment, WqeOpcode,
};
use vrnic_firmware::nic::{NicConfig, UplinkPolicy};
use vrnic_firmware::pdu::{Body, Pdu, Service};
use vrnic_firmware::transport::Path;
use vrnic_firmware::types::{Psn, Qpn};
use vrnic_firmware::wire;

use crate::nic_bench::*;

pub const QKEY: u32 = 0x1234;
/// First sequence number of either side, as `to_rtr` and `to_rts` have it.
pub const FIRST: u32 = 0xff_fff0;

/// How packets go from one function to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As PDUs that stand for up to 64 packets.
    Direct,
    /// As frames.
    Wire,
}

pub const WAYS: [Way; 2] = [Way::Direct, Way::Wire];

/// The two ends, `a` on the physical function.
pub struct Pair {
    pub bench: Bench,
    pub a: Node,
    pub b: Node,
    pub service: QpType,
}

impl Pair {
    #[track_caller]
    pub fn new(service: QpType, way: Way) -> Self {
        Self::with(service, way, |_| {})
    }

    /// With attributes of both ends that `change` makes others, before they are used.
    #[track_caller]
    pub fn with(service: QpType, way: Way, change: fn(&mut QpAttributes)) -> Self {
        let mut bench = Bench::new(NicConfig {
            direct: way == Way::Direct,
            ..NicConfig::default()
        });
        // Tests forge what either end says, and both are on this NIC.
        bench.nic.set_uplink_policy(UplinkPolicy {
            check_sources: false,
        });
        let mut a = Node::new(&mut bench, 0);
        let mut b = Node::new(&mut bench, 1);
        for node in [&mut a, &mut b] {
            node.qp = queue_pair(&mut bench, node, service);
            node.hw().sent.replace(Some(Vec::new()));
        }
        let numbers = (a.qp.number, b.qp.number);
        ready(&mut bench, &mut a, (1, numbers.1), service, change);
        ready(&mut bench, &mut b, (0, numbers.0), service, change);
        Self {
            bench,
            a,
            b,
            service,
        }
    }

    /// Posts a SEND of `a`.
    pub fn send(&mut self, list: &[DataSegment]) {
        self.post(WqeOpcode::Send, &[], list);
    }

    /// Posts an operation of `a` on memory of `b` at `offset`, with its key or another one.
    pub fn remote(&mut self, opcode: WqeOpcode, offset: u64, rkey: u32, list: &[DataSegment]) {
        let remote = RemoteSegment {
            address: self.b.memory + offset,
            rkey,
            reserved: 0,
        };
        let mut segments = bytes_of(&remote).to_vec();
        if matches!(opcode, WqeOpcode::FetchAdd | WqeOpcode::CompareSwap) {
            segments.extend_from_slice(bytes_of(&AtomicSegment::default()));
        }
        self.post(opcode, &segments, list);
    }

    /// Posts a request of `a` with its own segments and a list of data.
    pub fn post(&mut self, opcode: WqeOpcode, segments: &[u8], list: &[DataSegment]) {
        let control = control(opcode, 0x1234_5678, list.len());
        self.post_raw(control, segments, list);
    }

    pub fn post_raw(&mut self, control: ControlSegment, segments: &[u8], list: &[DataSegment]) {
        let destination = self.destination();
        let datagram: &[u8] = match self.service {
            QpType::Ud | QpType::Gsi => bytes_of(&destination),
            _ => &[],
        };
        let hw = self.a.driver.hw.clone();
        self.a
            .qp
            .post(&hw, control, &[datagram, segments, cast_slice(list)]);
    }

    pub fn destination(&self) -> DatagramSegment {
        DatagramSegment {
            remote_qpn: self.b.qp.number,
            qkey: QKEY,
            vector: AddressVector {
                gid: gid(1).0,
                mac: mac(1).0,
                ..AddressVector::default()
            },
            ..DatagramSegment::default()
        }
    }

    /// Posts a receive of `b` for `length` bytes at offset 0.
    pub fn receive(&mut self, length: u32) {
        let list = [self.b.segment(0, length)];
        self.b.qp.receive(&self.b.driver.hw, &list);
    }

    /// Lets everything happen, timers included.
    #[track_caller]
    pub fn run(&mut self) {
        self.bench.run();
        for _ in 0..1000 {
            if !self.bench.skip() {
                return;
            }
            self.bench.run();
        }
        panic!("the timers do not come to rest");
    }

    /// A frame from `a` to `b` that `a` never sent, or, with `back`, the other way around.
    pub fn forge(&self, back: bool, psn: u32, body: Body, payload: &[u8]) -> Vec<u8> {
        let (_, to) = self.ends(back);
        self.forge_as(
            back,
            (self.forged_service(), to, 0xffff),
            psn,
            body,
            payload,
        )
    }

    /// The same of another service, to another queue pair, with another P_Key.
    pub fn forge_as(
        &self,
        back: bool,
        (service, to, pkey): (Service, u32, u16),
        psn: u32,
        body: Body,
        payload: &[u8],
    ) -> Vec<u8> {
        let (source, target) = if back { (1, 0) } else { (0, 1) };
        let path = Path {
            source: gid(source),
            source_mac: mac(source),
            destination: gid(target),
            destination_mac: mac(target),
            udp_source: 0xc000,
            hop_limit: 64,
            pkey,
            ..Path::default()
        };
        let pdu = Pdu {
            destination: Qpn::new(to),
            service,
            psn: Psn::new(psn),
            packets: 1,
            length: payload.len() as u32,
            ack_request: true,
            solicited: false,
            body,
        };
        let mut frame = vec![0; wire::frame_length(&path, &pdu)];
        wire::emit(&path, &pdu, 1, payload, &mut frame).unwrap();
        frame
    }

    fn forged_service(&self) -> Service {
        match self.service {
            QpType::Uc => Service::Unreliable,
            QpType::Ud | QpType::Gsi => Service::Datagram {
                qkey: QKEY,
                source: Qpn::new(self.a.qp.number),
            },
            _ => Service::Reliable,
        }
    }

    const fn ends(&self, back: bool) -> (u32, u32) {
        if back {
            (self.b.qp.number, self.a.qp.number)
        } else {
            (self.a.qp.number, self.b.qp.number)
        }
    }

    /// Lets a frame come in, and everything happen that follows at once.
    pub fn inject(&mut self, frame: &[u8]) {
        let bench = &mut self.bench;
        bench.nic.receive(bench.now, frame, &mut bench.wire);
        bench.run();
    }

    /// All counters of both functions.
    pub fn counters(&self) -> [Vec<u64>; 2] {
        [&self.a, &self.b].map(|node| {
            let function = self.bench.nic.function(node.driver.id).unwrap();
            function.objects.counters.to_vec()
        })
    }
}

/// Completions of a node's send and receive queue since this was last called.
pub fn completions(node: &mut Node) -> [Vec<CompletionStatus>; 2] {
    let mut found = [Vec::new(), Vec::new()];
    while let Some(entry) = node.poll() {
        let send = entry.flags & CompletionFlags::SEND_QUEUE.bits() != 0;
        let status = CompletionStatus::from_raw(entry.status).unwrap();
        found[usize::from(!send)].push(status);
    }
    found
}

/// Events of a node since this was last called.
pub fn events(node: &mut Node) -> Vec<EventType> {
    let hw = node.driver.hw.clone();
    std::iter::from_fn(|| node.eq.poll(&hw))
        .map(|entry| EventType::from_raw(entry.event).unwrap())
        .collect()
}

/// State of a node's queue pair.
pub fn state(bench: &mut Bench, node: &mut Node) -> QpState {
    let qpn = node.qp.number;
    let found: QpAttributes = node.driver.query(bench, AdminOpcode::QueryQp, qpn);
    QpState::from_raw(found.state).unwrap()
}

/// What counters grew by, of those that did.
pub fn deltas(before: &[u64], after: &[u64]) -> Vec<(Counter, u64)> {
    let pairs = before.iter().zip(after);
    let all = Counter::ALL.iter().zip(pairs);
    all.filter(|(_, (before, after))| before != after)
        .map(|(counter, (before, after))| (*counter, after - before))
        .collect()
}

#[track_caller]
fn queue_pair(bench: &mut Bench, node: &mut Node, service: QpType) -> Qp {
    let driver = &mut node.driver;
    let buffer = driver.scattered((64 << 6) + (64 << 6));
    let body = CreateQp {
        pd: node.pd,
        send_cq: node.cq.number,
        receive_cq: node.cq.number,
        buffer,
        qp_type: service.raw(),
        log_send_blocks: 6,
        log_receive_entries: 6,
        log_receive_segments: 2,
        ..CreateQp::default()
    };
    let completion = driver.command(bench, AdminOpcode::CreateQp, &body);
    assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
    Qp {
        number: completion.result0 as u32,
        send_slot: completion.result1 as u32 & 0xffff,
        receive_slot: (completion.result1 >> 16) as u32,
        receive_page: driver.hw.read(buffer.address),
        send_page: driver.hw.read(buffer.address + 8),
        posted: 0,
        received: 0,
    }
}

/// Takes a queue pair to RTS.
#[track_caller]
fn ready(
    bench: &mut Bench,
    node: &mut Node,
    (peer, remote): (u8, u32),
    service: QpType,
    change: fn(&mut QpAttributes),
) {
    for (mask, mut given) in [to_init(), to_rtr(peer, remote), to_rts()] {
        (given.qkey, given.retry_count, given.rnr_retry) = (QKEY, 1, 1);
        change(&mut given);
        let mask = match service {
            QpType::Uc => {
                mask - QpMask::RESPONDER_RESOURCES
                    - QpMask::MIN_RNR_TIMER
                    - QpMask::INITIATOR_DEPTH
                    - QpMask::TIMEOUT
                    - QpMask::RETRY_COUNT
                    - QpMask::RNR_RETRY
            }
            QpType::Ud | QpType::Gsi => {
                let kept = QpMask::STATE | QpMask::PORT | QpMask::PKEY_INDEX | QpMask::SEND_PSN;
                let init = mask.contains(QpMask::PORT);
                (mask & kept) | if init { QpMask::QKEY } else { QpMask::empty() }
            }
            _ => mask,
        };
        let qpn = node.qp.number;
        node.driver.modify_ok(bench, qpn, mask, &given);
    }
}
