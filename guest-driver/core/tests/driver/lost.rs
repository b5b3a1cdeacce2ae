//! Functions that are lost while others post, poll and wait: everything is flushed, once.

use std::collections::VecDeque;

use vrnic_driver::abi::cqe::CompletionStatus;
use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::object::QpState;
use vrnic_driver::abi::wqe::WqeFlags;
use vrnic_driver::{
    Completion, CompletionQueue, CqConfig, Data, Error, Operation, PostError, QpConfig, QueuePair,
    ReceiveRequest, Remote, SendRequest, SrqConfig, Work,
};

use crate::fake::FakePlatform;
use crate::{Bench, region, up};

const SUCCESS: CompletionStatus = CompletionStatus::Success;
const FLUSHED: CompletionStatus = CompletionStatus::Flushed;

fn send(wr_id: u64, flags: WqeFlags) -> SendRequest<'static> {
    SendRequest {
        wr_id,
        operation: Operation::Write(Remote::default()),
        data: Data::Sges(&[]),
        flags,
        ..SendRequest::default()
    }
}

const fn receive(wr_id: u64) -> ReceiveRequest<'static> {
    ReceiveRequest { wr_id, sges: &[] }
}

#[track_caller]
fn polled(cq: &mut CompletionQueue<FakePlatform>) -> Vec<(u64, CompletionStatus)> {
    let mut completions = [Completion::default(); 3];
    let mut all = Vec::new();
    while let Ok(count @ 1..) = cq.poll(&mut completions) {
        all.extend(completions[..count].iter().map(|c| (c.wr_id, c.status)));
    }
    all
}

#[test]
fn what_the_device_has_written_comes_first_and_the_rest_is_flushed() {
    let mut bench = Bench::new(QpConfig {
        context: 0xabc,
        ..QpConfig::default()
    });
    let qpn = bench.qp.number();
    for wr_id in 0..5 {
        let flags = match wr_id {
            4 => WqeFlags::empty(),
            _ => WqeFlags::SIGNALED,
        };
        bench.qp.post_send(&send(wr_id, flags)).expect("room");
        bench.qp.post_receive(&receive(10 + wr_id)).expect("room");
    }
    bench.world.complete(qpn, SUCCESS);
    bench.world.receive(qpn, 1);
    bench.driver.set_lost();
    let early = [(0, SUCCESS), (10, SUCCESS)];
    let flushed = [1, 2, 3, 4, 11, 12, 13, 14].map(|wr_id| (wr_id, FLUSHED));
    let mut completions = [Completion::default(); 10];
    assert_eq!(bench.cq.poll(&mut completions[..1]), Ok(1));
    assert_eq!(bench.cq.poll(&mut completions[1..]), Ok(9));
    let found = completions.map(|c| (c.wr_id, c.status));
    assert_eq!(found[..2], early);
    assert_eq!(found[2..], flushed);
    assert!(
        completions
            .iter()
            .all(|c| (c.qpn, c.context) == (qpn, 0xabc))
    );
    assert!(matches!(completions[2].work, Work::Request(_)));
    assert!(matches!(completions[6].work, Work::Receive(_)));
    assert_eq!(bench.cq.poll(&mut completions), Err(Error::DeviceLost));
    // What the device still writes finds its request gone.
    bench.world.complete(qpn, SUCCESS);
    assert_eq!(bench.cq.poll(&mut completions), Err(Error::DeviceLost));
}

#[test]
fn a_lost_queue_pair_takes_requests_without_the_device() {
    let mut bench = Bench::new(QpConfig {
        send_requests: 4,
        receive_requests: 4,
        ..QpConfig::default()
    });
    let marks = bench.world.with(|device| device.marks);
    let slots = bench.world.with(|device| device.slots.clone());
    bench.driver.set_lost();
    bench.qp.modify_state(QpState::Error).expect("ERROR");
    for round in 0..10u64 {
        for wr_id in 0..4 {
            let wr_id = 4 * round + wr_id;
            bench
                .qp
                .post_send(&send(wr_id, WqeFlags::SIGNALED))
                .expect("room");
        }
        let more = send(99, WqeFlags::SIGNALED);
        assert_eq!(bench.qp.post_send(&more), Err(PostError::QueueFull));
        let expected: Vec<_> = (4 * round..4 * round + 4).map(|id| (id, FLUSHED)).collect();
        assert_eq!(polled(&mut bench.cq), expected);
    }
    assert_eq!(bench.world.with(|device| device.marks), marks);
    assert_eq!(bench.world.with(|device| device.slots.clone()), slots);
    let rtr = bench.qp.modify_state(QpState::Rtr);
    assert_eq!(rtr, Err(Error::DeviceLost));
}

