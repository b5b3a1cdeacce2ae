//! Two senders behind one port of a switch that marks packets when its queue is long.

use super::*;
use std::collections::VecDeque;

/// Mbit/s of the port and of both senders.
const SPEED: u32 = 10_000;
/// Bytes in the queue from which on packets are marked.
const THRESHOLD: u64 = 64 << 10;
/// Nanoseconds that a packet takes from the port, and an answer all the way.
const DELAY: u64 = 2_000;

/// The port's queue.
#[derive(Default)]
struct Queue {
    /// Frames that wait.
    frames: VecDeque<Vec<u8>>,
    bytes: u64,
    longest: u64,
    /// When the port is free.
    free: u64,
}

impl Queue {
    fn push(&mut self, now: u64, mut frame: Vec<u8>) {
        if self.bytes >= THRESHOLD && matches!(frame[15] & 3, 1 | 2) {
            mark(&mut frame);
        }
        if self.frames.is_empty() {
            self.free = self.free.max(now);
        }
        self.bytes += frame.len() as u64;
        self.longest = self.longest.max(self.bytes);
        self.frames.push_back(frame);
    }

    /// The next frame, if it has left by `now`.
    fn pop(&mut self, now: u64) -> Option<Vec<u8>> {
        let length = self.frames.front()?.len() as u64;
        let left = self.free + (length + 24) * 8_000 / u64::from(SPEED);
        if left > now {
            return None;
        }
        self.free = left;
        self.bytes -= length;
        self.frames.pop_front()
    }
}

/// Two NICs with a sender each, one with two receivers, and the switch.
struct World {
    senders: [(Bench, Node); 2],
    receiver: Bench,
    targets: [Node; 2],
    queue: Queue,
    /// Frames on their way: when they arrive, where (2 is the receiver), what.
    flights: VecDeque<(u64, usize, Vec<u8>)>,
    /// Bytes of payload that each sender got through the port.
    through: [u64; 2],
    now: u64,
}

impl World {
    fn new(settings: CongestionFlags) -> Self {
        let config = NicConfig {
            speed: SPEED,
            ..NicConfig::default()
        };
        let mut receiver = Bench::new(config);
        let mut targets = [3, 4].map(|n| Node::new(&mut receiver, n));
        let mut senders = [1, 2].map(|n| {
            let mut bench = Bench::new(config);
            let node = Node::new(&mut bench, n);
            (bench, node)
        });
        let body = flags(settings);
        for ((bench, node), target) in senders.iter_mut().zip(&mut targets) {
            connect((bench, node), (&mut receiver, target));
            configure(bench, node, &body);
            configure(&mut receiver, target, &body);
        }
        let clocks = senders.iter().map(|(bench, _)| bench.now.0);
        let now = clocks.max().unwrap().max(receiver.now.0);
        Self {
            senders,
            receiver,
            targets,
            queue: Queue::default(),
            flights: VecDeque::new(),
            through: [0; 2],
            now,
        }
    }

    /// Lets `micros` pass while the first `active` senders have WRITEs to send.
    fn run(&mut self, micros: u64, active: usize) {
        for _ in 0..micros {
            self.now += MICRO;
            for which in 0..2 {
                let (bench, node) = &mut self.senders[which];
                if which < active {
                    keep_busy(bench, node, &self.targets[which]);
                }
                bench.now = Time(self.now);
                while bench.nic.step(bench.now, &mut bench.wire) == Progress::Busy {}
                self.through_the_switch(which);
            }
            self.receiver.now = Time(self.now);
            self.deliver();
            let Bench { nic, wire, now } = &mut self.receiver;
            while nic.step(*now, wire) == Progress::Busy {}
            while let Some(frame) = wire.sent.pop_front() {
                let to = usize::from(frame[5] - 1);
                self.flights.push_back((self.now + DELAY, to, frame));
            }
        }
    }

    fn through_the_switch(&mut self, which: usize) {
        while let Some(frame) = self.senders[which].0.wire.sent.pop_front() {
            self.queue.push(self.now, frame);
        }
        while let Some(frame) = self.queue.pop(self.now) {
            let from = usize::from(frame[11] - 1);
            self.through[from] += u64::from(wire::parse(&frame).unwrap().pdu.length);
            self.flights.push_back((self.now + DELAY, 2, frame));
        }
    }

    fn deliver(&mut self) {
        while self.flights.front().is_some_and(|f| f.0 <= self.now) {
            let (_, to, frame) = self.flights.pop_front().unwrap();
            let bench = match to {
                2 => &mut self.receiver,
                sender => &mut self.senders[sender].0,
            };
            bench.nic.receive(Time(self.now), &frame, &mut bench.wire);
        }
    }

    /// What each sender gets through in `micros`, in Mbit/s, and the longest queue meanwhile.
    fn measure(&mut self, micros: u64) -> ([u64; 2], u64) {
        (self.through, self.queue.longest) = ([0; 2], 0);
        self.run(micros, 2);
        (
            self.through.map(|bytes| bytes * 8 / micros),
            self.queue.longest,
        )
    }
}

/// Sees to it that there are always WRITEs to send.
fn keep_busy(bench: &Bench, node: &mut Node, target: &Node) {
    while node.poll().is_some() {}
    let function = bench.nic.function(node.driver.id).unwrap();
    let qp = function.qps.get(node.qp.number).unwrap();
    let send = qp.queues.send.as_ref().unwrap();
    while node.qp.posted.wrapping_sub(send.consumer()) < 32 {
        let (remote, list) = ((target.memory, target.key), [node.segment(0, 65_536)]);
        node.qp
            .rdma(&node.driver.hw, WqeOpcode::Write, remote, &list);
    }
}

/// After both have sent for a while, the second one later than the first: what each gets through
/// in three periods of 10 ms, and the longest queue.
fn outcome(settings: CongestionFlags) -> [([u64; 2], u64); 3] {
    let mut world = World::new(settings);
    world.run(2_000, 1);
    world.run(25_000, 2);
    [(); 3].map(|()| world.measure(10_000))
}

#[test]
fn senders_that_react_share_it_and_keep_the_queue_short() {
    let periods = outcome(CongestionFlags::all());
    for (rates, longest) in periods {
        let sum: u64 = rates.iter().sum();
        for rate in rates {
            let fair = sum / 2;
            assert!(rate.abs_diff(fair) * 10 <= fair, "{periods:?}");
        }
        // Payload is 1024 bytes of 1106.
        let most = u64::from(SPEED) * 1024 / 1106;
        assert!(sum * 100 >= most * 90 && sum <= most, "{periods:?}");
        assert!(longest <= 2 * THRESHOLD, "{periods:?}");
    }
    assert_eq!(
        outcome(CongestionFlags::all()),
        periods,
        "it is the same each time"
    );
}

#[test]
fn senders_that_do_not_fill_the_queue() {
    let notify = CongestionFlags::CAPABLE | CongestionFlags::NOTIFY;
    for settings in [CongestionFlags::empty(), notify, CongestionFlags::REACT] {
        let periods = outcome(settings);
        for (_, longest) in periods {
            assert!(longest >= 16 * THRESHOLD, "{settings:?}: {periods:?}");
        }
    }
}
