//! Users of one function, and traffic between two of them that must arrive.

use vrnic_abi::admin::{AdminOpcode, ObjectReference, QpFlags};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::doorbell;
use vrnic_abi::object::{QpAttributes, QpState};
use vrnic_abi::wqe::{DataSegment, WqeOpcode};
use vrnic_firmware::host::Memory;

use crate::nic_bench::{Bench, Cq, Driver, Eq, Hardware, Qp, Random, data};

/// Bytes of a user's memory.
pub const ROOM: u64 = 1 << 16;
/// Steps in which a message arrives, whatever others do.
const STEPS: usize = 200;

/// A user: a doorbell page, a protection domain, and a queue pair with memory.
pub struct User {
    pub page: u32,
    pub pd: u32,
    pub cq: Cq,
    pub qp: Qp,
    pub memory: u64,
    pub key: u32,
}

impl User {
    #[track_caller]
    pub fn new(bench: &mut Bench, driver: &mut Driver, eq: &Eq) -> Self {
        let page = driver.ok(bench, AdminOpcode::AllocDoorbellPage, &0u64) as u32;
        driver.page = page;
        let cq = driver.cq(bench, eq, 6);
        let pd = driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
        let qp = driver.qp_with(bench, pd, &cq, &cq, QpFlags::empty());
        driver.page = 0;
        let memory = driver.memory(ROOM, false);
        let key = driver.mr(bench, pd, memory, ROOM);
        Self {
            page,
            pd,
            cq,
            qp,
            memory,
            key,
        }
    }

    pub fn segment(&self, offset: u64, length: u32) -> DataSegment {
        data(self.memory + offset, length, self.key)
    }

    pub fn poll(&mut self, hw: &Hardware) -> Option<CompletionEntry> {
        self.cq.poll(hw)
    }
}

/// A function with users, of which two talk to each other.
pub struct World {
    pub bench: Bench,
    pub driver: Driver,
    /// For completions of all users.
    pub eq: Eq,
    /// For asynchronous events.
    pub events: Eq,
    pub good: [User; 2],
}

impl World {
    #[track_caller]
    pub fn new() -> Self {
        let mut bench = Bench::default();
        let mut driver = Driver::ready(&mut bench, 1);
        let eq = driver.eq(&mut bench, 8, 3);
        let events = driver.eq(&mut bench, 6, 4);
        driver.destroy(&mut bench, AdminOpcode::SetAsyncEq, events.number);
        let mut user = || User::new(&mut bench, &mut driver, &eq);
        let good = [user(), user()];
        let mut world = Self {
            bench,
            driver,
            eq,
            events,
            good,
        };
        let [a, b] = [0, 1].map(|n| world.good[n].qp.number);
        world.join(a, b);
        world
    }

    #[track_caller]
    pub fn user(&mut self) -> User {
        User::new(&mut self.bench, &mut self.driver, &self.eq)
    }

    /// Connects two queue pairs of the function.
    #[track_caller]
    pub fn join(&mut self, a: u32, b: u32) {
        self.driver.connect(&mut self.bench, a, 1, b);
        self.driver.connect(&mut self.bench, b, 1, a);
    }

    /// Frees all entries of a completion queue, whatever they say.
    pub fn consume(&self, cq: &Cq) {
        let function = self.bench.nic.function(self.driver.id).unwrap();
        let written = function.objects.cqs.get(cq.number).unwrap().ring.producer();
        let value = doorbell::consumer(written, 0, false);
        self.driver.hw.store_slot(0, cq.slot, value);
    }

    #[track_caller]
    pub fn free_page(&mut self, page: u32) -> u16 {
        let body = ObjectReference {
            object: page,
            reserved: 0,
        };
        let opcode = AdminOpcode::FreeDoorbellPage;
        self.driver.command(&mut self.bench, opcode, &body).status
    }

    /// A message from one good user to the other, with `disturb` before every step; all of it
    /// arrives in time, and nothing else.
    #[track_caller]
    pub fn message(&mut self, random: &mut Random, mut disturb: impl FnMut(&Hardware)) {
        let mut bytes = vec![0; 1 + random.below(9000) as usize];
        random.fill(&mut bytes);
        let length = bytes.len() as u32;
        let [a, b] = &mut self.good;
        let hw = &self.driver.hw;
        hw.ram.write(a.memory, &bytes).unwrap();
        hw.ram.write(b.memory, &vec![0x3c; 10_000]).unwrap();
        b.qp.receive(hw, &[b.segment(100, length)]);
        let list = [a.segment(0, length)];
        a.qp.send(hw, WqeOpcode::Send, 0, &list);
        let mut ends = [None, None];
        for _ in 0..STEPS {
            disturb(hw);
            self.bench.step();
            for (end, user) in ends.iter_mut().zip([&mut *a, &mut *b]) {
                *end = end.or_else(|| user.poll(hw));
            }
            if let [Some(sent), Some(received)] = ends {
                assert_eq!((sent.status, received.status), (0, 0));
                assert_eq!(received.byte_length, length);
                let wanted = [vec![0x3c; 100], bytes, vec![0x3c; 100]].concat();
                assert!(hw.bytes(b.memory, wanted.len()) == wanted);
                self.good.swap(0, 1);
                return;
            }
        }
        panic!("the message does not arrive: {ends:?}");
    }

    /// The state of a queue pair.
    #[track_caller]
    pub fn state(&mut self, qp: u32) -> QpState {
        let found: QpAttributes = self.driver.query(&mut self.bench, AdminOpcode::QueryQp, qp);
        QpState::from_raw(found.state).unwrap()
    }

    /// Takes a queue pair out of whatever state it is in and connects it again.
    #[track_caller]
    pub fn restart(&mut self, qp: &mut Qp, peer: u32) {
        self.driver
            .set_state(&mut self.bench, qp.number, QpState::Reset);
        (qp.posted, qp.received) = (0, 0);
        self.driver.connect(&mut self.bench, qp.number, 1, peer);
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        let function = self.bench.nic.function(self.driver.id).unwrap();
        function.objects.counters[usize::from(counter.raw())]
    }

    /// The function goes on, and so does its driver.
    #[track_caller]
    pub fn assert_well(&mut self) {
        assert_eq!(self.driver.state(), 1);
        self.driver.ok(&mut self.bench, AdminOpcode::Nop, &0u64);
    }
}
