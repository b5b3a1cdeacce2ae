//! Multicast groups of datagram queue pairs: who hears what, from the wire and from each other.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod nic_bench;

use nic_bench::net::{gid6, set_v6};
use nic_bench::*;
use vrnic_abi::admin::{AdminOpcode, FilterType, MulticastGroup, QpFlags, QpType, SetGid, Status};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionOpcode;
use vrnic_abi::object::{AddressVector, QpState};
use vrnic_abi::wqe::{DatagramSegment, WqeOpcode};
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::{NicConfig, Progress};
use vrnic_firmware::types::{Gid, Mac};

const QKEY: u32 = 0x0bad_cafe;
const ALL: u32 = 0xff_ffff;

fn v4(n: u8) -> Gid {
    Gid::from_v4([239, 1, 2, n])
}

fn v6(n: u8) -> Gid {
    let mut gid = [0; 16];
    gid[0] = 0xff;
    gid[1] = 0x0e;
    gid[15] = n;
    Gid(gid)
}

/// The Ethernet address of a group (RFC 1112, RFC 2464).
fn group_mac(gid: Gid) -> Mac {
    match gid.to_v4() {
        Some([_, b, c, d]) => Mac([1, 0, 0x5e, b & 0x7f, c, d]),
        None => Mac([0x33, 0x33, gid.0[12], gid.0[13], gid.0[14], gid.0[15]]),
    }
}

fn to(gid: Gid) -> DatagramSegment {
    DatagramSegment {
        remote_qpn: ALL,
        qkey: QKEY,
        vector: AddressVector {
            gid: gid.0,
            mac: group_mac(gid).0,
            sgid_index: gid.to_v4().is_none().into(),
            ..AddressVector::default()
        },
        ..DatagramSegment::default()
    }
}

/// A function with datagram queue pairs.
struct Member {
    node: Node,
    qps: Vec<Qp>,
}

impl Member {
    #[track_caller]
    fn new(bench: &mut Bench, n: u8, count: usize) -> Self {
        let mut node = Node::new(bench, n);
        set_v6(bench, &mut node.driver);
        let mut member = Self {
            node,
            qps: Vec::new(),
        };
        for _ in 0..count {
            member.add(bench, QKEY);
        }
        member
    }

    /// Adds a queue pair with 16 buffers of 1 KiB.
    #[track_caller]
    fn add(&mut self, bench: &mut Bench, qkey: u32) -> u32 {
        let node = &mut self.node;
        let (pd, cq) = (node.pd, &node.cq);
        let mut qp = node.driver.datagram_qp(bench, pd, cq, QpType::Ud, qkey);
        let first = (self.qps.len() as u64 + 1) << 14;
        for at in 0..16 {
            let segment = node.segment(first + at * 1024, 1024);
            qp.receive(&node.driver.hw, &[segment]);
        }
        let number = qp.number;
        self.qps.push(qp);
        number
    }

    #[track_caller]
    fn attach(&mut self, bench: &mut Bench, qp: usize, gid: Gid) {
        let body = group(self.qps[qp].number, 0, gid);
        self.node.driver.attach(bench, &body);
    }

    /// Posts 300 bytes of `mark` on queue pair `qp`.
    fn send(&mut self, qp: usize, to: &DatagramSegment, mark: u8) {
        let node = &self.node;
        node.hw().ram.write(node.memory, &[mark; 300]).unwrap();
        let segments = [node.segment(0, 300)];
        let control = control(WqeOpcode::Send, 0, 1);
        self.qps[qp].send_datagram(node.hw(), control, to, &segments);
    }

