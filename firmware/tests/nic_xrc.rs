//! Extended reliable connections: initiators, targets, and the shared receive queues between them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;
mod srq_bench;

use core::mem::offset_of;

use nic_bench::*;
use srq_bench::*;
use vrnic_abi::admin::{AdminOpcode, Buffer, CreateQp, QpFlags, QpType, Status};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionOpcode, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{QpAttributes, QpMask, QpState, SrqAttributes};
use vrnic_abi::wqe::{AtomicSegment, DataSegment, RemoteSegment, WqeOpcode, XrcSegment};
use vrnic_firmware::host::Memory;

/// An initiator on the first node, a target on the second, and a shared receive queue there. The
/// initiator is the first node's queue pair.
struct Pair {
    net: Net,
    a: Node,
    b: Node,
    xrcd: u32,
    srq: Srq,
    target: u32,
}

fn target_body(pd: u32, xrcd: u32) -> CreateQp {
    CreateQp {
        pd,
        qp_type: QpType::XrcTarget.raw(),
        xrcd,
        ..CreateQp::default()
    }
}

/// Connects a new initiator of `a` with a new target of `b` and returns the target.
fn attach(net: &mut Net, a: &mut Node, b: &mut Node, pd: u32, xrcd: u32) -> u32 {
    let completion = b
        .driver
        .command(net.at(1), AdminOpcode::CreateQp, &target_body(pd, xrcd));
    assert_eq!((completion.status, completion.result1), (0, 0));
    let target = completion.result0 as u32;
    let body = qp_body(a, QpType::XrcInitiator, 0);
    a.qp = create_qp(a, net.at(0), &body);
    assert_eq!(a.qp.receive_slot, 0);
    let ends = (QpType::XrcInitiator, a.qp.number);
    ready(a, net.at(0), ends, 2, target);
    ready(b, net.at(1), (QpType::XrcTarget, target), 1, a.qp.number);
    target
}

impl Pair {
    fn new(net: Net) -> Self {
        Self::with(net, |b| b.pd)
    }

    /// The target has no protection domain.
    fn bare(net: Net) -> Self {
        Self::with(net, |_| 0)
    }

    fn with(mut net: Net, pd: impl FnOnce(&Node) -> u32) -> Self {
        let (mut a, mut b) = net.nodes();
        let xrcd = b.driver.ok(net.at(1), AdminOpcode::AllocXrcd, &0u64) as u32;
        let srq = Srq::extended(&mut b, net.at(1), xrcd);
        let pd = pd(&b);
        let target = attach(&mut net, &mut a, &mut b, pd, xrcd);
        Self {
            net,
            a,
            b,
            xrcd,
            srq,
            target,
        }
    }

    fn post(&mut self, opcode: WqeOpcode, srqn: u32, rest: &[&[u8]], data: &[DataSegment]) {
        let xrc = XrcSegment {
            remote_srqn: srqn,
            reserved: [0; 3],
        };
        let mut segments = vec![bytemuck::bytes_of(&xrc)];
        segments.extend(rest);
        segments.push(bytemuck::cast_slice(data));
        let head = control(opcode, 0x1234_5678, data.len());
        self.a.qp.post(&self.a.driver.hw, head, &segments);
    }

    fn send(&mut self, srqn: u32, length: u32) {
        let list = [self.a.segment(0, length)];
        self.post(WqeOpcode::Send, srqn, &[], &list);
    }

    /// An operation on the peer's memory at `offset`, with the peer's `rkey`.
    fn rdma(&mut self, opcode: WqeOpcode, srqn: u32, (offset, rkey): (u64, u32), length: u32) {
        let remote = RemoteSegment {
            address: self.b.memory + offset,
            rkey,
            reserved: 0,
        };
        let list = [self.a.segment(0, length)];
        self.post(opcode, srqn, &[bytemuck::bytes_of(&remote)], &list);
    }

    /// An operation on the first bytes of the peer's memory, carried out as far as it goes.
    fn access(&mut self, opcode: WqeOpcode, srqn: u32, key: u32) {
        if opcode == WqeOpcode::FetchAdd {
            let remote = RemoteSegment {
                address: self.b.memory,
                rkey: key,
                reserved: 0,
            };
            let list = [self.a.segment(0, 8)];
            let add = AtomicSegment::default();
            let rest = [bytemuck::bytes_of(&remote), bytemuck::bytes_of(&add)];
            self.post(opcode, srqn, &rest, &list);
        } else {
            self.rdma(opcode, srqn, (0, key), 5000);
        }
        self.net.run();
    }

    /// Lets things happen until the initiator has nothing under way.
    #[track_caller]
    fn settle(&mut self) {
        let (a, qpn) = (&self.a, self.a.qp.number);
        self.net.until(|net| net.drained(0, a, qpn));
    }

    #[track_caller]
    fn state(&mut self, qpn: u32) -> u8 {
        state(&mut self.b, self.net.at(1), qpn)
    }

