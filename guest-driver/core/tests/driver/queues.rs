//! Posting, polling, arming.

use vrnic_driver::abi::cqe::{CompletionEntry, CompletionFlags, CompletionStatus};
use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::object::QpState;
use vrnic_driver::abi::wqe::{WqeFlags, WqeOpcode};
use vrnic_driver::{
    Completion, Data, Operation, PostError, QpConfig, ReceiveRequest, Remote, SendRequest, Sge,
    Work,
};

use crate::Bench;
use crate::fake::FakePlatform;

const SUCCESS: CompletionStatus = CompletionStatus::Success;

fn send(wr_id: u64, sges: &[Sge]) -> SendRequest<'_> {
    SendRequest {
        wr_id,
        operation: Operation::Write(Remote::default()),
        data: Data::Sges(sges),
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    }
}

#[track_caller]
fn polled(bench: &mut Bench) -> Vec<(u64, CompletionStatus)> {
    let mut completions = [Completion::default(); 4];
    let mut all = Vec::new();
    loop {
        let count = bench.cq.poll(&mut completions).expect("poll");
        all.extend(completions[..count].iter().map(|c| (c.wr_id, c.status)));
        if count == 0 {
            return all;
        }
    }
}

#[test]
fn requests_of_all_sizes_wrap_around_the_ring() {
    let mut bench = Bench::new(QpConfig {
        send_requests: 5,
        send_segments: 12,
        ..QpConfig::default()
    });
    let qpn = bench.qp.number();
    let sges = [Sge::default(); 12];
    for round in 0..1000u64 {
        let count = (round * 7 % 13) as usize;
        bench
            .qp
            .post_send(&send(round, &sges[..count]))
            .expect("room");
        bench.world.complete(qpn, SUCCESS);
        assert_eq!(polled(&mut bench), [(round, SUCCESS)]);
    }
}

#[test]
fn a_full_send_queue_refuses_until_completions_are_polled() {
    let mut bench = Bench::new(QpConfig {
        send_requests: 4,
        ..QpConfig::default()
    });
    let qpn = bench.qp.number();
    for wr_id in 0..4 {
        bench.qp.post_send(&send(wr_id, &[])).expect("room");
    }
    assert_eq!(bench.qp.post_send(&send(4, &[])), Err(PostError::QueueFull));
    bench.world.complete(qpn, SUCCESS);
    assert_eq!(bench.qp.post_send(&send(4, &[])), Err(PostError::QueueFull));
    assert_eq!(polled(&mut bench), [(0, SUCCESS)]);
    bench.qp.post_send(&send(4, &[])).expect("room");
    let big = [Sge::default(); 3];
    assert_eq!(bench.qp.post_send(&send(5, &big)), Err(PostError::TooLarge));
}

#[test]
fn a_list_is_announced_once_as_far_as_it_fits() {
    let mut bench = Bench::new(QpConfig {
        send_requests: 2,
        ..QpConfig::default()
    });
    let requests = [send(1, &[]), send(2, &[]), send(3, &[])];
    let marks = bench.world.with(|device| device.marks);
    let (queue, _) = bench.qp.queues();
    assert_eq!(queue.post_list(&requests), (2, Err(PostError::QueueFull)));
    assert_eq!(queue.free_blocks(), 0);
    assert_eq!(bench.world.with(|device| device.marks), marks + 1);
    assert_eq!(bench.world.with(|device| device.fetched.len()), 2);
}

#[test]
fn only_a_sleeping_engine_is_kicked() {
    let mut bench = Bench::new(QpConfig::default());
    bench.qp.post_send(&send(1, &[])).expect("room");
    assert_eq!(bench.world.with(|device| device.kicks), 0);
    bench.world.with(|device| device.asleep = true);
    bench.qp.post_send(&send(2, &[])).expect("room");
    assert_eq!(bench.world.with(|device| device.kicks), 1);
    assert_eq!(bench.world.with(|device| device.fetched.len()), 2);
}

