//! Limits that change while data is on its way.

use crate::world::*;

#[test]
fn a_limit_comes_changes_and_goes_under_traffic() {
    for way in [Way::Direct, Way::Link(100_000)] {
        for kind in [
            Kind::Write(65_536),
            Kind::Read(65_536),
            Kind::Datagram(1_000),
            Kind::Frame(1_514),
        ] {
            let mut world = World::new(way);
            let mut streams = [Stream::new(&mut world, 1, kind)];
            let sent = |world: &mut World, streams: &mut [Stream; 1], rate: Option<u32>| {
                world.set(&streams[0].near, |policy| policy.max_rate = rate);
                // What was collected at the rate before is used up.
                let start = world.now() + 4 * MILLI;
                world.run(streams, start);
                let before = streams[0].bytes();
                let end = start + 20 * MILLI;
                world.run(streams, end);
                streams[0].bytes() - before
            };
            let free = sent(&mut world, &mut streams, None);
            for rate in [1_000, 200, 2_000] {
                let found = sent(&mut world, &mut streams, Some(rate));
                // The last message may be done only in part.
                let wanted = due(rate.into(), 20 * MILLI);
                let slack = 2 * kind.on_the_wire();
                assert!(
                    found.abs_diff(wanted) <= wanted / 50 + slack,
                    "{way:?} {kind:?} {rate}: {found} {wanted}"
                );
            }
            let again = sent(&mut world, &mut streams, None);
            close(again, free, 5, "as before");
            let [stream] = streams;
            stream.finish(&mut world);
        }
    }
}

/// Rules that have nothing to do with the limit leave it as it is.
#[test]
fn other_rules_do_not_fill_the_bucket() {
    let mut world = World::new(Way::Direct);
    let mut streams = [Stream::new(&mut world, 1, Kind::Write(4_096))];
    world.set(&streams[0].near, |policy| policy.max_rate = Some(1_000));
    let start = world.now();
    while world.now() < start + 20 * MILLI {
        let next = world.now() + 10 * MICRO;
        world.run(&mut streams, next);
        world.set(&streams[0].near, |policy| policy.trusted = !policy.trusted);
    }
    let elapsed = world.now() - start;
    close(streams[0].bytes(), due(1_000, elapsed), 2, "the limit");
}
