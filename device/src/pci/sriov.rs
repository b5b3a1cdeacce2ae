//! The SR-IOV extended capability of a physical function.
//!
//! [`capability`] is its table of registers; [`Sriov`] adds what masks of bits cannot say, after each
//! write: [`Sriov::settle`] takes back what must not change while VF Enable is set, aligns the VF
//! BARs to the page size, and derives First VF Offset and VF Stride. It owns no state: all of it is in
//! the registers, so that it is saved, restored and reset with them.
//!
//! What the specification leaves undefined is defined here so that no write reaches beyond the VFs
//! there are:
//! * NumVFs above TotalVFs reads as written, and stands for TotalVFs;
//! * NumVFs, System Page Size and ARI Capable Hierarchy ignore writes while VF Enable is set;
//! * a System Page Size of several bits stands for the largest of them, one of none for 4 KiB.
//!
//! Routing IDs. VF n (from 0) is at the PF's plus First VF Offset plus n times VF Stride, which is 1.
//! The offset is 1 as long as all NumVFs VFs are functions that the link can tell apart on the PF's
//! own bus: up to 7, or any number with ARI (the 256th is then function 0 of the next bus). More VFs
//! without ARI begin at offset 256, as functions 0 to 255 of the next bus. Both registers may depend
//! on NumVFs and ARI Capable Hierarchy, and software reads them when it has set these.
//!
//! VF migration is not offered (its fields read zero), as later versions of the specification removed it.
//!
//! Clause: PCI Express Base 6.0, section 9.3.3; 9.2.1.2 for routing IDs.

use vrnic_abi::pci as abi;

use super::capability::Capability;
use super::header;
use super::register::{Register, RegisterFile};

/// Capability ID.
pub(super) const ID: u16 = 0x0010;

/// The most VFs that one physical function can have.
pub const MAX_VFS: u16 = 256;

const CONTROL: u16 = 0x08;
const NUM_VFS: u16 = 0x10;
const FIRST_VF_OFFSET: u16 = 0x14;
const VF_STRIDE: u16 = 0x16;
const SYSTEM_PAGE_SIZE: u16 = 0x20;
const VF_BARS: u16 = 0x24;
const LENGTH: u16 = 0x40;

/// ARI Capable Hierarchy Preserved: D3hot loses nothing.
const ARI_PRESERVED: u32 = 1 << 1;
const VF_ENABLE: u16 = 1 << 0;
const VF_MEMORY_SPACE: u16 = 1 << 3;
const ARI_CAPABLE_HIERARCHY: u16 = 1 << 4;
/// The page sizes that every PF has to support: 4, 8, 64 and 256 KiB, 1 and 4 MiB.
const PAGE_SIZES: u32 = 0x0553;
/// Bit n of a page size stands for 2^(n + 12) bytes.
const PAGE_SHIFT: u32 = 12;

/// Functions of a device without ARI.
const FUNCTIONS: u16 = 8;
/// Functions of a bus.
const BUS: u16 = 256;

/// The capability of a function with `total` VFs whose BARs have these sizes, powers of two.
pub(super) fn capability(total: u16, bars: &[u64; 3]) -> Capability {
    let control = VF_ENABLE | VF_MEMORY_SPACE | ARI_CAPABLE_HIERARCHY;
    let mut registers = vec![
        Register::new(0x04, 4, ARI_PRESERVED),
        Register::new(CONTROL, 2, 0).rw(control.into()),
        // InitialVFs and TotalVFs are the same without migration (9.3.3.5).
        Register::new(0x0c, 2, total.into()),
        Register::new(0x0e, 2, total.into()),
        Register::new(NUM_VFS, 2, 0).rw(0xffff),
        // Function Dependency Link: the function's own number, it depends on no other (9.3.3.8).
        Register::new(0x12, 1, 0),
        Register::new(FIRST_VF_OFFSET, 2, 1),
        Register::new(VF_STRIDE, 2, 1),
        Register::new(0x1a, 2, abi::DEVICE_ID_VF.into()),
        Register::new(0x1c, 4, PAGE_SIZES),
        Register::new(SYSTEM_PAGE_SIZE, 4, 1).rw(PAGE_SIZES),
    ];
    for (pair, &size) in (0u16..).zip(bars) {
        registers.extend(header::bar(VF_BARS + 8 * pair, size));
    }
    Capability {
        id: ID,
        version: 1,
        length: LENGTH,
        registers,
    }
}

