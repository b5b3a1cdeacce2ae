//! Operation codes (IBTA volume 1, 9.2.1, table "OpCode field"; congestion notification: A17.9).
//!
//! The upper 3 bits of an opcode name the transport, the lower 5 bits the operation, which is
//! numbered alike in all transports: [`TRANSPORTS`] says which transport has which operations, the
//! list in [`Operation`] says what the numbers mean, in both directions.

use super::{DropReason, aeth, atomicacketh, atomiceth, ieth, immdt, reth};
use crate::pdu::{AtomicOperation, Body, Place, SendTail};

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Part of a SEND.
    Send(Place, Tail),
    /// Part of an RDMA WRITE.
    Write(Place, Tail),
    /// RDMA READ request.
    ReadRequest,
    /// Part of an RDMA READ response.
    ReadResponse(Place),
    /// Acknowledgement.
    Acknowledge,
    /// Response to an atomic request.
    AtomicAcknowledge,
    /// Atomic request.
    CompareSwap,
    /// Atomic request.
    FetchAdd,
    /// Atomic write.
    AtomicWrite,
    /// Flush.
    Flush,
    /// Congestion notification packet.
    Congestion,
}

/// What the last packet of a message carries besides the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing, or not the last packet.
    Nothing,
    /// Immediate data.
    Immediate,
    /// A key to invalidate.
    Invalidate,
}

/// A transport's row: what it has and whether this device speaks it.
struct Transport {
    /// Bit n: the transport has operation n.
    operations: u32,
    supported: bool,
}

const NONE: Transport = Transport {
    operations: 0,
    supported: false,
};

/// The transports by the upper 3 bits of the opcode.
const TRANSPORTS: [Transport; 8] = [
    // Reliable connection.
    Transport {
        operations: 0x00df_ffff,
        supported: true,
    },
    // Unreliable connection: SEND and RDMA WRITE.
    Transport {
        operations: 0x0000_0fff,
        supported: false,
    },
    // Reliable datagram: as RC, with RESYNC in place of invalidation.
    Transport {
        operations: 0x003f_ffff,
        supported: false,
    },
    // Unreliable datagram: SEND only, with and without immediate data.
    Transport {
        operations: 0x0000_0030,
        supported: false,
    },
    // Congestion notification.
    Transport {
        operations: 0x0000_0002,
        supported: true,
    },
    // Extended reliable connection: as RC.
    Transport {
        operations: 0x00df_ffff,
        supported: false,
    },
    // Manufacturer's own, twice.
    NONE,
    NONE,
];

/// Length of the reserved bytes of a congestion notification packet.
pub(super) const CONGESTION_RESERVED: usize = 16;

/// Lists opcodes once for both directions.
macro_rules! operations {
    ($($code:literal = $name:ident $(($($argument:ident),*))?;)*) => {
        impl Operation {
            fn from_code(code: u8) -> Option<Self> {
                use Place::{First, Last, Middle, Only};
                use Tail::{Immediate, Invalidate, Nothing};
                match code {
                    $($code => Some(Self::$name $(($($argument),*))?),)*
                    _ => None,
                }
            }

            /// Its opcode on a reliable connection, unless there is none.
            pub(super) fn code(self) -> Option<u8> {
                use Place::{First, Last, Middle, Only};
                use Tail::{Immediate, Invalidate, Nothing};
                match self {
                    $(Self::$name $(($($argument),*))? => Some($code),)*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    0x00 = Send(First, Nothing);
    0x01 = Send(Middle, Nothing);
    0x02 = Send(Last, Nothing);
    0x03 = Send(Last, Immediate);
    0x04 = Send(Only, Nothing);
    0x05 = Send(Only, Immediate);
    0x06 = Write(First, Nothing);
    0x07 = Write(Middle, Nothing);
    0x08 = Write(Last, Nothing);
    0x09 = Write(Last, Immediate);
    0x0a = Write(Only, Nothing);
    0x0b = Write(Only, Immediate);
    0x0c = ReadRequest;
    0x0d = ReadResponse(First);
    0x0e = ReadResponse(Middle);
    0x0f = ReadResponse(Last);
    0x10 = ReadResponse(Only);
    0x11 = Acknowledge;
    0x12 = AtomicAcknowledge;
    0x13 = CompareSwap;
    0x14 = FetchAdd;
    0x16 = Send(Last, Invalidate);
    0x17 = Send(Only, Invalidate);
    0x81 = Congestion;
}

impl Operation {
    /// What an opcode means.
    pub(super) fn decode(opcode: u8) -> Result<Self, DropReason> {
        let operation = 1_u32 << (opcode & 0x1f);
        let transport = TRANSPORTS.get(usize::from(opcode >> 5)).unwrap_or(&NONE);
        if transport.operations & operation == 0 {
            return Err(DropReason::UnknownOpcode);
        }
        if !transport.supported {
            return Err(DropReason::UnsupportedOpcode);
        }
        Self::from_code(opcode).ok_or(DropReason::UnknownOpcode)
    }

    /// What a PDU is.
    pub(super) const fn of(body: &Body) -> Self {
        match *body {
            Body::Send { place, tail } => Self::Send(
                place,
                match tail {
                    SendTail::None => Tail::Nothing,
                    SendTail::Immediate(_) => Tail::Immediate,
                    SendTail::Invalidate(_) => Tail::Invalidate,
                },
            ),
            Body::Write {
                place, immediate, ..
            } => Self::Write(
                place,
                match immediate {
                    None => Tail::Nothing,
                    Some(_) => Tail::Immediate,
                },
            ),
            Body::Read { .. } => Self::ReadRequest,
            Body::Atomic { operation, .. } => match operation {
                AtomicOperation::CompareSwap { .. } => Self::CompareSwap,
                AtomicOperation::FetchAdd(_) => Self::FetchAdd,
            },
            Body::ReadResponse { place, .. } => Self::ReadResponse(place),
            Body::AtomicResponse { .. } => Self::AtomicAcknowledge,
            Body::AtomicWrite { .. } => Self::AtomicWrite,
            Body::Flush { .. } => Self::Flush,
            Body::Acknowledge(_) => Self::Acknowledge,
            Body::Congestion => Self::Congestion,
        }
    }

    /// Length of the headers between base transport header and payload.
    pub(super) const fn extension(self) -> usize {
        match self {
            Self::Send(_, tail) => tail.length(),
            Self::Write(place, tail) if place.starts() => reth::LENGTH + tail.length(),
            Self::Write(_, tail) => tail.length(),
            Self::ReadRequest => reth::LENGTH,
            Self::ReadResponse(Place::Middle) => 0,
            Self::ReadResponse(_) | Self::Acknowledge => aeth::LENGTH,
            Self::AtomicAcknowledge => aeth::LENGTH + atomicacketh::LENGTH,
            Self::CompareSwap | Self::FetchAdd => atomiceth::LENGTH,
            Self::AtomicWrite | Self::Flush => reth::LENGTH,
            Self::Congestion => CONGESTION_RESERVED,
        }
    }

    /// Whether its packets may carry payload (IBTA volume 1, 9.2.1).
    pub(super) const fn carries_payload(self) -> bool {
        matches!(
            self,
            Self::Send(..) | Self::Write(..) | Self::ReadResponse(_)
        )
    }
}

impl Tail {
    const fn length(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Immediate => immdt::LENGTH,
            Self::Invalidate => ieth::LENGTH,
        }
    }
}
