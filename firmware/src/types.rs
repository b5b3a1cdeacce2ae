//! The vocabulary of the core: modular numbers, time, verbs-level states and results.
//!
//! These types are the core's own; [`crate::frontend`] translates between them and what guests see.

use core::fmt;
use core::time::Duration;

use smallvec::SmallVec;

/// A packet sequence number: 24 bits, modulo 2^24 (InfiniBand Architecture volume 1, 9.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Psn(u32);

impl Psn {
    const MASK: u32 = 0xff_ffff;

    /// The low 24 bits of `value`.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value & Self::MASK)
    }

    /// The number, below 2^24.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number `packets` later.
    #[must_use]
    pub const fn plus(self, packets: u32) -> Self {
        Self::new(self.0.wrapping_add(packets))
    }

    /// How far `self` is ahead of `other`, modulo 2^24: negative if it is behind, that is, if the
    /// distance exceeds half the space (IBTA volume 1, 9.7.2).
    #[must_use]
    pub const fn since(self, other: Self) -> i32 {
        // Shifting the 24-bit difference to the top lets the sign bit do the comparison.
        (self.0.wrapping_sub(other.0) << 8) as i32 >> 8
    }

    /// Whether `self` comes before `other`.
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }
}

impl fmt::Display for Psn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A message sequence number: 24 bits, modulo 2^24 (IBTA volume 1, 9.7.5.2.1).
pub type Msn = Psn;

/// A queue pair number, 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Qpn(u32);

impl Qpn {
    /// Stands for all members of a multicast group (IBTA volume 1, 10.5.2).
    pub const MULTICAST: Self = Self(0xff_ffff);

    /// The low 24 bits of `value`.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value & 0xff_ffff)
    }

    /// The number, below 2^24.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Qpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A point in time, in nanoseconds from an arbitrary start; it never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The point `duration` later; stops at the end of time, which is 584 years away.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// A GID in network byte order; IPv4 addresses are mapped as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// The GID of an IPv4 address.
    #[must_use]
    pub fn from_v4(address: [u8; 4]) -> Self {
        let mut gid = [0; 16];
        gid[..12].copy_from_slice(&Self::V4_PREFIX);
        gid[12..].copy_from_slice(&address);
        Self(gid)
    }

    /// The IPv4 address that the GID maps, if it does.
    #[must_use]
    pub fn to_v4(self) -> Option<[u8; 4]> {
        let (prefix, address) = self.0.split_first_chunk::<12>()?;
        if *prefix != Self::V4_PREFIX {
            return None;
        }
        address.first_chunk::<4>().copied()
    }

    /// Whether it is all zeros, which names nobody.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it stands for a group: multicast or broadcast.
    #[must_use]
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// Path MTU (IBTA volume 1, 9.4.3): the largest payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mtu {
    /// 256 bytes.
    B256,
    /// 512 bytes.
    B512,
    /// 1024 bytes.
    B1024,
    /// 2048 bytes.
    B2048,
    /// 4096 bytes.
    B4096,
}

impl Mtu {
    /// The MTU in bytes, a power of two.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B256 => 256,
            Self::B512 => 512,
            Self::B1024 => 1024,
            Self::B2048 => 2048,
            Self::B4096 => 4096,
        }
    }

    /// The largest one whose packets fit into Ethernet frames with `payload` bytes; the smallest one
    /// if none does.
    #[must_use]
    pub fn fitting(payload: u32) -> Self {
        /// Headers that a packet can have, from the IPv6 header to the ICRC.
        const HEADERS: u32 = 96;
        let room = payload.saturating_sub(HEADERS);
        let largest_first = [Self::B4096, Self::B2048, Self::B1024, Self::B512];
        let fitting = largest_first.into_iter().find(|mtu| mtu.bytes() <= room);
        fitting.unwrap_or(Self::B256)
    }

    /// Packets that a message of `length` bytes takes: at least one.
    #[must_use]
    pub const fn packets(self, length: u32) -> u32 {
        let packets = length.div_ceil(self.bytes());
        if packets == 0 { 1 } else { packets }
    }
}

