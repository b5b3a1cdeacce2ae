//! A victim with a connection, and a flooder, on one NIC.

use bytemuck::{Zeroable, bytes_of};
use vrnic_abi::admin::{AdminOpcode, Buffer, Completion, CreateQp};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_firmware::nic::Progress;

use crate::nic_bench::*;

/// Entries of a driver's admin ring.
const ADMIN_ENTRIES: usize = 1 << ADMIN_LOG;

pub(crate) struct World {
    pub(crate) bench: Bench,
    near: Node,
    far: Node,
    pub(crate) flooder: Node,
    outstanding: usize,
    written: u8,
    /// Steps that the victim's write has taken so far; 0 if there is none.
    waits: u32,
}

/// What a step did for the flooder.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) accesses: u64,
    pub(crate) bytes: u64,
}

impl World {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let mut bench = Bench::default();
        let (near, far) = pair(&mut bench);
        let flooder = Node::new(&mut bench, 3);
        let mut world = Self {
            bench,
            near,
            far,
            flooder,
            outstanding: 0,
            written: 0,
            waits: 0,
        };
        world.bench.run();
        world.victim_writes();
        world
    }

    /// Lets the victim write, until it is done: in two steps at most, as its peer answers in its own
    /// turn.
    #[track_caller]
    pub(crate) fn victim_writes(&mut self) {
        self.step();
        while self.waits > 0 {
            self.step();
        }
    }

    /// One step, and what it did for the flooder. The victim writes all the time.
    #[track_caller]
    pub(crate) fn step(&mut self) -> Work {
        if self.waits == 0 {
            self.post();
        }
        let (accesses, bytes) = self.work();
        self.bench.step();
        let (more, longer) = self.work();
        self.waits += 1;
        if let Some(entry) = self.near.poll() {
            assert_eq!(entry.status, 0);
            let data = [self.written; 64];
            assert_eq!(self.far.hw().bytes(self.far.memory, 64), data);
            self.waits = 0;
        } else {
            assert!(self.waits < 2, "the victim waits");
        }
        Work {
            accesses: more - accesses,
            bytes: longer - bytes,
        }
    }

    fn post(&mut self) {
        self.written = self.written.wrapping_add(1);
        let data = [self.written; 64];
        self.near.hw().write(self.near.memory, &data);
        let list = [self.near.segment(0, 64)];
        let to = (self.far.memory, self.far.key);
        let hw = self.near.driver.hw.clone();
        self.near.qp.rdma(&hw, WqeOpcode::Write, to, &list);
    }

    fn work(&self) -> (u64, u64) {
        let ram = &self.flooder.hw().ram;
        (ram.accesses.get(), ram.moved.get())
    }

    /// Steps without anything to do but what is under way: how many until there is nothing left.
    #[track_caller]
    pub(crate) fn steps_to_rest(&mut self) -> u32 {
        for steps in 0..1_000_000 {
            if self.bench.step() == Progress::Idle {
                return steps;
            }
            let asleep = self.bench.nic.prepare_sleep();
            self.bench.nic.wake();
            assert!(!asleep || self.bench.step() == Progress::Idle);
        }
        panic!("the NIC does not come to rest");
    }

    /// Fills the flooder's admin queue with what `next` makes, as far as it makes something, and
    /// returns what has completed.
    pub(crate) fn fill(
        &mut self,
        mut next: impl FnMut() -> Option<(AdminOpcode, Vec<u8>)>,
    ) -> Vec<Completion> {
        let driver = &mut self.flooder.driver;
        let completed: Vec<_> = std::iter::from_fn(|| driver.take(&mut self.bench)).collect();
        self.outstanding -= completed.len();
        while self.outstanding < ADMIN_ENTRIES {
            let Some((opcode, body)) = next() else {
                break;
            };
            driver.put(opcode.raw(), &body);
            self.outstanding += 1;
        }
        driver.announce(&mut self.bench);
        completed
    }

    /// Makes connected queue pairs of the flooder's, with queues of one entry that all lie in the
    /// same memory. Returns their numbers and doorbell slots.
    #[track_caller]
    pub(crate) fn queue_pairs(&mut self, count: usize, cq: u32) -> Vec<(u32, u32, u32)> {
        let (driver, bench) = (&mut self.flooder.driver, &mut self.bench);
        let address = driver.memory(4096, true);
        let mut page = driver.ok(bench, AdminOpcode::AllocDoorbellPage, &0u64) as u32;
        let mut made = Vec::new();
        while made.len() < count {
            let body = CreateQp {
                pd: self.flooder.pd,
                send_cq: cq,
                receive_cq: cq,
                buffer: Buffer {
                    address,
                    pages: 1,
                    page_shift: 12,
                    ..Buffer::zeroed()
                },
                doorbell_page: page,
                log_send_blocks: 3,
                ..CreateQp::zeroed()
            };
            let completion = driver.raw(bench, AdminOpcode::CreateQp.raw(), bytes_of(&body));
            if completion.status == 0 {
                let slot = completion.result1 as u32 & 0xffff;
                made.push((completion.result0 as u32, page, slot));
            } else {
                page = driver.ok(bench, AdminOpcode::AllocDoorbellPage, &0u64) as u32;
            }
        }
        made
    }
}
