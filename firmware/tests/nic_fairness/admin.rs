//! Floods of commands and resets.

use bytemuck::{Zeroable, bytes_of};
use vrnic_abi::admin::{
    AccessFlags, AdminOpcode, Buffer, CreateMr, ObjectReference, OutputBuffer, Status,
};
use vrnic_abi::counter::Counter;
use vrnic_abi::doorbell;
use vrnic_firmware::host::Host;

use crate::world::World;

/// Objects that a step frees.
const FREED: u32 = 4;
/// Entries of a page list that a step reads, and half of those that it frees.
const SEGMENT: u32 = 64;

#[test]
fn a_step_carries_out_one_command() {
    let mut world = World::new();
    let output = OutputBuffer {
        address: world.flooder.driver.memory(4096, false),
        length: 4096,
        reserved: 0,
    };
    let mut completed = 0;
    for _ in 0..200 {
        let done = world.fill(|| Some((AdminOpcode::QueryCounters, bytes_of(&output).to_vec())));
        assert!(done.iter().all(|done| done.status == 0));
        completed += done.len();
        let work = world.step();
        // It is fetched, answered and completed.
        assert!(work.accesses <= 3, "{work:?}");
    }
    assert!(completed >= 180, "{completed}");
}

/// Pages of a region whose list fits into the bench's memory, apart from a few.
const PAGES: u32 = 1 << 19;

fn region(world: &mut World, list: u64) -> CreateMr {
    CreateMr {
        pd: world.flooder.pd,
        access: AccessFlags::LOCAL_WRITE.bits(),
        length: u64::from(PAGES) << 12,
        buffer: Buffer {
            address: list,
            pages: PAGES,
            page_shift: 12,
            list: 1,
            reserved: 0,
        },
        ..CreateMr::zeroed()
    }
}

#[test]
fn a_long_page_list_is_read_and_freed_in_segments() {
    let mut world = World::new();
    let list = world.flooder.driver.memory(u64::from(PAGES) * 8, true);
    let body = region(&mut world, list);
    let mut first = Some((AdminOpcode::CreateMr, bytes_of(&body).to_vec()));
    let (mut steps, mut done) = (0, world.fill(|| first.take()));
    while done.is_empty() {
        let work = world.step();
        assert!(work.bytes <= 8 * u64::from(SEGMENT) + 64 + 32, "{work:?}");
        steps += 1;
        done = world.fill(|| None);
    }
    assert_eq!(done[0].status, Status::Success.raw());
    assert!(steps >= PAGES / SEGMENT, "{steps}");
    assert!(world.steps_to_rest() <= 3, "nothing is left over");
    // Its end is the end of its key at once, and of its memory later.
    let object = done[0].result0 as u32;
    world
        .flooder
        .driver
        .destroy(&mut world.bench, AdminOpcode::DestroyMr, object);
    let steps = world.steps_to_rest();
    let all = PAGES / SEGMENT / 2;
    assert!((all - 4..=all + 2).contains(&steps), "{steps}");
}

#[test]
fn a_long_page_list_that_is_one_range_or_wrong_is_freed_too() {
    for wrong in [false, true] {
        let mut world = World::new();
        let list = world.flooder.driver.memory(u64::from(PAGES) * 8, true);
        for page in 0..u64::from(PAGES) {
            world.flooder.hw().write(list + page * 8, &(page << 12));
        }
        if wrong {
            let last = list + (u64::from(PAGES) - 1) * 8;
            world.flooder.hw().write(last, &8u64);
        }
        let body = region(&mut world, list);
        let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
        let done = driver.command(bench, AdminOpcode::CreateMr, &body);
        let status = if wrong {
            Status::BadArgument
        } else {
            Status::Success
        };
        assert_eq!(Status::from_raw(done.status), Some(status));
        let steps = world.steps_to_rest();
        let all = PAGES / SEGMENT / 2;
        assert!((all - 4..=all + 2).contains(&steps), "{steps}");
    }
}

