//! Shared receive queues: requests that complete in any order, on any queue pair.

use vrnic_driver::abi::admin::{AdminOpcode, CreateSrq, ModifySrq, QpType, SrqType, Status};
use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::object::QpState;
use vrnic_driver::{
    Completion, CompletionQueue, CqConfig, Error, PostError, QpConfig, QueuePair, ReceiveRequest,
    Sge, SharedReceiveQueue, SrqConfig, Work,
};

use crate::Bench;
use crate::fake::FakePlatform;

type Srq = SharedReceiveQueue<FakePlatform>;

/// A bench with a queue of `requests` requests.
#[track_caller]
fn bench(requests: u32) -> (Bench, Srq) {
    let bench = Bench::new(QpConfig::default());
    let config = SrqConfig {
        requests,
        ..SrqConfig::default()
    };
    let srq = bench.driver.create_srq(&bench.pd, config).expect("SRQ");
    (bench, srq)
}

/// A queue pair that takes its requests from `srq`. The fake device gives every one the number of
/// the last; this one gets `number`.
#[track_caller]
fn user(
    bench: &Bench,
    srq: &Srq,
    cq: &CompletionQueue<FakePlatform>,
    number: u32,
) -> QueuePair<FakePlatform> {
    bench.world.with(|device| device.next_qpn = number);
    let config = QpConfig {
        context: u64::from(number) << 32,
        ..QpConfig::default()
    };
    let qp = bench
        .driver
        .create_qp_with_srq(&bench.pd, cq, cq, srq, config);
    qp.expect("QP")
}

/// Posts a request whose address is its wr_id.
fn post(srq: &mut Srq, wr_id: u64) -> Result<(), PostError> {
    let sges = [Sge {
        address: wr_id,
        length: 1,
        lkey: 1,
    }];
    srq.post(&ReceiveRequest { wr_id, sges: &sges })
}

#[track_caller]
fn polled(cq: &mut CompletionQueue<FakePlatform>) -> Vec<(u64, u32)> {
    let mut completions = [Completion::default(); 16];
    let count = cq.poll(&mut completions).expect("poll");
    let of = |c: &Completion| {
        assert!(matches!(c.work, Work::Receive(_)));
        // Targets, which the driver does not know, have none.
        assert!(c.context == u64::from(c.qpn) << 32 || c.context == 0 && c.srqn != 0);
        (c.wr_id, c.qpn)
    };
    completions[..count].iter().map(of).collect()
}

#[test]
fn requests_complete_in_any_order_on_two_completion_queues() {
    let (mut bench, mut srq) = bench(8);
    let mut other = bench.driver.create_cq(CqConfig::default()).expect("CQ");
    let number = srq.number();
    let (one, two) = (0x200, 0x201);
    let _first = user(&bench, &srq, &bench.cq, one);
    let _second = user(&bench, &srq, &other, two);
    let (mut wr_id, mut slow) = (0, Vec::new());
    for round in 0..500u32 {
        while post(&mut srq, wr_id).is_ok() {
            wr_id += 1;
        }
        let taken = bench.world.with(|device| {
            let taken: Vec<_> = std::iter::from_fn(|| device.take(number)).collect();
            // The newest first; one of each eight rounds is kept back for long.
            for (index, _) in taken.iter().rev().filter(|(i, _)| i % 16 != 3) {
                let qpn = if index % 2 == 0 { one } else { two };
                device.complete_taken(qpn, number, *index);
            }
            taken
        });
        assert!(!taken.is_empty(), "round {round}");
        let ids = |qpn: u32, parity: u32| -> Vec<_> {
            let own = taken
                .iter()
                .rev()
                .filter(|(i, _)| i % 16 != 3 && i % 2 == parity);
            own.map(|(_, address)| (*address, qpn)).collect()
        };
        assert_eq!(polled(&mut bench.cq), ids(one, 0), "round {round}");
        assert_eq!(polled(&mut other), ids(two, 1), "round {round}");
        slow.extend(taken.into_iter().filter(|(i, _)| i % 16 == 3));
        while slow.len() > 5 {
            let (index, address) = slow.remove(round as usize % 5);
            bench
                .world
                .with(|device| device.complete_taken(two, number, index));
            assert_eq!(polled(&mut other), [(address, two)]);
        }
        assert!(srq.outstanding() >= slow.len() as u32);
    }
    assert!(wr_id > 1000, "{wr_id}");
}