#[test]
fn consumers_that_wait_are_told() {
    let mut bench = Bench::new(QpConfig::default());
    let event = [(bench.cq.number(), 77)];
    bench.driver.flush_lost();
    assert_eq!(bench.world.take_completion_events(), []);
    assert_eq!(bench.cq.arm(false), Ok(false));
    bench
        .qp
        .post_send(&send(1, WqeFlags::SIGNALED))
        .expect("room");
    bench.driver.set_lost();
    assert_eq!(bench.world.take_completion_events(), []);
    bench.driver.flush_lost();
    assert_eq!(bench.world.take_completion_events(), event);
    assert_eq!(polled(&mut bench.cq), [(1, FLUSHED)]);
    // Posted while the consumer is awake, it is found by arming; posted while it waits, by an event.
    bench
        .qp
        .post_send(&send(2, WqeFlags::SIGNALED))
        .expect("room");
    assert_eq!(bench.world.take_completion_events(), []);
    assert_eq!(bench.cq.arm(false), Ok(true));
    assert_eq!(polled(&mut bench.cq), [(2, FLUSHED)]);
    assert_eq!(bench.cq.arm(true), Ok(false));
    bench.qp.post_receive(&receive(3)).expect("room");
    bench
        .qp
        .post_send(&send(4, WqeFlags::SIGNALED))
        .expect("room");
    assert_eq!(bench.world.take_completion_events(), event);
    assert_eq!(polled(&mut bench.cq), [(4, FLUSHED), (3, FLUSHED)]);
}

#[test]
fn requests_of_a_shared_receive_queue_belong_to_nobody() {
    let mut bench = Bench::new(QpConfig::default());
    let srq = bench.driver.create_srq(&bench.pd, SrqConfig::default());
    let mut srq = srq.expect("SRQ");
    let config = QpConfig::default();
    bench.world.with(|device| device.next_qpn = 0x200);
    let qp = bench
        .driver
        .create_qp_with_srq(&bench.pd, &bench.cq, &bench.cq, &srq, config);
    bench.qp.destroy().expect("destroy");
    bench.qp = qp.expect("QP");
    srq.post(&receive(1)).expect("room");
    bench
        .qp
        .post_send(&send(2, WqeFlags::SIGNALED))
        .expect("room");
    bench.driver.set_lost();
    srq.post(&receive(3)).expect("room");
    assert_eq!(polled(&mut bench.cq), [(2, FLUSHED)]);
    assert_eq!(srq.outstanding(), 2);
}

#[test]
fn objects_of_a_lost_function_are_destroyed_and_their_memory_kept() {
    let bench = Bench::new(QpConfig::default());
    let mut mr = region(&bench.driver, &bench.pd);
    let buffers = bench.world.buffers();
    let Bench {
        world,
        driver,
        mut pd,
        mut cq,
        mut qp,
    } = bench;
    driver.set_lost();
    let before = world.with(|device| device.commands_seen.len());
    qp.destroy().expect("QP");
    cq.destroy().expect("CQ");
    mr.destroy().expect("MR");
    pd.destroy().expect("PD");
    assert_eq!(world.with(|device| device.commands_seen.len()), before);
    drop((qp, cq, mr, pd));
    // The device knows it all; the fake would complain if it were freed.
    assert_eq!(world.buffers(), buffers);
    driver.remove().expect("remove");
    assert_eq!(world.buffers(), 0);
}

