//! A function's configuration space.
//!
//! [`ConfigSpace`] owns the 4 KiB; accesses of any length and offset come in, and each write tells
//! by [`Actions`] what its owner now has to do. It holds no other state of the function, and a
//! requested function level reset changes nothing here until the owner, having stopped the
//! function, calls [`ConfigSpace::reset`].
//!
//! The contents depend only on a [`Function`] and on what was written since, so they are saved as
//! the plain bytes of a [`ConfigState`] and restored into a space built from the same `Function`.
//!
//! Enabling virtual functions is the same kind of thing: the capability counts them
//! ([`ConfigSpace::enabled_vfs`]), and resetting those that go is for the owner.
//!
//! Clauses: PCI Express Base 6.0, sections 7.5 to 7.9; 6.6.2 for function level reset; 9.3 for SR-IOV.

use thiserror::Error;
use vrnic_abi::pci as abi;

use super::capability::{Capability, List, place};
use super::express::{self, express, express_virtual};
use super::extended::{
    self, CorrectableError, UncorrectableError, aer, aer_virtual, ari, serial_number,
};
use super::header;
use super::msix::{MsixControl, MsixLayout};
use super::quirk::{disguise, overlay};
use super::register::RegisterFile;
use super::sriov::{self, MAX_VFS, Sriov};
use super::standard::{self, msix, power_management};

/// The IDs a driver binds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Class code, 24 bits: base class, subclass, programming interface.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
}

/// Physical or virtual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A physical function.
    Physical {
        /// Virtual functions that it can enable, at most [`MAX_VFS`]; without any it has no SR-IOV
        /// capability.
        vfs: u16,
    },
    /// A virtual function.
    Virtual,
}

/// What distinguishes one function's configuration space from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// What it is.
    pub kind: Kind,
    /// Its IDs; those of a virtual function are what its driver finds them to be.
    pub ids: Ids,
    /// Sizes of BAR0, BAR2 and BAR4 in bytes, powers of two from 4096; 0 leaves one out.
    pub bars: [u64; 3],
    /// Its MSI-X table and pending bit array.
    pub msix: MsixLayout,
    /// The serial number of a physical function, an EUI-64.
    pub serial: u64,
}

impl Function {
    /// A physical function as the programming interface describes it, without virtual ones.
    #[must_use]
    pub fn physical(serial: u64) -> Self {
        Self::new(Kind::Physical { vfs: 0 }, abi::DEVICE_ID_PF, serial)
    }

    /// The same with `vfs` virtual functions.
    #[must_use]
    pub fn with_vfs(self, vfs: u16) -> Self {
        let kind = Kind::Physical { vfs };
        Self { kind, ..self }
    }

    /// A virtual function as the programming interface describes it.
    #[must_use]
    pub fn virtual_function() -> Self {
        Self::new(Kind::Virtual, abi::DEVICE_ID_VF, 0)
    }

    fn new(kind: Kind, device: u16, serial: u64) -> Self {
        Self {
            kind,
            ids: Ids {
                vendor: abi::VENDOR_ID,
                device,
                subsystem_vendor: abi::VENDOR_ID,
                subsystem: abi::SUBSYSTEM_ID,
                class: abi::CLASS_CODE,
                revision: abi::REVISION,
            },
            bars: [
                abi::BAR_REGISTERS_SIZE.into(),
                vrnic_abi::doorbell::BAR_SIZE.into(),
                abi::BAR_MSIX_SIZE.into(),
            ],
            msix: MsixLayout {
                vectors: abi::MSIX_VECTORS,
                bar: abi::BAR_MSIX,
                table_offset: abi::MSIX_TABLE_OFFSET,
                pba_offset: abi::MSIX_PBA_OFFSET,
            },
            serial,
        }
    }