#[test]
fn there_are_never_more_requests_than_entries() {
    let (mut bench, mut srq) = bench(4);
    let qp = user(&bench, &srq, &bench.cq, 0x200);
    let number = srq.number();
    for wr_id in 0..4 {
        post(&mut srq, wr_id).expect("room");
    }
    assert_eq!(post(&mut srq, 9), Err(PostError::QueueFull));
    let take = |device: &mut crate::fake::Device| device.take(number).expect("posted").0;
    let indices: Vec<_> = (0..3).map(|_| bench.world.with(take)).collect();
    let complete = |bench: &mut Bench, index| {
        let qpn = qp.number();
        bench
            .world
            .with(|device| device.complete_taken(qpn, number, index));
        polled(&mut bench.cq)
    };
    // The third is done, so that three places are free, but two requests are not.
    assert_eq!(complete(&mut bench, indices[2]), [(2, qp.number())]);
    post(&mut srq, 4).expect("room");
    assert_eq!(post(&mut srq, 9), Err(PostError::QueueFull));
    assert_eq!(complete(&mut bench, indices[0]), [(0, qp.number())]);
    post(&mut srq, 5).expect("room");
    assert_eq!(complete(&mut bench, indices[0]), [], "completed twice");
    assert_eq!(complete(&mut bench, 1000), [], "never posted");
    assert_eq!(post(&mut srq, 9), Err(PostError::QueueFull));
    assert_eq!(srq.outstanding(), 4);
    let long = [Sge::default(); 3];
    let request = ReceiveRequest {
        wr_id: 1,
        sges: &long,
    };
    assert_eq!(srq.post(&request), Err(PostError::TooLarge));
}

#[test]
fn a_queue_pair_with_a_shared_queue_has_no_own() {
    let (bench, srq) = bench(4);
    let mut qp = user(&bench, &srq, &bench.cq, 0x200);
    let request = ReceiveRequest::default();
    assert_eq!(qp.post_receive(&request), Err(PostError::Unsupported));
    qp.modify_state(QpState::Error).expect("ERROR");
    qp.modify_state(QpState::Reset).expect("RESET");
    assert_eq!(qp.post_receive(&request), Err(PostError::Unsupported));
}

#[test]
fn only_some_types_share_a_receive_queue() {
    let (bench, srq) = bench(4);
    let (driver, pd, cq) = (&bench.driver, &bench.pd, &bench.cq);
    for qp_type in [QpType::Gsi, QpType::RawPacket, QpType::XrcInitiator] {
        let config = QpConfig {
            qp_type,
            ..QpConfig::default()
        };
        let error = driver.create_qp_with_srq(pd, cq, cq, &srq, config).err();
        assert!(matches!(error, Some(Error::BadArgument(_))), "{qp_type:?}");
    }
}

#[test]
fn requests_of_a_destroyed_queue_pair_that_wait_in_the_ring_are_retired() {
    let (mut bench, mut srq) = bench(4);
    let number = srq.number();
    for round in 0..10 {
        let mut qp = user(&bench, &srq, &bench.cq, 0x200);
        for wr_id in 0..4 {
            post(&mut srq, round * 4 + wr_id).expect("room");
        }
        bench.world.with(|device| {
            for _ in 0..4 {
                let (index, _) = device.take(number).expect("posted");
                device.complete_taken(0x200, number, index);
            }
        });
        if round % 2 == 0 {
            bench.cq.resize(16).expect("resize");
        }
        qp.destroy().expect("destroy");
        assert_eq!(polled(&mut bench.cq), []);
        assert_eq!(srq.outstanding(), 0, "round {round}");
    }
}

#[test]
fn a_destroyed_queue_pair_gives_back_what_it_has_taken() {
    let (mut bench, mut srq) = bench(4);
    let number = srq.number();
    for wr_id in 0..20 {
        let mut qp = user(&bench, &srq, &bench.cq, 0x200);
        post(&mut srq, wr_id).expect("room");
        bench.world.with(|device| {
            let (index, _) = device.take(number).expect("posted");
            let queue = device.srqs.get_mut(&number).expect("SRQ");
            queue.in_use = Some((0x200, index));
        });
        qp.destroy().expect("destroy");
        assert_eq!(polled(&mut bench.cq), []);
        assert_eq!(srq.outstanding(), 0, "{wr_id}");
    }
}

#[test]
fn a_queue_in_use_is_not_destroyed() {
    let (bench, mut srq) = bench(4);
    let mut qp = user(&bench, &srq, &bench.cq, 0x200);
    let busy = srq.destroy().expect_err("in use");
    assert!(matches!(
        busy,
        Error::Command {
            status: Status::Busy,
            ..
        }
    ));
    qp.destroy().expect("destroy");
    srq.destroy().expect("destroy");
    assert_eq!(post(&mut srq, 0), Err(PostError::Stale));
    let config = QpConfig::default();
    let (pd, cq) = (&bench.pd, &bench.cq);
    let late = bench.driver.create_qp_with_srq(pd, cq, cq, &srq, config);
    assert_eq!(late.err(), Some(Error::Stale));
}

