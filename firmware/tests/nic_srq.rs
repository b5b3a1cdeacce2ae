//! Shared receive queues: commands, taking entries, the limit, errors, and a model.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;
mod srq_bench;

use core::mem::offset_of;

use nic_bench::*;
use srq_bench::*;
use vrnic_abi::admin::{
    AdminOpcode, CreateQp, CreateSrq, ModifySrq, ObjectReference, QpFlags, QpType, SrqType, Status,
};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionOpcode, CompletionStatus};
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{AddressVector, DeviceAttributes, QpAttributes, QpState};
use vrnic_abi::registers::Capabilities;
use vrnic_abi::wqe::{DatagramSegment, RESERVED_LKEY, WqeOpcode};
use vrnic_firmware::host::Memory;

/// Byte offset in the command of what stands at `offset` in its body.
const fn at(offset: usize) -> u32 {
    8 + offset as u32
}

#[track_caller]
fn refused<T: bytemuck::Pod>(
    node: &mut Node,
    bench: &mut Bench,
    opcode: AdminOpcode,
    body: &T,
    (status, syndrome): (Status, u32),
) {
    let completion = node.driver.command(bench, opcode, body);
    assert_eq!(
        (Status::from_raw(completion.status), completion.syndrome),
        (Some(status), syndrome)
    );
}

/// A sender and, on the second node, a shared receive queue and a queue pair of `qp_type` that uses
/// it, connected; the sender's queue pair is the node's.
fn shared_pair(net: &mut Net, qp_type: QpType) -> (Node, Node, Srq, Qp) {
    let (mut a, mut b) = net.nodes();
    let srq = Srq::basic(&mut b, net.at(1), 4);
    let qp = attach(net, (&mut a, &mut b), &srq, qp_type);
    (a, b, srq, qp)
}

/// Connects a new sending queue pair of `a` to a new one of `b` that uses the queue. The sending
/// one becomes the node's.
fn attach(net: &mut Net, (a, b): (&mut Node, &mut Node), srq: &Srq, qp_type: QpType) -> Qp {
    let body = qp_body(b, qp_type, srq.number);
    let qp = create_qp(b, net.at(1), &body);
    assert_eq!(qp.receive_slot, 0, "no receive queue, no slot");
    let own = Srq::basic(a, net.at(0), 0);
    let body = qp_body(a, qp_type, own.number);
    a.qp = create_qp(a, net.at(0), &body);
    ready(a, net.at(0), (qp_type, a.qp.number), 2, qp.number);
    ready(b, net.at(1), (qp_type, qp.number), 1, a.qp.number);
    qp
}

/// Stands where a queue pair was taken from.
const fn no_qp() -> Qp {
    Qp {
        number: 0,
        send_slot: 0,
        receive_slot: 0,
        receive_page: 0,
        send_page: 0,
        posted: 0,
        received: 0,
    }
}

fn fill(node: &Node, offset: u64, length: u32, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    Random(seed).fill(&mut bytes);
    node.hw().ram.write(node.memory + offset, &bytes).unwrap();
    bytes
}

/// Sends `length` bytes from `offset` of the node's memory, as its queue pair's service wants it.
fn send(node: &mut Node, qp_type: QpType, remote: u32, offset: u64, length: u32) {
    let list = [node.segment(offset, length)];
    if qp_type != QpType::Ud {
        node.qp.send(&node.driver.hw, WqeOpcode::Send, 0, &list);
        return;
    }
    let to = DatagramSegment {
        remote_qpn: remote,
        qkey: QKEY,
        vector: AddressVector {
            gid: gid(2).0,
            mac: mac(2).0,
            ..AddressVector::default()
        },
        ..DatagramSegment::default()
    };
    let head = control(WqeOpcode::Send, 0, 1);
    let segments = [bytemuck::bytes_of(&to), bytemuck::cast_slice(&list)];
    node.qp.post(&node.driver.hw, head, &segments);
}

mod commands {
    use super::*;
    use Status::{BadArgument, Busy, NoSuchObject};

