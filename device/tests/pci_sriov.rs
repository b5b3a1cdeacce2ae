//! SR-IOV and ARI of a physical function, and the configuration space of a virtual one.
//!
//! Clauses are those of PCI Express Base 6.0. Accesses are the single ones of a guest's kernel unless a
//! test is about long ones.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use vrnic::pci::{
    Actions, CONFIG_SPACE_SIZE, ConfigError, ConfigSpace, Function, Kind, MAX_VFS, ResetKind,
    UncorrectableError,
};

const SERIAL: u64 = 0x0011_22ff_fe33_4455;

const ARI: u32 = 0x000e;
const SRIOV: u32 = 0x0010;
const VENDOR_SPECIFIC: u32 = 0x000b;

// Offsets in the SR-IOV capability (9.3.3).
const CONTROL: u16 = 0x08;
const INITIAL_VFS: u16 = 0x0c;
const TOTAL_VFS: u16 = 0x0e;
const NUM_VFS: u16 = 0x10;
const FIRST_VF_OFFSET: u16 = 0x14;
const VF_STRIDE: u16 = 0x16;
const VF_DEVICE_ID: u16 = 0x1a;
const SUPPORTED_PAGE_SIZES: u16 = 0x1c;
const SYSTEM_PAGE_SIZE: u16 = 0x20;
const VF_BARS: u16 = 0x24;

const ENABLE: u16 = 1 << 0;
const MEMORY: u16 = 1 << 3;
const ARI_HIERARCHY: u16 = 1 << 4;

/// A configuration space and where its SR-IOV capability is.
#[derive(Clone)]
struct Pf {
    config: ConfigSpace,
    at: u16,
}

impl Pf {
    #[track_caller]
    fn new(vfs: u16) -> Self {
        let config = ConfigSpace::new(&Function::physical(SERIAL).with_vfs(vfs)).unwrap();
        let at = extended(&config, SRIOV).unwrap();
        Self { config, at }
    }

    #[track_caller]
    fn get(&self, register: u16) -> u16 {
        read16(&self.config, self.at + register)
    }

    #[track_caller]
    fn get32(&self, register: u16) -> u32 {
        read32(&self.config, self.at + register)
    }

    #[track_caller]
    fn set(&mut self, register: u16, value: u16) -> Actions {
        let at = (self.at + register).into();
        self.config.write(at, &value.to_le_bytes()).unwrap()
    }

    #[track_caller]
    fn set32(&mut self, register: u16, value: u32) -> Actions {
        let at = (self.at + register).into();
        self.config.write(at, &value.to_le_bytes()).unwrap()
    }

    /// Writes all ones to the VF BAR of `bar` and returns the size that it tells.
    #[track_caller]
    fn vf_bar_size(&mut self, bar: u16) -> u64 {
        let at = VF_BARS + 4 * bar;
        let before = self.config.vf_bar(bar as u8).unwrap();
        let _ = self.set32(at, u32::MAX);
        let _ = self.set32(at + 4, u32::MAX);
        let read = u64::from(self.get32(at + 4)) << 32 | u64::from(self.get32(at));
        assert_eq!(read & 0xf, 0xc, "64 bits, prefetchable");
        let _ = self.set32(at, before as u32);
        let _ = self.set32(at + 4, (before >> 32) as u32);
        !(read & !0xf) + 1
    }
}

#[track_caller]
fn read16(config: &ConfigSpace, offset: u16) -> u16 {
    let mut data = [0xa5; 2];
    config.read(offset.into(), &mut data).unwrap();
    u16::from_le_bytes(data)
}

#[track_caller]
fn read32(config: &ConfigSpace, offset: u16) -> u32 {
    let mut data = [0xa5; 4];
    config.read(offset.into(), &mut data).unwrap();
    u32::from_le_bytes(data)
}

