//! A function through sysfs: without an IOMMU and without a kernel driver, as root
//! (`Documentation/PCI/sysfs-pci.rst`).
//!
//! BARs are mapped through `resourceN`, configuration space is `config`, reset is `reset`. Nobody
//! translates or limits what the device does with addresses: its memory is [`crate::hugepages`],
//! and it must be silent before that is given back, so the last thing that happens to the function
//! is a reset and the end of bus mastering. A process that is killed cannot see to that; the
//! kernel's pool of hugepages is then the only thing between the device and other memory.
//!
//! There are no interrupts: without a driver nobody in the kernel would take them.
//!
//! What could hurt somebody else is refused: a function that is not a vrnic, one behind an IOMMU
//! that translates, and one that another process uses in this way. A kernel driver that has the
//! function loses it and does not get it back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rustix::fs::{FlockOperation, flock};
use vrnic_abi::pci;

use crate::bus::{Bus, COMMAND, COMMAND_MASTER, DmaRange, REGION_CONFIG};
use crate::mapping::Mapping;

/// A function's folder in sysfs.
pub(crate) struct SysfsBus {
    node: PathBuf,
    /// Configuration space; its lock is what makes us the only user.
    config: File,
}

impl SysfsBus {
    pub(crate) fn open(address: &str) -> anyhow::Result<Self> {
        Self::open_at(Path::new("/sys/bus/pci/devices"), address)
    }

