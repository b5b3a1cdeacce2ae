//! Work requests and completions as a user sees them, and how requests become descriptors.

use vrnic_abi::cqe::{CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::wqe::{
    AtomicSegment, BASIC_BLOCK, ControlSegment, DataSegment, MAX_INLINE, MAX_SGE, MAX_WQE,
    RemoteSegment, SEGMENT, WqeFlags, WqeOpcode,
};

use crate::error::PostError;

/// A piece of local memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sge {
    /// Virtual address in the region.
    pub address: u64,
    /// Length in bytes; 0 means no bytes.
    pub length: u32,
    /// Local key.
    pub lkey: u32,
}

/// A place in the peer's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Virtual address in the peer's region.
    pub address: u64,
    /// The region's key.
    pub rkey: u32,
}

/// What a send work request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing but complete.
    Nop,
    /// SEND.
    Send,
    /// SEND with immediate data.
    SendImmediate(u32),
    /// SEND that invalidates a key of the peer.
    SendInvalidate(u32),
    /// RDMA WRITE.
    Write(Remote),
    /// RDMA WRITE with immediate data.
    WriteImmediate(Remote, u32),
    /// RDMA READ.
    Read(Remote),
    /// Compare and swap.
    CompareSwap {
        /// The 8 bytes to change.
        remote: Remote,
        /// Value to compare with.
        compare: u64,
        /// Value to store if the comparison holds.
        swap: u64,
    },
    /// Fetch and add.
    FetchAdd {
        /// The 8 bytes to change.
        remote: Remote,
        /// Value to add.
        add: u64,
    },
    /// Invalidates a local key.
    LocalInvalidate(u32),
}

/// Where the data of a send work request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// In local memory, or for READ and atomics: goes there.
    Sges(&'a [Sge]),
    /// Here; copied into the descriptor.
    Inline(&'a [u8]),
}

/// A send work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRequest<'a> {
    /// Returned in the completion.
    pub wr_id: u64,
    /// What to do.
    pub operation: Operation,
    /// With what data.
    pub data: Data<'a>,
    /// SIGNALED, SOLICITED and FENCE; INLINE follows from `data`.
    pub flags: WqeFlags,
}

/// A receive work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveRequest<'a> {
    /// Returned in the completion.
    pub wr_id: u64,
    /// Where a message goes.
    pub sges: &'a [Sge],
}

/// What completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A send work request.
    Request(WqeOpcode),
    /// A receive work request.
    Receive(CompletionOpcode),
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The work request's.
    pub wr_id: u64,
    /// Local queue pair number.
    pub qpn: u32,
    /// What completed.
    pub work: Work,
    /// How. All but `wr_id`, `qpn`, `work` and `syndrome` means nothing unless it is `Success`.
    pub status: CompletionStatus,
    /// Vendor detail of an error.
    pub syndrome: u32,
    /// Bytes received or read.
    pub byte_length: u32,
    /// Immediate data, or the key that was invalidated, depending on `work`.
    pub immediate: u32,
    /// Flags.
    pub flags: CompletionFlags,
    /// When, in nanoseconds of the device's clock.
    pub timestamp: u64,
}

impl Default for Completion {
    fn default() -> Self {
        Self {
            wr_id: 0,
            qpn: 0,
            work: Work::Request(WqeOpcode::Nop),
            status: CompletionStatus::General,
            syndrome: 0,
            byte_length: 0,
            immediate: 0,
            flags: CompletionFlags::empty(),
            timestamp: 0,
        }
    }
}

impl Operation {
    /// The operation's code in descriptors and completions.
    #[must_use]
    pub const fn opcode(&self) -> WqeOpcode {
        match self {
            Self::Nop => WqeOpcode::Nop,
            Self::Send => WqeOpcode::Send,
            Self::SendImmediate(_) => WqeOpcode::SendImmediate,
            Self::SendInvalidate(_) => WqeOpcode::SendInvalidate,
            Self::Write(_) => WqeOpcode::Write,
            Self::WriteImmediate(..) => WqeOpcode::WriteImmediate,
            Self::Read(_) => WqeOpcode::Read,
            Self::CompareSwap { .. } => WqeOpcode::CompareSwap,
            Self::FetchAdd { .. } => WqeOpcode::FetchAdd,
            Self::LocalInvalidate(_) => WqeOpcode::LocalInvalidate,
        }
    }