/// What the registers mean together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sriov {
    at: u16,
    total: u16,
    bars: [u64; 3],
}

/// Registers that do not change while VF Enable is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locked {
    control: u16,
    num_vfs: [u8; 2],
    page_size: [u8; 4],
}

impl Sriov {
    /// The capability at `at`, made by [`capability`] from the same values.
    pub(super) fn new(at: u16, total: u16, bars: [u64; 3]) -> Self {
        Self { at, total, bars }
    }

    /// How many VFs are enabled.
    pub(super) fn enabled(&self, registers: &RegisterFile) -> u16 {
        if self.control(registers) & VF_ENABLE == 0 {
            return 0;
        }
        self.num_vfs(registers)
    }

    /// Whether enabled VFs answer accesses to their BARs (VF MSE, 9.3.3.3.4).
    pub(super) fn memory_space(&self, registers: &RegisterFile) -> bool {
        self.control(registers) & VF_MEMORY_SPACE != 0
    }

    /// Where the BARs of the VFs begin; the nth VF's is n times its size further on.
    pub(super) fn bar(&self, registers: &RegisterFile, pair: u16) -> u64 {
        u64::from_le_bytes(registers.get(self.at + VF_BARS + 8 * pair)) & !0xf
    }

    /// What [`Sriov::settle`] must know of the time before a write.
    pub(super) fn locked(&self, registers: &RegisterFile) -> Locked {
        Locked {
            control: self.control(registers),
            num_vfs: registers.get(self.at + NUM_VFS),
            page_size: registers.get(self.at + SYSTEM_PAGE_SIZE),
        }
    }

    /// Applies the rules after a write. `before` is the state before it.
    ///
    /// VF Enable lies before what it locks, so whatever part of the capability one access covers,
    /// its value after the access decides: the result is that of byte accesses in address order.
    pub(super) fn settle(&self, registers: &mut RegisterFile, before: &Locked) {
        if before.control & VF_ENABLE != 0 {
            let control = self.control(registers) & !ARI_CAPABLE_HIERARCHY;
            let control = control | before.control & ARI_CAPABLE_HIERARCHY;
            registers.set(self.at + CONTROL, &control.to_le_bytes());
        }
        if self.control(registers) & VF_ENABLE != 0 {
            registers.set(self.at + NUM_VFS, &before.num_vfs);
            registers.set(self.at + SYSTEM_PAGE_SIZE, &before.page_size);
        }
        self.derive(registers);
    }

    /// Sets what follows from the other registers.
    pub(super) fn derive(&self, registers: &mut RegisterFile) {
        let offset = self.first_vf_offset(registers);
        registers.set(self.at + FIRST_VF_OFFSET, &offset.to_le_bytes());
        let page = self.page_size(registers);
        for (pair, size) in (0u16..).zip(self.bars) {
            let at = self.at + VF_BARS + 8 * pair;
            let value = u64::from_le_bytes(registers.get(at));
            // A VF's BAR takes whole pages (9.3.3.14), and the flags stay.
            let address_bits = !(size.max(page).wrapping_sub(1)) | 0xf;
            registers.set(at, &(value & address_bits).to_le_bytes());
        }
    }

    /// Offsets of the bytes that [`Sriov::derive`] sets and nobody writes.
    pub(super) fn derived(&self) -> [u16; 4] {
        [0, 1, 2, 3].map(|byte| self.at + FIRST_VF_OFFSET + byte)
    }

    fn first_vf_offset(&self, registers: &RegisterFile) -> u16 {
        let ari = self.control(registers) & ARI_CAPABLE_HIERARCHY != 0;
        if ari || self.num_vfs(registers) < FUNCTIONS {
            1
        } else {
            BUS
        }
    }

    fn page_size(&self, registers: &RegisterFile) -> u64 {
        let bits = registers.u32(self.at + SYSTEM_PAGE_SIZE) & PAGE_SIZES;
        1 << (bits.checked_ilog2().unwrap_or(0) + PAGE_SHIFT)
    }

    fn num_vfs(&self, registers: &RegisterFile) -> u16 {
        registers.u16(self.at + NUM_VFS).min(self.total)
    }

    fn control(&self, registers: &RegisterFile) -> u16 {
        registers.u16(self.at + CONTROL)
    }
}