    #[test]
    fn the_device_tells_what_it_has() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let output = node.driver.memory(256, false);
        let body = vrnic_abi::admin::OutputBuffer {
            address: output,
            length: 256,
            reserved: 0,
        };
        node.driver.ok(&mut bench, AdminOpcode::QueryDevice, &body);
        let device: DeviceAttributes = node.hw().read(output);
        let capabilities = Capabilities::from_bits_truncate(device.capabilities);
        assert!(capabilities.contains(Capabilities::SRQ | Capabilities::XRC));
        assert_eq!(device.max_srq, 16384);
        assert_eq!(device.log_max_srq_entries, 16);
        assert_eq!(device.max_xrcd, 4096);
        let body = CreateSrq {
            pd: node.pd,
            log_entries: 16,
            ..CreateSrq::default()
        };
        let srq = Srq::create(&mut node.driver, &mut bench, body);
        assert_eq!(srq.query(&mut node.driver, &mut bench).entries, 65_536);
    }

    #[test]
    fn queries_tell_what_was_set() {
        let mut net = Net::direct();
        let (_a, mut b, mut srq, qp) = shared_pair(&mut net, QpType::Rc);
        let bench = net.at(1);
        srq.arm(&mut b.driver, bench, 0);
        let list = [b.segment(0, 64)];
        srq.post(&b.driver.hw, &list);
        srq.arm(&mut b.driver, bench, 1);
        let got = srq.query(&mut b.driver, bench);
        assert_eq!((got.pd, got.entries, got.segments), (b.pd, 16, 2));
        assert_eq!((got.limit, got.users, got.failed), (1, 1, 0));
        assert_eq!((got.srq_type, got.xrcd, got.cq), (0, 0, 0));
        assert_eq!(got.consumer, 0);
        let got: QpAttributes = b.driver.query(bench, AdminOpcode::QueryQp, qp.number);
        assert_eq!((got.srq, got.xrcd), (srq.number, 0));
        assert_eq!(got.receive_cq, b.cq.number);
    }

    #[test]
    fn create_srq_is_checked() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let xrcd = node.driver.ok(&mut bench, AdminOpcode::AllocXrcd, &0u64) as u32;
        let basic = CreateSrq {
            pd: node.pd,
            buffer: node.driver.buffer(4096),
            log_entries: 4,
            log_segments: 2,
            ..CreateSrq::default()
        };
        let extended = CreateSrq {
            srq_type: SrqType::Xrc.raw(),
            xrcd,
            cq: node.cq.number,
            ..basic
        };
        type Change = fn(&mut CreateSrq);
        let cases: [(CreateSrq, Change, Status, usize); 12] = [
            (basic, |b| b.pd = 0, NoSuchObject, offset_of!(CreateSrq, pd)),
            (
                basic,
                |b| b.doorbell_page = 9,
                NoSuchObject,
                offset_of!(CreateSrq, doorbell_page),
            ),
            (
                basic,
                |b| b.srq_type = 2,
                BadArgument,
                offset_of!(CreateSrq, srq_type),
            ),
            (
                basic,
                |b| b.log_entries = 17,
                BadArgument,
                offset_of!(CreateSrq, log_entries),
            ),
            (
                basic,
                |b| b.log_segments = 5,
                BadArgument,
                offset_of!(CreateSrq, log_segments),
            ),
            (
                basic,
                |b| b.flags = QpFlags::SIGNAL_ALL.bits(),
                BadArgument,
                offset_of!(CreateSrq, flags),
            ),
            (
                basic,
                |b| b.flags = 1 << 31,
                BadArgument,
                offset_of!(CreateSrq, flags),
            ),
            (
                basic,
                |b| b.xrcd = 1,
                BadArgument,
                offset_of!(CreateSrq, xrcd),
            ),
            (basic, |b| b.cq = 1, BadArgument, offset_of!(CreateSrq, cq)),
            (
                extended,
                |b| b.xrcd = 99,
                NoSuchObject,
                offset_of!(CreateSrq, xrcd),
            ),
            (
                extended,
                |b| b.cq = 0,
                NoSuchObject,
                offset_of!(CreateSrq, cq),
            ),
            (
                basic,
                |b| b.log_entries = 10,
                BadArgument,
                offset_of!(CreateSrq, buffer) + 8,
            ),
        ];
        for (good, change, status, offset) in cases {
            let mut body = good;
            change(&mut body);
            let wanted = (status, at(offset));
            refused(&mut node, &mut bench, AdminOpcode::CreateSrq, &body, wanted);
        }
        let function = bench.nic.function(node.driver.id).unwrap();
        assert!(function.objects.srqs.is_empty());
        let srq = Srq::create(&mut node.driver, &mut bench, extended);
        let too_much = ModifySrq {
            srq: srq.number,
            limit: 17,
            reserved: 0,
        };
        let wanted = (BadArgument, at(offset_of!(ModifySrq, limit)));
        refused(
            &mut node,
            &mut bench,
            AdminOpcode::ModifySrq,
            &too_much,
            wanted,
        );
        let missing = ModifySrq {
            srq: srq.number ^ 1,
            ..too_much
        };
        let wanted = (NoSuchObject, at(offset_of!(ModifySrq, srq)));
        refused(
            &mut node,
            &mut bench,
            AdminOpcode::ModifySrq,
            &missing,
            wanted,
        );
    }

    #[test]
    fn queue_pairs_name_only_queues_that_serve_them() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let xrcd = node.driver.ok(&mut bench, AdminOpcode::AllocXrcd, &0u64) as u32;
        let srq = Srq::basic(&mut node, &mut bench, 4);
        let extended = Srq::extended(&mut node, &mut bench, xrcd);
        let good = qp_body(&mut node, QpType::Rc, srq.number);
        let srq_at = at(offset_of!(CreateQp, srq));
        for (body, wanted) in [
            (
                CreateQp {
                    srq: extended.number,
                    ..good
                },
                (BadArgument, srq_at),
            ),
            (
                CreateQp {
                    srq: srq.number ^ 1 << 20,
                    ..good
                },
                (NoSuchObject, srq_at),
            ),
            (
                CreateQp {
                    qp_type: QpType::Gsi.raw(),
                    ..good
                },
                (BadArgument, srq_at),
            ),
            (
                CreateQp {
                    log_receive_entries: 1,
                    ..good
                },
                (BadArgument, at(offset_of!(CreateQp, log_receive_entries))),
            ),
            (
                CreateQp {
                    log_receive_segments: 1,
                    ..good
                },
                (BadArgument, at(offset_of!(CreateQp, log_receive_segments))),
            ),
        ] {
            refused(&mut node, &mut bench, AdminOpcode::CreateQp, &body, wanted);
        }
    }

    #[test]
    fn what_is_in_use_stays_and_all_can_go() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let slots = |bench: &Bench, node: &Node| {
            let objects = &bench.nic.function(node.driver.id).unwrap().objects;
            let slots = 0..vrnic_abi::doorbell::END_SLOT;
            slots
                .filter(|slot| objects.doorbells.owner(0, *slot).is_some())
                .count()
        };
        let before = slots(&bench, &node);
        let pd = node.driver.ok(&mut bench, AdminOpcode::AllocPd, &0u64) as u32;
        let cq = node.driver.cq(&mut bench, &node.eq, 4);
        let xrcd = node.driver.ok(&mut bench, AdminOpcode::AllocXrcd, &0u64) as u32;
        let body = CreateSrq {
            pd,
            log_entries: 4,
            ..CreateSrq::default()
        };
        let basic = Srq::create(&mut node.driver, &mut bench, body);
        let body = CreateSrq {
            srq_type: SrqType::Xrc.raw(),
            xrcd,
            cq: cq.number,
            ..body
        };
        let extended = Srq::create(&mut node.driver, &mut bench, body);
        let body = qp_body(&mut node, QpType::Rc, basic.number);
        let qp = create_qp(&mut node, &mut bench, &body);
        let object = at(offset_of!(ObjectReference, object));
        for (opcode, object_number) in [
            (AdminOpcode::FreePd, pd),
            (AdminOpcode::DestroyCq, cq.number),
            (AdminOpcode::FreeXrcd, xrcd),
            (AdminOpcode::DestroySrq, basic.number),
        ] {
            let body = ObjectReference {
                object: object_number,
                reserved: 0,
            };
            refused(&mut node, &mut bench, opcode, &body, (Busy, object));
        }
        for (opcode, number) in [
            (AdminOpcode::DestroyQp, qp.number),
            (AdminOpcode::DestroySrq, basic.number),
            (AdminOpcode::DestroySrq, extended.number),
            (AdminOpcode::FreeXrcd, xrcd),
            (AdminOpcode::DestroyCq, cq.number),
            (AdminOpcode::FreePd, pd),
        ] {
            node.driver.destroy(&mut bench, opcode, number);
        }
        assert_eq!(slots(&bench, &node), before);
    }
}

