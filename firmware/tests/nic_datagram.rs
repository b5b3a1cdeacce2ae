//! Datagrams: UD queue pairs and the general services interface, on all ways between two functions.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod nic_bench;

use nic_bench::net::{Net, WAYS, Way, gid6};
use nic_bench::*;
use vrnic_abi::admin::{AdminOpcode, CreateAh, GidType, QpFlags, QpType, SetGid};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::object::{AddressVector, QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::{ControlSegment, DatagramSegment, WqeFlags, WqeOpcode};
use vrnic_firmware::host::Memory;
use vrnic_firmware::types::Gid;
use vrnic_firmware::wire;

const QKEY: u32 = 0x1234_5678;

/// Two nodes with a datagram queue pair each.
struct Pair {
    net: Net,
    nodes: [Node; 2],
    qps: [Qp; 2],
}

fn pair(way: Way, qp_type: QpType) -> Pair {
    let mut net = Net::new(way);
    let mut nodes = net.nodes();
    let mut index = 0;
    let qps = nodes.each_mut().map(|node| {
        let (pd, cq, bench) = (node.pd, &node.cq, net.of(index));
        index += 1;
        node.driver.datagram_qp(bench, pd, cq, qp_type, QKEY)
    });
    Pair { net, nodes, qps }
}

/// A vector from index 0 or 1 of the table to node 2.
fn to_second(v6: bool) -> AddressVector {
    AddressVector {
        gid: if v6 { gid6(2) } else { gid(2) }.0,
        mac: mac(2).0,
        sgid_index: v6.into(),
        traffic_class: 0x68,
        hop_limit: 7,
        ..AddressVector::default()
    }
}

impl Pair {
    fn target(&self, v6: bool) -> DatagramSegment {
        DatagramSegment {
            remote_qpn: self.qps[1].number,
            qkey: QKEY,
            vector: to_second(v6),
            ..DatagramSegment::default()
        }
    }

    /// Posts `length` bytes that begin with `mark`.
    fn post(&mut self, opcode: WqeOpcode, to: &DatagramSegment, length: u32, mark: u8) {
        let node = &self.nodes[0];
        let bytes: Vec<u8> = (0..length).map(|at| at as u8 ^ mark).collect();
        node.hw().ram.write(node.memory, &bytes).unwrap();
        let segments = [node.segment(0, length)];
        let control = control(opcode, 0xcafe_f00d, 1);
        self.qps[0].send_datagram(node.hw(), control, to, &segments);
    }

    /// Posts a buffer of `length` bytes at `offset`.
    fn room(&mut self, offset: u64, length: u32) {
        let segment = self.nodes[1].segment(offset, length);
        self.qps[1].receive(&self.nodes[1].driver.hw, &[segment]);
    }

    #[track_caller]
    fn sent(&mut self, status: CompletionStatus) {
        let entry = self.nodes[0].poll().unwrap();
        assert_eq!(entry.opcode, CompletionOpcode::Request.raw());
        assert_eq!(entry.status, status.raw());
        assert!(self.nodes[0].poll().is_none());
    }

    fn counter(&mut self, counter: Counter) -> u64 {
        let Self { net, nodes, .. } = self;
        nodes[1].counter(net.of(1), counter)
    }

    /// A datagram arrives as ever.
    #[track_caller]
    fn works(&mut self) {
        let to = self.target(false);
        self.nodes[1]
            .hw()
            .ram
            .write(self.nodes[1].memory, &[0; 64])
            .unwrap();
        self.room(0, 64);
        self.post(WqeOpcode::Send, &to, 20, 0x99);
        self.net.run();
        self.sent(CompletionStatus::Success);
        assert_eq!(self.nodes[1].poll().unwrap().status, 0);
        let got = self.nodes[1].hw().bytes(self.nodes[1].memory + 40, 20);
        assert_eq!(got, (0..20).map(|at| at ^ 0x99).collect::<Vec<u8>>());
    }
}

/// Checks the 40 bytes before a datagram of `length` bytes.
#[track_caller]
fn check_header(header: &[u8], v6: bool, extra: usize, length: usize) {
    let udp = 8 + 12 + 8 + extra + length.next_multiple_of(4) + 4;
    if v6 {
        assert_eq!(header[..4], [0x66, 0x80, 0, 0]);
        assert_eq!(header[4..6], (udp as u16).to_be_bytes());
        assert_eq!(header[6..8], [17, 7]);
        assert_eq!(header[8..24], gid6(1).0);
        assert_eq!(header[24..], gid6(2).0);
        return;
    }
    assert_eq!(header[..20], [0; 20]);
    let ip = &header[20..];
    assert_eq!(ip[..2], [0x45, 0x68]);
    assert_eq!(ip[2..4], (20 + udp as u16).to_be_bytes());
    assert_eq!(ip[8..10], [7, 17]);
    assert_eq!(ip[12..], [10, 0, 0, 1, 10, 0, 0, 2]);
    let words = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    assert_eq!(
        (sum & 0xffff) + (sum >> 16),
        0xffff,
        "checksum of the header"
    );
}

#[test]
fn a_datagram_arrives_behind_its_header() {
    for (way, v6) in WAYS.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let mut pair = pair(way, QpType::Ud);
        let lengths = [0, 1, 2, 3, 4, 500, 4095, 4096];
        for (at, length) in lengths.into_iter().enumerate() {
            let offset = at as u64 * 8192;
            let immediate = at % 2 == 1;
            let opcode = match immediate {
                true => WqeOpcode::SendImmediate,
                false => WqeOpcode::Send,
            };
            pair.room(offset, 8192);
            let to = pair.target(v6);
            pair.post(opcode, &to, length, at as u8);
            let crossed = pair.net.run();
            assert_eq!(crossed.len(), usize::from(way == Way::Wire));
            pair.sent(CompletionStatus::Success);
            let entry = pair.nodes[1].poll().unwrap();
            assert_eq!((entry.status, entry.byte_length), (0, 40 + length));
            assert_eq!(entry.source_qpn, pair.qps[0].number);
            assert_eq!((entry.source_mac, entry.vlan), (mac(1).0, 0));
            let (wanted, data) = match immediate {
                true => (CompletionOpcode::ReceiveImmediate, 0xcafe_f00d),
                false => (CompletionOpcode::Receive, 0),
            };
            assert_eq!((entry.opcode, entry.immediate), (wanted.raw(), data));
            let mut flags = CompletionFlags::GRH;
            flags.set(CompletionFlags::IPV4, !v6);
            assert_eq!(entry.flags, flags.bits());
            let node = &pair.nodes[1];
            let bytes = node.hw().bytes(node.memory + offset, 8192);
            check_header(
                &bytes[..40],
                v6,
                usize::from(immediate) * 4,
                length as usize,
            );
            let end = 40 + length as usize;
            let sent = (0..length).map(|byte| byte as u8 ^ at as u8);
            assert_eq!(bytes[40..end], sent.collect::<Vec<u8>>(), "{way:?}");
            assert!(bytes[end..].iter().all(|byte| *byte == PATTERN));
        }
        assert_eq!(pair.counter(Counter::RxDatagrams), 8);
    }
}