    fn open_at(devices: &Path, address: &str) -> anyhow::Result<Self> {
        let node = devices.join(address);
        check_identity(&node).with_context(|| format!("cannot use {address}"))?;
        check_untranslated(&node).with_context(|| format!("cannot use {address} without IOMMU"))?;
        let path = node.join("config");
        let config = OpenOptions::new().read(true).write(true).open(&path);
        let config = config.with_context(|| format!("cannot open {}: root?", path.display()))?;
        flock(&config, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another process uses {address}"))?;
        take_from_driver(&node, address)?;
        // Powers it up and decodes its BARs; counted by the kernel, and undone when dropped.
        store(&node.join("enable"), "1").with_context(|| format!("cannot enable {address}"))?;
        Ok(Self { node, config })
    }

    /// Takes away the device's right to access memory.
    fn end_bus_mastering(&self) -> io::Result<()> {
        let mut command = [0; 2];
        self.read(REGION_CONFIG, COMMAND, &mut command)?;
        let command = u16::from_le_bytes(command) & !COMMAND_MASTER;
        self.write(REGION_CONFIG, COMMAND, &command.to_le_bytes())
    }
}

/// Writes to an attribute, which must be there.
fn store(path: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Fails if the function is not ours.
fn check_identity(node: &Path) -> anyhow::Result<()> {
    let id = |name: &str| -> anyhow::Result<u16> {
        let text = fs::read_to_string(node.join(name)).context("there is no such function")?;
        let digits = text.trim().trim_start_matches("0x");
        u16::from_str_radix(digits, 16).with_context(|| format!("bad {name} id {digits:?}"))
    };
    let (vendor, device) = (id("vendor")?, id("device")?);
    ensure!(
        vendor == pci::VENDOR_ID && [pci::DEVICE_ID_PF, pci::DEVICE_ID_VF].contains(&device),
        "it is {vendor:04x}:{device:04x} and no vrnic"
    );
    Ok(())
}

/// Fails if the device's addresses are not those of memory.
fn check_untranslated(node: &Path) -> anyhow::Result<()> {
    let group = node.join("iommu_group");
    if !group.exists() {
        return Ok(());
    }
    let kind = fs::read_to_string(group.join("type")).unwrap_or_default();
    ensure!(
        kind.trim() == "identity",
        "it is behind an IOMMU: bind it to vfio-pci instead"
    );
    Ok(())
}

/// Unbinds the driver, if there is one.
fn take_from_driver(node: &Path, address: &str) -> anyhow::Result<()> {
    let Ok(driver) = fs::read_link(node.join("driver")) else {
        return Ok(());
    };
    let name = driver.file_name().unwrap_or_default().to_string_lossy();
    log::warn!("taking {address} from its driver {name}");
    let unbind = store(&node.join("driver/unbind"), address);
    unbind.with_context(|| format!("cannot take {address} from its driver {name}"))
}

impl Bus for SysfsBus {
    /// Configuration space only: BARs are always mapped.
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if region != REGION_CONFIG {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.config.read_exact_at(data, offset)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region != REGION_CONFIG {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.config.write_all_at(data, offset)
    }

    fn map_region(&self, region: u32) -> io::Result<Option<Mapping>> {
        let path = self.node.join(format!("resource{region}"));
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len());
        let length = length.map_err(|_| io::ErrorKind::OutOfMemory)?;
        Mapping::new(&file, 0, length).map(Some)
    }

    fn map_dma(&self, _range: &DmaRange<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unmap_dma(&self, _iova: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn interrupts(&self) -> bool {
        false
    }

    fn set_interrupts(&self, _eventfds: &[OwnedFd]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn reset(&self) -> io::Result<()> {
        store(&self.node.join("reset"), "1").map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::ErrorKind::Unsupported.into(),
            _ => error,
        })
    }
}

impl Drop for SysfsBus {
    fn drop(&mut self) {
        // The device may still know our memory, which goes back to the kernel after this.
        if let Err(error) = self.reset() {
            log::debug!("cannot reset the device at its end: {error}");
        }
        let silent = self.end_bus_mastering();
        if let Err(error) = silent.and_then(|()| store(&self.node.join("enable"), "0")) {
            log::warn!("cannot disable the device: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    /// A folder that looks like a function's in sysfs.
    struct Fake {
        devices: tempfile::TempDir,
    }

    impl Fake {
        fn new(device: u16) -> Self {
            let devices = tempfile::tempdir().unwrap();
            let fake = Self { devices };
            fs::create_dir(fake.node()).unwrap();
            fake.put("vendor", format!("{:#06x}\n", pci::VENDOR_ID).as_bytes());
            fake.put("device", format!("{device:#06x}\n").as_bytes());
            fake.put("config", &[0xa5; 256]);
            fake.put("enable", b"");
            fake.put("reset", b"");
            fake.put("resource0", &[0x5a; 0x4000]);
            fake
        }

        fn node(&self) -> PathBuf {
            self.devices.path().join(ADDRESS)
        }

        fn put(&self, name: &str, data: &[u8]) {
            fs::write(self.node().join(name), data).unwrap();
        }

        #[track_caller]
        fn get(&self, name: &str) -> Vec<u8> {
            fs::read(self.node().join(name)).unwrap()
        }

        fn open(&self) -> anyhow::Result<SysfsBus> {
            SysfsBus::open_at(self.devices.path(), ADDRESS)
        }

        #[track_caller]
        fn refused(&self, why: &str) {
            let error = self.open().err().expect("opens");
            assert!(format!("{error:#}").contains(why), "{error:#}");
            assert_eq!(self.get("enable"), b"", "touched before it was refused");
        }
    }

    #[test]
    fn the_function_is_enabled_and_silenced_again() {
        let fake = Fake::new(pci::DEVICE_ID_PF);
        let bus = fake.open().unwrap();
        assert_eq!(
            (fake.get("enable"), fake.get("reset")),
            (b"1".into(), b"".into())
        );
        bus.write(REGION_CONFIG, COMMAND, &[0x07, 0x04]).unwrap();
        drop(bus);
        assert_eq!(
            (fake.get("enable"), fake.get("reset")),
            (b"0".into(), b"1".into())
        );
        assert_eq!(fake.get("config")[3..7], [0xa5, 0x03, 0x04, 0xa5]);
    }

    #[test]
    fn registers_are_mapped_and_never_trapped() {
        let fake = Fake::new(pci::DEVICE_ID_VF);
        let bus = fake.open().unwrap();
        let registers = bus.map_region(0).unwrap().unwrap();
        assert_eq!(
            (registers.len(), registers.load_u32(0x3ffc)),
            (0x4000, 0x5a5a_5a5a)
        );
        assert!(bus.map_region(2).is_err());
        let read = bus.read(0, 0, &mut [0; 4]).unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_function_without_reset_says_so() {
        let fake = Fake::new(pci::DEVICE_ID_PF);
        fs::remove_file(fake.node().join("reset")).unwrap();
        let bus = fake.open().unwrap();
        assert_eq!(bus.reset().unwrap_err().kind(), io::ErrorKind::Unsupported);
        drop(bus);
        assert_eq!(fake.get("enable"), b"0");
    }

    #[test]
    fn a_driver_loses_the_function() {
        let fake = Fake::new(pci::DEVICE_ID_PF);
        fs::create_dir(fake.node().join("some-driver")).unwrap();
        fake.put("some-driver/unbind", b"");
        std::os::unix::fs::symlink("some-driver", fake.node().join("driver")).unwrap();
        let _bus = fake.open().unwrap();
        assert_eq!(fake.get("some-driver/unbind"), ADDRESS.as_bytes());
    }

    #[test]
    fn what_could_hurt_others_is_refused() {
        Fake::new(0x10fb).refused("no vrnic");
        let fake = Fake::new(pci::DEVICE_ID_PF);
        fs::create_dir(fake.node().join("iommu_group")).unwrap();
        fake.refused("behind an IOMMU");
        fake.put("iommu_group/type", b"DMA-FQ\n");
        fake.refused("behind an IOMMU");
        fake.put("iommu_group/type", b"identity\n");
        let bus = fake.open().unwrap();
        fake.put("enable", b"");
        fake.refused("another process");
        drop(bus);
        assert!(SysfsBus::open_at(fake.devices.path(), "0000:02:00.0").is_err());
    }
}