#[test]
fn queues_are_stale_after_a_reset() {
    let (bench, mut srq) = bench(4);
    bench.driver.recover().expect("recover");
    // It is taken, as if the queue pairs had failed, and the device does not hear of it.
    assert_eq!(post(&mut srq, 0), Ok(()));
    assert_eq!(srq.outstanding(), 1);
    assert_eq!(srq.set_limit(1), Err(Error::Stale));
    assert_eq!(srq.destroy(), Ok(()));
}

#[test]
fn limits_and_their_events_pass_through() {
    let (bench, mut srq) = bench(4);
    srq.set_limit(3).expect("limit");
    let body: ModifySrq = bench
        .world
        .with(|device| device.latest(AdminOpcode::ModifySrq));
    assert_eq!((body.srq, body.limit), (srq.number(), 3));
    assert!(matches!(srq.set_limit(5), Err(Error::BadArgument(_))));
    let events = [
        (EventType::SrqLimit, srq.number()),
        (EventType::LastWqeReached, bench.qp.number()),
        (EventType::SendQueueDrained, bench.qp.number()),
    ];
    bench.world.with(|device| {
        let eq = device.async_eq;
        for (event, object) in events {
            device.write_event(eq, event, object);
        }
    });
    assert!(FakePlatform::deliver(&bench.driver));
    for (event, object) in events {
        let found = bench.driver.poll_event().expect("event");
        assert_eq!((found.event, found.object), (event, object));
    }
    assert_eq!(srq.query().expect("query").entries, 4);
}

#[test]
fn messages_for_xrc_complete_on_the_queue_of_their_own() {
    let (mut bench, _basic) = bench(4);
    let xrcd = bench.driver.create_xrcd().expect("XRCD");
    let config = SrqConfig {
        requests: 4,
        ..SrqConfig::default()
    };
    bench.world.with(|device| device.next_srqn = 0x600);
    let (driver, pd) = (&bench.driver, &bench.pd);
    let mut srq = driver
        .create_xrc_srq(pd, &xrcd, &bench.cq, config)
        .expect("SRQ");
    let body: CreateSrq = bench
        .world
        .with(|device| device.latest(AdminOpcode::CreateSrq));
    assert_eq!(body.srq_type, SrqType::Xrc.raw());
    assert_eq!((body.xrcd, body.cq), (xrcd.number(), bench.cq.number()));
    // It is not for queue pairs that would name it.
    let (cq, config) = (&bench.cq, QpConfig::default());
    let error = driver.create_qp_with_srq(pd, cq, cq, &srq, config).err();
    assert!(matches!(error, Some(Error::BadArgument(_))));
    let number = srq.number();
    for wr_id in 0..20 {
        post(&mut srq, wr_id).expect("room");
        // The driver need not know the target.
        bench.world.with(|device| {
            let (index, _) = device.take(number).expect("posted");
            device.complete_taken(0xabc, number, index);
        });
        assert_eq!(polled(&mut bench.cq), [(wr_id, 0xabc)]);
    }
}

#[test]
fn completions_of_a_destroyed_queue_for_xrc_do_not_reach_its_successor() {
    let (mut bench, _basic) = bench(4);
    let xrcd = bench.driver.create_xrcd().expect("XRCD");
    bench.world.with(|device| device.next_srqn = 0x600);
    let config = SrqConfig::default();
    let create = |bench: &Bench| {
        let srq = bench
            .driver
            .create_xrc_srq(&bench.pd, &xrcd, &bench.cq, config);
        srq.expect("SRQ")
    };
    let mut srq = create(&bench);
    for wr_id in 0..2 {
        post(&mut srq, wr_id).expect("room");
    }
    let complete = |bench: &Bench| {
        bench.world.with(|device| {
            let (index, _) = device.take(0x600).expect("posted");
            device.complete_taken(0xabc, 0x600, index);
        });
    };
    complete(&bench);
    assert_eq!(polled(&mut bench.cq), [(0, 0xabc)]);
    complete(&bench);
    srq.destroy().expect("destroy");
    let mut srq = create(&bench);
    assert_eq!(srq.number(), 0x600);
    for wr_id in 10..12 {
        post(&mut srq, wr_id).expect("room");
    }
    assert_eq!(polled(&mut bench.cq), [], "left by the one before");
    assert_eq!(srq.outstanding(), 2);
    complete(&bench);
    assert_eq!(polled(&mut bench.cq), [(10, 0xabc)]);
}
