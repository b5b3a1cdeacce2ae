//! Operation codes (IBTA volume 1, 9.2.1, table "OpCode field"; congestion notification: A17.9).
//!
//! The upper 3 bits of an opcode name the transport, the lower 5 bits the operation, which is
//! numbered alike in all transports: [`Transport`] says which transport has which operations, the
//! list in [`Operation`] says what the numbers mean, in both directions. FLUSH and ATOMIC WRITE come
//! from annex A19.

use super::{
    DropReason, aeth, atomicacketh, atomiceth, atomicwrite, deth, feth, ieth, immdt, reth, xrceth,
};
use crate::pdu::{AtomicOperation, Body, Place, SendTail, Service};

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

/// A transport: the upper 3 bits of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Reliable connection.
    Reliable,
    /// Unreliable connection.
    Unreliable,
    /// Reliable datagram, which this device does not speak.
    ReliableDatagram,
    /// Unreliable datagram.
    Datagram,
    /// Congestion notification.
    Congestion,
    /// Extended reliable connection.
    Extended,
}

impl Transport {
    /// The transport that an opcode belongs to, unless it is a manufacturer's own.
    const fn from_code(opcode: u8) -> Option<Self> {
        Some(match opcode & !OPERATION {
            0x00 => Self::Reliable,
            0x20 => Self::Unreliable,
            0x40 => Self::ReliableDatagram,
            0x60 => Self::Datagram,
            0x80 => Self::Congestion,
            0xa0 => Self::Extended,
            _ => return None,
        })
    }

    const fn code(self) -> u8 {
        match self {
            Self::Reliable => 0x00,
            Self::Unreliable => 0x20,
            Self::ReliableDatagram => 0x40,
            Self::Datagram => 0x60,
            Self::Congestion => 0x80,
            Self::Extended => 0xa0,
        }
    }

    /// Whether the transport has the operation with that number, if any transport has it.
    const fn has(self, number: u8) -> bool {
        // Bit n: it has operation n.
        let operations: u32 = match self {
            Self::Reliable | Self::Extended => return true,
            // SEND and RDMA WRITE.
            Self::Unreliable => 0x0000_0fff,
            // RESYNC in place of invalidation, and FLUSH.
            Self::ReliableDatagram => 0x103f_ffff,
            // SEND only, with and without immediate data.
            Self::Datagram => 0x0000_0030,
            Self::Congestion => 0x0000_0002,
        };
        operations >> (number & OPERATION) & 1 != 0
    }

    const fn of(service: &Service) -> Self {
        match service {
            Service::Reliable => Self::Reliable,
            Service::Unreliable => Self::Unreliable,
            Service::Datagram { .. } => Self::Datagram,
            Service::Extended { .. } => Self::Extended,
        }
    }
}

/// The bits of an opcode that name the operation.
const OPERATION: u8 = 0x1f;
/// Opcode of congestion notification packets.
const CONGESTION: u8 = 0x81;

/// Length of the reserved bytes of a congestion notification packet.
pub(super) const CONGESTION_RESERVED: usize = 16;

/// Lists operations once for both directions.
macro_rules! operations {
    ($($code:literal = $name:ident $(($($argument:ident),*))?;)*) => {
        impl Operation {
            fn from_number(number: u8) -> Option<Self> {
                use Place::{First, Last, Middle, Only};
                use Tail::{Immediate, Invalidate, Nothing};
                match number {
                    $($code => Some(Self::$name $(($($argument),*))?),)*
                    _ => None,
                }
            }

            /// Its number, unless there is none.
            const fn number(self) -> Option<u8> {
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
    0x1c = Flush;
    0x1d = AtomicWrite;
}

impl Operation {
    /// What an opcode means.
    pub(super) fn decode(opcode: u8) -> Result<(Transport, Self), DropReason> {
        let transport = Transport::from_code(opcode).ok_or(DropReason::UnknownOpcode)?;
        let number = opcode & OPERATION;
        match (transport, transport.has(number)) {
            (Transport::Datagram, false) => return Err(DropReason::DatagramOperation),
            (_, false) => return Err(DropReason::UnknownOpcode),
            (Transport::ReliableDatagram, true) => return Err(DropReason::UnsupportedOpcode),
            (Transport::Congestion, true) => return Ok((transport, Self::Congestion)),
            (_, true) => {}
        }
        let operation = Self::from_number(number).ok_or(DropReason::UnknownOpcode)?;
        Ok((transport, operation))
    }

    /// Its opcode in a transport service, unless it has none there.
    pub(super) fn code(self, service: &Service) -> Option<u8> {
        if self == Self::Congestion {
            return (*service == Service::Reliable).then_some(CONGESTION);
        }
        let transport = Transport::of(service);
        let number = self.number()?;
        transport.has(number).then_some(transport.code() | number)
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
    pub(super) const fn extension(self, service: &Service) -> usize {
        self.service_extension(service) + self.own_extension()
    }

    /// The part of it that all packets of a message have.
    pub(super) const fn service_extension(self, service: &Service) -> usize {
        match service {
            Service::Reliable | Service::Unreliable => 0,
            Service::Datagram { .. } => deth::LENGTH,
            Service::Extended { .. } if self.is_request() => xrceth::LENGTH,
            Service::Extended { .. } => 0,
        }
    }

    /// The part of it that is alike in all transport services.
    const fn own_extension(self) -> usize {
        match self {
            Self::Send(_, tail) => tail.length(),
            Self::Write(place, tail) if place.starts() => reth::LENGTH + tail.length(),
            Self::Write(_, tail) => tail.length(),
            Self::ReadRequest => reth::LENGTH,
            Self::ReadResponse(Place::Middle) => 0,
            Self::ReadResponse(_) | Self::Acknowledge => aeth::LENGTH,
            Self::AtomicAcknowledge => aeth::LENGTH + atomicacketh::LENGTH,
            Self::CompareSwap | Self::FetchAdd => atomiceth::LENGTH,
            Self::AtomicWrite => atomicwrite::LENGTH,
            Self::Flush => feth::LENGTH + reth::LENGTH,
            Self::Congestion => CONGESTION_RESERVED,
        }
    }

    /// Whether a requester says it.
    pub(super) const fn is_request(self) -> bool {
        match self {
            Self::Send(..)
            | Self::Write(..)
            | Self::ReadRequest
            | Self::CompareSwap
            | Self::FetchAdd
            | Self::AtomicWrite
            | Self::Flush => true,
            Self::ReadResponse(_)
            | Self::Acknowledge
            | Self::AtomicAcknowledge
            | Self::Congestion => false,
        }
    }

    /// Whether its packets may carry payload of any length (IBTA volume 1, 9.2.1); that of an atomic
    /// write counts as a header.
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
