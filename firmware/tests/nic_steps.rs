//! What one step may cost, whatever a driver asks for: other functions wait for its end.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::admin::{AdminOpcode, CreateQp, ModifyQp, QpType};
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::doorbell;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::{ControlSegment, WqeOpcode};
use vrnic_firmware::nic::Progress;

const BLOCKS: u32 = 1 << 15;
/// Completions that one step may write.
const MOST: u32 = 2048;

fn state(node: &mut Node, bench: &mut Bench, qpn: u32) -> u8 {
    let attributes: QpAttributes = node.driver.query(bench, AdminOpcode::QueryQp, qpn);
    attributes.state
}

/// A raw packet queue pair in state SQE, with as many requests posted as its queue holds.
fn stuck(node: &mut Node, bench: &mut Bench, cq: &Cq) -> Qp {
    let buffer = node.driver.buffer(u64::from(BLOCKS) * 64 + 64);
    let body = CreateQp {
        pd: node.pd,
        send_cq: cq.number,
        receive_cq: cq.number,
        buffer,
        qp_type: QpType::RawPacket.raw(),
        log_send_blocks: 15,
        ..CreateQp::default()
    };
    let completion = node.driver.command(bench, AdminOpcode::CreateQp, &body);
    assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
    let mut qp = Qp {
        number: completion.result0 as u32,
        send_slot: completion.result1 as u32 & 0xffff,
        receive_slot: (completion.result1 >> 16) as u32,
        receive_page: buffer.address,
        send_page: buffer.address + 64,
        posted: 0,
        received: 0,
    };
    to_rts(node, bench, &qp);
    // A request of zeros is malformed.
    ring(node, &mut qp, 1);
    bench.run();
    assert_eq!(state(node, bench, qp.number), QpState::Sqe.raw());
    qp
}

fn to_rts(node: &mut Node, bench: &mut Bench, qp: &Qp) {
    let given = QpAttributes {
        state: QpState::Init.raw(),
        port: 1,
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE | QpMask::PORT;
    node.driver.modify_ok(bench, qp.number, mask, &given);
    node.driver.set_state(bench, qp.number, QpState::Rtr);
    node.driver.set_state(bench, qp.number, QpState::Rts);
}

fn ring(node: &Node, qp: &mut Qp, more: u32) {
    qp.posted += more;
    let value = doorbell::send_queue(qp.posted, qp.number);
    node.hw().store_slot(0, qp.send_slot, value);
    node.hw().mark(0, qp.send_slot);
}

/// Posts a request that is good.
fn nop(node: &Node, qp: &mut Qp) {
    let control = ControlSegment {
        segments: 1,
        index: qp.posted,
        ..control(WqeOpcode::Nop, 0, 0)
    };
    let block = qp.send_page + u64::from(qp.posted % BLOCKS) * 64;
    node.hw().write(block, &control);
    ring(node, qp, 1);
}

fn written(node: &Node, bench: &Bench, cq: &Cq) -> u32 {
    let function = bench.nic.function(node.driver.id).unwrap();
    function.objects.cqs.get(cq.number).unwrap().ring.producer()
}

/// However many requests are flushed, other functions get their turns in between, and what is posted
/// behind them is sent.
#[test]
fn leaving_sqe_flushes_in_turns() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let mut cq = node.driver.cq(&mut bench, &node.eq, 16);
    let mut qp = stuck(&mut node, &mut bench, &cq);
    assert_eq!(cq.poll(node.hw()).unwrap().wqe_index, 0);
    ring(&node, &mut qp, BLOCKS);
    let mut before = written(&node, &bench, &cq);
    let given = node.driver.memory(256, true);
    let attributes = QpAttributes {
        state: QpState::Rts.raw(),
        ..QpAttributes::default()
    };
    node.hw().write(given, &attributes);
    let body = ModifyQp {
        qp: qp.number,
        mask: QpMask::STATE.bits(),
        attributes: given,
        reserved: 0,
    };
    let opcode = AdminOpcode::ModifyQp.raw();
    node.driver.put(opcode, bytemuck::bytes_of(&body));
    node.driver.announce(&mut bench);
    let mut flushed = 0;
    while flushed < BLOCKS {
        assert_eq!(bench.step(), Progress::Busy);
        let after = written(&node, &bench, &cq);
        assert!(after - before <= MOST, "{} in one step", after - before);
        before = after;
        // The request behind them may complete in the same step.
        while flushed < BLOCKS {
            let Some(entry) = cq.poll(node.hw()) else {
                break;
            };
            assert_eq!(entry.status, CompletionStatus::Flushed.raw());
            flushed += 1;
            assert_eq!(entry.wqe_index, flushed);
        }
        // As soon as there is room, while others are still being flushed.
        if flushed > 0 && qp.posted == BLOCKS + 1 {
            nop(&node, &mut qp);
        }
    }
    bench.run();
    assert_eq!(node.driver.take(&mut bench).unwrap().status, 0);
    let entry = cq.poll(node.hw()).unwrap();
    assert_eq!((entry.status, entry.wqe_index), (0, BLOCKS + 1));
    assert!(cq.poll(node.hw()).is_none());
    assert_eq!(state(&mut node, &mut bench, qp.number), QpState::Rts.raw());
}

#[test]
fn the_state_changes_while_requests_are_flushed() {
    for state in [QpState::Sqd, QpState::Error, QpState::Reset] {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let mut cq = node.driver.cq(&mut bench, &node.eq, 16);
        let mut qp = stuck(&mut node, &mut bench, &cq);
        ring(&node, &mut qp, BLOCKS - 1);
        node.driver.set_state(&mut bench, qp.number, QpState::Rts);
        nop(&node, &mut qp);
        let given = QpAttributes {
            state: state.raw(),
            sqd_notify: 1,
            ..QpAttributes::default()
        };
        let mut mask = QpMask::STATE;
        mask.set(QpMask::EN_SQD_ASYNC_NOTIFY, state == QpState::Sqd);
        assert!(written(&node, &bench, &cq) < BLOCKS / 2);
        node.driver.modify_ok(&mut bench, qp.number, mask, &given);
        if state == QpState::Reset {
            qp.posted = 0;
            to_rts(&mut node, &mut bench, &qp);
            nop(&node, &mut qp);
        }
        bench.run();
        let mut entries = Vec::new();
        while let Some(entry) = cq.poll(node.hw()) {
            entries.push((entry.status, entry.wqe_index));
        }
        let flushed = CompletionStatus::Flushed.raw();
        match state {
            QpState::Reset => assert_eq!(entries.pop(), Some((0, 0))),
            QpState::Error => assert_eq!(entries.pop(), Some((flushed, BLOCKS))),
            _ => {
                let event = node.eq.poll(&node.driver.hw).unwrap().event;
                assert_eq!(event, EventType::SendQueueDrained.raw());
                assert_eq!(entries.last(), Some(&(flushed, BLOCKS - 1)));
                node.driver.set_state(&mut bench, qp.number, QpState::Rts);
                bench.run();
                assert_eq!(cq.poll(node.hw()).unwrap().wqe_index, BLOCKS);
            }
        }
        let in_order = (1..).zip(entries.iter().skip(1));
        for (index, entry) in in_order {
            assert_eq!(*entry, (flushed, index));
        }
    }
}
