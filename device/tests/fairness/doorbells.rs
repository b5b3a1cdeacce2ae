//! Floods of doorbells.

use bytemuck::Zeroable;
use vrnic_abi::admin::{AdminOpcode, Buffer, CreateCq, CreateEq};
use vrnic_abi::doorbell::{self, GROUPS, KERNEL_PAGE, PAGES, SLOTS_PER_GROUP};
use vrnic_driver::Platform;

use super::flooder::Flooder;
use super::{Flood, Scene, compare};

/// Every group of every page has a queue, is marked, and has garbage in its slots.
struct Marks {
    flooder: Flooder,
    stored: u64,
}

/// Completion queues of a page: one in each group.
const QUEUES: u32 = GROUPS - 1;

impl Marks {
    #[track_caller]
    fn new(mut flooder: Flooder) -> Self {
        let buffer = |bytes: u32| Buffer {
            pages: bytes.div_ceil(4096),
            page_shift: 12,
            ..Buffer::zeroed()
        };
        let eq = CreateEq {
            buffer: buffer(32 << 4),
            log_entries: 4,
            ..CreateEq::zeroed()
        };
        let eq = flooder.call(AdminOpcode::CreateEq, &eq).result0 as u32;
        for page in 0..PAGES {
            if page != KERNEL_PAGE {
                flooder.call(AdminOpcode::AllocDoorbellPage, &0_u64);
            }
            for _ in 0..QUEUES {
                let cq = CreateCq {
                    buffer: buffer(64 << 2),
                    log_entries: 2,
                    eq,
                    doorbell_page: page,
                    ..CreateCq::zeroed()
                };
                flooder.submit(0, AdminOpcode::CreateCq, &cq);
            }
            flooder.announce();
            while flooder.waiting() > 0 {}
            while flooder.take().is_some() {}
        }
        Self { flooder, stored: 0 }
    }
}

impl Flood for Marks {
    fn feed(&mut self) {
        let platform = &self.flooder.platform;
        for page in 0..PAGES {
            if platform.load_mark(page, GROUPS - 1) != 0 {
                continue;
            }
            for group in 1..GROUPS {
                self.stored += 1;
                // Half of them arm a queue that is empty, the others make no sense.
                let index = if self.stored % 2 == 0 { 0 } else { 0x7777 };
                let value = doorbell::consumer(index, self.stored as u16, false);
                platform.store_slot(page, group * SLOTS_PER_GROUP, value);
                platform.store_mark(page, group);
            }
        }
    }

    fn is_on(&mut self) -> bool {
        let platform = &self.flooder.platform;
        (0..PAGES).any(|page| platform.load_mark(page, GROUPS - 1) != 0)
    }
}

#[test]
fn a_flood_of_doorbells_is_bearable() {
    let mut scene = Scene::new(&[]);
    let flooder = Flooder::open(scene.flooder());
    let mut flood = Marks::new(flooder);
    compare("doorbells", &mut scene.victim, &mut flood);
    scene.end();
}