    /// The queue pairs that have received 300 bytes of `mark` from `source` since the last time.
    /// Completions of requests are skipped.
    #[track_caller]
    fn heard(&mut self, mark: u8, gid: Gid, source: u32) -> Vec<usize> {
        let mut heard = Vec::new();
        while let Some(entry) = self.node.poll() {
            assert_eq!(entry.status, 0);
            if entry.opcode == CompletionOpcode::Request.raw() {
                continue;
            }
            assert_eq!((entry.byte_length, entry.source_qpn), (340, source));
            let of = |qp: &Qp| qp.number == entry.qpn;
            let index = self.qps.iter().position(of).unwrap();
            let place = ((index as u64 + 1) << 14) + u64::from(entry.wqe_index % 16) * 1024;
            let bytes = self.node.hw().bytes(self.node.memory + place, 1024);
            assert_eq!(bytes[40..340], [mark; 300]);
            assert!(bytes[340..].iter().all(|byte| *byte == PATTERN));
            match gid.to_v4() {
                Some(address) => assert_eq!(bytes[36..40], address),
                None => assert_eq!(bytes[24..40], gid.0),
            }
            heard.push(index);
        }
        heard.sort_unstable();
        heard
    }

    fn counter(&self, bench: &Bench, counter: Counter) -> u64 {
        self.node.counter(bench, counter)
    }
}

fn bench(direct: bool) -> Bench {
    Bench::new(NicConfig {
        direct,
        ..NicConfig::default()
    })
}

#[test]
fn members_on_the_same_nic_hear_each_other_and_themselves() {
    for (direct, gid) in [(true, v4(1)), (true, v6(1)), (false, v4(1)), (false, v6(1))] {
        let mut bench = bench(direct);
        let mut one = Member::new(&mut bench, 1, 3);
        let mut two = Member::new(&mut bench, 2, 2);
        let mut three = Member::new(&mut bench, 3, 1);
        one.attach(&mut bench, 0, gid);
        one.attach(&mut bench, 2, gid);
        two.attach(&mut bench, 0, gid);
        two.attach(&mut bench, 0, gid);
        three.attach(&mut bench, 0, v4(77));
        one.send(0, &to(gid), 0x41);
        bench.run();
        let source = one.qps[0].number;
        assert_eq!(one.heard(0x41, gid, source), [0, 2]);
        assert_eq!(
            two.heard(0x41, gid, source),
            [0],
            "attached twice, one copy"
        );
        assert_eq!(three.heard(0x41, gid, source), [0; 0]);
        // One that is no member may send too. The frame goes out once.
        one.send(1, &to(gid), 0x42);
        bench.run();
        let source = one.qps[1].number;
        assert_eq!(one.heard(0x42, gid, source), [0, 2]);
        assert_eq!(two.heard(0x42, gid, source), [0]);
        assert_eq!(bench.wire.sent.len(), 2);
        for frame in &bench.wire.sent {
            assert_eq!(frame[..6], group_mac(gid).0);
        }
        assert_eq!(one.counter(&bench, Counter::MulticastXmitPackets), 2);
        assert_eq!(one.counter(&bench, Counter::MulticastRcvPackets), 2);
        assert_eq!(two.counter(&bench, Counter::MulticastRcvPackets), 2);
        assert_eq!(two.counter(&bench, Counter::RxDatagrams), 2);
        assert_eq!(three.counter(&bench, Counter::MulticastRcvPackets), 0);
        assert_eq!(one.counter(&bench, Counter::PortXmitPackets), 2);
    }
}

#[test]
fn packets_from_the_wire_reach_members_only() {
    for gid in [v4(1), v6(1)] {
        let mut sender = bench(true);
        let mut receiver = bench(true);
        let mut far = Member::new(&mut sender, 1, 1);
        let mut near = Member::new(&mut receiver, 2, 3);
        let other_key = near.add(&mut receiver, QKEY ^ 1);
        near.attach(&mut receiver, 0, gid);
        near.attach(&mut receiver, 1, gid);
        let body = group(other_key, 0, gid);
        near.node.driver.attach(&mut receiver, &body);
        // A member in another VLAN is none.
        let body = group(near.qps[2].number, 5, gid);
        near.node.driver.attach(&mut receiver, &body);
        let unready = near.qps[1].number;
        let driver = &mut near.node.driver;
        driver.set_state(&mut receiver, unready, QpState::Reset);
        far.send(0, &to(gid), 0x61);
        sender.run();
        let frame = sender.wire.sent.pop_front().unwrap();
        receiver
            .nic
            .receive(receiver.now, &frame, &mut receiver.wire);
        let source = far.qps[0].number;
        assert_eq!(near.heard(0x61, gid, source), [0]);
        assert_eq!(near.counter(&receiver, Counter::QkeyViolations), 1);
        assert_eq!(near.counter(&receiver, Counter::RxBadState), 1);
        assert_eq!(near.counter(&receiver, Counter::PortRcvPackets), 1);

        // A packet to one queue pair is for nobody at the address of a group, nor is one to a
        // group at the address of one station.
        let mut single = frame.clone();
        single[..6].copy_from_slice(&mac(2).0);
        receiver
            .nic
            .receive(receiver.now, &single, &mut receiver.wire);
        assert_eq!(near.heard(0, gid, 0), [0; 0]);
        assert_eq!(receiver.nic.drops().not_ours, 1);
        assert_eq!(near.counter(&receiver, Counter::RxNoMulticastMember), 0);
    }
}

