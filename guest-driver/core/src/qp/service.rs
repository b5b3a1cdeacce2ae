//! What queue pairs of each type can do, and what their transitions need.
//!
//! The operations are those of InfiniBand Architecture volume 1, 11.4.1.1, as far as the device has
//! them; the attributes of transitions those of 11.2.5.2. The device checks both once more:
//! here, misuse is an error to whoever asks and the queue pair goes on.

use vrnic_abi::admin::QpType;
use vrnic_abi::object::QpMask;
use vrnic_abi::registers::Capabilities;
use vrnic_abi::wqe::{MAX_SEGMENTED_HEADERS, WqeFlags, WqeOpcode};

use crate::error::{Error, PostError};
use crate::work::{Data, Operation, SendRequest, Target};

/// Whom requests of a queue pair are for, as [`Target`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetKind {
    Peer,
    Datagram,
    SharedReceiveQueue,
    Wire,
}

impl TargetKind {
    #[inline]
    const fn of(target: &Target) -> Self {
        match target {
            Target::Peer => Self::Peer,
            Target::Datagram(_) => Self::Datagram,
            Target::SharedReceiveQueue(_) => Self::SharedReceiveQueue,
            Target::Wire { .. } => Self::Wire,
        }
    }
}

/// A set of operations, by code.
const fn set(opcodes: &[WqeOpcode]) -> u16 {
    let (mut bits, mut index) = (0, 0);
    while index < opcodes.len() {
        bits |= 1 << opcodes[index].raw();
        index += 1;
    }
    bits
}

const SENDS: u16 = set(&[WqeOpcode::Nop, WqeOpcode::Send, WqeOpcode::SendImmediate]);
const WRITES: u16 = set(&[WqeOpcode::Write, WqeOpcode::WriteImmediate]);
const ATOMICS: u16 = set(&[WqeOpcode::CompareSwap, WqeOpcode::FetchAdd]);
const LOCAL: u16 = set(&[
    WqeOpcode::LocalInvalidate,
    WqeOpcode::FastRegister,
    WqeOpcode::BindWindow,
]);
const RELIABLE: u16 = SENDS
    | WRITES
    | ATOMICS
    | LOCAL
    | set(&[
        WqeOpcode::SendInvalidate,
        WqeOpcode::Read,
        WqeOpcode::AtomicWrite,
        WqeOpcode::Flush,
    ]);
/// Operations that have no data besides what they say themselves.
const NO_DATA: u16 = LOCAL | set(&[WqeOpcode::Nop, WqeOpcode::Flush, WqeOpcode::AtomicWrite]);
/// Operations whose data can stand in the request.
const INLINE: u16 =
    (SENDS | WRITES | set(&[WqeOpcode::SendInvalidate, WqeOpcode::SendSegmented])) & !NO_DATA;
/// Operations of raw packet queue pairs.
const FRAMES: u16 = set(&[WqeOpcode::Nop, WqeOpcode::Send, WqeOpcode::SendSegmented]);

/// Operations that a device has only with a capability.
const OPTIONAL: [(Capabilities, u16); 6] = [
    (Capabilities::ATOMICS, ATOMICS),
    (
        Capabilities::FAST_REGISTRATION,
        set(&[
            WqeOpcode::SendInvalidate,
            WqeOpcode::LocalInvalidate,
            WqeOpcode::FastRegister,
        ]),
    ),
    (Capabilities::MEMORY_WINDOWS, set(&[WqeOpcode::BindWindow])),
    (Capabilities::ATOMIC_WRITE, set(&[WqeOpcode::AtomicWrite])),
    (Capabilities::FLUSH, set(&[WqeOpcode::Flush])),
    (Capabilities::SEGMENTATION, set(&[WqeOpcode::SendSegmented])),
];

/// What the send queue of a queue pair does.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    operations: u16,
    target: TargetKind,
}

impl Service {
    /// The service of queue pairs of type `qp_type` on a device with `capabilities`; fast
    /// registration only if they are `privileged`.
    #[must_use]
    pub fn new(qp_type: QpType, capabilities: Capabilities, privileged: bool) -> Self {
        let (mut operations, target) = match qp_type {
            QpType::Rc => (RELIABLE, TargetKind::Peer),
            QpType::Uc => (SENDS | WRITES | LOCAL, TargetKind::Peer),
            QpType::Ud | QpType::Gsi => (SENDS, TargetKind::Datagram),
            QpType::RawPacket => (FRAMES, TargetKind::Wire),
            QpType::XrcInitiator => (RELIABLE, TargetKind::SharedReceiveQueue),
            QpType::XrcTarget => (0, TargetKind::Peer),
        };
        for (capability, optional) in OPTIONAL {
            if !capabilities.contains(capability) {
                operations &= !optional;
            }
        }
        if !privileged {
            operations &= !set(&[WqeOpcode::FastRegister]);
        }
        Self { operations, target }
    }

    /// Whether the queue pair has the operation.
    #[inline]
    #[must_use]
    pub fn has(&self, opcode: WqeOpcode) -> bool {
        self.operations >> opcode.raw() & 1 == 1
    }