    fn fill(&self, length: u32, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        Random(seed).fill(&mut bytes);
        self.a.hw().ram.write(self.a.memory, &bytes).unwrap();
        bytes
    }
}

mod commands {
    use super::*;
    use Status::{BadArgument, NoSuchObject};

    #[test]
    fn queries_tell_what_was_set() {
        let mut pair = Pair::new(Net::direct());
        let (target, bench) = (pair.target, pair.net.at(1));
        let got: QpAttributes = pair.b.driver.query(bench, AdminOpcode::QueryQp, target);
        assert_eq!(got.qp_type, u32::from(QpType::XrcTarget.raw()));
        assert_eq!((got.srq, got.xrcd), (0, pair.xrcd));
        assert_eq!((got.send_cq, got.receive_cq), (0, 0));
        let got: SrqAttributes = pair.srq.query(&mut pair.b.driver, bench);
        assert_eq!((got.srq_type, got.xrcd), (1, pair.xrcd));
        assert_eq!((got.cq, got.users), (pair.b.cq.number, 0));
        let qpn = pair.a.qp.number;
        let bench = pair.net.at(0);
        let got: QpAttributes = pair.a.driver.query(bench, AdminOpcode::QueryQp, qpn);
        assert_eq!(got.qp_type, u32::from(QpType::XrcInitiator.raw()));
        assert_eq!((got.send_cq, got.receive_cq), (pair.a.cq.number, 0));
    }

    #[test]
    fn what_a_target_does_not_have_must_be_zero() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let xrcd = node.driver.ok(&mut bench, AdminOpcode::AllocXrcd, &0u64) as u32;
        let good = target_body(node.pd, xrcd);
        type Change = fn(&mut CreateQp);
        let cases: [(Change, Status, usize); 10] = [
            (
                |b| b.send_cq = 1,
                BadArgument,
                offset_of!(CreateQp, send_cq),
            ),
            (
                |b| b.receive_cq = 1,
                BadArgument,
                offset_of!(CreateQp, receive_cq),
            ),
            (|b| b.srq = 1, BadArgument, offset_of!(CreateQp, srq)),
            (
                |b| {
                    b.buffer = Buffer {
                        address: BASE,
                        pages: 1,
                        page_shift: 12,
                        ..Buffer::default()
                    };
                },
                BadArgument,
                offset_of!(CreateQp, buffer),
            ),
            (
                |b| b.doorbell_page = 1,
                BadArgument,
                offset_of!(CreateQp, doorbell_page),
            ),
            (
                |b| b.log_send_blocks = 1,
                BadArgument,
                offset_of!(CreateQp, log_send_blocks),
            ),
            (
                |b| b.log_receive_entries = 1,
                BadArgument,
                offset_of!(CreateQp, log_receive_entries),
            ),
            (
                |b| b.flags = QpFlags::PRIVILEGED.bits(),
                BadArgument,
                offset_of!(CreateQp, flags),
            ),
            (|b| b.xrcd = 0, NoSuchObject, offset_of!(CreateQp, xrcd)),
            (|b| b.pd += 9, NoSuchObject, offset_of!(CreateQp, pd)),
        ];
        for (change, status, offset) in cases {
            let mut body = good;
            change(&mut body);
            let completion = node
                .driver
                .command(&mut bench, AdminOpcode::CreateQp, &body);
            assert_eq!(
                (Status::from_raw(completion.status), completion.syndrome),
                (Some(status), 8 + offset as u32)
            );
        }
        let good = qp_body(&mut node, QpType::XrcInitiator, 0);
        let cases: [(Change, usize); 4] = [
            (
                |b| b.receive_cq = b.send_cq,
                offset_of!(CreateQp, receive_cq),
            ),
            (|b| b.xrcd = 1, offset_of!(CreateQp, xrcd)),
            (|b| b.srq = 1, offset_of!(CreateQp, srq)),
            (
                |b| b.log_receive_segments = 1,
                offset_of!(CreateQp, log_receive_segments),
            ),
        ];
        for (change, offset) in cases {
            let mut body = good;
            change(&mut body);
            let completion = node
                .driver
                .command(&mut bench, AdminOpcode::CreateQp, &body);
            assert_eq!(
                (Status::from_raw(completion.status), completion.syndrome),
                (Some(BadArgument), 8 + offset as u32)
            );
        }
    }

    #[test]
    fn a_domain_stays_while_it_has_objects() {
        let mut pair = Pair::new(Net::direct());
        let (target, srqn, xrcd) = (pair.target, pair.srq.number, pair.xrcd);
        for (opcode, object) in [
            (AdminOpcode::DestroyQp, target),
            (AdminOpcode::DestroySrq, srqn),
        ] {
            let bench = pair.net.at(1);
            let body = u64::from(xrcd);
            let completion = pair.b.driver.command(bench, AdminOpcode::FreeXrcd, &body);
            assert_eq!(completion.status, Status::Busy.raw());
            pair.b.driver.destroy(bench, opcode, object);
        }
        let bench = pair.net.at(1);
        pair.b.driver.destroy(bench, AdminOpcode::FreeXrcd, xrcd);
    }

    #[test]
    fn domains_are_limited() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let mut alloc = |bench: &mut Bench| {
            let opcode = AdminOpcode::AllocXrcd;
            node.driver.command(bench, opcode, &0u64).status
        };
        for _ in 0..4096 {
            assert_eq!(alloc(&mut bench), 0);
        }
        assert_eq!(alloc(&mut bench), Status::NoResources.raw());
    }

    /// Each type takes the attributes of its half of the protocol (IBTA volume 1, annex A14).
    #[test]
    fn attributes_of_the_other_half_are_refused() {
        for (qp_type, mask) in [
            (QpType::XrcInitiator, QpMask::RESPONDER_RESOURCES),
            (QpType::XrcInitiator, QpMask::MIN_RNR_TIMER),
            (QpType::XrcTarget, QpMask::RETRY_COUNT),
            (QpType::XrcTarget, QpMask::RNR_RETRY),
            (QpType::XrcTarget, QpMask::INITIATOR_DEPTH),
        ] {
            let mut bench = Bench::default();
            let mut node = Node::new(&mut bench, 1);
            let xrcd = node.driver.ok(&mut bench, AdminOpcode::AllocXrcd, &0u64) as u32;
            let body = match qp_type {
                QpType::XrcTarget => target_body(node.pd, xrcd),
                _ => qp_body(&mut node, qp_type, 0),
            };
            let qpn = create_qp(&mut node, &mut bench, &body).number;
            let of_responder = QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER;
            for (step, (needed, given)) in steps(qp_type, 2, 77).into_iter().enumerate() {
                let here = if mask.intersects(of_responder) { 1 } else { 2 };
                if step == here {
                    let answer = node.driver.modify(&mut bench, qpn, needed | mask, &given);
                    assert_eq!(answer.status, Status::BadState.raw(), "{mask:?}");
                }
                node.driver.modify_ok(&mut bench, qpn, needed, &given);
            }
        }
    }
}