/// Headers of the extended capabilities and where they are.
#[track_caller]
fn capabilities(config: &ConfigSpace) -> Vec<(u32, u16)> {
    let (mut at, mut found) = (0x100, Vec::new());
    while at != 0 {
        assert!(at >= 0x100 && at % 4 == 0 && found.len() < 480);
        let header = read32(config, at);
        found.push((header & 0xf_ffff, at));
        at = (header >> 20) as u16;
    }
    found
}

/// Where the extended capability `id` is.
#[track_caller]
fn extended(config: &ConfigSpace, id: u32) -> Option<u16> {
    let all = capabilities(config);
    let mut found = all.iter().filter(|found| found.0 & 0xffff == id);
    found.next().map(|found| found.1)
}

/// Where the PCI-compatible capability `id` is.
#[track_caller]
fn standard(config: &ConfigSpace, id: u8) -> u16 {
    let mut at = read16(config, 0x34) & 0xff;
    while read16(config, at) & 0xff != u16::from(id) {
        at = read16(config, at) >> 8;
        assert_ne!(at, 0, "capability {id:#x}");
    }
    at
}

#[track_caller]
fn vf() -> ConfigSpace {
    ConfigSpace::new(&Function::virtual_function()).unwrap()
}

// the capability of the physical function

#[test]
fn a_physical_function_has_both_capabilities_behind_the_first() {
    let pf = Pf::new(4);
    let found: Vec<_> = capabilities(&pf.config).iter().map(|c| c.0).collect();
    assert_eq!(found, [0x2_0001, 0x1_0003, 0x1_000e, 0x1_0010]);
    assert_eq!(extended(&pf.config, 1), Some(0x100), "QEMU replaces this");
    let ari = extended(&pf.config, ARI).unwrap();
    assert_eq!(read32(&pf.config, ari + 4), 0, "7.8.8: no next function");
}

#[test]
fn a_function_without_vfs_has_neither() {
    let config = ConfigSpace::new(&Function::physical(SERIAL)).unwrap();
    assert_eq!(extended(&config, SRIOV), None);
    assert_eq!(extended(&config, ARI), None);
    assert_eq!(config.enabled_vfs(), 0);
    assert_eq!(config.vf_bar(0), None);
}

#[test]
fn the_number_of_vfs_is_bounded() {
    let with = |vfs| ConfigSpace::new(&Function::physical(SERIAL).with_vfs(vfs)).err();
    assert_eq!(with(MAX_VFS), None);
    assert_eq!(with(MAX_VFS + 1), Some(ConfigError::Vfs));
}

/// 9.3.3.2 to 9.3.3.12: what is read-only, and the values after power-on.
#[test]
fn registers_start_as_the_specification_wants() {
    let mut pf = Pf::new(6);
    let start = |pf: &Pf| {
        assert_eq!(pf.get32(0x04), 1 << 1, "no migration, ARI preserved");
        assert_eq!(pf.get(INITIAL_VFS), 6, "9.3.3.5: all, without migration");
        assert_eq!(pf.get(TOTAL_VFS), 6);
        assert_eq!(pf.get(0x12), 0, "9.3.3.8: depends on itself");
        assert_eq!(pf.get(0x18), 0);
        assert_eq!(pf.get(VF_DEVICE_ID), 0x0002);
        assert_eq!(pf.get32(SUPPORTED_PAGE_SIZES), 0x553, "9.3.3.12");
        assert_eq!(pf.get32(0x3c), 0, "no migration state");
    };
    start(&pf);
    assert_eq!((pf.get(CONTROL), pf.get(NUM_VFS)), (0, 0));
    assert_eq!(pf.get32(SYSTEM_PAGE_SIZE), 1, "9.3.3.13: 4 KiB");
    for register in [0x00, 0x04, 0x0c, 0x14, 0x18, 0x1c, 0x3c] {
        let _ = pf.set32(register, u32::MAX);
    }
    let _ = pf.set(0x0a, 0xffff);
    let _ = pf.set(0x12, 0xffff);
    start(&pf);
    assert_eq!(pf.config.save(), Pf::new(6).config.save());
}

