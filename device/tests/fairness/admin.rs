//! Floods of admin commands.

use std::collections::VecDeque;

use bytemuck::Zeroable;
use vrnic_abi::admin::{
    AccessFlags, AdminOpcode, Buffer, Completion, CreateCq, CreateEq, CreateMr, CreateQp,
    ObjectReference, OutputBuffer, QpType, Status,
};
use vrnic_abi::doorbell::{END_SLOT, FIRST_SLOT};
use vrnic_driver::DmaBuffer;

use super::flooder::{Dma, Flooder};
use super::{Flood, Scene, compare};

/// Commands without end.
trait Commands {
    /// Submits the next one; false if others have to complete first.
    fn next(&mut self, flooder: &mut Flooder) -> bool;
    /// One has completed.
    fn done(&mut self, _: &Completion) {}
}

/// Keeps the admin queue full of commands.
struct Full<C> {
    flooder: Flooder,
    commands: C,
}

impl<C: Commands> Full<C> {
    fn take(&mut self) {
        while let Some(completion) = self.flooder.take() {
            self.commands.done(&completion);
        }
    }
}

impl<C: Commands> Flood for Full<C> {
    fn feed(&mut self) {
        if self.flooder.waiting() >= 256 {
            return;
        }
        self.take();
        while self.flooder.has_room() && self.commands.next(&mut self.flooder) {}
        self.flooder.announce();
    }

    fn is_on(&mut self) -> bool {
        self.flooder.waiting() > 0
    }
}

fn reference(object: u32) -> ObjectReference {
    ObjectReference {
        object,
        reserved: 0,
    }
}

/// A buffer in one piece, whose memory nobody accesses.
fn buffer(bytes: u64) -> Buffer {
    Buffer {
        pages: bytes.div_ceil(4096) as u32,
        page_shift: 12,
        ..Buffer::zeroed()
    }
}

// --- queries

struct Queries {
    output: Dma,
    asked: usize,
}

impl Commands for Queries {
    fn next(&mut self, flooder: &mut Flooder) -> bool {
        let kinds = [
            AdminOpcode::QueryCounters,
            AdminOpcode::QueryDevice,
            AdminOpcode::QueryPort,
        ];
        let body = OutputBuffer {
            address: self.output.device_address(),
            length: 4096,
            reserved: 0,
        };
        self.asked += 1;
        flooder.submit(0, kinds[self.asked % kinds.len()], &body);
        true
    }

    fn done(&mut self, completion: &Completion) {
        assert_eq!(completion.status, Status::Success.raw());
    }
}

#[test]
fn a_flood_of_queries_is_bearable() {
    let mut scene = Scene::new(&[]);
    let flooder = Flooder::open(scene.flooder());
    let commands = Queries {
        output: flooder.memory(4096),
        asked: 0,
    };
    let mut flood = Full { flooder, commands };
    compare("queries", &mut scene.victim, &mut flood);
    scene.end();
}

// --- page lists

/// Regions with lists as long as there are, made and destroyed.
struct Regions {
    pd: u32,
    list: Dma,
    under_way: usize,
    made: Vec<u32>,
}

/// Entries of a list: as many as a region can have.
const PAGES: u32 = 1 << 20;
/// Lists that fit at a time.
const LISTS: usize = 4;

impl Commands for Regions {
    fn next(&mut self, flooder: &mut Flooder) -> bool {
        if let Some(key) = self.made.pop() {
            flooder.submit(0, AdminOpcode::DestroyMr, &reference(key));
            return true;
        }
        if self.under_way == LISTS {
            return false;
        }
        self.under_way += 1;
        let body = CreateMr {
            pd: self.pd,
            access: AccessFlags::LOCAL_WRITE.bits(),
            length: u64::from(PAGES) << 12,
            buffer: Buffer {
                address: self.list.device_address(),
                list: 1,
                ..buffer(u64::from(PAGES) << 12)
            },
            ..CreateMr::zeroed()
        };
        flooder.submit(0, AdminOpcode::CreateMr, &body);
        true
    }

