//! The rules hold whatever happens: random operations over a wire that does everything.

use crate::nic_bench::Random;
use crate::world::{Op, Setup, World};

fn random(random: &mut Random) -> Op {
    let length = random.below(2_500) as u32;
    match random.below(6) {
        0 => Op::Write(length),
        1 => Op::Send(length),
        2 => Op::Read(length),
        3 => Op::FetchAdd(random.below(1_000)),
        4 => Op::AtomicWrite,
        _ => Op::Flush,
    }
}

/// 200 connections with 100 operations each, at most 30 at a time.
#[track_caller]
fn over(settings: &str) {
    let mut causes = [0; 3];
    for seed in 0..200 {
        println!("seed {seed}");
        let mut dice = Random(seed);
        let setup = Setup {
            first: dice.below(1 << 24) as u32 | 0xff_ff00,
            mtu: 1 + dice.below(3) as u8,
            retries: 7,
            rnr_retries: 7,
            depth: 1 + dice.below(30) as u8,
            ..Setup::default()
        };
        let mut world = World::new(setup);
        world.chance(&format!("{settings},seed={seed}"));
        for _ in 0..4 {
            for _ in 0..25 {
                world.post(random(&mut dice));
            }
            world.succeed_so_far();
        }
        world.succeed();
        let tally = world.tally();
        causes[0] += tally.sequence_errors;
        causes[1] += tally.implied;
        causes[2] += tally.timeouts;
    }
    println!("{causes:?}");
    assert!(causes.iter().all(|count| *count > 100), "{causes:?}");
}

#[test]
fn a_wire_that_loses() {
    over("drop=3%,delay=10us");
}

#[test]
fn a_slow_wire_that_loses() {
    over("drop=3%,rate=1G,delay=10us");
}

#[test]
fn a_wire_that_loses_doubles_corrupts_and_reorders() {
    over("drop=2%,dup=2%,corrupt=2%,reorder=2%,delay=10us,jitter=5us");
}
