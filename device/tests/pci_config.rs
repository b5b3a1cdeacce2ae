//! Configuration space, read and written the way `lspci` and a kernel do.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use vrnic::pci::{
    Actions, CONFIG_SPACE_SIZE, ConfigError, ConfigSpace, CorrectableError, Function, MsixLayout,
    PowerState, ResetKind, UncorrectableError, names,
};

const SERIAL: u64 = 0x0011_22ff_fe33_4455;

#[track_caller]
fn space() -> ConfigSpace {
    ConfigSpace::new(&Function::physical(SERIAL)).unwrap()
}

#[track_caller]
fn read8(config: &ConfigSpace, offset: u16) -> u8 {
    let mut data = [0xa5; 1];
    config.read(offset.into(), &mut data).unwrap();
    data[0]
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

#[track_caller]
fn write16(config: &mut ConfigSpace, offset: u16, value: u16) -> Actions {
    config.write(offset.into(), &value.to_le_bytes()).unwrap()
}

#[track_caller]
fn write32(config: &mut ConfigSpace, offset: u16, value: u32) -> Actions {
    config.write(offset.into(), &value.to_le_bytes()).unwrap()
}

#[track_caller]
fn set16(config: &mut ConfigSpace, offset: u16, value: u16) {
    let _ = write16(config, offset, value);
}

#[track_caller]
fn set32(config: &mut ConfigSpace, offset: u16, value: u32) {
    let _ = write32(config, offset, value);
}

/// IDs and offsets of the PCI-compatible capabilities, in list order.
#[track_caller]
fn standard_capabilities(config: &ConfigSpace) -> Vec<(u8, u16)> {
    assert_ne!(read16(config, 0x06) & 0x10, 0, "status announces a list");
    let mut found = Vec::new();
    let mut at = u16::from(read8(config, 0x34));
    while at != 0 {
        assert!(at >= 0x40 && at % 4 == 0 && found.len() < 48);
        found.push((read8(config, at), at));
        at = read8(config, at + 1).into();
    }
    found
}

/// IDs, versions and offsets of the extended capabilities, in list order.
#[track_caller]
fn extended_capabilities(config: &ConfigSpace) -> Vec<(u32, u32, u16)> {
    let mut found = Vec::new();
    let mut at = 0x100u16;
    while at != 0 {
        assert!(at >= 0x100 && at % 4 == 0 && found.len() < 480);
        let header = read32(config, at);
        found.push((header & 0xffff, (header >> 16) & 0xf, at));
        at = (header >> 20) as u16;
    }
    found
}

#[track_caller]
fn standard(config: &ConfigSpace, id: u8) -> u16 {
    standard_capabilities(config)
        .iter()
        .find(|found| found.0 == id)
        .unwrap()
        .1
}

// header

#[test]
fn the_header_identifies_the_function() {
    let config = space();
    assert_eq!(read16(&config, 0x00), 0x5652);
    assert_eq!(read16(&config, 0x02), 0x0001);
    assert_eq!(read32(&config, 0x08), 0x0207_0001, "class and revision");
    assert_eq!(read8(&config, 0x0e), 0, "type 0, single function");
    assert_eq!(read32(&config, 0x2c), 0x0001_5652);
    assert_eq!(read32(&config, 0x30), 0, "no expansion ROM");
    assert_eq!(read8(&config, 0x3d), 0, "no interrupt pin");
}

#[test]
fn the_vendor_id_is_assigned_to_nobody() {
    assert_eq!(names::vendor_name(vrnic_abi::pci::VENDOR_ID), None);
    assert_eq!(names::vendor_name(0x8086), Some("Intel Corporation"));
    let line = names::describe(&Function::physical(SERIAL).ids);
    assert_eq!(line, "Infiniband controller [0207]: 5652:0001 (rev 01)");
}

#[test]
fn command_and_status_follow_their_masks() {
    let mut config = space();
    let actions = write32(&mut config, 0x04, u32::MAX);
    assert_eq!(read16(&config, 0x04), 0x0546);
    assert_eq!(read16(&config, 0x06), 0x0010);
    assert_eq!(
        actions,
        Actions::BUS_MASTER_CHANGED | Actions::MEMORY_SPACE_CHANGED
    );
    assert!(config.bus_master() && config.memory_space());
    assert_eq!(
        write16(&mut config, 0x04, 0x0002),
        Actions::BUS_MASTER_CHANGED
    );
    assert!(!config.bus_master() && config.memory_space());
    assert_eq!(write16(&mut config, 0x04, 0x0002), Actions::empty());
}

#[test]
fn notebook_registers_keep_what_firmware_writes() {
    let mut config = space();
    let _ = config.write(0x0c, &[0x10, 0x40]).unwrap();
    assert_eq!(
        read16(&config, 0x0c),
        0x0010,
        "cache line size, but no latency timer"
    );
    let _ = config.write(0x3c, &[0x0b, 0x01]).unwrap();
    assert_eq!(read16(&config, 0x3c), 0x000b, "interrupt line, but no pin");
}

// BARs

#[test]
fn every_bar_tells_its_size() {
    let mut config = space();
    for (bar, size) in [(0u16, 0x4000u64), (2, 0x20_0000), (4, 0x8000)] {
        let offset = 0x10 + 4 * bar;
        assert_eq!(read32(&config, offset), 0xc, "64 bits, prefetchable");
        assert_eq!(
            write32(&mut config, offset, u32::MAX),
            Actions::BARS_CHANGED
        );
        assert_eq!(
            write32(&mut config, offset + 4, u32::MAX),
            Actions::BARS_CHANGED
        );
        let mask = (u64::from(read32(&config, offset + 4)) << 32)
            | u64::from(read32(&config, offset) & !0xf);
        assert_eq!(!mask + 1, size, "BAR{bar}");
        set32(&mut config, offset, 0xe000_0000);
        set32(&mut config, offset + 4, 0x12);
        assert_eq!(config.bar(bar as u8), Some(0x12_e000_0000));
    }
    assert_eq!(config.bar(1), None);
    assert_eq!(config.bar(6), None);
}

#[test]
fn a_bar_beyond_4_gib_uses_its_upper_half() {
    let function = Function {
        bars: [0x4000, 1 << 33, 0x8000],
        ..Function::physical(SERIAL)
    };
    let mut config = ConfigSpace::new(&function).unwrap();
    set32(&mut config, 0x18, u32::MAX);
    set32(&mut config, 0x1c, u32::MAX);
    assert_eq!(read32(&config, 0x18), 0xc);
    assert_eq!(read32(&config, 0x1c), 0xffff_fffe);
}

#[test]
fn a_function_without_a_bar_hides_it() {
    let function = Function {
        bars: [0x4000, 0, 0x8000],
        ..Function::physical(SERIAL)
    };
    let mut config = ConfigSpace::new(&function).unwrap();
    assert_eq!(config.write(0x18, &[0xff; 8]).unwrap(), Actions::empty());
    assert_eq!(read32(&config, 0x18), 0);
    assert_eq!(config.bar(2), None);
}

#[test]
fn a_function_that_contradicts_itself_is_refused() {
    let good = Function::physical(SERIAL);
    let layout = good.msix;
    let bars = |bars| ConfigSpace::new(&Function { bars, ..good }).err();
    let msix = |msix| ConfigSpace::new(&Function { msix, ..good }).err();
    assert_eq!(bars([0x3000, 0, 0x8000]), Some(ConfigError::BarSize));
    assert_eq!(bars([0x800, 0, 0x8000]), Some(ConfigError::BarSize));
    assert_eq!(bars([0x4000, 0, 0]), Some(ConfigError::Msix));
    assert_eq!(
        msix(MsixLayout {
            vectors: 0,
            ..layout
        }),
        Some(ConfigError::Msix)
    );
    assert_eq!(
        msix(MsixLayout {
            vectors: 2049,
            ..layout
        }),
        Some(ConfigError::Msix)
    );
    assert_eq!(
        msix(MsixLayout {
            pba_offset: 0x3f8,
            ..layout
        }),
        Some(ConfigError::Msix),
        "overlap"
    );
    assert_eq!(
        msix(MsixLayout {
            pba_offset: 0x7ffc,
            ..layout
        }),
        Some(ConfigError::Msix),
        "unaligned"
    );
    assert_eq!(
        msix(MsixLayout {
            pba_offset: 0x8000,
            ..layout
        }),
        Some(ConfigError::Msix),
        "outside"
    );
    assert_eq!(
        msix(MsixLayout { bar: 3, ..layout }),
        Some(ConfigError::Msix)
    );
    assert_eq!(
        msix(MsixLayout {
            vectors: 1024,
            ..layout
        }),
        None
    );
}

#[test]
fn the_number_of_vectors_is_no_state_that_a_reset_changes() {
    let mut config = space();
    let control = standard(&config, 0x11) + 2;
    assert_eq!(read16(&config, control), 63);
    for vectors in [0, 2049] {
        assert_eq!(config.set_vectors(vectors), Err(ConfigError::Msix));
        assert_eq!(read16(&config, control), 63);
    }
    config.set_vectors(3).unwrap();
    set16(&mut config, control, 0xffff);
    assert_eq!(read16(&config, control), 0xc002, "enabled, all masked");
    for kind in [ResetKind::FunctionLevel, ResetKind::PowerOn] {
        let _ = config.reset(kind);
        assert_eq!(read16(&config, control), 2, "{kind:?}");
    }
    assert_eq!(standard_capabilities(&config).len(), 3);
}

// capabilities

#[test]
fn both_lists_hold_what_lspci_shows() {
    let config = space();
    let ids: Vec<_> = standard_capabilities(&config)
        .iter()
        .map(|found| found.0)
        .collect();
    assert_eq!(ids, [0x01, 0x10, 0x11]);
    let extended = extended_capabilities(&config);
    assert_eq!(
        extended
            .iter()
            .map(|found| (found.0, found.1))
            .collect::<Vec<_>>(),
        [(1, 2), (3, 1)]
    );
    assert_eq!(extended[0].2, 0x100, "AER is what QEMU may replace");
}

#[test]
fn the_serial_number_reads_low_half_first() {
    let config = space();
    let at = extended_capabilities(&config)[1].2;
    assert_eq!(read32(&config, at + 4), 0xfe33_4455);
    assert_eq!(read32(&config, at + 8), 0x0011_22ff);
}

#[test]
fn the_link_runs_at_16_gt_and_16_lanes() {
    let config = space();
    let pcie = standard(&config, 0x10);
    assert_eq!(read16(&config, pcie + 2), 0x0002, "version 2 endpoint");
    assert_ne!(read32(&config, pcie + 4) & (1 << 28), 0, "FLR");
    for register in [0x0c, 0x12] {
        assert_eq!(read16(&config, pcie + register) & 0x3ff, 0x104);
    }
    assert_eq!(read32(&config, pcie + 0x2c), 0x1e, "2.5 to 16 GT/s");
}

#[test]
fn device_control_2_and_link_control_follow_their_masks() {
    let mut config = space();
    let pcie = standard(&config, 0x10);
    for (register, mask) in [
        (0x08, 0x79ff),
        (0x10, 0x00cb),
        (0x28, 0x035f),
        (0x30, 0x001f),
    ] {
        let _ = config
            .write((pcie + register).into(), &[0xff, 0x7f])
            .unwrap();
        assert_eq!(
            read16(&config, pcie + register),
            mask,
            "register {register:#x}"
        );
        set16(&mut config, pcie + register, 0);
        assert_eq!(read16(&config, pcie + register), 0);
    }
}

// power management

#[test]
fn power_states_are_d0_and_d3hot() {
    let mut config = space();
    let control = standard(&config, 0x01) + 4;
    assert_eq!(read16(&config, control), 0x0008, "D0, no soft reset");
    for (written, read, action) in [
        (1, 0x0008, Actions::empty()),
        (3, 0x000b, Actions::POWER_STATE_CHANGED),
        (2, 0x000b, Actions::empty()),
        (0xfffc, 0x0008, Actions::POWER_STATE_CHANGED),
    ] {
        assert_eq!(
            write16(&mut config, control, written),
            action,
            "writing {written:#x}"
        );
        assert_eq!(read16(&config, control), read, "writing {written:#x}");
    }
    set16(&mut config, control, 3);
    assert_eq!(config.power_state(), PowerState::D3Hot);
}

// MSI-X capability

#[test]
fn msix_control_reports_enable_and_mask() {
    let mut config = space();
    let msix = standard(&config, 0x11);
    assert_eq!(read16(&config, msix + 2), 63, "64 vectors");
    assert_eq!(read32(&config, msix + 4), 0x0000_0004);
    assert_eq!(read32(&config, msix + 8), 0x0000_4004);
    assert_eq!(
        write16(&mut config, msix + 2, 0xffff),
        Actions::MSIX_CHANGED
    );
    assert_eq!(read16(&config, msix + 2), 0xc03f);
    assert!(config.msix_control().enabled && config.msix_control().function_masked);
    assert_eq!(
        config.write((msix + 3).into(), &[0x80]).unwrap(),
        Actions::MSIX_CHANGED
    );
    assert!(config.msix_control().enabled && !config.msix_control().function_masked);
}

// function level reset

#[test]
fn initiate_flr_asks_and_reads_zero() {
    let mut config = space();
    let control = standard(&config, 0x10) + 8;
    let before = read16(&config, control);
    assert_eq!(
        write16(&mut config, control, before | 0x8000),
        Actions::FLR_REQUESTED
    );
    assert_eq!(read16(&config, control), before);
    assert_eq!(
        config.write((control + 1).into(), &[0x80 | 0x29]).unwrap(),
        Actions::FLR_REQUESTED
    );
    assert_eq!(
        config.write(control.into(), &[0xff]).unwrap(),
        Actions::empty()
    );
    assert_eq!(write16(&mut config, control - 2, 0x8000), Actions::empty());
}

#[test]
fn flr_keeps_what_the_specification_names() {
    let mut config = space();
    let pcie = standard(&config, 0x10);
    set16(&mut config, 0x04, 0x0546);
    set32(&mut config, 0x10, 0xe000_0000);
    set16(&mut config, pcie + 0x08, 0x0020);
    set16(&mut config, pcie + 0x10, 0x0043);
    set32(&mut config, 0x108, 0x0000_1000);
    config.record_uncorrectable(UncorrectableError::CompletionTimeout);

    let actions = config.reset(ResetKind::FunctionLevel);
    assert_eq!(
        actions,
        Actions::BUS_MASTER_CHANGED | Actions::MEMORY_SPACE_CHANGED | Actions::BARS_CHANGED
    );
    assert_eq!(read16(&config, 0x04), 0);
    assert_eq!(config.bar(0), Some(0));
    assert_eq!(
        read16(&config, pcie + 0x08),
        0x2930,
        "maximum payload size stays"
    );
    assert_eq!(
        read16(&config, pcie + 0x10),
        0x0043,
        "ASPM and common clock stay"
    );
    assert_eq!(read32(&config, 0x104), 1 << 14, "logged errors stay");
    assert_eq!(read32(&config, 0x108), 0x0000_1000);
    assert_eq!(read16(&config, pcie + 0x0a), 0, "device status does not");

    let _ = config.reset(ResetKind::PowerOn);
    assert_eq!(config.save(), space().save());
}

// advanced error reporting

#[test]
fn errors_are_logged_and_cleared_by_writing_one() {
    let mut config = space();
    let status = standard(&config, 0x10) + 0x0a;
    config.record_uncorrectable(UncorrectableError::UnsupportedRequest);
    config.record_uncorrectable(UncorrectableError::CompleterAbort);
    config.record_uncorrectable(UncorrectableError::Internal);
    config.record_correctable(CorrectableError::AdvisoryNonFatal);
    assert_eq!(read32(&config, 0x104), (1 << 20) | (1 << 15) | (1 << 22));
    assert_eq!(read32(&config, 0x110), 1 << 13);
    assert_eq!(read32(&config, 0x118), 20, "the first error");
    assert_eq!(
        read16(&config, status),
        0x7,
        "correctable, non-fatal, fatal"
    );

    let _ = config.write(0x106, &[0x10]).unwrap();
    assert_eq!(read32(&config, 0x104), (1 << 15) | (1 << 22));
    set32(&mut config, 0x104, u32::MAX);
    assert_eq!(read32(&config, 0x104), 0);
    set16(&mut config, status, 0xffff);
    assert_eq!(read16(&config, status), 0);
    set32(&mut config, 0x10c, u32::MAX);
    assert_eq!(read32(&config, 0x10c), 0x005f_f010, "severity");
    set32(&mut config, 0x114, u32::MAX);
    assert_eq!(read32(&config, 0x114), 0x0000_f1c1, "correctable mask");
}

// bounds, widths, saving

#[test]
fn accesses_beyond_the_end_change_nothing() {
    let mut config = space();
    let mut data = [0xa5; 8];
    for offset in [4089, 4096, 1 << 32, u64::MAX - 3, u64::MAX] {
        assert_eq!(config.read(offset, &mut data), Err(ConfigError::OutOfRange));
        assert_eq!(data, [0xa5; 8]);
        assert_eq!(config.write(offset, &data), Err(ConfigError::OutOfRange));
    }
    assert_eq!(config.read(4096, &mut []), Ok(()));
    config.read(4088, &mut data).unwrap();
    assert_eq!(data, [0; 8]);
}

#[test]
fn contents_move_to_another_process() {
    let mut config = space();
    set32(&mut config, 0x10, 0xe000_0000);
    config.record_uncorrectable(UncorrectableError::CompletionTimeout);
    let state = config.save();
    let mut other = space();
    other.restore(&state).unwrap();
    assert_eq!(other.save(), state);

    let stranger = ConfigSpace::new(&Function::physical(SERIAL + 1))
        .unwrap()
        .save();
    assert!(matches!(
        other.restore(&stranger),
        Err(ConfigError::Incompatible { offset: 0x14c })
    ));
    let mut later = state.clone();
    later.version += 1;
    assert_eq!(
        other.restore(&later),
        Err(ConfigError::Version { version: 2 })
    );
    later.version -= 1;
    later.bytes.pop();
    assert!(other.restore(&later).is_err());
    assert_eq!(other.save(), state);
}

proptest! {
    #[test]
    fn width_and_alignment_make_no_difference(
        writes in prop::collection::vec((0usize..CONFIG_SPACE_SIZE, prop::collection::vec(any::<u8>(), 0..64)), 1..20)
    ) {
        let (mut whole, mut bytes) = (space(), space());
        for (offset, data) in writes {
            let data = &data[..data.len().min(CONFIG_SPACE_SIZE - offset)];
            let mut split = Actions::empty();
            for (at, byte) in (offset as u64..).zip(data) {
                split |= bytes.write(at, &[*byte]).unwrap();
            }
            let at_once = whole.write(offset as u64, data).unwrap();
            prop_assert_eq!(at_once & Actions::FLR_REQUESTED, split & Actions::FLR_REQUESTED);
            prop_assert_eq!(whole.save(), bytes.save());
        }
    }

    #[test]
    fn nothing_written_changes_what_identifies_the_function(data in prop::collection::vec(any::<u8>(), CONFIG_SPACE_SIZE)) {
        let mut config = space();
        let _ = config.write(0, &data).unwrap();
        prop_assert_eq!(standard_capabilities(&config), standard_capabilities(&space()));
        prop_assert_eq!(extended_capabilities(&config), extended_capabilities(&space()));
        prop_assert_eq!(read32(&config, 0), read32(&space(), 0));
        let _ = config.reset(ResetKind::PowerOn);
        prop_assert_eq!(config.save(), space().save());
    }
}