mod receiving {
    use super::*;

    #[test]
    fn every_service_takes_entries_and_completions_name_them() {
        for qp_type in [QpType::Rc, QpType::Uc, QpType::Ud] {
            for mut net in [Net::direct(), Net::wire(1, 0)] {
                let (mut a, mut b, mut srq, qp) = shared_pair(&mut net, qp_type);
                let header = if qp_type == QpType::Ud { 40 } else { 0 };
                for n in 0..40u32 {
                    let bytes = fill(&a, 0, 100 + n, n.into());
                    let place = 4096 + u64::from(n) * 256;
                    let list = [b.segment(place, 50), b.segment(place + 50, 206)];
                    srq.post(&b.driver.hw, &list);
                    send(&mut a, qp_type, qp.number, 0, 100 + n);
                    net.run();
                    let sent = a.poll().expect("the request completes");
                    assert_eq!(sent.status, 0, "{qp_type:?}");
                    let got = b.poll().expect("a completion");
                    assert_eq!((got.status, got.qpn), (0, qp.number));
                    assert_eq!((got.srqn, got.wqe_index), (srq.number, n));
                    assert_eq!(got.opcode, CompletionOpcode::Receive.raw());
                    assert_eq!(got.byte_length, 100 + n + header);
                    let at = b.memory + place + u64::from(header);
                    assert_eq!(b.hw().bytes(at, bytes.len()), bytes);
                    assert_eq!(b.hw().bytes(at + bytes.len() as u64, 1), [PATTERN]);
                }
                assert!(b.poll().is_none());
                assert_eq!(srq.query(&mut b.driver, net.at(1)).consumer, 40);
            }
        }
    }