    /// Its PCI-compatible and its extended capabilities, in the order of their lists.
    ///
    /// What QEMU must not replace (see [`super::quirk`]) is not the first extended one.
    fn capabilities(&self) -> [Vec<Capability>; 2] {
        let express = match self.kind {
            Kind::Physical { .. } => express(),
            Kind::Virtual => express_virtual(),
        };
        let extended = match self.kind {
            Kind::Physical { vfs: 0 } => vec![aer(), serial_number(self.serial)],
            Kind::Physical { vfs } => vec![
                aer(),
                serial_number(self.serial),
                ari(),
                sriov::capability(vfs, &self.bars),
            ],
            Kind::Virtual => vec![aer_virtual(), ari()],
        };
        [
            vec![power_management(), express, msix(&self.msix)],
            extended,
        ]
    }

    /// Size of BAR `bar`, if there is one of that number.
    fn bar_size(&self, bar: u8) -> Option<u64> {
        let pair = usize::from(bar / 2);
        self.bars
            .get(pair)
            .copied()
            .filter(|&size| bar % 2 == 0 && size != 0)
    }
}

/// Why a configuration space cannot be built, accessed or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The access reaches beyond the 4 KiB of configuration space.
    #[error("access beyond configuration space")]
    OutOfRange,
    /// A BAR's size is no power of two or less than a page.
    #[error("a BAR's size must be a power of two, 4096 at least")]
    BarSize,
    /// The MSI-X table and pending bits overlap or do not fit into their BAR.
    #[error("MSI-X table and pending bits do not fit into their BAR")]
    Msix,
    /// There are more virtual functions than a physical one can have.
    #[error("a physical function has at most {MAX_VFS} virtual functions")]
    Vfs,
    /// The capabilities need more room than there is.
    #[error("capabilities do not fit into configuration space")]
    NoRoom,
    /// The saved state is of another version.
    #[error("saved configuration space has version {version}")]
    Version {
        /// The version found.
        version: u32,
    },
    /// The saved state is of another function: a read-only byte differs.
    #[error("saved configuration space differs at {offset:#x}")]
    Incompatible {
        /// Offset of the first byte that differs.
        offset: u16,
    },
}

bitflags::bitflags! {
    /// What a write asks of the function, or changed about it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[must_use]
    pub struct Actions: u32 {
        /// Initiate FLR was written: stop the function, reset it, then call
        /// [`ConfigSpace::reset`].
        const FLR_REQUESTED = 1 << 0;
        /// MSI-X enable or function mask changed, see [`ConfigSpace::msix_control`].
        const MSIX_CHANGED = 1 << 1;
        /// Bus master enable changed, see [`ConfigSpace::bus_master`].
        const BUS_MASTER_CHANGED = 1 << 2;
        /// Memory space enable changed, see [`ConfigSpace::memory_space`].
        const MEMORY_SPACE_CHANGED = 1 << 3;
        /// The power state changed, see [`ConfigSpace::power_state`].
        const POWER_STATE_CHANGED = 1 << 4;
        /// A BAR changed, see [`ConfigSpace::bar`].
        const BARS_CHANGED = 1 << 5;
        /// The number of enabled virtual functions changed, see [`ConfigSpace::enabled_vfs`]. Those
        /// that are no longer enabled lose all of their state.
        const VFS_CHANGED = 1 << 6;
    }
}

/// The power states this function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// Working.
    D0,
    /// Only configuration space answers; nothing is lost.
    D3Hot,
}

/// Kinds of reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Everything as after power-on.
    PowerOn,
    /// A function level reset, or the reset of VFIO: sticky bits and what section 6.6.2 names stay.
    FunctionLevel,
}

/// The saved contents of a configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigState {
    /// [`ConfigState::VERSION`] of the process that wrote it.
    pub version: u32,
    /// All 4096 bytes as they read.
    pub bytes: Vec<u8>,
}

impl ConfigState {
    /// The version this process writes and reads.
    pub const VERSION: u32 = 1;
}

