//! Completion queues that move while completions wait in them.

use vrnic_driver::abi::admin::AdminOpcode;
use vrnic_driver::abi::cqe::CompletionStatus;
use vrnic_driver::abi::wqe::WqeFlags;
use vrnic_driver::{Completion, Error, Moderation, Operation, QpConfig, Remote, SendRequest};

use crate::Bench;
use crate::fake::FakePlatform;

const SUCCESS: CompletionStatus = CompletionStatus::Success;

fn write(wr_id: u64) -> SendRequest<'static> {
    SendRequest {
        wr_id,
        operation: Operation::Write(Remote::default()),
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    }
}

/// Posts request `wr_id` and has it completed.
#[track_caller]
fn complete(bench: &mut Bench, wr_id: u64) {
    let qpn = bench.qp.number();
    bench.qp.post_send(&write(wr_id)).expect("room");
    bench.world.complete(qpn, SUCCESS);
}

/// Polls at most `most` completions.
#[track_caller]
fn poll(bench: &mut Bench, most: usize) -> Vec<u64> {
    let mut completions = vec![Completion::default(); most];
    let count = bench.cq.poll(&mut completions).expect("poll");
    completions[..count].iter().map(|c| c.wr_id).collect()
}

/// A simple generator, so that the test needs no more.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
        (self.0 >> 33) % limit
    }
}

#[test]
fn nothing_is_lost_and_all_is_in_order_over_many_moves() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut bench = Bench::new(QpConfig::default());
        let buffers = bench.world.buffers();
        let (mut posted, mut polled) = (0, 0);
        for _ in 0..400 {
            // What waits must fit into the smallest ring that the queue may have: 4 entries.
            for _ in 0..random.below(5) {
                let cq = *bench
                    .world
                    .with(|device| device.cqs.clone())
                    .values()
                    .next()
                    .expect("CQ");
                let waiting = cq.producer - cq.consumer.max(cq.first);
                if posted - polled < 60 && waiting < 1 << cq.log {
                    complete(&mut bench, posted);
                    posted += 1;
                }
            }
            if random.below(3) == 0 {
                let entries = 4 << random.below(5);
                bench.cq.resize(entries).expect("resize");
                assert_eq!(bench.cq.entries(), entries);
                assert_eq!(bench.world.buffers(), buffers, "the old buffer is free");
            }
            let most = random.below(8) as usize;
            for wr_id in poll(&mut bench, most) {
                assert_eq!(wr_id, polled, "seed {seed}");
                polled += 1;
            }
        }
        loop {
            let ids = poll(&mut bench, 16);
            if ids.is_empty() {
                break;
            }
            for wr_id in ids {
                assert_eq!(wr_id, polled, "seed {seed}");
                polled += 1;
            }
        }
        assert_eq!(polled, posted, "seed {seed}");
        assert!(posted > 200, "seed {seed}: {posted}");
    }
}

#[test]
fn entries_of_several_rings_wait_behind_one_another() {
    let mut bench = Bench::new(QpConfig::default());
    for wr_id in 0..16 {
        complete(&mut bench, wr_id);
    }
    bench.cq.resize(4).expect("resize");
    for wr_id in 16..20 {
        complete(&mut bench, wr_id);
    }
    bench.cq.resize(32).expect("resize");
    complete(&mut bench, 20);
    // Three rings' entries, and an arming that says that there are some.
    assert_eq!(bench.cq.arm(false), Ok(true));
    assert_eq!(poll(&mut bench, 7), (0..7).collect::<Vec<_>>());
    assert_eq!(poll(&mut bench, 64), (7..21).collect::<Vec<_>>());
    assert_eq!(bench.cq.arm(false), Ok(false));
    complete(&mut bench, 21);
    assert!(FakePlatform::deliver(&bench.driver));
    assert_eq!(poll(&mut bench, 64), [21]);
}

#[test]
fn completions_of_a_destroyed_queue_pair_are_dropped_from_both_rings() {
    let mut bench = Bench::new(QpConfig::default());
    for wr_id in 0..3 {
        complete(&mut bench, wr_id);
    }
    bench.cq.resize(8).expect("resize");
    complete(&mut bench, 3);
    let number = bench.qp.number();
    bench.qp.destroy().expect("destroy");
    let config = QpConfig::default();
    let successor = bench
        .driver
        .create_qp(&bench.pd, &bench.cq, &bench.cq, config);
    bench.qp = successor.expect("QP");
    assert_eq!(bench.qp.number(), number);
    complete(&mut bench, 100);
    assert_eq!(poll(&mut bench, 64), [100]);
}

#[test]
fn a_refused_move_leaves_the_queue_where_it_is() {
    let mut bench = Bench::new(QpConfig::default());
    let buffers = bench.world.buffers();
    complete(&mut bench, 1);
    bench
        .world
        .with(|device| device.refuse = Some(AdminOpcode::ResizeCq.raw()));
    let error = bench.cq.resize(64).expect_err("refused");
    assert!(matches!(error, Error::Command { .. }));
    assert_eq!(bench.cq.entries(), 16);
    complete(&mut bench, 2);
    assert_eq!(poll(&mut bench, 4), [1, 2]);
    // The admin queue may still hold one buffer, that of the refused command.
    assert!(bench.world.buffers() <= buffers + 1);
    assert!(matches!(
        bench.cq.resize(1 << 13),
        Err(Error::BadArgument(_))
    ));
}

#[test]
fn a_base_that_cannot_be_is_refused_and_both_buffers_stay() {
    for base in [5, 17, u64::MAX] {
        let mut bench = Bench::new(QpConfig::default());
        complete(&mut bench, 0);
        let forged = (base, 0);
        bench
            .world
            .with(|device| device.forged.insert(AdminOpcode::ResizeCq.raw(), forged));
        let error = bench.cq.resize(64).expect_err("a bad base");
        assert!(matches!(error, Error::BadAnswer(_)), "{base}");
        // The fake device complains if the buffer that it moved to is freed.
        let buffers = bench.world.buffers();
        bench.driver.recover().expect("recover");
        drop(bench.cq);
        assert!(bench.world.buffers() < buffers);
    }
}

#[test]
fn moderation_reaches_the_device() {
    let mut bench = Bench::new(QpConfig::default());
    let moderation = Moderation {
        period: 100,
        count: 7,
    };
    bench.cq.set_moderation(moderation).expect("moderation");
    let found = bench.cq.query().expect("query");
    assert_eq!((found.moderation_period, found.moderation_count), (100, 7));
}
