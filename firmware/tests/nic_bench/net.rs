//! Two nodes, and the ways between them.

use vrnic_abi::admin::{AdminOpcode, GidType, SetGid};
use vrnic_firmware::nic::{NicConfig, Progress};
use vrnic_firmware::types::Gid;

use super::{Bench, Driver, Node};

/// How packets get from one node to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Functions of one NIC, without frames.
    Direct,
    /// Functions of one NIC, in frames.
    Looped,
    /// Two NICs and a wire.
    Wire,
}

pub const WAYS: [Way; 3] = [Way::Direct, Way::Looped, Way::Wire];

/// One or two NICs.
pub struct Net {
    pub benches: Vec<Bench>,
}

impl Net {
    pub fn new(way: Way) -> Self {
        let bench = || {
            Bench::new(NicConfig {
                direct: way == Way::Direct,
                ..NicConfig::default()
            })
        };
        let count = if way == Way::Wire { 2 } else { 1 };
        Self {
            benches: std::iter::repeat_with(bench).take(count).collect(),
        }
    }

    /// The NIC that node `index` is on.
    pub fn of(&mut self, index: usize) -> &mut Bench {
        let last = self.benches.len() - 1;
        &mut self.benches[index.min(last)]
    }

    /// Two nodes, 1 and 2, with addresses of both families.
    #[track_caller]
    pub fn nodes(&mut self) -> [Node; 2] {
        [0, 1].map(|index| {
            let bench = self.of(index);
            let mut node = Node::new(bench, index as u8 + 1);
            set_v6(bench, &mut node.driver);
            node
        })
    }

    /// One step of each NIC, and what they send arrives; returns whether there was anything to do.
    /// The frames that crossed the wire are added to `crossed`.
    pub fn step(&mut self, crossed: &mut Vec<Vec<u8>>) -> bool {
        let mut busy = false;
        for index in 0..self.benches.len() {
            busy |= self.benches[index].step() == Progress::Busy;
            let frames: Vec<_> = self.benches[index].wire.sent.drain(..).collect();
            for frame in frames {
                busy = true;
                if let Some(other) = self.benches.get_mut(1 - index) {
                    other.nic.receive(other.now, &frame, &mut other.wire);
                }
                crossed.push(frame);
            }
        }
        busy
    }

    /// Lets everything happen; returns the frames that crossed the wire.
    #[track_caller]
    pub fn run(&mut self) -> Vec<Vec<u8>> {
        let mut crossed = Vec::new();
        for _ in 0..10_000 {
            if !self.step(&mut crossed) {
                return crossed;
            }
        }
        panic!("the NICs do not come to rest");
    }
}

/// The IPv6 address of function `n`, at index 1 of its table.
pub fn gid6(n: u8) -> Gid {
    let mut gid = [0; 16];
    gid[0] = 0xfd;
    gid[15] = n;
    Gid(gid)
}

#[track_caller]
pub fn set_v6(bench: &mut Bench, driver: &mut Driver) {
    let body = SetGid {
        index: 1,
        gid_type: GidType::RoceV2.raw(),
        gid: gid6(driver.n).0,
        ..SetGid::default()
    };
    driver.ok(bench, AdminOpcode::SetGid, &body);
}