    /// The field `immediate` of the control segment.
    const fn immediate(&self) -> u32 {
        match *self {
            Self::SendImmediate(immediate) | Self::WriteImmediate(_, immediate) => {
                immediate.to_be()
            }
            Self::SendInvalidate(key) | Self::LocalInvalidate(key) => key,
            _ => 0,
        }
    }

    const fn remote(&self) -> Option<Remote> {
        match *self {
            Self::Write(remote)
            | Self::WriteImmediate(remote, _)
            | Self::Read(remote)
            | Self::CompareSwap { remote, .. }
            | Self::FetchAdd { remote, .. } => Some(remote),
            _ => None,
        }
    }

    const fn atomic(&self) -> Option<AtomicSegment> {
        match *self {
            Self::CompareSwap { compare, swap, .. } => Some(AtomicSegment {
                swap_or_add: swap,
                compare,
            }),
            Self::FetchAdd { add, .. } => Some(AtomicSegment {
                swap_or_add: add,
                compare: 0,
            }),
            _ => None,
        }
    }
}

/// Words in a segment.
const SEGMENT_WORDS: usize = SEGMENT / 8;

/// What a queue pair allows in a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorLimits {
    pub(crate) segments: u32,
    pub(crate) inline: u32,
}

/// The shape of a request's descriptor, which is written segment by segment straight into the
/// ring: [`Descriptor::emit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Segments, the control segment included.
    segments: usize,
    data_segments: usize,
    inline_length: usize,
}

impl Descriptor {
    /// Checks that `request` can be described.
    #[inline]
    pub(crate) fn new(
        request: &SendRequest<'_>,
        limits: DescriptorLimits,
    ) -> Result<Self, PostError> {
        let operation = &request.operation;
        let head = 1
            + usize::from(operation.remote().is_some())
            + usize::from(operation.atomic().is_some());
        let (data_segments, inline_length) = match request.data {
            Data::Sges(sges) => (sges.len(), 0),
            Data::Inline(bytes) => (0, bytes.len()),
        };
        let fits = data_segments <= MAX_SGE.min(limits.segments as usize)
            && inline_length <= MAX_INLINE.min(limits.inline as usize);
        let segments = head + data_segments + inline_length.div_ceil(SEGMENT);
        if !fits || segments > MAX_WQE / SEGMENT {
            return Err(PostError::TooLarge);
        }
        Ok(Self {
            segments,
            data_segments,
            inline_length,
        })
    }

    /// Basic blocks the descriptor takes.
    #[inline]
    pub(crate) fn blocks(&self) -> u32 {
        self.segments.div_ceil(BASIC_BLOCK / SEGMENT) as u32
    }

    /// Hands the segments to `put`, in order, for a request at the block with index `index`.
    #[inline]
    pub(crate) fn emit(
        &self,
        request: &SendRequest<'_>,
        index: u32,
        mut put: impl FnMut([u64; SEGMENT_WORDS]),
    ) {
        let operation = &request.operation;
        put(bytemuck::cast(self.control(request, index)));
        if let Some(remote) = operation.remote() {
            put(bytemuck::cast(RemoteSegment {
                address: remote.address,
                rkey: remote.rkey,
                reserved: 0,
            }));
        }
        if let Some(atomic) = operation.atomic() {
            put(bytemuck::cast(atomic));
        }
        match request.data {
            Data::Sges(sges) => sges.iter().for_each(|sge| put(data_segment(sge))),
            Data::Inline(bytes) => bytes.chunks(SEGMENT).for_each(|piece| {
                let mut segment = [0u8; SEGMENT];
                for (to, from) in segment.iter_mut().zip(piece) {
                    *to = *from;
                }
                put(bytemuck::cast(segment));
            }),
        }
    }

