//! Queues that fail with many that depend on them, and events that were held back.

use std::collections::BTreeSet;

use vrnic_abi::admin::{AdminOpcode, QpFlags, QpType};
use vrnic_abi::doorbell;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{QpAttributes, QpMask, QpState};
use vrnic_firmware::types::State;

use crate::nic_bench::*;
use crate::world::World;

/// Numbers of the flooder's queue pairs that have failed.
fn failed(world: &World) -> BTreeSet<u32> {
    let function = world.bench.nic.function(world.flooder.driver.id).unwrap();
    let qps = function.qps.iter();
    qps.filter(|(_, qp)| qp.transport.state() == State::Error)
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn queue_pairs_of_a_failed_queue_fail_in_turns() {
    let mut world = World::new();
    let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
    let cq = driver.cq(bench, &world.flooder.eq, 2);
    let gsi = driver.qp_of(bench, world.flooder.pd, &cq, QpType::Gsi, QpFlags::empty());
    let given = QpAttributes {
        state: QpState::Init.raw(),
        qkey: 1,
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE | QpMask::PKEY_INDEX | QpMask::QKEY;
    driver.modify_ok(bench, gsi.number, mask, &given);
    let made = world.queue_pairs(300, cq.number);
    let others = world.queue_pairs(5, world.flooder.cq.number);
    for (number, ..) in made.iter().chain(&others) {
        let (mask, given) = to_init();
        let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
        driver.modify_ok(bench, *number, mask, &given);
    }
    // Eight requests are flushed into a queue of four entries.
    let (first, page, slot) = made[0];
    let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
    driver.set_state(bench, first, QpState::Error);
    let hw = driver.hw.clone();
    hw.store_slot(page, slot, doorbell::send_queue(8, first));
    hw.mark(page, slot);
    let mut before = failed(&world);
    assert_eq!(before.len(), 1);
    let mut steps = 0;
    while before.len() < 301 {
        world.step();
        let after = failed(&world);
        assert!(after.len() <= before.len() + 1, "in one step");
        before = after;
        steps += 1;
        assert!(steps < 400, "{} of 301", before.len());
    }
    assert!(before.contains(&1), "the general services interface");
    world.bench.run();
    assert_eq!(failed(&world), before, "others do not complete there");
}

/// Entries of the event queue, as a power of two.
const LOG_EVENTS: u8 = 8;

#[test]
fn events_that_were_held_back_are_written_in_portions() {
    let mut world = World::new();
    let (driver, bench) = (&mut world.flooder.driver, &mut world.bench);
    let mut eq = driver.eq(bench, LOG_EVENTS, 5);
    driver.destroy(bench, AdminOpcode::SetAsyncEq, eq.number);
    let made = world.queue_pairs(800, world.flooder.cq.number);
    let hw = world.flooder.driver.hw.clone();
    // More than the queue holds: it fails, with an event.
    for (number, page, slot) in &made {
        hw.store_slot(*page, *slot, doorbell::send_queue(0x7000_0000, *number));
        hw.mark(*page, *slot);
    }
    world.bench.run();
    let mut seen = Vec::new();
    let mut take = |eq: &mut Eq| {
        let before = seen.len();
        while let Some(event) = eq.poll(&hw) {
            assert_eq!(event.event, EventType::QpFatal.raw());
            seen.push(event.object);
        }
        eq.free(&hw);
        seen.len() - before
    };
    assert_eq!(take(&mut eq), 1 << LOG_EVENTS);
    let mut steps = 0;
    let mut left = 800 - (1 << LOG_EVENTS);
    while left > 0 {
        world.step();
        let written = take(&mut eq);
        assert!(written <= 64, "{written} in one step");
        left -= written;
        steps += 1;
        assert!(steps < 100, "{left} are missing");
    }
    assert_eq!(take(&mut eq), 0);
    let wanted: Vec<u32> = made.iter().map(|(number, ..)| *number).collect();
    let unique: BTreeSet<u32> = seen.iter().copied().collect();
    assert_eq!(unique.len(), 800, "each once");
    assert!(wanted.iter().all(|number| unique.contains(number)));
}
