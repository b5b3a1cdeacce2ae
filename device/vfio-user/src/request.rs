//! A message from the client as a typed request.
//!
//! [`Request::parse`] checks what can be checked without the device and the
//! connection's state: sizes, flags, counts of descriptors, arithmetic on
//! ranges. What is wrong with a request is either refused with an errno or,
//! when descriptors came where none can be, a [`FdError`] that ends the
//! connection: the client and we disagree on what belongs to which message.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::device::{DmaMap, DmaUnmap, IrqAction, IrqData, SetIrqs};
use crate::wire::Fixed;
use crate::wire::access::{RegionAccess, WriteMulti};
use crate::wire::dma::{self, MapRequest, UnmapRequest};
use crate::wire::irq::{self, IrqInfo};
use crate::wire::region::{RegionInfo, RegionIoFds};
use crate::wire::{Command, device::DeviceInfo};

/// A request that makes sense by itself.
#[derive(Debug)]
pub enum Request<'a> {
    /// `DMA_MAP`.
    DmaMap(DmaMap),
    /// `DMA_UNMAP`, and the request as the reply repeats it.
    DmaUnmap(DmaUnmap, UnmapRequest),
    /// `DEVICE_GET_INFO`.
    GetInfo,
    /// `DEVICE_GET_REGION_INFO` of an index.
    GetRegionInfo {
        /// The region.
        index: u32,
        /// Largest reply body the client takes; at least the fixed part.
        argsz: u32,
    },
    /// `DEVICE_GET_REGION_IO_FDS` of an index.
    GetRegionIoFds(u32),
    /// `DEVICE_GET_IRQ_INFO` of an index.
    GetIrqInfo(u32),
    /// `DEVICE_SET_IRQS`; index and range are not yet checked.
    SetIrqs(SetIrqs),
    /// `REGION_READ`.
    RegionRead(RegionAccess),
    /// `REGION_WRITE` with as many bytes as it says.
    RegionWrite(RegionAccess, &'a [u8]),
    /// `REGION_WRITE_MULTI`.
    RegionWriteMulti(WriteMulti<'a>),
    /// `DEVICE_RESET`.
    Reset,
}

/// Descriptors that cannot belong to the message they came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{command:?} came with {got} descriptors, not {expected}")]
pub struct FdError {
    /// The command.
    pub command: Command,
    /// How many descriptors came.
    pub got: usize,
    /// How many could have.
    pub expected: u32,
}

/// Why a message is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is answered with this errno.
    Errno(Errno),
    /// It ends the connection.
    Fds(FdError),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<FdError> for Refusal {
    fn from(error: FdError) -> Self {
        Self::Fds(error)
    }
}

impl<'a> Request<'a> {
    /// Reads a command other than `VERSION` and takes what it can use of
    /// `fds`.
    pub fn parse(
        command: Command,
        body: &'a [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Self, Refusal> {
        match command {
            Command::DmaMap => return dma_map(body, fds).map(Self::DmaMap),
            Command::DeviceSetIrqs => return set_irqs(body, fds).map(Self::SetIrqs),
            _ => expect_fds(command, fds, 0)?,
        }
        Ok(match command {
            Command::DmaUnmap => dma_unmap(body)?,
            Command::DeviceGetInfo => {
                let info = DeviceInfo::parse(body).ok_or(Errno::INVAL)?;
                at_least(info.argsz, DeviceInfo::SIZE)?;
                Self::GetInfo
            }
            Command::DeviceGetRegionInfo => {
                let info = RegionInfo::parse(body).ok_or(Errno::INVAL)?;
                at_least(info.argsz, RegionInfo::SIZE)?;
                let (index, argsz) = (info.index, info.argsz);
                Self::GetRegionInfo { index, argsz }
            }
            Command::DeviceGetRegionIoFds => {
                let info = RegionIoFds::parse(body).ok_or(Errno::INVAL)?;
                at_least(info.argsz, RegionIoFds::SIZE)?;
                Self::GetRegionIoFds(info.index)
            }
            Command::DeviceGetIrqInfo => {
                let info = IrqInfo::parse(body).ok_or(Errno::INVAL)?;
                at_least(info.argsz, IrqInfo::SIZE)?;
                Self::GetIrqInfo(info.index)
            }
            Command::RegionRead => {
                let (access, _) = RegionAccess::parse(body).ok_or(Errno::INVAL)?;
                Self::RegionRead(access)
            }
            Command::RegionWrite => region_write(body)?,
            Command::RegionWriteMulti => {
                Self::RegionWriteMulti(WriteMulti::parse(body).ok_or(Errno::INVAL)?)
            }
            Command::DeviceReset => Self::Reset,
            // Only ever sent by the server, or sent once and handled before.
            Command::Version | Command::DmaRead | Command::DmaWrite => {
                return Err(Errno::INVAL.into());
            }
            Command::UserDirtyPages
            | Command::DeviceFeature
            | Command::MigDataRead
            | Command::MigDataWrite => return Err(Errno::NOTSUP.into()),
            Command::DmaMap | Command::DeviceSetIrqs | Command::Unknown(_) => {
                return Err(Errno::NOSYS.into());
            }
        })
    }
}

fn at_least(argsz: u32, size: u32) -> Result<(), Errno> {
    if argsz < size {
        return Err(Errno::INVAL);
    }
    Ok(())
}

fn expect_fds(command: Command, fds: &[OwnedFd], expected: u32) -> Result<(), FdError> {
    let got = fds.len();
    if u32::try_from(got) == Ok(expected) {
        return Ok(());
    }
    Err(FdError {
        command,
        got,
        expected,
    })
}

/// Whether `[start, start + size)` is not empty and ends within 64 bits.
fn is_range(start: u64, size: u64) -> bool {
    size.checked_sub(1)
        .is_some_and(|last| start.checked_add(last).is_some())
}

fn dma_map(body: &[u8], fds: &mut Vec<OwnedFd>) -> Result<DmaMap, Refusal> {
    if !fds.is_empty() {
        expect_fds(Command::DmaMap, fds, 1)?;
    }
    let request = MapRequest::parse(body).ok_or(Errno::INVAL)?;
    at_least(request.argsz, MapRequest::SIZE)?;
    let known = dma::MAP_READ | dma::MAP_WRITE;
    if request.flags == 0 || request.flags & !known != 0 {
        return Err(Errno::INVAL.into());
    }
    let end = request.offset.checked_add(request.size);
    let in_file = end.is_some_and(|end| i64::try_from(end).is_ok());
    if !is_range(request.iova, request.size) || (!fds.is_empty() && !in_file) {
        return Err(Errno::INVAL.into());
    }
    Ok(DmaMap {
        iova: request.iova,
        size: request.size,
        readable: request.flags & dma::MAP_READ != 0,
        writable: request.flags & dma::MAP_WRITE != 0,
        offset: request.offset,
        fd: fds.pop(),
    })
}

fn dma_unmap(body: &[u8]) -> Result<Request<'static>, Errno> {
    let request = UnmapRequest::parse(body).ok_or(Errno::INVAL)?;
    at_least(request.argsz, UnmapRequest::SIZE)?;
    let (iova, size) = (request.iova, request.size);
    let unmap = match request.flags {
        0 if is_range(iova, size) => DmaUnmap::Range { iova, size },
        dma::UNMAP_ALL if iova == 0 && size == 0 => DmaUnmap::All,
        flags if flags & dma::UNMAP_DIRTY != 0 => return Err(Errno::NOTSUP),
        _ => return Err(Errno::INVAL),
    };
    Ok(Request::DmaUnmap(unmap, request))
}

