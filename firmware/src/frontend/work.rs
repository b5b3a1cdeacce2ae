//! Work queue entries to work requests (see [`vrnic_abi::wqe`]).
//!
//! Pure functions over bytes that were copied out of guest memory before. Which segments a request
//! has depends on the type of the queue pair first, then on the opcode; a request that does not
//! add up is [`malformed`]. Whether its operation suits the queue pair is for the
//! transport to say.

use vrnic_abi::admin::AccessFlags;
use vrnic_abi::object::AddressVector;
use vrnic_abi::wqe::{
    AtomicSegment, BASIC_BLOCK, BindSegment, ControlSegment, DataSegment, DatagramSegment,
    END_OF_LIST, FastRegisterSegment, FlushPlacement, FlushSegment, MAX_INLINE, MAX_SGE, MAX_WQE,
    RemoteSegment, SEGMENT, SegmentationSegment, WqeFlags, WqeOpcode, XrcSegment,
};

use super::keys::key_access;
use crate::pdu::{AtomicOperation, FlushExtent, Placement, RemoteRange, SendTail};
use crate::transport::{
    Bind, DatagramTarget, Domain, FastRegistration, InlineData, Kind, LocalOperation, Offload,
    ReceiveWork, Remote, Route, Segmentation, SendOperation, SendWork, SgList, Vector,
};
use crate::types::{Gid, Mac, Outcome, Qpn, Sge};

/// A request that cannot be understood, which takes one basic block.
#[must_use]
pub fn malformed() -> SendWork {
    SendWork {
        cookie: 0,
        operation: SendOperation::Invalid(Outcome::LocalQpOperation),
        remote: Remote::Peer,
        sges: SgList::new(),
        inline: InlineData::new(),
        solicited: false,
        fence: false,
        signaled: true,
    }
}

/// Decodes the send work request at the start of `bytes`, which hold the blocks that were posted,
/// at least up to the largest request's size, into `work`, which is [`malformed`] before. `index` is
/// what the request must say about itself. Returns the basic blocks that it takes, at least 1; the
/// cookie stays 0.
///
/// Filled in where it stands: moving a request about costs as much as reading it.
pub fn decode_send(kind: Kind, bytes: &[u8], index: u32, work: &mut SendWork) -> u32 {
    match parse_send(kind, bytes, index, work) {
        Some(blocks) => blocks,
        None => {
            *work = malformed();
            1
        }
    }
}

/// Fills in a request and returns the basic blocks that it takes.
#[inline]
fn parse_send(kind: Kind, bytes: &[u8], index: u32, work: &mut SendWork) -> Option<u32> {
    let control: ControlSegment = segment(bytes, 0)?;
    let segments = usize::from(control.segments);
    let length = segments * SEGMENT;
    if control.index != index || length > MAX_WQE {
        return None;
    }
    let mut reader = Reader(bytes.get(SEGMENT..length)?);
    let opcode = WqeOpcode::from_raw(control.opcode)?;
    let flags = WqeFlags::from_bits(control.flags)?;
    if opcode != WqeOpcode::Nop {
        remote(kind, &control, flags, &mut reader, work)?;
    }
    operation(opcode, &control, &mut reader, work)?;
    payload(&control, flags, reader.0, work)?;
    if opcode == WqeOpcode::AtomicWrite {
        atomic_write(work)?;
    }
    if !work.sges.is_empty() && !may_have_data(&work.operation)
        || !work.inline.is_empty() && !may_inline(&work.operation)
    {
        return None;
    }
    work.solicited = flags.contains(WqeFlags::SOLICITED);
    work.fence = flags.contains(WqeFlags::FENCE);
    work.signaled = flags.contains(WqeFlags::SIGNALED);
    u32::try_from(length.div_ceil(BASIC_BLOCK)).ok()
}

/// Segments that have not been read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// The next structure, which takes whole segments.
    #[inline]
    fn next<T: bytemuck::AnyBitPattern>(&mut self) -> Option<T> {
        const { assert!(size_of::<T>() % SEGMENT == 0) };
        let (bytes, rest) = self.0.split_at_checked(size_of::<T>())?;
        self.0 = rest;
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
}

