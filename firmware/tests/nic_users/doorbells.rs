//! Doorbell pages: whose they are, and what garbage in one costs others.

use std::cell::Cell;
use std::rc::Rc;

use vrnic_abi::admin::{AdminOpcode, Status};
use vrnic_abi::counter::Counter;
use vrnic_abi::doorbell::{self, END_SLOT, FIRST_SLOT, SLOTS_PER_GROUP};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::host::Host;

use crate::nic_bench::{Bench, Hardware, Node, Random, join};
use crate::user::{User, World};

/// All marks.
const ALL: u64 = !1;

/// Writes what nobody should into every slot of a page, and marks all of it.
fn scribble(hw: &Hardware, user: &User, random: &mut Random) {
    for slot in FIRST_SLOT..END_SLOT {
        let value = match random.below(4) {
            0 => doorbell::send_queue(random.next() as u32, user.qp.number),
            1 => doorbell::send_queue(random.below(70) as u32, random.below(40) as u32),
            2 => {
                let (index, sequence) = (random.below(70) as u32, random.next() as u16);
                doorbell::consumer(index, sequence, random.below(2) == 0)
            }
            _ => random.next(),
        };
        hw.store_slot(user.page, slot, value);
    }
    hw.mark_all(user.page, random.next());
}

#[test]
fn garbage_hurts_only_queues_of_its_page() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut world = World::new();
        let (bad, peer) = (world.user(), world.user());
        world.join(bad.qp.number, peer.qp.number);
        let mut chance = Random(random.next());
        for _ in 0..50 {
            world.message(&mut random, |hw| scribble(hw, &bad, &mut chance));
            // The event queue does not fill up for those who look after it.
            while world.eq.poll(&world.driver.hw).is_some() {}
            world.eq.arm(&world.driver.hw);
        }
        assert!(world.counter(Counter::BadDoorbell) > 0, "seed {seed}");
        world.assert_well();
    }
}

/// The reads of slots in each of some steps.
fn reads_a_step(bench: &mut Bench, hw: &Hardware, mut before: impl FnMut()) -> Vec<u64> {
    let reads = Rc::new(Cell::new(0));
    (0..40)
        .map(|_| {
            before();
            reads.set(0);
            let seen = Rc::clone(&reads);
            *hw.hook.borrow_mut() = Some(Box::new(move || seen.set(seen.get() + 1)));
            bench.step();
            *hw.hook.borrow_mut() = None;
            reads.get()
        })
        .collect()
}

#[test]
fn the_work_that_marks_make_in_a_step_is_bounded() {
    let mut world = World::new();
    let mut pages = Vec::new();
    // A queue in each group of eight pages, and all of one page.
    for (n, queues) in [(0, 504 - 3)].into_iter().chain((1..8).map(|n| (n, 63))) {
        let user = world.user();
        world.driver.page = user.page;
        for _ in 0..queues {
            world.driver.cq(&mut world.bench, &world.eq, 2);
        }
        world.driver.page = 0;
        pages.push((n, user.page));
    }
    let hw = Rc::clone(&world.driver.hw);
    let one = pages[0].1;
    // Besides slots, a step looks at the marks of each page.
    let looks = 16;
    let reads = reads_a_step(&mut world.bench, &hw, || hw.mark_all(one, ALL));
    let slots = u64::from(8 * SLOTS_PER_GROUP);
    assert!(
        reads.iter().all(|reads| *reads <= slots + looks),
        "{reads:?}"
    );
    let all: Vec<u32> = pages.iter().map(|(_, page)| *page).collect();
    let reads = reads_a_step(&mut world.bench, &hw, || {
        all.iter().for_each(|page| hw.mark_all(*page, ALL));
    });
    let slots = u64::from(8 * SLOTS_PER_GROUP) + 8 * 2;
    assert!(
        reads.iter().all(|reads| *reads <= slots + looks),
        "{reads:?}"
    );
    // When it is over, all groups have been looked at in a few steps.
    let reads = reads_a_step(&mut world.bench, &hw, || {});
    let busy = reads.iter().take_while(|reads| **reads > looks).count();
    assert!((1..=8 * 64 / 16 + 1).contains(&busy), "{reads:?}");
}