#[test]
fn receives_need_no_kick_unless_the_queue_pair_has_failed() {
    let mut bench = Bench::new(QpConfig {
        receive_requests: 4,
        ..QpConfig::default()
    });
    let qpn = bench.qp.number();
    let sges = [Sge::default(); 2];
    let marks = bench.world.with(|device| device.marks);
    for wr_id in 0..4 {
        let request = ReceiveRequest { wr_id, sges: &sges };
        bench.qp.post_receive(&request).expect("room");
    }
    let request = ReceiveRequest {
        wr_id: 9,
        sges: &sges,
    };
    assert_eq!(bench.qp.post_receive(&request), Err(PostError::QueueFull));
    assert_eq!(bench.world.with(|device| device.marks), marks);
    assert!(bench.world.receive(qpn, 100));
    assert_eq!(polled(&mut bench), [(0, SUCCESS)]);
    let eq = bench.world.with(|device| device.async_eq);
    bench
        .world
        .with(|device| device.write_event(eq, EventType::QpFatal, qpn));
    assert!(FakePlatform::deliver(&bench.driver));
    let marks = bench.world.with(|device| device.marks);
    bench.qp.post_receive(&request).expect("room");
    assert_eq!(bench.world.with(|device| device.marks), marks + 1);
    let event = bench.driver.poll_event().expect("event");
    assert_eq!((event.event, event.object), (EventType::QpFatal, qpn));
    assert_eq!(bench.driver.poll_event(), None);
}

#[test]
fn late_receives_of_a_failed_queue_pair_are_announced() {
    let mut bench = Bench::new(QpConfig::default());
    let qpn = bench.qp.number();
    bench.qp.post_send(&send(1, &[])).expect("room");
    bench.world.complete(qpn, CompletionStatus::RetryExceeded);
    let marks = bench.world.with(|device| device.marks);
    assert_eq!(polled(&mut bench), [(1, CompletionStatus::RetryExceeded)]);
    assert_eq!(bench.world.with(|device| device.marks), marks + 1);
}

#[test]
fn an_armed_queue_notifies_once_for_what_arrives_before_or_after() {
    let mut bench = Bench::new(QpConfig::default());
    let qpn = bench.qp.number();
    for wr_id in 0..20 {
        bench.qp.post_send(&send(wr_id, &[])).expect("room");
        let before = bench.cq.notifications();
        if wr_id % 2 == 0 {
            assert_eq!(bench.cq.arm(false), Ok(false));
            bench.world.complete(qpn, SUCCESS);
        } else {
            bench.world.complete(qpn, SUCCESS);
            assert_eq!(bench.cq.arm(false), Ok(true));
        }
        assert!(FakePlatform::deliver(&bench.driver));
        assert_eq!(bench.cq.notifications(), before + 1);
        assert_eq!(polled(&mut bench), [(wr_id, SUCCESS)]);
        assert!(!FakePlatform::deliver(&bench.driver));
    }
}

#[test]
fn event_queues_wrap() {
    let mut bench = Bench::new(QpConfig::default());
    let qpn = bench.qp.number();
    for round in 0..1000 {
        bench.qp.post_send(&send(round, &[])).expect("room");
        bench.world.complete(qpn, SUCCESS);
        bench.cq.arm(true).expect("arm");
        assert!(FakePlatform::deliver(&bench.driver), "round {round}");
        assert_eq!(polled(&mut bench).len(), 1);
    }
    assert_eq!(bench.cq.notifications(), 1000);
}

