//! As much of a logged frame as the tests look at, read from fixed places: IPv4, no VLAN, no options.

use crate::nic_link::{Point, Seen};
use vrnic_firmware::wire;

const BTH: usize = 14 + 20 + 8;
const EXTENDED: usize = BTH + 12;

/// The first of several response packets; the others follow it.
const READ_RESPONSE_FIRST: u8 = 0x0d;
const ACKNOWLEDGE: u8 = 0x11;
const ATOMIC_RESPONSE: u8 = 0x12;
const READ_REQUEST: u8 = 0x0c;

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// A request other than READ.
    Request,
    Read {
        address: u64,
        length: u32,
    },
    /// A part of the response to a READ, or the response to an atomic write or a flush.
    ReadResponse,
    AtomicResponse,
    Ack,
    RnrNak {
        timer: u8,
    },
    Nak {
        code: u8,
    },
}

/// NAK code "PSN sequence error" (IBTA volume 1, 9.7.5.2.2).
pub const SEQUENCE: Says = Says::Nak { code: 0 };

/// A RoCEv2 packet at one end of its wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub at: u64,
    /// The NIC that sent it.
    pub from: usize,
    pub point: Point,
    pub opcode: u8,
    pub ack_request: bool,
    /// Sequence number, counted from the first one of the connection.
    pub index: u32,
    pub says: Says,
}

impl Packet {
    /// `None` if it was damaged on its way.
    #[track_caller]
    pub fn parse(seen: &Seen, first: u32) -> Option<Self> {
        let frame = &seen.frame;
        if let Err(reason) = wire::parse(frame) {
            assert_eq!(seen.point, Point::Arrived, "sent damaged: {reason:?}");
            return None;
        }
        assert_eq!(frame[12..14], [0x08, 0x00], "IPv4");
        assert_eq!(frame[14], 0x45, "without options");
        let opcode = frame[BTH];
        let psn = u32::from_be_bytes(*frame[BTH + 8..].first_chunk().unwrap());
        Some(Self {
            at: seen.at.0,
            from: seen.from,
            point: seen.point,
            opcode,
            ack_request: psn >> 31 == 1,
            index: psn.wrapping_sub(first) & 0xff_ffff,
            says: says(opcode, &frame[EXTENDED..]),
        })
    }

    pub fn is_request(&self) -> bool {
        matches!(self.says, Says::Request | Says::Read { .. })
    }
}

fn says(opcode: u8, rest: &[u8]) -> Says {
    match opcode {
        READ_REQUEST => Says::Read {
            address: u64::from_be_bytes(*rest.first_chunk().unwrap()),
            length: u32::from_be_bytes(*rest[12..].first_chunk().unwrap()),
        },
        READ_RESPONSE_FIRST..=0x10 => Says::ReadResponse,
        ATOMIC_RESPONSE => Says::AtomicResponse,
        ACKNOWLEDGE => match (rest[0] >> 5, rest[0] & 31) {
            (0, _) => Says::Ack,
            (1, timer) => Says::RnrNak { timer },
            (3, code) => Says::Nak { code },
            other => panic!("reserved syndrome {other:?}"),
        },
        _ => Says::Request,
    }
}