#[test]
fn every_function_has_a_general_services_interface() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Gsi);
        assert_eq!([pair.qps[0].number, pair.qps[1].number], [1, 1]);
        pair.works();
        // The other direction, by the other GID.
        let [one, two] = &mut pair.nodes;
        pair.qps[0].receive(&one.driver.hw, &[one.segment(8192, 100)]);
        let to = datagram(1, QKEY, gid(1), mac(1));
        two.hw().ram.write(two.memory, b"answer").unwrap();
        let segments = [two.segment(0, 6)];
        pair.qps[1].send_datagram(
            &two.driver.hw,
            control(WqeOpcode::Send, 0, 1),
            &to,
            &segments,
        );
        pair.net.run();
        let entry = pair.nodes[0].poll().unwrap();
        assert_eq!((entry.qpn, entry.source_qpn, entry.byte_length), (1, 1, 46));
        let one = &pair.nodes[0];
        assert_eq!(one.hw().bytes(one.memory + 8192 + 40, 6), b"answer");
    }
}

#[test]
fn a_wrong_q_key_is_counted_and_bit_31_asks_for_ones_own() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        pair.room(4096, 100);
        let good = pair.target(false);
        let wrong = DatagramSegment {
            qkey: QKEY ^ 1,
            ..good
        };
        pair.post(WqeOpcode::Send, &wrong, 10, 1);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert!(pair.nodes[1].poll().is_none());
        assert_eq!(pair.counter(Counter::QkeyViolations), 1, "{way:?}");
        let own = DatagramSegment {
            qkey: 0x8000_0000,
            ..good
        };
        pair.post(WqeOpcode::Send, &own, 10, 2);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert_eq!(pair.nodes[1].poll().unwrap().byte_length, 50);
        assert_eq!(pair.counter(Counter::QkeyViolations), 1);
    }
}

#[test]
fn what_has_no_room_is_counted_and_the_entry_waits() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        let to = pair.target(true);
        pair.post(WqeOpcode::Send, &to, 10, 1);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert_eq!(pair.counter(Counter::RxUnreliableNoReceive), 1);
        pair.room(0, 49);
        pair.post(WqeOpcode::Send, &to, 10, 2);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert_eq!(pair.counter(Counter::RxUnreliableTooLong), 1);
        assert!(pair.nodes[1].poll().is_none());
        let node = &pair.nodes[1];
        assert_eq!(node.hw().bytes(node.memory, 49), [PATTERN; 49]);
        pair.post(WqeOpcode::Send, &to, 9, 3);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert_eq!(pair.nodes[1].poll().unwrap().byte_length, 49, "{way:?}");
    }
}