/// 9.3.3.3: the bits of VF migration and 10-bit tags do not exist.
#[test]
fn control_has_three_bits() {
    let mut pf = Pf::new(6);
    let actions = pf.set(CONTROL, 0xffff);
    assert_eq!(pf.get(CONTROL), ENABLE | MEMORY | ARI_HIERARCHY);
    assert_eq!(actions, Actions::empty(), "NumVFs is 0: nothing appears");
    assert!(pf.config.vf_memory_space());
}

// enabling

/// 9.3.3.3.1.
#[test]
fn vf_enable_shows_as_many_as_num_vfs_says() {
    let mut pf = Pf::new(6);
    assert_eq!(pf.set(NUM_VFS, 4), Actions::empty());
    assert_eq!(pf.config.enabled_vfs(), 0);
    assert_eq!(pf.set(CONTROL, ENABLE | MEMORY), Actions::VFS_CHANGED);
    assert_eq!(pf.config.enabled_vfs(), 4);
    assert_eq!(pf.set(CONTROL, ENABLE), Actions::empty(), "VF MSE only");
    assert!(!pf.config.vf_memory_space());
    assert_eq!(pf.set(CONTROL, 0), Actions::VFS_CHANGED);
    assert_eq!(pf.config.enabled_vfs(), 0);
    assert_eq!(pf.get(NUM_VFS), 4, "it stays");
}

/// 9.3.3.7: undefined, so bounded.
#[test]
fn num_vfs_above_total_vfs_enables_no_more_than_there_are() {
    let mut pf = Pf::new(6);
    for num in [7, 8, 0x100, 0xffff] {
        let _ = pf.set(NUM_VFS, num);
        assert_eq!(pf.get(NUM_VFS), num, "as written");
        assert_eq!(pf.get(FIRST_VF_OFFSET), 1, "for the 6 there are");
        let _ = pf.set(CONTROL, ENABLE);
        assert_eq!(pf.config.enabled_vfs(), 6);
        let _ = pf.set(CONTROL, 0);
    }
}

/// 9.3.3.7: undefined, so without effect.
#[test]
fn num_vfs_does_not_change_under_enabled_vfs() {
    let mut pf = Pf::new(6);
    let _ = pf.set(NUM_VFS, 2);
    let _ = pf.set(CONTROL, ENABLE);
    for num in [0, 1, 5, 0xffff] {
        assert_eq!(pf.set(NUM_VFS, num), Actions::empty());
        assert_eq!((pf.get(NUM_VFS), pf.config.enabled_vfs()), (2, 2));
    }
}

/// 9.3.3.7: it is locked, too, when it is 0.
#[test]
fn vf_enable_without_num_vfs_shows_none() {
    let mut pf = Pf::new(6);
    assert_eq!(pf.set(CONTROL, ENABLE), Actions::empty());
    assert_eq!(pf.config.enabled_vfs(), 0);
    assert_eq!(pf.set(NUM_VFS, 3), Actions::empty());
    assert_eq!((pf.get(NUM_VFS), pf.config.enabled_vfs()), (0, 0));
    let _ = pf.set(CONTROL, 0);
    let _ = pf.set(NUM_VFS, 3);
    assert_eq!(pf.set(CONTROL, ENABLE), Actions::VFS_CHANGED);
}

/// 9.3.3.13: undefined, so without effect.
#[test]
fn the_page_size_does_not_change_under_enabled_vfs() {
    let mut pf = Pf::new(6);
    let _ = pf.set32(SYSTEM_PAGE_SIZE, 1 << 4);
    let _ = pf.set(CONTROL, ENABLE);
    let _ = pf.set32(SYSTEM_PAGE_SIZE, 1 << 10);
    assert_eq!(pf.get32(SYSTEM_PAGE_SIZE), 1 << 4);
    assert_eq!(pf.vf_bar_size(0), 64 << 10);
    let _ = pf.set(CONTROL, 0);
    let _ = pf.set32(SYSTEM_PAGE_SIZE, 1 << 10);
    assert_eq!(pf.get32(SYSTEM_PAGE_SIZE), 1 << 10);
}