mod operations {
    use super::*;

    fn both() -> [Pair; 4] {
        [
            Pair::new(Net::direct()),
            Pair::new(Net::wire(1, 0)),
            Pair::bare(Net::direct()),
            Pair::bare(Net::wire(1, 0)),
        ]
    }

    #[test]
    fn sends_go_to_the_queue_that_they_name() {
        for mut pair in both() {
            let mut other = Srq::extended(&mut pair.b, pair.net.at(1), pair.xrcd);
            for n in 0..40 {
                let length = 10 + 500 * n;
                let bytes = pair.fill(length, n.into());
                let list = [pair.b.segment(32_768, length)];
                let immediate = n % 3 == 0;
                let (srqn, index) = if n % 2 == 0 {
                    pair.srq.post(&pair.b.driver.hw, &list);
                    (pair.srq.number, n / 2)
                } else {
                    other.post(&pair.b.driver.hw, &list);
                    (other.number, n / 2)
                };
                let (opcode, wanted) = if immediate {
                    let wanted = CompletionOpcode::ReceiveImmediate;
                    (WqeOpcode::SendImmediate, wanted)
                } else {
                    (WqeOpcode::Send, CompletionOpcode::Receive)
                };
                let list = [pair.a.segment(0, length)];
                pair.post(opcode, srqn, &[], &list);
                pair.net.run();
                assert_eq!(pair.a.poll().expect("a send").status, 0);
                let got = pair.b.poll().expect("a receive");
                assert_eq!((got.status, got.opcode), (0, wanted.raw()));
                assert_eq!((got.qpn, got.srqn), (pair.target, srqn));
                assert_eq!((got.wqe_index, got.byte_length), (index, length));
                if immediate {
                    assert_eq!(got.immediate, 0x1234_5678);
                }
                let at = pair.b.memory + 32_768;
                assert!(pair.b.hw().bytes(at, bytes.len()) == bytes);
            }
        }
    }

    #[test]
    fn rdma_needs_no_entry_but_immediate_data_does() {
        for mut pair in both() {
            let (srqn, key) = (pair.srq.number, pair.b.key);
            let at = pair.b.memory + 65_536;
            let bytes = pair.fill(10_000, 7);
            pair.rdma(WqeOpcode::Write, srqn, (65_536, key), 10_000);
            pair.net.run();
            assert_eq!(pair.a.poll().expect("a write").status, 0);
            assert!(pair.b.poll().is_none());
            assert!(pair.b.hw().bytes(at, 10_000) == bytes);

            pair.srq.post(&pair.b.driver.hw, &[]);
            let bytes = pair.fill(5000, 8);
            pair.rdma(WqeOpcode::WriteImmediate, srqn, (65_536, key), 5000);
            pair.net.run();
            assert_eq!(pair.a.poll().expect("a write").status, 0);
            let got = pair.b.poll().expect("a receive");
            let wanted = CompletionOpcode::ReceiveWriteImmediate.raw();
            assert_eq!((got.status, got.opcode), (0, wanted));
            assert_eq!((got.srqn, got.qpn), (srqn, pair.target));
            assert_eq!((got.immediate, got.byte_length), (0x1234_5678, 5000));
            assert!(pair.b.hw().bytes(at, 5000) == bytes);

            let zeros = vec![0; 9000];
            pair.a.hw().ram.write(pair.a.memory, &zeros).unwrap();
            let mut bytes = vec![0; 9000];
            Random(9).fill(&mut bytes);
            pair.b.hw().ram.write(at, &bytes).unwrap();
            pair.rdma(WqeOpcode::Read, srqn, (65_536, key), 9000);
            pair.net.run();
            assert_eq!(pair.a.poll().expect("a read").status, 0);
            assert!(pair.a.hw().bytes(pair.a.memory, 9000) == bytes);
        }
    }