/// States of a queue pair (IBTA volume 1, 10.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Created or reset.
    #[default]
    Reset,
    /// Receives can be posted.
    Init,
    /// Ready to receive.
    Rtr,
    /// Ready to send.
    Rts,
    /// Send queue drained or draining.
    Sqd,
    /// Send queue error.
    Sqe,
    /// Error: work requests are flushed.
    Error,
}

/// Result of a work request (IBTA volume 1, 10.8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done.
    Success,
    /// Local length error.
    LocalLength,
    /// Local QP operation error: the request is malformed or does not fit the queue pair.
    LocalQpOperation,
    /// Local protection error.
    LocalProtection,
    /// Work request flushed.
    Flushed,
    /// A memory window could not be bound.
    MemoryWindowBind,
    /// Bad response.
    BadResponse,
    /// Local access error: the peer may not access the memory it named.
    LocalAccess,
    /// Remote invalid request.
    RemoteInvalidRequest,
    /// Remote access error.
    RemoteAccess,
    /// Remote operation error.
    RemoteOperation,
    /// Transport retries exceeded.
    RetryExceeded,
    /// RNR retries exceeded.
    RnrRetryExceeded,
}

bitflags::bitflags! {
    /// What a memory region or a queue pair allows (IBTA volume 1, 10.6.3).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Local reads: always allowed on a valid region.
        const LOCAL_READ = 1 << 0;
        /// Local writes.
        const LOCAL_WRITE = 1 << 1;
        /// RDMA WRITE by the peer.
        const REMOTE_WRITE = 1 << 2;
        /// RDMA READ by the peer.
        const REMOTE_READ = 1 << 3;
        /// Atomics by the peer.
        const REMOTE_ATOMIC = 1 << 4;
        /// Flushes by the peer that make earlier writes visible to all.
        const FLUSH_GLOBAL = 1 << 5;
        /// Flushes by the peer that make earlier writes persistent.
        const FLUSH_PERSISTENT = 1 << 6;
    }
}

/// Why memory may not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The key names no region, or one of another protection domain.
    Key,
    /// The region does not allow the access.
    Permission,
    /// The range leaves the region.
    Bounds,
}

/// A contiguous piece of a function's DMA address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// DMA address.
    pub address: u64,
    /// Length in bytes, not zero.
    pub length: u32,
}

/// Pieces of memory in the order of a message's bytes.
pub type Chunks = SmallVec<[Chunk; 4]>;

/// A scatter/gather element of a work request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sge {
    /// Virtual address in the region.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// Local key.
    pub lkey: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psn_order_is_modular() {
        for base in [0, 1, 0x7f_ffff, 0x80_0000, 0xff_fffe, 0xff_ffff] {
            let psn = Psn::new(base);
            assert_eq!(psn.plus(1).since(psn), 1);
            assert_eq!(psn.since(psn.plus(1)), -1);
            assert_eq!(psn.plus(0x7f_ffff).since(psn), 0x7f_ffff);
            assert_eq!(psn.plus(0x80_0000).since(psn), -0x80_0000);
            assert!(psn.before(psn.plus(5)) && !psn.before(psn));
        }
    }

    #[test]
    fn a_message_takes_at_least_one_packet() {
        assert_eq!(Mtu::B1024.packets(0), 1);
        assert_eq!(Mtu::B1024.packets(1024), 1);
        assert_eq!(Mtu::B1024.packets(1025), 2);
        assert_eq!(Mtu::B256.packets(1 << 31), 1 << 23);
    }

    #[test]
    fn v4_addresses_are_mapped() {
        let gid = Gid::from_v4([10, 0, 0, 7]);
        assert_eq!(gid.to_v4(), Some([10, 0, 0, 7]));
        assert_eq!(Gid([0xfe; 16]).to_v4(), None);
    }
}
