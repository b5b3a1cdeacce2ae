//! A user that never polls: its completion queue overflows, and nobody else's.

use vrnic_abi::admin::QpFlags;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::QpState;
use vrnic_abi::wqe::WqeOpcode;

use crate::nic_bench::{PATTERN, Random};
use crate::user::World;

#[test]
fn only_its_queue_pairs_fail_and_events_say_so() {
    let mut random = Random(1);
    let mut world = World::new();
    let (bad, peer) = (world.user(), world.user());
    world.driver.page = bad.page;
    // Four entries, and behind them memory that nobody may write.
    let cq = world.driver.cq(&mut world.bench, &world.eq, 2);
    let behind = world.driver.memory(4096, false);
    let flags = QpFlags::empty();
    let mut qps: Vec<_> = (0..3)
        .map(|n| {
            // The last one completes receives there only.
            let send_cq = if n == 2 { &bad.cq } else { &cq };
            world
                .driver
                .qp_with(&mut world.bench, bad.pd, send_cq, &cq, flags)
        })
        .collect();
    world.driver.page = 0;
    let [a, b, c] = [qps[0].number, qps[1].number, qps[2].number];
    world.join(a, b);
    world.join(c, peer.qp.number);
    let list = [bad.segment(0, 100)];
    for _ in 0..10 {
        qps[1].receive(&world.driver.hw, &list);
        qps[0].send(&world.driver.hw, WqeOpcode::Send, 0, &list);
    }
    for _ in 0..20 {
        world.message(&mut random, |_| {});
    }
    world.bench.run();
    for qp in [a, b, c] {
        assert_eq!(world.state(qp), QpState::Error, "queue pair {qp}");
    }
    // Its other completion queue, and the peer, know nothing of it.
    assert_eq!(world.state(bad.qp.number), QpState::Reset);
    assert_eq!(world.state(peer.qp.number), QpState::Rts);
    let hw = &world.driver.hw;
    let events: Vec<_> = std::iter::from_fn(|| world.events.poll(hw))
        .filter(|event| event.event != EventType::CommunicationEstablished.raw())
        .map(|event| (event.event, event.object))
        .collect();
    assert_eq!(events, [(EventType::CqError.raw(), cq.number)]);
    assert!(hw.bytes(behind, 4096).iter().all(|byte| *byte == PATTERN));
    world.assert_well();
}

/// The same while another user's queue is full, too, and both go on ringing.
#[test]
fn queues_that_have_failed_stay_failed() {
    let mut random = Random(2);
    let mut world = World::new();
    let mut bad = [world.user(), world.user()];
    let [a, b] = [bad[0].qp.number, bad[1].qp.number];
    world.join(a, b);
    for _ in 0..4 {
        for _ in 0..40 {
            let list = [bad[1].segment(0, 10)];
            bad[1].qp.receive(&world.driver.hw, &list);
            let list = [bad[0].segment(0, 10)];
            bad[0].qp.send(&world.driver.hw, WqeOpcode::Send, 0, &list);
            world.bench.step();
        }
        world.message(&mut random, |_| {});
    }
    assert_eq!([world.state(a), world.state(b)], [QpState::Error; 2]);
    // As soon as it polls, its driver sees all entries that were written, and no more.
    let polled = std::iter::from_fn(|| bad[0].cq.poll(&world.driver.hw)).count();
    assert_eq!(polled, 64);
    world.assert_well();
}