/// 9.3.3.3.5: it moves VFs, so it must not change under them.
#[test]
fn the_hierarchy_does_not_change_under_enabled_vfs() {
    let mut pf = Pf::new(100);
    let _ = pf.set(NUM_VFS, 100);
    let _ = pf.set(CONTROL, ENABLE);
    let _ = pf.set(CONTROL, ENABLE | ARI_HIERARCHY);
    assert_eq!((pf.get(CONTROL), pf.get(FIRST_VF_OFFSET)), (ENABLE, 256));
    let _ = pf.set(CONTROL, 0);
    let _ = pf.set(CONTROL, ENABLE | ARI_HIERARCHY);
    assert_eq!(pf.get(FIRST_VF_OFFSET), 1, "set together with VF Enable");
    let _ = pf.set(CONTROL, ENABLE);
    assert_eq!(pf.get(CONTROL), ENABLE | ARI_HIERARCHY);
}

// routing IDs

/// 9.2.1.2, 9.3.3.9 and 9.3.3.10: each VF has a routing ID of its own that the link can tell apart.
#[test]
fn routing_ids_are_those_of_functions_that_exist() {
    let mut pf = Pf::new(MAX_VFS);
    for ari in [0, ARI_HIERARCHY] {
        let _ = pf.set(CONTROL, ari);
        for num in 0..=MAX_VFS {
            let _ = pf.set(NUM_VFS, num);
            let (offset, stride) = (pf.get(FIRST_VF_OFFSET), pf.get(VF_STRIDE));
            assert!(offset > 0 && stride > 0, "the PF's own routing ID");
            let ids = |n: u16| offset + n * stride;
            let (first, last) = (ids(0), ids(num.max(1) - 1));
            assert!(last <= 0x1ff, "one more bus at most");
            if ari == 0 {
                let own_bus = last <= 7;
                assert!(own_bus || first >= 0x100, "{num}: {first:#x} to {last:#x}");
            }
            if num <= 7 {
                assert_eq!((first, stride), (1, 1), "functions of the PF's slot");
            }
        }
    }
}

// VF BARs

/// 9.3.3.14: a BAR of one VF, in whole pages of the system.
#[test]
fn vf_bars_tell_the_size_of_one_vf() {
    for (page, sizes) in [
        (1u32 << 0, [0x4000u64, 0x20_0000, 0x8000]),
        (1 << 1, [0x4000, 0x20_0000, 0x8000]),
        (1 << 4, [0x1_0000, 0x20_0000, 0x1_0000]),
        (1 << 6, [0x4_0000, 0x20_0000, 0x4_0000]),
        (1 << 8, [0x10_0000, 0x20_0000, 0x10_0000]),
        (1 << 10, [0x40_0000; 3]),
    ] {
        let mut pf = Pf::new(6);
        let _ = pf.set32(SYSTEM_PAGE_SIZE, page);
        for (bar, size) in [0, 2, 4].into_iter().zip(sizes) {
            assert_eq!(
                pf.vf_bar_size(bar),
                size,
                "VF BAR{bar}, page size {page:#x}"
            );
        }
    }
}

#[test]
fn vf_bars_keep_addresses_but_for_what_a_larger_page_takes() {
    let mut pf = Pf::new(6);
    assert_eq!(pf.set32(VF_BARS, 0xfe00_c00f), Actions::empty());
    let _ = pf.set32(VF_BARS + 4, 0x12);
    assert_eq!(pf.get32(VF_BARS), 0xfe00_c00c);
    assert_eq!(pf.config.vf_bar(0), Some(0x12_fe00_c000));
    assert_eq!(pf.config.bar(0), Some(0), "the PF's own is another");
    let _ = pf.set32(SYSTEM_PAGE_SIZE, 1 << 4);
    assert_eq!(pf.config.vf_bar(0), Some(0x12_fe00_0000));
    assert_eq!(pf.config.vf_bar(1), None);
    assert_eq!(pf.config.vf_bar(6), None);
}