    fn done(&mut self, completion: &Completion) {
        assert_eq!(completion.status, Status::Success.raw());
        if completion.opcode == AdminOpcode::CreateMr.raw() {
            self.under_way -= 1;
            self.made.push(completion.result0 as u32);
        }
    }
}

#[test]
fn a_flood_of_page_lists_is_bearable() {
    let mut scene = Scene::new(&[]);
    let mut flooder = Flooder::open(scene.flooder());
    let commands = Regions {
        pd: flooder.call(AdminOpcode::AllocPd, &0_u64).result0 as u32,
        list: flooder.memory(8 * PAGES as usize),
        under_way: 0,
        made: Vec::new(),
    };
    let mut flood = Full { flooder, commands };
    compare("page lists", &mut scene.victim, &mut flood);
    scene.end();
}

// --- queue pairs

/// Queue pairs that come and go, thousands of them with one completion queue.
struct QueuePairs {
    body: CreateQp,
    made: VecDeque<u32>,
    pages: Vec<u32>,
    next_page: usize,
}

/// Queue pairs at a time.
const QUEUE_PAIRS: usize = 8000;

impl QueuePairs {
    #[track_caller]
    fn new(flooder: &mut Flooder) -> Self {
        let slots = (END_SLOT - FIRST_SLOT) as usize;
        let pages = (0..QUEUE_PAIRS.div_ceil(slots) + 4).map(|_| {
            let allocated = flooder.call(AdminOpcode::AllocDoorbellPage, &0_u64);
            allocated.result0 as u32
        });
        let pages = pages.collect();
        let eq = CreateEq {
            buffer: buffer(32 << 4),
            log_entries: 4,
            ..CreateEq::zeroed()
        };
        let eq = flooder.call(AdminOpcode::CreateEq, &eq).result0 as u32;
        let cq = CreateCq {
            buffer: buffer(64 << 20),
            log_entries: 20,
            eq,
            ..CreateCq::zeroed()
        };
        let cq = flooder.call(AdminOpcode::CreateCq, &cq).result0 as u32;
        let body = CreateQp {
            pd: flooder.call(AdminOpcode::AllocPd, &0_u64).result0 as u32,
            send_cq: cq,
            buffer: buffer(64 << 15),
            qp_type: QpType::XrcInitiator.raw(),
            log_send_blocks: 15,
            ..CreateQp::zeroed()
        };
        Self {
            body,
            made: VecDeque::new(),
            pages,
            next_page: 0,
        }
    }
}

impl Commands for QueuePairs {
    fn next(&mut self, flooder: &mut Flooder) -> bool {
        if self.made.len() >= QUEUE_PAIRS {
            let qpn = self.made.pop_front().unwrap();
            flooder.submit(0, AdminOpcode::DestroyQp, &reference(qpn));
            return true;
        }
        self.next_page = (self.next_page + 1) % self.pages.len();
        self.body.doorbell_page = self.pages[self.next_page];
        flooder.submit(0, AdminOpcode::CreateQp, &self.body);
        true
    }

    fn done(&mut self, completion: &Completion) {
        let no_room = Status::NoResources.raw();
        if completion.opcode == AdminOpcode::CreateQp.raw() && completion.status != no_room {
            assert_eq!(completion.status, Status::Success.raw());
            self.made.push_back(completion.result0 as u32);
        }
    }
}

#[test]
fn a_flood_of_queue_pairs_is_bearable() {
    let mut scene = Scene::new(&[]);
    let mut flooder = Flooder::open(scene.flooder());
    let commands = QueuePairs::new(&mut flooder);
    let mut flood = Full { flooder, commands };
    while flood.commands.made.len() < QUEUE_PAIRS {
        flood.feed();
        flood.quench();
        flood.take();
    }
    compare("queue pairs", &mut scene.victim, &mut flood);
    scene.end();
}
