//! How functions share what is too little for all of them: a link, or the engine's time.

use vrnic_abi::wqe::WqeOpcode;

use crate::nic_bench::*;
use crate::world::*;

/// A direct path that the engine cannot keep full, and a link that it can.
const WAYS: [Way; 2] = [Way::Direct, Way::Link(10_000)];

/// Functions with these weights and limits send until they have sent a good deal; returns their
/// bytes.
#[track_caller]
fn compete(way: Way, kinds: &[Kind], weights: &[u8], limits: &[Option<u32>]) -> Vec<u64> {
    let mut world = World::new(way);
    let mut streams = Vec::new();
    for (n, kind) in (1..).zip(kinds) {
        streams.push(Stream::new(&mut world, n, *kind));
    }
    for ((stream, weight), limit) in streams.iter().zip(weights).zip(limits) {
        world.set(&stream.near, |policy| {
            (policy.weight, policy.max_rate) = (*weight, *limit);
        });
    }
    // While they start, not all of them have something to send.
    let start = world.now() + 2 * MILLI;
    world.run(&mut streams, start);
    let before: Vec<_> = streams.iter().map(Stream::bytes).collect();
    let end = world.now()
        + if way == Way::Direct {
            2 * MILLI
        } else {
            20 * MILLI
        };
    world.run(&mut streams, end);
    let sent = streams.iter().zip(before);
    let sent = sent.map(|(stream, before)| stream.bytes() - before);
    let sent = sent.collect();
    for stream in streams {
        stream.finish(&mut world);
    }
    sent
}

/// Checks that what functions had is as `parts`.
#[track_caller]
fn shared(sent: &[u64], parts: &[u64], percent: u64, what: &str) {
    let (total, all) = (sent.iter().sum::<u64>(), parts.iter().sum::<u64>());
    for (sent, part) in sent.iter().zip(parts) {
        close(*sent, total * part / all, percent, what);
    }
}

#[test]
fn parts_are_as_the_weights() {
    for way in WAYS {
        for weights in [&[1, 3][..], &[10, 10], &[30, 10], &[1, 2, 3], &[255, 85]] {
            for kind in [Kind::Write(65_536), Kind::Write(4_096)] {
                let kinds = vec![kind; weights.len()];
                let sent = compete(way, &kinds, weights, &vec![None; weights.len()]);
                let parts: Vec<_> = weights.iter().map(|weight| u64::from(*weight)).collect();
                shared(&sent, &parts, 4, &format!("{way:?} {kind:?} {weights:?}"));
            }
        }
    }
}

/// Whatever they send, bytes on a link are bytes.
#[test]
fn a_link_is_shared_by_bytes() {
    let kinds = [
        (Kind::Write(65_536), Kind::Frame(1_514)),
        (Kind::Read(65_536), Kind::Write(65_536)),
        (Kind::Datagram(1_000), Kind::Write(8_192)),
        (Kind::Frame(1_000), Kind::Frame(200)),
    ];
    for (one, other) in kinds {
        let sent = compete(WAYS[1], &[one, other], &[1, 3], &[None, None]);
        shared(&sent, &[1, 3], 5, &format!("{one:?} {other:?}"));
        let full = due(10_000, 20 * MILLI);
        close(sent.iter().sum(), full, 3, "the link is full");
    }
}

/// What a limited function leaves is the others', and a limit above its part means nothing.
#[test]
fn limits_and_weights_hold_together() {
    let kinds = [Kind::Write(65_536); 3];
    let way = Way::Link(10_000);
    let sent = compete(way, &kinds, &[10, 30, 60], &[None, None, Some(2_000)]);
    shared(&sent, &[20, 60, 20], 4, "limited");
    let sent = compete(way, &kinds, &[10, 30, 60], &[None, None, Some(8_000)]);
    shared(&sent, &[10, 30, 60], 4, "not limited");
    let sent = compete(way, &kinds, &[10, 30, 60], &[Some(500), None, Some(2_000)]);
    shared(&sent, &[5, 75, 20], 4, "two of them limited");
}

/// A function that sends a little now and then waits for little, whatever number of others send.
#[test]
fn a_small_message_waits_for_little() {
    for way in WAYS {
        for floods in [1, 8] {
            let mut world = World::new(way);
            let mut quiet = Stream::new(&mut world, 99, Kind::Write(64));
            quiet.over = true;
            let mut streams: Vec<_> = (1..=floods)
                .map(|n| Stream::new(&mut world, n, Kind::Write(65_536)))
                .collect();
            let warm = world.now() + MILLI;
            world.run(&mut streams, warm);
            let mut worst = 0;
            for round in 0..100 {
                let pause = world.now() + 10 * MICRO + round * 7;
                world.run(&mut streams, pause);
                let before: u64 = streams.iter().map(|stream| stream.posted).sum();
                let (list, to) = (
                    [quiet.near.segment(0, 64)],
                    (quiet.far.memory, quiet.far.key),
                );
                let hw = &quiet.near.driver.hw;
                quiet.near.qp.rdma(hw, WqeOpcode::Write, to, &list);
                while quiet.near.poll().is_none() {
                    let next = world.now() + MICRO;
                    world.run(&mut streams, next);
                }
                let after: u64 = streams.iter().map(|stream| stream.posted).sum();
                // Until it has sent something, others have no reason to be brief.
                if round > 0 {
                    worst = worst.max((after - before) * 65_536);
                }
            }
            // The step that goes on, the one that sees the doorbell, and on the way back as much;
            // what is in the port before it. Messages are counted as a whole.
            let most = if floods == 1 { 65_536 } else { 6 * 65_536 };
            assert!(worst <= most, "{way:?} {floods}: {worst}");
        }
    }
}