#[test]
fn a_bar_that_the_function_has_not_is_none_of_its_vfs() {
    let function = Function {
        bars: [0x4000, 0, 0x8000],
        ..Function::physical(SERIAL).with_vfs(2)
    };
    let config = ConfigSpace::new(&function).unwrap();
    let at = extended(&config, SRIOV).unwrap();
    let mut pf = Pf { config, at };
    let _ = pf.set32(VF_BARS + 8, u32::MAX);
    assert_eq!(pf.get32(VF_BARS + 8), 0);
    assert_eq!(pf.config.vf_bar(2), None);
}

/// 9.3.3.13: page sizes that are not supported cannot be chosen; several or none are undefined.
#[test]
fn a_page_size_is_always_one_that_is_supported() {
    let mut pf = Pf::new(6);
    let _ = pf.set32(SYSTEM_PAGE_SIZE, !0x553);
    assert_eq!(pf.get32(SYSTEM_PAGE_SIZE), 0);
    assert_eq!(pf.vf_bar_size(0), 0x4000, "none: 4 KiB");
    let _ = pf.set32(SYSTEM_PAGE_SIZE, u32::MAX);
    assert_eq!(pf.vf_bar_size(0), 0x40_0000, "several: the largest");
}

// resets and saving

/// 9.3.3.3.1 and 6.6.2: a function level reset of the PF takes its VFs away.
#[test]
fn resets_take_the_vfs_away() {
    for kind in [ResetKind::FunctionLevel, ResetKind::PowerOn] {
        let mut pf = Pf::new(100);
        let _ = pf.set(CONTROL, ARI_HIERARCHY);
        let _ = pf.set(NUM_VFS, 100);
        let _ = pf.set32(SYSTEM_PAGE_SIZE, 1 << 4);
        let _ = pf.set32(VF_BARS, 0xfe00_0000);
        let _ = pf.set(CONTROL, ENABLE | MEMORY | ARI_HIERARCHY);
        assert_eq!(pf.config.enabled_vfs(), 100);
        assert_eq!(pf.config.reset(kind), Actions::VFS_CHANGED);
        assert_eq!(pf.config.enabled_vfs(), 0);
        assert_eq!(pf.config.save(), Pf::new(100).config.save());
    }
}

/// Initiate FLR alone changes nothing before the function has stopped.
#[test]
fn a_requested_reset_waits_for_the_owner() {
    let mut pf = Pf::new(6);
    let _ = pf.set(NUM_VFS, 3);
    let _ = pf.set(CONTROL, ENABLE);
    let control = standard(&pf.config, 0x10) + 8;
    let actions = pf.config.write(control.into(), &0x8000u16.to_le_bytes());
    assert_eq!(actions, Ok(Actions::FLR_REQUESTED));
    assert_eq!(pf.config.enabled_vfs(), 3);
}

#[test]
fn contents_move_to_another_process() {
    let mut pf = Pf::new(100);
    let _ = pf.set(NUM_VFS, 100);
    let _ = pf.set32(SYSTEM_PAGE_SIZE, 1 << 6);
    let _ = pf.set32(VF_BARS + 4, 0x12);
    let _ = pf.set(CONTROL, ENABLE | MEMORY);
    let state = pf.config.save();
    let mut other = Pf::new(100);
    other.config.restore(&state).unwrap();
    assert_eq!(other.config.save(), state);
    assert_eq!(other.config.enabled_vfs(), 100);
    assert_eq!(other.get(FIRST_VF_OFFSET), 256);
    assert_eq!(other.config.vf_bar(0), Some(0x12 << 32));

    let refused = Pf::new(99).config.restore(&state);
    assert!(matches!(refused, Err(ConfigError::Incompatible { .. })));
    assert!(vf().restore(&state).is_err());

    let mut forged = state;
    forged.bytes[usize::from(pf.at + FIRST_VF_OFFSET)] = 0x77;
    forged.bytes[usize::from(pf.at + VF_BARS) + 1] = 0xc0;
    other.config.restore(&forged).unwrap();
    assert_eq!(other.get(FIRST_VF_OFFSET), 256, "follows from the others");
    assert_eq!(other.config.vf_bar(0), Some(0x12 << 32));
}