#[test]
fn a_datagram_longer_than_the_mtu_is_refused() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        let to = pair.target(false);
        pair.post(WqeOpcode::Send, &to, 4097, 0);
        assert!(pair.net.run().is_empty());
        pair.sent(CompletionStatus::LocalLength);
        recover(&mut pair);
        pair.works();
    }
}

/// From the send queue's error state back to RTS.
#[track_caller]
fn recover(pair: &mut Pair) {
    let node = &mut pair.nodes[0];
    let given = QpAttributes {
        state: QpState::Rts.raw(),
        current_state: QpState::Sqe.raw(),
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE | QpMask::CURRENT_STATE;
    let bench = pair.net.of(0);
    node.driver
        .modify_ok(bench, pair.qps[0].number, mask, &given);
}

#[test]
fn an_address_handle_says_the_same_as_a_vector() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        let pd = pair.nodes[0].pd;
        let body = CreateAh {
            pd,
            reserved: 0,
            vector: to_second(true),
        };
        let create = AdminOpcode::CreateAh;
        let handle = pair.nodes[0].driver.ok(pair.net.of(0), create, &body) as u32;
        let by_handle = DatagramSegment {
            address_handle: handle,
            vector: AddressVector::default(),
            ..pair.target(false)
        };
        pair.room(0, 100);
        pair.post(WqeOpcode::Send, &by_handle, 8, 5);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert_eq!(pair.nodes[1].poll().unwrap().byte_length, 48);
        let node = &pair.nodes[1];
        check_header(&node.hw().bytes(node.memory, 40), true, 0, 8);

        // One of another protection domain, and one that is gone.
        let driver = &mut pair.nodes[0].driver;
        let other = driver.ok(pair.net.of(0), AdminOpcode::AllocPd, &0u64) as u32;
        let body = CreateAh { pd: other, ..body };
        let foreign = driver.ok(pair.net.of(0), create, &body) as u32;
        driver.destroy(pair.net.of(0), AdminOpcode::DestroyAh, handle);
        for address_handle in [foreign, handle] {
            let to = DatagramSegment {
                address_handle,
                ..by_handle
            };
            pair.post(WqeOpcode::Send, &to, 8, 6);
            assert!(pair.net.run().is_empty());
            pair.sent(CompletionStatus::LocalQpOperation);
            recover(&mut pair);
        }
        assert!(pair.nodes[1].poll().is_none());
        pair.works();
    }
}

#[test]
fn only_groups_have_the_queue_pair_number_of_groups() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        let good = pair.target(false);
        let everybody = AddressVector {
            gid: Gid::from_v4([224, 0, 0, 9]).0,
            mac: [1, 0, 0x5e, 0, 0, 9],
            ..good.vector
        };
        let wrong = [
            DatagramSegment {
                remote_qpn: 0xff_ffff,
                ..good
            },
            DatagramSegment {
                vector: everybody,
                ..good
            },
        ];
        for to in wrong {
            pair.post(WqeOpcode::Send, &to, 8, 6);
            assert!(pair.net.run().is_empty(), "{way:?}");
            pair.sent(CompletionStatus::LocalQpOperation);
            recover(&mut pair);
        }
        pair.works();
    }
}

#[test]
fn another_partition_is_not_let_in() {
    let mut pair = pair(Way::Wire, QpType::Ud);
    pair.room(0, 100);
    let to = pair.target(false);
    pair.post(WqeOpcode::Send, &to, 8, 5);
    let bench = pair.net.of(0);
    bench.run();
    let frame = bench.wire.sent.pop_front().unwrap();
    let packet = wire::parse(&frame).unwrap();
    let path = |pkey| vrnic_firmware::transport::Path {
        source: packet.source,
        source_mac: packet.source_mac,
        destination: packet.destination,
        destination_mac: packet.destination_mac,
        udp_source: packet.udp_source,
        hop_limit: packet.hop_limit,
        traffic_class: packet.traffic_class,
        pkey,
        ..vrnic_firmware::transport::Path::default()
    };
    let send = |pair: &mut Pair, pkey| {
        let mut frame = vec![0; wire::frame_length(&path(pkey), &packet.pdu)];
        wire::emit(&path(pkey), &packet.pdu, 1, packet.payload, &mut frame).unwrap();
        let bench = pair.net.of(1);
        bench.nic.receive(bench.now, &frame, &mut bench.wire);
    };
    for pkey in [0x1234, 0x9234, 0] {
        send(&mut pair, pkey);
    }
    assert_eq!(pair.counter(Counter::RxBadPkey), 3);
    assert!(pair.nodes[1].poll().is_none());
    send(&mut pair, 0x7fff);
    assert!(
        pair.nodes[1].poll().is_some(),
        "a limited member may talk to a full one"
    );
}

