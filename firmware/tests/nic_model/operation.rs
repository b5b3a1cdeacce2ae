//! Operations, and their place in memory.
//!
//! Memory of an end is cut into slots. Operation n of a batch sends from source slot n of its own end,
//! writes to target slot n of the peer, reads from library slot n of the peer, and has its result in
//! result slot n of its own end; the receive with index i has receive slot i modulo their number.
//! Bytes that nobody may write stay the pattern.

use crate::nic_bench::{BUFFER, Random};
use vrnic_abi::admin::QpType;

/// Most operations of a batch, each way.
pub const BATCH: u64 = 20;
/// Bytes of a slot.
pub const SLOT: u64 = 4096;
/// Longest message: leaves room in the slot for bytes that stay as they are.
pub const LONGEST: u64 = SLOT - 64;
/// Shortest Ethernet frame: others are filled up.
pub const SHORTEST_FRAME: u64 = 60;
/// Receives that can be posted.
pub const RECEIVES: u64 = 64;
/// Where the slots start.
pub const SOURCE: u64 = 0;
pub const TARGET: u64 = 32 * SLOT;
pub const RECEIVE: u64 = 64 * SLOT;
pub const RESULT: u64 = 128 * SLOT;
pub const LIBRARY: u64 = 160 * SLOT;
/// The number that the peer's atomic operations are about.
pub const COUNTER: u64 = BUFFER - SLOT;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nop,
    Send { immediate: Option<u32> },
    Write { immediate: Option<u32> },
    Read,
    FetchAdd(u64),
    CompareSwap { compare: u64, swap: u64 },
    AtomicWrite,
    Flush,
}

/// An operation of a batch.
#[derive(Clone, Debug)]
pub struct Operation {
    pub kind: Kind,
    pub data: Vec<u8>,
    pub inline: bool,
    pub fence: bool,
    pub signaled: bool,
    pub solicited: bool,
}

impl Operation {
    /// One that the service has. `counter` is what the peer's number will be when it arrives.
    pub fn random(service: QpType, random: &mut Random, counter: &mut u64) -> Self {
        let immediate = Some(random.next() as u32).filter(|_| random.percent(50));
        let immediate = immediate.filter(|_| service != QpType::RawPacket);
        let kinds = match service {
            QpType::Uc => 5,
            QpType::Ud | QpType::RawPacket => 3,
            _ => 10,
        };
        let kind = match random.below(kinds) {
            0..=2 => Kind::Send { immediate },
            3 | 4 => Kind::Write { immediate },
            5 => Kind::Read,
            6 => {
                let add = random.below(1000);
                *counter = counter.wrapping_add(add);
                Kind::FetchAdd(add)
            }
            7 => {
                let compare = counter.wrapping_add(random.below(2));
                let swap = random.next();
                if compare == *counter {
                    *counter = swap;
                }
                Kind::CompareSwap { compare, swap }
            }
            8 => Kind::AtomicWrite,
            _ if random.percent(50) => Kind::Flush,
            _ => Kind::Nop,
        };
        let length = kind.length(service, random);
        let mut data = vec![0; length as usize];
        random.fill(&mut data);
        let small = (1..=64).contains(&length);
        Self {
            kind,
            data,
            inline: small && random.percent(30) && kind.has_data(),
            fence: random.percent(10),
            signaled: random.percent(80),
            solicited: random.percent(30) && service != QpType::RawPacket,
        }
    }
}

impl Kind {
    fn length(self, service: QpType, random: &mut Random) -> u64 {
        match self {
            Self::AtomicWrite => 8,
            Self::Send { .. } if service == QpType::RawPacket => {
                SHORTEST_FRAME + random.below(1500 - SHORTEST_FRAME)
            }
            Self::Send { .. } | Self::Write { .. } | Self::Read => {
                let most = match service {
                    QpType::Ud => 1024,
                    _ if random.percent(10) => LONGEST,
                    _ => 700,
                };
                random.below(most + 1)
            }
            _ => 0,
        }
    }

    /// Whether it sends data of the requester's.
    const fn has_data(self) -> bool {
        matches!(self, Self::Send { .. } | Self::Write { .. })
    }

    /// Whether it takes a receive at the peer.
    pub const fn takes_receive(self) -> bool {
        matches!(self, Self::Send { .. } | Self::Write { immediate: Some(_) })
    }
}