#[test]
fn a_function_that_was_taken_out_leaves_no_memory_behind() {
    for detached in [false, true] {
        let Bench {
            world,
            driver,
            pd,
            cq,
            mut qp,
        } = Bench::new(QpConfig::default());
        let buffers = world.buffers();
        world.with(|device| device.gone = true);
        driver.set_lost();
        qp.destroy().expect("QP");
        drop((qp, cq, pd));
        assert_eq!(world.buffers(), buffers);
        world.with(|device| device.detached = detached);
        if detached {
            driver.remove().expect("nothing to reset");
            assert_eq!(world.buffers(), 0);
        } else {
            assert_eq!(driver.remove(), Err(Error::DeviceLost));
            assert_eq!(world.buffers(), buffers);
        }
    }
}

#[test]
fn commands_fail_at_once_when_the_function_is_given_up() {
    let (world, driver) = up();
    world.with(|device| device.hold_commands = true);
    let pending = driver.nop().expect("room");
    let (registers, time) = (world.with(|device| device.registers.clone()), world.now());
    driver.set_lost();
    assert_eq!(pending.wait(), Err(Error::DeviceLost));
    assert_eq!(driver.create_pd().err(), Some(Error::DeviceLost));
    assert_eq!(
        driver.create_cq(CqConfig::default()).err(),
        Some(Error::DeviceLost)
    );
    assert_eq!(world.with(|device| device.registers.clone()), registers);
    assert!(world.now() < time + 1_000_000, "something has waited");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ value >> 31) % bound
    }
}

/// A queue pair, and what was posted to it and has not completed.
struct Posted {
    qp: QueuePair<FakePlatform>,
    /// Which completion queues it uses.
    cqs: (usize, usize),
    sent: VecDeque<u64>,
    received: VecDeque<u64>,
}

/// A completion queue and its consumer, who sleeps when nothing is there.
struct Consumer {
    cq: CompletionQueue<FakePlatform>,
    waits: bool,
}

