//! The PCI-compatible capabilities but for PCI Express: power management and MSI-X.
//!
//! Clauses: PCI Express Base 6.0, sections 7.5.2 (power management) and 7.7.2 (MSI-X).

use super::capability::Capability;
use super::msix::MsixLayout;
use super::register::Register;

/// Offset of the power management control/status register in its capability.
pub(super) const PM_CONTROL: u16 = 4;
/// The power state in that register.
pub(super) const PM_STATE_MASK: u8 = 0x3;
/// No Soft Reset: going from D3hot to D0 loses no state.
const PM_NO_SOFT_RESET: u32 = 1 << 3;

/// Offset of the MSI-X message control register in its capability.
pub(super) const MSIX_CONTROL: u16 = 2;
/// Message control: all vectors masked.
pub(super) const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// Message control: MSI-X enabled.
pub(super) const MSIX_ENABLE: u16 = 1 << 15;

/// Power management, version 3: D0 and D3hot, no PME.
pub(super) fn power_management() -> Capability {
    Capability {
        id: 0x01,
        version: 0,
        length: 8,
        registers: vec![
            Register::new(2, 2, 0x0003),
            Register::new(PM_CONTROL, 2, PM_NO_SOFT_RESET).rw(PM_STATE_MASK.into()),
        ],
    }
}

/// MSI-X with its table and pending bit array where `layout` says.
pub(super) fn msix(layout: &MsixLayout) -> Capability {
    let bar = u32::from(layout.bar);
    let last = u32::from(layout.vectors.saturating_sub(1));
    Capability {
        id: 0x11,
        version: 0,
        length: 12,
        registers: vec![
            Register::new(MSIX_CONTROL, 2, last).rw((MSIX_ENABLE | MSIX_FUNCTION_MASK).into()),
            Register::new(4, 4, layout.table_offset | bar),
            Register::new(8, 4, layout.pba_offset | bar),
        ],
    }
}