    #[test]
    fn a_sender_waits_for_an_entry() {
        for mut net in [Net::direct(), Net::wire(1, 0)] {
            let (mut a, mut b, mut srq, qp) = shared_pair(&mut net, QpType::Rc);
            let bytes = fill(&a, 0, 3000, 9);
            send(&mut a, QpType::Rc, 0, 0, 3000);
            net.run();
            assert!(a.poll().is_none(), "there is no entry");
            assert!(b.counter(net.at(1), Counter::TxRnrNak) > 0);
            let list = [b.segment(4096, 3000)];
            srq.post(&b.driver.hw, &list);
            let qpn = a.qp.number;
            net.until(|net| net.drained(0, &a, qpn));
            assert_eq!(a.poll().unwrap().status, 0);
            let got = b.poll().unwrap();
            assert_eq!((got.qpn, got.srqn), (qp.number, srq.number));
            assert_eq!(b.hw().bytes(b.memory + 4096, 3000), bytes);
        }
    }

    #[test]
    fn unreliable_messages_that_do_not_fit_end_their_entry() {
        for qp_type in [QpType::Uc, QpType::Ud] {
            let mut net = Net::wire(1, 0);
            let (mut a, mut b, mut srq, qp) = shared_pair(&mut net, qp_type);
            let list = [b.segment(4096, 64)];
            srq.post(&b.driver.hw, &list);
            send(&mut a, qp_type, qp.number, 0, 65);
            net.run();
            let got = b.poll().expect("the entry ends");
            assert_eq!(got.status, CompletionStatus::LocalLength.raw());
            assert_eq!((got.srqn, got.wqe_index), (srq.number, 0));
            assert_eq!(b.hw().bytes(b.memory + 4096, 64), vec![PATTERN; 64]);
            assert_eq!(state(&mut b, net.at(1), qp.number), QpState::Rts.raw());
        }
    }

    #[test]
    fn keys_are_those_of_the_queues_domain() {
        let mut net = Net::direct();
        let (mut a, mut b) = net.nodes();
        let other = b.driver.ok(net.at(1), AdminOpcode::AllocPd, &0u64) as u32;
        let (memory, key) = (b.memory, b.key);
        let foreign = b.driver.mr(net.at(1), other, memory, BUFFER);
        let body = CreateSrq {
            pd: other,
            log_entries: 2,
            ..CreateSrq::default()
        };
        let mut srq = Srq::create(&mut b.driver, net.at(1), body);
        attach(&mut net, (&mut a, &mut b), &srq, QpType::Rc);
        let bytes = fill(&a, 0, 64, 3);
        srq.post(&b.driver.hw, &[data(memory, 64, foreign)]);
        send(&mut a, QpType::Rc, 0, 0, 64);
        net.run();
        assert_eq!(b.poll().unwrap().status, 0);
        assert_eq!(b.hw().bytes(memory, 64), bytes);
        // The queue pair's own domain does not count, and neither does its privilege.
        for lkey in [key, RESERVED_LKEY] {
            let qp = attach(&mut net, (&mut a, &mut b), &srq, QpType::Rc);
            srq.post(&b.driver.hw, &[data(memory + 4096, 64, lkey)]);
            send(&mut a, QpType::Rc, 0, 0, 64);
            net.run();
            let got = b.poll().unwrap();
            assert_eq!(got.status, CompletionStatus::LocalProtection.raw());
            assert_eq!(b.hw().bytes(memory + 4096, 64), vec![PATTERN; 64]);
            assert_eq!(state(&mut b, net.at(1), qp.number), QpState::Error.raw());
        }
    }