#[test]
fn vlans_are_apart() {
    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let mut two = Member::new(&mut bench, 2, 2);
    let body = SetGid {
        index: 2,
        gid_type: 1,
        vlan: 7,
        gid: gid(1).0,
        ..SetGid::default()
    };
    one.node.driver.ok(&mut bench, AdminOpcode::SetGid, &body);
    two.attach(&mut bench, 0, v4(1));
    let body = group(two.qps[1].number, 7, v4(1));
    two.node.driver.attach(&mut bench, &body);
    let source = one.qps[0].number;
    for (sgid_index, hearer) in [(0, 0), (2, 1)] {
        let mut there = to(v4(1));
        there.vector.sgid_index = sgid_index;
        one.send(0, &there, 0x50);
        bench.run();
        assert_eq!(two.heard(0x50, v4(1), source), [hearer]);
    }
    let tags: Vec<bool> = bench
        .wire
        .sent
        .iter()
        .map(|f| f[12..14] == [0x81, 0])
        .collect();
    assert_eq!(tags, [false, true]);
}

#[test]
fn a_group_without_members_is_counted() {
    let mut bench = bench(true);
    let mut sender = Bench::default();
    let mut far = Member::new(&mut sender, 9, 1);
    let mut one = Member::new(&mut bench, 1, 2);
    far.send(0, &to(v4(1)), 0x33);
    sender.run();
    let frame = sender.wire.sent.pop_front().unwrap();
    let source = far.qps[0].number;
    let arrive = |bench: &mut Bench| bench.nic.receive(bench.now, &frame, &mut bench.wire);

    one.attach(&mut bench, 0, v4(2));
    arrive(&mut bench);
    assert_eq!(one.counter(&bench, Counter::RxNoMulticastMember), 1);
    // Detached, destroyed, reset: no member any more.
    let body = group(one.qps[0].number, 0, v4(1));
    one.node.driver.attach(&mut bench, &body);
    arrive(&mut bench);
    assert_eq!(one.heard(0x33, v4(1), source), [0]);
    one.node
        .driver
        .ok(&mut bench, AdminOpcode::DetachMulticast, &body);
    arrive(&mut bench);
    assert_eq!(one.counter(&bench, Counter::RxNoMulticastMember), 2);
    one.attach(&mut bench, 0, v4(1));
    one.attach(&mut bench, 1, v4(1));
    let gone = one.qps[0].number;
    one.node
        .driver
        .destroy(&mut bench, AdminOpcode::DestroyQp, gone);
    arrive(&mut bench);
    assert_eq!(one.heard(0x33, v4(1), source), [1]);
    assert_eq!(one.counter(&bench, Counter::RxNoQp), 0);
    bench.nic.reset(one.node.driver.id);
    arrive(&mut bench);
    assert_eq!(bench.nic.drops().not_ours, 3);
    assert!(bench.wire.sent.is_empty());
}

