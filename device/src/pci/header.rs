//! The type 0 configuration header.
//!
//! Memory BARs only, each 64 bits wide and prefetchable, as BAR pairs 0/1, 2/3 and 4/5. There is no
//! expansion ROM and no interrupt pin: the function signals by MSI-X alone.
//!
//! A virtual function's header has IDs that read 0xFFFF, and of the command register bus master
//! enable. It also has BARs and memory space enable, which the specification takes from it: not for
//! the guest, whose kernel leaves them alone in a VF, but for the client. Linux' VFIO gives its
//! clients both for a VF, and QEMU maps a VF by what it finds written there.
//!
//! Clauses: PCI Express Base 6.0, section 7.5.1; 9.3.4.1 for virtual functions.

use super::config::{ConfigError, Function, Kind};
use super::register::Register;

/// Vendor and device ID.
pub(super) const IDS: u16 = 0x00;
pub(super) const COMMAND: u16 = 0x04;
pub(super) const STATUS: u16 = 0x06;
pub(super) const BARS: u16 = 0x10;
pub(super) const CAPABILITY_POINTER: u16 = 0x34;

/// Command register: memory space enable.
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: bus master enable.
pub(super) const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// What else software may write: parity error response, SERR# enable, interrupt disable.
const COMMAND_OTHER: u16 = (1 << 6) | (1 << 8) | (1 << 10);

/// What vendor and device ID of a virtual function read.
const NO_ID: u16 = 0xffff;

/// Status register: a list of capabilities exists.
const STATUS_CAPABILITIES: u32 = 1 << 4;
/// Status register: the error bits, cleared by writing one.
const STATUS_ERRORS: u32 = 0xf900;

/// 64-bit, prefetchable memory.
const BAR_FLAGS: u32 = 0xc;
/// The smallest BAR: QEMU maps whole pages, and so does every IOMMU group check.
const BAR_MIN: u64 = 4096;

/// The header's registers for `function`.
pub(super) fn registers(function: &Function) -> Result<Vec<Register>, ConfigError> {
    let ids = &function.ids;
    let command = COMMAND_MEMORY | COMMAND_BUS_MASTER;
    let (vendor, device, command) = match function.kind {
        Kind::Physical { .. } => (ids.vendor, ids.device, command | COMMAND_OTHER),
        Kind::Virtual => (NO_ID, NO_ID, command),
    };
    let class = (ids.class << 8) | u32::from(ids.revision);
    let mut registers = vec![
        Register::new(IDS, 2, vendor.into()),
        Register::new(IDS + 2, 2, device.into()),
        Register::new(COMMAND, 2, 0).rw(command.into()),
        Register::new(STATUS, 2, STATUS_CAPABILITIES).rw1c(STATUS_ERRORS),
        Register::new(0x08, 4, class),
        Register::new(0x2c, 2, ids.subsystem_vendor.into()),
        Register::new(0x2e, 2, ids.subsystem.into()),
        Register::new(
            CAPABILITY_POINTER,
            1,
            super::capability::STANDARD_BASE.into(),
        ),
    ];
    if function.kind != Kind::Virtual {
        // Cache line size: writable for old software, without effect.
        registers.push(Register::new(0x0c, 1, 0).rw(0xff));
        // Interrupt line: a notebook for firmware.
        registers.push(Register::new(0x3c, 1, 0).rw(0xff));
    }
    for (pair, &size) in (0u16..).zip(&function.bars) {
        if size != 0 && (!size.is_power_of_two() || size < BAR_MIN) {
            return Err(ConfigError::BarSize);
        }
        registers.extend(bar(BARS + 8 * pair, size));
    }
    Ok(registers)
}

/// The two registers of a 64-bit BAR of `size` bytes, a power of two; a size of 0 leaves it out.
pub(super) fn bar(offset: u16, size: u64) -> Vec<Register> {
    if size == 0 {
        return Vec::new();
    }
    let [low, high] = halves(!(size - 1));
    vec![
        Register::new(offset, 4, BAR_FLAGS).rw(low),
        Register::new(offset + 4, 4, 0).rw(high),
    ]
}

/// Low and high 32 bits.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}