    #[test]
    fn a_privileged_queue_takes_dma_addresses() {
        let mut net = Net::direct();
        let (mut a, mut b) = net.nodes();
        let body = CreateSrq {
            pd: b.pd,
            log_entries: 2,
            flags: QpFlags::PRIVILEGED.bits(),
            ..CreateSrq::default()
        };
        let mut srq = Srq::create(&mut b.driver, net.at(1), body);
        attach(&mut net, (&mut a, &mut b), &srq, QpType::Rc);
        let bytes = fill(&a, 0, 64, 3);
        srq.post(&b.driver.hw, &[data(b.memory, 64, RESERVED_LKEY)]);
        send(&mut a, QpType::Rc, 0, 0, 64);
        net.run();
        assert_eq!(b.poll().unwrap().status, 0);
        assert_eq!(b.hw().bytes(b.memory, 64), bytes);
    }
}

mod limit {
    use super::*;

    fn limits(node: &mut Node) -> usize {
        let events = events(node);
        let limits = events.iter().filter(|(e, _)| *e == EventType::SrqLimit);
        limits.count()
    }

    /// Sends a message that takes an entry.
    fn take(net: &mut Net, a: &mut Node, b: &mut Node) {
        send(a, QpType::Rc, 0, 0, 8);
        net.run();
        assert_eq!(b.poll().expect("a receive").status, 0);
        assert_eq!(a.poll().expect("a send").status, 0);
    }

    #[test]
    fn is_reported_once_when_fewer_are_left() {
        let mut net = Net::direct();
        let (mut a, mut b, mut srq, _) = shared_pair(&mut net, QpType::Rc);
        let list = [b.segment(4096, 64)];
        for _ in 0..10 {
            srq.post(&b.driver.hw, &list);
        }
        srq.arm(&mut b.driver, net.at(1), 7);
        for left in (0..10).rev() {
            take(&mut net, &mut a, &mut b);
            let wanted = if left == 6 { vec![srq.number] } else { vec![] };
            let got: Vec<u32> = events(&mut b)
                .into_iter()
                .filter(|(event, _)| *event == EventType::SrqLimit)
                .map(|(_, object)| object)
                .collect();
            assert_eq!(got, wanted, "{left} left");
            let limit = srq.query(&mut b.driver, net.at(1)).limit;
            assert_eq!(limit, if left > 6 { 7 } else { 0 });
        }
    }

    #[test]
    fn is_reported_at_once_if_fewer_are_left_already() {
        let mut net = Net::direct();
        let (_a, mut b, mut srq, _) = shared_pair(&mut net, QpType::Rc);
        let list = [b.segment(4096, 64)];
        for _ in 0..3 {
            srq.post(&b.driver.hw, &list);
        }
        srq.arm(&mut b.driver, net.at(1), 3);
        assert_eq!(limits(&mut b), 0, "as many as the limit are not fewer");
        srq.arm(&mut b.driver, net.at(1), 4);
        assert_eq!(limits(&mut b), 1);
        assert_eq!(srq.query(&mut b.driver, net.at(1)).limit, 0);
        srq.arm(&mut b.driver, net.at(1), 16);
        srq.arm(&mut b.driver, net.at(1), 0);
        assert_eq!(limits(&mut b), 1);
    }

    /// The device has not looked at the doorbell since entries were posted: it does before it says
    /// that there are few.
    #[test]
    fn counts_entries_that_were_posted_meanwhile() {
        let mut net = Net::direct();
        let (mut a, mut b, mut srq, _) = shared_pair(&mut net, QpType::Rc);
        let list = [b.segment(4096, 64)];
        for _ in 0..4 {
            srq.post(&b.driver.hw, &list);
        }
        srq.arm(&mut b.driver, net.at(1), 4);
        for _ in 0..50 {
            srq.post(&b.driver.hw, &list);
            take(&mut net, &mut a, &mut b);
        }
        assert_eq!(limits(&mut b), 0);
        take(&mut net, &mut a, &mut b);
        assert_eq!(limits(&mut b), 1);
    }

