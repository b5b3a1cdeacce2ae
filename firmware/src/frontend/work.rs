//! Work queue entries to work requests (see [`vrnic_abi::wqe`]).
//!
//! Pure functions over bytes that were copied out of guest memory before.

use vrnic_abi::wqe::{
    AtomicSegment, BASIC_BLOCK, ControlSegment, DataSegment, END_OF_LIST, MAX_INLINE, MAX_SGE,
    MAX_WQE, RemoteSegment, SEGMENT, WqeFlags, WqeOpcode,
};

use crate::pdu::{AtomicOperation, SendTail};
use crate::transport::{InlineData, ReceiveWork, SendOperation, SendWork, SgList};
use crate::types::{Outcome, Sge};

/// A decoded send work request and the basic blocks that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedSend {
    /// The request; its cookie is still 0.
    pub work: SendWork,
    /// Basic blocks, at least 1.
    pub blocks: u32,
}

impl DecodedSend {
    /// Stands for a request that cannot be understood.
    #[must_use]
    pub fn malformed() -> Self {
        Self {
            work: SendWork {
                cookie: 0,
                operation: SendOperation::Invalid(Outcome::LocalQpOperation),
                sges: SgList::new(),
                inline: InlineData::new(),
                solicited: false,
                fence: false,
                signaled: true,
            },
            blocks: 1,
        }
    }
}

/// Decodes the send work request at the start of `bytes`, which hold the blocks that were posted,
/// at least up to the largest request's size. `index` is what the request must say about itself.
#[must_use]
pub fn decode_send(bytes: &[u8], index: u32) -> DecodedSend {
    parse_send(bytes, index).unwrap_or_else(DecodedSend::malformed)
}

fn parse_send(bytes: &[u8], index: u32) -> Option<DecodedSend> {
    let control: ControlSegment = segment(bytes, 0)?;
    let segments = usize::from(control.segments);
    let length = segments * SEGMENT;
    if control.index != index || length > MAX_WQE {
        return None;
    }
    let bytes = bytes.get(..length)?;
    let opcode = WqeOpcode::from_raw(control.opcode)?;
    let flags = WqeFlags::from_bits(control.flags)?;
    let (operation, position) = operation(opcode, &control, bytes)?;
    let (sges, inline) = payload(&control, flags, bytes, position)?;
    let no_data = sges.is_empty() && inline.is_empty();
    if opcode == WqeOpcode::Nop && !no_data || !inline.is_empty() && !may_inline(&operation) {
        return None;
    }
    Some(DecodedSend {
        work: SendWork {
            cookie: 0,
            operation,
            sges,
            inline,
            solicited: flags.contains(WqeFlags::SOLICITED),
            fence: flags.contains(WqeFlags::FENCE),
            signaled: flags.contains(WqeFlags::SIGNALED),
        },
        blocks: u32::try_from(length.div_ceil(BASIC_BLOCK)).ok()?,
    })
}

/// The operation and the number of segments before the data.
fn operation(
    opcode: WqeOpcode,
    control: &ControlSegment,
    bytes: &[u8],
) -> Option<(SendOperation, usize)> {
    let remote = || segment::<RemoteSegment>(bytes, 1);
    let atomic = || segment::<AtomicSegment>(bytes, 2);
    let write = |immediate| {
        let RemoteSegment { address, rkey, .. } = remote()?;
        let operation = SendOperation::Write {
            address,
            rkey,
            immediate,
        };
        Some((operation, 2))
    };
    let atomic_on = |operation| {
        let RemoteSegment { address, rkey, .. } = remote()?;
        let operation = SendOperation::Atomic {
            address,
            rkey,
            operation,
        };
        Some((operation, 3))
    };
    match opcode {
        WqeOpcode::Nop => Some((SendOperation::Nop, 1)),
        WqeOpcode::Send => Some((SendOperation::Send(SendTail::None), 1)),
        WqeOpcode::SendImmediate => {
            let tail = SendTail::Immediate(control.immediate);
            Some((SendOperation::Send(tail), 1))
        }
        WqeOpcode::Write => write(None),
        WqeOpcode::WriteImmediate => write(Some(control.immediate)),
        WqeOpcode::Read => {
            let RemoteSegment { address, rkey, .. } = remote()?;
            Some((SendOperation::Read { address, rkey }, 2))
        }
        WqeOpcode::CompareSwap => {
            let operands = atomic()?;
            atomic_on(AtomicOperation::CompareSwap {
                compare: operands.compare,
                swap: operands.swap_or_add,
            })
        }
        WqeOpcode::FetchAdd => atomic_on(AtomicOperation::FetchAdd(atomic()?.swap_or_add)),
        // These need capabilities that the function does not have.
        WqeOpcode::SendInvalidate
        | WqeOpcode::LocalInvalidate
        | WqeOpcode::FastRegister
        | WqeOpcode::BindWindow
        | WqeOpcode::AtomicWrite
        | WqeOpcode::Flush => None,
    }
}

const fn may_inline(operation: &SendOperation) -> bool {
    matches!(
        operation,
        SendOperation::Send(_) | SendOperation::Write { .. }
    )
}