/// Frames that are longer than what a step has for all turns, on a link that is never full, leave
/// neighbours theirs.
#[test]
fn a_small_message_does_not_wait_for_long_frames() {
    let mut world = World::new(Way::Link(1_000_000));
    let mut streams = [1, 2].map(|n| Stream::new(&mut world, n, Kind::Frame(8_900)));
    let bench = &mut world.nics[0];
    let (mut a, mut b) = (Node::new(bench, 50), Node::new(bench, 51));
    join(bench, &mut a, &mut b);
    let warm = world.now() + MILLI;
    world.run(&mut streams, warm);
    for round in 0..100 {
        let list = [a.segment(0, 64)];
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, (b.memory, b.key), &list);
        let mut steps = 0;
        while a.poll().is_none() {
            steps += 1;
            assert!(steps <= 4, "round {round}");
            let next = world.now() + MICRO;
            world.run(&mut streams, next);
        }
    }
    assert!(streams.iter().all(|stream| stream.bytes() > 0));
}

/// Direct copies and a full link are two things: neither's parts depend on who uses the other.
#[test]
fn a_full_link_is_shared_while_others_copy() {
    let mut world = World::new(Way::Link(10_000));
    let mut streams = [1, 2].map(|n| Stream::new(&mut world, n, Kind::Write(65_536)));
    world.set(&streams[0].near, |policy| policy.weight = 10);
    world.set(&streams[1].near, |policy| policy.weight = 30);
    let (mut a, mut b) = {
        let bench = &mut world.nics[0];
        let mut a = Node::new(bench, 50);
        let mut b = Node::new(bench, 51);
        join(bench, &mut a, &mut b);
        (a, b)
    };
    let copies = |world: &mut World, streams: &mut [Stream; 2], a: &mut Node, b: &mut Node, end| {
        let mut posted = 0;
        let mut done = 0;
        while world.now() < end {
            while posted < done + 16 {
                let list = [a.segment(0, 65_536)];
                let to = (b.memory, b.key);
                a.qp.rdma(&a.driver.hw, WqeOpcode::Write, to, &list);
                posted += 1;
            }
            let next = world.now() + MICRO;
            world.run(streams, next);
            while let Some(entry) = a.poll() {
                assert_eq!(entry.status, 0);
                done += 1;
            }
        }
        while done < posted {
            let next = world.now() + MICRO;
            world.run(streams, next);
            while a.poll().is_some() {
                done += 1;
            }
        }
        done
    };
    let warm = world.now() + MILLI;
    copies(&mut world, &mut streams, &mut a, &mut b, warm);
    let before = [&streams[0], &streams[1]].map(Stream::bytes);
    let start = world.now();
    let end = start + 20 * MILLI;
    let copied = copies(&mut world, &mut streams, &mut a, &mut b, end);
    let sent = [0, 1].map(|n| streams[n].bytes() - before[n]);
    shared(&sent, &[1, 3], 3, "the link");
    let full = due(10_000, world.now() - start);
    close(sent.iter().sum(), full, 3, "the link is full");
    assert!(copied * 65_536 > 4 * full, "{copied} copies beside it");
}

/// Bytes that `streams` have sent in a time that begins after `pause`.
#[track_caller]
fn pace(world: &mut World, streams: &mut [Stream], pause: u64) -> u64 {
    let start = world.now() + pause;
    world.run(streams, start);
    let sent = |streams: &[Stream]| streams.iter().map(Stream::bytes).sum::<u64>();
    let before = sent(streams);
    world.run(streams, start + MILLI);
    sent(streams) - before
}

/// A function that sends alone has long turns, also if others receive; from the first message of a
/// second one on they are short, until it has been silent for a while. In virtual time, in which a step
/// takes a microsecond, turns show in what is sent.
#[test]
fn turns_are_short_while_several_send() {
    for kind in [Kind::Write(65_536), Kind::Read(65_536)] {
        let mut world = World::new(Way::Direct);
        let mut other = Stream::new(&mut world, 99, Kind::Write(64));
        other.over = true;
        let mut streams = [Stream::new(&mut world, 1, kind)];
        let alone = pace(&mut world, &mut streams, MILLI);
        let (list, to) = (
            [other.near.segment(0, 64)],
            (other.far.memory, other.far.key),
        );
        let hw = &other.near.driver.hw;
        other.near.qp.rdma(hw, WqeOpcode::Write, to, &list);
        let contended = pace(&mut world, &mut streams, 10 * MICRO);
        assert!(contended * 16 < alone, "{kind:?}: {contended} of {alone}");
        assert_eq!(other.near.poll().map(|entry| entry.status), Some(0));
        let again = pace(&mut world, &mut streams, 10 * MILLI);
        close(again, alone, 5, "as before");
        let [stream] = streams;
        stream.finish(&mut world);
    }
}