    #[test]
    fn atomics() {
        for mut pair in both() {
            let srqn = pair.srq.number;
            let at = pair.b.memory + 64;
            pair.b.hw().write(at, &40u64);
            let remote = RemoteSegment {
                address: at,
                rkey: pair.b.key,
                reserved: 0,
            };
            for (opcode, operand, compare, before, after) in [
                (WqeOpcode::FetchAdd, 2, 0, 40u64, 42u64),
                (WqeOpcode::CompareSwap, 7, 42, 42, 7),
                (WqeOpcode::CompareSwap, 9, 42, 7, 7),
            ] {
                let operands = AtomicSegment {
                    swap_or_add: operand,
                    compare,
                };
                let list = [pair.a.segment(128, 8)];
                let rest = [bytemuck::bytes_of(&remote), bytemuck::bytes_of(&operands)];
                pair.post(opcode, srqn, &rest, &list);
                pair.net.run();
                assert_eq!(pair.a.poll().expect("an atomic").status, 0);
                let got: u64 = pair.a.hw().read(pair.a.memory + 128);
                let there: u64 = pair.b.hw().read(at);
                assert_eq!((got, there), (before, after));
            }
        }
    }

    #[test]
    fn an_initiator_waits_for_an_entry() {
        for mut pair in both() {
            let srqn = pair.srq.number;
            let bytes = pair.fill(3000, 1);
            pair.send(srqn, 3000);
            pair.net.run();
            assert!(pair.a.poll().is_none());
            assert!(pair.b.counter(pair.net.at(1), Counter::TxRnrNak) > 0);
            let list = [pair.b.segment(4096, 3000)];
            pair.srq.post(&pair.b.driver.hw, &list);
            pair.settle();
            assert_eq!(pair.a.poll().unwrap().status, 0);
            assert_eq!(pair.b.poll().unwrap().srqn, srqn);
            assert!(pair.b.hw().bytes(pair.b.memory + 4096, 3000) == bytes);
        }
    }

    /// What travels is XRC: the opcode says so, requests name the queue, answers do not.
    #[test]
    fn packets_are_those_of_the_service() {
        let mut pair = Pair::new(Net::wire(1, 0));
        let list = [pair.b.segment(4096, 64)];
        pair.srq.post(&pair.b.driver.hw, &list);
        pair.send(pair.srq.number, 64);
        pair.net.at(0).run();
        let frame = pair.net.at(0).wire.sent.front().expect("a packet").clone();
        // Ethernet 14, IPv4 20, UDP 8; the opcode is the first byte of the BTH, which has 12.
        assert_eq!(frame[42], 0xa0 | 0x04, "SEND only");
        let srqn = pair.srq.number.to_be_bytes();
        assert_eq!(frame[54..58], srqn, "the XRCETH");
        let bench = pair.net.at(1);
        bench.nic.receive(bench.now, &frame, &mut bench.wire);
        bench.run();
        let answer = bench.wire.sent.front().expect("an answer");
        assert_eq!(answer[42], 0xa0 | 0x11, "acknowledge");
    }