    /// Fails if `request` is not one for this queue pair.
    #[inline(always)]
    pub(crate) fn check(&self, request: &SendRequest<'_>) -> Result<(), PostError> {
        let opcode = request.operation.opcode();
        let misplaced = match request.data {
            Data::Sges([]) => 0,
            Data::Sges(_) => NO_DATA,
            Data::Inline(_) => !INLINE,
        };
        let raw = WqeFlags::CHECKSUM_IP | WqeFlags::CHECKSUM_TRANSPORT;
        if !self.has(opcode)
            || misplaced >> opcode.raw() & 1 == 1
            || !can_be_cut(&request.operation)
            || (self.target != TargetKind::Wire && request.flags.intersects(raw))
        {
            return Err(PostError::Unsupported);
        }
        match opcode {
            WqeOpcode::Nop => Ok(()),
            _ => self.check_target(&request.target),
        }
    }

    /// Fails if the queue pair has no fast registration, or not for `target`.
    pub(crate) fn check_registration(&self, target: &Target) -> Result<(), PostError> {
        if !self.has(WqeOpcode::FastRegister) {
            return Err(PostError::Unsupported);
        }
        self.check_target(target)
    }

    #[inline(always)]
    fn check_target(&self, target: &Target) -> Result<(), PostError> {
        if TargetKind::of(target) == self.target {
            Ok(())
        } else {
            Err(PostError::WrongTarget)
        }
    }
}

/// Whether the device can cut what is to be cut into frames.
#[inline]
fn can_be_cut(operation: &Operation) -> bool {
    match *operation {
        Operation::SendSegmented { mss, header_length } => {
            mss > 0 && usize::from(header_length) <= MAX_SEGMENTED_HEADERS
        }
        _ => true,
    }
}

/// The capability that queue pairs of type `qp_type` need, and what to call it.
pub(crate) const fn capability(qp_type: QpType) -> (Capabilities, &'static str) {
    match qp_type {
        QpType::Rc => (Capabilities::RC, "RC queue pairs"),
        QpType::Uc => (Capabilities::UC, "UC queue pairs"),
        QpType::Ud => (Capabilities::UD, "UD queue pairs"),
        QpType::Gsi => (Capabilities::GSI, "queue pair 1"),
        QpType::RawPacket => (Capabilities::RAW_PACKET, "raw packet queue pairs"),
        QpType::XrcInitiator | QpType::XrcTarget => (Capabilities::XRC, "XRC queue pairs"),
    }
}

/// Segments that a request of a queue pair of type `qp_type` has at most besides data, and the
/// least number of segments that the longest one without a list of data has.
pub(crate) const fn overhead(qp_type: QpType) -> (u32, u32) {
    match qp_type {
        // Control and remote address; or control and a bind.
        QpType::Rc | QpType::Uc => (2, 4),
        QpType::XrcInitiator => (3, 5),
        QpType::Ud | QpType::Gsi => (5, 5),
        // Control and segmentation.
        QpType::RawPacket => (2, 2),
        QpType::XrcTarget => (1, 1),
    }
}

const fn is_connected(qp_type: QpType) -> bool {
    matches!(
        qp_type,
        QpType::Rc | QpType::Uc | QpType::XrcInitiator | QpType::XrcTarget
    )
}

const fn is_datagram(qp_type: QpType) -> bool {
    matches!(qp_type, QpType::Ud | QpType::Gsi)
}

/// Fails unless queue pairs of type `qp_type` are connected to a peer.
pub(crate) const fn require_connected(qp_type: QpType) -> Result<(), Error> {
    if is_connected(qp_type) {
        Ok(())
    } else {
        Err(Error::BadArgument("queue pair, which is not connected"))
    }
}

/// Fails unless queue pairs of type `qp_type` send datagrams.
pub(crate) const fn require_datagram(qp_type: QpType) -> Result<(), Error> {
    if is_datagram(qp_type) {
        Ok(())
    } else {
        Err(Error::BadArgument("queue pair, which sends no datagrams"))
    }
}

/// Fails unless queue pairs of type `qp_type` send Ethernet frames.
pub(crate) const fn require_raw(qp_type: QpType) -> Result<(), Error> {
    match qp_type {
        QpType::RawPacket => Ok(()),
        _ => Err(Error::BadArgument("queue pair, which sends no frames")),
    }
}

/// Fails unless queue pairs of type `qp_type` stop sending, and only that, after some errors.
pub(crate) const fn require_unreliable(qp_type: QpType) -> Result<(), Error> {
    match qp_type {
        QpType::Uc | QpType::Ud | QpType::Gsi | QpType::RawPacket => Ok(()),
        _ => Err(Error::BadArgument("queue pair, which is reliable")),
    }
}

/// What a connected queue pair needs to go from INIT to RTR.
pub(crate) fn rtr_mask(qp_type: QpType) -> QpMask {
    let path = QpMask::STATE
        | QpMask::PRIMARY_PATH
        | QpMask::PATH_MTU
        | QpMask::REMOTE_QPN
        | QpMask::RECEIVE_PSN;
    match qp_type {
        QpType::Rc | QpType::XrcTarget => {
            path | QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER
        }
        _ => path,
    }
}

/// What a connected queue pair needs to go from RTR to RTS.
pub(crate) fn rts_mask(qp_type: QpType) -> QpMask {
    let send = QpMask::STATE | QpMask::SEND_PSN;
    match qp_type {
        QpType::Rc | QpType::XrcInitiator => {
            send | QpMask::TIMEOUT
                | QpMask::RETRY_COUNT
                | QpMask::RNR_RETRY
                | QpMask::INITIATOR_DEPTH
        }
        QpType::XrcTarget => send | QpMask::TIMEOUT,
        _ => send,
    }
}
