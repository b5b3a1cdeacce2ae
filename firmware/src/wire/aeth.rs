//! The ACK extended transport header (IBTA volume 1, 9.3.4 and 9.7.5.1); its values are an
//! [`Acknowledge`].

use super::DropReason;
use super::field::Field;
use crate::pdu::{Acknowledge, NakCode, Syndrome};
use crate::types::Msn;

/// Length of the header.
pub(super) const LENGTH: usize = 4;

/// The upper 3 bits of the syndrome say what it is, the lower 5 bits are its value.
const ACK: u8 = 0b000;
const RNR_NAK: u8 = 0b001;
const NAK: u8 = 0b011;

mod field {
    use super::Field;

    pub(super) const SYNDROME: Field<0, 1> = Field;
    pub(super) const MSN: Field<1, 3> = Field;
}

/// Reads a header.
pub(super) fn parse(header: &[u8; LENGTH]) -> Result<Acknowledge, DropReason> {
    let syndrome = field::SYNDROME.byte(header);
    let value = syndrome & 0x1f;
    let syndrome = match syndrome >> 5 {
        ACK => Syndrome::Ack(value),
        RNR_NAK => Syndrome::RnrNak(value),
        NAK => Syndrome::Nak(nak_code(value).ok_or(DropReason::Syndrome)?),
        _ => return Err(DropReason::Syndrome),
    };
    Ok(Acknowledge {
        syndrome,
        msn: Msn::new(field::MSN.u24(header)),
    })
}

/// Writes a header.
pub(super) fn emit(acknowledge: &Acknowledge, header: &mut [u8; LENGTH]) {
    let syndrome = match acknowledge.syndrome {
        Syndrome::Ack(credits) => ACK << 5 | credits & 0x1f,
        Syndrome::RnrNak(timer) => RNR_NAK << 5 | timer & 0x1f,
        Syndrome::Nak(code) => NAK << 5 | nak_value(code),
    };
    field::SYNDROME.set(header, [syndrome]);
    field::MSN.set_u24(header, acknowledge.msn.get());
}

const fn nak_code(value: u8) -> Option<NakCode> {
    Some(match value {
        0 => NakCode::PsnSequence,
        1 => NakCode::InvalidRequest,
        2 => NakCode::RemoteAccess,
        3 => NakCode::RemoteOperational,
        4 => NakCode::InvalidRdRequest,
        _ => return None,
    })
}

const fn nak_value(code: NakCode) -> u8 {
    match code {
        NakCode::PsnSequence => 0,
        NakCode::InvalidRequest => 1,
        NakCode::RemoteAccess => 2,
        NakCode::RemoteOperational => 3,
        NakCode::InvalidRdRequest => 4,
    }
}