/// Whom the request is for, with the segments that say so.
#[inline]
fn remote(
    kind: Kind,
    control: &ControlSegment,
    flags: WqeFlags,
    reader: &mut Reader<'_>,
    work: &mut SendWork,
) -> Option<()> {
    let raw = WqeFlags::CHECKSUM_IP | WqeFlags::CHECKSUM_TRANSPORT | WqeFlags::INSERT_VLAN;
    if kind != Kind::Raw && flags.intersects(raw) {
        return None;
    }
    match kind {
        // As it is.
        Kind::Rc | Kind::Uc | Kind::XrcTarget => {}
        Kind::XrcInitiator => {
            let XrcSegment { remote_srqn, .. } = reader.next()?;
            if remote_srqn >> 24 != 0 {
                return None;
            }
            work.remote = Remote::SharedQueue(remote_srqn);
        }
        Kind::Ud | Kind::Gsi => work.remote = datagram(&reader.next()?)?,
        Kind::Raw => {
            work.remote = Remote::Frame(Offload {
                ip_checksum: flags.contains(WqeFlags::CHECKSUM_IP),
                transport_checksum: flags.contains(WqeFlags::CHECKSUM_TRANSPORT),
                vlan_tag: flags
                    .contains(WqeFlags::INSERT_VLAN)
                    .then_some(control.vlan_tag),
            });
        }
    }
    Some(())
}

#[inline(never)]
fn datagram(segment: &DatagramSegment) -> Option<Remote> {
    if segment.remote_qpn >> 24 != 0 {
        return None;
    }
    let route = match segment.address_handle {
        0 => Route::InRequest,
        number => Route::Handle(number),
    };
    Some(Remote::Datagram(DatagramTarget {
        qpn: Qpn::new(segment.remote_qpn),
        qkey: segment.qkey,
        route,
    }))
}

/// The address vector in the request at the start of `bytes`, if it is a datagram.
#[must_use]
pub fn request_vector(bytes: &[u8]) -> Option<Vector> {
    let destination: DatagramSegment = Reader(bytes.get(SEGMENT..)?).next()?;
    Some(vector(&destination.vector))
}

/// An address vector as the core has it.
#[must_use]
pub fn vector(from: &AddressVector) -> Vector {
    Vector {
        gid: Gid(from.gid),
        mac: Mac(from.mac),
        source_index: from.sgid_index,
        flow_label: from.flow_label,
        hop_limit: from.hop_limit,
        traffic_class: from.traffic_class,
        service_level: from.service_level,
    }
}

/// The operation, with the segments that it has.
#[inline]
fn operation(
    opcode: WqeOpcode,
    control: &ControlSegment,
    reader: &mut Reader<'_>,
    work: &mut SendWork,
) -> Option<()> {
    let tail = match opcode {
        WqeOpcode::Send => SendTail::None,
        WqeOpcode::SendImmediate => SendTail::Immediate(control.immediate),
        WqeOpcode::SendInvalidate => SendTail::Invalidate(control.immediate),
        WqeOpcode::Write | WqeOpcode::WriteImmediate | WqeOpcode::Read => {
            let RemoteSegment { address, rkey, .. } = reader.next()?;
            work.operation = match opcode {
                WqeOpcode::Read => SendOperation::Read { address, rkey },
                _ => SendOperation::Write {
                    address,
                    rkey,
                    immediate: (opcode == WqeOpcode::WriteImmediate).then_some(control.immediate),
                },
            };
            return Some(());
        }
        _ => {
            work.operation = rare_operation(opcode, control, reader)?;
            return Some(());
        }
    };
    work.operation = SendOperation::Send(tail);
    Some(())
}

