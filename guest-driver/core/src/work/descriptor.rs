//! How requests become descriptors: the segments of `vrnic_abi::wqe`, in their order.
//!
//! [`Descriptor::new`] checks that a request can be described and that the queue pair has the
//! operation; [`Descriptor::emit`] then writes segment by segment straight into the ring. Both
//! run for every request, in atomic context. They are inlined by force: where the caller knows the
//! operation, a few stores remain of them.

use vrnic_abi::wqe::{
    AtomicSegment, BASIC_BLOCK, BindSegment, ControlSegment, DataSegment, DatagramSegment,
    FastRegisterSegment, FlushSegment, MAX_INLINE, MAX_SGE, MAX_WQE, RemoteSegment, SEGMENT,
    SegmentationSegment, WqeFlags, WqeOpcode, XrcSegment,
};

use crate::error::PostError;
use crate::qp::service::Service;
use crate::work::{
    Bind, Data, Datagram, DatagramPath, Operation, Remote, SendRequest, Sge, Target,
};

/// Words in a segment.
const SEGMENT_WORDS: usize = SEGMENT / 8;

/// A segment.
type Words = [u64; SEGMENT_WORDS];

/// What a queue pair allows in a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimits {
    /// Operations, and whom they are for.
    pub service: Service,
    /// Data segments.
    pub segments: u32,
    /// Bytes of inline data.
    pub inline: u32,
}

/// The shape of a request's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Segments, the control segment included.
    segments: usize,
    data_segments: usize,
    inline_length: usize,
}

/// Bytes of the value of an atomic write, which stands in the request as inline data.
const ATOMIC_WRITE: usize = 8;

/// Segments of `target`.
const fn target_segments(target: &Target) -> usize {
    match target {
        Target::Peer | Target::Wire { .. } => 0,
        Target::Datagram(_) => DatagramSegment::SIZE / SEGMENT,
        Target::SharedReceiveQueue(_) => XrcSegment::SIZE / SEGMENT,
    }
}

impl Operation {
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

    #[inline(always)]
    const fn remote(&self) -> Option<Remote> {
        match *self {
            Self::Write(remote)
            | Self::WriteImmediate(remote, _)
            | Self::Read(remote)
            | Self::CompareSwap { remote, .. }
            | Self::FetchAdd { remote, .. }
            | Self::AtomicWrite { remote, .. }
            | Self::Flush { remote, .. } => Some(remote),
            _ => None,
        }
    }

    /// Segments between the target's and the data, the value of an atomic write included.
    #[inline(always)]
    const fn segments(&self) -> usize {
        match self {
            Self::BindWindow(_) => BindSegment::SIZE / SEGMENT,
            Self::CompareSwap { .. }
            | Self::FetchAdd { .. }
            | Self::Flush { .. }
            | Self::AtomicWrite { .. } => 2,
            Self::SendSegmented { .. } => SegmentationSegment::SIZE / SEGMENT,
            _ if self.remote().is_some() => 1,
            _ => 0,
        }
    }

    /// Hands out what [`Self::segments`] counts.
    #[inline(always)]
    fn emit(&self, put: &mut impl FnMut(Words)) {
        if let Some(remote) = self.remote() {
            put(bytemuck::cast(RemoteSegment {
                address: remote.address,
                rkey: remote.rkey,
                reserved: 0,
            }));
        }
        match *self {
            Self::CompareSwap { compare, swap, .. } => put(bytemuck::cast(AtomicSegment {
                swap_or_add: swap,
                compare,
            })),
            Self::FetchAdd { add, .. } => put(bytemuck::cast(AtomicSegment {
                swap_or_add: add,
                compare: 0,
            })),
            Self::Flush {
                length,
                placement,
                extent,
                ..
            } => put(bytemuck::cast(FlushSegment {
                length,
                placement: placement.bits(),
                extent: extent.raw(),
                ..FlushSegment::default()
            })),
            Self::AtomicWrite { value, .. } => put([value, 0]),
            Self::SendSegmented { mss, header_length } => {
                put(bytemuck::cast(SegmentationSegment {
                    mss,
                    header_length,
                    ..SegmentationSegment::default()
                }))
            }
            Self::BindWindow(bind) => bind_segment(&bind).into_iter().for_each(put),
            _ => {}
        }
    }
}