    /// Whatever the order of posting, taking and arming: an event comes for an arming, at most one,
    /// and exactly if fewer entries were left at some point after it.
    #[test]
    fn matches_a_model() {
        for seed in 0..200 {
            println!("seed {seed}");
            let mut random = Random(seed);
            let mut net = Net::direct();
            let (mut a, mut b, mut srq, _) = shared_pair(&mut net, QpType::Rc);
            let list = [b.segment(4096, 64)];
            let (mut left, mut armed) = (0, 0);
            for _ in 0..100 {
                let mut wanted = 0;
                match random.below(5) {
                    0 | 1 if left < 16 => {
                        srq.post(&b.driver.hw, &list);
                        left += 1;
                    }
                    2 | 3 if left > 0 => {
                        take(&mut net, &mut a, &mut b);
                        left -= 1;
                    }
                    4 => {
                        armed = random.below(17) as u32;
                        srq.arm(&mut b.driver, net.at(1), armed);
                    }
                    _ => continue,
                }
                if left < armed {
                    armed = 0;
                    wanted = 1;
                }
                assert_eq!(limits(&mut b), wanted);
            }
        }
    }
}

mod errors {
    use super::*;

    #[test]
    fn a_queue_pair_flushes_only_what_it_holds() {
        let mut net = Net::wire(1, 0);
        let (mut a, mut b, mut srq, first) = shared_pair(&mut net, QpType::Rc);
        let sender = core::mem::replace(&mut a.qp, no_qp());
        let second = attach(&mut net, (&mut a, &mut b), &srq, QpType::Rc);
        let other = core::mem::replace(&mut a.qp, sender);
        for n in 0..4 {
            let list = [b.segment(65_536 * (n + 1), 65_536)];
            srq.post(&b.driver.hw, &list);
        }
        // The first message is under way, with an entry.
        net.at(0).wire.limit = Some(8);
        send(&mut a, QpType::Rc, 0, 0, 65_536);
        while srq.query(&mut b.driver, net.at(1)).consumer == 0 {
            net.step();
        }
        net.at(0).wire.limit = None;
        events(&mut b);
        b.driver.set_state(net.at(1), first.number, QpState::Error);
        let got = b.poll().expect("the entry in use is flushed");
        assert_eq!(got.status, CompletionStatus::Flushed.raw());
        assert_eq!((got.qpn, got.srqn), (first.number, srq.number));
        assert_eq!(got.wqe_index, 0);
        assert!(b.poll().is_none(), "the others are for other queue pairs");
        assert_eq!(events(&mut b), [(EventType::LastWqeReached, first.number)]);
        b.driver.set_state(net.at(1), first.number, QpState::Error);
        assert_eq!(events(&mut b), []);
        a.qp = other;
        let bytes = fill(&a, 0, 5000, 5);
        send(&mut a, QpType::Rc, 0, 0, 5000);
        net.run();
        let got = b.poll().expect("the other queue pair goes on");
        assert_eq!((got.status, got.qpn), (0, second.number));
        assert_eq!(got.wqe_index, 1);
        assert_eq!(b.hw().bytes(b.memory + 2 * 65_536, 5000), bytes);
    }

    #[test]
    fn doorbells_that_make_no_sense_are_counted_and_ignored() {
        let mut net = Net::direct();
        let (mut a, mut b, mut srq, _) = shared_pair(&mut net, QpType::Rc);
        for posted in [17, u32::MAX] {
            srq.posted = posted;
            srq.ring(&b.driver.hw);
            let before = b.counter(net.at(1), Counter::BadDoorbell);
            srq.arm(&mut b.driver, net.at(1), 1);
            assert_eq!(b.counter(net.at(1), Counter::BadDoorbell), before + 1);
            assert_eq!(srq.query(&mut b.driver, net.at(1)).producer, 0);
        }
        srq.posted = 0;
        let list = [b.segment(4096, 64)];
        srq.post(&b.driver.hw, &list);
        send(&mut a, QpType::Rc, 0, 0, 64);
        net.run();
        assert_eq!(b.poll().unwrap().status, 0);
    }

