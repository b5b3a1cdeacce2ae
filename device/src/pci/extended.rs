//! Extended capabilities: advanced error reporting, the device serial number and ARI.
//!
//! AER comes first, at 0x100: QEMU emulates the whole header of whatever lies there, so nothing
//! that it must not hide or replace (SR-IOV, ARI) may. Errors are recorded by the device through
//! [`super::ConfigSpace::record_uncorrectable`] and its sibling; no TLP exists, so the header log
//! stays zero. A virtual function logs the errors that are its own; masks and severities are those
//! of its physical function, and it has none.
//!
//! Clauses: PCI Express Base 6.0, sections 7.8.4 (AER), 7.8.8 (ARI), 7.9.3 (device serial number)
//! and 9.3.7 (what virtual functions have of them).

use super::capability::Capability;
use super::register::Register;

pub(super) const UNCORRECTABLE_STATUS: u16 = 0x04;
pub(super) const UNCORRECTABLE_MASK: u16 = 0x08;
pub(super) const UNCORRECTABLE_SEVERITY: u16 = 0x0c;
pub(super) const CORRECTABLE_STATUS: u16 = 0x10;
/// Advanced error capabilities and control; its low five bits are the first error pointer.
pub(super) const ERROR_CONTROL: u16 = 0x18;
/// The first error pointer in that register.
pub(super) const FIRST_ERROR_MASK: u8 = 0x1f;

/// The uncorrectable errors an endpoint has: bits 4, 12 to 20 and 22.
const UNCORRECTABLE: u32 = 0x005f_f010;
/// Uncorrectable internal errors are masked until software asks for them.
pub(super) const UNCORRECTABLE_MASK_RESET: u32 = 1 << 22;
/// Fatal by default: data link protocol, flow control, overflow, malformed TLP, internal.
pub(super) const SEVERITY_RESET: u32 = 0x0046_2010;
/// The correctable errors: bits 0, 6 to 8 and 12 to 15.
const CORRECTABLE: u32 = 0x0000_f1c1;
/// Advisory non-fatal, corrected internal and header log overflow are masked by default.
const CORRECTABLE_MASK_RESET: u32 = 0x0000_e000;

/// Those that concern one function: poisoned TLP, completion timeout, completer abort, unexpected
/// completion, unsupported request, internal.
const UNCORRECTABLE_OWN: u32 = 0x0051_d000;
/// The same: advisory non-fatal, corrected internal.
const CORRECTABLE_OWN: u32 = 0x0000_6000;

/// Capability ID of ARI.
pub(super) const ARI: u16 = 0x000e;

/// Uncorrectable errors that a device without TLPs can meet; the value is the bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncorrectableError {
    /// A request of the function was not answered in time.
    CompletionTimeout = 14,
    /// The function aborted a request to it.
    CompleterAbort = 15,
    /// The function was sent a request it does not support.
    UnsupportedRequest = 20,
    /// Something inside the function broke.
    Internal = 22,
}

/// Correctable errors that a device without TLPs can meet; the value is the bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrectableError {
    /// A non-fatal error that something else has dealt with.
    AdvisoryNonFatal = 13,
    /// An internal error that the function corrected.
    CorrectedInternal = 14,
}

/// Advanced error reporting, version 2. All of it is sticky.
pub(super) fn aer() -> Capability {
    Capability {
        id: 0x0001,
        version: 2,
        length: 0x48,
        registers: vec![
            Register::new(UNCORRECTABLE_STATUS, 4, 0)
                .rw1c(UNCORRECTABLE)
                .keep(u32::MAX),
            Register::new(UNCORRECTABLE_MASK, 4, UNCORRECTABLE_MASK_RESET)
                .rw(UNCORRECTABLE)
                .keep(u32::MAX),
            Register::new(UNCORRECTABLE_SEVERITY, 4, SEVERITY_RESET)
                .rw(UNCORRECTABLE)
                .keep(u32::MAX),
            Register::new(CORRECTABLE_STATUS, 4, 0)
                .rw1c(CORRECTABLE)
                .keep(u32::MAX),
            Register::new(0x14, 4, CORRECTABLE_MASK_RESET)
                .rw(CORRECTABLE)
                .keep(u32::MAX),
            Register::new(ERROR_CONTROL, 4, 0).keep(u32::MAX),
        ],
    }
}

/// The same of a virtual function.
pub(super) fn aer_virtual() -> Capability {
    Capability {
        id: 0x0001,
        version: 2,
        length: 0x48,
        registers: vec![
            Register::new(UNCORRECTABLE_STATUS, 4, 0)
                .rw1c(UNCORRECTABLE_OWN)
                .keep(u32::MAX),
            Register::new(CORRECTABLE_STATUS, 4, 0)
                .rw1c(CORRECTABLE_OWN)
                .keep(u32::MAX),
            Register::new(ERROR_CONTROL, 4, 0).keep(u32::MAX),
        ],
    }
}

/// Alternative routing ID interpretation, without function groups. The next function is none: there
/// is one physical function, and software finds virtual ones by SR-IOV.
pub(super) fn ari() -> Capability {
    Capability {
        id: ARI,
        version: 1,
        length: 8,
        registers: Vec::new(),
    }
}

/// Device serial number, an EUI-64.
pub(super) fn serial_number(serial: u64) -> Capability {
    let [a, b, c, d, e, f, g, h] = serial.to_le_bytes();
    Capability {
        id: 0x0003,
        version: 1,
        length: 12,
        registers: vec![
            Register::new(4, 4, u32::from_le_bytes([a, b, c, d])),
            Register::new(8, 4, u32::from_le_bytes([e, f, g, h])),
        ],
    }
}