fn bind_segment(bind: &Bind) -> [Words; 3] {
    bytemuck::cast(BindSegment {
        window: bind.window,
        key: bind.key,
        region: bind.region,
        access: bind.access.bits(),
        start: bind.start,
        length: bind.length,
        reserved: [0; 2],
    })
}

fn datagram_segment(datagram: &Datagram) -> [Words; 4] {
    let mut segment = DatagramSegment {
        remote_qpn: datagram.remote_qpn,
        qkey: datagram.qkey,
        ..DatagramSegment::default()
    };
    match datagram.path {
        DatagramPath::Handle(handle) => segment.address_handle = handle.number(),
        DatagramPath::Vector(vector) => segment.vector = vector,
    }
    bytemuck::cast(segment)
}

#[inline(always)]
fn emit_target(target: &Target, put: &mut impl FnMut(Words)) {
    match target {
        Target::Peer | Target::Wire { .. } => {}
        Target::Datagram(datagram) => datagram_segment(datagram).into_iter().for_each(put),
        Target::SharedReceiveQueue(number) => put(bytemuck::cast(XrcSegment {
            remote_srqn: *number,
            reserved: [0; 3],
        })),
    }
}

impl Descriptor {
    /// Checks that the queue pair has the operation and that `request` can be described.
    #[inline(always)]
    pub fn new(request: &SendRequest<'_>, limits: DescriptorLimits) -> Result<Self, PostError> {
        let (data_segments, inline_length) = match request.data {
            Data::Sges(sges) => (sges.len(), 0),
            Data::Inline(bytes) => (0, bytes.len()),
        };
        limits.service.check(request)?;
        let fits = data_segments <= MAX_SGE.min(limits.segments as usize)
            && inline_length <= MAX_INLINE.min(limits.inline as usize);
        let target = match request.operation {
            Operation::Nop => 0,
            _ => target_segments(&request.target),
        };
        let head = 1 + target + request.operation.segments();
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
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.segments.div_ceil(BASIC_BLOCK / SEGMENT) as u32
    }

    /// Hands the segments to `put`, in order, for a request at the block with index `index`.
    #[inline(always)]
    pub fn emit(&self, request: &SendRequest<'_>, index: u32, mut put: impl FnMut(Words)) {
        put(bytemuck::cast(self.control(request, index)));
        if request.operation != Operation::Nop {
            emit_target(&request.target, &mut put);
        }
        request.operation.emit(&mut put);
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

    #[inline(always)]
    fn control(&self, request: &SendRequest<'_>, index: u32) -> ControlSegment {
        let mut flags = request.flags;
        let (inline, inline_length) = match request.operation {
            Operation::AtomicWrite { .. } => (true, ATOMIC_WRITE),
            _ => (matches!(request.data, Data::Inline(_)), self.inline_length),
        };
        flags.set(WqeFlags::INLINE, inline);
        let vlan_tag = match request.target {
            Target::Wire { vlan_tag } => vlan_tag,
            _ => None,
        };
        flags.set(WqeFlags::INSERT_VLAN, vlan_tag.is_some());
        ControlSegment {
            opcode: request.operation.opcode().raw(),
            flags: flags.bits(),
            segments: self.segments as u8,
            data_segments: self.data_segments as u8,
            immediate: request.operation.immediate(),
            inline_length: inline_length as u16,
            vlan_tag: vlan_tag.unwrap_or(0),
            index,
        }
    }
}

/// A fast registration, which only [`crate::FastRegion`] makes: it keeps the page list alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration {
    pub(crate) segment: FastRegisterSegment,
    pub(crate) target: Target,
    pub(crate) flags: WqeFlags,
}

