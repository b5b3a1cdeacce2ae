//! The base transport header (IBTA volume 1, 9.2).

use super::DropReason;
use super::field::Field;
use crate::types::{Psn, Qpn};

/// Length of the header.
pub(super) const LENGTH: usize = 12;

const SOLICITED: u8 = 1 << 7;
const MIGRATED: u8 = 1 << 6;
const FECN: u8 = 1 << 7;
const BECN: u8 = 1 << 6;
const ACK_REQUEST: u8 = 1 << 7;
/// The only version of the transport headers.
const VERSION: u8 = 0;

mod field {
    use super::Field;

    pub(super) const OPCODE: Field<0, 1> = Field;
    /// Solicited event, migration state, pad count (2 bits), transport header version (4 bits).
    pub(super) const FLAGS: Field<1, 1> = Field;
    pub(super) const PARTITION_KEY: Field<2, 2> = Field;
    /// Congestion bits (IBTA A10.4.2.1) in a byte that the ICRC does not cover.
    pub(super) const CONGESTION: Field<4, 1> = Field;
    pub(super) const DESTINATION: Field<5, 3> = Field;
    /// Acknowledge request, 7 reserved bits.
    pub(super) const ACK_REQUEST: Field<8, 1> = Field;
    pub(super) const SEQUENCE_NUMBER: Field<9, 3> = Field;
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repr {
    /// Operation code.
    pub(super) opcode: u8,
    /// Solicited event.
    pub(super) solicited: bool,
    /// Migration state: the path is the primary one.
    pub(super) migrated: bool,
    /// Bytes that fill the payload up to a multiple of 4: 0 to 3.
    pub(super) pad: u8,
    /// Partition key.
    pub(super) pkey: u16,
    /// Forward congestion notification.
    pub(super) fecn: bool,
    /// Backward congestion notification.
    pub(super) becn: bool,
    /// Destination queue pair.
    pub(super) destination: Qpn,
    /// Acknowledge request.
    pub(super) ack_request: bool,
    /// Packet sequence number.
    pub(super) psn: Psn,
}

impl Repr {
    /// Reads a header; reserved bits are ignored.
    pub(super) fn parse(header: &[u8; LENGTH]) -> Result<Self, DropReason> {
        let flags = field::FLAGS.byte(header);
        let congestion = field::CONGESTION.byte(header);
        if flags & 0xf != VERSION {
            return Err(DropReason::TransportVersion);
        }
        Ok(Self {
            opcode: field::OPCODE.byte(header),
            solicited: flags & SOLICITED != 0,
            migrated: flags & MIGRATED != 0,
            pad: flags >> 4 & 3,
            pkey: field::PARTITION_KEY.u16(header),
            fecn: congestion & FECN != 0,
            becn: congestion & BECN != 0,
            destination: Qpn::new(field::DESTINATION.u24(header)),
            ack_request: field::ACK_REQUEST.byte(header) & ACK_REQUEST != 0,
            psn: Psn::new(field::SEQUENCE_NUMBER.u24(header)),
        })
    }

    /// Writes the header.
    pub(super) fn emit(&self, header: &mut [u8; LENGTH]) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.solicited, SOLICITED)
            | flag(self.migrated, MIGRATED)
            | (self.pad & 3) << 4
            | VERSION;
        field::OPCODE.set(header, [self.opcode]);
        field::FLAGS.set(header, [flags]);
        field::PARTITION_KEY.set(header, self.pkey.to_be_bytes());
        field::CONGESTION.set(header, [flag(self.fecn, FECN) | flag(self.becn, BECN)]);
        field::DESTINATION.set_u24(header, self.destination.get());
        field::ACK_REQUEST.set(header, [flag(self.ack_request, ACK_REQUEST)]);
        field::SEQUENCE_NUMBER.set_u24(header, self.psn.get());
    }
}

/// Replaces by ones what may change on the way (IBTA A17.3.3).
pub(super) fn mask(header: &mut [u8; LENGTH]) {
    field::CONGESTION.set(header, [0xff]);
}