#[test]
fn marks_that_wait_keep_the_engine_awake() {
    let mut world = World::new();
    let user = world.user();
    world.driver.page = user.page;
    for _ in 0..60 {
        world.driver.cq(&mut world.bench, &world.eq, 2);
    }
    world.driver.page = 0;
    world.bench.run();
    assert!(world.bench.nic.prepare_sleep());
    world.bench.nic.wake();
    world.driver.hw.mark_all(user.page, ALL);
    let mut steps = 0;
    // 63 groups, 8 at a time.
    while !world.bench.nic.prepare_sleep() {
        world.bench.step();
        steps += 1;
        assert!(steps <= 8);
    }
    assert_eq!(steps, 8);
}

#[test]
fn other_functions_are_served_meanwhile() {
    let mut world = World::new();
    let (bad, mut random) = (world.user(), Random(3));
    let (hw, mut bench) = (Rc::clone(&world.driver.hw), world.bench);
    let mut one = Node::new(&mut bench, 2);
    let mut two = Node::new(&mut bench, 3);
    join(&mut bench, &mut one, &mut two);
    for _ in 0..200 {
        scribble(&hw, &bad, &mut random);
        let list = [two.segment(0, 64)];
        two.qp.receive(&two.driver.hw, &list);
        let list = [one.segment(0, 64)];
        one.qp.send(&one.driver.hw, WqeOpcode::Send, 0, &list);
        let mut arrived = false;
        for _ in 0..4 {
            scribble(&hw, &bad, &mut random);
            bench.step();
            arrived |= two.poll().is_some_and(|entry| entry.status == 0);
        }
        assert!(arrived, "not in four steps");
        while one.poll().is_some() {}
    }
}

#[test]
fn a_page_in_use_is_not_freed_and_a_new_owner_finds_it_clean() {
    let mut world = World::new();
    let user = world.user();
    assert_eq!(world.free_page(user.page), Status::Busy.raw());
    assert_eq!(world.free_page(0), Status::NoSuchObject.raw());
    let page = user.page;
    world.driver.hw.mark_all(page, ALL);
    world
        .driver
        .destroy(&mut world.bench, AdminOpcode::DestroyQp, user.qp.number);
    assert_eq!(world.free_page(page), Status::Busy.raw());
    world
        .driver
        .destroy(&mut world.bench, AdminOpcode::DestroyCq, user.cq.number);
    assert_eq!(world.free_page(page), 0);
    assert_eq!(world.free_page(page), Status::NoSuchObject.raw());
    // Its former owner still writes.
    let hw = Rc::clone(&world.driver.hw);
    for slot in FIRST_SLOT..END_SLOT {
        hw.store_slot(page, slot, u64::MAX);
    }
    hw.mark_all(page, ALL);
    world.bench.step();
    let next = world.user();
    assert_eq!(next.page, page, "the same page");
    assert_eq!(world.counter(Counter::BadDoorbell), 0);
    assert!(!hw.is_asleep(page));
    let host = world.bench.nic.host(world.driver.id).unwrap();
    for slot in FIRST_SLOT..END_SLOT {
        assert_eq!(host.doorbell(page, slot), 0, "slot {slot}");
    }
    // And it works.
    let other = world.user();
    world.join(next.qp.number, other.qp.number);
    world.good = [next, other];
    world.message(&mut Random(1), |_| {});
}

#[test]
fn a_state_that_a_user_overwrites_is_its_own() {
    let mut world = World::new();
    let mut random = Random(5);
    let bad = world.user();
    for _ in 0..50 {
        world.message(&mut random, |_| {});
        world.bench.run();
        // It says that the engine is awake while that sleeps.
        assert!(world.bench.nic.prepare_sleep());
        for page in 0..=bad.page {
            assert!(world.driver.hw.is_asleep(page));
        }
        world.driver.hw.set_asleep(bad.page, false);
        for user in &world.good {
            assert!(world.driver.hw.is_asleep(user.page));
        }
        world.bench.nic.wake();
        world.driver.hw.set_asleep(bad.page, true);
        // It is published anew with every change.
        assert!(world.bench.nic.prepare_sleep());
        world.bench.nic.wake();
        assert!(!world.driver.hw.is_asleep(bad.page));
    }
}
