//! A function on Linux VFIO: a container with a type 1 IOMMU, a group, a device
//! (`Documentation/driver-api/vfio.rst`, `include/uapi/linux/vfio.h`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, ensure};
use libc::{c_int, c_ulong, c_void};

use crate::bus::{Bus, DmaRange, REGION_CONFIG, RegionInfo, mappable_start};
use crate::mapping::Mapping;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn request(number: c_ulong) -> c_ulong {
    (b';' as c_ulong) << 8 | (100 + number)
}

const GET_API_VERSION: c_ulong = request(0);
const CHECK_EXTENSION: c_ulong = request(1);
const SET_IOMMU: c_ulong = request(2);
const GROUP_GET_STATUS: c_ulong = request(3);
const GROUP_SET_CONTAINER: c_ulong = request(4);
const GROUP_GET_DEVICE_FD: c_ulong = request(6);
const DEVICE_GET_REGION_INFO: c_ulong = request(8);
const DEVICE_SET_IRQS: c_ulong = request(10);
const DEVICE_RESET: c_ulong = request(11);
const IOMMU_MAP_DMA: c_ulong = request(13);
const IOMMU_UNMAP_DMA: c_ulong = request(14);

const API_VERSION: c_int = 0;
const TYPE1V2_IOMMU: c_ulong = 3;
const GROUP_VIABLE: u32 = 1;
const DMA_READ_WRITE: u32 = 3;
const IRQ_INDEX_MSIX: u32 = 2;
/// Data are event files; trigger when raised.
const IRQ_EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

