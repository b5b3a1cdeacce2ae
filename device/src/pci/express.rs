//! The PCI Express capability of an endpoint, version 2, trained to 16 GT/s x16.
//!
//! Function level reset starts by a write of one to Initiate FLR, which always reads zero: no
//! register holds it, and `config` looks for it in what is written.
//!
//! Of a virtual function's controls only Initiate FLR exists: the physical function's govern the
//! rest, and the link is not its business.
//!
//! Clauses: PCI Express Base 6.0, sections 7.5.3 (the structure), 6.6.2 (which fields a function
//! level reset keeps) and 9.3.5 (virtual functions).

use super::capability::Capability;
use super::register::Register;

/// Offset of the byte of Device Control that holds Initiate FLR.
pub(super) const DEVICE_CONTROL_HIGH: u16 = 0x09;
/// Initiate FLR in that byte.
pub(super) const INITIATE_FLR: u8 = 1 << 7;
/// Offset of Device Status.
pub(super) const DEVICE_STATUS: u16 = 0x0a;
/// Device Status: correctable error detected.
pub(super) const STATUS_CORRECTABLE: u16 = 1 << 0;
/// Device Status: non-fatal error detected.
pub(super) const STATUS_NON_FATAL: u16 = 1 << 1;
/// Device Status: fatal error detected.
pub(super) const STATUS_FATAL: u16 = 1 << 2;

/// Endpoint, capability version 2.
const FLAGS: u32 = 0x0002;
/// 512 bytes of payload, extended tags, role-based error reporting, function level reset.
const DEVICE_CAPABILITIES: u32 = 2 | (1 << 5) | (1 << 15) | (1 << 28);
/// Relaxed ordering, extended tags, no snoop, 512-byte read requests.
const DEVICE_CONTROL: u32 = (1 << 4) | (1 << 8) | (1 << 11) | (2 << 12);
/// All of Device Control but phantom functions, aux power and Initiate FLR.
const DEVICE_CONTROL_RW: u32 = 0x79ff;
const MAX_PAYLOAD_SIZE: u32 = 0x7 << 5;
const SPEED_16GT: u32 = 4;
const WIDTH_16: u32 = 16 << 4;
const ASPM_OPTIONALITY: u32 = 1 << 22;
const SLOT_CLOCK: u32 = 1 << 12;
/// ASPM control, read completion boundary, common clock, extended synch.
const LINK_CONTROL_RW: u32 = 0x00cb;
/// Completion timeout ranges A to D, completion timeout disable.
const DEVICE_CAPABILITIES_2: u32 = 0x1f;
/// Completion timeout value and disable, atomic requester, ID-based ordering.
const DEVICE_CONTROL_2_RW: u32 = 0x035f;
/// 2.5, 5, 8 and 16 GT/s.
const LINK_SPEEDS: u32 = 0x1e;
/// Target link speed and enter compliance.
const LINK_CONTROL_2_RW: u32 = 0x001f;
/// Equalization complete, all three phases.
const LINK_STATUS_2: u32 = 0x1e;

/// The capability structure of a physical function.
pub(super) fn express() -> Capability {
    Capability {
        id: 0x10,
        version: 0,
        length: 0x3c,
        registers: vec![
            Register::new(0x02, 2, FLAGS),
            Register::new(0x04, 4, DEVICE_CAPABILITIES),
            Register::new(0x08, 2, DEVICE_CONTROL)
                .rw(DEVICE_CONTROL_RW)
                .keep(MAX_PAYLOAD_SIZE),
            Register::new(DEVICE_STATUS, 2, 0).rw1c(0x000f),
            Register::new(0x0c, 4, SPEED_16GT | WIDTH_16 | ASPM_OPTIONALITY),
            Register::new(0x10, 2, 0)
                .rw(LINK_CONTROL_RW)
                .keep(LINK_CONTROL_RW),
            Register::new(0x12, 2, SPEED_16GT | WIDTH_16 | SLOT_CLOCK),
            Register::new(0x24, 4, DEVICE_CAPABILITIES_2),
            Register::new(0x28, 2, 0).rw(DEVICE_CONTROL_2_RW),
            Register::new(0x2c, 4, LINK_SPEEDS),
            Register::new(0x30, 2, SPEED_16GT)
                .rw(LINK_CONTROL_2_RW)
                .keep(LINK_CONTROL_2_RW),
            Register::new(0x32, 2, LINK_STATUS_2),
        ],
    }
}

/// The capability structure of a virtual function.
pub(super) fn express_virtual() -> Capability {
    Capability {
        id: 0x10,
        version: 0,
        length: 0x3c,
        registers: vec![
            Register::new(0x02, 2, FLAGS),
            Register::new(0x04, 4, DEVICE_CAPABILITIES),
            Register::new(DEVICE_STATUS, 2, 0).rw1c(0x000f),
            Register::new(0x0c, 4, SPEED_16GT | WIDTH_16 | ASPM_OPTIONALITY),
            Register::new(0x24, 4, DEVICE_CAPABILITIES_2),
            Register::new(0x2c, 4, LINK_SPEEDS),
        ],
    }
}