/// Data segments or inline data from segment `position` to the end.
fn payload(
    control: &ControlSegment,
    flags: WqeFlags,
    bytes: &[u8],
    position: usize,
) -> Option<(SgList, InlineData)> {
    let data = bytes.get(position * SEGMENT..)?;
    let count = usize::from(control.data_segments);
    if flags.contains(WqeFlags::INLINE) {
        let length = usize::from(control.inline_length);
        let padded = length.next_multiple_of(SEGMENT);
        if count != 0 || length > MAX_INLINE || data.len() != padded {
            return None;
        }
        return Some((SgList::new(), InlineData::from_slice(data.get(..length)?)));
    }
    if count > MAX_SGE || data.len() != count * SEGMENT {
        return None;
    }
    let mut sges = SgList::new();
    for chunk in data.chunks_exact(SEGMENT) {
        push_segment(&mut sges, bytemuck::pod_read_unaligned(chunk));
    }
    Some((sges, InlineData::new()))
}

/// Decodes a receive queue entry, which is all of `bytes`.
#[must_use]
pub fn decode_receive(bytes: &[u8]) -> ReceiveWork {
    let mut sges = SgList::new();
    for chunk in bytes.chunks_exact(SEGMENT) {
        let segment: DataSegment = bytemuck::pod_read_unaligned(chunk);
        if segment.lkey == END_OF_LIST {
            break;
        }
        push_segment(&mut sges, segment);
    }
    ReceiveWork {
        cookie: 0,
        sges,
        invalid: None,
    }
}

/// Adds a segment unless it stands for no bytes.
fn push_segment(sges: &mut SgList, segment: DataSegment) {
    if segment.length > 0 {
        sges.push(Sge {
            address: segment.address,
            length: segment.length,
            lkey: segment.lkey,
        });
    }
}

fn segment<T: bytemuck::AnyBitPattern>(bytes: &[u8], position: usize) -> Option<T> {
    let start = position * SEGMENT;
    let bytes = bytes.get(start..start + SEGMENT)?;
    bytemuck::try_pod_read_unaligned(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use bytemuck::bytes_of;

    fn control(opcode: WqeOpcode) -> ControlSegment {
        ControlSegment {
            opcode: opcode.raw(),
            segments: 1,
            index: 7,
            ..ControlSegment::default()
        }
    }

    fn decode(segments: &[&[u8]]) -> DecodedSend {
        let mut bytes: Vec<u8> = segments.concat();
        bytes.resize(MAX_WQE, 0xa5);
        decode_send(&bytes, 7)
    }

    #[track_caller]
    fn refused(segments: &[&[u8]]) {
        assert_eq!(decode(segments), DecodedSend::malformed());
    }

    #[test]
    fn write_with_two_segments_takes_one_block() {
        let head = ControlSegment {
            segments: 4,
            data_segments: 2,
            flags: (WqeFlags::SIGNALED | WqeFlags::FENCE).bits(),
            ..control(WqeOpcode::Write)
        };
        let remote = RemoteSegment {
            address: 0x1234,
            rkey: 9,
            reserved: 0,
        };
        let data = DataSegment {
            address: 0x5000,
            length: 3,
            lkey: 0x100,
        };
        let none = DataSegment { length: 0, ..data };
        let decoded = decode(&[
            bytes_of(&head),
            bytes_of(&remote),
            bytes_of(&none),
            bytes_of(&data),
        ]);
        assert_eq!(decoded.blocks, 1);
        assert_eq!(decoded.work.sges.len(), 1);
        assert!(decoded.work.signaled && decoded.work.fence && !decoded.work.solicited);
        assert_eq!(
            decoded.work.operation,
            SendOperation::Write {
                address: 0x1234,
                rkey: 9,
                immediate: None
            }
        );
    }

    #[test]
    fn inline_data_must_fill_the_request() {
        let head = ControlSegment {
            segments: 3,
            inline_length: 17,
            flags: WqeFlags::INLINE.bits(),
            ..control(WqeOpcode::Send)
        };
        let decoded = decode(&[bytes_of(&head), &[1; 32]]);
        assert_eq!(decoded.work.inline.as_slice(), [1; 17]);
        for inline_length in [0, 16, 33, u16::MAX] {
            let head = ControlSegment {
                inline_length,
                ..head
            };
            refused(&[bytes_of(&head)]);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let good = control(WqeOpcode::Send);
        let cases = [
            ControlSegment { index: 8, ..good },
            ControlSegment {
                segments: 0,
                ..good
            },
            ControlSegment {
                segments: 33,
                data_segments: 32,
                ..good
            },
            ControlSegment {
                data_segments: 1,
                ..good
            },
            ControlSegment {
                segments: 2,
                ..good
            },
            ControlSegment {
                flags: 0x80,
                ..good
            },
            ControlSegment {
                opcode: 0xff,
                ..good
            },
            control(WqeOpcode::Write),
            control(WqeOpcode::FetchAdd),
            control(WqeOpcode::BindWindow),
            ControlSegment {
                segments: 2,
                data_segments: 1,
                ..control(WqeOpcode::Nop)
            },
        ];
        for case in cases {
            refused(&[bytes_of(&case)]);
        }
        assert_ne!(decode(&[bytes_of(&good)]), DecodedSend::malformed());
    }

    #[test]
    fn a_receive_list_ends_early() {
        let data = DataSegment {
            address: 1,
            length: 2,
            lkey: 3,
        };
        let bytes = [bytes_of(&data), &[0; 16], bytes_of(&data)].concat();
        assert_eq!(decode_receive(&bytes).sges.len(), 1);
    }
}