    #[test]
    fn over_a_wire_with_loss_and_duplicates() {
        for seed in 0..40 {
            println!("seed {seed}");
            let mut random = Random(seed);
            let mut pair = Pair::new(Net::wire(seed, 4));
            let (srqn, key) = (pair.srq.number, pair.b.key);
            pair.b.hw().write(pair.b.memory, &0u64);
            let mut sum = 0u64;
            for n in 0..12 {
                let length = random.below(20_000) as u32;
                let bytes = pair.fill(length, seed * 100 + n);
                let at = pair.b.memory + 65_536;
                let guard = vec![PATTERN; length as usize + 1];
                pair.b.hw().ram.write(at, &guard).unwrap();
                let list = [pair.b.segment(65_536, length)];
                let receives = match random.below(4) {
                    0 => {
                        pair.srq.post(&pair.b.driver.hw, &list);
                        pair.send(srqn, length);
                        true
                    }
                    1 => {
                        pair.srq.post(&pair.b.driver.hw, &[]);
                        pair.rdma(WqeOpcode::WriteImmediate, srqn, (65_536, key), length);
                        true
                    }
                    2 => {
                        pair.rdma(WqeOpcode::Write, srqn, (65_536, key), length);
                        false
                    }
                    _ => {
                        sum += 3;
                        let remote = RemoteSegment {
                            address: pair.b.memory,
                            rkey: key,
                            reserved: 0,
                        };
                        let add = AtomicSegment {
                            swap_or_add: 3,
                            compare: 0,
                        };
                        let list = [pair.a.segment(500_000, 8)];
                        let rest = [bytemuck::bytes_of(&remote), bytemuck::bytes_of(&add)];
                        pair.post(WqeOpcode::FetchAdd, srqn, &rest, &list);
                        pair.settle();
                        assert_eq!(pair.a.poll().unwrap().status, 0);
                        assert_eq!(pair.b.hw().read::<u64>(pair.b.memory), sum);
                        continue;
                    }
                };
                pair.settle();
                assert_eq!(pair.a.poll().expect("it completes").status, 0);
                assert!(pair.a.poll().is_none());
                let got = pair.b.poll();
                assert_eq!(got.is_some(), receives);
                if let Some(got) = got {
                    assert_eq!((got.status, got.byte_length), (0, length));
                }
                assert!(pair.b.poll().is_none());
                let there = pair.b.hw().bytes(at, length as usize + 1);
                assert!(there[..length as usize] == bytes);
                assert_eq!(there[length as usize], PATTERN);
            }
        }
    }
}

mod errors {
    use super::*;

    fn error(pair: &mut Pair) -> Option<CompletionStatus> {
        let status = pair.a.poll().expect("the request ends").status;
        assert!(pair.a.poll().is_none());
        CompletionStatus::from_raw(status)
    }

    /// No queue, one of the other type, one of another domain, one that is gone.
    #[test]
    fn a_request_for_a_queue_out_of_reach_is_invalid() {
        for case in 0..4 {
            for net in [Net::direct(), Net::wire(1, 0)] {
                let mut pair = Pair::new(net);
                let bench = pair.net.at(1);
                let mut srq = match case {
                    0 | 3 => Srq::extended(&mut pair.b, bench, pair.xrcd),
                    1 => Srq::basic(&mut pair.b, bench, 4),
                    _ => {
                        let other = pair.b.driver.ok(bench, AdminOpcode::AllocXrcd, &0u64);
                        Srq::extended(&mut pair.b, bench, other as u32)
                    }
                };
                let list = [pair.b.segment(4096, 64)];
                srq.post(&pair.b.driver.hw, &list);
                if case == 0 {
                    srq.number ^= 1 << 22;
                }
                if case == 3 {
                    let bench = pair.net.at(1);
                    let opcode = AdminOpcode::DestroySrq;
                    pair.b.driver.destroy(bench, opcode, srq.number);
                }
                events(&mut pair.b);
                pair.send(srq.number, 64);
                pair.net.run();
                let wanted = Some(CompletionStatus::RemoteInvalidRequest);
                assert_eq!(error(&mut pair), wanted, "case {case}");
                let target = pair.target;
                let wanted = [
                    (EventType::QpRequestError, target),
                    (EventType::LastWqeReached, target),
                ];
                assert_eq!(events(&mut pair.b), wanted);
                assert_eq!(pair.state(target), QpState::Error.raw());
                assert!(pair.b.poll().is_none());
                let memory = pair.b.hw().bytes(pair.b.memory + 4096, 64);
                assert_eq!(memory, vec![PATTERN; 64]);
            }
        }
    }

    /// Remote keys are those of the target's protection domain, whatever the queue's is.
    #[test]
    fn remote_keys_belong_to_the_target() {
        let mut pair = Pair::new(Net::direct());
        let bench = pair.net.at(1);
        let other = pair.b.driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
        let (memory, xrcd) = (pair.b.memory, pair.xrcd);
        let foreign = pair.b.driver.mr(bench, other, memory, BUFFER);
        let Pair { net, a, b, .. } = &mut pair;
        attach(net, a, b, other, xrcd);
        let (srqn, own) = (pair.srq.number, pair.b.key);
        let bytes = pair.fill(64, 1);
        pair.rdma(WqeOpcode::Write, srqn, (8192, foreign), 64);
        pair.net.run();
        assert_eq!(error(&mut pair), Some(CompletionStatus::Success));
        assert_eq!(pair.b.hw().bytes(memory + 8192, 64), bytes);
        // The entry's key is of the queue's domain.
        let list = [pair.b.segment(16_384, 64)];
        pair.srq.post(&pair.b.driver.hw, &list);
        pair.send(srqn, 64);
        pair.net.run();
        assert_eq!(error(&mut pair), Some(CompletionStatus::Success));
        assert_eq!(pair.b.hw().bytes(memory + 16_384, 64), bytes);
        pair.rdma(WqeOpcode::Write, srqn, (32_768, own), 64);
        pair.net.run();
        assert_eq!(error(&mut pair), Some(CompletionStatus::RemoteAccess));
        let there = pair.b.hw().bytes(memory + 32_768, 64);
        assert_eq!(there, vec![PATTERN; 64]);
    }