/// Three queue pairs on two completion queues, and a function that gets lost.
struct Schedule {
    bench: Bench,
    qps: Vec<Posted>,
    consumers: Vec<Consumer>,
    random: Random,
    seed: u64,
    next: u64,
    lost: bool,
    flushed: usize,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let bench = Bench::new(QpConfig::default());
        let config = CqConfig {
            entries: 256,
            ..CqConfig::default()
        };
        let cq = || bench.driver.create_cq(config).expect("CQ");
        let consumers: Vec<_> = [cq(), cq()]
            .into_iter()
            .map(|cq| Consumer { cq, waits: false })
            .collect();
        let mut qps = Vec::new();
        for (number, cqs) in [(0x300, (0, 1)), (0x200, (1, 0)), (0x400, (1, 1))] {
            bench.world.with(|device| device.next_qpn = number);
            let config = QpConfig {
                send_requests: 8,
                receive_requests: 8,
                context: number.into(),
                ..QpConfig::default()
            };
            let (send, receive) = (&consumers[cqs.0].cq, &consumers[cqs.1].cq);
            let qp = bench.driver.create_qp(&bench.pd, send, receive, config);
            qps.push(Posted {
                qp: qp.expect("QP"),
                cqs,
                sent: VecDeque::new(),
                received: VecDeque::new(),
            });
        }
        Self {
            bench,
            qps,
            consumers,
            random: Random(seed),
            seed,
            next: 0,
            lost: false,
            flushed: 0,
        }
    }

    fn post(&mut self) {
        let (which, receives) = (self.random.below(3) as usize, self.random.below(2) == 0);
        let posted = &mut self.qps[which];
        self.next += 1;
        if receives && posted.qp.post_receive(&receive(self.next)).is_ok() {
            posted.received.push_back(self.next);
        }
        if !receives {
            let request = send(self.next, WqeFlags::SIGNALED);
            if posted.qp.post_send(&request).is_ok() {
                posted.sent.push_back(self.next);
            }
        }
    }

    /// The device completes something, which after the loss may come too late.
    fn complete(&mut self) {
        let world = &self.bench.world;
        let posted = &self.qps[self.random.below(3) as usize];
        let qpn = posted.qp.number();
        let known = world.with(|device| device.qps.contains_key(&qpn));
        if known && self.random.below(2) == 0 {
            world.receive(qpn, 1);
        } else if known && world.with(|device| device.fetched.iter().any(|f| f.0 == qpn)) {
            world.complete(qpn, SUCCESS);
        }
    }

    fn poll(&mut self, which: usize) {
        let room = self.random.below(6) as usize + 1;
        let mut completions = [Completion::default(); 6];
        let count = self.consumers[which].cq.poll(&mut completions[..room]);
        assert!(count.is_ok() || self.lost, "seed {}", self.seed);
        for completion in &completions[..count.unwrap_or(0)] {
            self.check(which, completion);
        }
    }

    #[track_caller]
    fn check(&mut self, which: usize, completion: &Completion) {
        let mut qps = self.qps.iter_mut();
        let found = qps.find(|posted| posted.qp.number() == completion.qpn);
        let posted = found.expect("a queue pair of ours");
        let (queue, cq) = match completion.work {
            Work::Request(_) => (&mut posted.sent, posted.cqs.0),
            Work::Receive(_) => (&mut posted.received, posted.cqs.1),
        };
        assert_eq!(cq, which, "seed {}", self.seed);
        assert_eq!(
            queue.pop_front(),
            Some(completion.wr_id),
            "seed {}",
            self.seed
        );
        assert_eq!(completion.context, u64::from(completion.qpn));
        assert!(self.lost || completion.status == SUCCESS);
        self.flushed += usize::from(completion.status == FLUSHED);
    }

    /// What a consumer does that sleeps when there is nothing.
    fn consume(&mut self, which: usize) {
        if !self.consumers[which].waits {
            self.poll(which);
            if self.random.below(2) == 0 {
                let more = self.consumers[which].cq.arm(false).expect("not destroyed");
                self.consumers[which].waits = !more;
            }
        }
    }

    fn deliver(&mut self) {
        FakePlatform::deliver(&self.bench.driver);
        for (cqn, _) in self.bench.world.take_completion_events() {
            for consumer in &mut self.consumers {
                consumer.waits &= consumer.cq.number() != cqn;
            }
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        let driver = &self.bench.driver;
        match self.random.below(4) {
            0 => driver.set_lost(),
            1 => driver.recover().expect("recover"),
            2 => {
                self.bench.world.with(|device| {
                    let eq = device.async_eq;
                    device.write_event(eq, EventType::DeviceFatal, 0);
                });
                FakePlatform::deliver(driver);
            }
            _ => {
                self.bench.world.with(|device| device.hold_commands = true);
                driver.create_pd().err().expect("lost");
            }
        }
        // Posting may come between the loss and the news of it.
        for _ in 0..self.random.below(4) {
            self.post();
        }
        self.bench.driver.flush_lost();
    }

    fn run(&mut self) {
        let loss = self.random.below(300);
        for step in 0..400 {
            if step == loss {
                self.lose();
            }
            let which = self.random.below(2) as usize;
            match self.random.below(8) {
                0..3 => self.post(),
                3..5 => self.complete(),
                5..7 => self.consume(which),
                _ => self.deliver(),
            }
        }
        // Consumers that sleep are not woken by anything but events.
        for _ in 0..400 {
            self.deliver();
            self.consume(0);
            self.consume(1);
        }
        for posted in &self.qps {
            assert!(posted.sent.is_empty(), "seed {}", self.seed);
            assert!(posted.received.is_empty(), "seed {}", self.seed);
        }
        for posted in &mut self.qps {
            posted.qp.modify_state(QpState::Error).expect("ERROR");
            posted.qp.destroy().expect("destroy");
        }
    }
}

#[test]
fn every_request_completes_once_whenever_the_function_is_lost() {
    let mut flushed = 0;
    for seed in 0..300 {
        let mut schedule = Schedule::new(seed);
        schedule.run();
        flushed += schedule.flushed;
    }
    assert!(flushed > 10_000, "{flushed} flushed");
}