    #[inline]
    fn control(&self, request: &SendRequest<'_>, index: u32) -> ControlSegment {
        let mut flags = request.flags;
        let inline = matches!(request.data, Data::Inline(_));
        flags.set(WqeFlags::INLINE, inline);
        ControlSegment {
            opcode: request.operation.opcode().raw(),
            flags: flags.bits(),
            segments: self.segments as u8,
            data_segments: self.data_segments as u8,
            immediate: request.operation.immediate(),
            inline_length: self.inline_length as u16,
            vlan_tag: 0,
            index,
        }
    }
}

/// `sge` as it stands in a descriptor.
#[inline]
pub(crate) fn data_segment(sge: &Sge) -> [u64; SEGMENT_WORDS] {
    bytemuck::cast(DataSegment {
        address: sge.address,
        length: sge.length,
        lkey: sge.lkey,
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const LIMITS: DescriptorLimits = DescriptorLimits {
        segments: 28,
        inline: 448,
    };

    fn request(operation: Operation, data: Data<'_>) -> SendRequest<'_> {
        SendRequest {
            wr_id: 0,
            operation,
            data,
            flags: WqeFlags::SIGNALED,
        }
    }

    /// The descriptor's words, for the block with index 9.
    #[track_caller]
    fn built(request: &SendRequest<'_>) -> Vec<u64> {
        let descriptor = Descriptor::new(request, LIMITS).expect("fits");
        let mut words = Vec::new();
        descriptor.emit(request, 9, |segment| words.extend(segment));
        assert_eq!(words.len(), descriptor.segments * SEGMENT_WORDS);
        assert_eq!(words.len().div_ceil(8), descriptor.blocks() as usize);
        words
    }

    fn control(words: &[u64]) -> ControlSegment {
        bytemuck::cast([words[0], words[1]])
    }

    #[test]
    fn largest_requests_fit_and_larger_ones_do_not() {
        let sges = [Sge::default(); 29];
        let write = Operation::Write(Remote::default());
        let words = built(&request(write, Data::Sges(&sges[..28])));
        assert_eq!(words.len(), 60);
        assert_eq!(control(&words).segments, 30);
        assert_eq!(control(&words).data_segments, 28);
        assert_eq!(control(&words).index, 9);
        let bytes = [0x5a; 449];
        let words = built(&request(write, Data::Inline(&bytes[..448])));
        assert_eq!(control(&words).segments, 30);
        for data in [Data::Sges(&sges), Data::Inline(&bytes)] {
            let refused = Descriptor::new(&request(write, data), LIMITS);
            assert_eq!(refused, Err(PostError::TooLarge));
        }
    }

    #[test]
    fn inline_data_is_padded_to_segments() {
        let bytes: [u8; 17] = core::array::from_fn(|i| i as u8 + 1);
        let send = request(Operation::SendImmediate(0x0102_0304), Data::Inline(&bytes));
        let words = built(&send);
        let control = control(&words);
        assert_eq!((control.segments, control.inline_length), (3, 17));
        assert_eq!(control.data_segments, 0);
        assert_eq!(control.immediate.to_ne_bytes(), [1, 2, 3, 4]);
        let flags = WqeFlags::SIGNALED | WqeFlags::INLINE;
        assert_eq!(control.flags, flags.bits());
        let data: &[u8] = bytemuck::cast_slice(&words[2..6]);
        assert_eq!(data[..17], bytes);
        assert_eq!(data[17..], [0; 15]);
    }

    #[test]
    fn atomics_carry_their_operands() {
        let sges = [Sge::default()];
        let remote = Remote {
            address: 0x1000,
            rkey: 5,
        };
        let swap = Operation::CompareSwap {
            remote,
            compare: 1,
            swap: 2,
        };
        let words = built(&request(swap, Data::Sges(&sges)));
        assert_eq!(words[2..6], [0x1000, 5, 2, 1]);
        assert_eq!(words.len(), 8);
    }
}