/// Operations other than SEND, WRITE and READ.
#[inline(never)]
fn rare_operation(
    opcode: WqeOpcode,
    control: &ControlSegment,
    reader: &mut Reader<'_>,
) -> Option<SendOperation> {
    match opcode {
        WqeOpcode::CompareSwap | WqeOpcode::FetchAdd => atomic(opcode, reader),
        WqeOpcode::AtomicWrite => {
            let RemoteSegment { address, rkey, .. } = reader.next()?;
            Some(SendOperation::AtomicWrite {
                address,
                rkey,
                // Inline data, which is not read yet.
                value: [0; 8],
            })
        }
        WqeOpcode::Flush => flush(reader),
        WqeOpcode::LocalInvalidate => Some(SendOperation::Local(LocalOperation::Invalidate(
            control.immediate,
        ))),
        WqeOpcode::FastRegister => fast_register(&reader.next()?),
        WqeOpcode::BindWindow => bind(&reader.next()?),
        WqeOpcode::SendSegmented => segmented(&reader.next()?),
        WqeOpcode::Nop => Some(SendOperation::Nop),
        // Those that are not rare.
        WqeOpcode::Send
        | WqeOpcode::SendImmediate
        | WqeOpcode::SendInvalidate
        | WqeOpcode::Write
        | WqeOpcode::WriteImmediate
        | WqeOpcode::Read => None,
    }
}

fn atomic(opcode: WqeOpcode, reader: &mut Reader<'_>) -> Option<SendOperation> {
    let RemoteSegment { address, rkey, .. } = reader.next()?;
    let operands: AtomicSegment = reader.next()?;
    let operation = match opcode {
        WqeOpcode::CompareSwap => AtomicOperation::CompareSwap {
            compare: operands.compare,
            swap: operands.swap_or_add,
        },
        _ => AtomicOperation::FetchAdd(operands.swap_or_add),
    };
    Some(SendOperation::Atomic {
        address,
        rkey,
        operation,
    })
}

/// Takes the 8 bytes of an atomic write from the inline data.
fn atomic_write(work: &mut SendWork) -> Option<()> {
    if let SendOperation::AtomicWrite { value, .. } = &mut work.operation {
        *value = work.inline.as_slice().try_into().ok()?;
        work.inline.clear();
    }
    Some(())
}

fn flush(reader: &mut Reader<'_>) -> Option<SendOperation> {
    let RemoteSegment { address, rkey, .. } = reader.next()?;
    let segment: FlushSegment = reader.next()?;
    let placement = FlushPlacement::from_bits(segment.placement)?;
    if placement.is_empty() {
        return None;
    }
    Some(SendOperation::Flush {
        target: RemoteRange {
            address,
            rkey,
            length: segment.length,
        },
        extent: match vrnic_abi::wqe::FlushExtent::from_raw(segment.extent)? {
            vrnic_abi::wqe::FlushExtent::Range => FlushExtent::Range,
            vrnic_abi::wqe::FlushExtent::Region => FlushExtent::Region,
        },
        placement: Placement {
            global: placement.contains(FlushPlacement::GLOBAL),
            persistent: placement.contains(FlushPlacement::PERSISTENT),
        },
    })
}

#[inline(never)]
fn fast_register(segment: &FastRegisterSegment) -> Option<SendOperation> {
    let flags = AccessFlags::from_bits(segment.access)?;
    Some(SendOperation::Local(LocalOperation::FastRegister(
        FastRegistration {
            key: segment.key,
            access: key_access(flags),
            zero_based: flags.contains(AccessFlags::ZERO_BASED),
            window_bind: flags.contains(AccessFlags::WINDOW_BIND),
            relaxed_ordering: flags.contains(AccessFlags::RELAXED_ORDERING),
            start: segment.start,
            length: segment.length,
            list: segment.list,
            pages: segment.pages,
            page_shift: segment.page_shift,
        },
    )))
}

fn segmented(segment: &SegmentationSegment) -> Option<SendOperation> {
    (segment.mss > 0).then_some(SendOperation::SendSegmented(Segmentation {
        mss: segment.mss,
        header_length: segment.header_length,
    }))
}

