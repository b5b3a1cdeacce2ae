//! A function that may send at a rate sends at that rate, whatever it sends and whereto.

use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::nic::{Policy, PolicyError};
use vrnic_firmware::types::Time;

use crate::nic_bench::*;
use crate::world::*;

const KINDS: [Kind; 7] = [
    Kind::Write(65_536),
    Kind::Write(64),
    Kind::Read(65_536),
    Kind::Read(100),
    Kind::Datagram(1_000),
    Kind::Frame(1_514),
    Kind::Frame(60),
];
const WAYS: [Way; 2] = [Way::Direct, Way::Link(100_000)];

/// Runs one stream of a limited function; returns the bytes that it sent in `time`.
#[track_caller]
fn measure(way: Way, kind: Kind, rate: u32, time: u64) -> u64 {
    let mut world = World::new(way);
    let mut streams = [Stream::new(&mut world, 1, kind)];
    world.set(&streams[0].near, |policy| policy.max_rate = Some(rate));
    // Past what was in the bucket, and what the first requests have to wait for.
    let warm = world.now() + time / 4;
    world.run(&mut streams, warm);
    let before = streams[0].bytes();
    let end = world.now() + time;
    world.run(&mut streams, end);
    let [stream] = streams;
    let sent = stream.bytes() - before;
    stream.finish(&mut world);
    sent
}

#[test]
fn all_that_a_function_sends_counts_alike() {
    for way in WAYS {
        for kind in KINDS {
            let sent = measure(way, kind, 1_000, 40 * MILLI);
            let what = format!("{way:?} {kind:?}");
            close(sent, due(1_000, 40 * MILLI), 2, &what);
        }
    }
}

#[test]
fn slow_and_fast_limits_hold() {
    for way in WAYS {
        for (rate, time) in [(10, 4_000 * MILLI), (100, 400 * MILLI), (10_000, 8 * MILLI)] {
            let sent = measure(way, Kind::Write(65_536), rate, time);
            let what = format!("{way:?} {rate}");
            close(sent, due(rate.into(), time), 3, &what);
        }
    }
}

/// Requests, responses and acknowledgements of one function share its limit.
#[test]
fn what_a_function_sends_adds_up() {
    let mut world = World::new(Way::Link(100_000));
    let mut stream = Stream::new(&mut world, 1, Kind::Write(8_192));
    world.set(&stream.near, |policy| policy.max_rate = Some(1_000));
    let end = world.now() + 100 * MILLI;
    let (mut waits, mut writes, mut at) = (0, 0, None);
    while world.now() < end {
        // The peer writes and reads at full speed.
        let Stream { near, far, .. } = &mut stream;
        let opcodes = [WqeOpcode::Write, WqeOpcode::Read];
        for opcode in opcodes.into_iter().cycle().skip(writes).take(8 - waits) {
            let (list, there) = ([far.segment(BUFFER / 2, 1_024)], near.memory + BUFFER / 2);
            let hw = &far.driver.hw;
            far.qp.rdma(hw, opcode, (there, near.key), &list);
            (waits, writes) = (waits + 1, writes + 1);
        }
        while let Some(entry) = far.poll() {
            assert_eq!(entry.status, 0);
            waits -= 1;
        }
        let next = world.now() + MICRO;
        world.run(std::slice::from_mut(&mut stream), next);
        if at.is_none() && world.now() > end - 80 * MILLI {
            at = Some((world.now(), world.crossed, writes, stream.done));
        }
    }
    let (start, before, answered, done) = at.unwrap();
    let all = world.crossed - before;
    close(all, due(1_000, world.now() - start), 2, "all frames");
    let (theirs, ours) = (writes - answered, stream.done - done);
    assert!(theirs > 1_000 && ours > 100, "{theirs} and {ours}");
}

/// While a function waits for its time, the engine sleeps until then, and others are served.
#[test]
fn a_limited_function_lets_the_engine_sleep() {
    for way in WAYS {
        let mut world = World::new(way);
        let mut stream = Stream::new(&mut world, 1, Kind::Write(65_536));
        world.set(&stream.near, |policy| policy.max_rate = Some(10));
        let (mut steps, mut naps) = (0, 0);
        let end = world.now() + 1_000 * MILLI;
        while world.now() < end {
            stream.pump();
            steps += 1;
            if world.tick() {
                continue;
            }
            let bench = &mut world.nics[0];
            assert!(bench.nic.prepare_sleep(), "{way:?}: nothing else is to do");
            let until = bench.nic.next_timeout().expect("tokens come");
            assert!(until > bench.now, "{way:?}: {until:?} at {:?}", bench.now);
            // Nothing happens before.
            let sent = bench.wire.sent.len();
            bench.nic.step(Time(until.0 - 1), &mut bench.wire);
            assert_eq!(bench.wire.sent.len(), sent);
            bench.nic.wake();
            bench.now = Time(until.0.max(MICRO) - MICRO);
            naps += 1;
        }
        // A packet takes 0.87 ms.
        assert!((1_000..1_400).contains(&naps), "{way:?}: {naps}");
        assert!(steps < 8 * naps, "{way:?}: {steps} for {naps}");
        stream.finish(&mut world);
    }
}

#[test]
fn a_limited_function_holds_up_nobody() {
    for way in WAYS {
        let mut world = World::new(way);
        let mut streams = [1, 2].map(|n| Stream::new(&mut world, n, Kind::Write(4_096)));
        world.set(&streams[0].near, |policy| policy.max_rate = Some(10));
        let end = world.now() + 2 * MILLI;
        world.run(&mut streams, end);
        let [slow, fast] = [&streams[0], &streams[1]].map(Stream::bytes);
        assert!(fast > 500 * slow, "{way:?}: {slow} {fast}");
        for stream in streams {
            stream.finish(&mut world);
        }
    }
}

#[test]
fn a_rate_or_weight_of_nothing_is_refused() {
    let mut world = World::new(Way::Direct);
    let [near, _] = world.pair(1);
    let nic = &mut world.nics[0].nic;
    let policy = nic.policy(near.driver.id).unwrap().clone();
    let none = Policy {
        max_rate: Some(0),
        ..policy.clone()
    };
    let refused = nic.set_policy(near.driver.id, none);
    assert_eq!(refused, Err(PolicyError::MaxRate));
    let none = Policy {
        weight: 0,
        ..policy
    };
    let refused = nic.set_policy(near.driver.id, none);
    assert_eq!(refused, Err(PolicyError::Weight));
}