#[test]
fn completions_carry_what_completed() {
    let context = 0xffff_8880_1234_5000;
    let mut bench = Bench::new(QpConfig {
        context,
        ..QpConfig::default()
    });
    let qpn = bench.qp.number();
    bench.qp.post_send(&send(7, &[])).expect("room");
    bench.world.complete(qpn, SUCCESS);
    let mut completions = [Completion::default()];
    assert_eq!(bench.cq.poll(&mut completions), Ok(1));
    assert_eq!(completions[0].work, Work::Request(WqeOpcode::Write));
    assert_eq!((completions[0].qpn, completions[0].context), (qpn, context));
    completions[0].context = 0;
    bench
        .qp
        .post_receive(&ReceiveRequest {
            wr_id: 8,
            sges: &[],
        })
        .expect("room");
    bench.world.with(|device| {
        device.write_completion(CompletionEntry {
            qpn,
            byte_length: 5,
            immediate: 0x0102_0304u32.to_be(),
            opcode: 2,
            flags: CompletionFlags::SOLICITED.bits(),
            ..CompletionEntry::default()
        });
    });
    assert_eq!(bench.cq.poll(&mut completions), Ok(1));
    assert_eq!((completions[0].wr_id, completions[0].byte_length), (8, 5));
    assert_eq!(completions[0].context, context);
    assert_eq!(completions[0].immediate, 0x0102_0304);
    assert_eq!(completions[0].flags, CompletionFlags::SOLICITED);
}

#[test]
fn completions_that_make_no_sense_are_dropped() {
    let mut bench = Bench::new(QpConfig::default());
    let qpn = bench.qp.number();
    bench.qp.post_send(&send(1, &[])).expect("room");
    let send_queue = CompletionFlags::SEND_QUEUE.bits();
    for (wqe_index, flags) in [(1, send_queue), (u32::MAX, send_queue), (0, 0)] {
        bench.world.with(|device| {
            device.write_completion(CompletionEntry {
                qpn,
                wqe_index,
                flags,
                ..CompletionEntry::default()
            });
        });
    }
    bench.world.complete(qpn, SUCCESS);
    assert_eq!(polled(&mut bench), [(1, SUCCESS)]);
}

#[test]
fn completions_of_a_destroyed_queue_pair_do_not_reach_its_successor() {
    let mut bench = Bench::new(QpConfig::default());
    let qpn = bench.qp.number();
    for wr_id in 0..2 {
        bench.qp.post_send(&send(wr_id, &[])).expect("room");
        bench.world.complete(qpn, SUCCESS);
    }
    // One polled, so that the poller remembers the queue pair; one left in the ring.
    let mut one = [Completion::default()];
    assert_eq!(bench.cq.poll(&mut one), Ok(1));
    bench.qp.destroy().expect("destroy");
    assert_eq!(bench.qp.post_send(&send(9, &[])), Err(PostError::Stale));
    // The fake device hands the same number out again.
    let config = QpConfig::default();
    let successor = bench
        .driver
        .create_qp(&bench.pd, &bench.cq, &bench.cq, config);
    bench.qp = successor.expect("QP");
    assert_eq!(bench.qp.number(), qpn);
    bench.qp.post_send(&send(100, &[])).expect("room");
    bench.qp.post_send(&send(101, &[])).expect("room");
    bench.world.complete(qpn, SUCCESS);
    bench.world.complete(qpn, SUCCESS);
    assert_eq!(polled(&mut bench), [(100, SUCCESS), (101, SUCCESS)]);
}

#[test]
fn a_reset_queue_pair_starts_anew() {
    let mut bench = Bench::new(QpConfig {
        send_requests: 2,
        ..QpConfig::default()
    });
    let qpn = bench.qp.number();
    bench.qp.post_send(&send(1, &[])).expect("room");
    bench.qp.post_send(&send(2, &[])).expect("room");
    bench.world.complete(qpn, SUCCESS);
    bench.qp.modify_state(QpState::Reset).expect("RESET");
    assert_eq!(polled(&mut bench), []);
    for wr_id in 3..5 {
        bench.qp.post_send(&send(wr_id, &[])).expect("room");
        bench.world.complete(qpn, SUCCESS);
    }
    assert_eq!(polled(&mut bench), [(3, SUCCESS), (4, SUCCESS)]);
}
