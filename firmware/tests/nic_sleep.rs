//! The hand-over between a driver that rings and an engine that falls asleep: the real engine code
//! against the driver's steps of `vrnic_abi::doorbell`, in every order.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nic_bench::*;
use vrnic_abi::admin::AdminOpcode;
use vrnic_abi::doorbell;
use vrnic_abi::wqe::WqeOpcode;

/// The driver's side of the hand-over, one step at a time.
struct Ringer {
    hw: Rc<Hardware>,
    slot: u32,
    value: u64,
    /// Stores that no other processor sees before the barrier.
    buffers: bool,
    done: usize,
    kicked: bool,
}

impl Ringer {
    const STEPS: usize = 4;

    fn store(&self) {
        self.hw.store_slot(0, self.slot, self.value);
    }

    fn advance(&mut self) {
        match self.done {
            0 if !self.buffers => self.store(),
            1 if !self.buffers => self.hw.mark(0, self.slot),
            2 if self.buffers => {
                self.store();
                self.hw.mark(0, self.slot);
            }
            3 => self.kicked = self.hw.is_asleep(0),
            _ => {}
        }
        self.done += 1;
    }
}

/// How many of the driver's steps come before each of the engine's accesses.
type Schedule = [usize; Ringer::STEPS];

/// All ways to put the steps, in order, before one of `accesses` accesses or after all of them.
fn schedules(accesses: usize) -> Vec<Schedule> {
    let mut all = Vec::new();
    for a in 0..=accesses {
        for b in a..=accesses {
            for c in b..=accesses {
                for d in c..=accesses {
                    all.push([a, b, c, d]);
                }
            }
        }
    }
    all
}

/// Lets the driver ring for one more request while `engine` runs, by the schedule. Returns the
/// driver and how many accesses the engine made.
fn interleave(
    bench: &mut Bench,
    node: &mut Node,
    schedule: Schedule,
    buffers: bool,
    engine: impl FnOnce(&mut Bench),
) -> (Ringer, usize) {
    let control = control(WqeOpcode::Nop, 0, 0);
    let hw = node.driver.hw.clone();
    let old = doorbell::send_queue(node.qp.posted, node.qp.number);
    // Writes the request; ringing is taken back, as the steps below do it.
    node.qp.post(&hw, control, &[]);
    hw.store_slot(0, node.qp.send_slot, old);
    vrnic_firmware::host::Host::take_marks(&TestHost(hw.clone()), 0);

    let ringer = Rc::new(RefCell::new(Ringer {
        hw: hw.clone(),
        slot: node.qp.send_slot,
        value: doorbell::send_queue(node.qp.posted, node.qp.number),
        buffers,
        done: 0,
        kicked: false,
    }));
    let count = Rc::new(Cell::new(0));
    let (hook_ringer, hook_count) = (ringer.clone(), count.clone());
    *hw.hook.borrow_mut() = Some(Box::new(move || {
        let mut ringer = hook_ringer.borrow_mut();
        while ringer.done < Ringer::STEPS && schedule[ringer.done] <= hook_count.get() {
            ringer.advance();
        }
        hook_count.set(hook_count.get() + 1);
    }));
    engine(bench);
    *hw.hook.borrow_mut() = None;
    let accesses = count.get();
    let mut ringer = Rc::try_unwrap(ringer).ok().unwrap().into_inner();
    while ringer.done < Ringer::STEPS {
        ringer.advance();
    }
    (ringer, accesses)
}

/// Whether a wake-up is lost with this schedule.
fn is_lost(schedule: Schedule, driver_buffers: bool, engine_buffers: bool, barriers: bool) -> bool {
    let mut bench = Bench::default();
    let (mut a, _b) = pair(&mut bench);
    bench.run();
    a.driver.hw.buffer_stores.set(engine_buffers);
    a.driver.hw.no_barriers.set(!barriers);
    let mut sleeps = false;
    let (ringer, _) = interleave(&mut bench, &mut a, schedule, driver_buffers, |bench| {
        sleeps = bench.nic.prepare_sleep();
    });
    if sleeps {
        return !ringer.kicked;
    }
    a.driver.hw.drain_stores();
    assert!(!a.driver.hw.is_asleep(0));
    bench.run();
    assert_eq!(a.poll().expect("the request is seen").status, 0);
    false
}

#[test]
fn no_order_loses_a_wake_up() {
    let mut orders = 0;
    for schedule in schedules(4) {
        for (driver, engine) in [(false, false), (true, false), (false, true), (true, true)] {
            assert!(
                !is_lost(schedule, driver, engine, true),
                "{schedule:?} with store buffers {driver} {engine}"
            );
            orders += 1;
        }
    }
    assert_eq!(orders, 4 * 70);
}

#[test]
fn without_the_barrier_some_order_does() {
    let lost = schedules(4)
        .into_iter()
        .filter(|schedule| is_lost(*schedule, false, true, false))
        .count();
    assert!(lost > 0, "the search would find a lost wake-up");
}

#[test]
fn a_ring_during_a_step_is_seen_by_it_or_the_next() {
    for schedule in schedules(3) {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let qpn = a.qp.number;
        a.driver.connect(&mut bench, qpn, 1, qpn);
        a.qp.post(&a.driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
        // The first request is rung for, the second one while the engine looks.
        let (hw, slot) = (a.driver.hw.clone(), a.qp.send_slot);
        let (_, accesses) = interleave(&mut bench, &mut a, schedule, false, |bench| {
            hw.mark(0, slot);
            bench.step();
        });
        assert!(accesses >= 2, "the mark and the slot");
        bench.run();
        assert_eq!(a.poll().unwrap().status, 0);
        assert_eq!(a.poll().expect("the second one is seen").status, 0);
    }
}

#[test]
fn pages_say_whether_the_engine_sleeps() {
    let mut bench = Bench::default();
    let mut a = Node::new(&mut bench, 1);
    bench.run();
    assert!(bench.nic.prepare_sleep());
    assert!(a.hw().is_asleep(0));
    bench.nic.wake();
    assert!(!a.hw().is_asleep(0));
    let page = a
        .driver
        .ok(&mut bench, AdminOpcode::AllocDoorbellPage, &0u64) as u32;
    bench.run();
    assert!(!a.hw().is_asleep(page));
    assert!(bench.nic.prepare_sleep());
    assert!(a.hw().is_asleep(page));
    // Work that is known keeps the engine awake.
    bench.nic.wake();
    a.driver.put(0, &[]);
    a.driver.announce(&mut bench);
    assert!(!bench.nic.prepare_sleep());
    assert!(!a.hw().is_asleep(0));
    assert!(bench.nic.next_timeout().is_some());
}