    /// An entry that cannot be read fails the queue, and its queue pairs when they need an entry.
    #[test]
    fn an_unreadable_entry_fails_the_queue() {
        for qp_type in [QpType::Rc, QpType::Uc, QpType::Ud] {
            let mut net = Net::wire(1, 0);
            let (mut a, mut b, mut srq, first) = shared_pair(&mut net, qp_type);
            let sender = core::mem::replace(&mut a.qp, no_qp());
            let second = attach(&mut net, (&mut a, &mut b), &srq, qp_type);
            let list = [b.segment(4096, 64)];
            srq.post(&b.driver.hw, &list);
            srq.post(&b.driver.hw, &list);
            events(&mut b);
            *b.hw().ram.hole.borrow_mut() = Some(srq.place()..srq.place() + 4096);
            let other = core::mem::replace(&mut a.qp, sender);
            send(&mut a, qp_type, first.number, 0, 64);
            net.run();
            *b.hw().ram.hole.borrow_mut() = None;
            let mut wanted = vec![
                (EventType::SrqError, srq.number),
                (EventType::QpFatal, first.number),
                (EventType::LastWqeReached, first.number),
            ];
            assert_eq!(events(&mut b), wanted, "{qp_type:?}");
            assert_eq!(state(&mut b, net.at(1), first.number), QpState::Error.raw());
            assert_eq!(state(&mut b, net.at(1), second.number), QpState::Rts.raw());
            let got = srq.query(&mut b.driver, net.at(1));
            assert_eq!((got.failed, got.consumer), (1, 0));
            let sent = a.poll().unwrap().status;
            let wanted_status = match qp_type {
                QpType::Rc => CompletionStatus::RemoteOperation,
                _ => CompletionStatus::Success,
            };
            assert_eq!(sent, wanted_status.raw());
            a.qp = other;
            send(&mut a, qp_type, second.number, 0, 64);
            net.run();
            wanted.remove(0);
            let wanted: Vec<_> = wanted.iter().map(|w| (w.0, second.number)).collect();
            assert_eq!(events(&mut b), wanted);
            assert!(b.poll().is_none());
        }
    }

    #[test]
    fn a_message_that_does_not_fit_breaks_a_reliable_connection() {
        let mut net = Net::direct();
        let (mut a, mut b, mut srq, qp) = shared_pair(&mut net, QpType::Rc);
        let list = [b.segment(4096, 64)];
        srq.post(&b.driver.hw, &list);
        srq.post(&b.driver.hw, &list);
        events(&mut b);
        send(&mut a, QpType::Rc, 0, 0, 65);
        net.run();
        let got = b.poll().unwrap();
        assert_eq!(got.status, CompletionStatus::LocalLength.raw());
        assert_eq!(got.srqn, srq.number);
        assert!(b.poll().is_none());
        assert_eq!(
            a.poll().unwrap().status,
            CompletionStatus::RemoteInvalidRequest.raw()
        );
        assert_eq!(events(&mut b), [(EventType::LastWqeReached, qp.number)]);
    }
}

mod random {
    use super::*;
    use std::collections::VecDeque;

    const QPS: usize = 4;
    const BUFFERS: u64 = 24;
    const ROOM: u64 = 20_480;
    const ENTRIES: u32 = 16;

    struct Sender {
        qp: Qp,
        remote: u32,
        /// Messages that were posted and have not been received.
        waiting: VecDeque<Vec<u8>>,
        unfinished: u32,
    }

    struct Model {
        net: Net,
        a: Node,
        b: Node,
        srq: Srq,
        senders: Vec<Sender>,
        free: Vec<u64>,
        /// The buffer of each entry that has not completed.
        posted: Vec<Option<u64>>,
        /// One more than the latest index that completed.
        done: u32,
        out_of_order: u32,
    }

    impl Model {
        fn new(mut net: Net) -> Self {
            let (mut a, mut b) = net.nodes();
            let srq = Srq::basic(&mut b, net.at(1), 4);
            let senders = (0..QPS)
                .map(|_| {
                    let qp = attach(&mut net, (&mut a, &mut b), &srq, QpType::Rc);
                    let own = core::mem::replace(&mut a.qp, no_qp());
                    Sender {
                        qp: own,
                        remote: qp.number,
                        waiting: VecDeque::new(),
                        unfinished: 0,
                    }
                })
                .collect();
            Self {
                net,
                a,
                b,
                srq,
                senders,
                free: (0..BUFFERS).collect(),
                posted: Vec::new(),
                done: 0,
                out_of_order: 0,
            }
        }

