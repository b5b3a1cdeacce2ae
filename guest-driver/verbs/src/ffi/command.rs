//! Commands to the kernel, as far as their sizes go.
//!
//! `libibverbs` fills in the head of a command and takes apart the head of its answer; it finds the
//! driver's own parts behind them, by their sizes. What the driver's parts are is in
//! [`vrnic_abi::verbs`].

use bytemuck::Zeroable;

/// A request: `WORDS` 8-byte words that `libibverbs` fills in, and the provider's part.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request<const WORDS: usize, T> {
    head: [u64; WORDS],
    own: T,
}

impl<const WORDS: usize, T: Copy> Request<WORDS, T> {
    pub(crate) fn new(own: T) -> Self {
        Self {
            head: [0; WORDS],
            own,
        }
    }
}

/// An answer: `WORDS` 4-byte words that `libibverbs` takes apart, and the driver's part, which
/// follows without a gap whatever its alignment.
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
struct PackedAnswer<const WORDS: usize, T> {
    head: [u32; WORDS],
    own: T,
}

/// An answer, aligned as `libibverbs` expects its head to be.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Answer<const WORDS: usize, T: Copy>(PackedAnswer<WORDS, T>);

impl<const WORDS: usize, T: Copy + Zeroable> Answer<WORDS, T> {
    /// Bytes that the kernel may write.
    pub(crate) const fn size(&self) -> usize {
        4 * WORDS + size_of::<T>()
    }

    pub(crate) fn new() -> Self {
        Self(PackedAnswer {
            head: [0; WORDS],
            own: T::zeroed(),
        })
    }

    /// The driver's part. What an older driver has not written is zero.
    pub(crate) fn own(&self) -> T {
        self.0.own
    }

    /// The two words at the start.
    pub(crate) fn first(&self) -> u64 {
        let head = self.0.head;
        let word = |index: usize| u64::from(head.get(index).copied().unwrap_or(0));
        word(0) | word(1) << 32
    }
}

/// No part of the provider's, or of the driver's.
pub(crate) type Nothing = [u64; 0];

/// 8-byte words of the requests' heads.
pub(crate) mod request {
    pub(crate) const GET_CONTEXT: usize = 2;
    pub(crate) const QUERY_PORT: usize = 3;
    pub(crate) const ALLOC_PD: usize = 2;
    pub(crate) const OPEN_XRCD: usize = 3;
    pub(crate) const REG_MR: usize = 6;
    pub(crate) const REREG_MR: usize = 7;
    pub(crate) const ALLOC_MW: usize = 3;
    pub(crate) const CREATE_CQ: usize = 5;
    pub(crate) const RESIZE_CQ: usize = 3;
    pub(crate) const MODIFY_CQ: usize = 5;
    pub(crate) const CREATE_SRQ: usize = 5;
    pub(crate) const CREATE_XSRQ: usize = 7;
    pub(crate) const MODIFY_SRQ: usize = 3;
    pub(crate) const QUERY_SRQ: usize = 3;
    pub(crate) const CREATE_QP: usize = 8;
    pub(crate) const CREATE_QP_EX: usize = 11;
    pub(crate) const OPEN_QP: usize = 5;
    pub(crate) const QUERY_QP: usize = 3;
    pub(crate) const MODIFY_QP: usize = 15;
    pub(crate) const MODIFY_QP_EX: usize = 18;
}

/// 4-byte words of the answers' heads.
pub(crate) mod answer {
    pub(crate) const GET_CONTEXT: usize = 2;
    pub(crate) const QUERY_DEVICE_EX: usize = 76;
    pub(crate) const ALLOC_PD: usize = 1;
    pub(crate) const OPEN_XRCD: usize = 1;
    pub(crate) const REG_MR: usize = 3;
    pub(crate) const REREG_MR: usize = 2;
    pub(crate) const ALLOC_MW: usize = 2;
    pub(crate) const CREATE_CQ: usize = 2;
    pub(crate) const RESIZE_CQ: usize = 2;
    pub(crate) const CREATE_SRQ: usize = 4;
    pub(crate) const CREATE_QP: usize = 8;
    pub(crate) const CREATE_QP_EX: usize = 10;
    pub(crate) const MODIFY_QP_EX: usize = 2;
    pub(crate) const CREATE_AH: usize = 1;
}