    /// A target without a protection domain looks keys up in that of the queue that a packet names,
    /// for each packet.
    #[test]
    fn without_a_domain_keys_belong_to_the_queue() {
        for op in [WqeOpcode::Write, WqeOpcode::Read, WqeOpcode::FetchAdd] {
            for net in [Net::direct(), Net::wire(3, 0)] {
                let mut pair = Pair::bare(net);
                let bench = pair.net.at(1);
                let other = pair.b.driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
                let memory = pair.b.memory;
                let foreign = pair.b.driver.mr(bench, other, memory, BUFFER);
                let pd = core::mem::replace(&mut pair.b.pd, other);
                let theirs = Srq::extended(&mut pair.b, pair.net.at(1), pair.xrcd).number;
                let elsewhere = pair
                    .b
                    .driver
                    .ok(pair.net.at(1), AdminOpcode::AllocXrcd, &0u64);
                let outside = Srq::extended(&mut pair.b, pair.net.at(1), elsewhere as u32).number;
                pair.b.pd = pd;
                let (ours, own) = (pair.srq.number, pair.b.key);
                for (srqn, key) in [(ours, own), (theirs, foreign)] {
                    pair.access(op, srqn, key);
                    assert_eq!(error(&mut pair), Some(CompletionStatus::Success), "{op:?}");
                }
                // The last one breaks the connection, so there is one for each.
                for (srqn, key) in [(ours, foreign), (theirs, own), (outside, foreign), (0, own)] {
                    let Pair {
                        net, a, b, xrcd, ..
                    } = &mut pair;
                    attach(net, a, b, 0, *xrcd);
                    pair.access(op, srqn, key);
                    let found = error(&mut pair);
                    assert_eq!(found, Some(CompletionStatus::RemoteAccess), "{op:?} {srqn}");
                }
            }
        }
    }

    #[test]
    fn a_target_that_is_gone_does_not_answer() {
        let mut pair = Pair::new(Net::wire(1, 0));
        let (target, srqn) = (pair.target, pair.srq.number);
        let bench = pair.net.at(1);
        pair.b.driver.destroy(bench, AdminOpcode::DestroyQp, target);
        let list = [pair.b.segment(4096, 64)];
        pair.srq.post(&pair.b.driver.hw, &list);
        pair.send(srqn, 64);
        pair.settle();
        assert_eq!(error(&mut pair), Some(CompletionStatus::RetryExceeded));
        assert!(pair.b.counter(pair.net.at(1), Counter::RxNoQp) > 0);
        assert!(pair.b.poll().is_none());
    }

    /// Two initiators connected to each other: each drops what the other asks.
    #[test]
    fn an_initiator_takes_no_requests() {
        for net in [Net::direct(), Net::wire(1, 0)] {
            let mut pair = Pair::new(net);
            let body = qp_body(&mut pair.b, QpType::XrcInitiator, 0);
            let deaf = create_qp(&mut pair.b, pair.net.at(1), &body).number;
            let body = qp_body(&mut pair.a, QpType::XrcInitiator, 0);
            pair.a.qp = create_qp(&mut pair.a, pair.net.at(0), &body);
            let qpn = pair.a.qp.number;
            let initiator = QpType::XrcInitiator;
            ready(&mut pair.a, pair.net.at(0), (initiator, qpn), 2, deaf);
            for (mask, given) in &steps(initiator, 1, qpn)[..2] {
                pair.b.driver.modify_ok(pair.net.at(1), deaf, *mask, given);
            }
            events(&mut pair.b);
            let before = pair.b.counter(pair.net.at(1), Counter::RxWrongService);
            pair.send(pair.srq.number, 64);
            pair.settle();
            assert_eq!(error(&mut pair), Some(CompletionStatus::RetryExceeded));
            let dropped = pair.b.counter(pair.net.at(1), Counter::RxWrongService);
            assert_eq!(dropped - before, 8, "one for each try");
            assert_eq!(events(&mut pair.b), [], "nobody has spoken to it");
            assert_eq!(pair.state(deaf), QpState::Rtr.raw());
        }
    }

    /// A connection of another service is not mistaken for one of XRC.
    #[test]
    fn services_do_not_mix() {
        let mut pair = Pair::new(Net::wire(1, 0));
        let rc = pair.b.qp.number;
        pair.a
            .driver
            .set_state(pair.net.at(0), pair.a.qp.number, QpState::Reset);
        pair.a.qp.posted = 0;
        let ends = (QpType::XrcInitiator, pair.a.qp.number);
        ready(&mut pair.a, pair.net.at(0), ends, 2, rc);
        ready(&mut pair.b, pair.net.at(1), (QpType::Rc, rc), 1, ends.1);
        let list = [pair.b.segment(4096, 64)];
        pair.b.qp.receive(&pair.b.driver.hw, &list);
        pair.send(pair.srq.number, 64);
        pair.settle();
        assert_eq!(error(&mut pair), Some(CompletionStatus::RetryExceeded));
        assert!(pair.b.counter(pair.net.at(1), Counter::RxWrongService) > 0);
        assert!(pair.b.poll().is_none());
    }