#[test]
fn filters_get_a_copy_of_what_is_for_a_group() {
    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let mut two = Member::new(&mut bench, 2, 1);
    two.attach(&mut bench, 0, v4(1));
    let mut raw = [&mut one, &mut two].map(|member| {
        let node = &mut member.node;
        let (pd, cq) = (node.pd, &node.cq);
        let qp = node.driver.raw_qp(&mut bench, pd, cq, QpFlags::empty());
        let body = filter(qp.number, FilterType::AllMulticast, mac(0));
        node.driver.filter(&mut bench, &body);
        qp
    });
    for (member, qp) in [&one, &two].into_iter().zip(&mut raw) {
        let segment = member.node.segment(1 << 19, 1024);
        qp.receive(member.node.hw(), &[segment]);
    }
    one.send(0, &to(v4(1)), 0x20);
    bench.run();
    let frame = bench.wire.sent.pop_front().unwrap();
    let entries: Vec<_> = std::iter::from_fn(|| two.node.poll()).collect();
    let frames: Vec<_> = entries.iter().filter(|e| e.qpn == raw[1].number).collect();
    assert_eq!((entries.len(), frames.len()), (2, 1));
    assert_eq!(frames[0].opcode, CompletionOpcode::ReceiveFrame.raw());
    let got = two
        .node
        .hw()
        .bytes(two.node.memory + (1 << 19), frame.len());
    assert_eq!(got, frame);
    // It came through the port once, whatever number of queue pairs have a copy.
    assert_eq!(two.counter(&bench, Counter::PortRcvPackets), 1);
    let words = frame.len() as u64 / 4;
    assert_eq!(two.counter(&bench, Counter::PortRcvData), words);
    // The sender's own filters do not hear it.
    assert!(std::iter::from_fn(|| one.node.poll()).all(|entry| entry.qpn != raw[0].number));
}

/// A packet that a raw packet queue makes up goes to members as one from the wire does, but not to
/// those of the function that made it.
#[test]
fn a_packet_in_a_raw_frame_reaches_members_elsewhere() {
    let mut sender = bench(true);
    let mut far = Member::new(&mut sender, 9, 1);
    far.send(0, &to(v4(1)), 0x2a);
    sender.run();
    let frame = sender.wire.sent.pop_front().unwrap();
    let source = far.qps[0].number;

    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let mut two = Member::new(&mut bench, 2, 1);
    for member in [&mut one, &mut two] {
        member.attach(&mut bench, 0, v4(1));
    }
    let node = &mut one.node;
    let (pd, cq) = (node.pd, &node.cq);
    let mut raw = node.driver.raw_qp(&mut bench, pd, cq, QpFlags::empty());
    node.hw().ram.write(node.memory, &frame).unwrap();
    let segments = [node.segment(0, frame.len() as u32)];
    raw.send(&node.driver.hw, WqeOpcode::Send, 0, &segments);
    bench.run();
    assert_eq!(one.heard(0x2a, v4(1), source), [0; 0]);
    assert_eq!(two.heard(0x2a, v4(1), source), [0]);
    assert_eq!(bench.wire.sent, [frame]);
}

#[test]
fn all_get_a_packet_or_nobody_does() {
    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let mut two = Member::new(&mut bench, 2, 1);
    two.attach(&mut bench, 0, v4(1));
    bench.wire.limit = Some(0);
    one.send(0, &to(v4(1)), 0x10);
    for _ in 0..10 {
        bench.step();
    }
    let source = one.qps[0].number;
    assert_eq!(two.heard(0x10, v4(1), source), [0; 0]);
    assert_eq!(one.counter(&bench, Counter::PortXmitWait), 1);
    bench.wire.limit = None;
    bench.run();
    assert_eq!(two.heard(0x10, v4(1), source), [0]);
    assert_eq!(bench.wire.sent.len(), 1);
    // Without a link, those inside still hear it.
    bench.nic.set_link(false);
    one.send(0, &to(v4(1)), 0x11);
    bench.run();
    assert_eq!(two.heard(0x11, v4(1), source), [0]);
    assert_eq!(bench.wire.sent.len(), 1);
    assert_eq!(one.counter(&bench, Counter::PortXmitDiscards), 1);
    assert_eq!(bench.step(), Progress::Idle);
}