impl Registration {
    const fn segments(&self) -> usize {
        1 + target_segments(&self.target) + FastRegisterSegment::SIZE / SEGMENT
    }

    /// Basic blocks the descriptor takes.
    pub(crate) fn blocks(&self) -> u32 {
        self.segments().div_ceil(BASIC_BLOCK / SEGMENT) as u32
    }

    /// As [`Descriptor::emit`].
    pub(crate) fn emit(&self, index: u32, mut put: impl FnMut(Words)) {
        put(bytemuck::cast(ControlSegment {
            opcode: WqeOpcode::FastRegister.raw(),
            flags: self.flags.bits(),
            segments: self.segments() as u8,
            index,
            ..ControlSegment::default()
        }));
        emit_target(&self.target, &mut put);
        let words: [Words; 3] = bytemuck::cast(self.segment);
        words.into_iter().for_each(put);
    }
}

/// `sge` as it stands in a descriptor.
#[inline]
pub(crate) fn data_segment(sge: &Sge) -> Words {
    bytemuck::cast(DataSegment {
        address: sge.address,
        length: sge.length,
        lkey: sge.lkey,
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use vrnic_abi::admin::{AccessFlags, QpType};
    use vrnic_abi::object::AddressVector;
    use vrnic_abi::registers::Capabilities;
    use vrnic_abi::wqe::{FlushExtent, FlushPlacement};

    use super::*;

    /// Limits of a privileged queue pair on a device that can do all.
    fn limits(qp_type: QpType) -> DescriptorLimits {
        DescriptorLimits {
            service: Service::new(qp_type, Capabilities::all(), true),
            segments: 28,
            inline: 448,
        }
    }

    fn request(operation: Operation, data: Data<'_>) -> SendRequest<'_> {
        SendRequest {
            operation,
            data,
            flags: WqeFlags::SIGNALED,
            ..SendRequest::default()
        }
    }

    /// The descriptor's words, for the block with index 9.
    #[track_caller]
    fn built_for(qp_type: QpType, request: &SendRequest<'_>) -> Vec<u64> {
        let descriptor = Descriptor::new(request, limits(qp_type)).expect("fits");
        let mut words = Vec::new();
        descriptor.emit(request, 9, |segment| words.extend(segment));
        assert_eq!(words.len(), descriptor.segments * SEGMENT_WORDS);
        assert_eq!(words.len().div_ceil(8), descriptor.blocks() as usize);
        words
    }

    #[track_caller]
    fn built(request: &SendRequest<'_>) -> Vec<u64> {
        built_for(QpType::Rc, request)
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
            let refused = Descriptor::new(&request(write, data), limits(QpType::Rc));
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

    /// A vector whose bytes all differ from 0 and from most of each other.
    fn vector() -> AddressVector {
        let bytes: [u8; AddressVector::SIZE] = core::array::from_fn(|i| i as u8 + 1);
        bytemuck::cast(bytes)
    }

    #[test]
    fn datagrams_carry_their_destination_before_the_data() {
        let mut send = request(Operation::SendImmediate(7), Data::Inline(&[1; 8]));
        let datagram = Datagram {
            remote_qpn: 0x123456,
            qkey: 0x8001_0000,
            path: DatagramPath::Vector(vector()),
        };
        send.target = Target::Datagram(datagram);
        let words = built_for(QpType::Ud, &send);
        assert_eq!((words.len(), control(&words).segments), (12, 6));
        let found: [u64; 8] = core::array::from_fn(|i| words[2 + i]);
        let found: DatagramSegment = bytemuck::cast(found);
        let expected = DatagramSegment {
            remote_qpn: 0x123456,
            qkey: 0x8001_0000,
            vector: vector(),
            ..DatagramSegment::default()
        };
        assert_eq!(found, expected);
        assert_eq!(words[10], 0x0101_0101_0101_0101);
        let most = [Sge::default(); 28];
        send.data = Data::Sges(&most[..27]);
        assert_eq!(built_for(QpType::Gsi, &send).len(), 64);
        send.data = Data::Sges(&most);
        let refused = Descriptor::new(&send, limits(QpType::Ud));
        assert_eq!(refused, Err(PostError::TooLarge));
    }

    #[test]
    fn xrc_requests_name_the_shared_receive_queue_first() {
        let remote = Remote {
            address: 0x1000,
            rkey: 5,
        };
        let mut write = request(Operation::Write(remote), Data::Sges(&[]));
        write.target = Target::SharedReceiveQueue(0xabcdef);
        let words = built_for(QpType::XrcInitiator, &write);
        assert_eq!(words[2..], [0xabcdef, 0, 0x1000, 5]);
    }

    #[test]
    fn frames_carry_a_tag_and_ask_for_checksums() {
        let mut send = request(Operation::Send, Data::Inline(&[9; 16]));
        send.flags |= WqeFlags::CHECKSUM_IP | WqeFlags::CHECKSUM_TRANSPORT;
        // INSERT_VLAN follows from the target alone.
        for vlan_tag in [Some(0xa123), None] {
            send.target = Target::Wire { vlan_tag };
            let segment = control(&built_for(QpType::RawPacket, &send));
            let flags = WqeFlags::from_bits_truncate(segment.flags);
            assert_eq!(segment.vlan_tag, vlan_tag.unwrap_or(0));
            assert_eq!(flags.contains(WqeFlags::INSERT_VLAN), vlan_tag.is_some());
            assert!(flags.contains(WqeFlags::CHECKSUM_IP | WqeFlags::CHECKSUM_TRANSPORT));
        }
    }

    #[test]
    fn a_segmented_send_says_how_it_is_cut() {
        let sges = [Sge::default(); 28];
        let operation = Operation::SendSegmented {
            mss: 0x1234,
            header_length: 66,
        };
        let mut send = request(operation, Data::Sges(&sges));
        send.target = Target::Wire { vlan_tag: None };
        let words = built_for(QpType::RawPacket, &send);
        assert_eq!((words.len(), control(&words).segments), (60, 30));
        assert_eq!(control(&words).data_segments, 28);
        assert_eq!(words[2..4], [0x0042_1234, 0]);
        for (mss, header_length) in [(0, 54), (1, 139)] {
            send.operation = Operation::SendSegmented { mss, header_length };
            let refused = Descriptor::new(&send, limits(QpType::RawPacket));
            assert_eq!(refused, Err(PostError::Unsupported));
        }
    }

    #[test]
    fn flush_and_bind_have_segments_of_their_own() {
        let remote = Remote {
            address: 0x2000,
            rkey: 6,
        };
        let flush = Operation::Flush {
            remote,
            length: 0x30,
            placement: FlushPlacement::GLOBAL,
            extent: FlushExtent::Region,
        };
        let words = built(&request(flush, Data::default()));
        assert_eq!(words[2..], [0x2000, 6, 0x30 | 1 << 32 | 1 << 40, 0]);
        let bind = Bind {
            window: 0x101,
            key: 0x102,
            region: 0x203,
            access: AccessFlags::REMOTE_READ,
            start: 0x7000,
            length: 0x99,
        };
        let words = built(&request(Operation::BindWindow(bind), Data::default()));
        let expected = [0x101 | 0x102 << 32, 0x203 | 4 << 32, 0x7000, 0x99, 0, 0];
        assert_eq!(words[2..], expected);
    }

    #[test]
    fn an_atomic_write_carries_its_value() {
        let remote = Remote {
            address: 0x2008,
            rkey: 6,
        };
        let value = 0x0102_0304_0506_0708;
        let write = Operation::AtomicWrite { remote, value };
        let words = built(&request(write, Data::default()));
        assert_eq!(words[2..], [0x2008, 6, value, 0]);
        let control = control(&words);
        assert_eq!((control.segments, control.inline_length), (3, 8));
        assert!(WqeFlags::from_bits_truncate(control.flags).contains(WqeFlags::INLINE));
    }

    #[test]
    fn a_nop_has_no_target() {
        let mut nop = request(Operation::Nop, Data::default());
        nop.target = Target::SharedReceiveQueue(3);
        assert_eq!(built_for(QpType::XrcInitiator, &nop).len(), 2);
    }

    #[test]
    fn a_registration_is_control_target_and_segment() {
        let registration = Registration {
            segment: FastRegisterSegment {
                key: 0x105,
                length: 9,
                ..FastRegisterSegment::default()
            },
            target: Target::SharedReceiveQueue(3),
            flags: WqeFlags::SIGNALED,
        };
        let mut words = Vec::new();
        registration.emit(9, |segment| words.extend(segment));
        assert_eq!((words.len(), registration.blocks()), (10, 2));
        let control = control(&words);
        assert_eq!((control.segments, control.index), (5, 9));
        assert_eq!(control.opcode, WqeOpcode::FastRegister.raw());
        assert_eq!(words[2..7], [3, 0, 0x105, 0, 9]);
    }

    #[test]
    fn what_a_queue_pair_cannot_do_is_refused() {
        let remote = Remote::default();
        let sges = [Sge::default()];
        let write = request(Operation::Write(remote), Data::Sges(&sges));
        let read = request(Operation::Read(remote), Data::Sges(&sges));
        let inline_read = request(Operation::Read(remote), Data::Inline(&[1]));
        let nop = request(Operation::Nop, Data::Sges(&sges));
        let mut frame = request(Operation::Send, Data::Sges(&sges));
        frame.target = Target::Wire { vlan_tag: None };
        let mut checked = request(Operation::Send, Data::Sges(&sges));
        checked.flags |= WqeFlags::CHECKSUM_IP;
        let cut = Operation::SendSegmented {
            mss: 1448,
            header_length: 66,
        };
        let cut = request(cut, Data::Sges(&sges));
        let refusals = [
            (QpType::Rc, cut, PostError::Unsupported),
            (QpType::Ud, cut, PostError::Unsupported),
            (QpType::RawPacket, cut, PostError::WrongTarget),
            (QpType::Ud, write, PostError::Unsupported),
            (QpType::Uc, read, PostError::Unsupported),
            (QpType::Rc, inline_read, PostError::Unsupported),
            (QpType::Rc, nop, PostError::Unsupported),
            (QpType::Rc, checked, PostError::Unsupported),
            (QpType::RawPacket, read, PostError::Unsupported),
            (QpType::XrcTarget, read, PostError::Unsupported),
            (QpType::XrcInitiator, write, PostError::WrongTarget),
            (QpType::Rc, frame, PostError::WrongTarget),
        ];
        for (qp_type, request, error) in refusals {
            let refused = Descriptor::new(&request, limits(qp_type));
            assert_eq!(refused, Err(error), "{qp_type:?}: {request:?}");
        }
    }

    #[test]
    fn what_the_device_cannot_do_is_refused() {
        let remote = Remote::default();
        let add = Operation::FetchAdd { remote, add: 1 };
        let optional = [
            (
                Operation::AtomicWrite { remote, value: 1 },
                Capabilities::ATOMIC_WRITE,
            ),
            (
                Operation::SendInvalidate(1),
                Capabilities::FAST_REGISTRATION,
            ),
            (
                Operation::LocalInvalidate(1),
                Capabilities::FAST_REGISTRATION,
            ),
            (add, Capabilities::ATOMICS),
        ];
        for (operation, capability) in optional {
            let request = request(operation, Data::default());
            for (capabilities, error) in [
                (Capabilities::all(), None),
                (
                    Capabilities::all() - capability,
                    Some(PostError::Unsupported),
                ),
            ] {
                let limits = DescriptorLimits {
                    service: Service::new(QpType::Rc, capabilities, true),
                    ..limits(QpType::Rc)
                };
                let result = Descriptor::new(&request, limits);
                assert_eq!(result.err(), error, "{operation:?}");
            }
        }
    }
}