#[test]
fn datagrams_to_a_queue_pair_of_another_kind_are_dropped() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        let good = pair.target(false);
        let rc = pair.nodes[1].qp.number;
        pair.nodes[1].driver.connect(pair.net.of(1), rc, 1, 99);
        let raw = {
            let node = &mut pair.nodes[1];
            let (pd, cq) = (node.pd, &node.cq);
            node.driver.raw_qp(pair.net.of(1), pd, cq, QpFlags::empty())
        };
        for qpn in [rc, raw.number, 0x3456] {
            let to = DatagramSegment {
                remote_qpn: qpn,
                ..good
            };
            pair.post(WqeOpcode::Send, &to, 8, 6);
            pair.net.run();
            pair.sent(CompletionStatus::Success);
        }
        assert!(pair.nodes[1].poll().is_none());
        let dropped = [Counter::RxWrongService, Counter::RxNoQp];
        assert_eq!(dropped.map(|counter| pair.counter(counter)), [2, 1]);
        pair.works();
    }
}

#[test]
fn inline_data_is_sent_at_once() {
    for way in WAYS {
        let mut pair = pair(way, QpType::Ud);
        pair.room(0, 100);
        let to = pair.target(false);
        let control = ControlSegment {
            opcode: WqeOpcode::Send.raw(),
            flags: (WqeFlags::SIGNALED | WqeFlags::INLINE).bits(),
            inline_length: 16,
            ..ControlSegment::default()
        };
        let hw = &pair.nodes[0].driver.hw;
        pair.qps[0].post(hw, control, &[bytemuck::bytes_of(&to), b"sixteen bytes!!!"]);
        pair.net.run();
        pair.sent(CompletionStatus::Success);
        assert_eq!(pair.nodes[1].poll().unwrap().byte_length, 56);
        let node = &pair.nodes[1];
        assert_eq!(node.hw().bytes(node.memory + 40, 16), b"sixteen bytes!!!");
    }
}

/// The general services interface has the same number each time: what was to happen to one that is
/// gone does not happen to the next.
#[test]
fn a_failed_completion_queue_does_not_fail_the_next_interface() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let (pd, small) = (node.pd, node.driver.cq(&mut bench, &node.eq, 2));
    // They fail a few in each step, in the order in which they were created.
    let mut others: Vec<Qp> = (0..60)
        .map(|_| {
            let driver = &mut node.driver;
            driver.datagram_qp(&mut bench, pd, &small, QpType::Ud, QKEY)
        })
        .collect();
    let driver = &mut node.driver;
    driver.datagram_qp(&mut bench, pd, &small, QpType::Gsi, QKEY);
    for _ in 0..5 {
        others[0].post(&driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
    }
    bench.step();
    bench.step();
    driver.destroy(&mut bench, AdminOpcode::DestroyQp, 1);
    let next = driver.datagram_qp(&mut bench, pd, &node.cq, QpType::Gsi, QKEY);
    assert_eq!(next.number, 1);
    bench.run();
    let last = others[59].number;
    for (number, state) in [(last, QpState::Error), (1, QpState::Rts)] {
        let found: QpAttributes = driver.query(&mut bench, AdminOpcode::QueryQp, number);
        assert_eq!(found.state, state.raw());
    }
}

/// Nobody sends from an address that has become another's, not even what was posted before.
#[test]
fn a_datagram_that_waits_does_not_keep_its_address() {
    let mut bench = Bench::default();
    let [mut one, mut two] = [1, 2].map(|n| Node::new(&mut bench, n));
    let (pd, cq) = (one.pd, &one.cq);
    let driver = &mut one.driver;
    let mut qp = driver.datagram_qp(&mut bench, pd, cq, QpType::Ud, QKEY);
    let list = [data(one.memory, 20, one.key)];
    bench.wire.limit = Some(0);
    let to = datagram(9, QKEY, gid(9), mac(9));
    qp.send_datagram(&driver.hw, control(WqeOpcode::Send, 0, 1), &to, &list);
    for _ in 0..5 {
        bench.step();
    }
    let none = SetGid::default();
    driver.ok(&mut bench, AdminOpcode::SetGid, &none);
    let taken = SetGid {
        index: 5,
        gid_type: GidType::RoceV2.raw(),
        gid: gid(1).0,
        ..none
    };
    two.driver.ok(&mut bench, AdminOpcode::SetGid, &taken);
    bench.wire.limit = None;
    bench.run();
    assert!(bench.wire.sent.is_empty());
    let status = one.poll().unwrap().status;
    assert_eq!(status, CompletionStatus::LocalQpOperation.raw());
}