#[repr(C)]
struct DmaMap {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

#[repr(C)]
struct DmaUnmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// Issues an `ioctl` whose argument is a number.
fn ioctl_number(file: &impl AsRawFd, request: c_ulong, argument: c_ulong) -> io::Result<c_int> {
    // SAFETY: The requests used with a number do not access memory of this process.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    check(result)
}

/// Issues an `ioctl` whose argument is a structure.
///
/// # Safety
/// `argument` must be what the request expects, and as long as its length field says.
unsafe fn ioctl_pointer(
    file: &impl AsRawFd,
    request: c_ulong,
    argument: *mut c_void,
) -> io::Result<c_int> {
    // SAFETY: The caller promises it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    check(result)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A device and what keeps it accessible.
pub(crate) struct KernelBus {
    device: File,
    container: File,
    _group: File,
}

impl KernelBus {
    pub(crate) fn open(address: &str) -> anyhow::Result<Self> {
        let node = Path::new("/sys/bus/pci/devices").join(address);
        let group = std::fs::read_link(node.join("iommu_group")).with_context(|| {
            format!(
                "{address} has no IOMMU group: does it exist, and is an IOMMU enabled? \
                 (vrnic-guest does without one if told --no-iommu)"
            )
        })?;
        let group = group.file_name().context("bad IOMMU group")?;
        let group_path = Path::new("/dev/vfio").join(group);
        let container = open(Path::new("/dev/vfio/vfio"))?;
        let group = open(&group_path).with_context(|| {
            format!("is {address} bound to vfio-pci, and is this process allowed to use it?")
        })?;
        let version = ioctl_number(&container, GET_API_VERSION, 0)?;
        ensure!(version == API_VERSION, "VFIO has API version {version}");
        let extension = ioctl_number(&container, CHECK_EXTENSION, TYPE1V2_IOMMU)?;
        ensure!(extension == 1, "VFIO lacks the type 1 v2 IOMMU");
        attach(&container, &group).context("cannot join the IOMMU group")?;
        let device = device_of(&group, address).context("cannot open the device")?;
        Ok(Self {
            device,
            container,
            _group: group,
        })
    }

    /// The kernel's description of a region with all capabilities.
    fn region(&self, index: u32) -> io::Result<(RegionInfo, Vec<u8>)> {
        let mut bytes = vec![0u64; 512];
        let length = bytes.len() * 8;
        let question = RegionInfo {
            argsz: length as u32,
            index,
            ..RegionInfo::default()
        };
        let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut bytes);
        if let Some(start) = raw.get_mut(..size_of::<RegionInfo>()) {
            start.copy_from_slice(bytemuck::bytes_of(&question));
        }
        // SAFETY: `vfio_region_info` with room for capabilities; `argsz` is the buffer's length.
        unsafe {
            ioctl_pointer(
                &self.device,
                DEVICE_GET_REGION_INFO,
                bytes.as_mut_ptr().cast(),
            )?
        };
        let raw: &[u8] = bytemuck::cast_slice(&bytes);
        let start = raw.get(..size_of::<RegionInfo>()).unwrap_or_default();
        Ok((bytemuck::pod_read_unaligned(start), raw.to_vec()))
    }

    fn place(&self, region: u32, offset: u64, length: usize) -> io::Result<u64> {
        let (info, _) = self.region(region)?;
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > info.size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(info.offset + offset)
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

fn attach(container: &File, group: &File) -> anyhow::Result<()> {
    let mut status = GroupStatus {
        argsz: size_of::<GroupStatus>() as u32,
        flags: 0,
    };
    // SAFETY: `vfio_group_status` of the length it says.
    unsafe { ioctl_pointer(group, GROUP_GET_STATUS, (&raw mut status).cast())? };
    ensure!(
        status.flags & GROUP_VIABLE != 0,
        "other devices of the IOMMU group are not bound to vfio-pci"
    );
    let mut fd = container.as_raw_fd();
    // SAFETY: The argument is a pointer to a file descriptor.
    unsafe { ioctl_pointer(group, GROUP_SET_CONTAINER, (&raw mut fd).cast())? };
    ioctl_number(container, SET_IOMMU, TYPE1V2_IOMMU)?;
    Ok(())
}

fn device_of(group: &File, address: &str) -> anyhow::Result<File> {
    let name = std::ffi::CString::new(address)?;
    // SAFETY: The argument is a zero-terminated string, which the kernel only reads.
    let fd = unsafe { ioctl_pointer(group, GROUP_GET_DEVICE_FD, name.as_ptr() as *mut c_void)? };
    // SAFETY: The kernel has just given us this descriptor.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl Bus for KernelBus {
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let place = self.place(region, offset, data.len())?;
        self.device.read_exact_at(data, place)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let place = self.place(region, offset, data.len())?;
        self.device.write_all_at(data, place)
    }

    fn map_region(&self, region: u32) -> io::Result<Option<Mapping>> {
        debug_assert_ne!(region, REGION_CONFIG);
        let (info, bytes) = self.region(region)?;
        let Some(area) = mappable_start(&bytes) else {
            return Ok(None);
        };
        let length = usize::try_from(area.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Mapping::new(&self.device, info.offset, length).map(Some)
    }

    fn map_dma(&self, range: &DmaRange<'_>) -> io::Result<()> {
        let mut map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: DMA_READ_WRITE,
            vaddr: range.address,
            iova: range.iova,
            size: range.length,
        };
        // SAFETY: `vfio_iommu_type1_dma_map` of the length it says. The range it names stays mapped
        // until it is unmapped for the device: `Arena` and `PinnedRange` see to that.
        unsafe { ioctl_pointer(&self.container, IOMMU_MAP_DMA, (&raw mut map).cast())? };
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, length: u64) -> io::Result<()> {
        let mut unmap = DmaUnmap {
            argsz: size_of::<DmaUnmap>() as u32,
            flags: 0,
            iova,
            size: length,
        };
        // SAFETY: `vfio_iommu_type1_dma_unmap` of the length it says.
        unsafe { ioctl_pointer(&self.container, IOMMU_UNMAP_DMA, (&raw mut unmap).cast())? };
        Ok(())
    }

    fn set_interrupts(&self, eventfds: &[OwnedFd]) -> io::Result<()> {
        let count = eventfds.len() as u32;
        let mut set = vec![
            20 + 4 * count,
            IRQ_EVENTFD_TRIGGER,
            IRQ_INDEX_MSIX,
            0,
            count,
        ];
        set.extend(eventfds.iter().map(|file| file.as_raw_fd() as u32));
        // SAFETY: `vfio_irq_set` with `count` descriptors, of the length it says.
        unsafe { ioctl_pointer(&self.device, DEVICE_SET_IRQS, set.as_mut_ptr().cast())? };
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        ioctl_number(&self.device, DEVICE_RESET, 0).map(drop)
    }
}