        fn post(&mut self) {
            if self.srq.posted - self.done >= ENTRIES {
                return;
            }
            let Some(buffer) = self.free.pop() else {
                return;
            };
            let at = buffer * ROOM;
            let pattern = vec![PATTERN; ROOM as usize];
            self.b.hw().ram.write(self.b.memory + at, &pattern).unwrap();
            let list = [
                self.b.segment(at, 1000),
                self.b.segment(at + 1000, ROOM as u32 - 1000),
            ];
            self.srq.post(&self.b.driver.hw, &list);
            self.posted.push(Some(buffer));
        }

        fn send(&mut self, random: &mut Random) {
            let n = random.below(QPS as u64) as usize;
            let sender = &mut self.senders[n];
            // Each message has a place of its own until it is acknowledged.
            if sender.unfinished >= 8 {
                return;
            }
            let place = (n as u64 * 8 + u64::from(sender.qp.posted % 8)) * ROOM;
            let mut bytes = vec![0; random.below(ROOM - 1) as usize];
            random.fill(&mut bytes);
            self.a
                .hw()
                .ram
                .write(self.a.memory + place, &bytes)
                .unwrap();
            let list = [self.a.segment(place, bytes.len() as u32)];
            sender.qp.send(&self.a.driver.hw, WqeOpcode::Send, 0, &list);
            sender.unfinished += 1;
            sender.waiting.push_back(bytes);
        }

        fn collect(&mut self) {
            while let Some(sent) = self.a.poll() {
                assert_eq!(sent.status, 0);
                let sender = self.senders.iter_mut().find(|s| s.qp.number == sent.qpn);
                sender.unwrap().unfinished -= 1;
            }
            while let Some(got) = self.b.poll() {
                assert_eq!((got.status, got.srqn), (0, self.srq.number));
                let sender = self.senders.iter_mut().find(|s| s.remote == got.qpn);
                let message = sender.unwrap().waiting.pop_front().expect("it was sent");
                let entry = &mut self.posted[got.wqe_index as usize];
                let buffer = entry.take().expect("an entry completes once");
                let at = self.b.memory + buffer * ROOM;
                let length = message.len();
                assert_eq!(got.byte_length as usize, length);
                let there = self.b.hw().bytes(at, length + 1);
                assert!(there[..length] == message);
                assert_eq!(there[length], PATTERN);
                self.free.push(buffer);
                if got.wqe_index < self.done {
                    self.out_of_order += 1;
                }
                self.done = self.done.max(got.wqe_index + 1);
            }
        }

        fn idle(&self) -> bool {
            let mut senders = self.senders.iter();
            senders.all(|s| s.unfinished == 0 && s.waiting.is_empty())
        }
    }

    /// Nothing is lost, nothing comes twice, and data is where the entry said.
    fn run(seed: u64, net: Net) -> Model {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut model = Model::new(net);
        for _ in 0..1500 {
            match random.below(4) {
                0 => model.post(),
                1 => model.send(&mut random),
                2 => {
                    model.net.step();
                }
                _ => model.collect(),
            }
        }
        while !model.idle() {
            model.collect();
            for _ in 0..ENTRIES {
                model.post();
            }
            let before = model.srq.posted;
            let (senders, a) = (&model.senders, &model.a);
            let b = &model.b;
            let srqn = model.srq.number;
            model.net.until(|net| {
                let all = senders.iter().all(|s| net.drained(0, a, s.qp.number));
                let function = net.at(1).nic.function(b.driver.id).unwrap();
                let taken = function.objects.srqs.get(srqn).unwrap().ring.consumer();
                all || taken == before
            });
            model.collect();
        }
        let open = model.posted.iter().flatten().count();
        assert_eq!(open + model.free.len(), BUFFERS as usize);
        model
    }

    #[test]
    fn several_queue_pairs_on_the_direct_path() {
        for seed in 0..10 {
            let model = run(seed, Net::direct());
            assert!(model.srq.posted > 5 * ENTRIES, "it wraps around");
        }
    }

    #[test]
    fn several_queue_pairs_over_a_wire_with_faults() {
        let mut out_of_order = 0;
        for seed in 100..110 {
            let model = run(seed, Net::wire(seed, 2));
            assert!(model.srq.posted > 5 * ENTRIES, "it wraps around");
            out_of_order += model.out_of_order;
        }
        assert!(out_of_order > 20, "completions overtake each other");
    }
}