#[test]
fn a_reset_takes_a_step_and_what_it_ends_is_freed_in_portions() {
    let mut world = World::new();
    let cq = world.flooder.cq.number;
    world.queue_pairs(700, cq);
    let list = world.flooder.driver.memory(u64::from(PAGES) * 8, true);
    let body = region(&mut world, list);
    // One region is there, of another one the list is being read.
    let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
    driver.ok(bench, AdminOpcode::CreateMr, &body);
    driver.put(AdminOpcode::CreateMr.raw(), bytes_of(&body));
    driver.announce(bench);
    for _ in 0..300 {
        bench.step();
    }
    let id = driver.id;
    bench.nic.reset(id);
    let function = bench.nic.function(id).unwrap();
    assert_eq!((function.qps.len(), function.objects.cqs.len()), (0, 0));
    assert!(function.has_chores());
    // The next life begins at once, and its objects are not touched.
    driver.enable(bench);
    let pd = driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
    for _ in 0..5 {
        world.victim_writes();
    }
    let steps = world.steps_to_rest();
    let segments = PAGES / SEGMENT + 300;
    assert!(steps >= segments / 2 - 20, "{steps}");
    assert!(steps <= segments / 2 + 700 / FREED + 10, "{steps}");
    let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
    assert!(!bench.nic.function(id).unwrap().has_chores());
    driver.destroy(bench, AdminOpcode::FreePd, pd);
}

#[test]
fn remains_are_freed_without_a_next_life() {
    let mut world = World::new();
    let cq = world.flooder.cq.number;
    world.queue_pairs(300, cq);
    let id = world.flooder.driver.id;
    for _ in 0..3 {
        world.bench.nic.reset(id);
    }
    assert!(!world.bench.nic.prepare_sleep());
    assert!(world.steps_to_rest() >= 300 / FREED);
    assert!(world.bench.nic.prepare_sleep());
    world.bench.nic.wake();
}

#[test]
fn a_function_that_is_removed_is_freed_in_portions() {
    let mut world = World::new();
    let cq = world.flooder.cq.number;
    world.queue_pairs(300, cq);
    let id = world.flooder.driver.id;
    assert!(world.bench.nic.remove_function(id).is_some());
    assert!(world.bench.nic.function(id).is_none());
    assert!(!world.bench.nic.prepare_sleep());
    for _ in 0..5 {
        world.victim_writes();
    }
    assert!(world.steps_to_rest() >= 300 / FREED - 10);
    assert!(world.bench.nic.prepare_sleep());
    world.bench.nic.wake();
}

#[test]
fn nothing_rung_before_a_reset_is_heard_after_it() {
    let mut world = World::new();
    let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
    let page = driver.ok(bench, AdminOpcode::AllocDoorbellPage, &0u64) as u32;
    bench.nic.reset(driver.id);
    for slot in doorbell::FIRST_SLOT..doorbell::END_SLOT {
        driver
            .hw
            .store_slot(page, slot, doorbell::consumer(0x7777, 1, false));
    }
    driver.hw.mark_all(page, !1);
    driver.enable(bench);
    let eq = driver.eq(bench, 4, 1);
    let again = driver.ok(bench, AdminOpcode::AllocDoorbellPage, &0u64) as u32;
    assert_eq!(again, page);
    driver.page = page;
    let cq = driver.cq(bench, &eq, 4);
    bench.run();
    let host = bench.nic.host(driver.id).unwrap();
    assert_eq!(host.doorbell(page, cq.slot % doorbell::END_SLOT), 0);
    assert_eq!(world.flooder.counter(&world.bench, Counter::BadDoorbell), 0);
}

#[test]
fn a_queue_pair_that_is_destroyed_leaves_nothing_in_the_lists() {
    let mut world = World::new();
    let cq = world.flooder.cq.number;
    for _ in 0..20 {
        let made = world.queue_pairs(100, cq);
        let hw = world.flooder.driver.hw.clone();
        for (number, page, slot) in &made {
            hw.store_slot(*page, *slot, doorbell::send_queue(1, *number));
            hw.mark(*page, *slot);
        }
        for (number, ..) in &made {
            let reference = ObjectReference {
                object: *number,
                reserved: 0,
            };
            let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
            driver.ok(bench, AdminOpcode::DestroyQp, &reference);
        }
        world.victim_writes();
    }
    world.bench.run();
    let id = world.flooder.driver.id;
    assert!(!world.bench.nic.function(id).unwrap().has_chores());
}
