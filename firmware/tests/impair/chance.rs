//! What happens by chance: how often, reproducibly, and each kind for itself.

use vrnic_firmware::impair::{Counters, Direction};

use crate::support::*;

const MANY: u64 = 100_000;

#[test]
fn rates_converge() {
    for seed in [0, 1, u64::MAX] {
        for (text, parts) in [
            ("1%", 1_000),
            ("0.1%", 100),
            ("0.3", 30_000),
            ("50%", 50_000),
        ] {
            println!("seed {seed}, {text}");
            let all = ["drop", "dup", "corrupt"].map(|key| format!("{key}={text}"));
            let mut wire = wire(&format!("{},seed={seed}", all.join(",")));
            run(&mut wire, MANY, 1);
            let Counters {
                dropped,
                duplicated,
                corrupted,
                ..
            } = wire.counters();
            let rest = parts * (MANY - dropped) / MANY;
            for (found, expected) in [(dropped, parts), (duplicated, rest), (corrupted, rest)] {
                // Five standard deviations and a little for the smallest.
                let bound = 5 * expected.isqrt() + 5;
                assert!(found.abs_diff(expected) < bound, "{found}, not {expected}");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_result_and_another_one_another() {
    let all = "drop=2%,dup=2%,reorder=3%,corrupt=2%,ecn=9%,delay=5us,jitter=9us,rate=1G";
    let go = |seed: u64| {
        let mut wire = wire(&format!("{all},seed={seed}"));
        (run(&mut wire, 20_000, 500), wire.counters())
    };
    let (first, second, other) = (go(7), go(7), go(8));
    assert!(first == second);
    assert!(first != other);
    assert!(first.1.dropped > 100 && first.1.reordered > 100 && first.1.corrupted > 100);
}

#[test]
fn directions_differ() {
    let spec = spec(&["drop=20%"], &[]);
    let [a, b] = [Direction::Transmit, Direction::Receive].map(|direction| {
        let mut wire = spec.build(direction).unwrap();
        numbers(&run(&mut wire, 1000, 1))
    });
    assert_ne!(a, b);
}

/// Which frames a wire drops, duplicates, corrupts.
fn decisions(text: &str) -> [Vec<u64>; 3] {
    const COUNT: u64 = 5_000;
    let mut wire = wire(text);
    let out = run(&mut wire, COUNT, 1);
    let copies = |n| out.iter().filter(|(_, frame)| number(frame) == n).count();
    let dropped = where_true(COUNT, |n| copies(n) == 0);
    let duplicated = where_true(COUNT, |n| copies(n) == 2);
    let intact = |frame: &Vec<u8>| *frame == numbered(number(frame), 100);
    let mut corrupted: Vec<u64> = out
        .iter()
        .filter(|(_, frame)| !intact(frame))
        .map(|(_, f)| number(f))
        .collect();
    corrupted.dedup();
    [dropped, duplicated, corrupted]
}

#[test]
fn one_kind_does_not_change_what_another_decides() {
    let [dropped, _, _] = decisions("drop=10%,seed=3");
    assert!(dropped.len() > 400);
    let [with_more, ..] = decisions("drop=10%,seed=3,dup=20%,reorder=5%,jitter=2us,ecn=50%");
    assert_eq!(with_more, dropped);
    let [_, duplicated, _] = decisions("dup=10%,seed=3");
    let [dropped, fewer, _] = decisions("dup=10%,drop=50%,seed=3");
    // Of those that are not dropped, the same are duplicated.
    let mut expected = duplicated.clone();
    expected.retain(|n| !dropped.contains(n));
    assert_eq!(fewer, expected);
    // About half of 500: the kinds are independent of each other as well.
    assert!((150..350).contains(&fewer.len()), "{}", fewer.len());
    // A higher chance hits all that a lower one does.
    let [more, ..] = decisions("drop=20%,seed=3");
    let [fewer, ..] = decisions("drop=10%,seed=3");
    assert!(fewer.iter().all(|n| more.contains(n)));
}

#[test]
fn nothing_happens_by_a_chance_of_zero_and_everything_by_one() {
    assert!(spec(&["seed=5"], &[]).build(Direction::Transmit).is_none());
    assert!(spec(&["drop=0%"], &[]).build(Direction::Receive).is_none());
    let mut all = wire("drop=100%");
    assert!(run(&mut all, 1000, 1).is_empty());
    let mut none = wire("dup=100%");
    let twice: Vec<u64> = (0..100).flat_map(|n| [n, n]).collect();
    assert_eq!(numbers(&run(&mut none, 100, 1)), twice);
}
