//! The terms in which both ends agree on what is moved how.

use serde::{Deserialize, Serialize};

/// Transport service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Service {
    /// Reliable connected.
    Rc,
    /// Unreliable connected.
    Uc,
    /// Unreliable datagram.
    Ud,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Family {
    V4,
    V6,
}

/// An end of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Vrnic,
    Rxe,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Operation {
    Send,
    SendImmediate,
    /// Invalidates the key of a memory window of the responder's, one for each request.
    SendInvalidate,
    Write,
    WriteImmediate,
    Read,
    /// Half of them compare with what is there, half with something else.
    CompareSwap,
    FetchAdd,
    /// Writes 8 bytes at once.
    AtomicWrite,
}

impl Operation {
    /// Name for people and programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Send => "SEND",
            Self::SendImmediate => "SEND_IMM",
            Self::SendInvalidate => "SEND_INV",
            Self::Write => "WRITE",
            Self::WriteImmediate => "WRITE_IMM",
            Self::Read => "READ",
            Self::CompareSwap => "CMP_SWAP",
            Self::FetchAdd => "FETCH_ADD",
            Self::AtomicWrite => "ATOMIC_WRITE",
        }
    }

    /// Whether each request takes a receive request of the responder's.
    pub(crate) const fn takes_receive(self) -> bool {
        self.is_send() || matches!(self, Self::WriteImmediate)
    }

    /// Whether the responder's receive request says where the data goes.
    pub(crate) const fn is_send(self) -> bool {
        matches!(
            self,
            Self::Send | Self::SendImmediate | Self::SendInvalidate
        )
    }

    pub(crate) const fn has_immediate(self) -> bool {
        matches!(self, Self::SendImmediate | Self::WriteImmediate)
    }

    /// Whether it changes 8 aligned bytes as a number.
    pub(crate) const fn is_atomic(self) -> bool {
        self.returns() || matches!(self, Self::AtomicWrite)
    }

    /// Whether it returns what those bytes were.
    pub(crate) const fn returns(self) -> bool {
        matches!(self, Self::CompareSwap | Self::FetchAdd)
    }
}

/// Queue pairs between the two ends, each with one of the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    pub(crate) service: Service,
    pub(crate) family: Family,
    /// Path MTU in bytes.
    pub(crate) mtu: u32,
    /// Number of pairs.
    pub(crate) qps: u32,
    /// Packets may be lost on the way.
    pub(crate) lossy: bool,
}

impl Connection {
    /// Whether a message may be lost, or come after one that was.
    pub(crate) fn loses_messages(&self) -> bool {
        self.lossy && self.service != Service::Rc
    }
}

/// A transfer: `count` requests, request number `i` on queue pair `i % qps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) operation: Operation,
    /// Who posts the requests.
    pub(crate) from: End,
    /// Bytes of each request.
    pub(crate) size: u32,
    pub(crate) count: u32,
    /// The responder's memory is named by the keys of memory windows (type 2), one for each
    /// request, and not by that of its region.
    pub(crate) windows: bool,
    /// Seed of the data.
    pub(crate) seed: u64,
}

impl Step {
    /// Immediate data of request `index`.
    pub(crate) fn immediate(&self, index: u32) -> u32 {
        mix(self.seed ^ 0x1d, u64::from(index)) as u32
    }
}

/// A number that depends on both (splitmix64).
pub(crate) const fn mix(seed: u64, index: u64) -> u64 {
    let step = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = seed.wrapping_add(step);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