/// Rights that a window can give, and how it is addressed.
const WINDOW_FLAGS: AccessFlags = AccessFlags::REMOTE_WRITE
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC)
    .union(AccessFlags::ZERO_BASED);

#[inline(never)]
fn bind(segment: &BindSegment) -> Option<SendOperation> {
    let flags = AccessFlags::from_bits(segment.access)?;
    if !WINDOW_FLAGS.contains(flags) {
        return None;
    }
    Some(SendOperation::Local(LocalOperation::Bind(Bind {
        window: segment.window,
        key: segment.key,
        region: segment.region,
        access: key_access(flags),
        zero_based: flags.contains(AccessFlags::ZERO_BASED),
        start: segment.start,
        length: segment.length,
    })))
}

/// Whether data segments mean anything.
const fn may_have_data(operation: &SendOperation) -> bool {
    matches!(
        operation,
        SendOperation::Send(_)
            | SendOperation::SendSegmented(_)
            | SendOperation::Write { .. }
            | SendOperation::Read { .. }
            | SendOperation::Atomic { .. }
    )
}

const fn may_inline(operation: &SendOperation) -> bool {
    matches!(
        operation,
        SendOperation::Send(_) | SendOperation::SendSegmented(_) | SendOperation::Write { .. }
    )
}

/// Data segments or inline data, which is all of `data`.
#[inline]
fn payload(
    control: &ControlSegment,
    flags: WqeFlags,
    data: &[u8],
    work: &mut SendWork,
) -> Option<()> {
    let count = usize::from(control.data_segments);
    if flags.contains(WqeFlags::INLINE) {
        let length = usize::from(control.inline_length);
        let padded = length.next_multiple_of(SEGMENT);
        if count != 0 || length > MAX_INLINE || data.len() != padded {
            return None;
        }
        work.inline.extend_from_slice(data.get(..length)?);
        return Some(());
    }
    if count > MAX_SGE || data.len() != count * SEGMENT {
        return None;
    }
    for chunk in data.chunks_exact(SEGMENT) {
        push_segment(&mut work.sges, bytemuck::pod_read_unaligned(chunk));
    }
    Some(())
}

/// Decodes a receive queue entry, which is all of `bytes`; cookie and domain are for the queue to
/// fill in.
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
        domain: Domain::default(),
        sges,
        invalid: None,
    }
}

/// Adds a segment unless it stands for no bytes.
#[inline]
fn push_segment(sges: &mut SgList, segment: DataSegment) {
    if segment.length > 0 {
        sges.push(Sge {
            address: segment.address,
            length: segment.length,
            lkey: segment.lkey,
        });
    }
}

#[inline]
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

    /// A request and the blocks that it takes.
    #[derive(Debug, PartialEq, Eq)]
    struct Decoded {
        work: SendWork,
        blocks: u32,
    }

    fn decode_as(kind: Kind, bytes: &[u8]) -> Decoded {
        let mut work = malformed();
        let blocks = decode_send(kind, bytes, 7, &mut work);
        Decoded { work, blocks }
    }

    fn decode(segments: &[&[u8]]) -> Decoded {
        let mut bytes: Vec<u8> = segments.concat();
        bytes.resize(MAX_WQE, 0xa5);
        decode_as(Kind::Rc, &bytes)
    }

    #[track_caller]
    fn refused(segments: &[&[u8]]) {
        assert_eq!(decode(segments).work, malformed());
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
        assert_ne!(decode(&[bytes_of(&good)]).work, malformed());
    }

    #[test]
    fn a_window_gives_remote_rights_only() {
        let head = ControlSegment {
            segments: 4,
            ..control(WqeOpcode::BindWindow)
        };
        for bit in 0..32 {
            let segment = BindSegment {
                access: 1 << bit,
                ..BindSegment::default()
            };
            let decoded = decode(&[bytes_of(&head), bytes_of(&segment)]);
            let good = [1, 2, 3, 5].contains(&bit);
            assert_eq!(decoded.work != malformed(), good, "bit {bit}");
        }
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