    /// A message is under way when its queue is destroyed: the entry is flushed, and nothing is
    /// written afterwards.
    #[test]
    fn destroying_a_queue_takes_its_entries_back() {
        let mut pair = Pair::new(Net::wire(1, 0));
        let (srqn, target) = (pair.srq.number, pair.target);
        let list = [pair.b.segment(4096, 65_536)];
        pair.srq.post(&pair.b.driver.hw, &list);
        pair.fill(65_536, 4);
        pair.net.at(0).wire.limit = Some(8);
        pair.send(srqn, 65_536);
        while pair.srq.query(&mut pair.b.driver, pair.net.at(1)).consumer == 0 {
            pair.net.step();
        }
        events(&mut pair.b);
        let bench = pair.net.at(1);
        pair.b.driver.destroy(bench, AdminOpcode::DestroySrq, srqn);
        let got = pair.b.poll().expect("the entry is flushed");
        assert_eq!(got.status, CompletionStatus::Flushed.raw());
        assert_eq!((got.srqn, got.qpn), (srqn, target));
        assert_eq!(events(&mut pair.b), [(EventType::LastWqeReached, target)]);
        assert_eq!(pair.state(target), QpState::Error.raw());
        let cleared = vec![PATTERN; 65_536];
        pair.b
            .hw()
            .ram
            .write(pair.b.memory + 4096, &cleared)
            .unwrap();
        pair.settle();
        assert_eq!(error(&mut pair), Some(CompletionStatus::RetryExceeded));
        assert!(pair.b.hw().bytes(pair.b.memory + 4096, 65_536) == cleared);
    }

    /// Entries complete to the queue's own completion queue; when that has failed, so has the
    /// queue.
    #[test]
    fn a_failed_completion_queue_fails_the_shared_receive_queue() {
        let mut pair = Pair::new(Net::direct());
        let bench = pair.net.at(1);
        let cq = pair.b.driver.cq(bench, &pair.b.eq, 2);
        let own = core::mem::replace(&mut pair.b.cq, cq);
        pair.srq = Srq::extended(&mut pair.b, bench, pair.xrcd);
        let (srqn, first, xrcd) = (pair.srq.number, pair.target, pair.xrcd);
        for _ in 0..6 {
            let list = [pair.b.segment(4096, 64)];
            pair.srq.post(&pair.b.driver.hw, &list);
        }
        for _ in 0..4 {
            pair.send(srqn, 64);
            pair.net.run();
            assert_eq!(error(&mut pair), Some(CompletionStatus::Success));
        }
        events(&mut pair.b);
        pair.send(srqn, 64);
        pair.net.run();
        let failed = pair.b.cq.number;
        assert_eq!(
            events(&mut pair.b),
            [
                (EventType::CqError, failed),
                (EventType::LastWqeReached, first)
            ]
        );
        assert_eq!(pair.state(first), QpState::Error.raw());
        pair.a.poll();
        let got = pair.srq.query(&mut pair.b.driver, pair.net.at(1));
        assert_eq!(got.failed, 1);
        // Another target learns it when it needs an entry.
        let pd = pair.b.pd;
        let Pair { net, a, b, .. } = &mut pair;
        let second = attach(net, a, b, pd, xrcd);
        assert_eq!(pair.state(second), QpState::Rts.raw());
        pair.send(srqn, 64);
        pair.net.run();
        assert_eq!(error(&mut pair), Some(CompletionStatus::RemoteOperation));
        assert_eq!(pair.state(second), QpState::Error.raw());
        assert_eq!(
            pair.srq.query(&mut pair.b.driver, pair.net.at(1)).consumer,
            5
        );
        pair.b.cq = own;
    }
}

mod hostile {
    use super::*;

    struct Chaos {
        pair: Pair,
        random: Random,
        srqs: Vec<Srq>,
    }

    impl Chaos {
        fn srqn(&mut self) -> u32 {
            match self.random.below(8) {
                0 => self.random.next() as u32 & 0xff_ffff,
                1 => 0,
                _ if self.srqs.is_empty() => 1,
                n => self.srqs[n as usize % self.srqs.len()].number,
            }
        }

        fn act(&mut self) {
            match self.random.below(16) {
                0..=3 => self.request(),
                4..=7 => self.entry(),
                8 => self.doorbell(),
                9 => self.limit(),
                10 => self.hole(),
                11 => self.queue(),
                12 => self.state(),
                _ => {
                    self.pair.net.step();
                }
            }
            while self.pair.a.poll().is_some() || self.pair.b.poll().is_some() {}
            events(&mut self.pair.a);
            events(&mut self.pair.b);
        }