// what QEMU sees

/// A long read finds another ID, each read that a guest can make the true one.
#[test]
fn long_reads_do_not_find_what_qemu_would_hide() {
    let pf = Pf::new(4);
    let mut all = vec![0xa5; CONFIG_SPACE_SIZE];
    pf.config.read(0, &mut all).unwrap();
    for id in [ARI, SRIOV] {
        let at = extended(&pf.config, id).unwrap();
        let header = read32(&pf.config, at);
        assert_eq!(header & 0xffff, id);
        assert_eq!(u32::from(read16(&pf.config, at)), id);
        let bytes = &all[usize::from(at)..][..4];
        let long = u32::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(long, header & !0xffff | VENDOR_SPECIFIC, "only the ID");
        all[usize::from(at)..][..4].copy_from_slice(&header.to_le_bytes());
    }
    assert_eq!(all, pf.config.save().bytes, "nothing else differs");
}

#[test]
fn a_long_read_may_begin_or_end_within_an_id() {
    let pf = Pf::new(4);
    let at = u64::from(pf.at);
    let read = |from: u64| {
        let mut data = [0xa5; 8];
        pf.config.read(from, &mut data).unwrap();
        data
    };
    assert_eq!(read(at - 7)[7], 0x0b);
    assert_eq!(read(at + 1)[0], 0);
    assert_eq!(read(at)[..2], [0x0b, 0]);
    let mut data = [0xa5; 4];
    pf.config.read(at - 3, &mut data).unwrap();
    assert_eq!(data[3], 0x10, "4 bytes are no long read");
}

// a virtual function

/// 9.3.4.1.1 and 9.3.4.1.2; the rest of the header is the PF's.
#[test]
fn a_vf_hides_its_ids_unless_it_is_alone() {
    let config = vf();
    assert_eq!(read32(&config, 0), u32::MAX);
    let pf = ConfigSpace::new(&Function::physical(SERIAL)).unwrap();
    for offset in [0x08, 0x2c] {
        assert_eq!(read32(&config, offset), read32(&pf, offset));
    }
    let alone = |offset: u64, length| {
        let mut data = vec![0xa5; length];
        config.read_alone(offset, &mut data).unwrap();
        data
    };
    assert_eq!(alone(0, 4), [0x52, 0x56, 0x02, 0x00]);
    assert_eq!(alone(1, 2), [0x56, 0x02]);
    assert_eq!(alone(2, 1), [0x02]);
    let all = alone(0, CONFIG_SPACE_SIZE);
    assert_eq!(all[..4], [0x52, 0x56, 0x02, 0x00]);
    let mut plain = vec![0xa5; CONFIG_SPACE_SIZE];
    config.read(0, &mut plain).unwrap();
    assert_eq!(all[4..], plain[4..]);
}

/// 9.3.4.1.3: bus master enable; memory space enable for clients as VFIO has it.
#[test]
fn a_vf_has_few_command_bits() {
    let mut config = vf();
    let actions = config.write(4, &[0xff; 4]).unwrap();
    assert_eq!(read16(&config, 4), 0x0006);
    assert_eq!(read16(&config, 6), 0x0010, "capabilities, no errors");
    assert!(actions.contains(Actions::BUS_MASTER_CHANGED));
    for (offset, what) in [(0x0c, "cache line size"), (0x3c, "interrupt line")] {
        let _ = config.write(offset, &[0xff; 4]).unwrap();
        assert_eq!(read32(&config, offset as u16), 0, "{what}");
    }
}