/// The configuration space of one function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    registers: RegisterFile,
    function: Function,
    pm: u16,
    express: u16,
    msix: u16,
    aer: u16,
    sriov: Option<Sriov>,
    /// Headers of capabilities that QEMU must not recognize.
    disguised: Vec<u16>,
}

/// The fields whose changes are [`Actions`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Watched {
    command: u16,
    power: u8,
    msix: u16,
    bars: [u8; 24],
    vfs: u16,
}

impl ConfigSpace {
    /// The configuration space of `function` after power-on.
    ///
    /// # Errors
    /// When `function` contradicts itself: BAR sizes, room for MSI-X.
    pub fn new(function: &Function) -> Result<Self, ConfigError> {
        let bar = function
            .bar_size(function.msix.bar)
            .ok_or(ConfigError::Msix)?;
        if !function.msix.fits(bar) {
            return Err(ConfigError::Msix);
        }
        if matches!(function.kind, Kind::Physical { vfs } if vfs > MAX_VFS) {
            return Err(ConfigError::Vfs);
        }
        let mut registers = RegisterFile::new();
        registers.define(0, &header::registers(function)?)?;
        let [standard, extended] = function.capabilities();
        let at = place(&mut registers, List::Standard, &standard)?;
        let &[pm, express, msix] = at.as_slice() else {
            return Err(ConfigError::NoRoom);
        };
        let at = place(&mut registers, List::Extended, &extended)?;
        let find = |id| {
            let mut found = extended.iter().zip(&at).filter(move |(c, _)| c.id == id);
            found.next().map(|(_, &at)| at)
        };
        let sriov = match (function.kind, find(sriov::ID)) {
            (Kind::Physical { vfs }, Some(at)) => Some(Sriov::new(at, vfs, function.bars)),
            _ => None,
        };
        Ok(Self {
            registers,
            function: *function,
            pm,
            express,
            msix,
            aer: at.first().copied().ok_or(ConfigError::NoRoom)?,
            sriov,
            disguised: [extended::ARI, sriov::ID]
                .into_iter()
                .filter_map(find)
                .collect(),
        })
    }