fn region_write(body: &[u8]) -> Result<Request<'_>, Errno> {
    let (access, data) = RegionAccess::parse(body).ok_or(Errno::INVAL)?;
    let count = usize::try_from(access.count).map_err(|_| Errno::INVAL)?;
    let data = data.get(..count).ok_or(Errno::INVAL)?;
    Ok(Request::RegionWrite(access, data))
}

fn set_irqs(body: &[u8], fds: &mut Vec<OwnedFd>) -> Result<SetIrqs, Refusal> {
    let command = Command::DeviceSetIrqs;
    let Some(request) = irq::SetIrqs::parse(body) else {
        expect_fds(command, fds, 0)?;
        return Err(Errno::INVAL.into());
    };
    let data_type = request.flags & irq::SET_DATA;
    if data_type != irq::SET_DATA_EVENTFD {
        expect_fds(command, fds, 0)?;
    } else if !fds.is_empty() {
        expect_fds(command, fds, request.count)?;
    }
    at_least(request.argsz, irq::SetIrqs::SIZE)?;
    let action = match request.flags & !irq::SET_DATA {
        irq::SET_ACTION_MASK => IrqAction::Mask,
        irq::SET_ACTION_UNMASK => IrqAction::Unmask,
        irq::SET_ACTION_TRIGGER => IrqAction::Trigger,
        _ => return Err(Errno::INVAL.into()),
    };
    if request.count == 0 && data_type != irq::SET_DATA_NONE {
        return Err(Errno::INVAL.into());
    }
    let data = match data_type {
        irq::SET_DATA_NONE => IrqData::None,
        irq::SET_DATA_BOOL => irq_bools(&request)?,
        irq::SET_DATA_EVENTFD if fds.is_empty() => IrqData::Deassign,
        irq::SET_DATA_EVENTFD => IrqData::Assign(std::mem::take(fds)),
        _ => return Err(Errno::INVAL.into()),
    };
    Ok(SetIrqs {
        index: request.index,
        start: request.start,
        count: request.count,
        action,
        data,
    })
}

fn irq_bools(request: &irq::SetIrqs<'_>) -> Result<IrqData, Errno> {
    let announced = request.argsz.saturating_sub(irq::SetIrqs::SIZE);
    if announced < request.count {
        return Err(Errno::INVAL);
    }
    let count = usize::try_from(request.count).map_err(|_| Errno::INVAL)?;
    let bytes = request.data.get(..count).ok_or(Errno::INVAL)?;
    Ok(IrqData::Bool(bytes.iter().map(|byte| *byte != 0).collect()))
}