/// 9.3.5: controls that belong to the physical function read zero, Initiate FLR works.
#[test]
fn a_vf_has_a_function_level_reset_and_no_other_control() {
    let mut config = vf();
    let express = standard(&config, 0x10);
    assert_ne!(read32(&config, express + 4) & 1 << 28, 0, "FLR");
    for register in [0x08, 0x10, 0x28, 0x30] {
        let at = (express + register).into();
        let actions = config.write(at, &[0xff; 2]).unwrap();
        assert_eq!(read16(&config, express + register), 0, "{register:#x}");
        let expected = if register == 0x08 {
            Actions::FLR_REQUESTED
        } else {
            Actions::empty()
        };
        assert_eq!(actions, expected, "{register:#x}");
    }
}

/// 9.3.7: AER without masks and severities, ARI, and no SR-IOV of its own.
#[test]
fn a_vf_has_the_extended_capabilities_of_a_vf() {
    let mut config = vf();
    let found: Vec<_> = capabilities(&config).iter().map(|c| c.0).collect();
    assert_eq!(found, [0x2_0001, 0x1_000e]);
    let _ = config.write(0x104, &[0xff; 0x18]).unwrap();
    for register in [0x104, 0x108, 0x10c, 0x110, 0x114] {
        assert_eq!(read32(&config, register), 0, "{register:#x}");
    }
    config.record_uncorrectable(UncorrectableError::CompletionTimeout);
    assert_eq!(read32(&config, 0x104), 1 << 14);
    let express = standard(&config, 0x10);
    assert_eq!(read16(&config, express + 0x0a), 1 << 1, "non-fatal");
    assert_eq!(config.enabled_vfs(), 0);
    assert_eq!(config.vf_bar(0), None);
}

/// 9.3.6: MSI-X is each VF's own.
#[test]
fn a_vf_has_its_own_interrupts() {
    let mut config = vf();
    let msix = standard(&config, 0x11);
    assert_eq!(read16(&config, msix + 2), 63);
    let actions = config.write((msix + 2).into(), &0x8000u16.to_le_bytes());
    assert_eq!(actions, Ok(Actions::MSIX_CHANGED));
    assert!(config.msix_control().enabled);
    let _ = config.reset(ResetKind::FunctionLevel);
    assert_eq!(config.save(), vf().save());
}

#[test]
fn the_kind_is_part_of_the_description() {
    assert_eq!(Function::virtual_function().kind, Kind::Virtual);
    let pf = Function::physical(SERIAL).with_vfs(3);
    assert_eq!(pf.kind, Kind::Physical { vfs: 3 });
}

proptest! {
    /// Whatever is written, and in whatever portions: never more VFs than there are, the same
    /// result, and none after a reset.
    #[test]
    fn no_write_enables_what_does_not_exist(
        total in 1..=MAX_VFS,
        writes in prop::collection::vec((0u64..0x50, prop::collection::vec(any::<u8>(), 1..48)), 1..40),
    ) {
        let (mut whole, mut bytes) = (Pf::new(total), Pf::new(total));
        let start = u64::from(whole.at) - 8;
        for (offset, data) in writes {
            let before = whole.config.enabled_vfs();
            let actions = whole.config.write(start + offset, &data).unwrap();
            for (at, byte) in (start + offset..).zip(&data) {
                let _ = bytes.config.write(at, &[*byte]).unwrap();
            }
            let after = whole.config.enabled_vfs();
            prop_assert_eq!(whole.config.save(), bytes.config.save());
            prop_assert!(after <= total);
            prop_assert_eq!(actions.contains(Actions::VFS_CHANGED), before != after);
            prop_assert!(before == after || before == 0 || after == 0, "only by VF Enable");
            prop_assert_eq!(whole.get(TOTAL_VFS), total);
            prop_assert!(whole.get(FIRST_VF_OFFSET) != 0);
        }
        let _ = whole.config.reset(ResetKind::FunctionLevel);
        prop_assert_eq!(whole.config.enabled_vfs(), 0);
    }
}