    /// Reads `data.len()` bytes at `offset`. A read of more than 4 bytes finds SR-IOV and ARI under
    /// another ID, for QEMU's sake.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`]; `data` is then unchanged.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), ConfigError> {
        self.registers.read(offset, data)?;
        disguise(offset, data, &self.disguised);
        Ok(())
    }

    /// The same for a client that has a virtual function without its physical one: no SR-IOV code in
    /// its guest tells the IDs, so they read as what they are, as they do through Linux' VFIO.
    ///
    /// # Errors
    /// As [`ConfigSpace::read`].
    pub fn read_alone(&self, offset: u64, data: &mut [u8]) -> Result<(), ConfigError> {
        self.read(offset, data)?;
        let Ids { vendor, device, .. } = self.function.ids;
        overlay(offset, data, header::IDS, &vendor.to_le_bytes());
        overlay(offset, data, header::IDS + 2, &device.to_le_bytes());
        Ok(())
    }

    /// Writes `data` at `offset`; read-only bits ignore it.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`]; nothing is then written.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Actions, ConfigError> {
        let before = self.watched();
        let locked = self.sriov.map(|sriov| sriov.locked(&self.registers));
        self.registers.write(offset, data)?;
        self.discard_unsupported_power_state(before.power);
        if let (Some(sriov), Some(locked)) = (self.sriov, locked) {
            sriov.settle(&mut self.registers, &locked);
        }
        let mut actions = before.changes(&self.watched());
        let control = written(offset, data, self.express + express::DEVICE_CONTROL_HIGH);
        if control.is_some_and(|byte| byte & express::INITIATE_FLR != 0) {
            actions |= Actions::FLR_REQUESTED;
        }
        Ok(actions)
    }

    /// Resets the registers; says what changed by that.
    pub fn reset(&mut self, kind: ResetKind) -> Actions {
        let before = self.watched();
        self.registers.reset(kind == ResetKind::FunctionLevel);
        before.changes(&self.watched())
    }

    /// Gives MSI-X so many vectors, in a configuration space after power-on.
    ///
    /// # Errors
    /// [`ConfigError::Msix`] if their table does not fit; nothing changes then.
    pub fn set_vectors(&mut self, vectors: u16) -> Result<(), ConfigError> {
        let layout = MsixLayout {
            vectors,
            ..self.function.msix
        };
        let bar = self.function.bar_size(layout.bar);
        if !bar.is_some_and(|bar| layout.fits(bar)) {
            return Err(ConfigError::Msix);
        }
        self.function.msix = layout;
        self.registers.define(self.msix, &msix(&layout).registers)
    }

    /// Whether the function may start DMA and send interrupts.
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.registers.u16(header::COMMAND) & header::COMMAND_BUS_MASTER != 0
    }

    /// Whether the function answers accesses to its BARs.
    #[must_use]
    pub fn memory_space(&self) -> bool {
        self.registers.u16(header::COMMAND) & header::COMMAND_MEMORY != 0
    }

    /// The power state.
    #[must_use]
    pub fn power_state(&self) -> PowerState {
        match self.watched().power {
            0 => PowerState::D0,
            _ => PowerState::D3Hot,
        }
    }

    /// MSI-X enable and function mask.
    #[must_use]
    pub fn msix_control(&self) -> MsixControl {
        let control = self.watched().msix;
        MsixControl {
            enabled: control & standard::MSIX_ENABLE != 0,
            function_masked: control & standard::MSIX_FUNCTION_MASK != 0,
        }
    }

    /// The address software gave BAR `index` (0, 2 or 4), or `None` for one that does not exist.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<u64> {
        if index > 4 || index % 2 != 0 {
            return None;
        }
        let value = u64::from_le_bytes(self.registers.get(header::BARS + 4 * u16::from(index)));
        (value & 0xf != 0).then_some(value & !0xf)
    }

    /// How many virtual functions are enabled: numbers 1 to this one.
    #[must_use]
    pub fn enabled_vfs(&self) -> u16 {
        self.watched().vfs
    }

    /// Whether enabled virtual functions answer accesses to their BARs.
    #[must_use]
    pub fn vf_memory_space(&self) -> bool {
        let sriov = self.sriov.as_ref();
        sriov.is_some_and(|sriov| sriov.memory_space(&self.registers))
    }

    /// The address software gave VF BAR `index` (0, 2 or 4), or `None` for one that does not exist.
    #[must_use]
    pub fn vf_bar(&self, index: u8) -> Option<u64> {
        self.function.bar_size(index)?;
        let sriov = self.sriov.as_ref()?;
        Some(sriov.bar(&self.registers, u16::from(index / 2)))
    }

    /// Records an uncorrectable error, as real hardware logs it; no message is sent.
    pub fn record_uncorrectable(&mut self, error: UncorrectableError) {
        let number = error as u8;
        let bit = 1u32 << number;
        let status = self
            .registers
            .u32(self.aer + extended::UNCORRECTABLE_STATUS);
        let (mask, severity) = self.uncorrectable_mask_and_severity();
        if bit & mask == 0 && status & !mask == 0 {
            let [low, ..] = self.registers.get::<4>(self.aer + extended::ERROR_CONTROL);
            let pointer = (low & !extended::FIRST_ERROR_MASK) | number;
            self.registers
                .set(self.aer + extended::ERROR_CONTROL, &[pointer]);
        }
        self.set_bits_32(self.aer + extended::UNCORRECTABLE_STATUS, bit);
        let fatal = bit & severity != 0;
        self.set_device_status(if fatal {
            express::STATUS_FATAL
        } else {
            express::STATUS_NON_FATAL
        });
    }

    /// A virtual function's are those of its physical one, whose values after reset stand for them.
    fn uncorrectable_mask_and_severity(&self) -> (u32, u32) {
        match self.function.kind {
            Kind::Physical { .. } => (
                self.registers.u32(self.aer + extended::UNCORRECTABLE_MASK),
                self.registers
                    .u32(self.aer + extended::UNCORRECTABLE_SEVERITY),
            ),
            Kind::Virtual => (extended::UNCORRECTABLE_MASK_RESET, extended::SEVERITY_RESET),
        }
    }

    /// Records a correctable error.
    pub fn record_correctable(&mut self, error: CorrectableError) {
        self.set_bits_32(self.aer + extended::CORRECTABLE_STATUS, 1 << (error as u8));
        self.set_device_status(express::STATUS_CORRECTABLE);
    }

    /// The contents, to be saved.
    #[must_use]
    pub fn save(&self) -> ConfigState {
        ConfigState {
            version: ConfigState::VERSION,
            bytes: self.registers.bytes().to_vec(),
        }
    }

    /// Takes over saved contents.
    ///
    /// # Errors
    /// When they are of another version, or read-only bits differ; nothing is then changed.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), ConfigError> {
        if state.version != ConfigState::VERSION {
            return Err(ConfigError::Version {
                version: state.version,
            });
        }
        let mut device_owned = vec![self.aer + extended::ERROR_CONTROL];
        device_owned.extend(self.sriov.iter().flat_map(Sriov::derived));
        self.registers.restore(&state.bytes, &device_owned)?;
        if let Some(sriov) = self.sriov {
            sriov.derive(&mut self.registers);
        }
        Ok(())
    }

    fn watched(&self) -> Watched {
        let [power] = self.registers.get(self.pm + standard::PM_CONTROL);
        Watched {
            command: self.registers.u16(header::COMMAND),
            power: power & standard::PM_STATE_MASK,
            msix: self.registers.u16(self.msix + standard::MSIX_CONTROL),
            bars: self.registers.get(header::BARS),
            vfs: self.sriov.map_or(0, |sriov| sriov.enabled(&self.registers)),
        }
    }

    /// A write of a power state the function does not have is discarded (section 7.5.2.2).
    fn discard_unsupported_power_state(&mut self, before: u8) {
        let offset = self.pm + standard::PM_CONTROL;
        let [low] = self.registers.get(offset);
        if matches!(low & standard::PM_STATE_MASK, 1 | 2) {
            self.registers
                .set(offset, &[(low & !standard::PM_STATE_MASK) | before]);
        }
    }

    fn set_bits_32(&mut self, offset: u16, bits: u32) {
        let value = self.registers.u32(offset) | bits;
        self.registers.set(offset, &value.to_le_bytes());
    }

    fn set_device_status(&mut self, bits: u16) {
        let offset = self.express + express::DEVICE_STATUS;
        let value = self.registers.u16(offset) | bits;
        self.registers.set(offset, &value.to_le_bytes());
    }
}

impl Watched {
    fn changes(&self, after: &Self) -> Actions {
        let command = self.command ^ after.command;
        let changed = [
            (
                Actions::BUS_MASTER_CHANGED,
                command & header::COMMAND_BUS_MASTER != 0,
            ),
            (
                Actions::MEMORY_SPACE_CHANGED,
                command & header::COMMAND_MEMORY != 0,
            ),
            (Actions::POWER_STATE_CHANGED, self.power != after.power),
            (Actions::MSIX_CHANGED, self.msix != after.msix),
            (Actions::BARS_CHANGED, self.bars != after.bars),
            (Actions::VFS_CHANGED, self.vfs != after.vfs),
        ];
        changed
            .into_iter()
            .filter(|&(_, changed)| changed)
            .map(|(action, _)| action)
            .collect()
    }
}

/// The byte that a write of `data` at `offset` puts at `at`, if it reaches there.
fn written(offset: u64, data: &[u8], at: u16) -> Option<u8> {
    let index = u64::from(at).checked_sub(offset)?;
    data.get(usize::try_from(index).ok()?).copied()
}