        fn request(&mut self) {
            let srqn = self.srqn();
            let length = self.random.below(30_000) as u32;
            let key = self.pair.b.key;
            match self.random.below(4) {
                0 => {
                    let to = (self.random.below(2 * BUFFER), key);
                    self.pair.rdma(WqeOpcode::WriteImmediate, srqn, to, length);
                }
                1 => self.pair.rdma(WqeOpcode::Read, srqn, (0, key), length),
                _ => self.pair.send(srqn, length),
            }
        }

        fn entry(&mut self) {
            let at = self.random.below(self.srqs.len() as u64 + 1) as usize;
            let Some(srq) = self.srqs.get_mut(at) else {
                return;
            };
            let b = &self.pair.b;
            let list = match self.random.below(4) {
                0 => data(self.random.next(), self.random.next() as u32, b.key),
                1 => data(b.memory, 100, self.random.next() as u32),
                _ => b.segment(self.random.below(BUFFER), 30_000),
            };
            // Only the device does not reach what is not mapped.
            let hole = b.hw().ram.hole.borrow_mut().take();
            srq.post(&b.driver.hw, &[list]);
            *b.hw().ram.hole.borrow_mut() = hole;
        }

        fn doorbell(&mut self) {
            let slot = 8 + self.random.below(64) as u32;
            let value = self.random.next() >> self.random.below(64);
            let hw = self.pair.b.hw();
            hw.store_slot(0, slot, value);
            hw.mark(0, slot);
        }

        fn limit(&mut self) {
            let body = vrnic_abi::admin::ModifySrq {
                srq: self.srqn(),
                limit: self.random.below(20) as u32,
                reserved: 0,
            };
            self.command(AdminOpcode::ModifySrq, &body);
        }

        fn command<T: bytemuck::Pod>(&mut self, opcode: AdminOpcode, body: &T) {
            // The rings of the admin queue are not to be out of reach.
            *self.pair.b.hw().ram.hole.borrow_mut() = None;
            let bench = self.pair.net.at(1);
            self.pair.b.driver.command(bench, opcode, body);
        }

        fn hole(&mut self) {
            let hole = match (self.random.below(3), self.srqs.first()) {
                (0, Some(srq)) => Some(srq.place()..srq.place() + 256),
                (1, _) => Some(self.pair.b.memory..self.pair.b.memory + 65_536),
                _ => None,
            };
            *self.pair.b.hw().ram.hole.borrow_mut() = hole;
        }

        fn queue(&mut self) {
            *self.pair.b.hw().ram.hole.borrow_mut() = None;
            if self.srqs.len() > 3 {
                let number = self.srqs.remove(0).number;
                self.command(AdminOpcode::DestroySrq, &u64::from(number));
                return;
            }
            let (bench, xrcd) = (self.pair.net.at(1), self.pair.xrcd);
            let srq = if self.random.percent(70) {
                Srq::extended(&mut self.pair.b, bench, xrcd)
            } else {
                Srq::basic(&mut self.pair.b, bench, 2)
            };
            self.srqs.push(srq);
        }

        /// Both ends start over.
        fn state(&mut self) {
            *self.pair.b.hw().ram.hole.borrow_mut() = None;
            let (target, initiator) = (self.pair.target, self.pair.a.qp.number);
            let Pair { net, a, b, .. } = &mut self.pair;
            a.driver.set_state(net.at(0), initiator, QpState::Reset);
            a.qp.posted = 0;
            b.driver.set_state(net.at(1), target, QpState::Reset);
            let ends = (QpType::XrcInitiator, initiator);
            ready(a, net.at(0), ends, 2, target);
            ready(b, net.at(1), (QpType::XrcTarget, target), 1, initiator);
        }
    }

    /// A driver of shared receive queues and a peer that do anything at all: no panic, no hang, the
    /// function stays in order, and in the end everything can be destroyed.
    #[test]
    fn drivers_and_peers_disturb_nothing() {
        for seed in 0..60 {
            println!("seed {seed}");
            let net = match seed % 2 {
                0 => Net::direct(),
                _ => Net::wire(seed, 3),
            };
            let mut chaos = Chaos {
                pair: Pair::new(net),
                random: Random(seed),
                srqs: Vec::new(),
            };
            for _ in 0..400 {
                chaos.act();
            }
            assert_eq!(
                (chaos.pair.a.driver.state(), chaos.pair.b.driver.state()),
                (1, 1)
            );
            chaos.state();
            let (target, xrcd, own) = (chaos.pair.target, chaos.pair.xrcd, chaos.pair.srq.number);
            let mut objects: Vec<_> = chaos.srqs.iter().map(|srq| srq.number).collect();
            objects.push(own);
            let bench = chaos.pair.net.at(1);
            let driver = &mut chaos.pair.b.driver;
            for srqn in objects {
                driver.destroy(bench, AdminOpcode::DestroySrq, srqn);
            }
            driver.destroy(bench, AdminOpcode::DestroyQp, target);
            driver.destroy(bench, AdminOpcode::FreeXrcd, xrcd);
        }
    }
}