#[test]
fn a_reset_of_one_function_leaves_the_others_in_the_group() {
    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let mut two = Member::new(&mut bench, 2, 1);
    let three = Member::new(&mut bench, 3, 1);
    for member in [&mut one, &mut two] {
        member.attach(&mut bench, 0, v6(9));
    }
    bench.nic.reset(three.node.driver.id);
    one.send(0, &to(v6(9)), 0x70);
    bench.run();
    let source = one.qps[0].number;
    assert_eq!(two.heard(0x70, v6(9), source), [0]);
    bench.nic.reset(two.node.driver.id);
    one.send(0, &to(v6(9)), 0x71);
    bench.run();
    assert_eq!(one.heard_last(0x71), 2);
}

impl Member {
    /// How many messages there are, of which the last is of `mark`.
    fn heard_last(&mut self, mark: u8) -> usize {
        let entries: Vec<_> = std::iter::from_fn(|| self.node.poll()).collect();
        let received = entries
            .iter()
            .filter(|entry| entry.opcode != CompletionOpcode::Request.raw());
        let last = received.clone().next_back().unwrap();
        let place = (1 << 14) + u64::from(last.wqe_index % 16) * 1024;
        let byte = self.node.hw().bytes(self.node.memory + place + 40, 1);
        assert_eq!(byte, [mark]);
        received.count()
    }
}

#[test]
fn commands_are_checked() {
    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let (ud, rc) = (one.qps[0].number, one.node.qp.number);
    let node = &mut one.node;
    let (pd, cq) = (node.pd, &node.cq);
    let gsi = node.driver.datagram_qp(&mut bench, pd, cq, QpType::Gsi, 0);
    let good = group(ud, 0, v4(1));
    let cases = [
        (
            MulticastGroup { qp: 0x7777, ..good },
            Status::NoSuchObject,
            8,
        ),
        (MulticastGroup { qp: rc, ..good }, Status::BadArgument, 8),
        (
            MulticastGroup {
                qp: gsi.number,
                ..good
            },
            Status::BadArgument,
            8,
        ),
        (
            MulticastGroup { vlan: 4095, ..good },
            Status::BadArgument,
            12,
        ),
        (group(ud, 0, gid(1)), Status::BadArgument, 16),
        (
            group(ud, 0, Gid::from_v4([240, 0, 0, 1])),
            Status::BadArgument,
            16,
        ),
        (group(ud, 0, gid6(1)), Status::BadArgument, 16),
        (group(ud, 0, Gid::default()), Status::BadArgument, 16),
    ];
    for opcode in [AdminOpcode::AttachMulticast, AdminOpcode::DetachMulticast] {
        for (body, status, at) in cases {
            let completion = node.driver.command(&mut bench, opcode, &body);
            let got = (Status::from_raw(completion.status), completion.syndrome);
            assert_eq!(got, (Some(status), at), "{opcode:?} {body:?}");
        }
    }
    let detach = AdminOpcode::DetachMulticast;
    let completion = node.driver.command(&mut bench, detach, &good);
    assert_eq!(
        Status::from_raw(completion.status),
        Some(Status::NoSuchObject)
    );
    node.driver.attach(&mut bench, &good);
    node.driver.ok(&mut bench, detach, &good);
}

#[test]
fn the_number_of_groups_is_bounded() {
    let mut bench = bench(true);
    let mut one = Member::new(&mut bench, 1, 1);
    let qp = one.qps[0].number;
    let attach = AdminOpcode::AttachMulticast;
    let body = |n: u16| {
        let [high, low] = n.to_be_bytes();
        group(qp, 0, Gid::from_v4([230, 0, high, low]))
    };
    for n in 0..256 {
        one.node.driver.ok(&mut bench, attach, &body(n));
    }
    let completion = one.node.driver.command(&mut bench, attach, &body(256));
    assert_eq!(
        Status::from_raw(completion.status),
        Some(Status::NoResources)
    );
    one.node.driver.ok(&mut bench, attach, &body(255));
    one.node
        .driver
        .ok(&mut bench, AdminOpcode::DetachMulticast, &body(3));
    one.node.driver.ok(&mut bench, attach, &body(256));
}
